import Ringway
import Testing
import VLANSwitchFunction

/// Ports 0 and 1: VLAN 10; port 2: VLAN 20; port 3: a trunk of 10 and 20, 1 without tags; ports 4 and 5: VLAN 10,
/// isolated.
@Suite struct VLANSwitchTests {
    static let ports = ["10u", "10u", "20u", "10+20+1u", "10u+i", "10u+i"].map { VLANSwitch.Port($0)! }

    static func harness() -> FunctionHarness<VLANSwitch> { FunctionHarness(VLANSwitch(ports), ports: 6) }

    static func frame(to: UInt8, from: UInt8, tag: UInt16? = nil) -> [UInt8] {
        var frame = to == 255 ? [UInt8](repeating: 255, count: 6) : [2, 0, 0, 0, 0, to]
        frame += [2, 0, 0, 0, 0, from]
        if let tag { frame += [0x81, 0, UInt8(tag >> 8), UInt8(tag & 255)] }
        return frame + [8, 0] + (0..<46).map { UInt8($0) }
    }

    typealias Output = FunctionHarness<VLANSwitch>.Output

    @Test("what nobody knows is flooded in its VLAN, on trunks with a tag")
    func floods() {
        let frame = VLANSwitchTests.frame(to: 9, from: 1)
        let expected = [
            Output(frame, to: [1, 4, 5]),
            Output(VLANSwitchTests.frame(to: 9, from: 1, tag: 10), to: [3], isMade: true),
        ]
        for pieces in [[], [1, 12, 3]] {
            #expect(VLANSwitchTests.harness().process([frame], from: 0, pieces: pieces) == expected)
        }
        let broadcast = VLANSwitchTests.frame(to: 255, from: 1, tag: 0x6014)
        #expect(
            VLANSwitchTests.harness().process([broadcast], from: 3) == [
                Output(VLANSwitchTests.frame(to: 255, from: 1), to: [2])
            ])
        let alone = VLANSwitchTests.harness().process([VLANSwitchTests.frame(to: 255, from: 1)], from: 3)
        #expect(alone.map(\.cause) == ["no port for it"])
    }

    @Test("an address is learned in its VLAN alone; tags go on and off, priority stays")
    func learns() {
        let harness = VLANSwitchTests.harness()
        _ = harness.process([VLANSwitchTests.frame(to: 255, from: 1)], from: 0)
        let tagged = VLANSwitchTests.frame(to: 1, from: 2, tag: 0xa00a)
        #expect(harness.process([tagged], from: 3) == [Output(VLANSwitchTests.frame(to: 1, from: 2), to: [0])])
        let answer = harness.process([VLANSwitchTests.frame(to: 2, from: 1)], from: 0)
        #expect(answer == [Output(VLANSwitchTests.frame(to: 2, from: 1, tag: 10), to: [3])])
        // The same address in VLAN 20 is another.
        let other = harness.process([VLANSwitchTests.frame(to: 1, from: 3)], from: 2)
        #expect(other == [Output(VLANSwitchTests.frame(to: 1, from: 3, tag: 20), to: [3])])
        #expect(harness.process([VLANSwitchTests.frame(to: 2, from: 5)], from: 3)[0].ports == [])
        #expect(harness.counter("learned") == 4 && harness.counter("forwarded") == 2)
    }

    @Test("an address that moves is found where it is now, and forgotten after its time")
    func moves() {
        let harness = VLANSwitchTests.harness()
        _ = harness.process([VLANSwitchTests.frame(to: 255, from: 1)], from: 0)
        _ = harness.process([VLANSwitchTests.frame(to: 255, from: 1)], from: 4)
        let frame = VLANSwitchTests.frame(to: 1, from: 2)
        #expect(harness.process([frame], from: 1)[0].ports == [4])
        harness.seconds += 301
        for _ in 0..<16 { _ = harness.tick() }
        #expect(harness.process([frame], from: 1)[0].ports == [0, 4, 5])
        #expect(harness.send(.clear) == 1 && harness.send(.clear) == 0)
        _ = harness.process([frame], from: 1)
        harness.setPort(0, isUp: false)
        #expect(harness.send(.clear) == 0)
    }

    @Test("isolated ports reach the others, and not each other")
    func isolates() {
        let harness = VLANSwitchTests.harness()
        #expect(harness.process([VLANSwitchTests.frame(to: 255, from: 4)], from: 4).map(\.ports) == [[0, 1], [3]])
        #expect(harness.process([VLANSwitchTests.frame(to: 4, from: 5)], from: 5)[0].cause == "isolated")
        #expect(harness.process([VLANSwitchTests.frame(to: 4, from: 1)], from: 0)[0].ports == [4])
    }

    @Test("tags that are not the port's, groups of the link, group sources: dropped, with their causes")
    func refuses() {
        let harness = VLANSwitchTests.harness()
        func cause(_ frame: [UInt8], from port: Int) -> String? { harness.process([frame], from: port)[0].cause }
        #expect(cause(VLANSwitchTests.frame(to: 9, from: 1, tag: 10), from: 0) == "VLAN not of the port")
        #expect(cause(VLANSwitchTests.frame(to: 9, from: 1, tag: 30), from: 3) == "VLAN not of the port")
        #expect(cause(VLANSwitchTests.frame(to: 9, from: 1, tag: 1), from: 3) == "VLAN not of the port")
        #expect(cause(VLANSwitchTests.frame(to: 9, from: 1, tag: 4095), from: 3) == "VLAN not of the port")
        let lldp: [UInt8] = [1, 0x80, 0xc2, 0, 0, 14] + VLANSwitchTests.frame(to: 9, from: 1)[6...]
        #expect(cause(lldp, from: 0) == "link-local group")
        var group = VLANSwitchTests.frame(to: 9, from: 1)
        group[6] = 3
        #expect(cause(group, from: 0) == "source is a group")
        // A tag with a priority alone comes off.
        let priority = harness.process([VLANSwitchTests.frame(to: 255, from: 1, tag: 0xe000)], from: 0)
        #expect(priority[0] == Output(VLANSwitchTests.frame(to: 255, from: 1), to: [1, 4, 5]))
        #expect(priority[1].frame == VLANSwitchTests.frame(to: 255, from: 1, tag: 0xe00a))
    }

    @Test("frames cut at each length, in one piece and in several: nothing traps, none without a whole header passes")
    func odd() {
        let whole = VLANSwitchTests.frame(to: 255, from: 1, tag: 10)
        for pieces in [[], [1, 1, 1], [13, 2]] {
            let cut = (0..<18).map { Array(whole[..<$0]) }
            let out = VLANSwitchTests.harness().process(cut, from: 3, pieces: pieces)
            #expect(out.allSatisfy { $0.ports.isEmpty && !$0.isMade })
        }
        let many = (0..<200).map { VLANSwitchTests.frame(to: 255, from: UInt8($0 % 200)) }
        #expect(VLANSwitchTests.harness().process(many, from: 0).count == 400)
    }

    @Test("ports that are none are refused")
    func syntax() {
        for text in ["", "10", "u", "0", "4095u", "10u+20u", "10+10u", "10++20", "x"] {
            #expect((VLANSwitch.Port(text) == nil) == (text != "10"), "\(text)")
        }
    }
}
