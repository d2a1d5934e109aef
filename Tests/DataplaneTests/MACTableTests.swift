import Ringway
import Testing

/// What a guest that invents addresses can do to its neighbours in the switch's table.
@Suite struct MACTableTests {
    /// Addresses of a guest's own that share `mac`'s bucket where the place is this multiplication, which is no secret.
    private func crafted(for mac: UInt64, _ count: Int) -> [UInt64] {
        func place(_ m: UInt64) -> UInt64 { (m &* 0x9e37_79b9_7f4a_7c15) >> 52 }
        var all: [UInt64] = []
        var n: UInt64 = 0x1000
        while all.count < count {
            let candidate = n << 8 | 2
            if candidate != mac && place(candidate) == place(mac) { all.append(candidate) }
            n += 1
        }
        return all
    }

    private static func mac(_ n: UInt64) -> UInt64 { n << 16 | 0x02 }

    @Test(
        "100,000 addresses of one port push out none of its neighbours', and there is room for new ones",
        arguments: [2, 3, 4, 8, 16])
    func attack(ports: Int) throws {
        for _ in 0..<rounds(20) {
            let table = MACTable(ports: ports, ageing: 300)
            let victim = MACTableTests.mac(0xabcdef)
            table.learn(victim, port: 1, seconds: 1)
            for m in crafted(for: victim, 32) { table.learn(m, port: 0, seconds: 2) }
            for n in 0..<100_000 {
                table.learn(MACTableTests.mac(0x100_0000 + UInt64(n)), port: 0, seconds: 2)
                if n % 1000 == 0 && table.find(victim, seconds: 2) != 1 {
                    Issue.record("pushed out by address \(n)")
                    return
                }
            }
            #expect(table.find(victim, seconds: 2) == 1)
            // Guests that come afterwards, at all other ports.
            for port in 1..<ports {
                for n in 0..<UInt64(8) {
                    let new = MACTableTests.mac(0x5000_0000 + UInt64(port) * 16 + n)
                    table.learn(new, port: port, seconds: 3)
                    #expect(table.find(new, seconds: 3) == port, "no room for address \(n) of port \(port)")
                }
            }
            #expect(table.find(victim, seconds: 3) == 1)
        }
    }

    @Test("several ports that invent addresses together leave their neighbour its place", arguments: [3, 4, 8])
    func together(ports: Int) throws {
        let table = MACTable(ports: ports, ageing: 300)
        let victim = MACTableTests.mac(1)
        table.learn(victim, port: 0, seconds: 1)
        for n in 0..<100_000 {
            table.learn(MACTableTests.mac(0x100_0000 + UInt64(n)), port: 1 + n % (ports - 1), seconds: 2)
        }
        #expect(table.find(victim, seconds: 2) == 0)
        for n in 0..<UInt64(100) {
            let new = MACTableTests.mac(0x5000_0000 + n)
            table.learn(new, port: 0, seconds: 3)
            #expect(table.find(new, seconds: 3) == 0)
        }
        #expect(table.find(victim, seconds: 3) == 0)
    }

    @Test("the place of an address is a secret of each table")
    func secret() {
        // Which of these a full table of one port has kept tells where they lie.
        func kept() -> [Bool] {
            let table = MACTable(ports: 1, ageing: 300)
            for n in 0..<UInt64(50_000) { table.learn(MACTableTests.mac(n), port: 0, seconds: 1) }
            return (0..<UInt64(50_000)).map { table.find(MACTableTests.mac($0), seconds: 1) == 0 }
        }
        #expect(kept() != kept())
    }

    @Test(
        "addresses that follow each other, as those of a host's guests do, do not share buckets, whatever the secret",
        arguments: [0, 8, 16, 24, 32, 40])
    func neighbours(shift: UInt64) throws {
        for n in 0..<rounds(1000) {
            let table = MACTable(ports: 16, ageing: 300)
            let all = (0..<UInt64(128)).map { 0x5254_0012_3402 & ~(0xff << shift) | $0 << shift }
            for (i, mac) in all.enumerated() { table.learn(mac, port: i % 16, seconds: 1) }
            let missing = all.filter { table.find($0, seconds: 1) < 0 }.count
            try #require(missing == 0, "table \(n): no room for \(missing) of 128 addresses")
        }
    }

    @Test("many addresses of one port are known at once, and forgotten with it")
    func uplink() {
        let table = MACTable(ports: 3, ageing: 300)
        let all = (0..<UInt64(1500)).map { MACTableTests.mac($0 * 77) }
        for m in all { table.learn(m, port: 2, seconds: 1) }
        let known = all.filter { table.find($0, seconds: 1) == 2 }.count
        #expect(known > 1480, "\(known) of 1500")
        table.forget(port: 2)
        #expect(all.allSatisfy { table.find($0, seconds: 1) == -1 })
        // Its part of the table is free again.
        for m in all { table.learn(m, port: 2, seconds: 2) }
        #expect(all.filter { table.find($0, seconds: 2) == 2 }.count == known)
    }

    @Test("what was not heard of for long is forgotten, and makes room")
    func ageing() {
        let table = MACTable(ports: 2, ageing: 10)
        for n in 0..<UInt64(20_000) { table.learn(MACTableTests.mac(n), port: 0, seconds: 1) }
        #expect(table.find(MACTableTests.mac(1), seconds: 12) == -1)
        table.learn(MACTableTests.mac(0x777777), port: 1, seconds: 12)
        #expect(table.find(MACTableTests.mac(0x777777), seconds: 22) == 1)
        #expect(table.find(MACTableTests.mac(0x777777), seconds: 23) == -1)
    }
}
