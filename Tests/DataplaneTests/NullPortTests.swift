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

    @Test("what a null port sends changes while it sends, on one thread and from thread to thread", arguments: [1, 2])
    func changes(threads: Int) throws {
        let lab = try Lab(
            ports: 1, .crossconnect, pairs: [2], unpinned: threads, more: [null("source", emit: 60, queues: 2)])
        let a = try lab.driver(0) { $0.queuePairs = 2 }
        let name = "null:source"
        for size in [1514, 14, nil, 1500] {
            // Some are on their way at each change, and packets go the other way, too.
            #expect(a.receive(10).count >= 10)
            try lab.engine.setEmit(size, port: name)
            #expect(lab.engine.portOptions[1].options.kind == .null(name: "source", emit: size))
            #expect(a.send(Frame.numbered(10)))
            for pair in 0..<2 {
                // What was in the ring already is as it was.
                _ = a.receive(2048, pair: pair, within: 200)
                let got = a.receive(100, pair: pair, within: size == nil ? 50 : 10_000).map(\.frame)
                #expect(got.count >= (size == nil ? 0 : 100) && got.allSatisfy { $0 == got[0] && $0.count == size })
            }
            if size == nil { try lab.engine.setEmit(60, port: name) }
        }
        for size in [13, 9217] { #expect(throws: EngineError.self) { try lab.engine.setEmit(size, port: name) } }
        #expect(throws: EngineError.self) { try lab.engine.setEmit(60, port: lab.paths[0]) }
        #expect(lab.engine.portOptions[1].options.kind == .null(name: "source", emit: 1500))
        lab.engine.stop()
        #expect(isConserved(lab.engine.snapshot()))
    }

    @Test("frames change under full traffic to other ports' threads, and nobody reads an old one", arguments: [1, 2])
    func underTraffic(threads: Int) throws {
        let lab = try Lab(
            ports: 0, .crossconnect, unpinned: threads, more: [null("a", emit: 60, queues: 2), null("b")])
        for round in 0..<200 {
            try lab.engine.setEmit(round % 5 == 4 ? nil : 60 + round * 40, port: "null:a")
            if round % 3 == 0 { try lab.engine.setEmit(round % 2 == 0 ? 9216 : nil, port: "null:b") }
        }
        try lab.engine.setEmit(nil, port: "null:a")
        try lab.engine.setEmit(nil, port: "null:b")
        let counts = lab.engine.snapshot()
        #expect(counts[1].tx.packets > 0 && counts[0].tx.packets > 0)
        // Sleeping threads begin again.
        try lab.engine.setEmit(64, port: "null:a")
        #expect(eventually { lab.engine.snapshot()[1].tx.packets > counts[1].tx.packets + 1000 })
        lab.engine.stop()
        #expect(isConserved(lab.engine.snapshot()))
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
