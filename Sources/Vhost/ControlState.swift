import Virtio

/// A command of the control queue (virtio 1.3, 5.1.6.5): class, command and its data.
public struct DriverCommand: Sendable, Equatable, CustomStringConvertible {
    /// Its class.
    public var kind: UInt8
    /// The command, of those of its class.
    public var command: UInt8
    /// What follows them, as it goes over the queue: little-endian.
    public var data: [UInt8]

    /// Any command, also one that the specification does not know.
    public init(kind: UInt8, command: UInt8, data: [UInt8]) {
        (self.kind, self.command, self.data) = (kind, command, data)
    }

    /// A command of the specification.
    public init(_ code: ControlCode, _ data: [UInt8]) {
        self.init(kind: code.kind, command: code.command, data: data)
    }

    /// Class and command.
    public var code: ControlCode { ControlCode(kind, command) }

    /// VIRTIO_NET_CTRL_RX_…: which frames are wanted.
    public enum ReceiveMode: UInt8, Sendable {
        /// PROMISC: every frame.
        case promiscuous
        /// ALLMULTI: every multicast.
        case allMulticast
        /// ALLUNI: every unicast; CTRL_RX_EXTRA, as those that follow.
        case allUnicast
        /// NOMULTI: no multicast.
        case noMulticast
        /// NOUNI: no unicast.
        case noUnicast
        /// NOBCAST: no broadcast.
        case noBroadcast
    }

    /// Turns a receive mode on or off (CTRL_RX, CTRL_RX_EXTRA).
    public static func receive(_ mode: ReceiveMode, _ isOn: Bool) -> DriverCommand {
        DriverCommand(ControlCode(ControlCode.rx, mode.rawValue), [isOn ? 1 : 0])
    }
    /// VIRTIO_NET_CTRL_MAC_ADDR_SET; six bytes.
    public static func mac(_ address: [UInt8]) -> DriverCommand { DriverCommand(.macAddrSet, address) }
    /// VIRTIO_NET_CTRL_MAC_TABLE_SET: addresses of six bytes.
    public static func macTable(unicast: [[UInt8]], multicast: [[UInt8]]) -> DriverCommand {
        func part(_ list: [[UInt8]]) -> [UInt8] { little(UInt32(list.count)) + list.flatMap { $0 } }
        return DriverCommand(.macTableSet, part(unicast) + part(multicast))
    }
    /// VIRTIO_NET_CTRL_VLAN_ADD or _DEL: whether frames of a VLAN are wanted.
    public static func vlan(_ id: UInt16, _ isWanted: Bool) -> DriverCommand {
        DriverCommand(isWanted ? .vlanAdd : .vlanDel, little(id))
    }
    /// Queue pairs that the driver uses (MQ).
    public static func pairs(_ count: UInt16) -> DriverCommand {
        DriverCommand(.mqVQPairsSet, little(count))
    }
    /// `struct virtio_net_rss_config`, as it is.
    public static func rss(_ configuration: [UInt8]) -> DriverCommand {
        DriverCommand(.mqRSSConfig, configuration)
    }
    /// GUEST_* offloads that are switched on.
    public static func offloads(_ features: Features) -> DriverCommand {
        DriverCommand(.guestOffloadsSet, little(features.rawValue))
    }

    private static func little<T: FixedWidthInteger>(_ v: T) -> [UInt8] {
        withUnsafeBytes(of: v.littleEndian) { Array($0) }
    }

    /// For errors.
    public var description: String {
        switch (kind, code) {
        case (ControlCode.rx, _): return "receive mode \(command)"
        case (_, .macTableSet): return "the table of MAC addresses"
        case (_, .macAddrSet): return "the MAC address"
        case (ControlCode.vlan, _): return "the VLAN filter"
        case (_, .mqVQPairsSet) where data.count == 2: return "\(Int(data[0]) | Int(data[1]) << 8) queue pairs"
        case (ControlCode.mq, _): return "the RSS configuration"
        case (ControlCode.guestOffloads, _): return "the offloads"
        default: return "command \(kind).\(command)"
        }
    }
}

/// The shadow of a device's control queue: what its driver has set there and the device accepted. A reset forgets all
/// of it, so a start says it again.
public struct ControlState: Sendable, Equatable {
    private var mac: DriverCommand?
    private var table: DriverCommand?
    /// The number of pairs or the RSS configuration, whichever came last: each sets both.
    private var steering: DriverCommand?
    private var offloads: DriverCommand?
    private var modes: [UInt8: DriverCommand] = [:]
    private var vlans: [[UInt8]: DriverCommand] = [:]

    /// Nothing was set.
    public init() {}

    /// Remembers a command. Those that leave no state (ANNOUNCE_ACK) change nothing.
    public mutating func note(_ c: DriverCommand) {
        switch c.code {
        case _ where c.kind == ControlCode.rx: modes[c.command] = c
        case .macTableSet: table = c
        case .macAddrSet: mac = c
        case .vlanAdd: vlans[c.data] = c
        case .vlanDel: vlans[c.data] = nil
        case .mqVQPairsSet, .mqRSSConfig: steering = c
        case .guestOffloadsSet: offloads = c
        default: break
        }
    }

    /// In the order in which a start says it: MAC addresses, pairs or RSS, offloads, receive modes, VLANs.
    public var commands: [DriverCommand] {
        [mac, table, steering, offloads].compactMap { $0 } + modes.sorted { $0.key < $1.key }.map(\.value)
            + vlans.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map(\.value)
    }
}
