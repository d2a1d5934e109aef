import NAT44Function
import Ringway
import RouterFunction
import Testing

/// Port 0 is outside, 198.51.100.1; behind port 1 lies 10.0.0.0/24. Remote hosts are behind the gateway 198.51.100.254.
@Suite struct NAT44Tests {
    static let interfaces = [
        Interface("02:00:00:00:00:f0,198.51.100.1/24")!, Interface("02:00:00:00:00:f1,10.0.0.1/24")!,
    ]
    static let outside = IPv4Address(198, 51, 100, 1)
    static let (host, other) = (IPv4Address(10, 0, 0, 7), IPv4Address(10, 0, 0, 8))
    static let (remote, stranger) = (IPv4Address(203, 0, 113, 5), IPv4Address(203, 0, 113, 6))
    static let gateway = IPv4Address(198, 51, 100, 254)

    /// A NAT that knows its neighbours' MAC addresses.
    static func harness(_ change: (inout NAT44.Options) -> Void = { _ in }) throws -> FunctionHarness<NAT44> {
        var options = NAT44.Options()
        change(&options)
        let routes = try Routes("0.0.0.0/0 198.51.100.254", interfaces)
        let harness = FunctionHarness(NAT44(interfaces, routes, options, ticksPerSecond: 1000), ports: 2)
        age(harness, 0)
        return harness
    }

    /// Seconds go by, in which the neighbours answer again; returns how many sessions there are then.
    @discardableResult
    static func age(_ harness: FunctionHarness<NAT44>, _ seconds: UInt32) -> Int {
        harness.seconds += seconds
        for _ in 0..<64 { _ = harness.tick() }
        for (address, port) in [(gateway, 0), (host, 1), (other, 1)] {
            #expect(harness.process([arp(from: address, port)], from: port)[0].isConsumed)
        }
        return harness.send(.count)
    }

    // MARK: Frames

    static func bytes(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }
    static func mac(_ address: IPv4Address) -> [UInt8] { [2, 1] + bytes(address.rawValue) }
    static func mac(_ port: Int) -> [UInt8] { [2, 0, 0, 0, 0, port == 0 ? 0xf0 : 0xf1] }

    static func sum(_ bytes: some Sequence<UInt8>, _ before: [UInt8] = []) -> UInt16 {
        let all = before + Array(bytes)
        var sum = Checksum()
        all.withUnsafeBytes { sum.add($0.baseAddress!, $0.count) }
        return sum.value
    }

    static func arp(from: IPv4Address, _ port: Int) -> [UInt8] {
        let own = interfaces[port].address
        return mac(port) + mac(from) + [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] + mac(from) + bytes(from.rawValue) + mac(port)
            + bytes(own.rawValue) + [UInt8](repeating: 0, count: 18)
    }

    /// A frame for the NAT, from inside (port 1) or outside.
    static func frame(
        _ port: Int, _ packet: [UInt8], from: IPv4Address? = nil
    ) -> [UInt8] {
        mac(port) + mac(from ?? (port == 0 ? gateway : host)) + [8, 0] + packet
    }

    static func ip(
        _ from: IPv4Address, _ to: IPv4Address, _ proto: UInt8, _ payload: [UInt8], ttl: UInt8 = 64, flags: UInt16 = 0
    ) -> [UInt8] {
        var header: [UInt8] = [0x45, 0] + bytes(UInt16(20 + payload.count)) + [0x12, 0x34] + bytes(flags)
        header += [ttl, proto, 0, 0] + bytes(from.rawValue) + bytes(to.rawValue)
        header.replaceSubrange(10..<12, with: bytes(sum(header)))
        return header + payload
    }

    static func pseudo(_ from: IPv4Address, _ to: IPv4Address, _ proto: UInt8, _ length: Int) -> [UInt8] {
        bytes(from.rawValue) + bytes(to.rawValue) + [0, proto] + bytes(UInt16(length))
    }

    /// UDP, with a checksum.
    static func udp(
        _ from: IPv4Address, _ fromPort: UInt16, _ to: IPv4Address, _ toPort: UInt16, ttl: UInt8 = 64,
        hasSum: Bool = true
    ) -> [UInt8] {
        var udp = bytes(fromPort) + bytes(toPort) + bytes(UInt16(13)) + [0, 0] + [1, 2, 3, 4, 5]
        if hasSum { udp.replaceSubrange(6..<8, with: bytes(sum(udp, pseudo(from, to, 17, 13)))) }
        return ip(from, to, 17, udp, ttl: ttl)
    }

    static func tcp(
        _ from: IPv4Address, _ fromPort: UInt16, _ to: IPv4Address, _ toPort: UInt16, _ flags: UInt8
    ) -> [UInt8] {
        var tcp = bytes(fromPort) + bytes(toPort) + [0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0, 9, 8, 7]
        tcp.replaceSubrange(16..<18, with: bytes(sum(tcp, pseudo(from, to, 6, tcp.count))))
        return ip(from, to, 6, tcp)
    }

    static func icmp(_ from: IPv4Address, _ to: IPv4Address, _ message: [UInt8]) -> [UInt8] {
        var message = message
        message.replaceSubrange(2..<4, with: bytes(sum(message)))
        return ip(from, to, 1, message)
    }

    static func echo(_ from: IPv4Address, _ to: IPv4Address, _ type: UInt8, _ identifier: UInt16) -> [UInt8] {
        icmp(from, to, [type, 0, 0, 0] + bytes(identifier) + [0, 1, 7, 7, 7, 7])
    }

    /// The IP packet of a frame, and its two ports or an echo's identifier.
    static func parts(_ frame: [UInt8]) -> (from: IPv4Address, to: IPv4Address, ports: (UInt16, UInt16), ip: [UInt8]) {
        func word(_ at: Int) -> UInt16 { UInt16(frame[at]) << 8 | UInt16(frame[at + 1]) }
        func address(_ at: Int) -> IPv4Address { IPv4Address(rawValue: UInt32(word(at)) << 16 | UInt32(word(at + 2))) }
        return (address(26), address(30), (word(34), word(frame[23] == 1 ? 38 : 36)), Array(frame[14...]))
    }

    /// Whether the checksums of an IP packet and of what it holds are right.
    static func isSound(_ ip: [UInt8]) -> Bool {
        let payload = Array(ip[20...])
        let before = ip[9] == 1 ? [] : Array(ip[12..<20]) + [0, ip[9]] + bytes(UInt16(payload.count))
        return sum(ip[..<20]) == 0 && sum(payload, before) == 0
    }

    /// What the NAT makes of a packet that passes: its outside or inside form, with one hop less.
    static func pass(_ harness: FunctionHarness<NAT44>, _ port: Int, _ packet: [UInt8], pieces: [Int] = []) throws -> (
        from: IPv4Address, to: IPv4Address, ports: (UInt16, UInt16), ip: [UInt8]
    ) {
        let out = harness.process([frame(port, packet)], from: port, pieces: pieces)
        try #require(out.map(\.ports) == [[1 - port]], "\(out)")
        let parts = parts(out[0].frame)
        #expect(isSound(parts.ip) && parts.ip[8] == packet[8] - 1)
        let expected: [UInt8] = port == 1 ? mac(gateway) + mac(0) : mac(parts.to) + mac(1)
        #expect(Array(out[0].frame.prefix(12)) == expected)
        return parts
    }

    static func cause(_ harness: FunctionHarness<NAT44>, _ port: Int, _ packet: [UInt8]) -> String? {
        let out = harness.process([frame(port, packet)], from: port)
        return out.count == 1 && out[0].ports.isEmpty ? out[0].cause : "passed: \(out)"
    }

    // MARK: UDP and echoes

    @Test("a datagram gets the outside address and a port, its answer goes back; another remote host's does not")
    func datagrams() throws {
        let harness = try NAT44Tests.harness { $0.ports = 5000...5001 }
        typealias T = NAT44Tests
        for pieces in [[], [1, 20, 3]] {
            let out = try T.pass(harness, 1, T.udp(T.host, 777, T.remote, 53), pieces: pieces)
            #expect(out.from == T.outside && out.to == T.remote && out.ports.1 == 53)
            #expect((5000...5001).contains(out.ports.0))
            let back = try T.pass(harness, 0, T.udp(T.remote, 53, T.outside, out.ports.0), pieces: pieces)
            #expect(back.from == T.remote && back.to == T.host && back.ports == (53, 777))
            #expect(back.ip[20...].suffix(5) == [1, 2, 3, 4, 5])
            // The same endpoint has the same port for whomever it talks to.
            #expect(try T.pass(harness, 1, T.udp(T.host, 777, T.stranger, 99)).ports == (out.ports.0, 99))
            for wrong in [
                T.udp(T.remote, 54, T.outside, out.ports.0), T.udp(T.gateway, 53, T.outside, out.ports.0),
                T.udp(T.remote, 53, T.outside, 6000), T.udp(T.remote, 53, T.outside, out.ports.0 ^ 1),
            ] { #expect(T.cause(harness, 0, wrong) == "no session") }
            #expect(
                T.cause(harness, 0, T.udp(T.remote, 53, T.host, 777)) == "not for the outside address",
                "by its own name")
        }
        // Without a checksum it stays without.
        let out = try #require(
            harness.process([T.frame(1, T.udp(T.host, 777, T.remote, 53, hasSum: false))], from: 1).first)
        #expect(out.ports == [0] && out.frame[40..<42] == [0, 0])
        #expect(harness.counter("sessions opened") == 2 && harness.send(.count) == 2)
        #expect(harness.counter("translated out") == 5 && harness.counter("translated in") == 2)
    }

    @Test("an echo's identifier is translated there and back; a question from outside is for the NAT itself")
    func echoes() throws {
        typealias T = NAT44Tests
        let harness = try T.harness { $0.ports = 5000...5000 }
        let out = try T.pass(harness, 1, T.echo(T.host, T.remote, 8, 0x77))
        #expect(out.from == T.outside && out.ports.1 == 5000 && out.ip.suffix(4) == [7, 7, 7, 7])
        let back = try T.pass(harness, 0, T.echo(T.remote, T.outside, 0, 5000))
        #expect(back.to == T.host && back.ports.1 == 0x77)
        #expect(T.cause(harness, 0, T.echo(T.remote, T.outside, 0, 5001)) == "no session")
        #expect(T.cause(harness, 0, T.echo(T.stranger, T.outside, 0, 5000)) == "no session")
        #expect(T.cause(harness, 1, T.echo(T.other, T.remote, 0, 1)) == "no session", "an answer without a question")
        let own = harness.process([T.frame(0, T.echo(T.remote, T.outside, 8, 5000))], from: 0)
        #expect(own.map(\.ports) == [[0]] && own[0].frame[34] == 0 && harness.counter("echo replies") == 1)
    }

    // MARK: TCP

    @Test("a connection begins with a SYN from inside, lives long while it is established, and ends")
    func connections() throws {
        typealias T = NAT44Tests
        let harness = try T.harness { $0.ports = 5000...5000 }
        #expect(T.cause(harness, 1, T.tcp(T.host, 900, T.remote, 80, 0x10)) == "TCP without a session")
        #expect(T.cause(harness, 1, T.tcp(T.host, 900, T.remote, 80, 0x12)) == "TCP without a session")
        let out = try T.pass(harness, 1, T.tcp(T.host, 900, T.remote, 80, 2))
        #expect(out.from == T.outside && out.ports == (5000, 80))
        #expect(T.age(harness, 239) == 1, "half open")
        #expect(try T.pass(harness, 0, T.tcp(T.remote, 80, T.outside, 5000, 0x12)).ports == (80, 900))
        #expect(T.age(harness, 7439) == 1, "established")
        _ = try T.pass(harness, 1, T.tcp(T.host, 900, T.remote, 80, 0x11))
        #expect(T.age(harness, 7439) == 1, "half closed")
        _ = try T.pass(harness, 0, T.tcp(T.remote, 80, T.outside, 5000, 0x11))
        #expect(T.age(harness, 239) == 1, "closed by both")
        // The same ports again.
        _ = try T.pass(harness, 1, T.tcp(T.host, 900, T.remote, 80, 2))
        _ = try T.pass(harness, 0, T.tcp(T.remote, 80, T.outside, 5000, 0x12))
        #expect(T.age(harness, 7439) == 1)
        // Whoever sends a reset has guessed the ports: the connection goes on when data come, or soon ends.
        _ = try T.pass(harness, 0, T.tcp(T.remote, 80, T.outside, 5000, 4))
        _ = try T.pass(harness, 1, T.tcp(T.host, 900, T.remote, 80, 0x10))
        #expect(T.age(harness, 7439) == 1)
        _ = try T.pass(harness, 1, T.tcp(T.host, 900, T.remote, 80, 4))
        #expect(T.age(harness, 240) == 0 && harness.counter("sessions ended") == 1)
        #expect(T.cause(harness, 0, T.tcp(T.remote, 80, T.outside, 5000, 0x10)) == "no session")
        // The port is free again.
        #expect(try T.pass(harness, 1, T.udp(T.host, 1, T.remote, 2)).ports.0 == 5000)
        #expect(try T.pass(harness, 1, T.tcp(T.other, 1, T.remote, 2, 2)).ports.0 == 5000)
    }

    @Test(
        "a packet whose checksum is still to be filled in, and that is still to be cut, keeps the pseudo header's sum")
    func partial() throws {
        typealias T = NAT44Tests
        let harness = try T.harness()
        func packet(_ flags: UInt8, _ count: Int) -> [UInt8] {
            let length = 20 + count
            let sum = ~T.sum(T.pseudo(T.host, T.remote, 6, length))
            let tcp = [3, 132, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0] + T.bytes(sum) + [0, 0]
            return T.ip(T.host, T.remote, 6, tcp + [UInt8](repeating: 5, count: count))
        }
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset) = (NetHeader.needsCsum, 34, 16)
        for (flags, count) in [(UInt8(2), 0), (0x10, 8000)] {
            if count > 0 { (header.gsoType, header.gsoSize, header.hdrLen) = (NetHeader.gsoTCPv4, 1400, 54) }
            let out = harness.process([T.frame(1, packet(flags, count))], from: 1, header: header)[0]
            try #require(out.ports == [0], "\(out)")
            let ip = T.parts(out.frame).ip
            let expected = ~T.sum(T.pseudo(T.outside, T.remote, 6, 20 + count))
            #expect(T.sum(ip[..<20]) == 0 && Array(ip[36..<38]) == T.bytes(expected) && out.header == header)
        }
    }

    // MARK: ICMP errors

    @Test("errors come back to who sent the packet: what they quote is as it was sent", arguments: [8, 28, 1000])
    func errors(_ quoted: Int) throws {
        typealias T = NAT44Tests
        let harness = try T.harness { $0.ports = 5000...5000 }
        for sent in [
            T.udp(T.host, 777, T.remote, 53), T.tcp(T.host, 777, T.remote, 53, 2), T.echo(T.host, T.remote, 8, 777),
        ] {
            let out = try T.pass(harness, 1, sent)
            let quote = Array(out.ip.prefix(20 + quoted))
            // From a router on the way.
            let error = T.icmp(T.stranger, T.outside, [11, 0, 0, 0, 0, 0, 0, 0] + quote)
            for pieces in [[], [1, 40, 10]] {
                let back = try T.pass(harness, 0, error, pieces: pieces)
                #expect(back.from == T.stranger && back.to == T.host)
                // Only the hop that it had is missing.
                var expected = sent
                expected[8] -= 1
                expected.replaceSubrange(10..<12, with: [0, 0])
                expected.replaceSubrange(10..<12, with: T.bytes(T.sum(expected[..<20])))
                #expect(Array(back.ip[28...]) == Array(expected.prefix(20 + quoted)))
            }
            // About a packet that nobody here has sent.
            var foreign = quote
            foreign[21] ^= 1
            if sent[9] == 1 { foreign[25] ^= 1 }
            #expect(
                T.cause(harness, 0, T.icmp(T.stranger, T.outside, [3, 3, 0, 0, 0, 0, 0, 0] + foreign)) == "no session")
        }
        // From inside, about an answer: the remote host knows the outside port.
        let answer = T.udp(T.remote, 53, T.outside, 5000)
        let inside = try T.pass(harness, 0, answer)
        let error = T.icmp(T.host, T.remote, [3, 3, 0, 0, 0, 0, 0, 0] + inside.ip)
        let out = try T.pass(harness, 1, error)
        #expect(out.from == T.outside && out.to == T.remote)
        #expect(Array(out.ip[40..<52]) == Array(answer[12..<24]))
        #expect(T.isSound(Array(out.ip[28...])))
        #expect(T.cause(harness, 1, T.icmp(T.other, T.remote, [3, 3, 0, 0, 0, 0, 0, 0] + answer)) == "no session")
    }

    @Test("no hop left: the sender outside is told about the packet that it sent, and not where that was going")
    func hops() throws {
        typealias T = NAT44Tests
        let harness = try T.harness { $0.ports = 5000...5000 }
        _ = try T.pass(harness, 1, T.udp(T.host, 777, T.remote, 53))
        let late = T.udp(T.remote, 53, T.outside, 5000, ttl: 1)
        let out = harness.process([T.frame(0, late)], from: 0)
        #expect(out[0].cause == "no hop left" && out[1].ports == [0] && out[1].frame[34] == 11)
        #expect(Array(out[1].frame[42..<42 + late.count]) == late)
    }

    // MARK: Servers inside, and hairpins

    @Test("a forwarded port leads to its server, from outside and from inside")
    func forwards() throws {
        typealias T = NAT44Tests
        let harness = try T.harness {
            $0.ports = 5000...5001
            $0.forwards = [.init("tcp:80=10.0.0.7:8080")!, .init("udp:5000=10.0.0.7:99")!]
        }
        #expect(T.cause(harness, 0, T.tcp(T.remote, 1000, T.outside, 80, 0x10)) == "no session")
        let inside = try T.pass(harness, 0, T.tcp(T.remote, 1000, T.outside, 80, 2))
        #expect(inside.from == T.remote && inside.to == T.host && inside.ports == (1000, 8080))
        let answer = try T.pass(harness, 1, T.tcp(T.host, 8080, T.remote, 1000, 0x12))
        #expect(answer.from == T.outside && answer.ports == (80, 1000))
        // A port that is forwarded is nobody else's.
        #expect(try T.pass(harness, 1, T.udp(T.other, 1, T.remote, 2)).ports.0 == 5001)
        #expect(T.cause(harness, 1, T.udp(T.other, 2, T.remote, 2)) == "no port is free")
        // Inside, by the outside address: both see it as the other's.
        let asked = harness.process([T.frame(1, T.tcp(T.other, 4000, T.outside, 80, 2), from: T.other)], from: 1)
        try #require(asked.map(\.ports) == [[1]], "\(asked)")
        let there = T.parts(asked[0].frame)
        #expect(there.from == T.outside && there.to == T.host && there.ports.1 == 8080 && T.isSound(there.ip))
        let told = harness.process(
            [T.frame(1, T.tcp(T.host, 8080, T.outside, there.ports.0, 0x12))], from: 1)
        try #require(told.map(\.ports) == [[1]], "\(told)")
        let back = T.parts(told[0].frame)
        #expect(back.from == T.outside && back.to == T.other && back.ports == (80, 4000) && T.isSound(back.ip))
        #expect(harness.counter("hairpins") == 2)
        // For no one's port it is for the router, which says so to datagrams.
        #expect(T.cause(harness, 1, T.tcp(T.host, 1, T.outside, 81, 2)) == "for the router")
        #expect(harness.process([T.frame(1, T.udp(T.host, 1, T.outside, 81))], from: 1).count == 2)
        #expect(NAT44.Forward("tcp:80=10.0.0.7:8080")?.insidePort == 8080)
        for text in ["", "tcp:0=10.0.0.7:1", "icmp:1=10.0.0.7:1", "tcp:80:10.0.0.7=1", "tcp:80=10.0.0.7"] {
            #expect(NAT44.Forward(text) == nil)
        }
    }

    // MARK: Limits and bad input

    @Test("limits: sessions of a host, of all, ports; and all are free again after their time")
    func limits() throws {
        typealias T = NAT44Tests
        let harness = try T.harness { ($0.ports, $0.sessions, $0.sessionsOfHost) = (1024...2047, 40, 30) }
        func sent(_ from: IPv4Address, _ ports: Range<UInt16>) -> [String?] {
            harness.process(ports.map { T.frame(1, T.udp(from, $0, T.remote, 53)) }, from: 1).map(\.cause)
        }
        #expect(sent(T.host, 1..<32) == [String?](repeating: nil, count: 30) + ["too many sessions of a host"])
        #expect(sent(T.other, 1..<12) == [String?](repeating: nil, count: 10) + ["too many sessions"])
        #expect(T.age(harness, 299) == 40 && T.age(harness, 1) == 0)
        #expect(sent(T.host, 1..<31) == [String?](repeating: nil, count: 30))
        // Ports that were freed are not given again at once.
        #expect(harness.counter("sessions opened") == 70)
    }

    @Test("fragments, other protocols, lies and every packet cut at each length are dropped, each with its cause")
    func odd() throws {
        typealias T = NAT44Tests
        let harness = try T.harness()
        let fragment = T.ip(T.host, T.remote, 17, [UInt8](repeating: 1, count: 16), flags: 0x2000)
        let later = T.ip(T.host, T.remote, 17, [UInt8](repeating: 1, count: 16), flags: 2)
        #expect(T.cause(harness, 1, fragment) == "fragment" && T.cause(harness, 1, later) == "fragment")
        #expect(T.cause(harness, 1, T.ip(T.host, T.remote, 47, [0, 0, 0, 0])) == "protocol not translated")
        #expect(T.cause(harness, 1, T.icmp(T.host, T.remote, [13, 0, 0, 0, 0, 0, 0, 0])) == "protocol not translated")
        var liar = T.udp(T.host, 1, T.remote, 2)
        liar[25] = 200
        #expect(T.cause(harness, 1, liar) == "malformed")
        var wrong = T.udp(T.host, 1, T.remote, 2)
        wrong[10] ^= 1
        #expect(T.cause(harness, 1, wrong) == "header checksum")
        #expect(harness.send(.count) == 0)

        let sent = try T.pass(harness, 1, T.udp(T.host, 777, T.remote, 53))
        let port = sent.ports.0
        let frames = [
            (1, T.frame(1, T.udp(T.host, 777, T.remote, 53))), (1, T.frame(1, T.tcp(T.host, 1, T.remote, 2, 2))),
            (0, T.frame(0, T.udp(T.remote, 53, T.outside, port))), (1, T.frame(1, T.echo(T.host, T.remote, 8, 7))),
            (0, T.frame(0, T.icmp(T.stranger, T.outside, [3, 1, 0, 0, 0, 0, 0, 0] + sent.ip))),
        ]
        for (from, frame) in frames {
            for pieces in [[], [1, 1, 1], [15, 20]] {
                let cut = harness.process((0..<frame.count).map { Array(frame[..<$0]) }, from: from, pieces: pieces)
                #expect(cut.allSatisfy { $0.ports.isEmpty && !$0.isMade })
            }
        }
        // An error whose quote ends, or lies about its length, anywhere.
        for count in 0..<sent.ip.count {
            for length: UInt8 in [0x40, 0x45, 0x4f, 0x65] {
                var quote = Array(sent.ip.prefix(count))
                if count > 0 { quote[0] = length }
                _ = harness.process(
                    [T.frame(0, T.icmp(T.stranger, T.outside, [3, 1, 0, 0, 0, 0, 0, 0] + quote))], from: 0)
            }
        }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var (from, frame) = frames[Int(random.next() % 5)]
            for _ in 0..<3 { frame[14 + Int(random.next() % UInt64(frame.count - 14))] = UInt8(random.next() & 255) }
            from = random.next() % 4 == 0 ? 1 - from : from
            _ = harness.process([frame], from: from, pieces: [[], [14, 20, 8], [40]][Int(random.next() % 3)])
        }
    }
}
