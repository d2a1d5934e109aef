import Glibc
import Ringway
import RingwayLab
import Testing

@Suite struct NullPortTests {
    private func null(_ name: String, emit: Int? = nil, queues: Int = 1) -> PortOptions {
        var port = PortOptions(.null(name: name, emit: emit))
        port.queuePairs = queues
        return port
    }

    /// At rest, over all ports: rx + made = tx + drops + flooded + consumed.
    private func isConserved(_ ports: [PortSnapshot]) -> Bool {
        let came = ports.reduce(UInt64(0)) { $0 + $1.rx.packets + $1.made }
        return came
            == ports.reduce(UInt64(0)) {
                $0 + $1.tx.packets + $1.flooded + $1.consumed + $1.drops.reduce(0) { $0 + $1.count }
            }
    }

    /// Waits, at most ten seconds.
    @Test("what is sent to a null port is counted there, and its sender gets its buffers back")
    func swallows() throws {
        let lab = try Lab(ports: 1, .crossconnect, more: [null("sink")])
        let a = try lab.driver(0)
        let frames = Frame.numbered(1000)
        #expect(a.send(frames) && a.settle())
        let counts = lab.engine.snapshot()
        #expect(counts[1].name == "null:sink" && counts[1].isConnected)
        #expect(counts[1].tx.packets == 1000 && counts[1].tx.bytes == frames.reduce(0) { $0 + UInt64($1.count) })
        #expect(counts[1].rx.packets == 0 && lab.drops(0) == [:] && lab.drops(1) == [:])
        #expect(a.receive(1, within: 50) == [])
    }

    @Test("a null port that emits sends the frame of its size, without end", arguments: [14, 64, 1518])
    func emits(size: Int) throws {
        let lab = try Lab(ports: 1, .crossconnect, more: [null("source", emit: size)])
        let a = try lab.driver(0)
        let got = a.receive(1000)
        #expect(got.count >= 1000 && Set(got.map(\.frame)).count == 1)
        #expect(got.first?.frame.count == size && got.first?.frame.prefix(12) == (Frame.mac(2) + Frame.mac(1))[...])
        // A driver that takes nothing any more: its frames go back, then they are dropped. The other way goes on.
        #expect(a.send(Frame.numbered(100)) && a.settle())
        lab.engine.stop()
        let counts = lab.engine.snapshot()
        #expect(counts[1].rx.packets >= 1000 && counts[1].rx.bytes == counts[1].rx.packets * UInt64(size))
        #expect(counts[1].tx.packets == 100 && isConserved(counts))
    }

    @Test("null ports by themselves, on one thread and from thread to thread", arguments: [1, 2])
    func alone(threads: Int) throws {
        let ports = [null("source", emit: 60, queues: 2), null("sink")]
        let lab = try Lab(ports: 0, .crossconnect, unpinned: threads, more: ports)
        #expect(eventually { lab.engine.snapshot()[1].tx.packets > 10_000 })
        lab.engine.stop()
        let counts = lab.engine.snapshot()
        #expect(counts[1].tx.packets > 10_000 && isConserved(counts), "\(counts)")
    }

    @Test("frames that cannot be are refused")
    func refused() {
        for size in [13, 9217] {
            #expect(throws: EngineError.self) { try Lab(ports: 1, .crossconnect, more: [null("x", emit: size)]) }
        }
        #expect(throws: EngineError.self) { try Lab(ports: 0, .crossconnect, more: [null("x"), null("x")]) }
    }
}
