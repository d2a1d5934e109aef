/// `struct virtio_net_hdr_v1`, virtio 1.3 section 5.1.6. Little-endian, 12 bytes
/// (10 without `numBuffers` for legacy drivers). A value: what was read once from a guest.
public struct NetHeader: Sendable, BitwiseCopyable {
    public var flags: UInt8 = 0
    public var gsoType: UInt8 = 0
    public var hdrLen: UInt16 = 0
    public var gsoSize: UInt16 = 0
    public var csumStart: UInt16 = 0
    public var csumOffset: UInt16 = 0
    public var numBuffers: UInt16 = 0
    @inlinable public init() {}

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

    /// Neither a checksum to fill in nor segments to cut.
    @inlinable @inline(__always) public var isPlain: Bool { flags & NetHeader.needsCsum == 0 && gsoType == 0 }
}
