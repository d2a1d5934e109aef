import Ringway
import RingwayLab
import Testing

/// The functions of docs/functions.md do what it says.
@Suite struct GuideTests {
    /// An IPv4 UDP datagram from 10.0.0.1 to 10.0.0.2.
    private static func udp(to port: UInt16, payload: Int = 32) -> [UInt8] {
        var f = Frame.mac(2) + Frame.mac(1) + [8, 0]
        f += [0x45, 0] + Frame.big(28 + payload) + [0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        f += Frame.big(5000) + Frame.big(Int(port)) + Frame.big(8 + payload) + [0, 0]
        return f + [UInt8](repeating: 7, count: payload)
    }

    private static func rules(allowing port: UInt16) throws -> Classifier {
        try Classifier([ClassifierRule(protocol: .udp, destinationPorts: port...port, action: 1)])
    }

    @Test("a firewall passes what its rules allow, names what it drops, and gets other rules while it runs")
    func firewall() throws {
        let table = ReadMostly(try GuideTests.rules(allowing: 53))
        let harness = FunctionHarness(Firewall(rules: table.reader), ports: 2)
        let arp = Frame.mac(2) + Frame.mac(1) + [8, 6] + [UInt8](repeating: 0, count: 46)
        let strange = Frame.mac(2) + Frame.mac(1) + [0x88, 0xb5] + [UInt8](repeating: 0, count: 46)
        let lying = GuideTests.udp(to: 53, payload: 100).prefix(60)
        let out = harness.process(
            [GuideTests.udp(to: 53), GuideTests.udp(to: 54), arp, strange, Array(lying)], from: 0)
        #expect(out.map(\.ports) == [[1], [], [1], [], []])
        #expect(out.map(\.cause) == [nil, "denied", nil, "not IP", "malformed"])
        #expect(harness.counter("allowed") == 1)

        let lab = try Lab(ports: 2, unpinned: 2) { _ in Firewall(rules: table.reader) }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        for port in UInt16(100)..<120 {
            lab.engine.replace(table, with: try GuideTests.rules(allowing: port))
            #expect(a.send([GuideTests.udp(to: 100), GuideTests.udp(to: port)]))
            let wanted = port == 100 ? 2 : 1
            #expect(b.receive(wanted).map(\.frame).last == GuideTests.udp(to: port))
        }
        #expect(a.settle())
        #expect(lab.drops(0) == ["denied": 19])
        #expect(lab.engine.functionCounters().map(\.count) == [21])
        lab.engine.stop()
    }

    @Test("access ports and their trunk")
    func access() {
        let harness = FunctionHarness(Access(), ports: 4)
        let frame = GuideTests.udp(to: 1)
        let tagged = harness.process([frame], from: 3)[0]
        #expect(tagged.ports == [0] && Array(tagged.frame[12..<16]) == [0x81, 0, 0, 103])
        #expect(harness.process([tagged.frame], from: 0) == [.init(frame, to: [3])])
        #expect(harness.process([frame], from: 0)[0].ports == [])
    }

    @Test("a responder before a firewall: an ARP answer goes back, the rest is judged")
    func chain() throws {
        let table = ReadMostly(try GuideTests.rules(allowing: 53))
        let (address, hardware) = (IPv4Address("10.0.0.9")!, MACAddress("02:00:00:00:00:09")!)
        let harness = FunctionHarness(
            Chain(Responder(address: address, hardware: hardware), Firewall(rules: table.reader)), ports: 2)
        let request =
            Frame.broadcast + Frame.mac(1) + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + Frame.mac(1) + [10, 0, 0, 1]
            + [0, 0, 0, 0, 0, 0, 10, 0, 0, 9] + [UInt8](repeating: 0, count: 18)
        let out = harness.process([request, GuideTests.udp(to: 53), GuideTests.udp(to: 54)], from: 0)
        #expect(out.map(\.ports) == [[], [1], [], [0]] && out[2].cause == "denied" && out[3].isMade)
        let answer =
            Frame.mac(1) + [2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2] + [2, 0, 0, 0, 0, 9, 10, 0, 0, 9]
            + Frame.mac(1) + [10, 0, 0, 1] + [UInt8](repeating: 0, count: 18)
        #expect(out[3].frame == answer)
    }

    @Test("a mirror's copy has a tag of its own, and the packet goes on without")
    func mirror() {
        let harness = FunctionHarness(Chain(Mirror(), Pass()), ports: 3)
        let frame = GuideTests.udp(to: 1)
        let out = harness.process([frame], from: 0, pieces: [20, 10])
        #expect(out[0] == .init(frame, to: [1]))
        let copy = Array(frame[..<12]) + [0x81, 0, 0x03, 0xe7] + Array(frame[12...])
        #expect(out[1] == .init(copy, to: [2], isMade: true))
    }

    @Test("what comes before the gateway is known waits for it: the last packet")
    func patient() {
        let harness = FunctionHarness(Patient(), ports: 2)
        let first = GuideTests.udp(to: 1)
        let second = GuideTests.udp(to: 2, payload: 1686)
        let out = harness.process([first, second], from: 0, pieces: [20, 10, 1000])
        #expect(out.allSatisfy { $0.isConsumed } && out.count == 2)
        let told = harness.process(
            [Frame.broadcast + Frame.mac(7) + [8, 6] + [UInt8](repeating: 0, count: 46)], from: 1)
        let sent = Frame.mac(7) + second[6...]
        #expect(told.count == 2 && told[0].isConsumed && told[1] == .init(sent, to: [1], isMade: true))
        #expect(harness.process([first], from: 0) == [.init(Frame.mac(7) + first[6...], to: [1])])
        // Longer than what can be held.
        let other = FunctionHarness(Patient(), ports: 2)
        #expect(other.process([GuideTests.udp(to: 1, payload: 1687)], from: 0)[0].cause == "gateway unknown")
    }

    @Test("a limiter lets its burst through, then what its rate allows, and gets another rate")
    func limiter() {
        let harness = FunctionHarness(Chain(Limiter(bytesPerSecond: 10_000), Pass()), ports: 2)
        let frames = [[UInt8]](repeating: GuideTests.udp(to: 1, payload: 58), count: 20)
        func passed() -> Int { harness.process(frames, from: 0).filter { $0.ports == [1] }.count }
        #expect(passed() == 10)
        #expect(passed() == 0)
        harness.ticks += TickClock.shared.ticksPerMicrosecond * 50_000
        #expect(passed() == 5)
        guard case .first(let old) = harness.send(.first(.bytesPerSecond(100_000))) else {
            Issue.record("the first of the chain did not answer")
            return
        }
        #expect(old == 10_000)
        harness.ticks += TickClock.shared.ticksPerMicrosecond * 20_000
        #expect(passed() == 20)
    }
}
