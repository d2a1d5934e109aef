/// The fuzzer's bytes, read from the front; zeroes when they are used up.
struct Input {
    private let bytes: UnsafeBufferPointer<UInt8>
    private var offset = 0

    init(_ base: UnsafePointer<UInt8>?, _ count: Int) { bytes = UnsafeBufferPointer(start: base, count: count) }

    var isEmpty: Bool { offset >= bytes.count }
    var left: Int { bytes.count - min(offset, bytes.count) }

    mutating func byte() -> UInt8 {
        defer { offset += 1 }
        return offset < bytes.count ? bytes[offset] : 0
    }
    mutating func integer<T: FixedWidthInteger>(_: T.Type) -> T {
        var value: T = 0
        for i in 0..<T.bitWidth / 8 { value |= T(truncatingIfNeeded: byte()) << T(8 * i) }
        return value
    }
    /// In 0 ..< bound.
    mutating func below(_ bound: Int) -> Int { Int(integer(UInt16.self)) % bound }

    /// Copies up to `count` bytes to `to`.
    mutating func fill(_ to: UnsafeMutableRawPointer, _ count: Int) {
        for i in 0..<min(count, left) { to.storeBytes(of: byte(), toByteOffset: i, as: UInt8.self) }
    }
}
