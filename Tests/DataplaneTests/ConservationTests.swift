import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

/// Every packet that is taken from a ring is counted once, whatever becomes of it.
@Suite struct ConservationTests {
    /// rx + made = tx + drops + flooded + consumed, over all ports.
    static func expectBalance(_ ports: [PortSnapshot], _ what: String) {
        let taken = ports.reduce(0) { $0 + $1.rx.packets + $1.made }
        let drops = ports.reduce(0) { $0 + $1.drops.reduce(0) { $0 + $1.count } }
        let ended = ports.reduce(0) { $0 + $1.tx.packets + $1.flooded + $1.consumed } + drops
        #expect(taken == ended, "\(what): \(taken) packets came or were made, \(ended) were dealt with: \(ports)")
    }

    /// Frames of every sort: known, unknown and group addresses, too short, and large ones for segmentation.
    private static func mixture(_ count: Int, from: Int, ports: Int, _ round: Int, hasTags: Bool) -> (
        frames: [[UInt8]], headers: [[UInt8]]
    ) {
        let plain = [UInt8](repeating: 0, count: 12)
        let big = OffloadTests.Big()
        var (frames, headers): ([[UInt8]], [[UInt8]]) = ([], [])
        for n in 0..<count {
            var frame: [UInt8]
            var header = plain
            switch (n + round) % 11 {
            case 0: frame = [1, 2, 3]
            case 1: frame = Frame.numbered(1, first: n, to: Frame.broadcast)[0]
            case 2: frame = Frame.numbered(1, first: n, to: Frame.mac(99))[0]
            case 3: (frame, header) = (big.frame, big.header())
            case 4: (frame, header) = (Frame.numbered(1, first: n)[0], Frame.header(flags: 0, gso: 9))
            default: frame = Frame.numbered(1, first: n, to: Frame.mac(UInt8(1 + n % ports)))[0]
            }
            if frame.count >= 12 { frame.replaceSubrange(6..<12, with: Frame.mac(UInt8(from + 1))) }
            if hasTags && frame.count > 12 {
                let tags: [[UInt8]] = [
                    [], [0x81, 0, 0, 10], [0x81, 0, 0xe0, 0], [0x81, 0, 0, 10, 0x81, 0, 0, 20], [0x81],
                ]
                frame.insert(contentsOf: tags[n / 3 % 5], at: 12)
                if n % 29 == 7 { frame = Array(frame[..<15]) }
                if n % 31 == 8 { frame[11] = 0x77 }
            }
            frames.append(frame)
            headers.append(header)
        }
        return (frames, headers)
    }

    private static func run(_ lab: Lab, pairs: [Int], _ what: String, hasTags: Bool = false) throws {
        let ports = pairs.count
        func driver(_ port: Int, _ round: Int) throws -> EmbeddedDriver {
            try lab.driver(port) {
                $0.queuePairs = pairs[port]
                $0.hasControl = true
                $0.ringSize = 128
                $0.isPacked = (port + round) % 2 == 0
                $0.frameRoom = 8192
                $0.offloads = port == 0 ? OffloadTests.all : [.csum, .hostTSO4]
            }
        }
        func begin(_ port: Int, _ round: Int) throws -> EmbeddedDriver {
            let d = try driver(port, round)
            if pairs[port] > 1 { #expect(d.command(4, 0, [UInt8(pairs[port]), 0]) == 0) }
            return d
        }
        var drivers = try (0..<ports).map { try begin($0, 0) }
        var sent = [UInt64](repeating: 0, count: ports)
        for round in 1...rounds(24, least: 6) {
            for port in 0..<ports {
                for pair in 0..<pairs[port] {
                    let (frames, headers) = mixture(60, from: port, ports: ports, round, hasTags: hasTags)
                    if drivers[port].send(frames, headers: headers, pair: pair) { sent[port] += 60 }
                }
                // One of them looks at what it got only now and then, and fills up.
                if port != 1 || round % 4 == 0 {
                    for pair in 0..<pairs[port] {
                        while drivers[port].pairs[pair].receiveBurst() > 0 { drivers[port].pairs[pair].giveBack() }
                        drivers[port].pairs[pair].giveBack()
                    }
                }
            }
            // In the midst of what was sent last: pairs change their threads.
            for port in 0..<ports {
                let threads = (0..<pairs[port]).map { _ in Int.random(in: 0..<lab.engine.threadSnapshots().count) }
                try lab.engine.setThreads(threads, port: lab.paths[port])
                #expect(lab.engine.pairThreads(port: lab.paths[port]) == threads, "\(what)")
            }
            // The first stays, so that its packets can be counted: its rings move
            // to other mappings of their memory, and are disabled for a moment.
            if round % 2 == 1 {
                let d = drivers[0]
                try d.frontEnd.share(d.memory.region, d.memory.descriptor)
                let ring = 2 * (round % pairs[0])
                try d.frontEnd.enableRing(ring, false)
                try d.frontEnd.enableRing(ring, true)
            }
            if ports > 1 && round % 3 == 0 {
                let gone = 1 + round / 3 % (ports - 1)
                if round % 2 == 0 { try drivers[gone].stop() }
                drivers.remove(at: gone)
                drivers.insert(try begin(gone, round), at: gone)
            }
        }
        for (port, d) in drivers.enumerated() {
            for pair in 0..<pairs[port] { #expect(d.settle(pair: pair), "\(what): port \(port), pair \(pair)") }
        }
        lab.engine.stop()
        let end = lab.engine.snapshot()
        #expect(end[0].rx.packets == sent[0], "\(what)")
        expectBalance(end, what)
    }

    @Test(
        "in each mode, on any number of threads, while others disconnect", arguments: [1, 2, 3, 4],
        [
            ForwardingMode.drop, .macswap, .crossconnect, .switch,
        ])
    func modes(threads: Int, mode: ForwardingMode) throws {
        let pairs = mode == .crossconnect ? [4, 2] : [4, 2, 3]
        let lab = try Lab(ports: pairs.count, mode, pairs: pairs, unpinned: threads)
        try ConservationTests.run(lab, pairs: pairs, "\(mode), \(threads) threads")
    }

    @Test("in a switch whose ports have options", arguments: [1, 2, 3, 4], [false, true])
    func options(threads: Int, hasLimits: Bool) throws {
        let pairs = [4, 2, 3]
        let lab = try Lab(
            ports: 3, .switch, pairs: pairs, unpinned: threads, more: [PortOptions(.null(name: "watch", emit: nil))]
        ) { options in
            options.ports[0].switching.vlans = .trunk(nil, native: 30)
            options.ports[1].switching.vlans = .access(10)
            options.ports[2].switching.vlans = .trunk([10, 20, 30], native: 10)
            for i in 0..<3 {
                options.ports[i].switching.addresses = [MACAddress(2, 0, 0, 0, 0, UInt8(i + 1))]
                options.ports[i].switching.isIsolated = i > 0
                options.ports[i].switching.addressLimit = 8
            }
            options.ports[0].switching.mirrorIn = "null:watch"
            options.ports[2].switching.mirrorOut = "null:watch"
            options.ports[1].switching.checksSource = true
            options.ports[2].switching.inspects = true
            options.ports[2].switching.ipv4 = [.all]
            if !hasLimits { return }
            options.ports[0].switching.limitIn = RateLimit(packets: 20_000, bytes: 20_000_000)
            options.ports[1].switching.limitOut = RateLimit(packets: 1000)
            options.ports[2].switching.limitFlooding = RateLimit(packets: 500)
        }
        let what = "a switch with options, \(threads) threads, limits: \(hasLimits)"
        try ConservationTests.run(lab, pairs: pairs, what, hasTags: true)
        // Nothing that was to be tried was left out.
        let causes = Set(lab.engine.snapshot().flatMap { $0.drops.map(\.cause) })
        let wanted = ["wrong VLAN", "inner VLAN tag", "malformed", "spoofed source", "isolated"]
        #expect(causes.isSuperset(of: wanted), "\(what): \(causes)")
        #expect(lab.engine.snapshot()[3].tx.packets > 0)
    }

    /// Judges packets by where they stand in a burst: every verdict there is, also ports that are none; and makes
    /// copies and packets of its own, changes lengths, sends from its tick.
    private struct Everything: PacketFunction {
        static var judgesAgain: Bool { true }
        static let dropCauses = ["first", "second"]
        static let tickMicroseconds = 200
        var turn = 0

        mutating func tick(_ burst: borrowing PacketBurst) {
            burst.originate(60)?.verdict = .consumed
            for port in -1...burst.portCount { burst.originate(100)?.verdict = .port(port) }
            burst.originate(14)?.verdict = .flood
        }

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            turn += 1
            if turn % 3 == 0 { makeSome(packets) }
            if packets.count % 8 == 1 { return turn % 2 == 0 ? .consumed : .flood }
            for i in 0..<packets.count {
                let verdict: [Verdict] = [
                    .drop, .flood, .port(i % packets.portCount), .port(77), .port(packets.port), .next,
                    packets.verdict(for: PortSet([0, 1])), packets.verdict(for: PortSet([i % 3, 200])),
                    .port(i % 3, pair: i), .port(packets.portCount, pair: 1), .port(1, pair: 2 + i % 2),
                ]
                packets.decide(i, verdict[i % verdict.count])
                if i % 7 == 4 { packets.decide(i, .consumed) }
                if i % 9 == 5 { packets.drop(i, because: i & 1) }
                if i % 11 == 3 { _ = packets[i].truncate(to: i) }
                if i % 13 == 2 { _ = packets[i].prepend(i) && packets[i].removeFirst(4) }
                if i % 17 == 1 { _ = packets[i].append(i) }
            }
            return nil
        }

        private func makeSome(_ packets: borrowing PacketBurst) {
            for i in 0..<packets.count {
                guard let copy = packets.copy(i) else { return }
                copy.verdict = [.flood, .drop, .port(i % 4), packets.verdict(for: PortSet([0, 2]))][i % 4]
                packets.originate(60 + i)?.verdict = i & 1 == 0 ? .port(i % 5) : .port(i % 5, pair: i)
            }
        }
    }

    @Test("with every verdict that an embedder's function can give", arguments: [1, 2, 4])
    func verdicts(threads: Int) throws {
        let lab = try Lab(ports: 3, pairs: [4, 2, 3], unpinned: threads) { _ in Everything() }
        try ConservationTests.run(lab, pairs: [4, 2, 3], "every verdict, \(threads) threads")
    }

    /// Sends what came and as much of its own to port 1, which are two lists of packets for one port.
    private struct Doubling: PacketFunction {
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                packets.decide(i, .port(1))
                packets.originate(60)?.verdict = .port(1)
            }
            return nil
        }
    }

    @Test(
        "a port that changes its pairs between a burst's packets and those that the function makes", arguments: [2, 4])
    func changes(threads: Int) throws {
        let lab = try Lab(ports: 2, pairs: [4, 4], unpinned: threads) { _ in Doubling() }
        func driver(_ port: Int) throws -> EmbeddedDriver {
            try lab.driver(port) { ($0.queuePairs, $0.hasControl, $0.ringSize, $0.frameRoom) = (4, true, 128, 8192) }
        }
        let (sender, receiver) = (try driver(0), try driver(1))
        #expect(sender.command(4, 0, [4, 0]) == 0)
        // Large frames: delivering those of the first list takes as long as some commands.
        let frames = [[UInt8]](repeating: Frame.numbered(1)[0] + [UInt8](repeating: 7, count: 8000), count: 64)
        for round in 1...rounds(200, least: 40) {
            for pair in 0..<4 { sender.send(frames, pair: pair) }
            for turn in 1...8 { #expect(receiver.command(4, 0, [UInt8(1 + (round + turn) % 4), 0]) == 0) }
            for pair in 0..<4 {
                while receiver.pairs[pair].receiveBurst() > 0 { receiver.pairs[pair].giveBack() }
                receiver.pairs[pair].giveBack()
            }
        }
        for pair in 0..<4 { #expect(sender.settle(pair: pair)) }
        lab.engine.stop()
        ConservationTests.expectBalance(lab.engine.snapshot(), "pairs that change, \(threads) threads")
    }

    @Test("what generate sends was made")
    func generate() throws {
        let lab = try Lab(ports: 1, .generate(size: 200))
        let a = try lab.driver(0)
        #expect(a.receive(500).count >= 500)
        lab.engine.stop()
        let port = lab.engine.snapshot()[0]
        #expect(port.made >= 500)
        ConservationTests.expectBalance([port], "generate")
    }
}

/// What an embedder's function says of itself counts.
@Suite struct EmbedderWishesTests {
    /// Words that functions and their test share.
    private struct Seen: @unchecked Sendable {
        let packets = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
        init() { packets.initialize(to: 0) }
    }

    private struct Patient: PacketFunction {
        static var judgesAgain: Bool { true }
        static var wantsData: Bool { false }
        let seen: Seen

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            seen.packets.pointee += UInt64(packets.count)
            return .port(1)
        }
    }

    private struct Hasty: PacketFunction {
        let seen: Seen

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            seen.packets.pointee += UInt64(packets.count)
            return .port(1)
        }
    }

    private func judged<F: PacketFunction>(_ seen: Seen, _ function: F) throws -> UInt64 {
        let lab = try Lab(ports: 2) { _ in function }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        // b never looks: its ring of 256 fills.
        #expect(a.send(Frame.numbered(700)) && a.settle())
        lab.engine.stop()
        let end = lab.engine.snapshot()
        #expect(end[0].rx.packets == 700 && end[1].tx.packets == 256)
        #expect(end[1].drops.map(\.count) == [444] && end[1].drops.first?.cause == "receiver full")
        withExtendedLifetime(b) {}
        return seen.packets.pointee
    }

    @Test("judgesAgain: packets whose receiver has no buffers go back into the ring, and are judged again")
    func backpressure() throws {
        let (patient, hasty) = (Seen(), Seen())
        #expect(try judged(patient, Patient(seen: patient)) > 700)
        #expect(try judged(hasty, Hasty(seen: hasty)) == 700, "each packet is seen once")
    }
}
