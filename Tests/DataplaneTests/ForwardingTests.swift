import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

@Suite struct ForwardingTests {
    static let formats: [(Bool, Bool)] = [(false, false), (false, true), (true, false), (true, true)]

    @Test("crossconnect carries every frame, unchanged and in order, both ways", arguments: formats)
    func crossconnect(isPacked: Bool, isInOrder: Bool) throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let a = try lab.driver(0) {
            $0.isPacked = isPacked
            $0.isInOrder = isInOrder
        }
        let b = try lab.driver(1) {
            $0.isPacked = !isPacked
            $0.isInOrder = isInOrder
            $0.ringSize = 512
        }
        for round in 0..<20 {
            let there = Frame.numbered(100, first: round * 200)
            let back = Frame.numbered(100, first: round * 200 + 100)
            #expect(a.send(there))
            #expect(b.send(back))
            #expect(b.receive(100).map(\.frame) == there)
            #expect(a.receive(100).map(\.frame) == back)
        }
        let counts = lab.engine.snapshot()
        #expect(counts[0].rx.packets == 2000 && counts[0].tx.packets == 2000 && counts[1].rx.packets == 2000)
        #expect(counts[0].rx.bytes == counts[1].tx.bytes)
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }

    @Test("every busyloop budget delivers", arguments: [BusyloopBudget.poll, .sleep, .microseconds(50), .auto])
    func budgets(_ budget: BusyloopBudget) throws {
        let lab = try Lab(ports: 2, .crossconnect, busyloop: budget)
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        for n in 0..<50 {
            // Some rounds back to back, some after the engine fell asleep.
            if n % 10 == 9 { usleep(3000) }
            let frames = Frame.numbered(n % 7 + 1, first: n * 10)
            #expect(a.send(frames))
            #expect(b.receive(frames.count).map(\.frame) == frames, "round \(n)")
        }
    }

    @Test("macswap returns frames with their addresses exchanged")
    func macswap() throws {
        let lab = try Lab(ports: 1, .macswap)
        let a = try lab.driver(0)
        let frames = Frame.numbered(200)
        #expect(a.send(frames))
        let swapped = frames.map { Array($0[6..<12]) + Array($0[0..<6]) + Array($0[12...]) }
        #expect(a.receive(200).map(\.frame) == swapped)
    }

    @Test("drop counts what it throws away, and hands buffers back")
    func drop() throws {
        let lab = try Lab(ports: 1, .drop)
        let a = try lab.driver(0)
        let frames = Frame.numbered(1000)
        #expect(a.send(frames) && a.settle())
        let rx = lab.engine.snapshot()[0].rx
        #expect(rx.packets == 1000 && rx.bytes == UInt64(frames.reduce(0) { $0 + $1.count }))
    }

    @Test("generate fills receive rings with frames of the size", arguments: [14, 64, 1514, 9000])
    func generate(_ size: Int) throws {
        let lab = try Lab(ports: 1, .generate(size: size))
        let a = try lab.driver(0)
        let frames = a.receive(600)
        #expect(frames.count >= 600)
        #expect(
            frames.allSatisfy {
                $0.frame.count == size && $0.frame[0...].starts(with: [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1])
            })
        if size > 34 { #expect(Frame.sum(Array(frames[0].frame[14..<34])) == 0xffff, "IP header checksum") }
    }

    @Test("frames shorter than an Ethernet header or longer than 64 KiB are dropped and counted, others pass")
    func lengths() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        let good = Frame.numbered(3)
        #expect(
            a.send([
                good[0], [1, 2, 3], good[1], [UInt8](repeating: 7, count: 13), [UInt8](repeating: 7, count: 14),
                good[2],
            ]))
        #expect(b.receive(4).map(\.frame) == [good[0], good[1], [UInt8](repeating: 7, count: 14), good[2]])
        #expect(lab.drops(0) == ["frame length": 2])
    }

    @Test("a receiver that takes nothing costs its sender nothing but these packets")
    func receiverFull() throws {
        let lab = try Lab(ports: 3, .switch)
        let (a, b, c) = (try lab.driver(0), try lab.driver(1), try lab.driver(2))
        // The switch learns all three.
        for (d, n) in [(a, 1), (b, 2), (c, 3)] {
            d.send([Frame.ethernet(to: Frame.broadcast, from: Frame.mac(UInt8(n)), [UInt8](repeating: 0, count: 50))])
        }
        #expect(a.receive(2).count == 2 && c.receive(2).count == 2)
        // b never looks: its ring of 256 fills.
        #expect(a.send(Frame.numbered(3000)))
        #expect(a.settle())
        let more = Frame.numbered(50, to: Frame.mac(3))
        #expect(a.send(more))
        #expect(c.receive(50).map(\.frame) == more)
        let (sent, got) = (lab.engine.snapshot()[0].rx.packets, lab.engine.snapshot()[1].tx.packets)
        let dropped = lab.drops(1)["receiver full", default: 0] + lab.drops(0)["receiver full", default: 0]
        #expect(sent == 3051)
        #expect(got + dropped == 3002, "\(got) delivered, \(dropped) dropped")
    }

    @Test(
        "threads hand bursts to each other without loss or reordering",
        .enabled(if: CPlat_cpu_allowed(0) && CPlat_cpu_allowed(1), "needs CPUs 0 and 1"))
    func handOver() throws {
        // Pair 1 of the first port belongs to thread 1; the second port has but one pair, on thread 0.
        let lab = try Lab(ports: 2, .crossconnect, pairs: [2, 1], cpus: [0, 1])
        let a = try lab.driver(0) {
            $0.queuePairs = 2
            $0.hasControl = true
        }
        #expect(a.command(4, 0, [2, 0]) == 0)
        let b = try lab.driver(1) { $0.ringSize = 1024 }
        for round in 0..<30 {
            let one = Frame.numbered(200, first: round * 1000, from: Frame.mac(1))
            let two = Frame.numbered(200, first: round * 1000 + 500, from: Frame.mac(7))
            #expect(a.send(one, pair: 0))
            #expect(a.send(two, pair: 1))
            let got = b.receive(400).map(\.frame)
            #expect(got.filter { $0[11] == 1 } == one)
            #expect(got.filter { $0[11] == 7 } == two)
        }
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }

    @Test("an embedder's function judges each packet")
    func embedder() throws {
        /// Passes frames with even numbers to the other port, and marks their type.
        struct Even: PacketFunction {
            mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
                for i in 0..<packets.count where packets[i].bytes.has(1, at: 16) && packets[i].bytes[16] & 1 == 0 {
                    packets.decide(i, .port(1 - packets.port))
                }
                return nil
            }
        }
        let lab = try Lab(ports: 2) { _ in Even() }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        // The third 64-bit word of a frame begins at byte 16: the upper half of the number.
        let frames = (0..<100).map { n in
            Frame.ethernet(
                to: Frame.mac(2), from: Frame.mac(1), [0, 0, UInt8(n), 0] + [UInt8](repeating: 9, count: 46))
        }
        #expect(a.send(frames))
        #expect(b.receive(50).map(\.frame) == frames.enumerated().filter { $0.offset % 2 == 0 }.map(\.element))
    }
}

@Suite struct SwitchTests {
    private func hello(_ n: UInt8) -> [UInt8] {
        Frame.ethernet(to: Frame.broadcast, from: Frame.mac(n), [UInt8](repeating: n, count: 50))
    }

    @Test("learns, floods what is unknown, keeps known traffic to itself, passes VLAN tags")
    func learning() throws {
        let lab = try Lab(ports: 3, .switch)
        let d = try (0..<3).map { try lab.driver($0) }
        d[0].send([hello(1)])
        #expect(d[1].receive(1).count == 1 && d[2].receive(1).count == 1)
        #expect(d[0].receive(1, within: 20).isEmpty, "a frame came back")
        // Known: only the first port gets it.
        let toFirst = Frame.numbered(20, to: Frame.mac(1), from: Frame.mac(2))
        d[1].send(toFirst)
        #expect(d[0].receive(20).map(\.frame) == toFirst)
        #expect(d[2].receive(1, within: 20).isEmpty)
        // Tagged, unknown destination, multicast.
        let tagged = Frame.ethernet(
            to: Frame.mac(1), from: Frame.mac(2), type: [0x81, 0, 0, 5, 8, 0], [UInt8](repeating: 3, count: 60))
        let unknown = Frame.ethernet(to: Frame.mac(99), from: Frame.mac(2), [UInt8](repeating: 4, count: 60))
        let multicast = Frame.ethernet(to: [1, 0, 0x5e, 0, 0, 1], from: Frame.mac(2), [UInt8](repeating: 5, count: 60))
        d[1].send([tagged, unknown, multicast])
        #expect(d[0].receive(3).map(\.frame) == [tagged, unknown, multicast])
        #expect(d[2].receive(2).map(\.frame) == [unknown, multicast])
        // To itself: nowhere.
        d[1].send([Frame.ethernet(to: Frame.mac(2), from: Frame.mac(2), [UInt8](repeating: 6, count: 60))])
        #expect(d[0].receive(1, within: 20).isEmpty && d[2].receive(1, within: 20).isEmpty)
    }

    @Test("an address that moves is found at its new port at once")
    func moving() throws {
        let lab = try Lab(ports: 3, .switch)
        let d = try (0..<3).map { try lab.driver($0) }
        d[0].send([hello(1)])
        _ = (d[1].receive(1), d[2].receive(1))
        d[2].send([hello(1)])
        _ = (d[0].receive(1), d[1].receive(1))
        let frame = Frame.numbered(1, to: Frame.mac(1), from: Frame.mac(2))
        d[1].send(frame)
        #expect(d[2].receive(1).map(\.frame) == frame)
        #expect(d[0].receive(1, within: 20).isEmpty)
    }

    @Test("a port that goes away is forgotten")
    func leaving() throws {
        let lab = try Lab(ports: 3, .switch)
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        var c: EmbeddedDriver? = try lab.driver(2)
        c?.send([hello(3)])
        _ = (a.receive(1), b.receive(1))
        c = nil
        usleep(100_000)
        let frame = Frame.numbered(1, to: Frame.mac(3))
        a.send(frame)
        #expect(b.receive(1).map(\.frame) == frame, "flooded, for nobody has the address now")
    }

    @Test("a guest that invents addresses cannot push out those of others")
    func flooding() throws {
        let lab = try Lab(ports: 3, .switch)
        let d = try (0..<3).map { try lab.driver($0) { $0.ringSize = 1024 } }
        d[1].send([hello(2)])
        _ = (d[0].receive(1), d[2].receive(1))
        for block in 0..<200 {
            let invented = (0..<100).map { n in
                Frame.ethernet(
                    to: Frame.mac(2), from: [2, 1, UInt8(block), UInt8(n), 0, 0], [UInt8](repeating: 0, count: 46))
            }
            d[0].send(invented)
            _ = d[1].receive(100)
        }
        let frame = Frame.numbered(1, to: Frame.mac(2), from: Frame.mac(3))
        d[2].send(frame)
        #expect(d[1].receive(1).map(\.frame) == frame)
        #expect(d[0].receive(1, within: 20).isEmpty, "the address was pushed out")
    }

    @Test("ports that come and go do not disturb the traffic of others")
    func comingAndGoing() throws {
        let lab = try Lab(ports: 3, .switch)
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        b.send([hello(2)])
        #expect(a.receive(1).count == 1)
        for round in 0..<100 {
            let c = try lab.driver(2) { $0.isPacked = round % 2 == 0 }
            let frames = Frame.numbered(50, first: round * 50)
            #expect(a.send(frames))
            if round % 3 == 0 { try c.stop() }
            #expect(b.receive(50).map(\.frame) == frames, "round \(round)")
        }
        #expect(lab.drops(1) == [:])
    }
}
