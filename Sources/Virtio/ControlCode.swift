/// Class and command of a control queue's command (virtio 1.3, 5.1.6.5), by the specification's names without
/// VIRTIO_NET_CTRL_.
public struct ControlCode: Sendable, Hashable {
    /// `class`
    public var kind: UInt8
    /// `command`: what it means depends on the class.
    public var command: UInt8

    /// A class and one of its commands.
    public init(_ kind: UInt8, _ command: UInt8) { (self.kind, self.command) = (kind, command) }

    // Classes
    /// VIRTIO_NET_CTRL_RX: which packets the device receives.
    public static let rx: UInt8 = 0
    /// VIRTIO_NET_CTRL_MAC: the device's address and its filter table.
    public static let mac: UInt8 = 1
    /// VIRTIO_NET_CTRL_VLAN: the VLAN filter.
    public static let vlan: UInt8 = 2
    /// VIRTIO_NET_CTRL_ANNOUNCE: gratuitous packets after a migration.
    public static let announce: UInt8 = 3
    /// VIRTIO_NET_CTRL_MQ: queue pairs in use, and how packets are spread over them.
    public static let mq: UInt8 = 4
    /// VIRTIO_NET_CTRL_GUEST_OFFLOADS: what the driver receives unsegmented or without a checksum.
    public static let guestOffloads: UInt8 = 5

    // Receive filtering, 5.1.6.5.1: CTRL_RX has the first two, CTRL_RX_EXTRA the others.
    /// Receive everything. Data: a byte, 1 on, 0 off; so of the five that follow.
    public static let rxPromisc = ControlCode(rx, 0)
    /// Receive every multicast.
    public static let rxAllMulti = ControlCode(rx, 1)
    /// Receive every unicast.
    public static let rxAllUni = ControlCode(rx, 2)
    /// Receive no multicast.
    public static let rxNoMulti = ControlCode(rx, 3)
    /// Receive no unicast.
    public static let rxNoUni = ControlCode(rx, 4)
    /// Receive no broadcast.
    public static let rxNoBcast = ControlCode(rx, 5)
    // MAC addresses, 5.1.6.5.2
    /// The filter's addresses: a table of unicast, then one of multicast, each a 32-bit count and 6 bytes an address.
    public static let macTableSet = ControlCode(mac, 0)
    /// The device's own address. Data: 6 bytes.
    public static let macAddrSet = ControlCode(mac, 1)
    // VLAN filtering, 5.1.6.5.3
    /// Let a VLAN through. Data: its id, 16 bits.
    public static let vlanAdd = ControlCode(vlan, 0)
    /// Let a VLAN through no more. Data: its id, 16 bits.
    public static let vlanDel = ControlCode(vlan, 1)
    // Announcements, 5.1.6.5.4
    /// The driver has seen VIRTIO_NET_S_ANNOUNCE. No data.
    public static let announceAck = ControlCode(announce, 0)
    // Queue pairs, 5.1.6.5.5 and 5.1.6.5.6
    /// How many queue pairs are in use. Data: 16 bits, within `pairsRange`.
    public static let mqVQPairsSet = ControlCode(mq, 0)
    /// Receive-side scaling: hash types, indirection table and key.
    public static let mqRSSConfig = ControlCode(mq, 1)
    // Offloads, 5.1.6.5.8
    /// The offloads that the driver takes from now on. Data: 64 bits, by the numbers of the feature bits.
    public static let guestOffloadsSet = ControlCode(guestOffloads, 0)

    /// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN and _MAX: the queue pairs that a device may have.
    public static let pairsRange: ClosedRange<Int> = 1...0x8000

    /// The device's answer: VIRTIO_NET_OK, VIRTIO_NET_ERR.
    public static let ok: UInt8 = 0
    /// VIRTIO_NET_ERR: the command was refused, and changed nothing.
    public static let error: UInt8 = 1
}
