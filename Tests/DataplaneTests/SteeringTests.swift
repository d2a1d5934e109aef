import Ringway
import RingwayLab
import Testing

/// Packets that a function hands to pairs of its choice, and what it hears of those that found no room.
@Suite struct SteeringTests {
    /// Each flow by one pair, whatever pairs its packets came by.
    private struct ByFlow: PacketFunction {
        let seed = HashSeed(7)

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                guard let key = FlowKey(packets[i].bytes, Layers(packets[i].bytes, frameLength: packets[i].length))
                else {
                    continue
                }
                packets.decide(i, .port(1 - packets.port, pair: Int(key.symmetricHash(seed))))
            }
            return nil
        }
    }

    /// A UDP packet of 10.0.0.1 and 10.0.0.2, there or back, with ports of flow `n`; the last byte is a number.
    private static func packet(_ n: Int, back: Bool, number: UInt8) -> [UInt8] {
        let (a, b): ([UInt8], [UInt8]) = ([10, 0, 0, 1], [10, 0, 0, 2])
        let (p, q): ([UInt8], [UInt8]) = ([4, UInt8(n)], [0, 9])
        let ip: [UInt8] = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]
        return Frame.mac(2) + Frame.mac(1) + [8, 0] + ip + (back ? b + a : a + b) + (back ? q + p : p + q)
            + [0, 26, 0, 0] + [UInt8](repeating: 0, count: 17) + [number]
    }

    @Test("the packets of a flow, both ways and by whatever pairs they came, leave by one pair", arguments: [1, 3])
    func flows(threads: Int) throws {
        let lab = try Lab(ports: 2, pairs: [4, 4], unpinned: threads) { _ in ByFlow() }
        let drivers = try (0..<2).map { port in
            let driver = try lab.driver(port) { ($0.queuePairs, $0.hasControl) = (4, true) }
            #expect(driver.command(4, 0, [4, 0]) == 0)
            return driver
        }
        /// Pairs by which the packets of flow `n` arrive when `from` sends one by each of its pairs.
        func pairs(_ n: Int, from: Int) throws -> Set<Int> {
            for pair in 0..<4 {
                #expect(drivers[from].send([SteeringTests.packet(n, back: from == 1, number: UInt8(pair))], pair: pair))
                #expect(drivers[from].settle(pair: pair))
            }
            var (seen, numbers) = (Set<Int>(), Set<UInt8>())
            for pair in 0..<4 {
                for got in drivers[1 - from].receive(4, pair: pair, within: 1) {
                    seen.insert(pair)
                    numbers.insert(got.frame[59])
                }
            }
            #expect(numbers == [0, 1, 2, 3], "flow \(n) from \(from)")
            return seen
        }
        var used = Set<Int>()
        for n in 0..<24 {
            let (there, back) = (try pairs(n, from: 0), try pairs(n, from: 1))
            #expect(there.count == 1 && there == back, "flow \(n): pairs \(there) and \(back)")
            used.formUnion(there)
        }
        #expect(used == [0, 1, 2, 3], "24 flows use all pairs")
    }

    /// Answers each packet with one of its own for port 1, and counts what was refused.
    private struct Talker: PacketFunction {
        static let counters = ["refused"]
        var known: UInt64 = 0

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for _ in 0..<packets.count { packets.originate(60)?.verdict = .port(1, pair: 1) }
            return .drop
        }
        static let tickMicroseconds = 1000
        mutating func tick(_ burst: borrowing PacketBurst) {
            burst.count(0, Int(burst.refused &- known))
            known = burst.refused
        }
    }

    @Test(
        "who sends of its own accord hears of receivers without buffers, also of those of another thread",
        arguments: [1, 2])
    func refused(threads: Int) throws {
        let lab = try Lab(ports: 2, pairs: [1, 2], unpinned: threads) { _ in Talker() }
        let sender = try lab.driver(0)
        let receiver = try lab.driver(1) { ($0.queuePairs, $0.hasControl, $0.ringSize) = (2, true, 128) }
        #expect(receiver.command(4, 0, [2, 0]) == 0)
        // The receiver never looks: its ring of 128 fills.
        #expect(sender.send(Frame.numbered(500)) && sender.settle())
        let isTold = eventually { lab.engine.functionCounters().first { $0.name == "refused" }?.count == 500 - 128 }
        #expect(isTold, "\(lab.engine.functionCounters())")
        lab.engine.stop()
        let end = lab.engine.snapshot()
        #expect(end[1].tx.packets == 128 && end[1].drops.map(\.count) == [372], "\(end[1])")
        withExtendedLifetime(receiver) {}
    }
}
