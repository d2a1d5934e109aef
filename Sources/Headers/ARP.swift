/// A view of an ARP packet for IPv4 over Ethernet: 28 bytes (RFC 826). It starts behind the Ethernet header and its
/// VLAN tags (`Layers.networkOffset`).
///
/// ```swift
/// if ethernet.etherType == .arp, let arp = ARP(packet.bytes, at: Ethernet.size), arp.operation == .request {
///     asked = arp.targetProtocolAddress
/// }
/// ```
public struct ARP: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of the packet.
    @inlinable public static var size: Int { 28 }

    /// What an ARP packet is for (`ar$op`).
    public struct Operation: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
        /// In host byte order.
        public let rawValue: UInt16
        /// From the number.
        @inlinable @inline(__always)
        public init(rawValue: UInt16) { self.rawValue = rawValue }
        /// Who has the target's protocol address?
        @inlinable public static var request: Operation { Operation(rawValue: 1) }
        /// The sender has it.
        @inlinable public static var reply: Operation { Operation(rawValue: 2) }
    }

    /// Nil where the 28 bytes from `offset` on are not all there, or are not for IPv4 over Ethernet (`ar$hrd` 1,
    /// `ar$pro` 0x0800, `ar$hln` 6, `ar$pln` 4).
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(28, at: offset) else { return nil }
        header = bytes.from(offset)
        guard header.load32(0) == 0x0001_0800, header.load16(4) == 0x0604 else { return nil }
    }

    /// Writes a packet whose operation and addresses are 0. Nil where the 28 bytes from `offset` on are not all there.
    @inlinable @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(28, at: offset) else { return nil }
        header = bytes.from(offset)
        header.zero(28)
        header.store32(0, 0x0001_0800)
        header.store16(4, 0x0604)
    }

    /// Request or reply (`ar$op`).
    @inlinable @inline(__always)
    public var operation: Operation {
        get { Operation(rawValue: header.load16(6)) }
        nonmutating set { header.store16(6, newValue.rawValue) }
    }
    /// `ar$sha`.
    @inlinable @inline(__always)
    public var senderHardwareAddress: MACAddress {
        get { header.loadMAC(8) }
        nonmutating set { header.storeMAC(8, newValue) }
    }
    /// `ar$spa`.
    @inlinable @inline(__always)
    public var senderProtocolAddress: IPv4Address {
        get { IPv4Address(rawValue: header.load32(14)) }
        nonmutating set { header.store32(14, newValue.rawValue) }
    }
    /// `ar$tha`. Means nothing in a request.
    @inlinable @inline(__always)
    public var targetHardwareAddress: MACAddress {
        get { header.loadMAC(18) }
        nonmutating set { header.storeMAC(18, newValue) }
    }
    /// `ar$tpa`.
    @inlinable @inline(__always)
    public var targetProtocolAddress: IPv4Address {
        get { IPv4Address(rawValue: header.load32(24)) }
        nonmutating set { header.store32(24, newValue.rawValue) }
    }
}
