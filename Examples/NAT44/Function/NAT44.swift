import Ringway
import RouterFunction

/// A stateful NAT for IPv4 (RFC 3022; RFC 4787 for UDP, RFC 5382 for TCP, RFC 5508 for ICMP) on a router: hosts behind
/// the other ports share the outside port's address. TCP, UDP and echoes pass, and ICMP errors about them, whose quotes
/// are translated, too. An inside endpoint has one outside port whomever it talks to; from outside passes what answers
/// a packet to the same remote endpoint, and what is for a port that is forwarded. Inside hosts reach each other by
/// outside ports ("hairpinning").
///
/// It drops fragments and other protocols on their way through, and no program's payload is looked at (no FTP).
///
/// **Threads.** A packet from inside and its answer can come by queue pairs of different threads, as each driver
/// chooses its queue for itself, and Ringway steers no flows. State that all threads may write would need a lock for
/// each packet; so there is one thread with one state, and an engine with more does not start (`mostThreads`). Where
/// that is too slow: several engines, each with an outside address of its own.
public struct NAT44: PacketFunction, ~Copyable {
    /// A port of the outside address that leads to an inside endpoint at any time: a server behind the NAT.
    public struct Forward: Sendable, Equatable {
        /// TCP or UDP.
        public var `protocol`: IPProtocol
        /// Outside.
        public var port: UInt16
        /// Inside.
        public var address: IPv4Address
        public var insidePort: UInt16

        /// All four.
        public init(_ proto: IPProtocol, port: UInt16, to address: IPv4Address, port insidePort: UInt16) {
            (self.protocol, self.port, self.address, self.insidePort) = (proto, port, address, insidePort)
        }

        /// From text such as `tcp:80=10.0.0.5:8080`; nil for anything else.
        public init?(_ text: some StringProtocol) {
            let words = String(text).split { $0 == ":" || $0 == "=" }.map(String.init)
            guard words.count == 4, let proto = ["tcp": IPProtocol.tcp, "udp": .udp][words[0]],
                let port = UInt16(words[1]), let address = IPv4Address(words[2]), let inside = UInt16(words[3]),
                port > 0, inside > 0, text == "\(words[0]):\(port)=\(address):\(inside)"
            else { return nil }
            self.init(proto, port: port, to: address, port: inside)
        }
    }

    /// Seconds without a packet after which a session ends.
    public struct Timeouts: Sendable {
        /// At least two minutes (RFC 4787, REQ-5).
        public var udp: UInt32 = 300
        /// Both sides have agreed to the connection: at least 2 h 4 min (RFC 5382, REQ-5).
        public var tcpEstablished: UInt32 = 7440
        /// It begins or ends: at least 4 min.
        public var tcpTransitory: UInt32 = 240
        /// Echoes: at least 1 min (RFC 5508, REQ-2).
        public var icmp: UInt32 = 60
        public init() {}
    }

    public struct Options: Sendable {
        /// The outside port's place in the engine's options; all others are inside.
        public var outside = 0
        /// What inside endpoints can get as outside ports, and identifiers of echoes.
        public var ports: ClosedRange<UInt16> = 1024...65535
        public var forwards: [Forward] = []
        public var timeouts = Timeouts()
        /// At most so many at a time, and of one inside address.
        public var (sessions, sessionsOfHost) = (65_536, 8192)
        public init() {}
    }

    public static let dropCauses =
        Router.dropCauses + [
            "no session", "TCP without a session", "fragment", "protocol not translated", "no port is free",
            "too many sessions of a host", "too many sessions", "not for the outside address",
        ]
    public static let counters =
        Router.counters + ["translated out", "translated in", "hairpins", "sessions opened", "sessions ended"]
    public static let tickMicroseconds = Router.tickMicroseconds
    public static let mostThreads = 1

    private enum Cause {
        static let first = Router.dropCauses.count
        static let (noSession, noSYN, fragment, notTranslated) = (first, first + 1, first + 2, first + 3)
        static let (noPort, overLimit, full, notOutside) = (first + 4, first + 5, first + 6, first + 7)
        /// Router's own.
        static let malformed = 0
    }
    private enum Count {
        static let first = Router.counters.count
        static let (out, into, hairpins, opened, ended) = (first, first + 1, first + 2, first + 3, first + 4)
    }

    private let outside: Int
    private let address: IPv4Address
    private var router: Router
    private var sessions: Sessions

    /// An interface for each port, by place; routes as a router's.
    public init(
        _ interfaces: [Interface], _ routes: Routes, _ options: Options = Options(),
        ticksPerSecond: UInt64 = TickClock.shared.ticksPerMicrosecond * 1_000_000
    ) {
        precondition(interfaces.indices.contains(options.outside), "the outside port is none of the interfaces")
        outside = options.outside
        address = interfaces[outside].address
        router = Router(interfaces, routes, ticksPerSecond: ticksPerSecond)
        sessions = Sessions(options)
    }

    /// What it can be asked while packets flow.
    public enum Command: Sendable {
        /// How many sessions are there?
        case count
    }

    public mutating func perform(_ command: Command, at time: BurstTime) -> Int { sessions.count }

    public mutating func tick(_ burst: borrowing PacketBurst) {
        router.tick(burst)
        burst.count(Count.ended, sessions.expire(now: burst.seconds, limit: 1024))
    }

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count { judge(packets, i) }
        return nil
    }

    private mutating func judge(_ packets: borrowing PacketBurst, _ i: Int) {
        let packet = packets[i]
        guard let ethernet = Ethernet(packet.bytes), ethernet.etherType == .ipv4 else {
            return router.judge(packets, i)
        }
        var layers = Layers(packet.bytes, frameLength: packet.length)
        // Options, or an error that quotes a packet: look at more of it.
        if layers.defect == .frontTooShort || layers.ipProtocol == .icmp {
            packet.extend(to: 256)
            layers = Layers(packet.bytes, frameLength: packet.length)
        }
        guard let ip = IPv4(packet.bytes, at: Ethernet.size) else { return packets.drop(i, because: Cause.malformed) }
        if packets.port == outside {
            takeIn(packets, i, layers, ip.destinationAddress)
        } else if ip.destinationAddress == address {
            turnAround(packets, i, layers)
        } else {
            sendOut(packets, i, layers)
        }
    }

    // MARK: From inside

    private mutating func sendOut(_ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers) {
        guard let next = router.next(packets, i, layers) else { return }
        // To another inside port it is only routed.
        if next.port != outside { return router.send(packets, i, next) }
        if let quote = Quote(packets[i], layers) {
            // Its receiver knows the flow by the outside port.
            guard let port = sessions.port(of: quote.flow.reversed) else {
                return packets.drop(i, because: Cause.noSession)
            }
            quote.translate(packets[i], .destination, address, port)
            translate(packets[i], layers, .source, address, nil)
        } else {
            guard let flow = flow(packets, i, layers), let port = admit(packets, i, layers, flow) else { return }
            translate(packets[i], layers, .source, address, port)
        }
        packets.count(Count.out)
        router.send(packets, i, next)
    }

    /// The outside port of a flow from inside, for which a session begins where there is none. Nil: dropped.
    private mutating func admit(
        _ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers, _ flow: FlowKey
    ) -> UInt16? {
        let flags = NAT44.flags(packets[i], layers)
        if let port = sessions.pass(flow, flags, isFromInside: true, now: packets.seconds) { return port }
        // The packet that begins a flow: of TCP a SYN, of echoes a question.
        if let flags, !flags.contains(.syn) || flags.contains(.ack) || flags.contains(.rst) {
            packets.drop(i, because: Cause.noSYN)
            return nil
        }
        if flow.protocol == .icmp, let at = layers.transportOffset,
            let icmp = ICMP(packets[i].bytes, at: at), icmp.type != ICMP.V4.echo
        {
            packets.drop(i, because: Cause.noSession)
            return nil
        }
        return open(packets, i, flow, flags, isFromInside: true)
    }

    private mutating func open(
        _ packets: borrowing PacketBurst, _ i: Int, _ flow: FlowKey, _ flags: TCP.Flags?, isFromInside: Bool
    ) -> UInt16? {
        switch sessions.open(flow, flags, isFromInside: isFromInside, now: packets.seconds) {
        case .port(let port):
            packets.count(Count.opened)
            return port
        case .noPort: packets.drop(i, because: Cause.noPort)
        case .overLimit: packets.drop(i, because: Cause.overLimit)
        case .full: packets.drop(i, because: Cause.full)
        }
        return nil
    }

    /// The flow of a packet that goes through; nil where it cannot: dropped.
    private func flow(_ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers) -> FlowKey? {
        let cause: Int
        if layers.isFragment {
            cause = Cause.fragment
        } else if layers.defect != nil {
            cause = Cause.malformed
        } else if let flow = FlowKey(packets[i].bytes, layers),
            flow.protocol == .tcp || flow.protocol == .udp || NAT44.isEcho(packets[i], layers)
        {
            return flow
        } else {
            cause = Cause.notTranslated
        }
        packets.drop(i, because: cause)
        return nil
    }

    // MARK: From outside

    private mutating func takeIn(
        _ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers, _ destination: IPv4Address
    ) {
        // Inside addresses are nothing that the outside can know.
        if destination != address { return packets.drop(i, because: Cause.notOutside) }
        if let quote = Quote(packets[i], layers) {
            guard let owner = sessions.owner(quote.flow.protocol, quote.flow.sourcePort),
                sessions.port(of: quote.flow.from(owner.endpoint)) != nil
            else { return packets.drop(i, because: Cause.noSession) }
            guard let next = router.next(packets, i, layers, for: owner.endpoint.address) else { return }
            quote.translate(packets[i], .source, owner.endpoint.address, owner.endpoint.port)
            translate(packets[i], layers, .destination, owner.endpoint.address, nil)
            packets.count(Count.into)
            return router.send(packets, i, next)
        }
        // Who asks for an echo asks the NAT itself.
        if layers.ipProtocol == .icmp && NAT44.isQuestion(packets[i], layers) { return router.judge(packets, i) }
        guard let flow = flow(packets, i, layers) else { return }
        guard let owner = sessions.owner(flow.protocol, flow.destinationPort) else {
            return packets.drop(i, because: Cause.noSession)
        }
        deliver(packets, i, layers, flow.reversed.from(owner.endpoint), owner)
    }

    /// To the inside endpoint behind an outside port, where `flow`, which is the way of answers, has a session or may
    /// have one.
    private mutating func deliver(
        _ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers, _ flow: FlowKey, _ owner: Bindings.Owner
    ) {
        let flags = NAT44.flags(packets[i], layers)
        let isKnown = sessions.port(of: flow) != nil
        if !isKnown {
            let mayBegin = flags.map { $0.contains(.syn) && !$0.contains(.ack) && !$0.contains(.rst) } ?? true
            guard owner.isForwarded, mayBegin else { return packets.drop(i, because: Cause.noSession) }
        }
        guard let next = router.next(packets, i, layers, for: owner.endpoint.address) else { return }
        if isKnown {
            _ = sessions.pass(flow, flags, isFromInside: false, now: packets.seconds)
        } else if open(packets, i, flow, flags, isFromInside: false) == nil {
            return
        }
        translate(packets[i], layers, .destination, owner.endpoint.address, owner.endpoint.port)
        packets.count(Count.into)
        router.send(packets, i, next)
    }

    /// From inside to the outside address: for an inside endpoint behind one of its ports, or for the router itself.
    private mutating func turnAround(_ packets: borrowing PacketBurst, _ i: Int, _ layers: Layers) {
        guard layers.ipProtocol == .tcp || layers.ipProtocol == .udp, !layers.isFragment, layers.defect == nil,
            let flow = FlowKey(packets[i].bytes, layers),
            let owner = sessions.owner(flow.protocol, flow.destinationPort)
        else { return router.judge(packets, i) }
        guard let port = admit(packets, i, layers, flow) else { return }
        // The other one sees the outside address, as any remote host does (RFC 4787, REQ-9).
        let seen = FlowKey(
            source: address, destination: address, protocol: flow.protocol, sourcePort: port,
            destinationPort: flow.destinationPort)
        packets.count(Count.hairpins)
        deliver(packets, i, layers, seen.reversed.from(owner.endpoint), owner)
        if packets[i].verdict.port != nil { translate(packets[i], layers, .source, address, port) }
    }

    // MARK: Headers

    private static func flags(_ packet: Packet, _ layers: Layers) -> TCP.Flags? {
        guard layers.ipProtocol == .tcp, let at = layers.transportOffset else { return nil }
        return TCP(packet.bytes, at: at)?.flags
    }

    private static func isQuestion(_ packet: Packet, _ layers: Layers) -> Bool {
        guard let at = layers.transportOffset, let icmp = ICMP(packet.bytes, at: at) else { return false }
        return icmp.type == ICMP.V4.echo
    }

    private static func isEcho(_ packet: Packet, _ layers: Layers) -> Bool {
        guard layers.ipProtocol == .icmp, let at = layers.transportOffset, let icmp = ICMP(packet.bytes, at: at) else {
            return false
        }
        return icmp.type == ICMP.V4.echo || icmp.type == ICMP.V4.echoReply
    }

    /// Gives a packet another source or destination, and keeps its checksums right. `port`: nil leaves it.
    private func translate(
        _ packet: Packet, _ layers: Layers, _ side: Side, _ address: IPv4Address, _ port: UInt16?
    ) {
        guard let at = layers.transportOffset, let ip = IPv4(packet.bytes, at: Ethernet.size) else { return }
        let change = Change(ip, side, address)
        guard let port else { return }
        if ip.protocol == .icmp {
            guard let icmp = ICMP(packet.bytes, at: at) else { return }
            icmp.checksum = Checksum.update(icmp.checksum, from: icmp.identifier, to: port)
            icmp.identifier = port
            return
        }
        // TCP and UDP begin with the same two ports.
        guard let udp = UDP(packet.bytes, at: at) else { return }
        let old = udp.exchange(side, port)
        let isPartial = packet.hasPartialChecksum(at: at)
        if ip.protocol == .udp {
            udp.checksum = change.applied(to: udp.checksum, old, port, isPartial: isPartial, isUDP: true)
        } else if let tcp = TCP(packet.bytes, at: at) {
            tcp.checksum = change.applied(to: tcp.checksum, old, port, isPartial: isPartial, isUDP: false)
        }
    }
}
