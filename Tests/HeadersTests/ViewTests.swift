import Headers
import Testing

/// Frames byte by byte. What is expected was read from the digits in Frames.swift and the RFCs.
@Suite struct ViewTests {
    @Test("a TCP segment over IPv4")
    func tcp() throws {
        let frame = Frame(Frames.tcp)
        frame.look { bytes in
            let ethernet = Ethernet(bytes)!
            #expect(ethernet.destination == MACAddress("02:00:5e:10:00:01"))
            #expect(ethernet.source.description == "02:00:5e:10:00:02")
            #expect(ethernet.etherType == .ipv4)
            let ip = IPv4(bytes, at: 14)!
            #expect(ip.version == 4 && ip.ihl == 5 && ip.headerLength == 20 && ip.options.isEmpty)
            #expect(ip.typeOfService == 0x10 && ip.dscp == 4 && ip.ecn == 0)
            #expect(ip.totalLength == 48 && ip.identification == 0x1c46)
            #expect(ip.flags == .dontFragment && ip.fragmentOffset == 0)
            #expect(ip.timeToLive == 64 && ip.protocol == .tcp && ip.headerChecksum == 0)
            #expect(ip.sourceAddress.description == "192.0.2.1")
            #expect(ip.destinationAddress == IPv4Address(198, 51, 100, 7))
            let tcp = TCP(bytes, at: 34)!
            #expect(tcp.sourcePort == 49320 && tcp.destinationPort == 443)
            #expect(tcp.sequenceNumber == 0x1234_5678 && tcp.acknowledgmentNumber == 0)
            #expect(tcp.dataOffset == 7 && tcp.headerLength == 28 && tcp.options == 54..<62)
            #expect(tcp.flags == .syn && tcp.reserved == 0 && tcp.window == 0xfaf0)
            #expect(tcp.checksum == 0xabcd && tcp.urgentPointer == 0)
            #expect(tcp.maximumSegmentSize == 1460)
            tcp.maximumSegmentSize = 1400
            #expect(bytes[56] == 0x05 && bytes[57] == 0x78 && tcp.maximumSegmentSize == 1400)
            // By hand: 4510+0030+1c46+4000+4006+c000+0201+c633+6407 = 2cdc7, folded cdc9.
            #expect(isTrue(!ip.isChecksumValid))
            ip.updateChecksum()
            #expect(ip.headerChecksum == ~0xcdc9 && ip.isChecksumValid)
        }
    }

    @Test("one hop less: time to live, hop limit and the checksum; the last hop is kept")
    func hops() {
        Frame(Frames.tcp).look { bytes in
            let ip = IPv4(bytes, at: 14)!
            ip.updateChecksum()
            for left in stride(from: 63, through: 1, by: -1) {
                #expect(isTrue(ip.decrementTimeToLive()))
                #expect(Int(ip.timeToLive) == left && ip.isChecksumValid && ip.protocol == .tcp)
            }
            #expect(!ip.decrementTimeToLive() && ip.timeToLive == 1 && ip.isChecksumValid)
            ip.timeToLive = 0
            #expect(!ip.decrementTimeToLive() && ip.timeToLive == 0)
        }
        Frame(Frames.tcp6).look { bytes in
            let ip = IPv6(bytes, at: 14)!
            #expect(ip.decrementHopLimit() && ip.hopLimit == 62 && ip.nextHeader == .tcp)
            ip.hopLimit = 1
            #expect(!ip.decrementHopLimit() && ip.hopLimit == 1)
        }
    }

    @Test("two VLAN tags, IPv4 options, an echo")
    func echo() {
        Frame(Frames.taggedEcho).look { bytes in
            #expect(Ethernet(bytes)!.etherType == .serviceVLAN)
            let outer = VLANTag(bytes, at: 14)!
            #expect(outer.priority == 5 && outer.dropEligible && outer.vlanID == 100 && outer.etherType == .vlan)
            let inner = VLANTag(bytes, at: 18)!
            #expect(inner.priority == 0 && !inner.dropEligible && inner.vlanID == 200 && inner.etherType == .ipv4)
            let ip = IPv4(bytes, at: 22)!
            #expect(ip.ihl == 7 && ip.headerLength == 28 && ip.options == 42..<50)
            #expect(ip.dscp == 48 && ip.ecn == 3 && ip.totalLength == 40 && ip.timeToLive == 1)
            #expect(ip.protocol == .icmp && ip.headerChecksum == 0x1234)
            let icmp = ICMP(bytes, at: 50)!
            #expect(icmp.type == ICMP.V4.echo && icmp.code == 0 && icmp.checksum == 0x5678)
            #expect(icmp.identifier == 0xbeef && icmp.sequenceNumber == 0x0102 && icmp.rest == 0xbeef_0102)
        }
    }

    @Test("an ARP request behind a tag")
    func arp() {
        let frame = Frame(Frames.arp)
        frame.look { bytes in
            let arp = ARP(bytes, at: 18)!
            #expect(arp.operation == .request)
            #expect(arp.senderHardwareAddress == MACAddress("02-00-5E-10-00-FE"))
            #expect(arp.senderProtocolAddress == IPv4Address("192.0.2.254"))
            #expect(arp.targetHardwareAddress == .zero)
            #expect(arp.targetProtocolAddress == IPv4Address("192.0.2.1"))
        }
        // Each of the four fields that say what the addresses are.
        for (at, value) in [(18, 1), (19, 2), (20, 0x86), (21, 1), (22, 8), (23, 16)] as [(Int, UInt8)] {
            let other = Frame(Frames.arp)
            other.buffer[at] = value
            #expect(other.look { ARP($0, at: 18) == nil })
        }
    }

    @Test("TCP over IPv6")
    func tcp6() {
        Frame(Frames.tcp6).look { bytes in
            let ip = IPv6(bytes, at: 14)!
            #expect(ip.version == 6 && ip.trafficClass == 0xab && ip.dscp == 42 && ip.ecn == 3)
            #expect(ip.flowLabel == 0x12345 && ip.payloadLength == 24 && ip.nextHeader == .tcp && ip.hopLimit == 63)
            #expect(ip.sourceAddress.description == "2001:db8::1")
            #expect(ip.destinationAddress.description == "2001:db8:0:1::2")
            let tcp = TCP(bytes, at: 54)!
            #expect(tcp.sourcePort == 8080 && tcp.destinationPort == 80 && tcp.flags == [.ack, .psh])
            #expect(tcp.sequenceNumber == 1 && tcp.acknowledgmentNumber == 0x8000_0000)
            #expect(tcp.maximumSegmentSize == nil && tcp.options.isEmpty)
            tcp.maximumSegmentSize = 1400
        }
    }

    @Test("VXLAN, and the frame inside")
    func vxlan() {
        Frame(Frames.vxlan).look { bytes in
            let udp = UDP(bytes, at: 34)!
            #expect(udp.sourcePort == 0xc123 && udp.destinationPort == VXLAN.port && udp.length == 58)
            let vxlan = VXLAN(bytes, at: 42)!
            #expect(vxlan.flags == 8 && vxlan.isVNIValid && vxlan.vni == 0x123456)
            let inner = bytes.dropFirst(50)
            #expect(inner.count == 42 && Ethernet(inner)!.destination == .broadcast)
            #expect(ARP(inner, at: 14)!.targetProtocolAddress.description == "192.0.2.1")
        }
    }

    @Test("Geneve with an option")
    func geneve() {
        Frame(Frames.geneve).look { bytes in
            #expect(UDP(bytes, at: 54)!.destinationPort == Geneve.port)
            #expect(UDP(bytes, at: 54)!.checksum == 0x1357)
            let geneve = Geneve(bytes, at: 62)!
            #expect(geneve.version == 0 && geneve.optionsLength == 2 && geneve.headerLength == 16)
            #expect(!geneve.isControl && geneve.hasCriticalOptions && geneve.options == 70..<78)
            #expect(geneve.protocolType == .transparentEthernet && geneve.vni == 0xabcdef)
        }
    }

    @Test("neighbor solicitation and advertisement, and the MAC address in their options")
    func neighbors() {
        // 2001:db8::1 is asked for by 02:00:5e:10:00:02; a nonce (type 14) comes first.
        let text = """
            87 00 1234 00000000 20010db8000000000000000000000001
            0e 01 aabbccddeeff
            01 01 02005e100002
            """
        Frame(text).look { bytes in
            let ask = NeighborDiscovery(bytes, at: 0)!
            #expect(isTrue(!ask.isAdvertisement) && ask.checksum == 0x1234 && ask.flags == [])
            #expect(ask.targetAddress == IPv6Address("2001:db8::1"))
            #expect(isTrue(ask.address(.source, length: 40) == MACAddress("02:00:5e:10:00:02")))
            // Of another type; behind the message's end; longer than there is.
            #expect(isTrue(ask.address(.target, length: 40) == nil && ask.address(.source, length: 39) == nil))
            #expect(isTrue(ask.address(.source, length: 4000) != nil && ask.address(.source, length: -1) == nil))
            // Sizes of 0, of 16 bytes, and beyond the end.
            bytes[25] = 0
            #expect(isTrue(ask.address(.source, length: 40) == nil))
            bytes[25] = 2
            #expect(isTrue(ask.address(.source, length: 40) == nil))
            (bytes[25], bytes[33]) = (1, 2)
            #expect(isTrue(ask.address(.source, length: 40) == nil))
        }
        let made = Frame([UInt8](repeating: 0xee, count: 34))
        made.look { bytes in
            let mac = MACAddress("02:00:5e:10:00:01")!
            let answer = NeighborDiscovery(creating: bytes, at: 1, isAdvertisement: true, address: mac)!
            answer.flags = [.solicited, .override]
            answer.targetAddress = IPv6Address("2001:db8::1")!
            answer.checksum = 0x4321
            #expect(isTrue(answer.isAdvertisement && answer.address(.target, length: 32) == mac))
            #expect(isTrue(NeighborDiscovery(bytes, at: 1) != nil && NeighborDiscovery(bytes, at: 11) == nil))
            bytes[2] = 1
            #expect(isTrue(NeighborDiscovery(bytes, at: 1) == nil))
            bytes[2] = 0
        }
        let expected = "ee 88 00 4321 60000000 20010db8000000000000000000000001 02 01 02005e100001 ee"
        #expect(made.bytes == hex(expected))
        #expect(isTrue(Frame(hex(text).prefix(23)).look { NeighborDiscovery($0, at: 0) == nil }))
        #expect(isTrue(Frame(hex(text).prefix(24)).look { NeighborDiscovery($0, at: 0) != nil }))
        let short = Frame([UInt8](repeating: 0xee, count: 31))
        short.look {
            let none = NeighborDiscovery(creating: $0, at: 0, isAdvertisement: true, address: .zero) == nil
            #expect(none)
        }
        #expect(short.bytes.allSatisfy { $0 == 0xee })
    }

    @Test("headers that are made new are the RFCs' bytes")
    func creating() {
        func made(_ size: Int, _ body: (HeaderBytes) -> Void) -> [UInt8] {
            let frame = Frame([UInt8](repeating: 0xee, count: size + 2))
            frame.look(body)
            return frame.bytes
        }
        #expect(made(28) { _ = ARP(creating: $0, at: 1) } == hex("ee 000108000604" + z(22) + "ee"))
        #expect(made(20) { _ = IPv4(creating: $0, at: 1) } == hex("ee 45" + z(19) + "ee"))
        #expect(made(40) { _ = IPv6(creating: $0, at: 1) } == hex("ee 60" + z(39) + "ee"))
        #expect(made(20) { _ = TCP(creating: $0, at: 1) } == hex("ee" + z(12) + "50" + z(7) + "ee"))
        #expect(made(8) { _ = VXLAN(creating: $0, at: 1, vni: 0x010203) } == hex("ee 08000000 01020300 ee"))
        #expect(made(8) { _ = Geneve(creating: $0, at: 1, vni: 0x010203) } == hex("ee 00006558 01020300 ee"))
        // One byte too few: nothing is written.
        let small = made(5) {
            #expect(ARP(creating: $0, at: 0) == nil && IPv4(creating: $0, at: 0) == nil)
            #expect(IPv6(creating: $0, at: 0) == nil && TCP(creating: $0, at: 0) == nil)
            #expect(VXLAN(creating: $0, at: 0, vni: 1) == nil && Geneve(creating: $0, at: 0, vni: 1) == nil)
        }
        #expect(small == [UInt8](repeating: 0xee, count: 7))
    }

    @Test("a view is there with all of its bytes, and nil with one fewer; before the start and far behind the end, too")
    func bounds() {
        // Such bytes that each view would be there: the version and length of each.
        func views(_ first: UInt8, _ bytes: HeaderBytes, _ at: Int) -> [Bool] {
            [
                Ethernet(bytes, at: at) != nil, VLANTag(bytes, at: at) != nil, UDP(bytes, at: at) != nil,
                ICMP(bytes, at: at) != nil, VXLAN(bytes, at: at) != nil,
            ]
        }
        let sizes = [14, 4, 8, 8, 8]
        for size in 0...20 {
            Frame([UInt8](repeating: 0, count: size)).look { bytes in
                for at in -3...25 {
                    #expect(views(0, bytes, at) == sizes.map { at >= 0 && at + $0 <= size })
                }
                for at in [Int.min, Int.min + 1, Int.max, Int.max - 3] {
                    #expect(views(0, bytes, at) == [false, false, false, false, false])
                }
            }
        }
        // Those that say how long they are.
        func edge(_ text: String, _ view: (HeaderBytes, Int) -> Bool) {
            let all = hex(text)
            for size in 0..<all.count { #expect(!Frame(all.prefix(size)).look { view($0, 0) }, "\(size)") }
            Frame(all).look { bytes in
                #expect(isTrue(view(bytes, 0)))
                for at in [-1, Int.max, Int.min] { #expect(isTrue(!view(bytes, at))) }
            }
        }
        edge("45" + z(19)) { IPv4($0, at: $1) != nil }
        edge("4f" + z(59)) { IPv4($0, at: $1) != nil }
        edge("6f" + z(39)) { IPv6($0, at: $1) != nil }
        edge(z(12) + "50" + z(7)) { TCP($0, at: $1) != nil }
        edge(z(12) + "f0" + z(47)) { TCP($0, at: $1) != nil }
        edge("00" + z(7)) { Geneve($0, at: $1) != nil }
        edge("3f" + z(259)) { Geneve($0, at: $1) != nil }
        edge("000108000604" + z(22)) { ARP($0, at: $1) != nil }
        // Lengths and versions that no header has.
        for first in 0...255 {
            let ip = Frame([UInt8(first)] + [UInt8](repeating: 0, count: 70))
            #expect(ip.look { IPv4($0, at: 0) != nil } == (0x45...0x4f).contains(first))
            #expect(ip.look { IPv6($0, at: 0) != nil } == (0x60...0x6f).contains(first))
            #expect(ip.look { Geneve($0, at: 0) != nil } == (first <= 15))
            let tcp = Frame([UInt8](repeating: 0, count: 12) + [UInt8(first)] + [UInt8](repeating: 0, count: 60))
            #expect(tcp.look { TCP($0, at: 0) != nil } == (first >= 0x50))
        }
    }

    @Test("bytes: what is there, what is dropped")
    func bytes() {
        Frame("000102030405").look { bytes in
            #expect(bytes.count == 6 && bytes[5] == 5)
            #expect(bytes.has(6, at: 0) && !bytes.has(7, at: 0) && bytes.has(0, at: 6) && !bytes.has(1, at: -1))
            let rest = bytes.dropFirst(2)
            #expect(rest.count == 4 && rest[0] == 2)
            rest[3] = 9
            #expect(bytes[5] == 9)
            #expect(bytes.dropFirst(6).count == 0 && bytes.dropFirst(7).count == 0 && bytes.dropFirst(-1).count == 0)
        }
        var byte: UInt8 = 0
        withUnsafeMutableBytes(of: &byte) { #expect(HeaderBytes($0.baseAddress!, count: -1).count == 0) }
    }

    @Test("TCP options that are not well formed have no segment size, and nothing beyond them is read")
    func segmentSize() {
        func size(_ options: String) -> UInt16? {
            let bytes = hex(options)
            let words = 5 + bytes.count / 4
            return Frame(hex(z(12)) + [UInt8(words << 4)] + hex(z(7)) + bytes).look {
                TCP($0, at: 0)!.maximumSegmentSize
            }
        }
        #expect(size("020405b4") == 1460)
        #expect(size("01010101 0402 0101 020405b4") == 1460)
        #expect(size("00020405 b4000000") == nil)
        #expect(size("0101 0204") == nil)
        #expect(size("010101 02") == nil)
        #expect(size("0300 0204 05b40000") == nil)
        #expect(size("0301 0204 05b40000") == nil)
        #expect(size("020305b4") == nil)
        #expect(size("08ff0000 020405b4") == nil)
    }
}
