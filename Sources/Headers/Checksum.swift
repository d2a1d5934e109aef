/// The Internet checksum (RFC 1071) over pieces of any length, in any number; and what changes it where a field changes
/// (RFC 1624). A value: a copy goes on from where it stands.
///
/// ```swift
/// // Another source: both checksums follow, without a look at the rest of the packet.
/// let old = ip.sourceAddress
/// ip.sourceAddress = address
/// ip.headerChecksum = Checksum.update(ip.headerChecksum, from: old, to: address)
/// udp.checksum = Checksum.forUDP(
///     Checksum.update(udp.checksum, from: old, to: address), old: udp.checksum)
/// ```
public struct Checksum: Sendable, BitwiseCopyable {
    // The sum is kept in the order in which the machine (little-endian) loads words: so no word is swapped.
    @usableFromInline var sum: UInt64 = 0
    @usableFromInline var isOdd = false

    /// The sum over nothing.
    @inlinable @inline(__always)
    public init() {}

    /// Adds the next `count` bytes. The memory may be a guest's: it is read once, and nothing but the checksum depends
    /// on it. At most 2^32 bytes in all.
    @inlinable
    public mutating func add(_ bytes: UnsafeRawPointer, _ count: Int) {
        var piece: UInt64 = 0
        var i = 0
        while i &+ 8 <= count {
            let word = (bytes + i).loadUnaligned(as: UInt64.self)
            piece &+= (word & 0xffff_ffff) &+ (word &>> 32)
            i &+= 8
        }
        while i &+ 2 <= count {
            piece &+= UInt64((bytes + i).loadUnaligned(as: UInt16.self))
            i &+= 2
        }
        if i < count { piece &+= UInt64((bytes + i).load(as: UInt8.self)) }
        let folded = Checksum.fold(piece)
        // Bytes at odd offsets are the other half of their words.
        sum &+= UInt64(isOdd ? folded.byteSwapped : folded)
        if count & 1 != 0 { isOdd.toggle() }
    }

    /// Adds the next bytes: `count` of them from `offset` on. Those that are not there are not added.
    @inlinable
    public mutating func add(_ bytes: HeaderBytes, at offset: Int, count: Int) {
        guard offset >= 0, offset < bytes.count, count > 0 else { return }
        add(bytes.start + offset, min(count, bytes.count &- offset))
    }

    /// Adds a 16-bit word of host order. The upper bits of `value` are dropped.
    @inlinable @inline(__always)
    public mutating func add(_ value: Int) { sum &+= UInt64(UInt16(truncatingIfNeeded: value).bigEndian) }

    /// Adds the pseudo header of TCP and UDP over IPv4 (RFC 9293, section 3.1). `length`: bytes of the TCP or UDP
    /// header and what follows it.
    @inlinable
    public mutating func addPseudoHeader(
        source: IPv4Address, destination: IPv4Address, protocol: IPProtocol, length: Int
    ) {
        let addresses = UInt64(source.rawValue.bigEndian) &+ UInt64(destination.rawValue.bigEndian)
        sum &+= UInt64(Checksum.fold(addresses))
        add(Int(`protocol`.rawValue))
        add(length)
    }

    /// Adds the pseudo header of IPv6 (RFC 8200, section 8.1). `length`: bytes of the upper layer's header and what
    /// follows it. The source is the packet's; the destination the last one, where there is a routing header.
    @inlinable
    public mutating func addPseudoHeader(
        source: IPv6Address, destination: IPv6Address, protocol: IPProtocol, length: Int
    ) {
        let from = Checksum.words(source.high.bigEndian) &+ Checksum.words(source.low.bigEndian)
        let to = Checksum.words(destination.high.bigEndian) &+ Checksum.words(destination.low.bigEndian)
        sum &+= UInt64(Checksum.fold(from &+ to))
        add(Int(`protocol`.rawValue))
        add(length &>> 16)
        add(length)
    }

    /// The checksum, in host byte order, as the views' fields take it. Over bytes that hold their own checksum it is 0
    /// where that is right.
    @inlinable @inline(__always)
    public var value: UInt16 { UInt16(bigEndian: ~Checksum.fold(sum)) }

    /// The same for UDP: 0 is written as 0xffff, which is the same number, as 0 says that there is no checksum (RFC
    /// 768).
    @inlinable @inline(__always)
    public var valueForUDP: UInt16 {
        let value = value
        return value == 0 ? 0xffff : value
    }

    /// The sum itself, in host byte order: over a pseudo header, what the field of a checksum holds that is still to be
    /// filled in (virtio 1.3, 5.1.6.2; `Packet.hasPartialChecksum(at:)`).
    ///
    /// ```swift
    /// var sum = Checksum()
    /// sum.addPseudoHeader(source: from, destination: to, protocol: .tcp, length: 20)
    /// tcp.checksum = sum.partial
    /// ```
    @inlinable @inline(__always)
    public var partial: UInt16 { UInt16(bigEndian: Checksum.fold(sum)) }

    /// What goes into the packet as it is, without another change of byte order; 0 is written as 0xffff.
    @inlinable @inline(__always)
    package var result: UInt16 {
        let value = ~Checksum.fold(sum)
        return value == 0 ? 0xffff : value
    }

    /// The 16-bit ones' complement sum.
    @inlinable @inline(__always)
    static func fold(_ value: UInt64) -> UInt16 {
        var v = (value & 0xffff_ffff) &+ (value &>> 32)
        v = (v & 0xffff) &+ (v &>> 16)
        v = (v & 0xffff) &+ (v &>> 16)
        v = (v & 0xffff) &+ (v &>> 16)
        return UInt16(truncatingIfNeeded: v)
    }
}

/// A header's checksum after one of its fields changed, without the other fields: equation 3 of RFC 1624. Values are in
/// host byte order. The result is what a computation over all bytes gives, unless all of them are 0, which no IP header
/// is: then it may be 0 where that gives 0xffff. The field must start at an even offset of what is summed up.
extension Checksum {
    /// A field of 16 bits, or any word of the header.
    @inlinable @inline(__always)
    public static func update(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
        changeLittle(checksum, UInt64(~old) &+ UInt64(new))
    }

    /// A field of 32 bits.
    @inlinable @inline(__always)
    public static func update(_ checksum: UInt16, from old: UInt32, to new: UInt32) -> UInt16 {
        changeLittle(checksum, words(~old) &+ words(new))
    }

    /// An IPv4 address: in its header, or in the pseudo header of TCP and UDP.
    @inlinable @inline(__always)
    public static func update(_ checksum: UInt16, from old: IPv4Address, to new: IPv4Address) -> UInt16 {
        update(checksum, from: old.rawValue, to: new.rawValue)
    }

    /// An IPv6 address, in the pseudo header.
    @inlinable @inline(__always)
    public static func update(_ checksum: UInt16, from old: IPv6Address, to new: IPv6Address) -> UInt16 {
        change(checksum, words(~old.high) &+ words(~old.low) &+ words(new.high) &+ words(new.low))
    }

    /// The pseudo header's sum after an address of it changed: what the field of a checksum holds that is still to be
    /// filled in (virtio 1.3, 5.1.6.2; `Packet.hasPartialChecksum(at:)`). It is no complement, as checksums are.
    @inlinable @inline(__always)
    public static func updatePartial(_ sum: UInt16, from old: IPv4Address, to new: IPv4Address) -> UInt16 {
        ~update(~sum, from: old, to: new)
    }

    /// The same for an IPv6 address.
    @inlinable @inline(__always)
    public static func updatePartial(_ sum: UInt16, from old: IPv6Address, to new: IPv6Address) -> UInt16 {
        ~update(~sum, from: old, to: new)
    }

    /// The checksum of UDP after a change: `updated` is what `update` made of `old`. 0 stays 0, as then there was none;
    /// a new 0 is written as 0xffff (RFC 768).
    @inlinable @inline(__always)
    public static func forUDP(_ updated: UInt16, old: UInt16) -> UInt16 {
        if old == 0 { return 0 }
        return updated == 0 ? 0xffff : updated
    }

    @inlinable @inline(__always)
    static func words(_ value: UInt32) -> UInt64 { UInt64(value &>> 16) &+ UInt64(value & 0xffff) }
    @inlinable @inline(__always)
    static func words(_ value: UInt64) -> UInt64 { (value & 0xffff_ffff) &+ (value &>> 32) }

    /// ~(~HC + ~m + m').
    @inlinable @inline(__always)
    static func change(_ checksum: UInt16, _ difference: UInt64) -> UInt16 {
        ~fold(UInt64(~checksum) &+ difference)
    }

    /// The same for a difference of a few words: their carries are gone after two steps.
    @inlinable @inline(__always)
    static func changeLittle(_ checksum: UInt16, _ difference: UInt64) -> UInt16 {
        var v = UInt64(~checksum) &+ difference
        assert(v < 1 << 24)
        v = (v & 0xffff) &+ (v &>> 16)
        v = (v & 0xffff) &+ (v &>> 16)
        return ~UInt16(truncatingIfNeeded: v)
    }
}
