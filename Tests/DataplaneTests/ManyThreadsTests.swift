import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

/// More poll threads than this machine may have CPUs: bursts that go to several other threads at once.
@Suite struct ManyThreadsTests {
    @Test(
        """
        bursts that other threads deliver at once, broadcast and mixed unicast: every frame is whole, at the right \
        guest
        """,
        arguments: [2, 3, 4, 8])
    func threads(_ count: Int) throws {
        // Pair 3 of the first port is thread 3's; its frames go to pair 1 of the second and pair 0 of the third.
        let pairs = [4, 2, 3]
        let lab = try Lab(ports: 4, .switch, pairs: pairs + [1], unpinned: count)
        let d = try pairs.enumerated().map { port, n in
            try lab.driver(port) {
                $0.queuePairs = n
                $0.hasControl = true
                $0.ringSize = 1024
            }
        }
        for (port, n) in pairs.enumerated() { #expect(d[port].command(4, 0, [UInt8(n), 0]) == 0) }
        func hello(_ n: Int) -> [UInt8] {
            Frame.ethernet(to: Frame.broadcast, from: Frame.mac(UInt8(n + 1)), [UInt8](repeating: 0, count: 50))
        }
        for port in 0..<3 {
            d[port].send([hello(port)])
            for other in 0..<3 where other != port { #expect(d[other].receive(1).count == 1) }
        }
        for round in 0..<rounds(20, least: 4) {
            // A port that comes and goes meanwhile.
            var fourth: EmbeddedDriver? = round % 4 == 1 ? try lab.driver(3) : nil
            for pair in 0..<4 {
                // From one pair: to the second, the third and all, by turns.
                var frames: [[UInt8]] = []
                for n in 0..<150 {
                    let to = [Frame.mac(2), Frame.mac(3), Frame.broadcast][n % 3]
                    frames += Frame.numbered(1, first: round * 1000 + n, to: to)
                }
                #expect(d[0].send(frames, pair: pair))
                if pair == 2 { fourth = nil }
                for port in 1...2 {
                    let wanted = frames.enumerated().filter { $0.offset % 3 == 2 || $0.offset % 3 == port - 1 }.map(
                        \.element)
                    let got = d[port].receive(100, pair: pair % pairs[port]).map(\.frame)
                    // In order for each destination: a burst is delivered destination by destination.
                    let isRight = [Frame.mac(UInt8(port + 1)), Frame.broadcast].allSatisfy { to in
                        got.filter { $0.starts(with: to) } == wanted.filter { $0.starts(with: to) }
                    }
                    #expect(
                        isRight && got.count == 100, "round \(round), pair \(pair), port \(port): \(got.count) frames")
                }
            }
            withExtendedLifetime(fourth) {}
        }
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:] && lab.drops(2) == [:])
    }
}
