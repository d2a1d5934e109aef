import Headers
@_exported import TestSupport

/// Bytes from hexadecimal digits; blanks and line ends do not count.
func hex(_ text: String) -> [UInt8] {
    let digits = text.filter { !$0.isWhitespace }.map { UInt8($0.hexDigitValue!) }
    precondition(digits.count % 2 == 0)
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// A frame in memory of its own, exactly as long as it: AddressSanitizer sees what lies beyond. Freed with its owner.
final class Frame {
    let buffer: UnsafeMutableRawBufferPointer

    init(_ bytes: some Collection<UInt8>) {
        buffer = .allocate(byteCount: bytes.count, alignment: 1)
        buffer.copyBytes(from: bytes)
    }
    convenience init(_ text: String) { self.init(hex(text)) }
    deinit { buffer.deallocate() }

    var bytes: [UInt8] { Array(buffer) }

    /// Lends the bytes to `body`.
    func look<R>(_ body: (HeaderBytes) throws -> R) rethrows -> R {
        // A buffer of no bytes has no address.
        if buffer.isEmpty {
            var none: UInt8 = 0
            return try withUnsafeMutableBytes(of: &none) { try body(HeaderBytes($0.baseAddress!, count: 0)) }
        }
        return try body(HeaderBytes(buffer))
    }
}

/// So many repetitions; fewer where assertions are on, which is without optimisation.
func rounds(_ n: Int) -> Int {
    var isSlow = false
    assert(
        {
            isSlow = true
            return true
        }())
    return isSlow ? max(1, n / 20) : n
}

/// So many bytes of zeroes, or of 0xff, as text.
func z(_ bytes: Int) -> String { String(repeating: "00", count: bytes) }
func f(_ bytes: Int) -> String { String(repeating: "ff", count: bytes) }
