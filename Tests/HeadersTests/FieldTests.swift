import Headers
import Testing

/// A field of a header: which bits of the header it is, and how it is read and written.
struct Field: Sendable, CustomTestStringConvertible {
    let name: String
    /// The header's bytes, 1 in each bit that belongs to the field.
    let mask: [UInt8]
    let get: @Sendable (HeaderBytes) -> UInt64
    let set: @Sendable (HeaderBytes, UInt64) -> Void

    init(
        _ name: String, _ mask: String, _ get: @escaping @Sendable (HeaderBytes) -> UInt64,
        _ set: @escaping @Sendable (HeaderBytes, UInt64) -> Void
    ) {
        self.name = name
        self.mask = hex(mask)
        self.get = get
        self.set = set
    }
    var testDescription: String { name }
    var bits: Int { mask.reduce(0) { $0 + $1.nonzeroBitCount } }
    /// The largest value of the field.
    var most: UInt64 { bits >= 64 ? .max : 1 << UInt64(bits) - 1 }
}

/// `bytes` of ff at `at` in a header of `size`.
private func whole(_ at: Int, _ bytes: Int, of size: Int) -> String { z(at) + f(bytes) + z(size - at - bytes) }

/// Offset of the header in the memory of these tests: odd, so that nothing relies on alignment.
private let at = 3

enum Fields {
    static let ethernet: [Field] = [
        Field(
            "destination", whole(0, 6, of: 14), { Ethernet($0, at: at)!.destination.rawValue },
            { Ethernet($0, at: at)!.destination = MACAddress(rawValue: $1) }),
        Field(
            "source", whole(6, 6, of: 14), { Ethernet($0, at: at)!.source.rawValue },
            { Ethernet($0, at: at)!.source = MACAddress(rawValue: $1) }),
        Field(
            "etherType", whole(12, 2, of: 14), { UInt64(Ethernet($0, at: at)!.etherType.rawValue) },
            { Ethernet($0, at: at)!.etherType = EtherType(rawValue: UInt16($1)) }),
    ]
    static let vlan: [Field] = [
        Field(
            "controlInformation", "ffff0000", { UInt64(VLANTag($0, at: at)!.controlInformation) },
            { VLANTag($0, at: at)!.controlInformation = UInt16($1) }),
        Field(
            "priority", "e0000000", { UInt64(VLANTag($0, at: at)!.priority) },
            { VLANTag($0, at: at)!.priority = UInt8($1) }),
        Field(
            "dropEligible", "10000000", { VLANTag($0, at: at)!.dropEligible ? 1 : 0 },
            { VLANTag($0, at: at)!.dropEligible = $1 != 0 }),
        Field(
            "vlanID", "0fff0000", { UInt64(VLANTag($0, at: at)!.vlanID) },
            { VLANTag($0, at: at)!.vlanID = UInt16($1) }),
        Field(
            "etherType", "0000ffff", { UInt64(VLANTag($0, at: at)!.etherType.rawValue) },
            { VLANTag($0, at: at)!.etherType = EtherType(rawValue: UInt16($1)) }),
    ]
    static let arp: [Field] = [
        Field(
            "operation", whole(6, 2, of: 28), { UInt64(ARP($0, at: at)!.operation.rawValue) },
            { ARP($0, at: at)!.operation = ARP.Operation(rawValue: UInt16($1)) }),
        Field(
            "senderHardwareAddress", whole(8, 6, of: 28), { ARP($0, at: at)!.senderHardwareAddress.rawValue },
            { ARP($0, at: at)!.senderHardwareAddress = MACAddress(rawValue: $1) }),
        Field(
            "senderProtocolAddress", whole(14, 4, of: 28), { UInt64(ARP($0, at: at)!.senderProtocolAddress.rawValue) },
            { ARP($0, at: at)!.senderProtocolAddress = IPv4Address(rawValue: UInt32($1)) }),
        Field(
            "targetHardwareAddress", whole(18, 6, of: 28), { ARP($0, at: at)!.targetHardwareAddress.rawValue },
            { ARP($0, at: at)!.targetHardwareAddress = MACAddress(rawValue: $1) }),
        Field(
            "targetProtocolAddress", whole(24, 4, of: 28), { UInt64(ARP($0, at: at)!.targetProtocolAddress.rawValue) },
            { ARP($0, at: at)!.targetProtocolAddress = IPv4Address(rawValue: UInt32($1)) }),
    ]
    static let ipv4: [Field] = [
        Field(
            "typeOfService", whole(1, 1, of: 20), { UInt64(IPv4($0, at: at)!.typeOfService) },
            { IPv4($0, at: at)!.typeOfService = UInt8($1) }),
        Field(
            "dscp", z(1) + "fc" + z(18), { UInt64(IPv4($0, at: at)!.dscp) }, { IPv4($0, at: at)!.dscp = UInt8($1) }),
        Field("ecn", z(1) + "03" + z(18), { UInt64(IPv4($0, at: at)!.ecn) }, { IPv4($0, at: at)!.ecn = UInt8($1) }),
        Field(
            "totalLength", whole(2, 2, of: 20), { UInt64(IPv4($0, at: at)!.totalLength) },
            { IPv4($0, at: at)!.totalLength = UInt16($1) }),
        Field(
            "identification", whole(4, 2, of: 20), { UInt64(IPv4($0, at: at)!.identification) },
            { IPv4($0, at: at)!.identification = UInt16($1) }),
        Field(
            "flags", z(6) + "e0" + z(13), { UInt64(IPv4($0, at: at)!.flags.rawValue >> 5) },
            { IPv4($0, at: at)!.flags = IPv4.Flags(rawValue: UInt8($1) << 5) }),
        Field(
            "fragmentOffset", z(6) + "1fff" + z(12), { UInt64(IPv4($0, at: at)!.fragmentOffset) },
            { IPv4($0, at: at)!.fragmentOffset = UInt16($1) }),
        Field(
            "timeToLive", whole(8, 1, of: 20), { UInt64(IPv4($0, at: at)!.timeToLive) },
            { IPv4($0, at: at)!.timeToLive = UInt8($1) }),
        Field(
            "protocol", whole(9, 1, of: 20), { UInt64(IPv4($0, at: at)!.protocol.rawValue) },
            { IPv4($0, at: at)!.protocol = IPProtocol(rawValue: UInt8($1)) }),
        Field(
            "headerChecksum", whole(10, 2, of: 20), { UInt64(IPv4($0, at: at)!.headerChecksum) },
            { IPv4($0, at: at)!.headerChecksum = UInt16($1) }),
        Field(
            "sourceAddress", whole(12, 4, of: 20), { UInt64(IPv4($0, at: at)!.sourceAddress.rawValue) },
            { IPv4($0, at: at)!.sourceAddress = IPv4Address(rawValue: UInt32($1)) }),
        Field(
            "destinationAddress", whole(16, 4, of: 20), { UInt64(IPv4($0, at: at)!.destinationAddress.rawValue) },
            { IPv4($0, at: at)!.destinationAddress = IPv4Address(rawValue: UInt32($1)) }),
    ]
    static let ipv6: [Field] = [
        Field(
            "trafficClass", "0ff0" + z(38), { UInt64(IPv6($0, at: at)!.trafficClass) },
            { IPv6($0, at: at)!.trafficClass = UInt8($1) }),
        Field("dscp", "0fc0" + z(38), { UInt64(IPv6($0, at: at)!.dscp) }, { IPv6($0, at: at)!.dscp = UInt8($1) }),
        Field("ecn", "0030" + z(38), { UInt64(IPv6($0, at: at)!.ecn) }, { IPv6($0, at: at)!.ecn = UInt8($1) }),
        Field(
            "flowLabel", "000fffff" + z(36), { UInt64(IPv6($0, at: at)!.flowLabel) },
            { IPv6($0, at: at)!.flowLabel = UInt32($1) }),
        Field(
            "payloadLength", whole(4, 2, of: 40), { UInt64(IPv6($0, at: at)!.payloadLength) },
            { IPv6($0, at: at)!.payloadLength = UInt16($1) }),
        Field(
            "nextHeader", whole(6, 1, of: 40), { UInt64(IPv6($0, at: at)!.nextHeader.rawValue) },
            { IPv6($0, at: at)!.nextHeader = IPProtocol(rawValue: UInt8($1)) }),
        Field(
            "hopLimit", whole(7, 1, of: 40), { UInt64(IPv6($0, at: at)!.hopLimit) },
            { IPv6($0, at: at)!.hopLimit = UInt8($1) }),
        Field(
            "sourceAddress.high", whole(8, 8, of: 40), { IPv6($0, at: at)!.sourceAddress.high },
            {
                let low = IPv6($0, at: at)!.sourceAddress.low
                IPv6($0, at: at)!.sourceAddress = IPv6Address(high: $1, low: low)
            }),
        Field(
            "sourceAddress.low", whole(16, 8, of: 40), { IPv6($0, at: at)!.sourceAddress.low },
            {
                let high = IPv6($0, at: at)!.sourceAddress.high
                IPv6($0, at: at)!.sourceAddress = IPv6Address(high: high, low: $1)
            }),
        Field(
            "destinationAddress.high", whole(24, 8, of: 40), { IPv6($0, at: at)!.destinationAddress.high },
            {
                let low = IPv6($0, at: at)!.destinationAddress.low
                IPv6($0, at: at)!.destinationAddress = IPv6Address(high: $1, low: low)
            }),
        Field(
            "destinationAddress.low", whole(32, 8, of: 40), { IPv6($0, at: at)!.destinationAddress.low },
            {
                let high = IPv6($0, at: at)!.destinationAddress.high
                IPv6($0, at: at)!.destinationAddress = IPv6Address(high: high, low: $1)
            }),
    ]
    static let udp: [Field] = [
        Field(
            "sourcePort", whole(0, 2, of: 8), { UInt64(UDP($0, at: at)!.sourcePort) },
            { UDP($0, at: at)!.sourcePort = UInt16($1) }),
        Field(
            "destinationPort", whole(2, 2, of: 8), { UInt64(UDP($0, at: at)!.destinationPort) },
            { UDP($0, at: at)!.destinationPort = UInt16($1) }),
        Field(
            "length", whole(4, 2, of: 8), { UInt64(UDP($0, at: at)!.length) },
            { UDP($0, at: at)!.length = UInt16($1) }),
        Field(
            "checksum", whole(6, 2, of: 8), { UInt64(UDP($0, at: at)!.checksum) },
            { UDP($0, at: at)!.checksum = UInt16($1) }),
    ]
    static let tcp: [Field] = [
        Field(
            "sourcePort", whole(0, 2, of: 20), { UInt64(TCP($0, at: at)!.sourcePort) },
            { TCP($0, at: at)!.sourcePort = UInt16($1) }),
        Field(
            "destinationPort", whole(2, 2, of: 20), { UInt64(TCP($0, at: at)!.destinationPort) },
            { TCP($0, at: at)!.destinationPort = UInt16($1) }),
        Field(
            "sequenceNumber", whole(4, 4, of: 20), { UInt64(TCP($0, at: at)!.sequenceNumber) },
            { TCP($0, at: at)!.sequenceNumber = UInt32($1) }),
        Field(
            "acknowledgmentNumber", whole(8, 4, of: 20), { UInt64(TCP($0, at: at)!.acknowledgmentNumber) },
            { TCP($0, at: at)!.acknowledgmentNumber = UInt32($1) }),
        Field(
            "reserved", z(12) + "0f" + z(7), { UInt64(TCP($0, at: at)!.reserved) },
            { TCP($0, at: at)!.reserved = UInt8($1) }),
        Field(
            "flags", whole(13, 1, of: 20), { UInt64(TCP($0, at: at)!.flags.rawValue) },
            { TCP($0, at: at)!.flags = TCP.Flags(rawValue: UInt8($1)) }),
        Field(
            "window", whole(14, 2, of: 20), { UInt64(TCP($0, at: at)!.window) },
            { TCP($0, at: at)!.window = UInt16($1) }),
        Field(
            "checksum", whole(16, 2, of: 20), { UInt64(TCP($0, at: at)!.checksum) },
            { TCP($0, at: at)!.checksum = UInt16($1) }),
        Field(
            "urgentPointer", whole(18, 2, of: 20), { UInt64(TCP($0, at: at)!.urgentPointer) },
            { TCP($0, at: at)!.urgentPointer = UInt16($1) }),
    ]
    static let icmp: [Field] = [
        Field(
            "type", whole(0, 1, of: 8), { UInt64(ICMP($0, at: at)!.type) }, { ICMP($0, at: at)!.type = UInt8($1) }),
        Field(
            "code", whole(1, 1, of: 8), { UInt64(ICMP($0, at: at)!.code) }, { ICMP($0, at: at)!.code = UInt8($1) }),
        Field(
            "checksum", whole(2, 2, of: 8), { UInt64(ICMP($0, at: at)!.checksum) },
            { ICMP($0, at: at)!.checksum = UInt16($1) }),
        Field(
            "rest", whole(4, 4, of: 8), { UInt64(ICMP($0, at: at)!.rest) }, { ICMP($0, at: at)!.rest = UInt32($1) }),
        Field(
            "identifier", whole(4, 2, of: 8), { UInt64(ICMP($0, at: at)!.identifier) },
            { ICMP($0, at: at)!.identifier = UInt16($1) }),
        Field(
            "sequenceNumber", whole(6, 2, of: 8), { UInt64(ICMP($0, at: at)!.sequenceNumber) },
            { ICMP($0, at: at)!.sequenceNumber = UInt16($1) }),
    ]
    static let vxlan: [Field] = [
        Field(
            "flags", whole(0, 1, of: 8), { UInt64(VXLAN($0, at: at)!.flags) }, { VXLAN($0, at: at)!.flags = UInt8($1) }
        ),
        Field(
            "isVNIValid", "08" + z(7), { VXLAN($0, at: at)!.isVNIValid ? 1 : 0 },
            { VXLAN($0, at: at)!.isVNIValid = $1 != 0 }),
        Field(
            "vni", whole(4, 3, of: 8), { UInt64(VXLAN($0, at: at)!.vni) }, { VXLAN($0, at: at)!.vni = UInt32($1) }),
    ]
    static let geneve: [Field] = [
        Field(
            "optionsLength", "3f" + z(7), { UInt64(Geneve($0, at: at)!.optionsLength) },
            { Geneve($0, at: at)!.optionsLength = UInt8($1) }),
        Field(
            "isControl", "0080" + z(6), { Geneve($0, at: at)!.isControl ? 1 : 0 },
            { Geneve($0, at: at)!.isControl = $1 != 0 }),
        Field(
            "hasCriticalOptions", "0040" + z(6), { Geneve($0, at: at)!.hasCriticalOptions ? 1 : 0 },
            { Geneve($0, at: at)!.hasCriticalOptions = $1 != 0 }),
        Field(
            "protocolType", whole(2, 2, of: 8), { UInt64(Geneve($0, at: at)!.protocolType.rawValue) },
            { Geneve($0, at: at)!.protocolType = EtherType(rawValue: UInt16($1)) }),
        Field(
            "vni", whole(4, 3, of: 8), { UInt64(Geneve($0, at: at)!.vni) }, { Geneve($0, at: at)!.vni = UInt32($1) }),
    ]
}

@Suite struct FieldTests {
    /// Random bytes, around and in a header, which starts with what a view of it asks for.
    private func check(_ field: Field, _ start: String, seed: UInt64) {
        var random = Random(seed: seed)
        for _ in 0..<rounds(100) {
            var bytes = random.bytes(at + 300)
            let fixed = hex(start)
            bytes.replaceSubrange(at..<at + fixed.count, with: fixed)
            let frame = Frame(bytes)
            for value in [0, field.most, random.next() & field.most] {
                let before = frame.bytes
                frame.look { field.set($0, value) }
                #expect(frame.look { field.get($0) } == value)
                // All other bits stay; of the field's, all are cleared or set where the value has none or all.
                var expected = before
                for (i, mask) in field.mask.enumerated() {
                    let bits =
                        switch value {
                        case 0: UInt8(0)
                        case field.most: UInt8(255)
                        default: frame.buffer[at + i]
                        }
                    expected[at + i] = before[at + i] & ~mask | bits & mask
                }
                #expect(frame.bytes == expected)
            }
        }
    }

    @Test("each field of Ethernet is its bits and no others", arguments: Fields.ethernet) func ethernet(_ field: Field)
    {
        check(field, "", seed: 1)
    }
    @Test("each field of a VLAN tag is its bits and no others", arguments: Fields.vlan) func vlan(_ field: Field) {
        check(field, "", seed: 2)
    }
    @Test("each field of ARP is its bits and no others", arguments: Fields.arp) func arp(_ field: Field) {
        check(field, "000108000604", seed: 3)
    }
    @Test("each field of IPv4 is its bits and no others", arguments: Fields.ipv4) func ipv4(_ field: Field) {
        check(field, "46", seed: 4)
    }
    @Test("each field of IPv6 is its bits and no others", arguments: Fields.ipv6) func ipv6(_ field: Field) {
        check(field, "65", seed: 5)
    }
    @Test("each field of UDP is its bits and no others", arguments: Fields.udp) func udp(_ field: Field) {
        check(field, "", seed: 6)
    }
    @Test("each field of TCP is its bits and no others", arguments: Fields.tcp) func tcp(_ field: Field) {
        // The thirteenth byte says that there are no options.
        check(field, "010203040506070809101112 50", seed: 7)
    }
    @Test("each field of ICMP is its bits and no others", arguments: Fields.icmp) func icmp(_ field: Field) {
        check(field, "", seed: 8)
    }
    @Test("each field of VXLAN is its bits and no others", arguments: Fields.vxlan) func vxlan(_ field: Field) {
        check(field, "", seed: 9)
    }
    @Test("each field of Geneve is its bits and no others", arguments: Fields.geneve) func geneve(_ field: Field) {
        check(field, "01", seed: 10)
    }

    @Test("lengths and versions that a view asks for can be set; what a view relied on stays inside the bytes")
    func lengths() {
        let frame = Frame("46" + z(23))
        frame.look { bytes in
            let ip = IPv4(bytes, at: 0)!
            #expect(ip.headerLength == 24 && ip.options == 20..<24)
            ip.ihl = 5
            #expect(bytes[0] == 0x45 && ip.headerLength == 20 && ip.options.isEmpty)
            // More than there is, and less than can be.
            ip.ihl = 15
            #expect(bytes[0] == 0x4f && ip.headerLength == 24)
            ip.updateChecksum()
            ip.ihl = 0
            #expect(ip.headerLength == 20)
            ip.version = 6
            #expect(bytes[0] == 0x60)
        }
        Frame(z(12) + "6f" + z(11)).look { bytes in
            let tcp = TCP(bytes, at: 0)!
            #expect(tcp.headerLength == 24 && tcp.options == 20..<24)
            tcp.dataOffset = 5
            #expect(bytes[12] == 0x5f && tcp.headerLength == 20 && tcp.options.isEmpty)
            tcp.dataOffset = 15
            #expect(bytes[12] == 0xff && tcp.headerLength == 24)
        }
        Frame("60" + z(39)).look { bytes in
            IPv6(bytes, at: 0)!.version = 15
            #expect(bytes[0] == 0xf0)
        }
        Frame("01" + z(11)).look { bytes in
            let geneve = Geneve(bytes, at: 0)!
            #expect(geneve.options == 8..<12)
            geneve.optionsLength = 63
            #expect(bytes[0] == 0x3f && geneve.options == 8..<12)
            geneve.version = 3
            #expect(bytes[0] == 0xff)
        }
    }

    @Test("values that are too large for a field are cut, and leave its neighbours alone")
    func tooLarge() {
        Frame(z(40)).look { bytes in
            let tag = VLANTag(bytes, at: 0)!
            tag.vlanID = 0xffff
            #expect(tag.controlInformation == 0x0fff)
            tag.controlInformation = 0
            tag.priority = 0xff
            #expect(tag.controlInformation == 0xe000)
            tag.controlInformation = 0
            let ip = IPv4(creating: bytes, at: 0)!
            ip.dscp = 0xff
            #expect(ip.typeOfService == 0xfc)
            ip.typeOfService = 0
            ip.ecn = 0xff
            #expect(ip.typeOfService == 3)
            ip.fragmentOffset = 0xffff
            #expect(ip.flags == [])
            ip.fragmentOffset = 0
            ip.flags = IPv4.Flags(rawValue: 0xff)
            #expect(ip.fragmentOffset == 0)
            let ipv6 = IPv6(creating: bytes, at: 0)!
            ipv6.flowLabel = 0xffff_ffff
            #expect(ipv6.version == 6 && ipv6.trafficClass == 0)
            ipv6.flowLabel = 0
            ipv6.dscp = 0xff
            #expect(ipv6.version == 6 && ipv6.trafficClass == 0xfc && ipv6.flowLabel == 0)
            ipv6.trafficClass = 0
            ipv6.ecn = 0xff
            #expect(ipv6.trafficClass == 3)
            let vxlan = VXLAN(creating: bytes, at: 0, vni: 0xffff_ffff)!
            #expect(vxlan.vni == 0xff_ffff && bytes[0] == 8 && bytes[3] == 0 && bytes[7] == 0)
        }
    }
}
