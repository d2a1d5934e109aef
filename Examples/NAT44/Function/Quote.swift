import Ringway

/// Which of a packet's two ends changes.
enum Side { case source, destination }

/// A change of an address in an IPv4 header, which is made with the value.
struct Change {
    private let old: IPv4Address
    private let new: IPv4Address

    /// The header's checksum changes with it.
    init(_ ip: borrowing IPv4, _ side: Side, _ address: IPv4Address) {
        old = side == .source ? ip.sourceAddress : ip.destinationAddress
        new = address
        if side == .source { ip.sourceAddress = address } else { ip.destinationAddress = address }
        ip.headerChecksum = Checksum.update(ip.headerChecksum, from: old, to: new)
    }

    /// A checksum of TCP or UDP, over the addresses and ports, after the same change and that of a port.
    func applied(to sum: UInt16, _ oldPort: UInt16, _ port: UInt16, isPartial: Bool, isUDP: Bool) -> UInt16 {
        // Only the pseudo header's sum is there yet.
        if isPartial { return Checksum.updatePartial(sum, from: old, to: new) }
        let updated = Checksum.update(Checksum.update(sum, from: old, to: new), from: oldPort, to: port)
        return isUDP ? Checksum.forUDP(updated, old: sum) : updated
    }

    /// A checksum over the header itself, and its old and new checksum: an ICMP error's over what it quotes.
    func applied(toOuter sum: UInt16, _ oldHeaderSum: UInt16, _ headerSum: UInt16) -> UInt16 {
        Checksum.update(Checksum.update(sum, from: old, to: new), from: oldHeaderSum, to: headerSum)
    }
}

extension UDP {
    /// Gives a port another value; returns the old one.
    borrowing func exchange(_ side: Side, _ port: UInt16) -> UInt16 {
        let old = side == .source ? sourcePort : destinationPort
        if side == .source { sourcePort = port } else { destinationPort = port }
        return old
    }
}

extension FlowKey {
    /// The same flow from another source; an echo's identifier stands in the place of both ports.
    func from(_ inside: Endpoint) -> FlowKey {
        FlowKey(
            source: inside.address, destination: destinationIPv4 ?? .any, protocol: self.protocol,
            sourcePort: inside.port, destinationPort: self.protocol == .icmp ? inside.port : destinationPort)
    }
}

/// The packet that an ICMP error is about: the error quotes its IP header and eight bytes at least (RFC 792). Plain
/// numbers.
struct Quote {
    /// Of the packet that is quoted: where it came from and where it was to go.
    let flow: FlowKey
    private let icmp: Int
    private let network: Int
    private let transport: Int
    /// Where the error ends: what follows is padding.
    private let end: Int

    /// Nil where the packet is no error, or quotes nothing that could be of a session.
    init?(_ packet: Packet, _ layers: Layers) {
        guard layers.ipProtocol == .icmp, !layers.isFragment, let at = layers.transportOffset,
            let end = layers.packetEnd, let icmp = ICMP(packet.bytes, at: at),
            icmp.type == ICMP.V4.destinationUnreachable || icmp.type == ICMP.V4.timeExceeded
                || icmp.type == ICMP.V4.parameterProblem
        else { return nil }
        network = at + ICMP.size
        guard let ip = IPv4(packet.bytes, at: network), ip.fragmentOffset == 0 else { return nil }
        transport = network + ip.headerLength
        guard transport + 8 <= min(end, packet.bytes.count) else { return nil }
        self.icmp = at
        self.end = end
        var (from, to): (UInt16, UInt16)
        switch ip.protocol {
        case .tcp, .udp:
            guard let udp = UDP(packet.bytes, at: transport) else { return nil }
            (from, to) = (udp.sourcePort, udp.destinationPort)
        case .icmp:
            guard let echo = ICMP(packet.bytes, at: transport),
                echo.type == ICMP.V4.echo || echo.type == ICMP.V4.echoReply
            else { return nil }
            (from, to) = (echo.identifier, echo.identifier)
        default: return nil
        }
        flow = FlowKey(
            source: ip.sourceAddress, destination: ip.destinationAddress, protocol: ip.protocol, sourcePort: from,
            destinationPort: to)
    }

    /// Gives the quoted packet another source or destination, with its checksums as far as they are quoted, and the
    /// error's own.
    func translate(_ packet: Packet, _ side: Side, _ address: IPv4Address, _ port: UInt16) {
        guard let error = ICMP(packet.bytes, at: icmp), let ip = IPv4(packet.bytes, at: network) else { return }
        var sum = error.checksum
        let headerSum = ip.headerChecksum
        let change = Change(ip, side, address)
        sum = change.applied(toOuter: sum, headerSum, ip.headerChecksum)
        // What changes in the quote changes the error's checksum.
        func note(_ old: UInt16, _ new: UInt16) { sum = Checksum.update(sum, from: old, to: new) }
        switch ip.protocol {
        case .icmp:
            guard let echo = ICMP(packet.bytes, at: transport) else { return }
            let (old, oldSum) = (echo.identifier, echo.checksum)
            echo.identifier = port
            echo.checksum = Checksum.update(oldSum, from: old, to: port)
            note(old, port)
            note(oldSum, echo.checksum)
        case .udp:
            guard let udp = UDP(packet.bytes, at: transport) else { return }
            let (old, oldSum) = (udp.exchange(side, port), udp.checksum)
            udp.checksum = change.applied(to: oldSum, old, port, isPartial: false, isUDP: true)
            note(old, port)
            note(oldSum, udp.checksum)
        default:
            guard let ports = UDP(packet.bytes, at: transport) else { return }
            let old = ports.exchange(side, port)
            note(old, port)
            // Often only eight bytes are quoted, and the checksum is not among them.
            if transport + TCP.size <= end, let tcp = TCP(packet.bytes, at: transport) {
                let oldSum = tcp.checksum
                tcp.checksum = change.applied(to: oldSum, old, port, isPartial: false, isUDP: false)
                note(oldSum, tcp.checksum)
            }
        }
        error.checksum = sum
    }
}
