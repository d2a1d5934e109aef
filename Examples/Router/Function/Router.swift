import Ringway

/// An IPv4 router (RFC 1812): an interface on each port, static routes, ARP, and the ICMP messages that hosts rely on.
/// It does not fragment, and knows neither VLAN tags nor source routes.
///
/// It owns its tables, and so cannot be copied. What one poll thread learns by ARP the others would not know: an engine
/// with several does not start. `NAT44` routes with one of these, and changes addresses on the way.
public struct Router: PacketFunction, ~Copyable {
    public static let dropCauses = [
        "malformed", "neither IPv4 nor ARP", "for another host", "header checksum", "address that is not routed",
        "for the router", "no route", "no hop left", "longer than the MTU", "neighbour unknown", "no interface",
    ]
    public static let counters = ["forwarded", "ARP requests", "ARP replies", "ICMP errors", "echo replies", "waited"]
    public static let tickMicroseconds = 100_000
    public static let mostThreads = 1

    private enum Cause {
        static let (malformed, notIPv4, notMine, checksum, notRouted) = (0, 1, 2, 3, 4)
        static let (mine, noRoute, noHop, tooLong, unknown, noInterface) = (5, 6, 7, 8, 9, 10)
    }
    private enum Count { static let (forwarded, requests, replies, errors, echoes, waited) = (0, 1, 2, 3, 4, 5) }

    private let interfaces: [Interface]
    private var routes: Routes
    private var neighbors = Neighbors(requests: Count.requests, replies: Count.replies)
    /// ICMP errors are few whatever comes (RFC 1812, section 4.3.2.8): 100 a second.
    private var errorLimit: TokenBucket

    /// An interface for each port, by place.
    public init(
        _ interfaces: [Interface], _ routes: Routes,
        ticksPerSecond: UInt64 = TickClock.shared.ticksPerMicrosecond * 1_000_000
    ) {
        self.interfaces = interfaces
        self.routes = routes
        errorLimit = TokenBucket(rate: 100, burst: 100, ticksPerSecond: ticksPerSecond, now: 0)
    }

    /// What it can be told while packets flow.
    public enum Command: Sendable {
        /// Route by these from the next burst on. They were made with the same interfaces.
        case reroute(Routes)
    }

    public mutating func perform(_ command: Command, at time: BurstTime) {
        switch command {
        case .reroute(let new): routes = new
        }
    }

    public mutating func tick(_ burst: borrowing PacketBurst) { neighbors.expire(now: burst.seconds) }

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count { judge(packets, i) }
        return nil
    }

    /// One packet of a burst.
    public mutating func judge(_ packets: borrowing PacketBurst, _ i: Int) {
        let packet = packets[i]
        guard packets.port < interfaces.count else { return packets.drop(i, because: Cause.noInterface) }
        guard let ethernet = Ethernet(packet.bytes) else { return packets.drop(i, because: Cause.malformed) }
        switch ethernet.etherType {
        case .arp:
            switch neighbors.take(packets, i, interfaces[packets.port]) {
            case .answered, .learned: break
            case .notMine: packets.drop(i, because: Cause.notMine)
            case .malformed: packets.drop(i, because: Cause.malformed)
            }
        case .ipv4:
            let layers = Layers(packet.bytes, frameLength: packet.length)
            if let next = self.next(packets, i, layers, waits: true) { send(packets, i, next) }
        default: packets.drop(i, because: Cause.notIPv4)
        }
    }

    // MARK: IPv4

    /// Where a packet goes that the router passes on.
    public struct Next: Sendable {
        /// The port's place.
        public let port: Int
        fileprivate let mac: MACAddress
    }

    /// Where an IPv4 packet goes, of which `layers` were found; nil where it does not go on: then it was dropped, or
    /// was the router's own. `destination`: it goes where packets for this address go, as its own is going to be
    /// changed; it must not have been yet, so that ICMP errors quote what their receiver has sent. `waits`: nothing
    /// else is going to be changed, so it may wait until its neighbour has answered.
    public mutating func next(
        _ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers, for destination: IPv4Address? = nil,
        waits: Bool = false
    ) -> Next? {
        let packet = packets[i]
        let own = interfaces[packets.port]
        // What is wrong behind the IP header is the receiver's business.
        let isWhole =
            switch layers.defect {
            case nil, .frontTooShort, .transportTruncated, .dataOffset, .udpLength: true
            default: false
            }
        guard isWhole, layers.isIPv4, let ethernet = Ethernet(packet.bytes),
            let ip = IPv4(packet.bytes, at: Ethernet.size)
        else { return refuse(packets, i, Cause.malformed) }
        if ethernet.destination != own.mac { return refuse(packets, i, Cause.notMine) }
        if !ip.isChecksumValid { return refuse(packets, i, Cause.checksum) }
        let (source, destination) = (ip.sourceAddress, destination ?? ip.destinationAddress)
        if !Router.isHost(source) || !Router.isHost(destination) {
            return refuse(packets, i, Cause.notRouted)
        }
        if interfaces.contains(where: { $0.address == destination }) {
            takeOwn(packets, i, layers)
            return nil
        }

        guard let hop = routes.hop(to: destination) else {
            report(ICMP.V4.destinationUnreachable, 0, packets, i, layers)
            return refuse(packets, i, Cause.noRoute)
        }
        if ip.timeToLive < 2 {
            report(ICMP.V4.timeExceeded, 0, packets, i, layers)
            return refuse(packets, i, Cause.noHop)
        }
        let out = interfaces[hop.port]
        if length(packet, ip, layers) > out.mtu {
            if ip.flags.contains(.dontFragment) {
                report(ICMP.V4.destinationUnreachable, 4, packets, i, layers, rest: UInt32(clamping: out.mtu))
            }
            return refuse(packets, i, Cause.tooLong)
        }
        let next = hop.gateway ?? destination
        if next == out.prefix.last && out.prefix.length < 31 { return refuse(packets, i, Cause.notRouted) }
        switch neighbors.find(next, packets, port: hop.port, out) {
        case .mac(let mac): return Next(port: hop.port, mac: mac)
        case .asked:
            if waits {
                _ = ip.decrementTimeToLive()
                if neighbors.wait(packet, for: next) {
                    packets.count(Count.waited)
                    return nil
                }
            }
        case .unreachable: report(ICMP.V4.destinationUnreachable, 1, packets, i, layers)
        }
        return refuse(packets, i, Cause.unknown)
    }

    private func refuse(_ packets: borrowing PacketBurst, _ i: Int, _ cause: Int) -> Next? {
        packets.drop(i, because: cause)
        return nil
    }

    /// Sends a packet where `next` says.
    public func send(_ packets: borrowing PacketBurst, _ i: Int, _ next: Next) {
        let packet = packets[i]
        guard let ethernet = Ethernet(packet.bytes), let ip = IPv4(packet.bytes, at: Ethernet.size) else { return }
        _ = ip.decrementTimeToLive()
        (ethernet.destination, ethernet.source) = (next.mac, interfaces[next.port].mac)
        packet.verdict = .port(next.port)
        packets.count(Count.forwarded)
    }

    /// Neither of a group, nor of this host or network alone, nor broadcast (RFC 1812, section 5.3.7).
    private static func isHost(_ address: IPv4Address) -> Bool {
        !address.isMulticast && !address.isLoopback && !address.isLinkLocal && address.rawValue >> 24 != 0
            && address.rawValue >> 28 != 15
    }

    /// Bytes of the longest IP packet that becomes of it: a large TCP packet is cut into segments on its way out.
    private func length(_ packet: Packet, _ ip: borrowing IPv4, _ layers: Layers) -> Int {
        guard packet.segmentSize > 0, let payload = layers.payloadOffset else { return Int(ip.totalLength) }
        return payload - Ethernet.size + packet.segmentSize
    }

    /// A packet for the router: it answers an echo, and says that no program waits for UDP.
    private mutating func takeOwn(_ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers) {
        let packet = packets[i]
        guard let ethernet = Ethernet(packet.bytes), let ip = IPv4(packet.bytes, at: Ethernet.size),
            let at = layers.transportOffset, !layers.isFragment
        else { return packets.drop(i, because: Cause.mine) }
        guard ip.protocol == .icmp, let icmp = ICMP(packet.bytes, at: at), icmp.type == ICMP.V4.echo else {
            if ip.protocol == .udp { report(ICMP.V4.destinationUnreachable, 3, packets, i, layers) }
            return packets.drop(i, because: Cause.mine)
        }
        // Type and code are the checksum's first word. What else is in the message stays as it is.
        let old = UInt16(icmp.type) << 8 | UInt16(icmp.code)
        icmp.type = ICMP.V4.echoReply
        icmp.checksum = Checksum.update(icmp.checksum, from: old, to: UInt16(icmp.code))
        (ip.sourceAddress, ip.destinationAddress) = (ip.destinationAddress, ip.sourceAddress)
        ip.timeToLive = 64
        ip.updateChecksum()
        (ethernet.destination, ethernet.source) = (ethernet.source, interfaces[packets.port].mac)
        packet.verdict = .port(packets.port)
        packets.count(Count.echoes)
    }

    // MARK: ICMP errors

    /// Tells the sender of packet `i` what became of it, where it may be told (RFC 1812, section 4.3.2.7). The message
    /// quotes what was read of the packet's front.
    private mutating func report(
        _ type: UInt8, _ code: UInt8, _ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers, rest: UInt32 = 0
    ) {
        let packet = packets[i]
        let own = interfaces[packets.port]
        guard !layers.isLaterFragment, let from = Ethernet(packet.bytes), !from.source.isMulticast,
            let lost = IPv4(packet.bytes, at: Ethernet.size), let end = layers.packetEnd
        else { return }
        if lost.protocol == .icmp {
            // No errors about errors.
            guard let at = layers.transportOffset, let icmp = ICMP(packet.bytes, at: at),
                icmp.type == ICMP.V4.echo || icmp.type == ICMP.V4.echoReply
            else { return }
        }
        let quoted = min(packet.bytes.count, end) - Ethernet.size
        let start = Ethernet.size + IPv4.size + ICMP.size
        guard errorLimit.take(1, now: packets.ticks), let message = packets.originate(max(60, start + quoted)),
            let ethernet = Ethernet(message.bytes), let ip = IPv4(creating: message.bytes, at: Ethernet.size),
            let icmp = ICMP(message.bytes, at: Ethernet.size + IPv4.size)
        else { return }
        (ethernet.destination, ethernet.source, ethernet.etherType) = (from.source, own.mac, .ipv4)
        ip.totalLength = UInt16(IPv4.size + ICMP.size + quoted)
        ip.timeToLive = 64
        ip.protocol = .icmp
        (ip.sourceAddress, ip.destinationAddress) = (own.address, lost.sourceAddress)
        ip.updateChecksum()
        (icmp.type, icmp.code, icmp.rest) = (type, code, rest)
        for k in 0..<quoted { message.bytes[start + k] = packet.bytes[Ethernet.size + k] }
        var sum = Checksum()
        sum.add(message.bytes, at: Ethernet.size + IPv4.size, count: ICMP.size + quoted)
        icmp.checksum = sum.value
        message.verdict = .port(packets.port)
        packets.count(Count.errors)
    }
}
