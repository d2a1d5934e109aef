/// A view of an Ethernet header: 14 bytes (IEEE 802.3-2022, 3.1.1).
///
/// ```swift
/// guard let ethernet = Ethernet(packet.bytes), ethernet.etherType == .ipv4 else { continue }
/// ```
public struct Ethernet: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of the header.
    @inlinable public static var size: Int { 14 }

    /// Nil where the 14 bytes from `offset` on are not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int = 0) {
        guard bytes.has(14, at: offset) else { return nil }
        header = bytes.from(offset)
    }

    /// Destination address.
    @inlinable @inline(__always)
    public var destination: MACAddress {
        get { header.loadMAC(0) }
        nonmutating set { header.storeMAC(0, newValue) }
    }
    /// Source address.
    @inlinable @inline(__always)
    public var source: MACAddress {
        get { header.loadMAC(6) }
        nonmutating set { header.storeMAC(6, newValue) }
    }
    /// What follows. With a VLAN tag, the tag: its own `etherType` says what is behind it.
    @inlinable @inline(__always)
    public var etherType: EtherType {
        get { EtherType(rawValue: header.load16(12)) }
        nonmutating set { header.store16(12, newValue.rawValue) }
    }
}

/// A view of a VLAN tag (IEEE 802.1Q-2022, 9.6) without the type that announces it: two bytes of tag control
/// information and the type of what follows. The first of a frame is at offset 14.
///
/// ```swift
/// if ethernet.etherType == .vlan, let tag = VLANTag(packet.bytes, at: Ethernet.size) { vlan = tag.vlanID }
/// ```
public struct VLANTag: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of it.
    @inlinable public static var size: Int { 4 }

    /// Nil where the four bytes from `offset` on are not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(4, at: offset) else { return nil }
        header = bytes.from(offset)
    }

    /// All of the tag control information: priority, drop eligibility, VLAN.
    @inlinable @inline(__always)
    public var controlInformation: UInt16 {
        get { header.load16(0) }
        nonmutating set { header.store16(0, newValue) }
    }
    /// Priority code point, 0 to 7. Higher bits are dropped.
    @inlinable @inline(__always)
    public var priority: UInt8 {
        get { header.load8(0) &>> 5 }
        nonmutating set { header.storeBits(0, 0xe0, newValue &<< 5) }
    }
    /// Drop eligible indicator.
    @inlinable @inline(__always)
    public var dropEligible: Bool {
        get { header.load8(0) & 0x10 != 0 }
        nonmutating set { header.storeBits(0, 0x10, newValue ? 0x10 : 0) }
    }
    /// VLAN, 0 to 4095. 0 is none, for a tag that only has a priority; 4095 is reserved. Higher bits are dropped.
    @inlinable @inline(__always)
    public var vlanID: UInt16 {
        get { header.load16(0) & 0x0fff }
        nonmutating set { header.store16(0, header.load16(0) & 0xf000 | newValue & 0x0fff) }
    }
    /// What follows the tag.
    @inlinable @inline(__always)
    public var etherType: EtherType {
        get { EtherType(rawValue: header.load16(2)) }
        nonmutating set { header.store16(2, newValue.rawValue) }
    }
}
