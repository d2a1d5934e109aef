import CPlatform
import Virtio

/// The Internet checksum (RFC 1071) over pieces of any length. Sums are kept in the machine's
/// (little-endian) byte order, in which they can be stored as they are.
struct ChecksumSum {
    private var sum: UInt64 = 0
    private var isOdd = false

    init() {}

    /// Adds the next bytes of the packet. The memory may be a guest's: it is read once and nothing
    /// depends on it but the checksum.
    mutating func add(_ bytes: UnsafeRawPointer, _ count: Int) {
        var piece: UInt64 = 0
        var i = 0
        while i &+ 8 <= count {
            let word = (bytes + i).loadUnaligned(as: UInt64.self)
            piece &+= (word & 0xffff_ffff) &+ (word >> 32)
            i &+= 8
        }
        while i &+ 2 <= count {
            piece &+= UInt64((bytes + i).loadUnaligned(as: UInt16.self))
            i &+= 2
        }
        if i < count { piece &+= UInt64((bytes + i).load(as: UInt8.self)) }
        let folded = ChecksumSum.fold(piece)
        // Bytes at odd offsets are the other half of their words.
        sum &+= UInt64(isOdd ? folded.byteSwapped : folded)
        if count & 1 != 0 { isOdd.toggle() }
    }

    /// Adds a 16-bit value of host order.
    mutating func add(_ value: Int) { sum &+= UInt64(UInt16(truncatingIfNeeded: value).bigEndian) }

    /// What goes into the packet; 0 is written as 0xffff, which is the same number (RFC 768).
    var result: UInt16 {
        let value = ~ChecksumSum.fold(sum)
        return value == 0 ? 0xffff : value
    }

    private static func fold(_ value: UInt64) -> UInt16 {
        var v = (value & 0xffff_ffff) &+ (value >> 32)
        v = (v & 0xffff) &+ (v >> 16)
        v = (v & 0xffff) &+ (v >> 16)
        v = (v & 0xffff) &+ (v >> 16)
        return UInt16(truncatingIfNeeded: v)
    }
}
