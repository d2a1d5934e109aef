import Ringway

/// What the router is on one of its ports.
public struct Interface: Sendable {
    /// Its MAC address.
    public var mac: MACAddress
    /// Its IP address, one of the prefix.
    public var address: IPv4Address
    /// Hosts that are reached through this port without a gateway.
    public var prefix: IPv4Prefix
    /// Bytes of the longest IP packet that goes out.
    public var mtu: Int

    /// From text such as `02:00:00:00:00:01,192.0.2.1/24`; nil for anything else.
    public init?(_ text: some StringProtocol, mtu: Int = 1500) {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        guard parts.count == 2, let mac = MACAddress(String(parts[0])), !mac.isMulticast else { return nil }
        let numbers = parts[1].split(separator: "/", omittingEmptySubsequences: false)
        guard numbers.count == 2, let address = IPv4Address(String(numbers[0])), let length = Int(numbers[1]),
            let prefix = IPv4Prefix(address, length: length)
        else { return nil }
        (self.mac, self.address, self.prefix, self.mtu) = (mac, address, prefix, mtu)
    }
}

/// Where packets go, by the longest prefix of their destination: made once, then only read.
public final class Routes: Sendable {
    struct Hop: Sendable {
        var port: Int
        /// Nil: the destination itself is on the port's network.
        var gateway: IPv4Address?
    }

    /// What is wrong with a line.
    public struct SyntaxError: Error, CustomStringConvertible {
        /// From 1 on.
        public var line: Int
        /// What is wrong.
        public var text: String
        public var description: String { "line \(line): \(text)" }
    }

    private let table: PrefixTable<IPv4Address>
    private let hops: [Hop]

    /// Of text, a route a line, such as `198.51.100.0/24 192.0.2.254`: a prefix and the gateway, which must lie on the
    /// network of one of the interfaces. Those networks are routes, too. Of two routes for one prefix the last counts.
    public init(_ text: String, _ interfaces: [Interface]) throws(SyntaxError) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        var table = PrefixTable<IPv4Address>(capacity: max(1, lines.count + interfaces.count))
        var hops: [Hop] = []
        for (port, interface) in interfaces.enumerated() {
            table.insert(interface.prefix, UInt32(hops.count))
            hops.append(Hop(port: port, gateway: nil))
        }
        for (i, line) in lines.enumerated() {
            let words = line.prefix { $0 != "#" }.split(whereSeparator: \.isWhitespace)
            if words.isEmpty { continue }
            guard words.count == 2, let prefix = IPv4Prefix(String(words[0])),
                let gateway = IPv4Address(String(words[1]))
            else { throw SyntaxError(line: i + 1, text: "no prefix and gateway, such as 0.0.0.0/0 192.0.2.254") }
            guard let port = interfaces.firstIndex(where: { $0.prefix.contains(gateway) }) else {
                throw SyntaxError(line: i + 1, text: "\(gateway) lies on no interface's network")
            }
            table.insert(prefix, UInt32(hops.count))
            hops.append(Hop(port: port, gateway: gateway))
        }
        self.table = table
        self.hops = hops
    }

    func hop(to address: IPv4Address) -> Hop? { table.lookup(address).map { hops[Int($0)] } }
}
