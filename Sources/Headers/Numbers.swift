/// What follows an Ethernet header or a VLAN tag (IEEE 802.3-2022, 3.2.6; numbers: IANA, "IEEE 802 Numbers").
public struct EtherType: RawRepresentable, Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    /// In host byte order.
    public let rawValue: UInt16
    /// From the number, in host byte order.
    @inlinable @inline(__always)
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// IPv4 (RFC 894).
    @inlinable public static var ipv4: EtherType { EtherType(rawValue: 0x0800) }
    /// ARP (RFC 826).
    @inlinable public static var arp: EtherType { EtherType(rawValue: 0x0806) }
    /// An Ethernet frame, in tunnels (RFC 1701; Geneve: RFC 8926, section 3.4).
    @inlinable public static var transparentEthernet: EtherType { EtherType(rawValue: 0x6558) }
    /// A customer's VLAN tag (IEEE 802.1Q).
    @inlinable public static var vlan: EtherType { EtherType(rawValue: 0x8100) }
    /// IPv6 (RFC 2464).
    @inlinable public static var ipv6: EtherType { EtherType(rawValue: 0x86dd) }
    /// Pause and other MAC control frames (IEEE 802.3, clause 31).
    @inlinable public static var macControl: EtherType { EtherType(rawValue: 0x8808) }
    /// LACP and other slow protocols (IEEE 802.3, annex 57A).
    @inlinable public static var slowProtocols: EtherType { EtherType(rawValue: 0x8809) }
    /// MPLS (RFC 5332).
    @inlinable public static var mpls: EtherType { EtherType(rawValue: 0x8847) }
    /// PPPoE, sessions (RFC 2516).
    @inlinable public static var pppoeSession: EtherType { EtherType(rawValue: 0x8864) }
    /// A service provider's VLAN tag (IEEE 802.1Q, "802.1ad").
    @inlinable public static var serviceVLAN: EtherType { EtherType(rawValue: 0x88a8) }
    /// LLDP (IEEE 802.1AB).
    @inlinable public static var lldp: EtherType { EtherType(rawValue: 0x88cc) }

    /// Whether a VLAN tag follows: a customer's or a service provider's.
    @inlinable @inline(__always)
    public var isVLAN: Bool { rawValue == 0x8100 || rawValue == 0x88a8 }
    /// Whether it is the length of an IEEE 802.3 frame (below 1536) and no type.
    @inlinable @inline(__always)
    public var isLength: Bool { rawValue < 0x0600 }

    /// Four hexadecimal digits, such as `0x0800`.
    public var description: String {
        let digits = String(rawValue, radix: 16)
        return "0x" + String(repeating: "0", count: 4 - digits.count) + digits
    }
}

/// What follows an IP header (IANA, "Assigned Internet Protocol Numbers"): IPv4's Protocol, IPv6's Next Header.
public struct IPProtocol: RawRepresentable, Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    /// The number.
    public let rawValue: UInt8
    /// From the number.
    @inlinable @inline(__always)
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    @inlinable public static var hopByHop: IPProtocol { IPProtocol(rawValue: 0) }
    /// ICMP of IPv4 (RFC 792).
    @inlinable public static var icmp: IPProtocol { IPProtocol(rawValue: 1) }
    /// IGMP (RFC 9776).
    @inlinable public static var igmp: IPProtocol { IPProtocol(rawValue: 2) }
    /// IPv4 in IP (RFC 2003).
    @inlinable public static var ipv4: IPProtocol { IPProtocol(rawValue: 4) }
    /// TCP (RFC 9293).
    @inlinable public static var tcp: IPProtocol { IPProtocol(rawValue: 6) }
    /// UDP (RFC 768).
    @inlinable public static var udp: IPProtocol { IPProtocol(rawValue: 17) }
    /// DCCP (RFC 4340).
    @inlinable public static var dccp: IPProtocol { IPProtocol(rawValue: 33) }
    /// IPv6 in IP (RFC 2473).
    @inlinable public static var ipv6: IPProtocol { IPProtocol(rawValue: 41) }
    /// IPv6 routing header (RFC 8200, section 4.4).
    @inlinable public static var routing: IPProtocol { IPProtocol(rawValue: 43) }
    /// IPv6 fragment header (RFC 8200, section 4.5).
    @inlinable public static var fragment: IPProtocol { IPProtocol(rawValue: 44) }
    /// GRE (RFC 2784).
    @inlinable public static var gre: IPProtocol { IPProtocol(rawValue: 47) }
    /// Encapsulating security payload (RFC 4303).
    @inlinable public static var esp: IPProtocol { IPProtocol(rawValue: 50) }
    /// Authentication header (RFC 4302).
    @inlinable public static var ah: IPProtocol { IPProtocol(rawValue: 51) }
    /// ICMP of IPv6 (RFC 4443).
    @inlinable public static var icmpV6: IPProtocol { IPProtocol(rawValue: 58) }
    /// Nothing follows (RFC 8200, section 4.7).
    @inlinable public static var none: IPProtocol { IPProtocol(rawValue: 59) }
    /// IPv6 destination options (RFC 8200, section 4.6).
    @inlinable public static var destinationOptions: IPProtocol { IPProtocol(rawValue: 60) }
    /// OSPF (RFC 5340).
    @inlinable public static var ospf: IPProtocol { IPProtocol(rawValue: 89) }
    /// VRRP (RFC 9568).
    @inlinable public static var vrrp: IPProtocol { IPProtocol(rawValue: 112) }
    /// SCTP (RFC 9260).
    @inlinable public static var sctp: IPProtocol { IPProtocol(rawValue: 132) }
    /// UDP-Lite (RFC 3828).
    @inlinable public static var udpLite: IPProtocol { IPProtocol(rawValue: 136) }

    /// Whether the header starts with a source and a destination port of 16 bits each.
    @inlinable @inline(__always)
    public var hasPorts: Bool {
        switch rawValue {
        case 6, 17, 33, 132, 136: true
        default: false
        }
    }

    /// The number.
    public var description: String { String(rawValue) }
}

/// The value of a hexadecimal digit; nil for other characters.
func hexDigit(_ c: UInt8) -> UInt8? {
    switch c {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): c - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): c - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): c - UInt8(ascii: "A") + 10
    default: nil
    }
}
