import Ringway
import RouterFunction
import Testing
import VXLANGatewayFunction

/// Port 0 is the underlay, 192.0.2.1/24; ports 1 and 2 are network 42, port 3 is network 7. One tunnel end is a
/// neighbour, 192.0.2.2, one is behind the router 192.0.2.254.
@Suite struct VXLANGatewayTests {
    static let own = Interface("02:00:00:00:00:f0,192.0.2.1/24")!
    static let router = IPv4Address(192, 0, 2, 254)
    static let (near, far) = (IPv4Address(192, 0, 2, 2), IPv4Address(203, 0, 113, 5))
    static let ownMAC: [UInt8] = [2, 0, 0, 0, 0, 0xf0]
    static let broadcast = [UInt8](repeating: 255, count: 6)

    static func harness(
        _ peers: [IPv4Address] = [near, far], knows: Bool = true
    ) -> FunctionHarness<VXLANGateway> {
        let options = VXLANGateway.Options(underlay: own, router: router, peers: peers, networks: [42, 42, 7])
        let harness = FunctionHarness(VXLANGateway(options, seed: HashSeed(1)), ports: 4)
        if knows { for address in [near, router] { #expect(harness.process([arp(address)], from: 0)[0].isConsumed) } }
        return harness
    }

    // MARK: Frames

    static func bytes(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }
    static func mac(_ address: IPv4Address) -> [UInt8] { [2, 1] + bytes(address.rawValue) }
    static func guest(_ n: UInt8) -> [UInt8] { [2, 9, 9, 9, 9, n] }

    static func sum(_ bytes: some Sequence<UInt8>) -> UInt16 {
        let all = Array(bytes)
        var sum = Checksum()
        all.withUnsafeBytes { sum.add($0.baseAddress!, $0.count) }
        return sum.value
    }

    static func arp(_ from: IPv4Address) -> [UInt8] {
        let ends: [UInt8] = mac(from) + bytes(from.rawValue) + ownMAC + bytes(own.address.rawValue)
        return ownMAC + mac(from) + [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] + ends + [UInt8](repeating: 0, count: 18)
    }

    /// A guest's frame of `length` bytes: UDP, so that it has a flow.
    static func frame(from: [UInt8], to: [UInt8], port: UInt16 = 1000, length: Int = 60) -> [UInt8] {
        var ip: [UInt8] =
            [0x45, 0] + bytes(UInt16(length - 14)) + [0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        ip.replaceSubrange(10..<12, with: bytes(sum(ip)))
        let udp = bytes(port) + [0, 53] + bytes(UInt16(length - 34)) + [0, 0]
        return to + from + [8, 0] + ip + udp + [UInt8](repeating: 6, count: length - 42)
    }

    /// What a frame is in the tunnel; `source`: the UDP port.
    static func tunnel(
        _ inner: [UInt8], vni: UInt32 = 42, from: IPv4Address, to: IPv4Address, next: IPv4Address? = nil,
        source: UInt16, sum: UInt16 = 0
    ) -> [UInt8] {
        let isOut = from == own.address
        var ip: [UInt8] = [0x45, 0] + bytes(UInt16(inner.count + 36)) + [0, 0, 0x40, 0, 64, 17, 0, 0]
        ip += bytes(from.rawValue) + bytes(to.rawValue)
        ip.replaceSubrange(10..<12, with: bytes(self.sum(ip)))
        let udp = bytes(source) + bytes(UInt16(4789)) + bytes(UInt16(inner.count + 16)) + bytes(sum)
        let addresses = isOut ? mac(next ?? to) + ownMAC : ownMAC + mac(from)
        return addresses + [8, 0] + ip + udp + [8, 0, 0, 0] + bytes(vni << 8) + inner
    }

    static func from(_ peer: IPv4Address, _ inner: [UInt8], vni: UInt32 = 42) -> [UInt8] {
        tunnel(inner, vni: vni, from: peer, to: own.address, source: 50_000)
    }

    /// The UDP source port of a frame in the tunnel.
    static func source(_ frame: [UInt8]) -> UInt16 { UInt16(frame[34]) << 8 | UInt16(frame[35]) }

    // MARK: Tests

    @Test("a broadcast goes to the network's ports and to every tunnel end, with headers of its own for each")
    func broadcasts() {
        typealias T = VXLANGatewayTests
        for pieces in [[], [1, 20, 3]] {
            let harness = T.harness()
            let frame = T.frame(from: T.guest(1), to: T.broadcast)
            let out = harness.process([frame], from: 1, pieces: pieces)
            #expect(out.map(\.ports) == [[2], [0], [0]] && out[0].frame == frame)
            let source = T.source(out[1].frame)
            #expect(source >= 0xc000)
            #expect(out[1].frame == T.tunnel(frame, from: T.own.address, to: T.near, source: source))
            #expect(out[2].frame == T.tunnel(frame, from: T.own.address, to: T.far, next: T.router, source: source))
            // A network without another port here: the frame itself goes into the tunnel, with another number.
            let alone = harness.process([frame], from: 3, pieces: pieces)
            #expect(alone.map(\.ports) == [[0], [0]] && alone[1].isMade)
            #expect(alone[0].frame == T.tunnel(frame, vni: 7, from: T.own.address, to: T.near, source: source))
            // And from the tunnel to the ports alone, without what the underlay put behind it.
            let back = harness.process([T.from(T.near, frame) + [0, 0, 0]], from: 0, pieces: pieces)
            #expect(back == [.init(frame, to: [1, 2])])
        }
    }

    @Test("guests are learned, in each network by itself: on ports, and behind tunnel ends, which they may change")
    func learns() {
        typealias T = VXLANGatewayTests
        let harness = T.harness()
        let there = T.frame(from: T.guest(8), to: T.broadcast)
        #expect(harness.process([T.from(T.near, there)], from: 0)[0].ports == [1, 2])
        let frame = T.frame(from: T.guest(1), to: T.guest(8))
        var out = harness.process([frame], from: 1)
        let source = T.source(out[0].frame)
        #expect(out == [.init(T.tunnel(frame, from: T.own.address, to: T.near, source: source), to: [0])])
        #expect(harness.process([T.from(T.near, T.frame(from: T.guest(8), to: T.guest(1)))], from: 0)[0].ports == [1])
        // Another flow, another source port; the same flow, the same.
        let other = T.frame(from: T.guest(1), to: T.guest(8), port: 1001)
        out = harness.process([other, frame], from: 1)
        #expect(T.source(out[0].frame) != source && T.source(out[1].frame) == source)
        // It moves to the other tunnel end, then to a port.
        #expect(harness.process([T.from(T.far, there)], from: 0)[0].ports == [1, 2])
        out = harness.process([frame], from: 1)
        #expect(Array(out[0].frame[30..<34]) == T.bytes(T.far.rawValue))
        #expect(harness.process([there], from: 2).map(\.ports) == [[1], [0], [0]])
        #expect(harness.process([frame], from: 1) == [.init(frame, to: [2])])
        #expect(harness.process([T.frame(from: T.guest(9), to: T.guest(8))], from: 2)[0].cause == "on the same side")
        #expect(harness.process([T.from(T.far, there)], from: 0)[0].ports == [1, 2])
        #expect(harness.process([T.from(T.near, frame)], from: 0)[0].cause == "on the same side", "never back")
        // The other network does not know it.
        #expect(harness.process([frame], from: 3).map(\.ports) == [[0], [0]])
        #expect(harness.send(.clear) == 4)
        #expect(harness.process([frame], from: 1).map(\.ports) == [[2], [0], [0]])
        // Nobody heard of it for its time.
        _ = harness.process([there], from: 2)
        harness.seconds += 300
        for _ in 0..<16 { _ = harness.tick() }
        #expect(harness.send(.clear) == 0)
        _ = harness.process([there], from: 2)
        harness.setPort(3, isUp: false)
        #expect(harness.send(.clear) == 0)
    }

    @Test("ARP on the underlay: answers, asks for a tunnel end or for the router to it, and drops meanwhile")
    func asks() {
        typealias T = VXLANGatewayTests
        let harness = T.harness(knows: false)
        let frame = T.frame(from: T.guest(1), to: T.broadcast)
        let out = harness.process([frame], from: 3)
        #expect(out.map(\.cause) == ["tunnel end unknown", "tunnel end unknown", nil, nil])
        #expect(out.map(\.ports) == [[], [], [0], [0]])
        #expect(
            out[2...].map { Array($0.frame[38..<42]) }
                == [T.far, T.near].map { peer in
                    T.bytes((peer == T.far ? T.router : peer).rawValue)
                })
        #expect(harness.process([frame], from: 3).map(\.ports) == [[], []], "one request a second")
        var request = T.arp(T.near)
        request[21] = 1
        let answer = harness.process([request], from: 0)
        #expect(answer.map(\.ports) == [[0]] && answer[0].frame[21] == 2)
        #expect(Array(answer[0].frame[22..<32]) == T.ownMAC + T.bytes(T.own.address.rawValue))
        #expect(harness.process([frame], from: 3)[0].ports == [0])
        #expect(harness.counter("ARP requests") == 2 && harness.counter("ARP replies") == 1)
    }

    @Test("a frame that the tunnel makes too long is dropped; a large one is measured by its segments")
    func lengths() {
        typealias T = VXLANGatewayTests
        let harness = T.harness([T.near])
        let frames = [1464, 1465].map { T.frame(from: T.guest(1), to: T.guest(2), length: $0) }
        let out = harness.process(frames, from: 3)
        #expect(out.map(\.ports) == [[0], []] && out[1].cause == "longer than the underlay's MTU")
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset) = (NetHeader.needsCsum, 34, 6)
        (header.gsoType, header.hdrLen) = (NetHeader.gsoUDPL4, 42)
        let large = T.frame(from: T.guest(1), to: T.guest(2), length: 30_000)
        for (size, isPassed) in [(UInt16(1422), true), (1423, false)] {
            header.gsoSize = size
            let out = harness.process([large], from: 3, header: header)[0]
            #expect(out.ports == (isPassed ? [0] : []))
            if isPassed { #expect(out.header.isTunnel && out.header.csumStart == 84 && out.header.gsoSize == 1422) }
        }
    }

    @Test("the outer checksum that was still to be filled in goes with its header, an inner one's place follows")
    func checksums() {
        typealias T = VXLANGatewayTests
        let harness = T.harness()
        let inner = T.frame(from: T.guest(8), to: T.broadcast)
        let frame = T.tunnel(inner, from: T.near, to: T.own.address, source: 50_000, sum: 0x1234)
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset) = (NetHeader.needsCsum, 34, 6)
        var out = harness.process([frame], from: 0, header: header)
        #expect(out == [.init(inner, to: [1, 2])] && out[0].header.isPlain)
        header.csumStart = 84
        out = harness.process([frame], from: 0, header: header)
        #expect(out == [.init(inner, to: [1, 2])] && out[0].header.csumStart == 34)
        (header.gsoType, header.gsoSize) = (NetHeader.gsoUDPL4, 100)
        #expect(harness.process([frame], from: 0, header: header)[0].cause == "several packets in one")
    }

    @Test("what is not of the tunnel, its ends or its networks, and every frame cut at each length, is dropped")
    func odd() {
        typealias T = VXLANGatewayTests
        let harness = T.harness()
        let inner = T.frame(from: T.guest(8), to: T.broadcast)
        let whole = T.from(T.near, inner)
        func changed(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
            var frame = whole
            change(&frame)
            frame.replaceSubrange(24..<26, with: [0, 0])
            frame.replaceSubrange(24..<26, with: T.bytes(T.sum(frame[14..<34])))
            return frame
        }
        let tagged = Array(inner[..<12]) + [0x81, 0, 0, 5] + inner[12...]
        let group = T.frame(from: [3, 0, 0, 0, 0, 1], to: T.guest(1))
        for (frame, cause) in [
            (T.from(IPv4Address(192, 0, 2, 3), inner), "from no tunnel end"),
            (T.from(T.near, inner, vni: 43), "of no network"),
            (T.from(T.near, tagged), "VLAN tag"), (T.from(T.near, group), "source is a group"),
            (T.from(T.near, Array(inner[..<13])), "malformed"), (changed { $0[5] = 1 }, "for another host"),
            (changed { $0[33] = 9 }, "for another host"), (changed { $0[20] = 0x20 }, "fragment"),
            (changed { $0[21] = 1 }, "fragment"), (changed { $0[36] = 1 }, "neither ARP nor VXLAN"),
            (changed { $0[23] = 6 }, "malformed"), (changed { $0[23] = 47 }, "neither ARP nor VXLAN"),
            (changed { $0[42] = 0 }, "malformed"), (changed { $0[38] = 0xff }, "malformed"),
            (changed { $0[39] = 15 }, "malformed"), (changed { $0[13] = 6 }, "malformed"),
            (
                changed {
                    $0[12] = 0x86; $0[13] = 0xdd
                }, "neither ARP nor VXLAN"
            ),
        ] as [([UInt8], String)] {
            let out = harness.process([frame], from: 0)[0]
            #expect(out.ports == [] && out.cause == cause, "\(out)")
        }
        var wrong = whole
        wrong[24] ^= 1
        #expect(harness.process([wrong], from: 0)[0].cause == "malformed")
        #expect(harness.process([tagged], from: 1)[0].cause == "VLAN tag")
        #expect(harness.process([group], from: 1)[0].cause == "source is a group")
        for pieces in [[], [1, 1, 1], [15, 20, 30]] {
            let cut = harness.process((0..<whole.count).map { Array(whole[..<$0]) }, from: 0, pieces: pieces)
            #expect(cut.allSatisfy { $0.ports.isEmpty && !$0.isMade })
        }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var frame = whole
            for _ in 0..<3 { frame[12 + Int(random.next() % UInt64(frame.count - 12))] = UInt8(random.next() & 255) }
            let (from, pieces) = (Int(random.next() % 4), [[], [14, 20, 8], [40]][Int(random.next() % 3)])
            _ = harness.process([random.next() % 2 == 0 ? frame : changed { $0 = frame }], from: from, pieces: pieces)
        }
    }
}
