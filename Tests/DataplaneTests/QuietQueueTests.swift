import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

/// Queues on which nothing happens for a while, among many.
@Suite(.serialized) struct QuietQueueTests {
    @Test(
        "a queue that was quiet is served soon, while another keeps its thread busy",
        arguments: [BusyloopBudget.poll, .auto, .sleep])
    func wakes(_ budget: BusyloopBudget) throws {
        let lab = try Lab(ports: 1, .macswap, pairs: [64], busyloop: budget)
        let driver = try lab.driver(0) { $0.queuePairs = 64 }
        // Longer than any budget and than a polled pair takes to be quiet.
        usleep(30_000)
        for pair in [63, 1, 40, 63, 17] {
            var busy = 0
            var received = 0
            let frame = Frame.ethernet(to: Frame.mac(2), from: Frame.mac(1), [UInt8](repeating: 7, count: 50))
            #expect(driver.send([frame], pair: pair))
            let end = CPlat_monotonic_ns() + 2_000_000_000
            while received == 0 && CPlat_monotonic_ns() < end {
                let n = driver.pairs[0].prepare(32)
                for k in 0..<n { driver.pairs[0].outgoing[k].length = 64 }
                driver.pairs[0].send(n)
                busy += driver.pairs[0].receiveBurst()
                driver.pairs[0].giveBack()
                received += driver.pairs[pair].receiveBurst()
                driver.pairs[pair].giveBack()
            }
            #expect(received == 1, "pair \(pair)")
            #expect(driver.settle(pair: pair))
            // The busy one has not starved meanwhile, nor afterwards.
            let more = CPlat_monotonic_ns() + 2_000_000_000
            while busy == 0 && CPlat_monotonic_ns() < more {
                busy += driver.pairs[0].receiveBurst()
                driver.pairs[0].giveBack()
            }
            #expect(busy > 0)
        }
    }

    @Test("pairs of a thread come and go in any order")
    func lists() throws {
        let lab = try Lab(ports: 3, .macswap, pairs: [8, 8, 8], busyloop: .poll)
        var random = SystemRandomNumberGenerator()
        var drivers: [Int: EmbeddedDriver] = [:]
        for round in 0..<12 {
            let port = round % 3
            try drivers[port]?.stop()
            // The connection ends with the object; only then is the next one served.
            drivers[port] = nil
            drivers[port] = try lab.driver(port) { $0.queuePairs = 8 }
            if round % 2 == 0 { usleep(3_000) }
            for (_, driver) in drivers {
                for pair in (0..<8).shuffled(using: &random) {
                    let frames = Frame.numbered(5, first: pair)
                    #expect(driver.send(frames, pair: pair))
                    #expect(driver.receive(5, pair: pair).count == 5)
                }
            }
        }
    }
}
