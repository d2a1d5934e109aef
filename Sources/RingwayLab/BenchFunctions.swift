import Ringway

/// Packet functions as an embedder writes them, to be counted by tools/instructions: each sends packets back with their
/// addresses exchanged, and does one thing more than the one before.
package enum BenchFunction: String, CaseIterable, Sendable {
    /// Reads 12 bytes, as Ringway's own `macswap` does.
    case macswap = "embedded macswap"
    /// Reads 64 bytes.
    case read64 = "embedded read-64"
    /// Puts a VLAN tag on.
    case vlan = "embedded vlan"
    /// Puts the headers of a VXLAN tunnel on.
    case vxlan = "embedded vxlan"

    var stepped: SteppedFunction {
        switch self {
        case .macswap: return SteppedFunction(SwapAddresses())
        case .read64: return SteppedFunction(SwapAddressesOf64())
        case .vlan: return SteppedFunction(PushTag())
        case .vxlan: return SteppedFunction(SendThroughTunnel())
        }
    }

    /// Bytes that frames become longer by.
    var growth: Int {
        switch self {
        case .macswap, .read64: return 0
        case .vlan: return 4
        case .vxlan: return SendThroughTunnel.headers
        }
    }
}

struct SwapAddresses: PacketFunction {
    static var frontBytes: Int { 12 }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count { packets[i].swapMACs() }
        return .port(packets.port)
    }
}

struct SwapAddressesOf64: PacketFunction {
    static var frontBytes: Int { 64 }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count { packets[i].swapMACs() }
        return .port(packets.port)
    }
}

struct PushTag: PacketFunction {
    static var frontBytes: Int { 64 }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            packet.swapMACs()
            _ = packet.pushVLAN(100)
        }
        return .port(packets.port)
    }
}

struct SendThroughTunnel: PacketFunction {
    static var frontBytes: Int { 64 }
    static var headers: Int { Ethernet.size + IPv4.size + UDP.size + VXLAN.size }

    /// The outer headers of a packet without a byte of payload.
    let outer = HeaderTemplate(SendThroughTunnel.headers) { bytes in
        guard let ethernet = Ethernet(bytes), let ip = IPv4(creating: bytes, at: 14), let udp = UDP(bytes, at: 34),
            VXLAN(creating: bytes, at: 42, vni: 7) != nil
        else { return }
        ethernet.etherType = .ipv4
        ip.protocol = .udp
        ip.timeToLive = 64
        ip.sourceAddress = IPv4Address(rawValue: 0x0a00_0001)
        ip.destinationAddress = IPv4Address(rawValue: 0x0a00_0002)
        ip.updateChecksum()
        udp.destinationPort = VXLAN.port
    }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            packet.swapMACs()
            let (to, from) = (packet.destinationMAC, packet.sourceMAC)
            guard packet.prepend(outer), let ethernet = Ethernet(packet.bytes), let ip = IPv4(packet.bytes, at: 14),
                let udp = UDP(packet.bytes, at: 34)
            else { continue }
            ethernet.destination = MACAddress(rawValue: to)
            ethernet.source = MACAddress(rawValue: from)
            let length = UInt16(truncatingIfNeeded: packet.length - 14)
            ip.headerChecksum = Checksum.update(ip.headerChecksum, from: UInt16(0), to: length)
            ip.totalLength = length
            udp.length = length &- 20
            // Flows differ for routers on the way (RFC 7348, section 5).
            udp.sourcePort = 0xc000 | UInt16(truncatingIfNeeded: from &>> 40)
        }
        return .port(packets.port)
    }
}
