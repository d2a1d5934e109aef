/// The front of a frame, in private memory: what the views of headers (`Ethernet`, `IPv4`, …) and `Layers` look at.
///
/// The memory belongs to whoever made this value, and nobody else may write it meanwhile: a view checks a length once
/// and relies on it afterwards. Memory that a guest can write does not qualify; copy it first.
///
/// It can be copied but not kept: the compiler refuses a program that stores it, or a view made from it, beyond the
/// scope in which the memory is lent. One thread at a time.
public struct HeaderBytes: ~Escapable {
    /// The first byte. Need not be aligned.
    public let start: UnsafeMutableRawPointer
    /// Bytes that may be read and written from `start` on.
    public let count: Int

    /// The `count` bytes from `start` on; a negative count is none. The memory must stay for as long as the variable
    /// that holds `start`.
    @inlinable @inline(__always) @_lifetime(borrow start)
    public init(_ start: UnsafeMutableRawPointer, count: Int) {
        self.start = start
        self.count = count < 0 ? 0 : count
    }

    /// The bytes of a buffer, which must stay for as long as the variable that holds it. The buffer must have an
    /// address.
    @inlinable @inline(__always) @_lifetime(borrow buffer)
    public init(_ buffer: UnsafeMutableRawBufferPointer) {
        self.start = buffer.baseAddress!
        self.count = buffer.count
    }

    /// The bytes from `offset` on, as the front of a frame of its own: the inner frame of a tunnel. Empty where
    /// `offset` is negative or beyond the end.
    @inlinable @inline(__always) @_lifetime(copy self)
    public func dropFirst(_ offset: Int) -> HeaderBytes {
        let skipped = offset < 0 || offset > count ? count : offset
        return _overrideLifetime(HeaderBytes(start + skipped, count: count &- skipped), copying: self)
    }

    /// Whether `size` bytes from `offset` on are there. `size` must not be negative.
    @inlinable @inline(__always)
    public func has(_ size: Int, at offset: Int) -> Bool { offset >= 0 && count &- offset >= size }

    /// The byte at `offset`. Traps where there is none.
    @inlinable @inline(__always)
    public subscript(offset: Int) -> UInt8 {
        get {
            precondition(has(1, at: offset), "no byte there")
            return start.load(fromByteOffset: offset, as: UInt8.self)
        }
        nonmutating set {
            precondition(has(1, at: offset), "no byte there")
            start.storeBytes(of: newValue, toByteOffset: offset, as: UInt8.self)
        }
    }
}

/// Fields of headers: network byte order in memory, host order here. Callers have checked the bounds; a build without
/// optimisation checks them again.
extension HeaderBytes {
    /// Those from `offset` on, which are there.
    @inlinable @inline(__always) @_lifetime(copy self)
    func from(_ offset: Int) -> HeaderBytes {
        assert(has(0, at: offset))
        return _overrideLifetime(HeaderBytes(start + offset, count: count &- offset), copying: self)
    }
    /// The first `n` become 0.
    @inlinable @inline(__always)
    func zero(_ n: Int) {
        assert(has(n, at: 0))
        start.initializeMemory(as: UInt8.self, repeating: 0, count: n)
    }
    @inlinable @inline(__always)
    func load<Number: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: Number.Type) -> Number {
        assert(has(MemoryLayout<Number>.size, at: offset))
        return start.loadUnaligned(fromByteOffset: offset, as: type)
    }
    @inlinable @inline(__always)
    func store<Number: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _ value: Number) {
        assert(has(MemoryLayout<Number>.size, at: offset))
        start.storeBytes(of: value, toByteOffset: offset, as: Number.self)
    }
    @inlinable @inline(__always)
    func load8(_ offset: Int) -> UInt8 { load(offset, as: UInt8.self) }
    @inlinable @inline(__always)
    func load16(_ offset: Int) -> UInt16 {
        UInt16(bigEndian: load(offset, as: UInt16.self))
    }
    @inlinable @inline(__always)
    func load32(_ offset: Int) -> UInt32 {
        UInt32(bigEndian: load(offset, as: UInt32.self))
    }
    @inlinable @inline(__always)
    func load64(_ offset: Int) -> UInt64 {
        UInt64(bigEndian: load(offset, as: UInt64.self))
    }
    @inlinable @inline(__always)
    func store8(_ offset: Int, _ value: UInt8) { store(offset, value) }
    @inlinable @inline(__always)
    func store16(_ offset: Int, _ value: UInt16) {
        store(offset, value.bigEndian)
    }
    @inlinable @inline(__always)
    func store32(_ offset: Int, _ value: UInt32) {
        store(offset, value.bigEndian)
    }
    @inlinable @inline(__always)
    func store64(_ offset: Int, _ value: UInt64) {
        store(offset, value.bigEndian)
    }
    @inlinable @inline(__always)
    func loadMAC(_ offset: Int) -> MACAddress {
        let low = UInt64(load(offset, as: UInt32.self))
        let high = UInt64(load(offset &+ 4, as: UInt16.self))
        return MACAddress(rawValue: low | high &<< 32)
    }
    @inlinable @inline(__always)
    func storeMAC(_ offset: Int, _ value: MACAddress) {
        store(offset, UInt32(truncatingIfNeeded: value.rawValue))
        store(offset &+ 4, UInt16(truncatingIfNeeded: value.rawValue &>> 32))
    }
    @inlinable @inline(__always)
    func loadIPv6(_ offset: Int) -> IPv6Address { IPv6Address(high: load64(offset), low: load64(offset &+ 8)) }
    @inlinable @inline(__always)
    func storeIPv6(_ offset: Int, _ value: IPv6Address) {
        store64(offset, value.high)
        store64(offset &+ 8, value.low)
    }
    /// The bits of `mask` in the byte at `offset` become those of `value`.
    @inlinable @inline(__always)
    func storeBits(_ offset: Int, _ mask: UInt8, _ value: UInt8) {
        store8(offset, load8(offset) & ~mask | value & mask)
    }
}
