/// `struct virtio_net_hdr_v1`, virtio 1.3 section 5.1.6. Little-endian, 12 bytes
/// (10 without `numBuffers` for legacy drivers). A value: what was read once from a guest.
///
/// Kept as it lies in memory, in two words, so that a packet's header is moved by two loads and two stores.
public struct NetHeader: Sendable, Equatable, BitwiseCopyable {
    /// flags, gso_type, hdr_len, gso_size, csum_start, from the lowest byte up.
    @usableFromInline var low: UInt64 = 0
    /// csum_offset, num_buffers.
    @usableFromInline var high: UInt32 = 0
    @inlinable public init() {}

    @inlinable @inline(__always)
    func field<T: FixedWidthInteger>(_ shift: UInt64) -> T { T(truncatingIfNeeded: low >> shift) }

    @inlinable @inline(__always)
    mutating func set<T: FixedWidthInteger & UnsignedInteger>(_ shift: UInt64, _ value: T) {
        low = low & ~(UInt64(T.max) << shift) | UInt64(value) << shift
    }

    @inlinable public var flags: UInt8 {
        get { field(0) }
        set { set(0, newValue) }
    }
    @inlinable public var gsoType: UInt8 {
        get { field(8) }
        set { set(8, newValue) }
    }
    @inlinable public var hdrLen: UInt16 {
        get { field(16) }
        set { set(16, newValue) }
    }
    @inlinable public var gsoSize: UInt16 {
        get { field(32) }
        set { set(32, newValue) }
    }
    @inlinable public var csumStart: UInt16 {
        get { field(48) }
        set { set(48, newValue) }
    }
    @inlinable public var csumOffset: UInt16 {
        get { UInt16(truncatingIfNeeded: high) }
        set { high = high & 0xffff_0000 | UInt32(newValue) }
    }
    @inlinable public var numBuffers: UInt16 {
        get { UInt16(truncatingIfNeeded: high >> 16) }
        set { high = high & 0xffff | UInt32(newValue) << 16 }
    }

    // flags
    public static var needsCsum: UInt8 { 1 }
    public static var dataValid: UInt8 { 2 }
    public static var rscInfo: UInt8 { 4 }
    // gso_type
    public static var gsoNone: UInt8 { 0 }
    public static var gsoTCPv4: UInt8 { 1 }
    public static var gsoUDP: UInt8 { 3 }
    public static var gsoTCPv6: UInt8 { 4 }
    public static var gsoUDPL4: UInt8 { 5 }
    /// Or-ed into the type: the packet carries ECN.
    public static var gsoECN: UInt8 { 0x80 }
    /// Or-ed into the type: headers of a UDP tunnel, over IPv4 or IPv6, stand before what is to be cut (virtio 1.4,
    /// VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 and _IPV6). Here only a packet function sets them (`Packet.encapsulate`).
    public static var gsoTunnelIPv4: UInt8 { 0x20 }
    public static var gsoTunnelIPv6: UInt8 { 0x40 }

    /// Headers of a tunnel stand before what is to be cut.
    @inlinable @inline(__always)
    public var isTunnel: Bool { gsoType & (NetHeader.gsoTunnelIPv4 | NetHeader.gsoTunnelIPv6) != 0 }
    /// The type without what is or-ed into it.
    @inlinable @inline(__always)
    public var gsoKind: UInt8 {
        gsoType & ~(NetHeader.gsoECN | NetHeader.gsoTunnelIPv4 | NetHeader.gsoTunnelIPv6)
    }

    /// Neither a checksum to fill in nor segments to cut.
    @inlinable @inline(__always)
    public var isPlain: Bool { flags & NetHeader.needsCsum == 0 && gsoType == NetHeader.gsoNone }
}
