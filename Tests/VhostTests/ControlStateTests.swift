import Testing
import Vhost
import Virtio

@Suite("The control queue's shadow") struct ControlStateTests {
    @Test("what was accepted is said again in the documented order: MAC, pairs or RSS, offloads, receive modes, VLANs")
    func order() {
        var state = ControlState()
        #expect(state.commands == [])
        let table = DriverCommand.macTable(unicast: [[2, 0, 0, 0, 0, 5]], multicast: [])
        let sent: [DriverCommand] = [
            .vlan(30, true), .receive(.promiscuous, true), .vlan(7, true), .offloads([.guestCsum]), .pairs(2),
            .mac([2, 0, 0, 0, 0, 1]), table,
            .receive(.noBroadcast, true), .mac([2, 0, 0, 0, 0, 2]), .receive(.promiscuous, false), .vlan(30, false),
            .vlan(8, true),
            // ANNOUNCE_ACK leaves nothing behind.
            DriverCommand(kind: 3, command: 0, data: []),
        ]
        for command in sent { state.note(command) }
        #expect(
            state.commands == [
                .mac([2, 0, 0, 0, 0, 2]), table, .pairs(2), .offloads([.guestCsum]), .receive(.promiscuous, false),
                .receive(.noBroadcast, true),
                .vlan(7, true), .vlan(8, true),
            ])
        // RSS takes the place of the number of pairs, and the other way round.
        state.note(.rss([1, 2, 3]))
        #expect(state.commands.contains(.rss([1, 2, 3])) && !state.commands.contains(.pairs(2)))
        state.note(.pairs(1))
        #expect(state.commands.contains(.pairs(1)) && !state.commands.contains(.rss([1, 2, 3])))
    }

    @Test("commands are laid out as virtio 1.3, 5.1.6.5, has them")
    func layout() {
        func bytes(_ c: DriverCommand) -> [UInt8] { [c.kind, c.command] + c.data }
        #expect(bytes(.receive(.allMulticast, true)) == [0, 1, 1])
        #expect(bytes(.mac([2, 0, 0, 0, 0, 1])) == [1, 1, 2, 0, 0, 0, 0, 1])
        #expect(
            bytes(.macTable(unicast: [], multicast: [[1, 0, 0, 0, 0, 9]])) == [
                1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 9,
            ])
        #expect(bytes(.vlan(0x123, true)) == [2, 0, 0x23, 1] && bytes(.vlan(0x123, false)) == [2, 1, 0x23, 1])
        #expect(
            bytes(.pairs(258)) == [4, 0, 2, 1]
                && bytes(.offloads([.guestCsum, .guestTSO4])) == [5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0])
    }
}
