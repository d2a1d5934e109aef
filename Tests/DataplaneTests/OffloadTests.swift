import Ringway
import RingwayLab
import Testing

/// Checksum and segmentation offload: passed on where the receiver accepted them, else resolved.
@Suite struct OffloadTests {
    static let all: Features = [
        .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO, .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4,
        .guestUSO6,
    ]
    static let payload = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }

    /// A packet for segmentation: Ethernet, `tags` VLAN tags, IPv4 or IPv6, TCP with 12 bytes of options, or UDP.
    struct Big {
        var isIPv6 = false
        var isTCP = true
        var tags = 0
        var flags: UInt8 = 0x18 | 1 | 0x80  // ACK PSH, FIN, CWR
        var payload = OffloadTests.payload

        var network: Int { 14 + 4 * tags }
        var transport: Int { network + (isIPv6 ? 40 : 20) }
        var headerLength: Int { isTCP ? 32 : 8 }
        var prefix: Int { transport + headerLength }
        var gso: UInt8 { isTCP ? (isIPv6 ? 4 : 1) : 5 }

        var frame: [UInt8] {
            var f = Frame.mac(2) + Frame.mac(1)
            for _ in 0..<tags { f += [0x81, 0, 0, 7] }
            f += isIPv6 ? [0x86, 0xdd] : [8, 0]
            let length = headerLength + payload.count
            if isIPv6 {
                f += [0x60, 0, 0, 0] + Frame.big(length & 0xffff) + [isTCP ? 6 : 17, 64]
                f += [UInt8](repeating: 0xfd, count: 16) + [UInt8](repeating: 0xfe, count: 16)
            } else {
                f +=
                    [0x45, 0] + Frame.big(20 + length) + [
                        0x12, 0x34, 0x40, 0, 64, isTCP ? 6 : 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
                    ]
            }
            if isTCP {
                f += [0x10, 0, 0x20, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x80, flags, 1, 0, 0xab, 0xcd, 0, 0]
                f += [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]
            } else {
                f += [0x10, 0, 0x20, 0] + Frame.big(length & 0xffff) + [0xab, 0xcd]
            }
            return f + payload
        }

        func header(size: Int = 1000) -> [UInt8] {
            Frame.header(flags: 1, gso: gso, hdrLen: prefix, size: size, start: transport, offset: isTCP ? 16 : 6)
        }

        /// Whether the segment's IP and transport checksums are right.
        func isSound(_ f: [UInt8]) -> Bool {
            let length = f.count - transport
            let addresses =
                isIPv6 ? Array(f[(network + 8)..<(network + 40)]) : Array(f[(network + 12)..<(network + 20)])
            let pseudo = Frame.sum(addresses, (isTCP ? 6 : 17) + length)
            let ip = isIPv6 || Frame.sum(Array(f[network..<transport])) == 0xffff
            let stated = Int(f[network + (isIPv6 ? 4 : 2)]) << 8 + Int(f[network + (isIPv6 ? 5 : 3)])
            return ip && Frame.sum(Array(f[transport...]), pseudo) == 0xffff && stated == length + (isIPv6 ? 0 : 20)
        }
    }

    private func pair(_ accepts: Features) throws -> (Lab, EmbeddedDriver, EmbeddedDriver) {
        let lab = try Lab(ports: 2, .crossconnect)
        let a = try lab.driver(0) {
            $0.offloads = OffloadTests.all
            $0.frameRoom = 66_000
        }
        let b = try lab.driver(1) {
            $0.offloads = accepts
            $0.frameRoom = 2048
        }
        return (lab, a, b)
    }

    static let shapes: [Big] = [
        Big(), Big(tags: 1), Big(tags: 2), Big(isIPv6: true), Big(isIPv6: true, tags: 1), Big(isTCP: false),
        Big(isIPv6: true, isTCP: false),
        Big(payload: Array(payload.prefix(1000))), Big(payload: Array(payload.prefix(1001))),
        Big(payload: (0..<60_000).map { UInt8(truncatingIfNeeded: $0) }),
    ]

    @Test("a large packet is cut for a receiver without segmentation offload", arguments: 0..<shapes.count)
    func cut(_ shape: Int) throws {
        let big = OffloadTests.shapes[shape]
        let (lab, a, b) = try pair([])
        a.send([big.frame], headers: [big.header()])
        let wanted = (big.payload.count + 999) / 1000
        let got = b.receive(wanted)
        try #require(got.count == wanted)
        #expect(got.map { Array($0.frame[big.prefix...]) }.reduce([], +) == big.payload)
        for (i, g) in got.enumerated() {
            let f = g.frame
            #expect(big.isSound(f), "checksums or lengths of segment \(i)")
            #expect(g.header.prefix(10).allSatisfy { $0 == 0 }, "offload fields of segment \(i)")
            #expect(f.prefix(12) == big.frame.prefix(12))
            if !big.isIPv6 { #expect(Int(f[big.network + 4]) << 8 + Int(f[big.network + 5]) == 0x1234 + i) }
            guard big.isTCP else { continue }
            let sequence = f[(big.transport + 4)..<(big.transport + 8)].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            #expect(sequence == 0xffff_ff00 &+ UInt32(1000 * i))
            let flags = f[big.transport + 13]
            #expect(flags & 0x09 == (i == wanted - 1 ? 0x09 : 0), "FIN and PSH of segment \(i)")
            #expect(flags & 0x80 == (i == 0 ? 0x80 : 0), "CWR of segment \(i)")
        }
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }

    @Test("a receiver that accepted the offloads gets the packet as it is", arguments: 0..<shapes.count)
    func passOn(_ shape: Int) throws {
        let big = OffloadTests.shapes[shape]
        let (lab, a, b) = try pair(OffloadTests.all)
        a.send([big.frame], headers: [big.header()])
        let got = b.receive(1)
        try #require(got.count == 1)
        #expect(got[0].frame == big.frame)
        #expect(Array(got[0].header[0..<10]) == Array(big.header()[0..<10]))
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }

    @Test("a checksum is filled in for a receiver without checksum offload, also one that comes out as zero")
    func checksum() throws {
        let (lab, a, b) = try pair([])
        var frames: [[UInt8]] = []
        for n in 0..<40 {
            var big = Big(isTCP: n % 2 == 0, payload: Array(OffloadTests.payload.prefix(n)))
            big.isIPv6 = n % 3 == 0
            var f = big.frame
            let field = big.transport + (big.isTCP ? 16 : 6)
            // What a driver leaves there: the sum of the pseudo header (5.1.6.2).
            let addresses =
                big.isIPv6
                ? Array(f[(big.network + 8)..<(big.network + 40)]) : Array(f[(big.network + 12)..<(big.network + 20)])
            f.replaceSubrange(
                field..<field + 2, with: Frame.big(Frame.sum(addresses, (big.isTCP ? 6 : 17) + f.count - big.transport))
            )
            a.send([f], headers: [Frame.header(flags: 1, start: big.transport, offset: big.isTCP ? 16 : 6)])
            frames.append(f)
            let got = b.receive(1)
            try #require(got.count == 1)
            let g = got[0].frame
            let check = Frame.sum(
                Array(g[big.transport...]), Frame.sum(addresses, (big.isTCP ? 6 : 17) + f.count - big.transport))
            #expect(check == 0xffff, "packet \(n)")
            #expect(got[0].header[0] == 0)
            var rest = g
            rest.replaceSubrange(field..<field + 2, with: f[field..<field + 2])
            #expect(rest == f, "packet \(n): something else was changed")
        }
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }

    @Test("wrong offload fields cost the packet alone")
    func wrong() throws {
        let (lab, a, b) = try pair([])
        let big = Big()
        let n = big.frame.count
        let headers = [
            Frame.header(gso: 1, hdrLen: 66, size: 1000),  // no checksum offload
            Frame.header(flags: 1, gso: 1, hdrLen: 66, size: 0, start: 34, offset: 16),  // segments of nothing
            Frame.header(flags: 1, gso: 2, hdrLen: 66, size: 1000, start: 34, offset: 16),  // no such type
            Frame.header(flags: 1, gso: 3, hdrLen: 66, size: 1000, start: 34, offset: 16),  // UFO was not offered
            Frame.header(flags: 1, start: n, offset: 0), Frame.header(flags: 1, start: 0xffff, offset: 0xffff),
            Frame.header(flags: 1, start: 0, offset: 0),
            Frame.header(flags: 1, gso: 4, hdrLen: 66, size: 1000, start: 34, offset: 16),  // IPv4, but TSO6
            Frame.header(flags: 1, gso: 1, hdrLen: 66, size: 1000, start: 40, offset: 16),  // not where TCP is
            Frame.header(flags: 1, gso: 1, hdrLen: 66, size: 1, start: 34, offset: 16),  // 5000 segments
            Frame.header(flags: 1, gso: 0x80, start: 34, offset: 16),
        ]
        a.send(headers.map { _ in big.frame }, headers: headers)
        let good = Frame.numbered(3)
        a.send(good)
        #expect(b.receive(3).map(\.frame) == good)
        #expect(
            lab.drops(0)["offload fields", default: 0] + lab.drops(1)["offload fields", default: 0]
                == UInt64(headers.count))
    }

    @Test("a segment that no IP header can tell the length of costs the packet alone")
    func segmentTooLong() throws {
        let (lab, a, b) = try pair([])
        for shape in [Big(), Big(isIPv6: true), Big(isTCP: false), Big(isIPv6: true, isTCP: false)] {
            // One byte too many, and as many as there can be.
            let most = 65535 - (shape.isIPv6 ? 0 : 20) - shape.headerLength
            for extra in [1, 0] {
                var big = shape
                big.payload = (0..<most + extra).map { UInt8(truncatingIfNeeded: $0) }
                if big.frame.count > 65_600 { continue }
                a.send([big.frame], headers: [big.header(size: 65535)])
                let got = b.receive(1 - extra, within: extra == 1 ? 100 : 2000)
                #expect(got.count == 1 - extra && got.allSatisfy { big.isSound($0.frame) })
            }
        }
        #expect(lab.drops(0)["offload fields", default: 0] + lab.drops(1)["offload fields", default: 0] == 4)
    }

    @Test("offloads that a driver turned off through its control queue are resolved")
    func controlled() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let a = try lab.driver(0) {
            $0.offloads = OffloadTests.all
            $0.frameRoom = 66_000
        }
        let b = try lab.driver(1) {
            $0.offloads = OffloadTests.all
            $0.hasControl = true
        }
        let big = Big()
        let all = withUnsafeBytes(
            of: OffloadTests.all.intersection([.guestCsum, .guestTSO4, .guestTSO6]).rawValue.littleEndian
        ) { Array($0) }
        // The answer once came before the poll thread knew: again and again, so that such a moment is met.
        for _ in 0..<100 {
            #expect(b.command(5, 0, all) == 0)
            a.send([big.frame], headers: [big.header()])
            try #require(b.receive(1).count == 1)
            #expect(b.command(5, 0, [UInt8](repeating: 0, count: 8)) == 0)
            a.send([big.frame], headers: [big.header()])
            try #require(b.receive(5).count == 5)
        }
        // Not offered bits cannot be turned on.
        #expect(b.command(5, 0, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]) == 1)
    }
}

@Suite struct ControlQueueTests {
    @Test("commands of every class, and their errors", arguments: [false, true])
    func commands(isPacked: Bool) throws {
        let lab = try Lab(ports: 1, .drop, pairs: [4])
        let a = try lab.driver(0) {
            $0.queuePairs = 4
            $0.hasControl = true
            $0.isPacked = isPacked
        }
        // MQ: 1 to 4 pairs.
        #expect(a.command(4, 0, [2, 0]) == 0 && a.command(4, 0, [4, 0]) == 0)
        #expect(a.command(4, 0, [0, 0]) == 1 && a.command(4, 0, [5, 0]) == 1 && a.command(4, 0, [1]) == 1)
        // RX modes
        #expect(
            a.command(0, 0, [1]) == 0 && a.command(0, 1, [0]) == 0 && a.command(0, 0, [2]) == 1
                && a.command(0, 0, []) == 1)
        // MAC
        #expect(a.command(1, 1, [2, 0, 0, 0, 0, 5]) == 0 && a.command(1, 1, [3, 0, 0, 0, 0, 5]) == 1)
        #expect(a.command(1, 0, [1, 0, 0, 0, 2, 0, 0, 0, 0, 5, 0, 0, 0, 0]) == 0)
        #expect(a.command(1, 0, [0xff, 0xff, 0xff, 0xff]) == 1)
        // VLAN
        #expect(a.command(2, 0, [5, 0]) == 0 && a.command(2, 1, [5, 0]) == 0 && a.command(2, 0, [0, 0x10]) == 1)
        // Announce
        #expect(a.command(3, 0, []) == 0 && a.command(3, 1, []) == 1)
        // No such class; a long command
        #expect(a.command(77, 0, [1]) == 1)
        #expect(a.command(1, 0, [UInt8](repeating: 1, count: 8000)) == 1)
        for _ in 0..<100 { #expect(a.command(4, 0, [3, 0]) == 0) }
    }
}
