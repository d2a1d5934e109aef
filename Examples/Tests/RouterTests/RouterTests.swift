import Ringway
import RouterFunction
import Testing

/// Two networks and a route: 192.0.2.0/24 on port 0, 198.51.100.0/24 on port 1, 203.0.113.0/24 behind 198.51.100.254.
@Suite struct RouterTests {
    static let interfaces = [
        Interface("02:00:00:00:00:f0,192.0.2.1/24")!, Interface("02:00:00:00:00:f1,198.51.100.1/24", mtu: 1000)!,
    ]
    static let host = (mac: MACAddress("02:00:00:00:00:07")!, address: IPv4Address(192, 0, 2, 7))
    static let server = (mac: MACAddress("02:00:00:00:00:09")!, address: IPv4Address(198, 51, 100, 9))
    static let gateway = (mac: MACAddress("02:00:00:00:00:fe")!, address: IPv4Address(198, 51, 100, 254))

    static func harness(_ routes: String = "203.0.113.0/24 198.51.100.254") throws -> FunctionHarness<Router> {
        let routes = try Routes(routes, interfaces)
        return FunctionHarness(Router(interfaces, routes, ticksPerSecond: 1000), ports: 2)
    }

    /// Hexadecimal digits, blanks between them.
    static func hex(_ text: String) -> [UInt8] {
        let digits = text.filter(\.isHexDigit).compactMap(\.hexDigitValue)
        return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }
    static func bytes(_ mac: MACAddress) -> [UInt8] { hex(mac.description) }
    static func bytes(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    static func sum(_ bytes: [UInt8]) -> UInt16 {
        var sum = Checksum()
        bytes.withUnsafeBytes { sum.add($0.baseAddress!, $0.count) }
        return sum.value
    }

    static func arp(_ operation: UInt16, from: (mac: MACAddress, address: IPv4Address), to port: Int) -> [UInt8] {
        let own = interfaces[port]
        let target = operation == 1 ? [UInt8](repeating: 0, count: 6) : bytes(own.mac)
        var frame = operation == 1 ? [UInt8](repeating: 255, count: 6) : bytes(own.mac)
        frame += bytes(from.mac) + hex("0806 0001 0800 06 04") + bytes(operation)
        frame += bytes(from.mac) + bytes(from.address.rawValue) + target + bytes(own.address.rawValue)
        return frame + [UInt8](repeating: 0, count: 18)
    }

    /// An IPv4 packet of `host` for port 0's router.
    static func packet(
        to: IPv4Address, from: IPv4Address = host.address, ttl: UInt8 = 64, proto: UInt8 = 17, flags: UInt16 = 0,
        _ payload: [UInt8] = hex("9c40 0035 000c 0000 01020304")
    ) -> [UInt8] {
        var header: [UInt8] = [0x45, 0] + bytes(UInt16(20 + payload.count)) + [0x12, 0x34] + bytes(flags)
        header += [ttl, proto, 0, 0] + bytes(from.rawValue) + bytes(to.rawValue)
        header.replaceSubrange(10..<12, with: bytes(sum(header)))
        return bytes(interfaces[0].mac) + bytes(host.mac) + [8, 0] + header + payload
    }

    /// What the router makes of a packet that it forwards.
    static func forwarded(_ frame: [UInt8], to mac: MACAddress) -> [UInt8] {
        var frame = bytes(mac) + bytes(interfaces[1].mac) + frame[12...]
        frame[22] -= 1
        frame.replaceSubrange(24..<26, with: [0, 0])
        frame.replaceSubrange(24..<26, with: bytes(sum(Array(frame[14..<34]))))
        return frame
    }

    /// The ICMP error about a frame.
    static func error(_ type: UInt8, _ code: UInt8, about frame: [UInt8], rest: UInt32 = 0) -> [UInt8] {
        let quoted = Array(frame[14..<min(128, frame.count)])
        var icmp = [type, code, 0, 0] + bytes(rest) + quoted
        icmp.replaceSubrange(2..<4, with: bytes(sum(icmp)))
        var header: [UInt8] = [0x45, 0] + bytes(UInt16(20 + icmp.count)) + [0, 0, 0, 0, 64, 1, 0, 0]
        header += bytes(interfaces[0].address.rawValue) + frame[26..<30]
        header.replaceSubrange(10..<12, with: bytes(sum(header)))
        let whole = bytes(host.mac) + bytes(interfaces[0].mac) + [8, 0] + header + icmp
        return whole + [UInt8](repeating: 0, count: max(0, 60 - whole.count))
    }

    @Test("a request for the router's address is answered, one for another's is not")
    func answersARP() throws {
        let harness = try RouterTests.harness()
        let request = RouterTests.arp(1, from: RouterTests.host, to: 0)
        let reply = RouterTests.hex(
            """
            020000000007 0200000000f0 0806 0001 0800 06 04 0002
            0200000000f0 c0000201 020000000007 c0000207 0000 00000000 00000000 00000000 00000000
            """)
        #expect(harness.process([request], from: 0) == [.init(reply, to: [0])])
        var other = request
        other[41] = 2
        #expect(harness.process([other], from: 0)[0].cause == "for another host")
        #expect(harness.counter("ARP replies") == 1)
    }

    @Test("asks for a neighbour, forwards once it has answered, the last packet before, too: to hosts and gateways")
    func forwards() throws {
        let harness = try RouterTests.harness()
        for (destination, next) in [
            (RouterTests.server.address, RouterTests.server), (IPv4Address(203, 0, 113, 5), RouterTests.gateway),
        ] {
            let frame = RouterTests.packet(to: destination)
            let last = RouterTests.packet(to: destination, ttl: 9)
            let out = harness.process([frame, last], from: 0, pieces: [20, 10])
            #expect(out.map(\.ports) == [[], [], [1]] && out[0].isConsumed && out[1].isConsumed)
            let asked =
                RouterTests.hex(
                    "ffffffffffff 0200000000f1 0806 0001 0800 06 04 0001 0200000000f1 c6336401 000000000000")
                + RouterTests.bytes(next.address.rawValue) + [UInt8](repeating: 0, count: 18)
            #expect(out[2] == .init(asked, to: [1], isMade: true))
            let told = harness.process([RouterTests.arp(2, from: next, to: 1)], from: 1)
            #expect(told.count == 2 && told[0].isConsumed)
            #expect(told[1] == .init(RouterTests.forwarded(last, to: next.mac), to: [1], isMade: true))
            for pieces in [[], [1, 20, 3]] {
                let sent = harness.process([frame], from: 0, pieces: pieces)
                #expect(sent == [.init(RouterTests.forwarded(frame, to: next.mac), to: [1])])
            }
        }
        #expect(harness.counter("forwarded") == 4 && harness.counter("ARP requests") == 2)
        #expect(harness.counter("waited") == 4)
    }

    @Test("a neighbour is asked again in time, and forgotten where it does not answer")
    func ages() throws {
        let harness = try RouterTests.harness()
        let frame = RouterTests.packet(to: RouterTests.server.address)
        _ = harness.process([RouterTests.arp(1, from: RouterTests.server, to: 1)], from: 1)
        #expect(harness.process([frame], from: 0)[0].ports == [1])
        // In the last half minute it is asked again, and packets still go there.
        harness.seconds += 270
        #expect(harness.process([frame, frame], from: 0).map(\.ports) == [[1], [1], [1]])
        harness.seconds += 31
        for _ in 0..<16 { #expect(harness.tick().isEmpty) }
        let out = harness.process([frame], from: 0)
        #expect(out.map(\.ports) == [[], [1]] && out[1].isMade)
    }

    @Test("three requests, one a second; then the host is unreachable, and asked for again later")
    func unreachable() throws {
        let harness = try RouterTests.harness()
        let frame = RouterTests.packet(to: RouterTests.server.address)
        var made: [[Int]] = []
        for _ in 0..<5 {
            made.append(harness.process([frame], from: 0).dropFirst().map { $0.ports[0] })
            harness.seconds += 1
        }
        #expect(made == [[1], [1], [1], [0], [0]])
        let out = harness.process([frame], from: 0)
        #expect(out[1] == .init(RouterTests.error(3, 1, about: frame), to: [0], isMade: true))
        harness.seconds += 20
        #expect(harness.process([frame], from: 0)[1].ports == [1])
    }

    @Test("no hop left, no route, no program, too long: the sender is told")
    func errors() throws {
        let harness = try RouterTests.harness()
        let long = [UInt8](repeating: 1, count: 1000)
        let cases: [(frame: [UInt8], type: UInt8, code: UInt8, rest: UInt32, cause: String)] = [
            (RouterTests.packet(to: RouterTests.server.address, ttl: 1), 11, 0, 0, "no hop left"),
            (RouterTests.packet(to: RouterTests.server.address, ttl: 0), 11, 0, 0, "no hop left"),
            (RouterTests.packet(to: IPv4Address(10, 0, 0, 1)), 3, 0, 0, "no route"),
            (RouterTests.packet(to: IPv4Address(192, 0, 2, 1)), 3, 3, 0, "for the router"),
            (
                RouterTests.packet(to: RouterTests.server.address, proto: 99, flags: 0x4000, long), 3, 4, 1000,
                "longer than the MTU"
            ),
        ]
        for (frame, type, code, rest, cause) in cases {
            let out = harness.process([frame], from: 0)
            #expect(out[0].cause == cause && out.count == 2, "\(cause)")
            let expected = RouterTests.error(type, code, about: frame, rest: rest)
            #expect(out.last == .init(expected, to: [0], isMade: true), "\(cause)")
        }
        #expect(harness.counter("ICMP errors") == 5)
    }

    @Test("no errors about errors, later fragments and groups; at most 100 a second")
    func fewErrors() throws {
        let harness = try RouterTests.harness()
        harness.ticks = 0
        let unreachable = RouterTests.hex("0301 0000 00000000") + [UInt8](repeating: 0, count: 28)
        let quiet = [
            RouterTests.packet(to: IPv4Address(10, 0, 0, 1), proto: 1, unreachable),
            RouterTests.packet(to: IPv4Address(10, 0, 0, 1), flags: 5),
            RouterTests.packet(to: IPv4Address(224, 0, 0, 1), ttl: 1),
            RouterTests.packet(to: IPv4Address(10, 0, 0, 1), from: .any),
            RouterTests.packet(to: IPv4Address(10, 0, 0, 1), from: IPv4Address(127, 0, 0, 1)),
        ]
        #expect(harness.process(quiet, from: 0).count == quiet.count)
        let frames = Array(repeating: RouterTests.packet(to: IPv4Address(10, 0, 0, 1)), count: 150)
        #expect(harness.process(frames, from: 0).count == 250)
        harness.ticks = 500
        #expect(harness.process(frames, from: 0).count == 200)
    }

    @Test("an echo is answered, whatever is in it")
    func echo() throws {
        let harness = try RouterTests.harness()
        for address in RouterTests.interfaces.map(\.address) {
            var icmp = RouterTests.hex("0800 0000 0001 0002") + (0..<200).map { UInt8($0) }
            icmp.replaceSubrange(2..<4, with: RouterTests.bytes(RouterTests.sum(icmp)))
            let frame = RouterTests.packet(to: address, ttl: 1, proto: 1, icmp)
            let out = harness.process([frame], from: 0, pieces: [30, 9])
            #expect(out.map(\.ports) == [[0]])
            let answer = out[0].frame
            #expect(Array(answer[..<12]) == Array(frame[6..<12] + frame[..<6]))
            #expect(Array(answer[26..<34]) == Array(frame[30..<34] + frame[26..<30]) && answer[22] == 64)
            #expect(answer[34] == 0 && Array(answer[38...]) == Array(frame[38...]))
            #expect(RouterTests.sum(Array(answer[14..<34])) == 0 && RouterTests.sum(Array(answer[34...])) == 0)
        }
    }

    @Test("a large TCP packet that is still to be cut is measured by its segments")
    func segments() throws {
        let harness = try RouterTests.harness()
        _ = harness.process([RouterTests.arp(1, from: RouterTests.server, to: 1)], from: 1)
        let tcp =
            RouterTests.hex("9c40 0050 00000001 00000000 5010 ffff 0000 0000") + [UInt8](repeating: 1, count: 8000)
        let frame = RouterTests.packet(to: RouterTests.server.address, proto: 6, flags: 0x4000, tcp)
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset) = (NetHeader.needsCsum, 34, 16)
        (header.gsoType, header.hdrLen) = (NetHeader.gsoTCPv4, 54)
        header.gsoSize = 960
        #expect(harness.process([frame], from: 0, header: header)[0].ports == [1])
        header.gsoSize = 961
        #expect(harness.process([frame], from: 0, header: header)[0].cause == "longer than the MTU")
    }

    @Test("other routes count from the next burst on")
    func reroute() throws {
        let harness = try RouterTests.harness("")
        let frame = RouterTests.packet(to: IPv4Address(203, 0, 113, 5))
        #expect(harness.process([frame], from: 0)[0].cause == "no route")
        harness.send(.reroute(try Routes("0.0.0.0/0 198.51.100.9", RouterTests.interfaces)))
        #expect(harness.process([frame], from: 0).map(\.isConsumed) == [true, false])
    }

    @Test("frames for others, wrong checksums, other protocols, and each frame cut at each length are dropped")
    func odd() throws {
        let harness = try RouterTests.harness()
        _ = harness.process([RouterTests.arp(1, from: RouterTests.server, to: 1)], from: 1)
        let frame = RouterTests.packet(to: RouterTests.server.address)
        var (notMine, wrong, ipv6, options) = (frame, frame, frame, frame)
        notMine[5] = 9
        wrong[24] ^= 1
        (ipv6[12], ipv6[13]) = (0x86, 0xdd)
        options[14] = 0x4f
        let out = harness.process([notMine, wrong, ipv6, options], from: 0)
        #expect(out.map(\.cause) == ["for another host", "header checksum", "neither IPv4 nor ARP", "malformed"])
        for whole in [frame, RouterTests.arp(1, from: RouterTests.host, to: 0)] {
            let end = whole[13] == 6 ? 42 : whole.count
            for pieces in [[], [1, 1, 1], [15, 20]] {
                let cut = harness.process((0..<end).map { Array(whole[..<$0]) }, from: 0, pieces: pieces)
                #expect(cut.allSatisfy { $0.ports.isEmpty && !$0.isMade })
            }
        }
    }

    @Test("interfaces and routes that are none are refused")
    func syntax() {
        for text in ["", "02:00:00:00:00:01", "03:00:00:00:00:01,192.0.2.1/24", "02:00:00:00:00:01,192.0.2.1/33"] {
            #expect(Interface(text) == nil)
        }
        for (text, message) in [
            ("\n10.0.0.0/8", "line 2: no prefix and gateway, such as 0.0.0.0/0 192.0.2.254"),
            ("10.0.0.0/8 172.16.0.1", "line 1: 172.16.0.1 lies on no interface's network"),
        ] {
            let error = #expect(throws: Routes.SyntaxError.self) { try Routes(text, RouterTests.interfaces) }
            #expect(error?.description == message)
        }
    }
}
