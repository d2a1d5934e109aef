import FirewallFunction
import Foundation
import Ringway
import Testing

@Suite struct FirewallTests {
    static let rules = """
        deny  any  from 192.0.2.66 to any
        allow tcp  from 192.0.2.0/24 to any port 80-443  # the web
        allow udp  from any to any port 53

        allow tcp  from any to 2001:db8::/32 port 22
        """

    static func harness(_ text: String = rules) throws -> FunctionHarness<Firewall> {
        FunctionHarness(Firewall(try Rules(text)), ports: 2)
    }

    static let ethernet: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]

    /// A TCP or UDP packet of IPv4, its header's checksum left out: the firewall looks at none.
    static func v4(_ from: IPv4Address, _ to: IPv4Address, _ proto: UInt8, port: UInt16, fragment: UInt16 = 0)
        -> [UInt8]
    {
        let transport: [UInt8] = proto == 6 ? tcp(port) : udp(port)
        let total = UInt16(20 + transport.count)
        var frame = ethernet + [8, 0, 0x45, 0] + bytes(total) + [0, 1] + bytes(fragment) + [64, proto, 0, 0]
        frame += bytes(from.rawValue) + bytes(to.rawValue) + transport
        return frame
    }

    static func v6(_ to: IPv6Address, extensions: [UInt8] = [], next: UInt8 = 6, port: UInt16) -> [UInt8] {
        let payload = extensions + tcp(port)
        var frame = ethernet + [0x86, 0xdd, 0x60, 0, 0, 0] + bytes(UInt16(payload.count)) + [next, 64]
        frame += bytes(UInt64(0x2001_0db8_0000_0001)) + bytes(UInt64(9)) + bytes(to.high) + bytes(to.low)
        return frame + payload
    }

    static func tcp(_ port: UInt16) -> [UInt8] {
        [0x9c, 0x40] + bytes(port) + [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]
    }
    static func udp(_ port: UInt16) -> [UInt8] { [0x9c, 0x40] + bytes(port) + [0, 8, 0, 0] }
    static func bytes(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    static let host = IPv4Address(192, 0, 2, 7)
    static let server = IPv4Address(198, 51, 100, 1)

    @Test("rules decide by addresses, protocol and ports; causes and counters tell")
    func decides() throws {
        let harness = try FirewallTests.harness()
        let frames = [
            FirewallTests.v4(FirewallTests.host, FirewallTests.server, 6, port: 443),
            FirewallTests.v4(FirewallTests.host, FirewallTests.server, 6, port: 444),
            FirewallTests.v4(IPv4Address(192, 0, 2, 66), FirewallTests.server, 6, port: 443),
            FirewallTests.v4(FirewallTests.server, FirewallTests.host, 17, port: 53),
            FirewallTests.v4(FirewallTests.server, FirewallTests.host, 6, port: 53),
            FirewallTests.v6(IPv6Address("2001:db8::5")!, port: 22),
            FirewallTests.v6(IPv6Address("2001:db9::5")!, port: 22),
        ]
        let out = harness.process(frames, from: 0)
        #expect(out.map(\.ports) == [[1], [], [], [1], [], [1], []])
        let none = "no rule allows it"
        #expect(out.map(\.cause) == [nil, none, "denied by a rule", nil, none, nil, none])
        #expect(out.map(\.frame) == frames)
        #expect(harness.counter("allowed packets") == 3 && harness.counter("denied packets") == 4)
        #expect(harness.counter("allowed bytes") == UInt64(frames[0].count + frames[3].count + frames[5].count))
        #expect(harness.process([frames[0]], from: 1)[0].ports == [0])
    }

    @Test("VLAN tags and extension headers are looked behind, also beyond the front that is read at first")
    func behind() throws {
        let harness = try FirewallTests.harness()
        var tagged = FirewallTests.v4(FirewallTests.host, FirewallTests.server, 6, port: 80)
        tagged.insert(contentsOf: [0x81, 0, 0, 5], at: 12)
        // Destination options of 128 bytes, then TCP.
        let options: [UInt8] = [6, 15, 1, 124] + [UInt8](repeating: 0, count: 124)
        let far = FirewallTests.v6(IPv6Address("2001:db8::5")!, extensions: options, next: 60, port: 22)
        let closed = FirewallTests.v6(IPv6Address("2001:db8::5")!, extensions: options, next: 60, port: 23)
        let out = harness.process([tagged, far, closed], from: 0, pieces: [20, 40])
        #expect(out.map(\.ports) == [[1], [1], []])
    }

    @Test("ARP passes; fragments and other protocols do not")
    func others() throws {
        let harness = try FirewallTests.harness()
        let arp = FirewallTests.ethernet + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + [UInt8](repeating: 0, count: 38)
        let lldp = FirewallTests.ethernet + [0x88, 0xcc] + [UInt8](repeating: 0, count: 46)
        let frames =
            [0x2000, 0x2001, 0x0001].map {
                FirewallTests.v4(FirewallTests.host, FirewallTests.server, 6, port: 443, fragment: $0)
            } + [arp, lldp]
        let out = harness.process(frames, from: 1)
        #expect(out.map(\.cause) == ["fragment", "fragment", "fragment", nil, "neither IP nor ARP"])
        #expect(out[3].ports == [0] && harness.counter("ARP packets") == 1)
    }

    @Test("each frame cut at each length, in one piece and in several: none passes, nothing traps")
    func truncated() throws {
        let whole = [
            FirewallTests.v4(FirewallTests.host, FirewallTests.server, 6, port: 443),
            FirewallTests.v6(IPv6Address("2001:db8::5")!, port: 22),
        ]
        for frame in whole {
            let cut = (0..<frame.count).map { Array(frame[..<$0]) }
            for pieces in [[], [1, 1, 1], [15, 20]] {
                #expect(try FirewallTests.harness().process(cut, from: 0, pieces: pieces).allSatisfy(\.ports.isEmpty))
            }
        }
    }

    @Test("new rules count from the next burst on")
    func reload() throws {
        let harness = try FirewallTests.harness()
        let frame = FirewallTests.v4(FirewallTests.host, FirewallTests.server, 6, port: 443)
        #expect(harness.process([frame], from: 0)[0].ports == [1])
        #expect(harness.send(.reload(try Rules("deny any from any to any"))) == 1)
        #expect(harness.process([frame], from: 0)[0].cause == "denied by a rule")
        #expect(harness.send(.reload(try Rules(""))) == 0)
        #expect(harness.process([frame], from: 0)[0].cause == "no rule allows it")
    }

    static let wrong = [
        ("permit any from any to any", "line 1: 'permit' where 'allow' or 'deny' stands"),
        ("# one\n\nallow", "line 3: '' is no protocol: any, tcp, udp, icmp, icmp6, sctp or a number"),
        ("allow tcp to any", "line 1: 'to' where 'from' stands"),
        ("allow tcp from any", "line 1: '' where 'to' stands"),
        ("allow tcp from 192.0.2.1/24 to any", "line 1: '192.0.2.1/24' is no address"),
        ("allow any from any to any port 80", "line 1: a port, but no protocol that has ports"),
        ("allow tcp from any to any port 90-80", "line 1: '90-80' is no port"),
        ("allow tcp from any to any port 80-", "line 1: '80-' is no port"),
        ("allow tcp from any to any port", "line 1: '' is no port"),
        ("allow tcp from any to any port 80 now", "line 1: 'now' where the line ends"),
    ]

    @Test("text that is no rule is refused with its line", arguments: wrong)
    func syntax(_ text: String, _ message: String) {
        let error = #expect(throws: Rules.SyntaxError.self) { try Rules(text) }
        #expect(error.map { "\($0)".hasPrefix(message) } == true, "\(error.map { "\($0)" } ?? "")")
    }

    @Test("the rules of the README are read")
    func file() throws {
        let path = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../Firewall/rules.txt").standardized
            .path
        #expect(try Rules(String(contentsOfFile: path, encoding: .utf8)).count == 8)
    }
}
