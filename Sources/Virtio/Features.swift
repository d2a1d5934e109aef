/// Virtio feature bits, by their names in the virtio 1.3 specification
/// (section 5.1.3 for network devices, section 6 for the reserved bits).
public struct Features: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public init(bit: Int) { rawValue = 1 << UInt64(bit) }

    // Network device, 5.1.3
    public static let csum = Features(bit: 0)
    public static let guestCsum = Features(bit: 1)
    public static let ctrlGuestOffloads = Features(bit: 2)
    public static let mtu = Features(bit: 3)
    public static let mac = Features(bit: 5)
    public static let gso = Features(bit: 6)
    public static let guestTSO4 = Features(bit: 7)
    public static let guestTSO6 = Features(bit: 8)
    public static let guestECN = Features(bit: 9)
    public static let guestUFO = Features(bit: 10)
    public static let hostTSO4 = Features(bit: 11)
    public static let hostTSO6 = Features(bit: 12)
    public static let hostECN = Features(bit: 13)
    public static let hostUFO = Features(bit: 14)
    public static let mrgRxbuf = Features(bit: 15)
    public static let status = Features(bit: 16)
    public static let ctrlVQ = Features(bit: 17)
    public static let ctrlRX = Features(bit: 18)
    public static let ctrlVLAN = Features(bit: 19)
    public static let ctrlRXExtra = Features(bit: 20)
    public static let guestAnnounce = Features(bit: 21)
    public static let mq = Features(bit: 22)
    public static let ctrlMACAddr = Features(bit: 23)
    // Reserved bits, section 6, and vhost's own
    public static let notifyOnEmpty = Features(bit: 24)
    public static let vhostLogAll = Features(bit: 26)
    public static let anyLayout = Features(bit: 27)
    /// VHOST_NET_F_VIRTIO_NET_HDR of the kernel's vhost-net: the same bit as ANY_LAYOUT.
    public static let vhostNetHeader = Features(bit: 27)
    public static let indirectDesc = Features(bit: 28)
    public static let eventIdx = Features(bit: 29)
    /// VHOST_USER_F_PROTOCOL_FEATURES.
    public static let protocolFeatures = Features(bit: 30)
    public static let version1 = Features(bit: 32)
    public static let accessPlatform = Features(bit: 33)
    public static let ringPacked = Features(bit: 34)
    public static let inOrder = Features(bit: 35)
    public static let orderPlatform = Features(bit: 36)
    public static let notificationData = Features(bit: 38)
    public static let ringReset = Features(bit: 40)
    public static let guestUSO4 = Features(bit: 54)
    public static let guestUSO6 = Features(bit: 55)
    public static let hostUSO = Features(bit: 56)
    public static let hashReport = Features(bit: 57)
    public static let rss = Features(bit: 60)
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
