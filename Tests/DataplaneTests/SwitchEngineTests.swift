import Foundation
import Ringway
import RingwayLab
import Testing

/// A switch with options in an engine.
@Suite struct SwitchEngineTests {
    private typealias B = SwitchBench

    private static func tagged(_ frames: [[UInt8]], _ vlan: UInt8) -> [[UInt8]] {
        frames.map { $0[..<12] + [0x81, 0, 0, vlan] + $0[12...] }
    }

    @Test(
        "access and trunk ports on several threads: each frame arrives once, in the form of its port",
        arguments: [1, 2, 3])
    func vlans(threads: Int) throws {
        let lab = try Lab(ports: 4, .switch, pairs: [2, 2, 2, 2], unpinned: threads) { options in
            options.ports[0].switching.vlans = .access(10)
            options.ports[1].switching.vlans = .access(10)
            options.ports[2].switching.vlans = .trunk([10, 20], native: nil)
            options.ports[3].switching.vlans = .access(20)
        }
        let drivers = try (0..<4).map { try lab.driver($0) }
        let frames = Frame.numbered(200, to: Frame.broadcast)
        #expect(drivers[0].send(frames))
        #expect(drivers[1].receive(200).map(\.frame) == frames)
        #expect(drivers[2].receive(200).map(\.frame) == SwitchEngineTests.tagged(frames, 10))
        let back = Frame.numbered(150, to: Frame.mac(1), from: Frame.mac(3))
        #expect(drivers[2].send(SwitchEngineTests.tagged(back, 10)))
        #expect(drivers[0].receive(150).map(\.frame) == back)
        #expect(drivers[2].send(SwitchEngineTests.tagged(back, 20)))
        #expect(drivers[3].receive(150).map(\.frame) == back, "there nobody has that address")
        #expect(drivers[2].send(SwitchEngineTests.tagged(back, 30)) && drivers[2].settle())
        #expect(lab.drops(2) == ["wrong VLAN": 150])
        #expect(drivers[0].receive(1, within: 20).isEmpty && drivers[1].receive(1, within: 20).isEmpty)
        withExtendedLifetime(drivers) {}
    }

    @Test("the table is listed and cleared while packets flow, of the plain switch, too", arguments: [true, false])
    func table(isPlain: Bool) throws {
        let lab = try Lab(ports: 3, .switch, unpinned: 2) { options in
            if isPlain { return }
            options.ports[0].switching.addresses = [MACAddress(2, 0, 0, 0, 0, 99)]
            options.ports[1].switching.vlans = .access(7)
            options.ports[1].switching.isSticky = true
            options.ports[2].switching.vlans = .trunk(nil, native: 7)
        }
        let drivers = try (0..<3).map { try lab.driver($0) }
        #expect(lab.engine.macTable().map(\.kind) == (isPlain ? [] : [.permanent]))
        for port in 0..<3 {
            #expect(drivers[port].send(Frame.numbered(1, to: Frame.broadcast, from: Frame.mac(UInt8(port + 1)))))
            #expect(drivers[port].settle())
        }
        #expect(drivers[2].receive(isPlain ? 2 : 1).count == (isPlain ? 2 : 1))
        var table = lab.engine.macTable().filter { $0.kind != .permanent }
        #expect(
            table.map(\.port) == [0, 1, 2] && table.map(\.mac.description) == (1...3).map { "02:00:00:00:00:0\($0)" })
        #expect(table.map(\.vlan) == (isPlain ? [nil, nil, nil] : [0, 7, 7]) && table.allSatisfy { $0.age <= 1 })
        #expect(table.map(\.kind) == [.learned, isPlain ? .learned : .sticky, .learned])
        #expect(lab.engine.clearAddresses(port: 2) == 1 && lab.engine.clearAddresses(port: 2) == 0)
        #expect(lab.engine.clearAddresses(vlan: 7) == (isPlain ? 0 : 1))
        #expect(lab.engine.clearAddresses() == (isPlain ? 2 : 1))
        table = lab.engine.macTable()
        #expect(table.map(\.mac.description) == (isPlain ? [] : ["02:00:00:00:00:63"]))
        // What was there is flooded again.
        let sender = isPlain ? 0 : 1
        #expect(drivers[sender].send(Frame.numbered(1, to: Frame.mac(3), from: Frame.mac(UInt8(sender + 1)))))
        #expect(drivers[2].receive(1).count == 1)
        withExtendedLifetime(drivers) {}
        lab.engine.stop()
        #expect(lab.engine.macTable().isEmpty && lab.engine.clearAddresses() == 0)
    }

    @Test("who goes takes what was learned along; what is sticky or static stays")
    func gone() throws {
        let lab = try Lab(ports: 3, .switch) { options in
            options.ports[0].switching.isSticky = true
            options.ports[1].switching.addresses = [MACAddress(2, 0, 0, 0, 0, 99)]
        }
        do {
            let drivers = try (0..<3).map { try lab.driver($0) }
            for port in 0..<3 {
                let frames = Frame.numbered(1, to: Frame.broadcast, from: Frame.mac(UInt8(port + 1)))
                #expect(drivers[port].send(frames) && drivers[port].settle())
            }
            #expect(lab.engine.macTable().count == 4)
            for driver in drivers { try driver.stop() }
        }
        #expect(eventually { lab.engine.macTable().map(\.kind) == [.sticky, .permanent] })
    }

    @Test("a mirror port gets copies of both directions, and is heard of by nobody")
    func mirror() throws {
        let lab = try Lab(ports: 3, .switch, unpinned: 2) { options in
            options.ports[0].switching.mirrorIn = options.ports[2].name
            options.ports[0].switching.mirrorOut = options.ports[2].name
        }
        let drivers = try (0..<3).map { try lab.driver($0) }
        let there = Frame.numbered(100, to: Frame.mac(2), from: Frame.mac(1))
        #expect(drivers[0].send(there))
        #expect(drivers[1].receive(100).map(\.frame) == there && drivers[2].receive(100).map(\.frame) == there)
        let back = Frame.numbered(100, to: Frame.mac(1), from: Frame.mac(2))
        #expect(drivers[1].send(back))
        #expect(drivers[0].receive(100).map(\.frame) == back && drivers[2].receive(100).map(\.frame) == back)
        #expect(drivers[2].send(there) && drivers[2].settle())
        #expect(lab.drops(2) == ["mirror port": 100])
        withExtendedLifetime(drivers) {}
        lab.engine.stop()
        ConservationTests.expectBalance(lab.engine.snapshot(), "mirror")
    }

    @Test("one rate for the queue pairs of a port on several threads")
    func rate() throws {
        let lab = try Lab(ports: 2, .switch, pairs: [4, 4], unpinned: 4) { options in
            options.ports[0].switching.limitIn = RateLimit(packets: 1)
            options.ports[0].switching.limitIn?.packetBurst = 640
        }
        let a = try lab.driver(0) {
            $0.queuePairs = 4
            $0.hasControl = true
        }
        let b = try lab.driver(1)
        #expect(a.command(4, 0, [4, 0]) == 0)
        for pair in 0..<4 { #expect(a.send(Frame.numbered(400), pair: pair) && a.settle(pair: pair)) }
        lab.engine.stop()
        let end = lab.engine.snapshot()
        let refused = end[0].drops.first { $0.cause == "rate" }?.count ?? 0
        // A thread may hold a part of what is there and not use it: a sixteenth, all together.
        #expect((1600 - 640 - 2...1600 - 600).contains(refused), "\(refused) of 1600")
        #expect(end[0].rx.packets == 1600)
        withExtendedLifetime(b) {}
    }

    @Test("options of a switch in other modes are refused, and so is a mirror that is not there")
    func refused() {
        func error(_ mode: ForwardingMode, _ change: (inout SwitchPort) -> Void) -> String {
            var ports = ["/tmp/a", "/tmp/b"].map { PortOptions(.vhostUser(path: $0, isClient: false)) }
            change(&ports[0].switching)
            do { _ = try Engine(EngineOptions(ports: ports, mode: mode), logger: Lab.logger) } catch {
                return "\(error)"
            }
            return ""
        }
        #expect(
            error(.crossconnect) { $0.vlans = .access(1) }.contains("/tmp/a: access, isolated and the like go with"))
        #expect(error(.switch) { $0.vlans = .access(1) } == "")
        #expect(error(.switch) { $0.mirrorIn = "b" }.contains("mirror_in=b: no port is called so; /tmp/b are"))
    }

    /// What several threads do with a table that another one clears.
    @Test("threads that learn, look up and clear at a time: no address is found at a port where nobody has it")
    func together() throws {
        let threads = 4
        let b = try SwitchBench((0..<threads).map { _ in B.port { $0.addressLimit = 4000 } }, threads: threads)
        let core = b.core
        let wrong = Counts(threads)
        DispatchQueue.concurrentPerform(iterations: threads + 1) { me in
            if me == threads {
                for n in 0..<rounds(400, least: 50) {
                    let entries = core.addresses.entries(seconds: 1)
                    let isRight = entries.allSatisfy { Int($0.mac.rawValue >> 8 & 0xff) == $0.port }
                    if !isRight { wrong.add(0) }
                    _ = core.addresses.clear(port: n % 3 == 0 ? nil : n % threads, vlan: nil)
                }
                return
            }
            let harness = FunctionHarness(GuardedSwitch(core), ports: threads)
            var random = SystemRandomNumberGenerator()
            for _ in 0..<rounds(400, least: 50) {
                let frames = (0..<64).map { _ in
                    let other = UInt8.random(in: 0..<UInt8(threads), using: &random)
                    let (to, from) = (
                        UInt8.random(in: 0...255, using: &random), UInt8.random(in: 0...255, using: &random)
                    )
                    // Few buckets' worth of addresses: entries are taken over all the time.
                    return [2, other, 0, 0, 0, to] + [2, UInt8(me), 0, 0, 0, from] + B.frame(from: 0)[12...]
                }
                for (frame, out) in zip(frames, harness.process(frames, from: me)) where out.ports.count == 1 {
                    if out.ports[0] != Int(frame[1]) { wrong.add(me) }
                }
            }
        }
        #expect(wrong.all.allSatisfy { $0 == 0 }, "\(wrong.all)")
    }

    /// One number a thread.
    private final class Counts: @unchecked Sendable {
        private let lock = NSLock()
        private var counts: [Int]
        init(_ n: Int) { counts = Array(repeating: 0, count: n) }
        func add(_ i: Int) { lock.withLock { counts[i] += 1 } }
        var all: [Int] { lock.withLock { counts } }
    }

    @Test("where a guest is after a migration is told in its VLAN, tagged where it must be, and not by who may not")
    func announcement() throws {
        let lab = try Lab(ports: 4, .switch) { options in
            options.ports[0].switching.vlans = .access(10)
            options.ports[1].switching.vlans = .access(10)
            options.ports[2].switching.vlans = .trunk([10], native: nil)
            options.ports[3].switching.vlans = .access(20)
            options.ports[0].switching.addressLimit = 1
        }
        let drivers = try (0..<4).map { try lab.driver($0) }
        try drivers[0].frontEnd.tell(.sendRARP, Payload(MACAddress(2, 0, 0, 0, 0, 1).rawValue))
        let rarp = drivers[1].receive(1).map(\.frame)
        #expect(rarp.count == 1 && rarp[0][..<14] == ArraySlice(Frame.broadcast + Frame.mac(1) + [0x80, 0x35]))
        #expect(drivers[2].receive(1).map(\.frame) == SwitchEngineTests.tagged(rarp, 10))
        #expect(lab.engine.macTable().map(\.port) == [0])
        try drivers[0].frontEnd.tell(.sendRARP, Payload(MACAddress(2, 0, 0, 0, 0, 2).rawValue))
        #expect(drivers[1].receive(1, within: 50).isEmpty && drivers[3].receive(1, within: 50).isEmpty)
        withExtendedLifetime(drivers) {}
    }
}
