import Ringway

/// Where packets of port 0 leave, for both functions.
private let out = 1
private var nextHop: MACAddress { MACAddress(2, 0, 0, 0, 0, 1) }
private var ownMAC: MACAddress { MACAddress(2, 0, 0, 0, 0, 0x11) }

/// Does what l3fwd does: looks the longest prefix up, writes new MAC addresses, takes one from the TTL.
struct BenchRouter: PacketFunction, ~Copyable {
    static var frontBytes: Int { 34 }
    static var dropCauses: [String] { ["not to be routed", "no route"] }

    private var routes = PrefixTable<IPv4Address>(capacity: FunctionWork.routeCount)

    init() { for prefix in FunctionWork.routes { routes.insert(prefix, UInt32(out)) } }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            guard let ethernet = Ethernet(packet.bytes), ethernet.etherType == .ipv4,
                let ip = IPv4(packet.bytes, at: Ethernet.size), ip.totalLength >= 20, ip.decrementTimeToLive()
            else {
                packets.drop(i, because: 0)
                continue
            }
            guard let port = routes.lookup(ip.destinationAddress) else {
                packets.drop(i, because: 1)
                continue
            }
            (ethernet.destination, ethernet.source) = (nextHop, ownMAC)
            packet.verdict = .port(Int(port))
        }
        return nil
    }
}

/// Routes as the first rule that matches says, as l3fwd does with an ACL.
struct BenchFirewall: PacketFunction, ~Copyable {
    static var frontBytes: Int { 64 }
    static var dropCauses: [String] { ["not to be routed", "no rule"] }

    private let rules: Classifier

    init() throws(ClassifierError) { rules = try Classifier(FunctionWork.rules) }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            let layers = Layers(packet.bytes, frameLength: packet.length)
            guard let ethernet = Ethernet(packet.bytes), let flow = FlowKey(packet.bytes, layers), layers.isIPv4,
                let ip = IPv4(packet.bytes, at: Ethernet.size), ip.decrementTimeToLive()
            else {
                packets.drop(i, because: 0)
                continue
            }
            guard let match = rules.match(flow) else {
                packets.drop(i, because: 1)
                continue
            }
            (ethernet.destination, ethernet.source) = (nextHop, ownMAC)
            packet.verdict = .port(Int(match.action))
        }
        return nil
    }
}
