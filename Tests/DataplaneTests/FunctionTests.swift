import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

/// Packet functions without an engine.
@Suite struct FunctionHarnessTests {
    /// A frame of an Ethernet header and counting bytes.
    static func frame(_ length: Int) -> [UInt8] {
        let header: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]
        return Array((header + (0..<max(0, length - 14)).map { UInt8(truncatingIfNeeded: $0) }).prefix(length))
    }

    static let pieces = [[], [1, 1, 1], [12], [13, 2], [64, 64]]

    struct Verdicts: PacketFunction {
        static let dropCauses = ["too dull", "too bright"]
        static let counters = ["seen"]
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                packets.count(0)
                switch packets[i].bytes[14] {
                case 0: packets.decide(i, .port(1))
                case 1: packets.decide(i, .flood)
                case 2: packets.drop(i, because: 1)
                case 3: packets[i].verdict = packets.verdict(for: PortSet([0, 2]))
                case 4: packets[i].verdict = .port(99)
                default: break
                }
            }
            return nil
        }
    }

    /// Its causes and counters are cases of enumerations.
    struct Named: PacketFunction {
        enum Cause: Int, CaseIterable { case odd, even }
        enum Count: Int, CaseIterable { case seen, copied }
        static var dropCauses: [String] { Cause.allCases.map { "\($0)" } }
        static var counters: [String] { Count.allCases.map { "\($0)" } }

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                packets.count(Count.seen)
                packets.drop(i, because: packets[i].length % 2 == 0 ? Cause.even : Cause.odd)
                guard let copy = packets.copy(i) else { continue }
                packets.count(Count.copied, 2)
                copy.verdict = packets.verdict(because: Cause.odd)
            }
            return nil
        }
    }

    @Test("causes and counters by the cases of an enumeration")
    func named() {
        let harness = FunctionHarness(Named(), ports: 2)
        let all = harness.process([FunctionHarnessTests.frame(60), FunctionHarnessTests.frame(61)], from: 0)
        #expect(all.map(\.cause) == ["even", "odd", "odd", "odd"])
        #expect(harness.counter("seen") == 2 && harness.counter("copied") == 4)
    }

    @Test("verdicts of each kind, and drop where there is none")
    func verdicts() {
        let harness = FunctionHarness(Verdicts(), ports: 4)
        let frames = (0..<6).map { n in
            var frame = FunctionHarnessTests.frame(60)
            frame[14] = UInt8(n)
            return frame
        }
        let out = harness.process(frames, from: 2)
        #expect(out.map(\.ports) == [[1], [0, 1, 3], [], [0], [], []])
        #expect(out.map(\.cause) == [nil, nil, "too bright", nil, nil, nil])
        #expect(out.map(\.frame) == frames && harness.counter("seen") == 6)
    }

    struct Tagger: PacketFunction {
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count where packets[i].pushVLAN(0x6123) { packets.decide(i, .port(1)) }
            return nil
        }
    }

    struct Untagger: PacketFunction {
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count where packets[i].popVLAN() == 0x6123 { packets.decide(i, .port(0)) }
            return nil
        }
    }

    @Test("a VLAN tag goes on and comes off, the checksum's place follows", arguments: pieces)
    func vlan(_ pieces: [Int]) {
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset, header.hdrLen) = (NetHeader.needsCsum, 34, 16, 54)
        let frame = FunctionHarnessTests.frame(200)
        let tagged = FunctionHarness(Tagger(), ports: 2).process([frame], from: 0, pieces: pieces, header: header)[0]
        #expect(tagged.frame == Array(frame[..<12]) + [0x81, 0, 0x61, 0x23] + Array(frame[12...]))
        #expect(tagged.header.csumStart == 38 && tagged.header.hdrLen == 58)
        let back = FunctionHarness(Untagger(), ports: 2).process(
            [tagged.frame], from: 1, pieces: pieces, header: tagged.header)[0]
        #expect(back.frame == frame && back.header == header)
        // Frames without an Ethernet header get no tag.
        let short = FunctionHarness(Tagger(), ports: 2).process([Array(frame[..<13]), []], from: 0)
        #expect(short.map(\.ports) == [[], []])
    }

    /// Sends each packet on, a copy in an outer header to port 2, and an answer of its own to where it came from.
    struct Mirror: PacketFunction {
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                if let copy = packets.copy(i), copy.prepend(50) {
                    copy.bytes[0] = 0xaa
                    copy.verdict = .port(2)
                }
                if let answer = packets.originate(60) {
                    answer.bytes[0] = 0xbb
                    answer.verdict = .port(packets.port)
                }
                packets[i].bytes[0] = 0xcc
            }
            return .port(1)
        }
    }

    @Test("copies have headers of their own, the function's packets go out, 64 are made of a burst", arguments: pieces)
    func made(_ pieces: [Int]) {
        let frames = (0..<33).map { FunctionHarnessTests.frame(60 + 10 * $0) }
        let out = FunctionHarness(Mirror(), ports: 3).process(frames, from: 0, pieces: pieces)
        #expect(out.count == 33 + 64)
        for (i, frame) in frames.enumerated() {
            #expect(out[i] == .init([0xcc] + frame[1...], to: [1]))
            if i == 32 { continue }
            let copy = [0xaa] + [UInt8](repeating: 0, count: 49) + frame
            #expect(out[33 + 2 * i] == .init(copy, to: [2], isMade: true))
            let answer = [0xbb] + [UInt8](repeating: 0, count: 59)
            #expect(out[33 + 2 * i + 1] == .init(answer, to: [0], isMade: true))
        }
    }

    struct Odd: PacketFunction {
        static let dropCauses = ["odd"]
        static let counters = ["asked"]
        static let frontBytes = 16
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                packets.count(0)
                if packets[i].bytes[15] & 1 != 0 { packets.drop(i, because: 0) } else { packets.decide(i, .next) }
            }
            return nil
        }
    }
    struct Large: PacketFunction {
        static let dropCauses = ["large"]
        static let counters = ["asked again"]
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                packets.count(0)
                if packets[i].length > 100 { packets.drop(i, because: 0) } else { packets.decide(i, .next) }
            }
            return nil
        }
    }
    struct ToOne: PacketFunction {
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .port(1) }
    }

    @Test("in a chain each function sees what the one before passed on, and has causes and counters of its own")
    func chain() {
        let harness = FunctionHarness(Chain(Odd(), Chain(Large(), ToOne())), ports: 2)
        let frames = (0..<100).map { n in
            var frame = FunctionHarnessTests.frame(n % 3 == 0 ? 200 : 80)
            frame[15] = UInt8(n)
            return frame
        }
        for (n, out) in harness.process(frames, from: 0).enumerated() {
            let cause = n % 2 == 1 ? "odd" : n % 3 == 0 ? "large" : nil
            #expect(out == .init(frames[n], to: cause == nil ? [1] : [], because: cause), "\(n)")
        }
        #expect(harness.counter("asked") == 100 && harness.counter("asked again") == 50)
    }
}

/// Packet functions in an engine, with real rings.
@Suite struct FunctionTests {
    /// Sends to the other port, from which every third packet goes back, too, and each burst's first is reported to
    /// port 2 in a header of its own.
    struct Mixture: PacketFunction {
        static let dropCauses = ["every seventh"]
        static let counters = ["judged", "reported"]
        static let tickMicroseconds = 500
        var greeting: UInt8 = 0
        var changes = 0

        enum Command: Sendable { case greet(UInt8) }

        mutating func perform(_ command: Command, at time: BurstTime) -> Int {
            switch command {
            case .greet(let value): greeting = value
            }
            return changes
        }

        mutating func portChanged(_ port: Int, isUp: Bool) { changes += isUp ? 1 : 100 }

        mutating func tick(_ burst: borrowing PacketBurst) {
            if greeting == 0 { return }
            guard let packet = burst.originate(60) else { return }
            packet.bytes[0] = 2
            packet.bytes[59] = greeting
            packet.verdict = .port(2)
            greeting = 0
        }

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            packets.count(0, packets.count)
            if let copy = packets.copy(0), copy.prepend(14) {
                copy.bytes[0] = 2
                copy.bytes[13] = 0x99
                copy.verdict = .port(2)
                packets.count(1)
            }
            for i in 0..<packets.count {
                let packet = packets[i]
                guard packet.bytes.has(1, at: 17) else { continue }
                let n = Int(packet.bytes[16]) << 8 | Int(packet.bytes[17])
                if n % 7 == 0 {
                    packets.drop(i, because: 0)
                } else if n % 3 == 0 {
                    packet.verdict = packets.verdict(for: PortSet([0, 1]))
                } else {
                    packet.verdict = .port(1)
                }
            }
            return nil
        }
    }

    @Test("verdicts, copies, sets, causes and counters, with everything on one thread or on three", arguments: [1, 3])
    func mixture(_ threads: Int) throws {
        let lab = try Lab(ports: 3, pairs: [1, 1, 1], unpinned: threads) { _ in Mixture() }
        let drivers = try (0..<3).map { try lab.driver($0) { $0.ringSize = 1024 } }
        let frames = (0..<300).map { n in
            Frame.ethernet(
                to: Frame.mac(2), from: Frame.mac(1),
                [9, 9, UInt8(n >> 8), UInt8(n & 255)] + [UInt8](repeating: 5, count: 46))
        }
        #expect(drivers[0].send(frames))
        let kept = frames.enumerated().filter { $0.offset % 7 != 0 }.map(\.element)
        let isInOrder = drivers[1].receive(kept.count).map(\.frame) == kept
        #expect(isInOrder, "port 1 gets all that are for it, in their order")
        #expect(drivers[0].receive(1, within: 20).isEmpty, "a packet for several ports went back")
        #expect(drivers[0].settle())
        let counters = Dictionary(uniqueKeysWithValues: lab.engine.functionCounters().map { ($0.name, $0.count) })
        #expect(counters["judged"] == 300)
        let reports = Int(counters["reported"]!)
        let reported = drivers[2].receive(reports).map(\.frame)
        #expect(reported.count == reports && reports > 0)
        #expect(reported.allSatisfy { $0[13] == 0x99 && frames.contains(Array($0[14...])) })
        #expect(lab.drops(0) == ["every seventh": 43])
        lab.engine.stop()
        ConservationTests.expectBalance(lab.engine.snapshot(), "\(threads) threads")
        #expect(lab.engine.functionCounters().map(\.count) == [300, UInt64(reports)])
    }

    @Test("a command reaches every thread, and a tick sends without traffic", arguments: [1, 2])
    func commands(_ threads: Int) throws {
        let lab = try Lab(ports: 3, unpinned: threads) { _ in Mixture() }
        let driver = try lab.driver(2)
        let answers = try lab.engine.send(.greet(77), to: Mixture.self)
        #expect(answers.count == threads)
        let greetings = driver.receive(1)
        #expect(greetings.first?.frame.last == 77)
        #expect(
            eventually { (try? lab.engine.send(.greet(0), to: Mixture.self)) == [Int](repeating: 1, count: threads) })
        #expect(throws: EngineError.self) { try lab.engine.send(.greet(1), to: Never2.self) }
        lab.engine.stop()
        ConservationTests.expectBalance(lab.engine.snapshot(), "\(threads) threads")
        #expect(throws: EngineError.self) { try lab.engine.send(.greet(1), to: Mixture.self) }
    }

    /// Another function with the same commands.
    struct Never2: PacketFunction {
        mutating func perform(_ command: Mixture.Command, at time: BurstTime) {}
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .drop }
    }

    @Test("a function that takes too long for a burst is named, with how often and how long")
    func slow() throws {
        struct Sleepy: PacketFunction {
            mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
                for i in 0..<packets.count where packets[i].bytes[14] == 1 { usleep(40_000) }
                return .drop
            }
        }
        let lab = try Lab(ports: 1, change: { $0.functionBudget = 20_000 }) { _ in Sleepy() }
        let driver = try lab.driver(0)
        let frame = Frame.ethernet(to: Frame.mac(2), from: Frame.mac(1), [1] + [UInt8](repeating: 5, count: 46))
        for _ in 0..<3 {
            driver.send([frame])
            #expect(driver.settle())
        }
        let thread = lab.engine.threadSnapshots()[0]
        #expect(thread.function == "Sleepy" && thread.slowBursts >= 3 && thread.longestNanoseconds >= 30_000_000)
        #expect(throws: EngineError.self) { try Lab(ports: 1, change: { $0.functionBudget = 0 }) { _ in Sleepy() } }
    }

    @Test("what a function may take for a burst changes while it works")
    func budget() throws {
        struct Slow: PacketFunction {
            mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
                usleep(2_000)
                return .drop
            }
        }
        let lab = try Lab(ports: 1, change: { $0.functionBudget = 1_000_000 }) { _ in Slow() }
        let driver = try lab.driver(0)
        func slowBursts() -> UInt64 {
            #expect(driver.send(Frame.numbered(1)) && driver.settle())
            return lab.engine.threadSnapshots()[0].slowBursts
        }
        #expect(slowBursts() == 0)
        try lab.engine.setFunctionBudget(1_000)
        #expect(lab.engine.functionBudget == 1_000 && slowBursts() == 1)
        // A capture has the function run in another loop, and ends again: the budget is the same.
        let capture = try lab.engine.startCapture(port: lab.paths[0], queue: nil, snap: 64)
        #expect(slowBursts() == 2)
        lab.engine.endCapture(capture.memory)
        #expect(slowBursts() == 3)
        for us in [0, 1_000_001] { #expect(throws: EngineError.self) { try lab.engine.setFunctionBudget(us) } }
        try lab.engine.setFunctionBudget(1_000_000)
        #expect(slowBursts() == 3)
        // Functions of Ringway's own have no budget, nor has that of a switch with options, which says of itself what
        // an embedder's says.
        let others = [
            try Lab(ports: 1, .drop), try Lab(ports: 1, .switch, change: { $0.ports[0].switching.vlans = .access(7) }),
        ]
        for other in others {
            #expect(throws: EngineError.self) { try other.engine.setFunctionBudget(200) }
            #expect(other.engine.functionBudget == 100)
        }
    }

    /// Answers with what it knows of the ports.
    struct Curious: PacketFunction {
        var known: [PortInfo?] = []
        static var tickMicroseconds: Int { 100 }
        mutating func perform(_ command: Int, at time: BurstTime) -> [PortInfo?] { known }
        mutating func tick(_ burst: borrowing PacketBurst) { known = (-1...burst.portCount).map { burst.info(of: $0) } }
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .drop }
    }

    @Test("a function knows of each port whether it is up, its address and MTU, and what its driver takes")
    func info() throws {
        let lab = try Lab(
            ports: 2,
            change: {
                ($0.ports[0].mac, $0.ports[0].mtu) = (nil, nil)
                $0.ports[1].mac = [2, 0, 0, 0, 0, 0x77]
                $0.ports[1].mtu = 1400
            }
        ) { _ in Curious() }
        let driver = try lab.driver(1) { $0.offloads = [.csum, .guestCsum, .guestTSO4] }
        let wanted: [PortInfo?] = [
            nil, PortInfo(isUp: false),
            PortInfo(isUp: true, mac: MACAddress("02:00:00:00:00:77"), mtu: 1400, offloads: [.guestCsum, .guestTSO4]),
            nil,
        ]
        let isKnown = eventually { (try? lab.engine.send(0, to: Curious.self)) == [wanted] }
        let known = try lab.engine.send(0, to: Curious.self)
        #expect(isKnown, "\(known)")
        withExtendedLifetime(driver) {}
        let harness = FunctionHarness(Curious(), ports: 2)
        harness.setInfo(wanted[2]!, of: 1)
        harness.setInfo(wanted[1]!, of: 0)
        _ = harness.tick()
        #expect(harness.send(0) == wanted)
    }

    @Test("what a function takes off until nothing is left is dropped as a frame length, not delivered")
    func tooShort() throws {
        struct Shorten: PacketFunction {
            mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
                for i in 0..<packets.count { _ = packets[i].truncate(to: Int(packets[i].bytes[14])) }
                return .port(1)
            }
        }
        let lab = try Lab(ports: 2) { _ in Shorten() }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        let frames = (0..<40).map { n in
            Frame.ethernet(to: Frame.mac(2), from: Frame.mac(1), [UInt8(n)] + [UInt8](repeating: 5, count: 46))
        }
        #expect(a.send(frames))
        #expect(b.receive(26).map(\.frame) == frames[14...].enumerated().map { Array($1[..<(14 + $0)]) })
        #expect(lab.drops(0) == ["frame length": 14])
        #expect(lab.engine.snapshot()[0].rx.bytes == UInt64(frames.reduce(0) { $0 + $1.count }))
    }

    /// Puts a VXLAN or Geneve tunnel, over IPv4 or IPv6, before each frame.
    struct Tunnel: PacketFunction {
        let outer: HeaderTemplate
        let count: Int

        init(isIPv6: Bool, isGeneve: Bool) {
            let udp = 14 + (isIPv6 ? 40 : 20)
            count = udp + 16
            outer = HeaderTemplate(udp + 16) { bytes in
                Ethernet(bytes)?.etherType = isIPv6 ? .ipv6 : .ipv4
                if isIPv6 {
                    IPv6(creating: bytes, at: 14)?.nextHeader = .udp
                } else {
                    IPv4(creating: bytes, at: 14)?.protocol = .udp
                }
                UDP(bytes, at: udp)?.destinationPort = isGeneve ? Geneve.port : VXLAN.port
                if isGeneve {
                    _ = Geneve(creating: bytes, at: udp + 8, vni: 9)
                } else {
                    _ = VXLAN(creating: bytes, at: udp + 8, vni: 9)
                }
            }
        }

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count where packets[i].encapsulate(outer) { packets.decide(i, .port(1)) }
            return nil
        }
    }

    @Test(
        "a tunnel's headers over a packet for segmentation are on each segment, with lengths of their own",
        arguments: [false, true], [false, true])
    func tunnel(_ isIPv6: Bool, _ isGeneve: Bool) throws {
        let lab = try Lab(ports: 2) { _ in Tunnel(isIPv6: isIPv6, isGeneve: isGeneve) }
        let a = try lab.driver(0) { ($0.offloads, $0.frameRoom) = (OffloadTests.all, 66_000) }
        let b = try lab.driver(1) { ($0.offloads, $0.frameRoom) = (OffloadTests.all, 4096) }
        for big in OffloadTests.shapes {
            #expect(a.send([big.frame], headers: [big.header()]))
            let wanted = (big.payload.count + 999) / 1000
            let got = b.receive(wanted).map(\.frame)
            try #require(got.count == wanted)
            let (udp, count) = (14 + (isIPv6 ? 40 : 20), 30 + (isIPv6 ? 40 : 20))
            #expect(got.map { Array($0[(count + big.prefix)...]) }.reduce([], +) == big.payload)
            for f in got {
                #expect(big.isSound(Array(f[count...])), "inner lengths and checksums")
                let length = Int(f[isIPv6 ? 18 : 16]) << 8 + Int(f[isIPv6 ? 19 : 17])
                #expect(length == f.count - (isIPv6 ? 54 : 14), "outer IP length")
                #expect(isIPv6 || Frame.sum(Array(f[14..<34])) == 0xffff, "outer IP checksum")
                #expect(Int(f[udp + 4]) << 8 + Int(f[udp + 5]) == f.count - udp, "outer UDP length")
            }
        }
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }
}
