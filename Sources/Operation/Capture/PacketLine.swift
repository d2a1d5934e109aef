import Console
import Foundation
import Glibc
import Headers

/// What is printed of a captured packet: for people a line, with `--json` an object.
package struct PacketLine: Encodable {
    private let type = "packet"
    private let nanoseconds: UInt64
    private let port: String
    private let queue: Int
    private let direction: String
    private let length: Int
    private var source: String?
    private var destination: String?
    private var vlan: Int?
    private var etherType: Int?
    private var flow: String?
    private let cause: String?

    package init(_ packet: SeenPacket, port: String) {
        (nanoseconds, self.port, queue, cause) = (packet.nanoseconds, port, packet.queue, packet.cause)
        (direction, length) = (packet.isInward ? "in" : "out", packet.length)
        var copy = Array(packet.bytes)
        copy.withUnsafeMutableBytes { bytes in
            let header = HeaderBytes(bytes)
            guard let ethernet = Ethernet(header) else { return }
            (source, destination) = (ethernet.source.description, ethernet.destination.description)
            let layers = Layers(header, frameLength: packet.length)
            etherType = Int(layers.etherType.rawValue)
            vlan = layers.vlanID.map(Int.init)
            flow = PacketLine.flow(header, layers)
        }
    }

    /// Who speaks to whom, by IP addresses and ports.
    private static func flow(_ bytes: HeaderBytes, _ layers: Layers) -> String? {
        guard let at = layers.networkOffset else { return nil }
        var ends: (String, String)
        if layers.isIPv4, let ip = IPv4(bytes, at: at) {
            ends = (ip.sourceAddress.description, ip.destinationAddress.description)
        } else if layers.isIPv6, let ip = IPv6(bytes, at: at) {
            ends = (ip.sourceAddress.description, ip.destinationAddress.description)
        } else {
            return nil
        }
        guard let proto = layers.ipProtocol else { return "\(ends.0) > \(ends.1)" }
        var name = "protocol \(proto.rawValue)"
        if let at = layers.transportOffset {
            if proto == .udp, let udp = UDP(bytes, at: at) {
                name = "UDP"
                ends = ("\(ends.0):\(udp.sourcePort)", "\(ends.1):\(udp.destinationPort)")
            } else if proto == .tcp, let tcp = TCP(bytes, at: at) {
                name = "TCP"
                ends = ("\(ends.0):\(tcp.sourcePort)", "\(ends.1):\(tcp.destinationPort)")
            }
        }
        return "\(name) \(ends.0) > \(ends.1)"
    }

    /// Time, port, queue, direction, length, addresses, type, who speaks to whom, why it was dropped.
    package var text: String {
        var line =
            "\(PacketLine.clock(nanoseconds)) \(port)/\(queue) " + Text.left(direction, 3) + Text.right("\(length)", 6)
        if let source, let destination { line += "  \(source) > \(destination)" }
        if let vlan { line += " VLAN \(vlan)" }
        if let etherType { line += " " + PacketLine.name(etherType) }
        if let flow { line += " " + flow }
        if let cause { line += "  dropped: \(cause)" }
        return line
    }

    private static func name(_ type: Int) -> String {
        switch type {
        case 0x0800: return "IPv4"
        case 0x0806: return "ARP"
        case 0x86dd: return "IPv6"
        case 0x88cc: return "LLDP"
        default:
            let digits = String(type, radix: 16)
            return "0x" + String(repeating: "0", count: 4 - digits.count) + digits
        }
    }

    /// The time of the day, here.
    private static func clock(_ nanoseconds: UInt64) -> String {
        var (seconds, parts) = (time_t(nanoseconds / 1_000_000_000), tm())
        localtime_r(&seconds, &parts)
        let digits = "\(1_000_000_000 + nanoseconds % 1_000_000_000)".dropFirst()
        func two(_ n: Int32) -> String { n < 10 ? "0\(n)" : "\(n)" }
        return "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(digits)"
    }
}
