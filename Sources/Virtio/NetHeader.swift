/// `struct virtio_net_hdr_v1`, virtio 1.3 section 5.1.6. Little-endian, 12 bytes
/// (10 without `numBuffers` for legacy drivers). A value: what was read once from a guest.
///
/// Kept as it lies in memory, in two words, so that a packet's header is moved by two loads and two stores.
public struct NetHeader: Sendable, Equatable, BitwiseCopyable {
    /// flags, gso_type, hdr_len, gso_size, csum_start, from the lowest byte up.
    @usableFromInline var low: UInt64 = 0
    /// csum_offset, num_buffers.
    @usableFromInline var high: UInt32 = 0
    /// All fields 0: a plain packet.
    @inlinable public init() {}

    @inlinable @inline(__always)
    func field<T: FixedWidthInteger>(_ shift: UInt64) -> T { T(truncatingIfNeeded: low >> shift) }

    @inlinable @inline(__always)
    mutating func set<T: FixedWidthInteger & UnsignedInteger>(_ shift: UInt64, _ value: T) {
        low = low & ~(UInt64(T.max) << shift) | UInt64(value) << shift
    }

    /// `flags`: `needsCsum`, `dataValid`, `rscInfo`.
    @inlinable public var flags: UInt8 {
        get { field(0) }
        set { set(0, newValue) }
    }
    /// `gso_type`: what is still to be cut, one of the `gso…` values, with `gsoECN` or-ed in.
    @inlinable public var gsoType: UInt8 {
        get { field(8) }
        set { set(8, newValue) }
    }
    /// `hdr_len`: bytes of all headers of a packet that is still to be cut. A hint: senders may say less.
    @inlinable public var hdrLen: UInt16 {
        get { field(16) }
        set { set(16, newValue) }
    }
    /// `gso_size`: bytes of payload in each segment.
    @inlinable public var gsoSize: UInt16 {
        get { field(32) }
        set { set(32, newValue) }
    }
    /// `csum_start`: from which byte of the frame on the checksum goes, with `needsCsum`.
    @inlinable public var csumStart: UInt16 {
        get { field(48) }
        set { set(48, newValue) }
    }
    /// `csum_offset`: how many bytes behind `csumStart` its 16 bits stand.
    @inlinable public var csumOffset: UInt16 {
        get { UInt16(truncatingIfNeeded: high) }
        set { high = high & 0xffff_0000 | UInt32(newValue) }
    }
    /// `num_buffers`: receive buffers that the packet is spread over; 1 without MRG_RXBUF.
    @inlinable public var numBuffers: UInt16 {
        get { UInt16(truncatingIfNeeded: high >> 16) }
        set { high = high & 0xffff | UInt32(newValue) << 16 }
    }

    // flags
    /// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum at `csumStart` + `csumOffset` holds the pseudo header's only.
    public static var needsCsum: UInt8 { 1 }
    /// VIRTIO_NET_HDR_F_DATA_VALID: the device has verified the checksum.
    public static var dataValid: UInt8 { 2 }
    /// VIRTIO_NET_HDR_F_RSC_INFO: the checksum fields count what was put together (VIRTIO_NET_F_RSC_EXT).
    public static var rscInfo: UInt8 { 4 }
    // gso_type
    /// Nothing is to be cut.
    public static var gsoNone: UInt8 { 0 }
    /// TCP over IPv4.
    public static var gsoTCPv4: UInt8 { 1 }
    /// UDP that is to be fragmented (UFO).
    public static var gsoUDP: UInt8 { 3 }
    /// TCP over IPv6.
    public static var gsoTCPv6: UInt8 { 4 }
    /// UDP that is to be cut into datagrams (USO).
    public static var gsoUDPL4: UInt8 { 5 }
    /// Or-ed into the type: the packet carries ECN.
    public static var gsoECN: UInt8 { 0x80 }
    /// Or-ed into the type: headers of a UDP tunnel, over IPv4 or IPv6, stand before what is to be cut (virtio 1.4,
    /// VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 and _IPV6). Here only a packet function sets them (`Packet.encapsulate`).
    public static var gsoTunnelIPv4: UInt8 { 0x20 }
    /// The same with an outer IPv6 header.
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
