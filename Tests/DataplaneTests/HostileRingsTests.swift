import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing
import Virtio

/// What a hostile driver writes into its rings, through a port's real socket, with two healthy ports on the same poll
/// thread that look at every byte (docs/hostile-inputs.md).
@Suite(.serialized) struct HostileRingsTests {
    /// An engine whose port 0 is attacked; port 1 sends to it and gets what it sends; ports 2 and 3 are healthy.
    final class Bench {
        let lab: Lab
        let guest: HostileGuest
        let peer: EmbeddedDriver
        let healthy: HealthyPorts

        init(_ isPacked: Bool, _ features: Features = [], isRecorded: Bool = false) throws {
            lab = try Lab(ports: 4) { _ in Neighbours() }
            peer = try lab.driver(1) { $0.isPacked = isPacked }
            healthy = try HealthyPorts(lab, 2, isPacked: isPacked)
            guest = try HostileGuest(lab.paths[0], isPacked: isPacked, features: features, isRecorded: isRecorded)
        }

        /// Sends frame `n` to the guest's receive ring.
        func sendToGuest(_ n: Int) { #expect(peer.send([HostileGuest.frame(n)])) }

        func expectStop(_ kind: RingDefect.Kind, ring: Int) {
            #expect(
                eventually { lab.engine.snapshot()[0].stoppedQueues.map(\.cause) == ["\(kind)"] },
                "\(lab.engine.snapshot()[0].stoppedQueues)")
            #expect(lab.engine.snapshot()[0].stoppedQueues.first?.count == 1)
            #expect(eventually { guest.wasTold(ring) })
        }

        func dropped(_ cause: String) -> UInt64 {
            (lab.drops(0)[cause] ?? 0) + (lab.drops(1)[cause] ?? 0)
        }

        /// The healthy ports lose nothing, and the peer's next connection is served.
        func finish() {
            #expect(healthy.goOn(), "\(healthy.failure ?? "no round for ten seconds")")
            healthy.end()
            #expect(healthy.failure == nil)
            if getenv("RINGWAY_HOSTILE_LATENCY") != nil { HostileRingsTests.tell(healthy.times) }
            for port in 2...3 { #expect(lab.drops(port) == [:] && lab.engine.snapshot()[port].stoppedQueues.isEmpty) }
        }
    }

    /// Round trips of the healthy ports so far, over all tests. (The tests are serial.)
    nonisolated(unsafe) private static var times: [UInt64] = []

    private static func tell(_ new: [UInt64]) {
        times = (times + new).sorted()
        func microseconds(_ part: Double) -> UInt64 { times[Int(Double(times.count - 1) * part)] / 1000 }
        print(
            "healthy ports: \(times.count) times 32 frames there and back: p50 \(microseconds(0.5)) µs, "
                + "p99 \(microseconds(0.99)) µs, longest \(microseconds(1)) µs")
    }

    struct Case: Sendable, CustomTestStringConvertible {
        let chains: HostileChains
        let isPacked: Bool
        /// With a dirty log and an inflight region.
        let isRecorded: Bool
        var testDescription: String {
            "\(chains.testDescription), \(isPacked ? "packed" : "split")\(isRecorded ? ", recorded" : "")"
        }
        static func all(_ chains: [HostileChains]) -> [Case] {
            chains.flatMap { c in
                c.formats.flatMap { isPacked in
                    [false, true].map { Case(chains: c, isPacked: isPacked, isRecorded: $0) }
                }
            }
        }
    }

    @Test(
        "what stands in a transmit ring: it crosses, is dropped and counted, or stops its queue alone",
        arguments: Case.all(HostileChains.transmit))
    func transmit(_ c: Case) throws {
        let bench = try Bench(c.isPacked, c.chains.features, isRecorded: c.isRecorded)
        let (guest, peer) = (bench.guest, bench.peer)
        guest.offerBuffers()
        c.chains.write(guest)
        try guest.start(0)
        try guest.start(1)
        switch c.chains.end {
        case .crosses(let frames):
            #expect(peer.receive(frames.count).map(\.frame) == frames.map(HostileGuest.frame))
            // In a ring that shows nothing there is no place behind it.
            if !frames.isEmpty && frames.count < 128 { expectNext(bench) }
        case .drops(let cause):
            #expect(eventually { bench.dropped(cause) == 1 }, "\(bench.lab.drops(0)) \(bench.lab.drops(1))")
            expectNext(bench)
        case .stops(let kind, let frames):
            bench.expectStop(kind, ring: 1)
            #expect(peer.receive(frames.count).map(\.frame) == frames.map(HostileGuest.frame))
        }
        #expect(peer.pairs[0].receiveBurst() == 0, "a frame that nobody sent")
        // The port's other queue goes on.
        for n in 0..<3 { bench.sendToGuest(n) }
        #expect(eventually { guest.received.count == 3 })
        #expect(guest.received == (0..<3).map(HostileGuest.frame))
        bench.finish()
    }

    private func expectNext(_ bench: Bench) {
        bench.guest.sendAfter(77)
        #expect(bench.peer.receive(1).map(\.frame) == [HostileGuest.frame(77)])
    }

    @Test(
        "what stands in a receive ring: it is filled, costs the packet, or stops its queue alone",
        arguments: Case.all(HostileChains.receive))
    func receive(_ c: Case) throws {
        let bench = try Bench(c.isPacked, c.chains.features, isRecorded: c.isRecorded)
        let (guest, peer) = (bench.guest, bench.peer)
        c.chains.write(guest)
        try guest.start(0)
        try guest.start(1)
        bench.sendToGuest(5)
        switch c.chains.end {
        case .crosses:
            let frame = HostileGuest.frame(5)
            #expect(eventually { bench.lab.engine.snapshot()[0].tx.packets == 1 })
            #expect(guest.bytes(HostileGuest.border - 100 + 12, frame.count) == frame)
        case .drops(let cause):
            #expect(eventually { bench.dropped(cause) == 1 }, "\(bench.lab.drops(0)) \(bench.lab.drops(1))")
        case .stops(let kind, _): bench.expectStop(kind, ring: 0)
        }
        #expect(peer.settle(), "the sender's buffers come back")
        guest.sendAfter(77)
        #expect(peer.receive(1).map(\.frame) == [HostileGuest.frame(77)])
        bench.finish()
    }

    @Test("everything changes while it is read, in both rings", arguments: [false, true])
    func scribbles(isPacked: Bool) throws {
        let bench = try Bench(isPacked, [.indirectDesc, .mrgRxbuf, .eventIdx])
        var guest = bench.guest
        let end = CPlat_monotonic_ns() + UInt64(rounds(2_000, least: 1_000)) * 1_000_000
        var random = SystemRandomNumberGenerator()
        var stops = 0
        while CPlat_monotonic_ns() < end {
            for ring in 0...1 { try guest.start(ring) }
            for n in 0..<20_000 {
                guest.scribble(&random)
                if n % 100 == 0 { guest.kick(1) }
                if n % 1000 == 0 { bench.peer.send(Frame.numbered(1)) }
            }
            bench.peer.drain()
            bench.peer.pairs[0].reclaim()
            // A ring that had to stop begins again with its connection.
            guest.frontEnd.close()
            guest = try HostileGuest(
                bench.lab.paths[0], isPacked: isPacked, features: [.indirectDesc, .mrgRxbuf, .eventIdx])
            stops = bench.lab.engine.snapshot()[0].stoppedQueues.count
        }
        #expect(stops > 0, "\(bench.lab.engine.snapshot()[0].stoppedQueues)")
        bench.finish()
    }
}
