import Control
import Glibc
import Ringway
import RingwayLab
import Synchronization
import Testing

/// Ports that are added, changed and removed while packets flow.
@Suite struct PortChangeTests {
    /// Port 0 to 1, 2 to 3, and back.
    private struct Fixed: PacketFunction {
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .port(packets.port ^ 1) }
    }

    private static func null(_ name: String, emit: Int? = nil, queues: Int = 1) -> PortOptions {
        var port = PortOptions(.null(name: name, emit: emit))
        port.queuePairs = queues
        return port
    }

    private static func guest(_ path: String, queues: Int = 1) -> PortOptions {
        var port = PortOptions(.vhostUser(path: path, isClient: false))
        port.queuePairs = queues
        return port
    }

    /// Over all ports that there were, at rest.
    private static func isConserved(_ ports: [PortSnapshot]) -> Bool {
        let came = ports.reduce(UInt64(0)) { $0 + $1.rx.packets + $1.made }
        return came
            == ports.reduce(UInt64(0)) {
                $0 + $1.tx.packets + $1.flooded + $1.consumed + $1.drops.reduce(0) { $0 + $1.count }
            }
    }

    /// Two drivers that exchange numbered frames on a thread of their own until it is ended.
    private final class Traffic: Sendable {
        private let isEnded = Atomic(false)
        private let bursts = Atomic(0)
        private let mistakes = Atomic(0)
        nonisolated(unsafe) private var thread: NamedThread?

        init(_ a: EmbeddedDriver, _ b: EmbeddedDriver) throws {
            nonisolated(unsafe) let (a, b) = (a, b)
            thread = try NamedThread("traffic") { self.run(a, b) }
        }

        private func run(_ a: EmbeddedDriver, _ b: EmbeddedDriver) {
            var n = 0
            while !isEnded.load(ordering: .relaxed) {
                let there = Frame.numbered(40, first: n, to: Frame.mac(2), from: Frame.mac(1))
                let back = Frame.numbered(40, first: n, to: Frame.mac(1), from: Frame.mac(2))
                let isRight =
                    a.send(there) && b.receive(40).map(\.frame) == there && b.send(back)
                    && a.receive(40).map(\.frame) == back
                if !isRight { mistakes.add(1, ordering: .relaxed) }
                bursts.add(1, ordering: .relaxed)
                n += 40
            }
        }

        /// Bursts so far, there and back.
        var count: Int { bursts.load(ordering: .relaxed) }

        /// Bursts of which something was missing or wrong.
        func end() -> Int {
            isEnded.store(true, ordering: .relaxed)
            thread?.join()
            return mistakes.load(ordering: .relaxed)
        }
    }

    @Test("a port is added, removed under full traffic and added again; all others go on", arguments: [1, 3])
    func hundredsOfTimes(threads: Int) throws {
        let lab = try Lab(
            ports: 2, unpinned: threads, change: { $0.ports.append(Self.null("source", emit: 60, queues: 3)) }
        ) { _ in Fixed() }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        let traffic = try Traffic(a, b)
        let path = lab.paths[0] + ".more"
        let engine = lab.engine
        var gone: [PortSnapshot] = []
        let times = rounds(300, least: 100)
        for round in 0..<times {
            #expect(try engine.add(Self.guest(path, queues: 2)) == 3)
            #expect(engine.portOptions.map(\.options.name) == lab.paths + ["null:source", path])
            var options = DriverOptions()
            (options.queuePairs, options.ringSize) = (2, 256)
            let driver = try EmbeddedDriver(path: path, options)
            // Of its own thread's bursts, and of those that other threads hand over.
            for pair in 0..<2 {
                let got = driver.receive(64, pair: pair)
                #expect(got.count >= 64 && Set(got.map(\.frame)).count == 1 && got[0].frame.count == 60)
            }
            #expect(driver.send(Frame.numbered(20, first: round)))
            if round % 3 == 0 { #expect(driver.settle()) }
            gone.append(try engine.remove(path))
            #expect(access(path, F_OK) != 0)
            #expect(throws: (any Error).self) { _ = try driver.frontEnd.stopRing(1) }
            if gone.last?.tx.packets ?? 0 < 128 { break }
        }
        #expect(traffic.end() == 0 && traffic.count > 0)
        #expect(gone.allSatisfy { $0.wasConnected && $0.tx.packets >= 128 } && gone.count == times)
        #expect(Set(gone.map(\.serial)).count == gone.count && Set(gone.map(\.place)) == [3])
        engine.stop()
        #expect(Self.isConserved(gone + engine.snapshot()), "\(engine.snapshot())")
    }

    @Test(
        "a port of a switch comes and goes: its addresses are forgotten, others' stay", arguments: [1, 2],
        [true, false])
    func switched(threads: Int, isPlain: Bool) throws {
        let lab = try Lab(ports: 2, .switch, unpinned: threads) { options in
            if isPlain { return }
            options.ports[0].switching.addresses = [MACAddress(2, 0, 0, 0, 0, 1)]
            options.ports[1].switching.isSticky = true
        }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        #expect(b.send(Frame.numbered(1, to: Frame.mac(1), from: Frame.mac(2))) && a.receive(1).count >= 1)
        #expect(a.send(Frame.numbered(1, to: Frame.mac(2), from: Frame.mac(1))) && b.receive(1).count == 1)
        let traffic = try Traffic(a, b)
        let path = lab.paths[0] + ".more"
        var gone: [PortSnapshot] = []
        for round in 0..<rounds(300, least: 50) {
            var port = Self.guest(path)
            if round % 2 == 1 && !isPlain { port.switching.limitIn = RateLimit(packets: 1_000_000) }
            let place = try lab.engine.add(port)
            let driver = try EmbeddedDriver(path: path)
            #expect(
                driver.send(Frame.numbered(5, first: round, to: Frame.mac(3), from: Frame.mac(3))) && driver.settle())
            #expect(lab.engine.macTable().filter { $0.port == place }.map(\.mac) == [MACAddress(2, 0, 0, 0, 0, 3)])
            gone.append(try lab.engine.remove(path))
            #expect(lab.engine.macTable().allSatisfy { $0.port < 2 })
        }
        #expect(traffic.end() == 0 && traffic.count > 0)
        #expect(lab.engine.macTable().map(\.port) == [0, 1])
        #expect(lab.engine.macTable().map(\.kind) == (isPlain ? [.learned, .learned] : [.permanent, .sticky]))
        #expect(Set(gone.map(\.place)) == [2])
        lab.engine.stop()
        #expect(Self.isConserved(gone + lab.engine.snapshot()))
    }

    @Test("the first port with options makes a plain switch one that looks at them")
    func becomesGuarded() throws {
        let lab = try Lab(ports: 2, .switch, unpinned: 2)
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        let path = lab.paths[0] + ".more"
        var port = Self.guest(path)
        port.switching.vlans = .access(7)
        port.switching.mirrorIn = "null:watcher"
        // Its mirror is not there: nothing has changed.
        #expect(throws: EngineError.self) { try lab.engine.add(port) }
        #expect(access(path, F_OK) != 0 && lab.engine.portOptions.count == 2)
        try lab.engine.add(Self.null("watcher"))
        #expect(try lab.engine.add(port) == 3)
        let driver = try EmbeddedDriver(path: path)
        let frames = Frame.numbered(30, to: Frame.mac(9), from: Frame.mac(3))
        #expect(driver.send(frames))
        for other in [a, b] {
            #expect(other.receive(30).map(\.frame) == frames.map { $0[..<12] + [0x81, 0, 0, 7] + $0[12...] })
        }
        #expect(eventually { lab.engine.snapshot()[2].tx.packets == 30 })
        let error = #expect(throws: EngineError.self) { try lab.engine.remove("null:watcher") }
        #expect(error?.description.contains(path) == true, "it says who names the port")
        try lab.engine.remove(path)
        try lab.engine.remove("null:watcher")
        #expect(a.send(Frame.numbered(10)) && b.receive(10).map(\.frame) == Frame.numbered(10))
        withExtendedLifetime((a, b, driver)) {}
    }

    @Test("what a port has used up of its rate stays so when another port comes", arguments: [1, 2])
    func rates(threads: Int) throws {
        let lab = try Lab(ports: 2, .switch, unpinned: threads) { options in
            // What comes of it while the test runs is nothing.
            options.ports[0].switching.limitIn = RateLimit(bytes: 1)
            options.ports[0].switching.limitIn?.byteBurst = 131_072
        }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        let frames = Frame.numbered(1000)
        #expect(a.send(frames) && a.settle())
        let passed = b.receive(1000, within: 100).count
        #expect(passed > 0 && passed < 1000 && lab.drops(0)["rate"] == UInt64(1000 - passed))
        for name in ["x", "y"] { try lab.engine.add(Self.null(name)) }
        try lab.engine.remove("null:x")
        #expect(a.send(frames) && a.settle())
        // A packet may fit that is shorter than what was left.
        #expect(b.receive(1000, within: 100).count <= 40)
        withExtendedLifetime((a, b)) {}
    }

    @Test("one name has one owner; errors change nothing")
    func owners() throws {
        let lab = try Lab(ports: 2, .switch) { $0.mostPorts = 3 }
        let path = lab.paths[0] + ".more"
        #expect(throws: EngineError.self) { try lab.engine.add(Self.guest(lab.paths[1])) }
        #expect(try lab.engine.add(Self.guest(path)) == 2)
        var error = #expect(throws: EngineError.self) { try lab.engine.add(Self.guest(path)) }
        #expect(error?.description.contains("there is such a port already") == true)
        error = #expect(throws: EngineError.self) { try lab.engine.add(Self.null("x")) }
        #expect(error?.description.contains("room for no more") == true)
        try lab.engine.remove(lab.paths[0])
        // The same socket by another path: it has an owner already.
        let folder = path.split(separator: "/").dropLast().joined(separator: "/")
        let other = "/\(folder)/./\(path.split(separator: "/").last!)"
        error = #expect(throws: EngineError.self) { try lab.engine.add(Self.guest(other)) }
        #expect(error?.description.contains("a live process serves this socket") == true)
        #expect(lab.engine.portOptions.map(\.place) == [1, 2])
        let driver = try EmbeddedDriver(path: path)
        #expect(driver.send(Frame.numbered(5)) && driver.settle())
        // A place that is free again is the next one's.
        #expect(try lab.engine.add(Self.null("x")) == 0)
        error = #expect(throws: EngineError.self) { try lab.engine.remove("null:y") }
        #expect(error?.description.hasSuffix("there are null:x, \(lab.paths[1]), \(path)") == true)
    }

    @Test("an engine may start without ports, and lose all of them", arguments: [ForwardingMode.switch, .crossconnect])
    func empty(mode: ForwardingMode) throws {
        let lab = try Lab(ports: 0, mode, unpinned: 2) { $0.mostPorts = 8 }
        let (one, other) = ("/tmp/ringway-empty-\(getpid())-\(mode).a", "/tmp/ringway-empty-\(getpid())-\(mode).b")
        for round in 0..<3 {
            #expect(try lab.engine.add(Self.guest(one)) == 0)
            #expect(try lab.engine.add(Self.guest(other)) == 1)
            let (a, b) = (try EmbeddedDriver(path: one), try EmbeddedDriver(path: other))
            let frames = Frame.numbered(50, first: round)
            #expect(a.send(frames) && b.receive(50).map(\.frame) == frames)
            #expect(try lab.engine.remove(one).rx.packets == 50 && lab.engine.remove(other).tx.packets == 50)
            #expect(lab.engine.portOptions.isEmpty && lab.engine.snapshot().isEmpty)
        }
    }

    @Test("a port that is down lets nothing pass, and comes up as it was", arguments: [1, 2])
    func down(threads: Int) throws {
        let lab = try Lab(ports: 2, .crossconnect, pairs: [2, 2], unpinned: threads)
        let (a, b) = (try lab.driver(0) { $0.queuePairs = 2 }, try lab.driver(1) { $0.queuePairs = 2 })
        for _ in 0..<3 {
            try lab.engine.setUp(false, port: lab.paths[1])
            #expect(lab.engine.snapshot().map(\.isUp) == [true, false])
            for pair in 0..<2 {
                #expect(a.send(Frame.numbered(10), pair: pair) && a.settle(pair: pair))
                #expect(b.send(Frame.numbered(10), pair: pair) && b.settle(pair: pair))
            }
            #expect(a.receive(1, within: 20).isEmpty && b.receive(1, within: 20).isEmpty)
            // A driver that comes meanwhile finds it down, too.
            try lab.engine.setUp(true, port: lab.paths[1])
            for pair in 0..<2 {
                #expect(a.send(Frame.numbered(10), pair: pair))
                #expect(b.receive(10, pair: pair).map(\.frame) == Frame.numbered(10))
                #expect(b.send(Frame.numbered(10), pair: pair))
                #expect(a.receive(10, pair: pair).map(\.frame) == Frame.numbered(10))
            }
        }
        try lab.engine.setUp(false, port: lab.paths[0])
        lab.engine.stop()
        #expect(Self.isConserved(lab.engine.snapshot()))
    }

    @Test("a driver that comes to a port that is down finds it down")
    func comesDown() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        try lab.engine.setUp(false, port: lab.paths[0])
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        #expect(a.send(Frame.numbered(10)) && a.settle() && b.send(Frame.numbered(10)) && b.settle())
        #expect(a.receive(1, within: 20).isEmpty && b.receive(1, within: 20).isEmpty)
        try lab.engine.setUp(true, port: lab.paths[0])
        #expect(a.send(Frame.numbered(10)) && b.receive(10).count == 10)
    }

    @Test("one port's budget")
    func budget() throws {
        let lab = try Lab(ports: 2, .macswap, busyloop: .sleep)
        try lab.engine.setBusyloop(.microseconds(50), port: lab.paths[0])
        let a = try lab.driver(0)
        #expect(a.send(Frame.numbered(10)) && a.receive(10).count == 10)
        #expect(throws: EngineError.self) { try lab.engine.setBusyloop(.auto, port: "nobody") }
        try lab.engine.add(Self.null("x"))
        try lab.engine.setBusyloop(.poll, port: "null:x")
    }
}
