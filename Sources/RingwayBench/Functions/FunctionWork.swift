import Ringway
import RingwayLab

/// What both sides do with packets, which go from port 0 to port 1: Ringway by a function of this folder, DPDK by its
/// l3fwd. Both get the same routes or rules, and the same packets.
enum FunctionWork: String, CaseIterable {
    /// The longest of 10,000 prefixes, new MAC addresses, TTL and header checksum (RFC 1812, section 5.2).
    case route
    /// The first of 1,000 rules over addresses, ports and protocol.
    case acl

    static let (routeCount, ruleCount) = (10_000, 1000)

    /// Of `flows`.
    var flowCount: Int { self == .route ? FunctionWork.routeCount : 4096 }

    /// What `l3fwd --lookup` calls it.
    var lookup: String { self == .route ? "lpm" : "acl" }

    var text: String {
        switch self {
        case .route: "routing, \(FunctionWork.routeCount) prefixes"
        case .acl: "ACL, \(FunctionWork.ruleCount) rules"
        }
    }

    // MARK: Routes and rules

    /// /24 from 10.0.0.0 on, and in each fourth of them a /28 as well.
    static var routes: [IPv4Prefix] {
        let wide = (0..<UInt32(routeCount * 4 / 5)).map { IPv4Prefix(network($0), length: 24) }
        let narrow = (0..<UInt32(routeCount / 5)).map {
            IPv4Prefix(IPv4Address(rawValue: network(4 * $0).rawValue + 64), length: 28)
        }
        return (wide + narrow).compactMap { $0 }
    }

    private static func network(_ i: UInt32) -> IPv4Address { IPv4Address(rawValue: 10 << 24 + i << 8) }

    /// Rule `i`: from a /16, to a /24, of UDP, to a range of ports. Each flow matches one.
    static var rules: [ClassifierRule] {
        (0..<ruleCount).map { i in
            let flow = ruled(UInt32(i))
            let port = flow.destinationPort & ~63
            return ClassifierRule(
                source: .ipv4(IPv4Prefix(flow.source, length: 16)!),
                destination: .ipv4(IPv4Prefix(flow.destination, length: 24)!), protocol: .udp,
                destinationPorts: port...port + 63, action: 1)
        }
    }

    /// As l3fwd reads them: a line each.
    var peerRules: String {
        switch self {
        case .route: return FunctionWork.routes.map { "R\($0) 1\n" }.joined()
        case .acl:
            return FunctionWork.rules.map { rule in
                guard case .ipv4(let from) = rule.source, case .ipv4(let to) = rule.destination else { return "" }
                let ports = rule.destinationPorts
                return "R\(from) \(to) 0 : 65535 \(ports.lowerBound) : \(ports.upperBound) 0x11/0xff 1\n"
            }.joined()
        }
    }

    // MARK: Packets

    struct Flow {
        var source: IPv4Address
        var destination: IPv4Address
        var sourcePort: UInt16
        var destinationPort: UInt16
    }

    /// Flows that are sent in turn: a host behind each route, or one for each rule with several source ports.
    var flows: [Flow] {
        switch self {
        case .route:
            // Neighbours in the table do not follow each other.
            return (0..<FunctionWork.routeCount).map { i in
                let prefix = FunctionWork.routes[(i * 7919) % FunctionWork.routeCount]
                return Flow(
                    source: IPv4Address(192, 0, 2, 1),
                    destination: IPv4Address(rawValue: prefix.address.rawValue + 5), sourcePort: UInt16(1024 + i),
                    destinationPort: 9)
            }
        case .acl: return (0..<UInt32(flowCount)).map { FunctionWork.ruled($0 &* 619) }
        }
    }

    /// A flow that rule `i` (modulo their number) is for.
    private static func ruled(_ i: UInt32) -> Flow {
        let n = i % UInt32(ruleCount)
        return Flow(
            source: IPv4Address(rawValue: (20 + n % 50) << 24 + (n / 50) << 16 + i & 0xffff),
            destination: IPv4Address(rawValue: 10 << 24 + n << 8 + i & 0xff),
            sourcePort: UInt16(truncatingIfNeeded: 1024 + i),
            destinationPort: UInt16(1024 + (n * 37) % 40_000 & ~63 + i & 63))
    }
}
