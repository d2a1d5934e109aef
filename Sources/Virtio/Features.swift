/// Virtio feature bits, by their names in the virtio 1.3 specification
/// (section 5.1.3 for network devices, section 6 for the reserved bits).
public struct Features: OptionSet, Sendable, Hashable, Codable {
    public let rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// The feature with this number, 0…63.
    @inlinable public init(bit: Int) { rawValue = 1 << UInt64(bit) }

    // Network device, 5.1.3
    /// The device takes packets whose checksum is partial: it is filled in, or passed on as it is.
    public static let csum = Features(bit: 0)
    /// The driver takes packets whose checksum is partial.
    public static let guestCsum = Features(bit: 1)
    /// The driver can change its receive offloads by the control queue (5.1.6.5.8).
    public static let ctrlGuestOffloads = Features(bit: 2)
    /// The device says the largest MTU (`NetConfig.mtu`).
    public static let mtu = Features(bit: 3)
    /// The device has a MAC address (`NetConfig.mac`).
    public static let mac = Features(bit: 5)
    /// Legacy (5.1.3.2): the device takes segments of every kind that are still to be cut.
    public static let gso = Features(bit: 6)
    /// The driver takes TCP over IPv4 that is still to be cut; needs GUEST_CSUM, as the next three.
    public static let guestTSO4 = Features(bit: 7)
    /// The driver takes TCP over IPv6 that is still to be cut.
    public static let guestTSO6 = Features(bit: 8)
    /// The driver takes such TCP with ECN; needs GUEST_TSO4 or GUEST_TSO6.
    public static let guestECN = Features(bit: 9)
    /// The driver takes UDP that is still to be fragmented.
    public static let guestUFO = Features(bit: 10)
    /// The device takes TCP over IPv4 that is still to be cut; needs CSUM, as the next three.
    public static let hostTSO4 = Features(bit: 11)
    /// The device takes TCP over IPv6 that is still to be cut.
    public static let hostTSO6 = Features(bit: 12)
    /// The device takes such TCP with ECN; needs HOST_TSO4 or HOST_TSO6.
    public static let hostECN = Features(bit: 13)
    /// The device takes UDP that is still to be fragmented.
    public static let hostUFO = Features(bit: 14)
    /// A packet may be spread over several receive buffers (`NetHeader.numBuffers`).
    public static let mrgRxbuf = Features(bit: 15)
    /// The device tells its link's state (`NetConfig.status`).
    public static let status = Features(bit: 16)
    /// There is a control queue (5.1.6.5).
    public static let ctrlVQ = Features(bit: 17)
    /// It takes the first two receive modes; needs CTRL_VQ, as CTRL_VLAN and CTRL_MAC_ADDR.
    public static let ctrlRX = Features(bit: 18)
    /// It takes the VLAN filter.
    public static let ctrlVLAN = Features(bit: 19)
    /// It takes the other receive modes.
    public static let ctrlRXExtra = Features(bit: 20)
    /// The driver sends gratuitous packets when asked to (`NetConfig.announce`); needs CTRL_VQ.
    public static let guestAnnounce = Features(bit: 21)
    /// Several queue pairs; needs CTRL_VQ.
    public static let mq = Features(bit: 22)
    /// The driver can set the device's MAC address by the control queue.
    public static let ctrlMACAddr = Features(bit: 23)
    // Reserved bits, section 6, and vhost's own
    /// Legacy (6.3): a call whenever the available buffers run out, also where calls are suppressed.
    public static let notifyOnEmpty = Features(bit: 24)
    /// VHOST_F_LOG_ALL: the device writes down which pages it dirties. Between front-end and back-end; drivers never
    /// see it.
    public static let vhostLogAll = Features(bit: 26)
    /// Legacy (6.3): a net header and its packet may lie in descriptors as the driver likes. Always so with VERSION_1.
    public static let anyLayout = Features(bit: 27)
    /// VHOST_NET_F_VIRTIO_NET_HDR of the kernel's vhost-net: the same bit as ANY_LAYOUT.
    public static let vhostNetHeader = Features(bit: 27)
    /// Descriptors may point to tables of descriptors (2.7.5.3, 2.8.7).
    public static let indirectDesc = Features(bit: 28)
    /// Either side says at which index it wants to hear of the other (2.7.7, 2.7.10, 2.8.10).
    public static let eventIdx = Features(bit: 29)
    /// VHOST_USER_F_PROTOCOL_FEATURES.
    public static let protocolFeatures = Features(bit: 30)
    /// Not a legacy device or driver.
    public static let version1 = Features(bit: 32)
    /// The device's accesses to memory are limited or translated (an IOMMU).
    public static let accessPlatform = Features(bit: 33)
    /// Packed rings (2.8).
    public static let ringPacked = Features(bit: 34)
    /// Buffers are used in the order in which they were made available (2.7.9, 2.8.8).
    public static let inOrder = Features(bit: 35)
    /// Memory accesses need the barriers that real devices need, rather than those between CPUs.
    public static let orderPlatform = Features(bit: 36)
    /// Kicks say where the ring stands (2.9).
    public static let notificationData = Features(bit: 38)
    /// The driver can reset a single queue (2.6.1).
    public static let ringReset = Features(bit: 40)
    /// The driver takes UDP over IPv4 that is still to be cut into datagrams; needs GUEST_CSUM, as GUEST_USO6.
    public static let guestUSO4 = Features(bit: 54)
    /// The driver takes UDP over IPv6 that is still to be cut into datagrams.
    public static let guestUSO6 = Features(bit: 55)
    /// The device takes UDP that is still to be cut into datagrams; needs CSUM.
    public static let hostUSO = Features(bit: 56)
    /// The device reports a hash of each packet in a longer net header.
    public static let hashReport = Features(bit: 57)
    /// Receive-side scaling (5.1.6.5.7); needs CTRL_VQ.
    public static let rss = Features(bit: 60)
    /// The device reports how many segments and acknowledgements it has put together.
    public static let rscExt = Features(bit: 61)

    static let names: [(Int, String)] = [
        (0, "CSUM"), (1, "GUEST_CSUM"), (2, "CTRL_GUEST_OFFLOADS"), (3, "MTU"), (5, "MAC"), (6, "GSO"),
        (7, "GUEST_TSO4"), (8, "GUEST_TSO6"), (9, "GUEST_ECN"), (10, "GUEST_UFO"), (11, "HOST_TSO4"),
        (12, "HOST_TSO6"), (13, "HOST_ECN"), (14, "HOST_UFO"), (15, "MRG_RXBUF"), (16, "STATUS"),
        (17, "CTRL_VQ"), (18, "CTRL_RX"), (19, "CTRL_VLAN"), (20, "CTRL_RX_EXTRA"), (21, "GUEST_ANNOUNCE"),
        (22, "MQ"), (23, "CTRL_MAC_ADDR"), (24, "NOTIFY_ON_EMPTY"), (26, "LOG_ALL"), (27, "ANY_LAYOUT"),
        (28, "INDIRECT_DESC"), (29, "EVENT_IDX"), (30, "PROTOCOL_FEATURES"), (32, "VERSION_1"),
        (33, "ACCESS_PLATFORM"), (34, "RING_PACKED"), (35, "IN_ORDER"), (36, "ORDER_PLATFORM"),
        (38, "NOTIFICATION_DATA"), (40, "RING_RESET"), (54, "GUEST_USO4"), (55, "GUEST_USO6"),
        (56, "HOST_USO"), (57, "HASH_REPORT"), (60, "RSS"), (61, "RSC_EXT"),
    ]

    /// The bits by their specification names; `bit N` for those without one.
    public var bitNames: [String] {
        (0..<64).filter { rawValue & (1 << UInt64($0)) != 0 }.map { bit in
            Features.names.first { $0.0 == bit }?.1 ?? "bit \(bit)"
        }
    }

    /// Length in bytes of the net header (5.1.6.1): 12 with VERSION_1 or MRG_RXBUF, else 10.
    @inlinable public var netHeaderLength: Int { isDisjoint(with: [.version1, .mrgRxbuf]) ? 10 : 12 }
}
