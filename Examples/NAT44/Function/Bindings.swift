import Ringway

/// A host's address and port; of an ICMP echo the identifier stands for the port.
struct Endpoint: BitwiseCopyable, Equatable {
    var address: IPv4Address
    var port: UInt16
}

/// Which outside port stands for which inside endpoint. One endpoint has one outside port, whomever it talks to (RFC
/// 4787, REQ-1), for as long as there are sessions of it. Belongs to one poll thread.
struct Bindings: ~Copyable {
    // Not private: Swift 6.3 cannot compile a table of a private type without optimisation.
    struct Binding: BitwiseCopyable {
        var port: UInt16
        /// Sessions; a port that is forwarded counts as one more, so that it stays.
        var users: UInt32
    }

    struct Owner: BitwiseCopyable {
        var endpoint: Endpoint
        var isForwarded: Bool
    }

    /// What `use` says.
    enum Use { case port(UInt16), noPort, overLimit }

    /// By protocol and inside endpoint.
    private var bindings: ExactTable<UInt64, Binding>
    /// By protocol and outside port.
    private var owners: ExactTable<UInt32, Owner>
    /// Sessions by inside address.
    private var hosts: ExactTable<IPv4Address, UInt32>
    private let mostOfHost: UInt32
    private var (tcp, udp, icmp): (PortPool, PortPool, PortPool)

    /// For at most `capacity` sessions, at most `mostOfHost` of one inside address.
    init(ports: ClosedRange<UInt16>, forwards: [NAT44.Forward], capacity: Int, mostOfHost: Int) {
        let count = capacity + forwards.count
        bindings = ExactTable(capacity: count, timeout: .max)
        owners = ExactTable(capacity: count, timeout: .max)
        hosts = ExactTable(capacity: count, timeout: .max)
        self.mostOfHost = UInt32(clamping: mostOfHost)
        func pool(_ proto: IPProtocol) -> PortPool {
            let taken = Set(forwards.filter { $0.protocol == proto }.map(\.port))
            return PortPool(ports.filter { !taken.contains($0) })
        }
        (tcp, udp, icmp) = (pool(.tcp), pool(.udp), pool(.icmp))
        for forward in forwards {
            let endpoint = Endpoint(address: forward.address, port: forward.insidePort)
            let owner = Owner(endpoint: endpoint, isForwarded: true)
            _ = owners.insert(Bindings.key(forward.protocol, forward.port), owner, now: 0)
            _ = bindings.insert(
                Bindings.key(forward.protocol, endpoint), Binding(port: forward.port, users: 1), now: 0)
        }
    }

    private static func key(_ proto: IPProtocol, _ endpoint: Endpoint) -> UInt64 {
        UInt64(proto.rawValue) << 48 | UInt64(endpoint.address.rawValue) << 16 | UInt64(endpoint.port)
    }

    private static func key(_ proto: IPProtocol, _ port: UInt16) -> UInt32 {
        UInt32(proto.rawValue) << 16 | UInt32(port)
    }

    /// Who stands behind an outside port.
    func owner(_ proto: IPProtocol, _ port: UInt16) -> Owner? { owners.find(Bindings.key(proto, port)) }

    /// The outside port for one more session of an endpoint.
    mutating func use(_ proto: IPProtocol, _ endpoint: Endpoint) -> Use {
        let sessions = hosts.find(endpoint.address) ?? 0
        if sessions >= mostOfHost { return .overLimit }
        let key = Bindings.key(proto, endpoint)
        var binding: Binding
        if let found = bindings.find(key) {
            binding = found
        } else {
            guard let port = take(proto) else { return .noPort }
            binding = Binding(port: port, users: 0)
            _ = owners.insert(
                Bindings.key(proto, port), Owner(endpoint: endpoint, isForwarded: false), now: 0)
        }
        binding.users += 1
        _ = bindings.insert(key, binding, now: 0)
        _ = hosts.insert(endpoint.address, sessions + 1, now: 0)
        return .port(binding.port)
    }

    /// A session of an endpoint has ended. With its last the outside port is free.
    mutating func release(_ proto: IPProtocol, _ endpoint: Endpoint) {
        let sessions = hosts.find(endpoint.address) ?? 0
        if sessions > 1 {
            _ = hosts.insert(endpoint.address, sessions - 1, now: 0)
        } else {
            hosts.remove(endpoint.address)
        }
        let key = Bindings.key(proto, endpoint)
        guard var binding = bindings.find(key) else { return }
        binding.users -= 1
        if binding.users > 0 {
            _ = bindings.insert(key, binding, now: 0)
            return
        }
        bindings.remove(key)
        owners.remove(Bindings.key(proto, binding.port))
        switch proto {
        case .tcp: tcp.put(binding.port)
        case .udp: udp.put(binding.port)
        default: icmp.put(binding.port)
        }
    }

    private mutating func take(_ proto: IPProtocol) -> UInt16? {
        switch proto {
        case .tcp: tcp.take()
        case .udp: udp.take()
        default: icmp.take()
        }
    }
}

/// Ports that are free: in an order that nobody outside can guess (RFC 6056), the one that was freed last comes last.
struct PortPool {
    private var ports: [UInt16]
    private var (first, count): (Int, Int)

    init(_ free: [UInt16]) {
        ports = free.shuffled()
        (first, count) = (0, free.count)
    }

    mutating func take() -> UInt16? {
        if count == 0 { return nil }
        let port = ports[first]
        first = first + 1 == ports.count ? 0 : first + 1
        count -= 1
        return port
    }

    /// One that was taken.
    mutating func put(_ port: UInt16) {
        let at = first + count
        ports[at < ports.count ? at : at - ports.count] = port
        count += 1
    }
}
