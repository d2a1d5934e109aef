import Headers
import Virtio

/// What a port claims about addresses, looked at in its ARP, neighbour discovery and IP packets. What cannot be looked
/// through, though a receiver might, is not let through.
extension SwitchCore {
    /// Why the packet is dropped, -1: it is not. `source`: of the frame.
    @inline(never)
    func inspect(_ packet: borrowing Packet, _ port: Int, source: UInt64) -> Int {
        packet.extend(to: 128)
        var layers = Layers(packet.bytes, frameLength: packet.length)
        if layers.defect == .frontTooShort {
            packet.extend(to: PacketSlot.longestFront)
            layers = Layers(packet.bytes, frameLength: packet.length)
        }
        guard let at = layers.networkOffset else { return Cause.malformed }
        switch layers.etherType {
        case .arp, SwitchCore.rarp:
            return !rules[port].inspects || isARPRight(packet.bytes, at, port, source) ? -1 : Cause.spoofedNeighbour
        case .ipv4:
            guard rules[port].checksIP else { return -1 }
            guard let ip = IPv4(packet.bytes, at: at) else { return Cause.malformed }
            // A host without an address asks for one: DHCP (RFC 2131).
            let asks = ip.sourceAddress == .any && isDHCP(packet.bytes, layers)
            return asks || isOwn(ip.sourceAddress, port) ? -1 : Cause.spoofedIP
        case .ipv6: return inspectIPv6(packet, at, layers, port, source)
        default:
            // A third tag, behind which may be anything; or IP in an 802.3 frame (RFC 1042).
            let hides = layers.etherType.isVLAN || layers.etherType.isLength && isSNAP(packet.bytes, at)
            return hides ? Cause.malformed : -1
        }
    }

    private static var rarp: EtherType { EtherType(rawValue: 0x8035) }

    private func isSNAP(_ bytes: HeaderBytes, _ at: Int) -> Bool {
        bytes.has(3, at: at) && bytes[at] == 0xaa && bytes[at + 1] == 0xaa
    }

    private func isDHCP(_ bytes: HeaderBytes, _ layers: Layers) -> Bool {
        guard layers.ipProtocol == .udp, let at = layers.transportOffset, let udp = UDP(bytes, at: at) else {
            return false
        }
        return udp.sourcePort == 68 && udp.destinationPort == 67
    }

    private func isARPRight(
        _ bytes: HeaderBytes, _ at: Int, _ port: Int, _ source: UInt64
    ) -> Bool {
        guard let arp = ARP(bytes, at: at) else { return false }
        let mac = arp.senderHardwareAddress.rawValue
        if mac != source || rules[port].own.count > 0 && !isOwn(mac, port) { return false }
        // 0.0.0.0: a probe whether an address is free (RFC 5227), and reverse ARP.
        let ip = arp.senderProtocolAddress
        return ip == .any && arp.operation != .reply || isOwn(ip, port)
    }

    private func inspectIPv6(
        _ packet: borrowing Packet, _ at: Int, _ layers: Layers, _ port: Int, _ source: UInt64
    ) -> Int {
        guard let ip = IPv6(packet.bytes, at: at) else { return Cause.malformed }
        let address = ip.sourceAddress
        let isICMP = layers.ipProtocol == .icmpV6
        // A host without an address asks whether one is free, for routers, or joins groups.
        if rules[port].checksIP && !(address == .any && isICMP) && !isOwn(address, source, port) {
            return Cause.spoofedIP
        }
        if !rules[port].inspects { return -1 }
        // Extension headers that cannot be followed may lead to neighbour discovery.
        if layers.ipProtocol == nil { return Cause.malformed }
        if !isICMP || layers.isLaterFragment { return -1 }
        guard let start = layers.transportOffset, let icmp = ICMP(packet.bytes, at: start) else {
            return Cause.malformed
        }
        let isRight: Bool
        switch icmp.type {
        case ICMP.V6.routerSolicitation...ICMP.V6.neighborSolicitation + 2:
            isRight = !layers.isFragment && isNeighbourRight(packet, start, layers, port, source, address)
        default: return -1
        }
        return isRight ? -1 : Cause.spoofedNeighbour
    }

    /// Of types 133 to 137 (RFC 4861); a fragment is none (RFC 6980).
    private func isNeighbourRight(
        _ packet: borrowing Packet, _ start: Int, _ layers: Layers, _ port: Int, _ source: UInt64,
        _ address: IPv6Address
    ) -> Bool {
        guard let end = layers.packetEnd, packet.extend(to: end) || packet.bytes.count >= end else { return false }
        let bytes = packet.bytes
        if rules[port].own.count > 0 && !isOwn(source, port) { return false }
        if address != .any && !isOwn(address, source, port) { return false }
        let mac = MACAddress(rawValue: source)
        guard let icmp = ICMP(bytes, at: start) else { return false }
        if icmp.type == ICMP.V6.routerSolicitation {
            return NeighborDiscovery.tellOnly(mac, bytes, from: start + 8, to: end)
        }
        // Of routers: their port is not inspected.
        guard let message = NeighborDiscovery(bytes, at: start) else { return false }
        // Who has no address yet, or advertises one, claims the target.
        if message.isAdvertisement || address == .any {
            if !isOwn(message.targetAddress, source, port) { return false }
        }
        return NeighborDiscovery.tellOnly(mac, bytes, from: start + NeighborDiscovery.size, to: end)
    }
}
