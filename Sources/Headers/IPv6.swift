/// A view of an IPv6 header: 40 bytes (RFC 8200, section 3). Extension headers follow it; `Layers` finds what is behind
/// them.
public struct IPv6: ~Escapable {
    @usableFromInline let start: UnsafeMutableRawPointer
    /// Bytes of the header.
    @inlinable public static var size: Int { 40 }

    /// Nil where the 40 bytes from `offset` on are not all there, or the version is not 6. `payloadLength` is not
    /// checked: `Layers` does, which knows the frame's length.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(40, at: offset) else { return nil }
        start = bytes.start + offset
        guard start.load8(0) &>> 4 == 6 else { return nil }
    }

    /// Writes a header whose other fields than the version are 0. Nil where the 40 bytes from `offset` on are not all
    /// there.
    @inlinable @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(40, at: offset) else { return nil }
        start = bytes.start + offset
        start.initializeMemory(as: UInt8.self, repeating: 0, count: 40)
        start.store8(0, 0x60)
    }

    /// Version: 6. Higher bits than the lowest four are dropped.
    @inlinable @inline(__always)
    public var version: UInt8 {
        get { start.load8(0) &>> 4 }
        nonmutating set { start.storeBits(0, 0xf0, newValue &<< 4) }
    }
    /// Traffic class, all eight bits: `dscp` and `ecn`.
    @inlinable @inline(__always)
    public var trafficClass: UInt8 {
        get { UInt8(truncatingIfNeeded: start.load16(0) &>> 4) }
        nonmutating set { start.store16(0, start.load16(0) & 0xf00f | UInt16(newValue) &<< 4) }
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
        get { start.load32(0) & 0xf_ffff }
        nonmutating set { start.store32(0, start.load32(0) & 0xfff0_0000 | newValue & 0xf_ffff) }
    }
    /// Bytes behind this header, extension headers included.
    @inlinable @inline(__always)
    public var payloadLength: UInt16 {
        get { start.load16(4) }
        nonmutating set { start.store16(4, newValue) }
    }
    /// What follows: an extension header, or the upper layer.
    @inlinable @inline(__always)
    public var nextHeader: IPProtocol {
        get { IPProtocol(rawValue: start.load8(6)) }
        nonmutating set { start.store8(6, newValue.rawValue) }
    }
    /// Hops that are left.
    @inlinable @inline(__always)
    public var hopLimit: UInt8 {
        get { start.load8(7) }
        nonmutating set { start.store8(7, newValue) }
    }
    /// Source address.
    @inlinable @inline(__always)
    public var sourceAddress: IPv6Address {
        get { start.loadIPv6(8) }
        nonmutating set { start.storeIPv6(8, newValue) }
    }
    /// Destination address.
    @inlinable @inline(__always)
    public var destinationAddress: IPv6Address {
        get { start.loadIPv6(24) }
        nonmutating set { start.storeIPv6(24, newValue) }
    }

    /// One hop less. False, and nothing changed, where the hop limit is 0 or 1: the packet may not be forwarded
    /// (RFC 8200, section 3).
    @inlinable @inline(__always)
    public func decrementHopLimit() -> Bool {
        let old = start.load8(7)
        if old < 2 { return false }
        start.store8(7, old &- 1)
        return true
    }
}
