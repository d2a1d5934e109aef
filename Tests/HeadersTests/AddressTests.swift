import Headers
import Testing

@Suite struct AddressTests {
    @Test("MAC addresses: text both ways, bits, multicast of groups")
    func mac() {
        let mac = MACAddress("02:00:5e:10:ab:CD")
        #expect(mac == MACAddress(0x02, 0x00, 0x5e, 0x10, 0xab, 0xcd))
        #expect(mac?.rawValue == 0xcdab_105e_0002)
        #expect(mac?.description == "02:00:5e:10:ab:cd")
        #expect(MACAddress("02-00-5e-10-ab-cd") == mac)
        for wrong in [
            "", "02:00:5e:10:ab", "02:00:5e:10:ab:cd:", "02:00:5e:10:ab:cg", "02:00-5e:10:ab:cd", "0200.5e10.abcd",
            "2:00:5e:10:ab:cdd", "02:00:5e:10:ab:é",
        ] {
            #expect(MACAddress(wrong) == nil, "\(wrong)")
        }
        #expect(MACAddress(rawValue: .max) == .broadcast && MACAddress.broadcast.description == "ff:ff:ff:ff:ff:ff")
        #expect(MACAddress.broadcast.isMulticast && !mac!.isMulticast && mac!.isLocal && !MACAddress.zero.isLocal)
        #expect(MACAddress(multicast: IPv4Address(239, 129, 2, 3)).description == "01:00:5e:01:02:03")
        #expect(MACAddress(multicast: IPv6Address("ff02::1:ff28:9c5a")!).description == "33:33:ff:28:9c:5a")
    }

    @Test("IPv4 addresses: text both ways, what is no address, kinds")
    func ipv4() {
        #expect(IPv4Address("192.0.2.1")?.rawValue == 0xc000_0201)
        #expect(IPv4Address(192, 0, 2, 1).description == "192.0.2.1")
        #expect(IPv4Address("0.0.0.0") == .any && IPv4Address("255.255.255.255") == .broadcast)
        for wrong in [
            "", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.", ".1.2.3", "1..2.3", "01.2.3.4", "1.2.3.4 ", "a.2.3.4",
            "1.2.3.-4", "1.2.3.0000", "4294967295",
        ] {
            #expect(IPv4Address(wrong) == nil, "\(wrong)")
        }
        #expect(IPv4Address(224, 0, 0, 1).isMulticast && !IPv4Address(223, 255, 255, 255).isMulticast)
        #expect(!IPv4Address(240, 0, 0, 0).isMulticast)
        #expect(IPv4Address(127, 1, 2, 3).isLoopback && IPv4Address(169, 254, 0, 1).isLinkLocal)
        #expect(IPv4Address(10, 0, 0, 1) < IPv4Address(192, 0, 0, 1))
        var random = Random(seed: 1)
        for _ in 0..<1000 {
            let a = IPv4Address(rawValue: UInt32(truncatingIfNeeded: random.next()))
            #expect(IPv4Address(a.description) == a)
        }
    }

    @Test(
        "IPv6 addresses as RFC 5952 writes them, and as else they may be written",
        arguments: [
            ("::", "::"), ("::1", "::1"), ("1::", "1::"), ("2001:db8::1", "2001:0db8:0:0:0:0:0:1"),
            // Section 4.1 to 4.3: no leading zeroes, the longest run, not a single group, the first of two, lower case.
            ("2001:db8::1", "2001:db8:0000:0:0::1"), ("2001:db8:0:1:1:1:1:1", "2001:db8::1:1:1:1:1"),
            ("2001:0:0:1::1", "2001:0:0:1:0:0:0:1"), ("2001:db8::1:0:0:1", "2001:db8:0:0:1:0:0:1"),
            ("2001:db8::abcd", "2001:DB8::ABCD"), ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
            ("fe80::1:2:3:4", "fe80:0:0:0:1:2:3:4"), ("1:2:3:4:5:6::", "1:2:3:4:5:6:0:0"),
            ("::3:4:5:6:7:8", "0:0:3:4:5:6:7:8"),
            // Section 5: an IPv4-mapped address.
            ("::ffff:192.0.2.1", "::ffff:c000:201"), ("64:ff9b::c000:201", "64:ff9b::192.0.2.1"),
            ("1:2:3:4:5:6:708:90a", "1:2:3:4:5:6:7.8.9.10"),
        ])
    func ipv6(canonical: String, other: String) throws {
        let address = try #require(IPv6Address(other))
        #expect(address.description == canonical)
        #expect(IPv6Address(canonical) == address)
    }

    @Test(
        "what is no IPv6 address",
        arguments: [
            "", ":", ":::", "1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::", ":1::", "1:",
            "::1:",
            "1:2:3:4:5:6:7:1.2.3.4", "1.2.3.4::", "::1.2.3", "::1.2.3.400", "fe80::1%eth0", "1:2:3:4::5:6:7:8",
            "::1.2.3.4:5", " ::1", "1:::2",
        ])
    func wrong(_ text: String) { #expect(IPv6Address(text) == nil) }

    @Test("random IPv6 addresses keep their value through text; groups in the right places")
    func ipv6Random() {
        let a = IPv6Address(high: 0x0001_0002_0003_0004, low: 0x0005_0006_0007_0008)
        #expect(a.description == "1:2:3:4:5:6:7:8")
        var random = Random(seed: 2)
        for _ in 0..<2000 {
            // Runs of zeroes, often.
            func word() -> UInt64 {
                (0..<4).reduce(0) { v, _ in v << 16 | (random.below(2) == 0 ? 0 : random.next() & 0xffff) }
            }
            let a = IPv6Address(high: word(), low: word())
            #expect(IPv6Address(a.description) == a)
            #expect(!a.description.contains(":::"))
        }
        #expect(IPv6Address("fe80::1")!.isLinkLocal && IPv6Address("febf::")!.isLinkLocal)
        #expect(!IPv6Address("fec0::")!.isLinkLocal && IPv6Address("ff02::1")!.isMulticast)
        #expect(IPv6Address("2001:db8::1:800:200e:8c6c")!.solicitedNode.description == "ff02::1:ff0e:8c6c")
        #expect(IPv6Address.any < IPv6Address.loopback && IPv6Address.loopback < IPv6Address("1::")!)
        #expect(IPv6Address("1::")! < IPv6Address("1::1")!)
    }

    @Test("EtherTypes and protocols")
    func numbers() {
        #expect(EtherType.ipv6.rawValue == 0x86dd && EtherType.arp.description == "0x0806")
        #expect(EtherType.vlan.isVLAN && EtherType.serviceVLAN.isVLAN && !EtherType.ipv4.isVLAN)
        #expect(EtherType(rawValue: 1500).isLength && !EtherType(rawValue: 1536).isLength)
        #expect(IPProtocol.udp.hasPorts && IPProtocol.sctp.hasPorts && !IPProtocol.icmp.hasPorts)
        #expect(IPProtocol.icmpV6.rawValue == 58 && IPProtocol.tcp.description == "6")
    }
}
