import Headers
import Tables
import Testing

@Suite struct ClassifierTests {
    /// The first rule that matches by itself.
    private func linear(_ rules: [ClassifierRule], _ key: FlowKey) -> Classifier.Match? {
        guard let i = rules.firstIndex(where: { $0.matches(key) }) else { return nil }
        return ClassifierTests.match(i, rules[i].action)
    }

    private static func match(_ rule: Int, _ action: UInt32) -> Classifier.Match? {
        Classifier.Match(rule: rule, action: action)
    }

    private struct Maker {
        var random: Random
        /// What rules are about: few places, so that they overlap.
        let isNarrow: Bool

        mutating func v4() -> IPv4Address {
            if isNarrow && random.below(8) != 0 {
                return IPv4Address(10, UInt8(random.below(2)), UInt8(random.below(4)), UInt8(random.below(8)))
            }
            return IPv4Address(rawValue: UInt32(truncatingIfNeeded: random.next()))
        }
        mutating func v6() -> IPv6Address {
            if isNarrow && random.below(8) != 0 {
                let high = 0x2001_0db8_0000_0000 + UInt64(random.below(4)) << 16 + UInt64(random.below(4))
                return IPv6Address(high: high, low: UInt64(random.below(8)))
            }
            return IPv6Address(high: random.next(), low: random.next())
        }
        mutating func port() -> UInt16 {
            isNarrow && random.below(8) != 0 ? UInt16(random.below(40)) : UInt16(truncatingIfNeeded: random.next())
        }
        mutating func ports() -> ClosedRange<UInt16> {
            switch random.below(4) {
            case 0, 1: return 0...0xffff
            case 2:
                let one = port()
                return one...one
            default:
                let (a, b) = (port(), port())
                return min(a, b)...max(a, b)
            }
        }
        mutating func proto() -> IPProtocol {
            let usual: [IPProtocol] = [.tcp, .udp, .icmp, .icmpV6]
            return random.below(8) == 0 ? IPProtocol(rawValue: UInt8(random.below(256))) : usual[random.below(4)]
        }
        mutating func addresses(isIPv4: Bool) -> ClassifierRule.Addresses {
            if random.below(3) == 0 { return .any }
            let isIPv4 = random.below(50) == 0 ? !isIPv4 : isIPv4
            if isIPv4 {
                return .ipv4(IPv4Prefix(v4(), length: [8, 16, 22, 24, 30, 31, 32, random.below(33)][random.below(8)])!)
            }
            return .ipv6(IPv6Prefix(v6(), length: [32, 48, 64, 126, 127, 128, random.below(129)][random.below(7)])!)
        }
        mutating func rule(_ action: UInt32) -> ClassifierRule {
            let isIPv4 = random.below(2) == 0
            return ClassifierRule(
                source: addresses(isIPv4: isIPv4), destination: addresses(isIPv4: isIPv4),
                protocol: random.below(3) == 0 ? nil : proto(), sourcePorts: ports(), destinationPorts: ports(),
                action: action)
        }
        /// A flow at an edge of a rule, or beside it.
        mutating func key(near rules: [ClassifierRule]) -> FlowKey {
            guard !rules.isEmpty, random.below(4) != 0 else { return key() }
            let rule = rules[random.below(rules.count)]
            func edge(_ range: ClosedRange<UInt16>) -> UInt16 {
                [range.lowerBound, range.upperBound, range.lowerBound &- 1, range.upperBound &+ 1][random.below(4)]
            }
            let proto = rule.protocol ?? proto()
            let (from, to) = (edge(rule.sourcePorts), edge(rule.destinationPorts))
            func end<A: IPAddress>(_ prefix: IPPrefix<A>?, _ other: A) -> A {
                guard let prefix else { return other }
                let unit: UInt128 = 1 << UInt128(128 - A.bitWidth)
                let (first, last) = (prefix.address.aligned, prefix.last.aligned)
                let near = [first, last, first &- unit, last &+ unit, first, last]
                return A(aligned: near[random.below(6)])
            }
            switch (rule.source, rule.destination) {
            case (.ipv6(let a), .ipv6(let b)):
                return FlowKey(
                    source: end(a, v6()), destination: end(b, v6()), protocol: proto, sourcePort: from,
                    destinationPort: to)
            case (.ipv6(let a), _):
                return FlowKey(
                    source: end(a, v6()), destination: v6(), protocol: proto, sourcePort: from, destinationPort: to)
            case (_, .ipv6(let b)):
                return FlowKey(
                    source: v6(), destination: end(b, v6()), protocol: proto, sourcePort: from, destinationPort: to)
            case (.ipv4(let a), .ipv4(let b)):
                return FlowKey(
                    source: end(a, v4()), destination: end(b, v4()), protocol: proto, sourcePort: from,
                    destinationPort: to)
            case (.ipv4(let a), .any):
                return FlowKey(
                    source: end(a, v4()), destination: v4(), protocol: proto, sourcePort: from, destinationPort: to)
            case (.any, .ipv4(let b)):
                return FlowKey(
                    source: v4(), destination: end(b, v4()), protocol: proto, sourcePort: from, destinationPort: to)
            case (.any, .any):
                return FlowKey(source: v4(), destination: v4(), protocol: proto, sourcePort: from, destinationPort: to)
            }
        }
        mutating func key() -> FlowKey {
            if random.below(2) == 0 {
                return FlowKey(
                    source: v4(), destination: v4(), protocol: proto(), sourcePort: port(), destinationPort: port())
            }
            return FlowKey(
                source: v6(), destination: v6(), protocol: proto(), sourcePort: port(), destinationPort: port())
        }
    }

    @Test(
        "against the rules one by one: random rules that overlap, flows at their edges",
        arguments: [0, 1, 2, 63, 64, 65, 200, 1000, 1000, 2000])
    func reference(count: Int) throws {
        for isNarrow in [true, false] {
            var maker = Maker(random: Random(seed: UInt64(count)), isNarrow: isNarrow)
            let rules = (0..<count).map { maker.rule(UInt32($0) * 7) }
            let classifier = try Classifier(rules)
            #expect(classifier.count == count)
            var (matched, wrong) = (0, 0)
            for _ in 0..<rounds(20_000) {
                let key = maker.key(near: rules)
                let expected = linear(rules, key)
                if expected != nil { matched += 1 }
                if classifier.match(key) != expected { wrong += 1 }
            }
            #expect(wrong == 0)
            #expect(count < 63 || matched > 0)
        }
    }

    @Test("4,096 rules of which each has bounds of its own; one more is refused")
    func most() throws {
        var maker = Maker(random: Random(seed: 9), isNarrow: false)
        let rules = (0..<4096).map { n -> ClassifierRule in
            let from = IPv4Prefix(maker.v4(), length: 31)!
            let to = IPv6Prefix(maker.v6(), length: 127)!
            return n % 2 == 0
                ? ClassifierRule(source: .ipv4(from), sourcePorts: UInt16(n * 8)...UInt16(n * 8 + 5), action: UInt32(n))
                : ClassifierRule(destination: .ipv6(to), destinationPorts: UInt16(n * 8)...UInt16(n * 8 + 5), action: 0)
        }
        let classifier = try Classifier(rules)
        var wrong = 0
        for _ in 0..<rounds(4_000) {
            let key = maker.key(near: rules)
            if classifier.match(key) != linear(rules, key) { wrong += 1 }
        }
        #expect(wrong == 0)
        var refused: ClassifierError?
        do { _ = try Classifier(rules + [rules[0]]) } catch { refused = error }
        #expect(refused == .tooManyRules(4097))
    }

    @Test("a small firewall, rule by rule")
    func example() throws {
        let rules = [
            ClassifierRule(
                destination: .ipv4(IPv4Prefix("192.0.2.10")!), protocol: .tcp, destinationPorts: 443...443, action: 1),
            ClassifierRule(
                source: .ipv4(IPv4Prefix("10.0.0.0/8")!), protocol: .tcp, destinationPorts: 22...22, action: 1),
            ClassifierRule(source: .ipv6(IPv6Prefix("fe80::/10")!), protocol: .icmpV6, action: 1),
            ClassifierRule(source: .ipv4(IPv4Prefix("10.0.0.0/8")!), action: 2),
            ClassifierRule(action: 3),
        ]
        let classifier = try Classifier(rules)
        func tcp(_ from: String, _ to: String, _ port: UInt16) -> Classifier.Match? {
            classifier.match(
                FlowKey(
                    source: IPv4Address(from)!, destination: IPv4Address(to)!, protocol: .tcp, sourcePort: 50_000,
                    destinationPort: port))
        }
        #expect(tcp("198.51.100.1", "192.0.2.10", 443) == ClassifierTests.match(0, 1))
        #expect(tcp("10.9.9.9", "192.0.2.10", 443) == ClassifierTests.match(0, 1))
        #expect(tcp("10.9.9.9", "192.0.2.11", 22) == ClassifierTests.match(1, 1))
        #expect(tcp("10.9.9.9", "192.0.2.11", 23) == ClassifierTests.match(3, 2))
        #expect(tcp("11.0.0.0", "192.0.2.11", 22) == ClassifierTests.match(4, 3))
        let v6 = FlowKey(source: IPv6Address("febf::1")!, destination: IPv6Address("ff02::1")!, protocol: .icmpV6)
        #expect(classifier.match(v6) == ClassifierTests.match(2, 1))
        #expect(classifier.match(v6.reversed) == ClassifierTests.match(4, 3))
        #expect(try Classifier([]).match(v6) == nil)
        #expect(ClassifierRule.Addresses("any") == .any && ClassifierRule.Addresses("10.0.0.0/8") == rules[1].source)
        #expect(ClassifierRule.Addresses("fe80::/10") == rules[2].source && ClassifierRule.Addresses("ten") == nil)
    }
}
