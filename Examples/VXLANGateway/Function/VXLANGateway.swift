import Ringway
import RouterFunction

/// A VXLAN tunnel end point (RFC 7348): joins guests on its ports with guests, and other hosts, behind other tunnel
/// ends. Port 0 is the underlay, where it has an IPv4 address of its own; each other port belongs to a network.
///
/// It learns which guest is behind which tunnel end from what comes, and sends to all of them what is for a group, or
/// for a guest that it does not know. The other ends are listed: what comes from anybody else is dropped. It closes no
/// circle: what comes out of the tunnel never goes back into it.
///
/// Frames with VLAN tags do not pass (section 6.1), nor do fragments of the underlay.
///
/// It owns its tables. What one poll thread learns by ARP the others would not know: an engine with several does not
/// start.
public struct VXLANGateway: PacketFunction, ~Copyable {
    public struct Options: Sendable {
        /// On port 0; its MTU is that of the underlay.
        public var underlay: Interface
        /// The next router, to tunnel ends on other networks; nil: all are on the underlay's own.
        public var router: IPv4Address?
        /// The other tunnel ends, at most `mostPeers`; further ones are left out.
        public var peers: [IPv4Address]
        /// The network (VNI, 0 to 2^24 - 1) of port 1, port 2, ...
        public var networks: [UInt32]
        /// Seconds after which a guest is forgotten that nobody heard of.
        public var ageing: UInt32 = 300
        /// Guests that are known at a time.
        public var guests = 16_384

        public init(underlay: Interface, router: IPv4Address? = nil, peers: [IPv4Address], networks: [UInt32]) {
            (self.underlay, self.router, self.peers, self.networks) = (underlay, router, peers, networks)
        }
    }

    /// A packet for all has a copy for each, of which there can be 64 in a burst.
    public static let mostPeers = 64
    public static let dropCauses = [
        "malformed", "neither ARP nor VXLAN", "for another host", "from no tunnel end", "of no network", "VLAN tag",
        "source is a group", "longer than the underlay's MTU", "tunnel end unknown", "on the same side",
        "no port for it", "not copied", "fragment", "several packets in one",
    ]
    public static let counters = [
        "ARP requests", "ARP replies", "into the tunnel", "out of the tunnel", "forwarded", "flooded", "learned",
    ]
    public static let tickMicroseconds = 100_000
    public static let mostThreads = 1

    enum Cause {
        static let (malformed, notVXLAN, notMine, notPeer, noNetwork, tagged) = (0, 1, 2, 3, 4, 5)
        static let (group, tooLong, unknown, sameSide, noPort) = (6, 7, 8, 9, 10)
        static let (notCopied, fragment, several) = (11, 12, 13)
    }
    enum Count { static let (requests, replies, into, out, forwarded, flooded, learned) = (0, 1, 2, 3, 4, 5, 6) }

    /// Ethernet, IPv4, UDP and VXLAN.
    static let overhead = Ethernet.size + IPv4.size + UDP.size + VXLAN.size

    private let own: Interface
    private let router: IPv4Address?
    let peers: [IPv4Address]
    private let peerPlaces: ExactTable<IPv4Address, UInt16>
    /// VNIs, each once, and their ports.
    private let networks: [UInt32]
    private let members: [PortSet]
    /// The network's place by port.
    private let networkOfPort: [Int]
    /// What all packets into the tunnel have in common.
    private let outer: HeaderTemplate
    /// Where a guest is, by network (bits 48 to 63) and address: a port, or from `firstPeer` on a tunnel end.
    private var guests: ExactTable<UInt64, UInt16>
    private static let firstPeer: UInt16 = 256
    private var neighbors = Neighbors(requests: Count.requests, replies: Count.replies)
    private let seed: HashSeed

    /// `seed`: of the UDP source ports of flows; a test gives one.
    public init(_ options: Options, seed: HashSeed = HashSeed()) {
        (own, router, self.seed) = (options.underlay, options.router, seed)
        let peers = Array(options.peers.prefix(VXLANGateway.mostPeers))
        self.peers = peers
        var places = ExactTable<IPv4Address, UInt16>(capacity: max(1, peers.count), timeout: .max)
        for (i, peer) in peers.enumerated() { _ = places.insert(peer, UInt16(i), now: 0) }
        peerPlaces = places
        var (networks, members, ofPort): ([UInt32], [PortSet], [Int]) = ([], [], [0])
        for (i, vni) in options.networks.prefix(255).enumerated() {
            let place = networks.firstIndex(of: vni) ?? networks.count
            if place == networks.count {
                networks.append(vni & 0xff_ffff)
                members.append(PortSet())
            }
            members[place].insert(i + 1)
            ofPort.append(place)
        }
        (self.networks, self.members, networkOfPort) = (networks, members, ofPort)
        guests = ExactTable(capacity: options.guests, timeout: options.ageing)
        let own = options.underlay
        outer = HeaderTemplate(VXLANGateway.overhead) { bytes in
            guard let ethernet = Ethernet(bytes), let ip = IPv4(creating: bytes, at: Ethernet.size),
                let udp = UDP(bytes, at: Ethernet.size + IPv4.size),
                VXLAN(creating: bytes, at: Ethernet.size + IPv4.size + UDP.size, vni: 0) != nil
            else { return }
            (ethernet.source, ethernet.etherType) = (own.mac, .ipv4)
            (ip.timeToLive, ip.protocol, ip.sourceAddress) = (64, .udp, own.address)
            ip.flags = .dontFragment
            udp.destinationPort = VXLAN.port
        }
    }

    /// What it can be told while packets flow.
    public enum Command: Sendable {
        /// Forget all guests.
        case clear
    }

    /// Answers how many guests there were.
    public mutating func perform(_ command: Command, at time: BurstTime) -> Int {
        let n = guests.count
        guests.removeAll()
        return n
    }

    public mutating func portChanged(_ port: Int, isUp: Bool) {
        // Who was behind it may be elsewhere now.
        if !isUp { guests.removeAll() }
    }

    public mutating func tick(_ burst: borrowing PacketBurst) {
        neighbors.expire(now: burst.seconds)
        guests.expire(now: burst.seconds, limit: 1024) { _, _ in }
    }

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let cause = packets.port == 0 ? takeOut(packets, i) : takeIn(packets, i)
            if let cause { packets.drop(i, because: cause) }
        }
        return nil
    }

    // MARK: From a guest

    /// Why a packet is dropped; nil where it has a verdict.
    private mutating func takeIn(_ packets: borrowing PacketBurst, _ i: Int) -> Int? {
        let (packet, from) = (packets[i], packets.port)
        guard from < networkOfPort.count else { return Cause.noNetwork }
        guard let ethernet = Ethernet(packet.bytes) else { return Cause.malformed }
        let network = networkOfPort[from]
        if ethernet.etherType.isVLAN { return Cause.tagged }
        if ethernet.source.isMulticast { return Cause.group }
        learn(ethernet.source, network, UInt16(from), packets)
        if !ethernet.destination.isMulticast, let place = find(ethernet.destination, network) {
            if place == from { return Cause.sameSide }
            if place < VXLANGateway.firstPeer {
                packet.verdict = .port(Int(place))
                packets.count(Count.forwarded)
                return nil
            }
            return send(packets, packet, Int(place - VXLANGateway.firstPeer), network)
        }
        return flood(packets, i, network)
    }

    /// To all ports of the network, and to all tunnel ends.
    private mutating func flood(_ packets: borrowing PacketBurst, _ i: Int, _ network: Int) -> Int? {
        let packet = packets[i]
        var local = members[network]
        local.remove(packets.port)
        packets.count(Count.flooded)
        // The packet itself goes to the ports, or else to the first tunnel end; the others get copies.
        let copied = local.isEmpty ? 1 : 0
        if peers.count > copied {
            for peer in copied..<peers.count {
                guard let copy = packets.copy(i) else {
                    if peer == copied { return Cause.notCopied }
                    break
                }
                if let cause = send(packets, copy, peer, network) { copy.verdict = packets.verdict(because: cause) }
            }
        }
        if !local.isEmpty {
            packet.verdict = packets.verdict(for: local)
            return nil
        }
        return peers.isEmpty ? Cause.noPort : send(packets, packet, 0, network)
    }

    /// Puts a frame into the tunnel.
    private mutating func send(
        _ packets: borrowing PacketBurst, _ packet: Packet, _ peer: Int, _ network: Int
    ) -> Int? {
        let layers = Layers(packet.bytes, frameLength: packet.length)
        // A large packet is cut into segments on its way out.
        var longest = packet.length
        if packet.segmentSize > 0, let payload = layers.payloadOffset { longest = payload + packet.segmentSize }
        if longest + VXLANGateway.overhead - Ethernet.size > own.mtu { return Cause.tooLong }
        let address = peers[peer]
        let next = own.prefix.contains(address) ? address : router ?? address
        guard case .mac(let mac) = neighbors.find(next, packets, port: 0, own) else { return Cause.unknown }
        let flow = FlowKey(packet.bytes, layers)?.hash(seed) ?? (packet.destinationMAC ^ packet.sourceMAC).hash(seed)
        let length = packet.length
        guard packet.encapsulate(outer), let ethernet = Ethernet(packet.bytes),
            let ip = IPv4(packet.bytes, at: Ethernet.size), let udp = UDP(packet.bytes, at: Ethernet.size + IPv4.size),
            let vxlan = VXLAN(packet.bytes, at: Ethernet.size + IPv4.size + UDP.size)
        else { return Cause.malformed }
        ethernet.destination = mac
        ip.destinationAddress = address
        ip.totalLength = UInt16(truncatingIfNeeded: length + IPv4.size + UDP.size + VXLAN.size)
        ip.updateChecksum()
        // The underlay spreads flows by this port (section 5). No checksum: the frame has its own.
        udp.sourcePort = 0xc000 | UInt16(truncatingIfNeeded: flow & 0x3fff)
        udp.length = UInt16(truncatingIfNeeded: length + UDP.size + VXLAN.size)
        vxlan.vni = networks[network]
        packet.verdict = .port(0)
        packets.count(Count.into)
        return nil
    }

    // MARK: From the underlay

    private mutating func takeOut(_ packets: borrowing PacketBurst, _ i: Int) -> Int? {
        let packet = packets[i]
        guard let ethernet = Ethernet(packet.bytes) else { return Cause.malformed }
        if ethernet.etherType == .arp {
            switch neighbors.take(packets, i, own) {
            case .answered, .learned: return nil
            case .notMine: return Cause.notMine
            case .malformed: return Cause.malformed
            }
        }
        let layers = Layers(packet.bytes, frameLength: packet.length)
        guard ethernet.etherType == .ipv4 else { return Cause.notVXLAN }
        guard let ip = IPv4(packet.bytes, at: Ethernet.size), ip.isChecksumValid else { return Cause.malformed }
        guard ethernet.destination == own.mac, ip.destinationAddress == own.address else { return Cause.notMine }
        if layers.isFragment { return Cause.fragment }
        guard layers.defect == nil, let at = layers.transportOffset else { return Cause.malformed }
        guard layers.ipProtocol == .udp, let udp = UDP(packet.bytes, at: at), udp.destinationPort == VXLAN.port else {
            return Cause.notVXLAN
        }
        guard let peer = peerPlaces.find(ip.sourceAddress) else { return Cause.notPeer }
        if packet.segmentSize > 0 { return Cause.several }
        let end = at + Int(udp.length)
        guard let vxlan = VXLAN(packet.bytes, at: at + UDP.size), vxlan.isVNIValid else { return Cause.malformed }
        guard let network = networks.firstIndex(of: vxlan.vni) else { return Cause.noNetwork }
        return open(packets, packet, start: at + UDP.size + VXLAN.size, end: end, network, peer)
    }

    /// Takes the outer headers off, and what the underlay has put behind the packet, and delivers the frame.
    private mutating func open(
        _ packets: borrowing PacketBurst, _ packet: Packet, start: Int, end: Int, _ network: Int, _ peer: UInt16
    ) -> Int? {
        if end < packet.length && !packet.truncate(to: end) { return Cause.malformed }
        // A checksum of the outer UDP header that was still to be filled in goes with it.
        guard packet.removeFirst(start) || (packet.forgetChecksum() && packet.removeFirst(start)),
            let inner = Ethernet(packet.bytes)
        else { return Cause.malformed }
        if inner.etherType.isVLAN { return Cause.tagged }
        if inner.source.isMulticast { return Cause.group }
        packets.count(Count.out)
        learn(inner.source, network, VXLANGateway.firstPeer + peer, packets)
        if !inner.destination.isMulticast, let place = find(inner.destination, network) {
            if place >= VXLANGateway.firstPeer { return Cause.sameSide }
            packet.verdict = .port(Int(place))
        } else {
            packets.count(Count.flooded)
            packet.verdict = packets.verdict(for: members[network])
        }
        return nil
    }

    // MARK: Guests

    private func find(_ mac: MACAddress, _ network: Int) -> UInt16? {
        guests.find(UInt64(network) << 48 | mac.rawValue)
    }

    private mutating func learn(
        _ mac: MACAddress, _ network: Int, _ place: UInt16, _ packets: borrowing PacketBurst
    ) {
        let key = UInt64(network) << 48 | mac.rawValue
        if guests.find(key, now: packets.seconds) == place { return }
        // Where the table is full, an old address makes room.
        _ = guests.insert(key, place, now: packets.seconds) { _, _ in }
        packets.count(Count.learned)
    }
}
