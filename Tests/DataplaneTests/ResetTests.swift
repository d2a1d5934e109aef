import Ringway
import RingwayLab
import Testing

/// A reset ends what the driver has set: the next one finds the device as the first did.
@Suite struct ResetTests {
    enum Kind: String, CaseIterable { case resetDevice, status, owner, connection }

    private func configuration(_ d: EmbeddedDriver) throws -> (mac: [UInt8], status: UInt8, pairs: UInt8, mtu: Int) {
        var ask = Payload()
        for v: UInt32 in [0, 12, 0] { ask.add32(v) }
        ask.add([UInt8](repeating: 0, count: 12))
        let bytes = Array(try d.frontEnd.ask(.getConfig, ask).payload.dropFirst(12))
        return (Array(bytes[0..<6]), bytes[6], bytes[8], Int(bytes[10]) | Int(bytes[11]) << 8)
    }

    private func driver(_ lab: Lab, _ port: Int) throws -> EmbeddedDriver {
        let d = try lab.driver(port) {
            $0.queuePairs = 2
            $0.hasControl = true
            $0.offloads = OffloadTests.all
            $0.frameRoom = 9000
        }
        try d.frontEnd.setProtocolFeatures([.mq, .replyAck, .mtu, .status, .resetDevice, .config])
        return d
    }

    @Test(
        """
        each kind of reset ends the MAC address, the number of pairs, the offloads and the filters that the driver \
        set; the MTU is the front-end's and stays while it is there
        """, arguments: Kind.allCases)
    func all(kind: Kind) throws {
        let lab = try Lab(ports: 2, .crossconnect, pairs: [2, 2])
        let a = try driver(lab, 0)
        #expect(a.command(4, 0, [2, 0]) == 0)
        var b = try driver(lab, 1)
        let (big, small) = (OffloadTests.Big(), Frame.numbered(20))
        let none = [UInt8](repeating: 0, count: 8)
        for life in 0..<4 {
            let c = try configuration(b)
            #expect(c.mac == [2, 0, 0, 0, 9, 1] && c.status == 1 && c.pairs == 2, "life \(life)")
            #expect(c.mtu == (kind != .connection && life > 0 ? 1400 : 9000), "life \(life)")
            // One pair, whatever the sender's; all offloads; every frame.
            #expect(a.send(small, pair: 1))
            #expect(b.receive(small.count).map(\.frame) == small, "life \(life)")
            #expect(a.send([big.frame], headers: [big.header()]))
            #expect(b.receive(1).map(\.frame) == [big.frame], "life \(life)")

            #expect(b.command(1, 1, [2, 0, 0, 0, 7, 7]) == 0)
            #expect(b.command(4, 0, [2, 0]) == 0)
            #expect(b.command(5, 0, none) == 0)
            #expect(b.command(0, 0, [0]) == 0 && b.command(0, 1, [0]) == 0 && b.command(2, 0, [5, 0]) == 0)
            try b.frontEnd.tell(.netSetMTU, Payload(1400))
            // A device that cannot be written refuses, and nothing of it stays.
            var write = Payload()
            for v: UInt32 in [0, 6, 0] { write.add32(v) }
            write.add([2, 1, 1, 1, 1, 1])
            #expect(throws: VhostUserError.self) { try b.frontEnd.tell(.setConfig, write) }
            #expect(try configuration(b).mac == [2, 0, 0, 0, 7, 7] && configuration(b).mtu == 1400)
            #expect(a.send(small, pair: 1))
            #expect(b.receive(small.count, pair: 1).map(\.frame) == small, "life \(life)")
            #expect(a.send([big.frame], headers: [big.header()]))
            #expect(b.receive(5).count == 5, "life \(life)")
            #expect(a.settle() && a.settle(pair: 1))
            switch kind {
            case .resetDevice: try b.begin { try $0.tell(.resetDevice) }
            case .status: try b.begin { try $0.tell(.setStatus, Payload(0)) }
            case .owner: try b.begin { try $0.tell(.resetOwner) }
            case .connection:
                b.frontEnd.close()
                b = try driver(lab, 1)
            }
        }
    }
}
