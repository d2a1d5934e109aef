import CPlatform
import Control
import Glibc
import Headers
import Ringway
import RingwayLab
import Synchronization
import Testing

/// Queue pairs that are given to other poll threads while packets flow.
@Suite struct AssignmentTests {
    /// Drivers that exchange numbered frames by all pairs of theirs, on a thread of its own, until it is ended.
    private final class Traffic: Sendable {
        private let isEnded = Atomic(false)
        private let bursts = Atomic(0)
        private let mistakes = Atomic(0)
        nonisolated(unsafe) private var thread: NamedThread?

        init(_ a: EmbeddedDriver, _ b: EmbeddedDriver, pairs: Int) throws {
            nonisolated(unsafe) let (a, b) = (a, b)
            thread = try NamedThread("traffic") {
                var n = 0
                while !self.isEnded.load(ordering: .relaxed) {
                    self.exchange(a, b, pairs, n, to: 2, from: 1)
                    self.exchange(b, a, pairs, n, to: 1, from: 2)
                    n += 64
                }
            }
        }

        private func exchange(
            _ a: EmbeddedDriver, _ b: EmbeddedDriver, _ pairs: Int, _ n: Int, to: UInt8, from: UInt8
        ) {
            func frames(_ pair: Int) -> [[UInt8]] {
                Frame.numbered(64, first: n + pair, to: Frame.mac(to), from: Frame.mac(from))
            }
            for pair in 0..<pairs where !a.send(frames(pair), pair: pair) { mistakes.add(1, ordering: .relaxed) }
            for pair in 0..<pairs where b.receive(64, pair: pair).map(\.frame) != frames(pair) {
                mistakes.add(1, ordering: .relaxed)
            }
            bursts.add(1, ordering: .relaxed)
        }

        /// Bursts of all pairs so far, there and back.
        var count: Int { bursts.load(ordering: .relaxed) }

        /// Bursts of a pair of which something was missing, wrong, or not in its order.
        func end() -> Int {
            isEnded.store(true, ordering: .relaxed)
            thread?.join()
            return mistakes.load(ordering: .relaxed)
        }
    }

    private static func random(_ pairs: Int, _ threads: Int) -> [Int] {
        (0..<pairs).map { _ in Int.random(in: 0..<threads) }
    }

    @Test(
        "pairs change their threads hundreds of times under traffic: nothing is lost, changed or reordered",
        arguments: [1, 2, 3, 4], [BusyloopBudget.auto, .sleep, .poll])
    func hundreds(threads: Int, budget: BusyloopBudget) throws {
        let lab = try Lab(ports: 2, .crossconnect, pairs: [4, 4], busyloop: budget, unpinned: threads)
        func driver(_ port: Int) throws -> EmbeddedDriver {
            try lab.driver(port) { ($0.queuePairs, $0.isPacked) = (4, port == 1) }
        }
        let (a, b) = (try driver(0), try driver(1))
        let traffic = try Traffic(a, b, pairs: 4)
        for round in 0..<rounds(400, least: 40) {
            let (port, wanted) = (lab.paths[round % 2], Self.random(4, threads))
            try lab.engine.setThreads(wanted, port: port)
            #expect(lab.engine.pairThreads(port: port) == wanted)
            // Some moves follow each other at once, some come in the midst of a later burst.
            let before = traffic.count
            if round % 3 == 0 { #expect(eventually { traffic.count > before }) }
        }
        #expect(traffic.end() == 0 && traffic.count > 0)
        lab.engine.stop()
        let end = lab.engine.snapshot()
        #expect(end.allSatisfy { $0.drops.isEmpty }, "\(end)")
        #expect(end[0].rx == end[1].tx && end[1].rx == end[0].tx && end[0].rx.packets > 0)
    }

    @Test("a switch's pairs change their threads, as do those of ports that are not guests'", arguments: [2, 3])
    func switched(threads: Int) throws {
        let source = PortOptions(.null(name: "source", emit: 60))
        let lab = try Lab(ports: 2, .switch, pairs: [2, 2], unpinned: threads, more: [source]) {
            // The source's frames go nowhere: they would fill the guests' rings.
            for port in 0..<3 { $0.ports[port].switching.vlans = .access(port < 2 ? 1 : 9) }
        }
        let (a, b) = (try lab.driver(0) { $0.queuePairs = 2 }, try lab.driver(1) { $0.queuePairs = 2 })
        for pair in 0..<2 {
            #expect(b.send(Frame.numbered(1, to: Frame.mac(1), from: Frame.mac(2)), pair: pair))
            #expect(a.receive(1, pair: pair).count == 1)
        }
        #expect(a.send(Frame.numbered(1, to: Frame.mac(2), from: Frame.mac(1))) && b.receive(1).count == 1)
        let traffic = try Traffic(a, b, pairs: 2)
        for round in 0..<rounds(300, least: 40) {
            let port = (lab.paths + ["null:source"])[round % 3]
            let wanted = Self.random(round % 3 == 2 ? 1 : 2, threads)
            try lab.engine.setThreads(wanted, port: port)
            #expect(lab.engine.pairThreads(port: port) == wanted)
            let (before, sent) = (traffic.count, lab.engine.snapshot()[2].rx.packets)
            if round % 3 == 2 {
                #expect(eventually { traffic.count > before && lab.engine.snapshot()[2].rx.packets > sent })
            }
        }
        #expect(traffic.end() == 0 && traffic.count > 0)
        lab.engine.stop()
        ConservationTests.expectBalance(lab.engine.snapshot(), "a switch, \(threads) threads")
    }

    @Test("a pair of which Ringway is the driver goes on with another thread, kicks and all", arguments: [true, false])
    func driverSide(sleeps: Bool) throws {
        let peer = try Lab(ports: 1, .macswap, pairs: [2])
        var port = PortOptions(.virtioUser(path: peer.paths[0], isServer: false, tap: nil))
        port.queuePairs = 2
        let lab = try Lab(
            ports: 1, .crossconnect, pairs: [2], busyloop: sleeps ? .sleep : .auto, unpinned: 3, more: [port])
        let a = try lab.driver(0) { $0.queuePairs = 2 }
        #expect(eventually { lab.engine.snapshot()[1].isConnected })
        for round in 0..<rounds(200, least: 40) {
            let wanted = Self.random(2, 3)
            try lab.engine.setThreads(wanted, port: peer.paths[0])
            #expect(lab.engine.pairThreads(port: peer.paths[0]) == wanted)
            let pair = round % 2
            #expect(a.send(Frame.numbered(30, first: round, to: Frame.mac(2), from: Frame.mac(1)), pair: pair))
            let back = Frame.numbered(30, first: round, to: Frame.mac(1), from: Frame.mac(2))
            #expect(a.receive(30, pair: pair).map(\.frame) == back, "round \(round)")
        }
    }

    @Test("a driver that comes again finds its pairs where they were assigned; without an assignment they are spread")
    func stays() throws {
        let lab = try Lab(ports: 2, .crossconnect, pairs: [2, 2], unpinned: 3) { $0.ports[1].threads = [2, 1] }
        #expect(lab.engine.pairThreads(port: lab.paths[0]) == [0, 1], "as if nobody had asked")
        #expect(lab.engine.pairThreads(port: lab.paths[1]) == [2, 1])
        for wanted in [[1], [2, 2], [0, 2, 1]] {
            // Before there is a driver, too.
            try lab.engine.setThreads(wanted, port: lab.paths[0])
            let (a, b) = (try lab.driver(0) { $0.queuePairs = 2 }, try lab.driver(1) { $0.queuePairs = 2 })
            for pair in 0..<2 {
                #expect(a.send(Frame.numbered(20), pair: pair))
                #expect(b.receive(20, pair: pair).map(\.frame) == Frame.numbered(20))
            }
            #expect(lab.engine.pairThreads(port: lab.paths[0]) == [wanted[0], wanted[1 % wanted.count]])
            #expect(lab.engine.pairThreads(port: lab.paths[1]) == [2, 1])
            #expect(lab.engine.portOptions[0].options.threads == wanted)
            for d in [a, b] { d.frontEnd.close() }
            #expect(eventually { lab.engine.snapshot().allSatisfy { !$0.isConnected } })
        }
        try lab.engine.setThreads([], port: lab.paths[0])
        #expect(lab.engine.pairThreads(port: lab.paths[0]) == [0, 1])
        // What has another's name is another port.
        try lab.engine.remove(lab.paths[1])
        var next = PortOptions(.null(name: "x", emit: nil))
        next.queuePairs = 4
        try lab.engine.add(next)
        #expect(lab.engine.pairThreads(port: "null:x") == [0, 1, 2, 0] && lab.engine.pairThreads(port: "none") == [])
    }

    @Test("a thread or a port that is not there is named, and nothing changes")
    func errors() throws {
        let lab = try Lab(ports: 1, .macswap, pairs: [2], unpinned: 2)
        var error = #expect(throws: EngineError.self) { try lab.engine.setThreads([0, 2], port: lab.paths[0]) }
        #expect(error?.description == "\(lab.paths[0]): thread 2: there is no such poll thread; 0 to 1 are")
        error = #expect(throws: EngineError.self) { try lab.engine.setThreads([-1], port: lab.paths[0]) }
        error = #expect(throws: EngineError.self) { try lab.engine.setThreads([0], port: "x") }
        #expect(error?.description.hasPrefix("x: there is no such port") == true)
        #expect(lab.engine.pairThreads(port: lab.paths[0]) == [0, 1])
        var port = PortOptions(.null(name: "y", emit: nil))
        port.threads = [5]
        #expect(throws: EngineError.self) { try lab.engine.add(port) }
        var options = EngineOptions(ports: [port], mode: .drop)
        options.unpinnedThreads = 5
        error = #expect(throws: EngineError.self) { try Engine(options, logger: Lab.logger) }
        #expect(error?.description.hasPrefix("null:y: thread 5: ") == true)
    }
}

/// What is changed of a mode while packets flow.
@Suite struct ModeChangeTests {
    @Test("a switch's port gets other VLANs, limits and addresses; what others have learned stays", arguments: [1, 2])
    func switching(threads: Int) throws {
        let lab = try Lab(ports: 3, .switch, unpinned: threads)
        let drivers = try (0..<3).map { try lab.driver($0) }
        func say(_ from: Int, to: UInt8 = 0xfe) -> [[UInt8]] {
            let frames = Frame.numbered(
                5, to: to == 0xfe ? Frame.broadcast : Frame.mac(to), from: Frame.mac(UInt8(from + 1)))
            #expect(drivers[from].send(frames) && drivers[from].settle())
            return frames
        }
        func got(_ port: Int, _ count: Int = 5) -> [[UInt8]] { drivers[port].receive(count, within: 100).map(\.frame) }
        let all = say(0)
        #expect(got(1) == all && got(2) == all)
        var switching = SwitchPort()
        switching.vlans = .access(7)
        try lab.engine.setSwitching(switching, port: lab.paths[2])
        #expect(lab.engine.portOptions[2].options.switching == switching)
        let tagged = say(2)
        #expect(got(0) == tagged.map { $0[..<12] + [0x81, 0, 0, 7] + $0[12...] } && got(1).count == 5)
        // What the plain switch has learned it does not know any more, but what others have learned since.
        #expect(lab.engine.macTable().contains { $0.port == 2 && $0.vlan == 7 })
        _ = say(1)
        #expect(got(0).count == 5 && got(2).isEmpty)
        switching.vlans = .all
        try lab.engine.setSwitching(switching, port: lab.paths[2])
        #expect(lab.engine.macTable().map(\.port) == [1], "its addresses were those of another VLAN")
        _ = say(1)
        #expect(got(0).count == 5 && got(2).count == 5)
        // A limit that comes, and goes.
        switching.limitFlooding = RateLimit(packets: 1)
        switching.limitFlooding?.packetBurst = 2
        try lab.engine.setSwitching(switching, port: lab.paths[2])
        _ = say(2)
        #expect(got(0, 3).count <= 3 && lab.drops(2)["storm"] ?? 0 >= 2)
        _ = got(1)
        try lab.engine.setSwitching(SwitchPort(), port: lab.paths[2])
        _ = say(2)
        #expect(got(0).count == 5 && got(1).count == 5)
        // What cannot be changes nothing.
        switching.mirrorIn = "nobody"
        #expect(throws: EngineError.self) { try lab.engine.setSwitching(switching, port: lab.paths[2]) }
        #expect(lab.engine.portOptions[2].options.switching == SwitchPort())
        lab.engine.stop()
        ConservationTests.expectBalance(lab.engine.snapshot(), "a port with other options")
    }

    @Test("options of a switch are no other mode's")
    func otherModes() throws {
        let lab = try Lab(ports: 1, .macswap)
        #expect(throws: EngineError.self) { try lab.engine.setSwitching(SwitchPort(), port: lab.paths[0]) }
        #expect(throws: EngineError.self) { try lab.engine.setMACAgeing(10) }
        #expect(throws: EngineError.self) { try lab.engine.setGeneratedSize(64) }
    }

    @Test("addresses age as was said last; those that are known stay", arguments: [true, false])
    func ageing(isPlain: Bool) throws {
        let lab = try Lab(ports: 2, .switch, ageing: 1, unpinned: 2) {
            if !isPlain { $0.ports[1].switching.isSticky = true }
        }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        try lab.engine.setMACAgeing(1_000_000)
        #expect(lab.engine.macAgeing == 1_000_000)
        #expect(a.send(Frame.numbered(3, to: Frame.broadcast, from: Frame.mac(1))) && b.receive(3).count == 3)
        #expect(b.send(Frame.numbered(3, to: Frame.mac(1), from: Frame.mac(2))) && a.receive(3).count == 3)
        #expect(lab.engine.macTable().map(\.port) == [0, 1])
        try lab.engine.setMACAgeing(500_000)
        #expect(lab.engine.macTable().map(\.port) == [0, 1])
        try lab.engine.setMACAgeing(1)
        // Nobody says anything: sooner or later what was learned is forgotten, and what is sticky is not.
        #expect(eventually { lab.engine.macTable().map(\.port) == (isPlain ? [] : [1]) })
        for seconds in [0, 1_000_001] { #expect(throws: EngineError.self) { try lab.engine.setMACAgeing(seconds) } }
        #expect(lab.engine.macAgeing == 1)
        withExtendedLifetime((a, b)) {}
    }

    @Test("generate goes on with frames of another size", arguments: [1, 2])
    func size(threads: Int) throws {
        let lab = try Lab(ports: 1, .generate(size: 100), pairs: [2], unpinned: threads)
        let a = try lab.driver(0) { $0.queuePairs = 2 }
        #expect(a.receive(10).allSatisfy { $0.frame.count == 100 })
        for size in [14, 1500, 60] {
            try lab.engine.setGeneratedSize(size)
            #expect(lab.engine.generatedSize == size)
            for pair in 0..<2 {
                // What was in the ring already is as it was.
                _ = a.receive(256, pair: pair)
                let got = a.receive(100, pair: pair).map(\.frame)
                #expect(got.count >= 100 && got.allSatisfy { $0 == got[0] && $0.count == size })
            }
        }
        #expect(throws: EngineError.self) { try lab.engine.setGeneratedSize(13) }
        #expect(lab.engine.generatedSize == 60)
    }
}
