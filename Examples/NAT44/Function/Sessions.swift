import Ringway

/// The flows that a NAT lets through: what is in none of them, and may not begin one, does not pass. Belongs to one
/// poll thread.
///
/// A session's key is the flow as the inside sees it: from the inside endpoint to the remote one. An echo has its
/// identifier in the place of both ports.
struct Sessions: ~Copyable {
    // Not private: Swift 6.3 cannot compile a table of a private type without optimisation.
    struct Session: BitwiseCopyable {
        var port: UInt16
        var state = TCPState()
    }

    /// What `open` says.
    enum Opening { case port(UInt16), noPort, overLimit, full }

    private var flows: FlowTable<Session>
    private var bindings: Bindings
    private let timeouts: NAT44.Timeouts

    init(_ options: NAT44.Options) {
        flows = FlowTable(capacity: options.sessions, timeout: options.timeouts.udp)
        bindings = Bindings(
            ports: options.ports, forwards: options.forwards, capacity: options.sessions,
            mostOfHost: options.sessionsOfHost)
        timeouts = options.timeouts
    }

    /// Sessions that there are.
    var count: Int { flows.count }

    /// Who stands behind an outside port.
    func owner(_ proto: IPProtocol, _ port: UInt16) -> Bindings.Owner? { bindings.owner(proto, port) }

    /// The outside port of a flow that has a session; nil where it has none. The session does not live longer by it.
    func port(of key: FlowKey) -> UInt16? { flows.find(key)?.port }

    /// A packet of a flow passes: its outside port; nil where it has no session. `flags`: of TCP.
    mutating func pass(_ key: FlowKey, _ flags: TCP.Flags?, isFromInside: Bool, now: UInt32) -> UInt16? {
        var isOther = false
        var isEstablished = false
        let port = flows.update(key, now: now) { session in
            if let flags {
                let before = session.state.isEstablished
                session.state.see(flags, isFromInside: isFromInside)
                isEstablished = session.state.isEstablished
                isOther = before != isEstablished
            }
            return session.port
        }
        if isOther { flows.setTimeout(isEstablished ? timeouts.tcpEstablished : timeouts.tcpTransitory, of: key) }
        return port
    }

    /// The first packet of a flow passes.
    mutating func open(_ key: FlowKey, _ flags: TCP.Flags?, isFromInside: Bool, now: UInt32) -> Opening {
        if flows.count == flows.capacity { return .full }
        guard let inside = Sessions.inside(key) else { return .noPort }
        let port: UInt16
        switch bindings.use(key.protocol, inside) {
        case .port(let found): port = found
        case .noPort: return .noPort
        case .overLimit: return .overLimit
        }
        var session = Session(port: port)
        if let flags { session.state.see(flags, isFromInside: isFromInside) }
        let timeout: UInt32 =
            switch key.protocol {
            case .tcp: timeouts.tcpTransitory
            case .udp: timeouts.udp
            default: timeouts.icmp
            }
        _ = flows.insert(key, session, now: now, timeout: timeout)
        return .port(port)
    }

    /// Ends sessions that nobody used for their time, looking at `limit` places of the table. Returns how many.
    mutating func expire(now: UInt32, limit: Int) -> Int { Sessions.expire(&flows, &bindings, now, limit) }

    private static func expire(
        _ flows: inout FlowTable<Session>, _ bindings: inout Bindings, _ now: UInt32, _ limit: Int
    ) -> Int {
        flows.expire(now: now, limit: limit) { key, _ in
            if let inside = inside(key) { bindings.release(key.protocol, inside) }
        }
    }

    private static func inside(_ key: FlowKey) -> Endpoint? {
        key.sourceIPv4.map { Endpoint(address: $0, port: key.sourcePort) }
    }
}

/// How far a TCP connection is, seen from its middle (RFC 5382, section 5; RFC 7857, section 2): enough to know how
/// long it may be silent.
struct TCPState: BitwiseCopyable {
    private static let (synIn, synOut, finIn, finOut, reset): (UInt8, UInt8, UInt8, UInt8, UInt8) = (1, 2, 4, 8, 16)
    private var bits: UInt8 = 0

    /// Both have agreed to it, and it is not about to end.
    var isEstablished: Bool { has(TCPState.synIn | TCPState.synOut) && !isEnding }

    private var isEnding: Bool { has(TCPState.finIn | TCPState.finOut) || has(TCPState.reset) }

    private func has(_ wanted: UInt8) -> Bool { bits & wanted == wanted }

    mutating func see(_ flags: TCP.Flags, isFromInside: Bool) {
        if flags.contains(.rst) {
            bits |= TCPState.reset
            return
        }
        if flags.contains(.syn) {
            // The next connection with the same ports.
            if !flags.contains(.ack) && isEnding { bits = 0 }
            bits |= isFromInside ? TCPState.synIn : TCPState.synOut
        } else {
            // Whoever sent the reset was not one of the two, or it was not taken.
            bits &= ~TCPState.reset
        }
        if flags.contains(.fin) { bits |= isFromInside ? TCPState.finIn : TCPState.finOut }
    }
}
