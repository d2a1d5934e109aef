/// Class and command of a control queue's command (virtio 1.3, 5.1.6.5), by the specification's names without
/// VIRTIO_NET_CTRL_.
public struct ControlCode: Sendable, Hashable {
    /// `class`
    public var kind: UInt8
    public var command: UInt8

    public init(_ kind: UInt8, _ command: UInt8) { (self.kind, self.command) = (kind, command) }

    // Classes
    public static let rx: UInt8 = 0
    public static let mac: UInt8 = 1
    public static let vlan: UInt8 = 2
    public static let announce: UInt8 = 3
    public static let mq: UInt8 = 4
    public static let guestOffloads: UInt8 = 5

    // Receive filtering, 5.1.6.5.1: CTRL_RX has the first two, CTRL_RX_EXTRA the others.
    public static let rxPromisc = ControlCode(rx, 0)
    public static let rxAllMulti = ControlCode(rx, 1)
    public static let rxAllUni = ControlCode(rx, 2)
    public static let rxNoMulti = ControlCode(rx, 3)
    public static let rxNoUni = ControlCode(rx, 4)
    public static let rxNoBcast = ControlCode(rx, 5)
    // MAC addresses, 5.1.6.5.2
    public static let macTableSet = ControlCode(mac, 0)
    public static let macAddrSet = ControlCode(mac, 1)
    // VLAN filtering, 5.1.6.5.3
    public static let vlanAdd = ControlCode(vlan, 0)
    public static let vlanDel = ControlCode(vlan, 1)
    // Announcements, 5.1.6.5.4
    public static let announceAck = ControlCode(announce, 0)
    // Queue pairs, 5.1.6.5.5 and 5.1.6.5.6
    public static let mqVQPairsSet = ControlCode(mq, 0)
    public static let mqRSSConfig = ControlCode(mq, 1)
    // Offloads, 5.1.6.5.8
    public static let guestOffloadsSet = ControlCode(guestOffloads, 0)

    /// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN and _MAX: the queue pairs that a device may have.
    public static let pairsRange: ClosedRange<Int> = 1...0x8000

    /// The device's answer: VIRTIO_NET_OK, VIRTIO_NET_ERR.
    public static let ok: UInt8 = 0
    public static let error: UInt8 = 1
}
