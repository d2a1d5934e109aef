import Headers
import Tables
import Testing

/// All prefixes by length: the longest that contains an address is looked for one length after the other.
private struct Naive<Address: IPAddress> {
    private var byLength = [[Address: UInt32]](repeating: [:], count: Address.bitWidth + 1)
    private(set) var all: [IPPrefix<Address>: UInt32] = [:]

    mutating func set(_ prefix: IPPrefix<Address>, _ value: UInt32?) {
        byLength[prefix.length][prefix.address] = value
        all[prefix] = value
    }
    func lookup(_ address: Address) -> UInt32? {
        for length in stride(from: Address.bitWidth, through: 0, by: -1) where !byLength[length].isEmpty {
            if let value = byLength[length][IPPrefix(address, length: length)!.address] { return value }
        }
        return nil
    }
}

@Suite struct PrefixTableTests {
    private func random128(_ random: inout Random) -> UInt128 { UInt128(random.next()) << 64 | UInt128(random.next()) }

    /// A prefix near others: few values in each byte, so that many lie in each other and differ late.
    private func near<A: IPAddress>(_ random: inout Random, _: A.Type) -> IPPrefix<A> {
        var bits: UInt128 = 0
        for _ in 0..<16 {
            let byte = random.below(3) == 0 ? UInt128(random.below(256)) : UInt128(random.below(2) * 0x80)
            bits = bits << 8 | byte
        }
        let usual =
            A.bitWidth == 32 ? [8, 16, 17, 20, 22, 24, 24, 25, 30, 32] : [16, 29, 32, 32, 40, 48, 48, 56, 64, 128]
        let length = random.below(2) == 0 ? random.below(A.bitWidth + 1) : usual[random.below(usual.count)]
        return IPPrefix(A(aligned: bits), length: length)!
    }

    private func anywhere<A: IPAddress>(_ random: inout Random, _: A.Type) -> IPPrefix<A> {
        IPPrefix(A(aligned: random128(&random)), length: random.below(A.bitWidth + 1))!
    }

    /// Addresses at the edges of the prefix, one beyond, in it, and anywhere.
    private func addresses<A: IPAddress>(_ prefix: IPPrefix<A>, _ random: inout Random) -> [A] {
        let (first, last) = (prefix.address.aligned, prefix.last.aligned)
        let unit: UInt128 = 1 << UInt128(128 - A.bitWidth)
        let inside = first | random128(&random) & (last ^ first)
        return [first, last, first &- unit, last &+ unit, inside, random128(&random)].map { A(aligned: $0) }
    }

    private func exercise<A: IPAddress>(_ type: A.Type, seed: UInt64, capacity: Int, steps: Int, isNear: Bool) {
        var random = Random(seed: seed)
        var table = PrefixTable<A>(capacity: capacity)
        var naive = Naive<A>()
        var present: [IPPrefix<A>] = []
        var wrong = 0
        for step in 0..<steps {
            // Phases in which it grows, and in which it empties.
            let isGrowing = step * 4 / steps % 2 == 0
            let prefix: IPPrefix<A>
            if random.below(100) < (isGrowing ? 75 : 25) || present.isEmpty {
                prefix = isNear ? near(&random, type) : anywhere(&random, type)
                let value = UInt32(truncatingIfNeeded: random.next() % (1 << 31 - 1))
                let old = naive.all[prefix]
                let result = table.insert(prefix, value)
                if let old {
                    #expect(result == .replaced(old))
                    naive.set(prefix, value)
                } else if naive.all.count == capacity {
                    #expect(result == .full)
                } else {
                    #expect(result == .inserted)
                    naive.set(prefix, value)
                    present.append(prefix)
                }
            } else {
                let i = random.below(present.count)
                prefix = present[i]
                present.swapAt(i, present.count - 1)
                present.removeLast()
                #expect(table.remove(prefix) == naive.all[prefix])
                naive.set(prefix, nil)
                #expect(table.remove(prefix) == nil)
            }
            for address in addresses(prefix, &random) where table.lookup(address) != naive.lookup(address) {
                wrong += 1
            }
            if step % 500 == 499 {
                for prefix in present {
                    #expect(table.value(of: prefix) == naive.all[prefix])
                    let address = addresses(prefix, &random)[4]
                    if table.lookup(address) != naive.lookup(address) { wrong += 1 }
                }
            }
            if wrong > 0 {
                Issue.record("\(wrong) wrong after step \(step), prefix \(prefix)")
                return
            }
        }
        #expect(table.count == naive.all.count)
        var seen: [IPPrefix<A>: UInt32] = [:]
        table.forEach { seen[$0] = $1 }
        #expect(seen == naive.all)
        for prefix in present.shuffled(using: &random) {
            table.remove(prefix)
            naive.set(prefix, nil)
            for address in addresses(prefix, &random) where table.lookup(address) != naive.lookup(address) {
                wrong += 1
            }
        }
        #expect(wrong == 0 && table.count == 0 && table.nodeCount == 0)
    }

    @Test("IPv4 against all lengths one by one: prefixes in each other, added and removed", arguments: 1...4)
    func ipv4(seed: Int) {
        exercise(IPv4Address.self, seed: UInt64(seed), capacity: 3000, steps: rounds(20_000), isNear: seed != 4)
    }

    @Test("IPv6 the same", arguments: 1...4)
    func ipv6(seed: Int) {
        exercise(IPv6Address.self, seed: UInt64(seed), capacity: 3000, steps: rounds(20_000), isNear: seed != 4)
    }

    @Test("small tables, which are full often", arguments: 1...8)
    func small(seed: Int) {
        exercise(IPv4Address.self, seed: UInt64(seed), capacity: 4, steps: rounds(4_000), isNear: true)
        exercise(IPv6Address.self, seed: UInt64(seed), capacity: 4, steps: rounds(4_000), isNear: true)
    }

    @Test("the default route, networks, a host route; removals uncover what is shorter")
    func example() {
        var table = PrefixTable<IPv4Address>(capacity: 10)
        let host = IPv4Address(192, 0, 2, 129)
        let chain: [(String, UInt32)] = [
            ("0.0.0.0/0", 1), ("192.0.0.0/8", 2), ("192.0.0.0/16", 3), ("192.0.2.0/24", 4), ("192.0.2.128/25", 5),
            ("192.0.2.129/32", 6),
        ]
        #expect(table.lookup(host) == nil)
        for (text, value) in chain {
            #expect(table.insert(IPv4Prefix(text)!, value) == .inserted)
            #expect(table.lookup(host) == value)
        }
        #expect(table.lookup(IPv4Address(192, 0, 2, 128)) == 5 && table.lookup(IPv4Address(192, 0, 2, 127)) == 4)
        #expect(table.lookup(IPv4Address(192, 0, 3, 0)) == 3 && table.lookup(IPv4Address(192, 1, 0, 0)) == 2)
        #expect(table.lookup(IPv4Address(193, 0, 0, 0)) == 1 && table.lookup(.broadcast) == 1)
        for (i, (text, value)) in chain.enumerated().reversed() {
            #expect(table.remove(IPv4Prefix(text)!) == value)
            #expect(table.lookup(host) == (i == 0 ? nil : chain[i - 1].1))
        }
        // From the shortest on: the longer ones stay.
        for (text, value) in chain { table.insert(IPv4Prefix(text)!, value) }
        for (text, _) in chain.dropLast() {
            table.remove(IPv4Prefix(text)!)
            #expect(table.lookup(host) == 6)
        }
        #expect(table.lookup(IPv4Address(192, 0, 2, 128)) == nil)
        #expect(table.insert(IPv4Prefix("192.0.2.129/32")!, 0) == .replaced(6) && table.lookup(host) == 0)
        #expect(table.insert(.all, PrefixTable<IPv4Address>.largestValue) == .inserted)
        #expect(table.lookup(.any) == 0x7fff_fffe)
    }

    @Test("IPv6: nodes are put in front of others where ways part, and taken out again")
    func parting() {
        var table = PrefixTable<IPv6Address>(capacity: 10)
        func at(_ text: String) -> UInt32? { table.lookup(IPv6Address(text)!) }
        table.insert(IPv6Prefix("2001:db8:1:2::1/128")!, 1)
        #expect(table.nodeCount == 1 && at("2001:db8:1:2::1") == 1 && at("2001:db8:1:2::2") == nil)
        table.insert(IPv6Prefix("2001:db8:1:3::1/128")!, 2)
        #expect(table.nodeCount == 3 && at("2001:db8:1:2::1") == 1 && at("2001:db8:1:3::1") == 2)
        // Ends between the root and the parting.
        table.insert(IPv6Prefix("2001:db8::/32")!, 3)
        #expect(table.nodeCount == 4 && at("2001:db8:1:3::2") == 3 && at("2001:db8:ffff::") == 3)
        #expect(at("2001:db8:1:2::1") == 1 && at("2001:db9::") == nil)
        table.insert(.all, 4)
        #expect(at("2001:db9::") == 4 && at("2001:db8:1:3::2") == 3 && at("::") == 4)
        table.remove(IPv6Prefix("2001:db8::/32")!)
        #expect(table.nodeCount == 3 && at("2001:db8:1:3::2") == 4 && at("2001:db8:1:3::1") == 2)
        table.remove(IPv6Prefix("2001:db8:1:2::1/128")!)
        #expect(table.nodeCount == 1 && at("2001:db8:1:2::1") == 4 && at("2001:db8:1:3::1") == 2)
        table.remove(.all)
        table.remove(IPv6Prefix("2001:db8:1:3::1/128")!)
        #expect(table.nodeCount == 0 && at("2001:db8:1:3::1") == nil)
    }

    @Test("text of prefixes; what is none")
    func prefixes() {
        #expect(IPv4Prefix("10.0.0.0/8")?.description == "10.0.0.0/8")
        #expect(IPv4Prefix("10.1.2.3")?.description == "10.1.2.3/32")
        #expect(IPv6Prefix("2001:DB8::/32")?.description == "2001:db8::/32" && IPv6Prefix("::/0") == .all)
        for wrong in [
            "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "/8", "10.0.0.0/08", "10.0.0/8", "", "a/8",
        ] {
            #expect(IPv4Prefix(wrong) == nil, "\(wrong)")
        }
        #expect(IPv6Prefix("2001:db8::1/64") == nil && IPv6Prefix("::/129") == nil)
        let prefix = IPv4Prefix(IPv4Address(10, 1, 2, 3), length: 12)!
        #expect(prefix.address == IPv4Address(10, 0, 0, 0) && prefix.last == IPv4Address(10, 15, 255, 255))
        #expect(prefix.contains(IPv4Address(10, 15, 0, 1)) && !prefix.contains(IPv4Address(10, 16, 0, 0)))
        #expect(IPv4Prefix(.any, length: 33) == nil && IPv4Prefix.all.contains(.broadcast))
        #expect(IPv6Prefix.all.last == IPv6Address(high: .max, low: .max))
    }
}
