/// A view of an IPv6 header: 40 bytes (RFC 8200, section 3). Extension headers follow it; `Layers` finds what is behind
/// them.
///
/// ```swift
/// if let ip = IPv6(packet.bytes, at: Ethernet.size), ip.decrementHopLimit() {
///     packet.verdict = .port(1)
/// }
/// ```
public struct IPv6: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of the header.
    @inlinable public static var size: Int { 40 }

    /// Nil where the 40 bytes from `offset` on are not all there, or the version is not 6. `payloadLength` is not
    /// checked: `Layers` does, which knows the frame's length.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(40, at: offset) else { return nil }
        header = bytes.from(offset)
        guard header.load8(0) &>> 4 == 6 else { return nil }
    }

    /// Writes a header whose other fields than the version are 0. Nil where the 40 bytes from `offset` on are not all
    /// there.
    @inlinable @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(40, at: offset) else { return nil }
        header = bytes.from(offset)
        header.zero(40)
        header.store8(0, 0x60)
    }

    /// Version: 6. Higher bits than the lowest four are dropped.
    @inlinable @inline(__always)
    public var version: UInt8 {
        get { header.load8(0) &>> 4 }
        nonmutating set { header.storeBits(0, 0xf0, newValue &<< 4) }
    }
    /// Traffic class, all eight bits: `dscp` and `ecn`.
    @inlinable @inline(__always)
    public var trafficClass: UInt8 {
        get { UInt8(truncatingIfNeeded: header.load16(0) &>> 4) }
        nonmutating set { header.store16(0, header.load16(0) & 0xf00f | UInt16(newValue) &<< 4) }
    }
    /// Differentiated services code point, 0 to 63 (RFC 2474, section 3). Higher bits are dropped.
    @inlinable @inline(__always)
    public var dscp: UInt8 {
        get { trafficClass &>> 2 }
        nonmutating set { trafficClass = trafficClass & 3 | newValue &<< 2 }
    }
    /// Explicit congestion notification, 0 to 3 (RFC 3168, section 5). Higher bits are dropped.
    @inlinable @inline(__always)
    public var ecn: UInt8 {
        get { trafficClass & 3 }
        nonmutating set { trafficClass = trafficClass & 0xfc | newValue & 3 }
    }
    /// Flow label, 20 bits (RFC 6437). Higher bits are dropped.
    @inlinable @inline(__always)
    public var flowLabel: UInt32 {
        get { header.load32(0) & 0xf_ffff }
        nonmutating set { header.store32(0, header.load32(0) & 0xfff0_0000 | newValue & 0xf_ffff) }
    }
    /// Bytes behind this header, extension headers included.
    @inlinable @inline(__always)
    public var payloadLength: UInt16 {
        get { header.load16(4) }
        nonmutating set { header.store16(4, newValue) }
    }
    /// What follows: an extension header, or the upper layer.
    @inlinable @inline(__always)
    public var nextHeader: IPProtocol {
        get { IPProtocol(rawValue: header.load8(6)) }
        nonmutating set { header.store8(6, newValue.rawValue) }
    }
    /// Hops that are left.
    @inlinable @inline(__always)
    public var hopLimit: UInt8 {
        get { header.load8(7) }
        nonmutating set { header.store8(7, newValue) }
    }
    /// Source address.
    @inlinable @inline(__always)
    public var sourceAddress: IPv6Address {
        get { header.loadIPv6(8) }
        nonmutating set { header.storeIPv6(8, newValue) }
    }
    /// Destination address.
    @inlinable @inline(__always)
    public var destinationAddress: IPv6Address {
        get { header.loadIPv6(24) }
        nonmutating set { header.storeIPv6(24, newValue) }
    }

    /// One hop less. False, and nothing changed, where the hop limit is 0 or 1: the packet may not be forwarded
    /// (RFC 8200, section 3).
    @inlinable @inline(__always)
    public func decrementHopLimit() -> Bool {
        let old = header.load8(7)
        if old < 2 { return false }
        header.store8(7, old &- 1)
        return true
    }
}
