import CPlatform
import Virtio

/// What an engine cannot be made of: one line that names it, and says what is possible.
extension Engine {
    /// Microseconds fit into vhost's 32 bits, and into ticks.
    static func check(_ budget: BusyloopBudget?, _ name: String) throws(EngineError) {
        guard case .microseconds(let us) = budget, !(0...Int(UInt32.max)).contains(us) else { return }
        throw EngineError("\(name): a busyloop budget of \(us) us; 0 to \(UInt32.max) are possible")
    }

    static func check(_ options: EngineOptions) throws(EngineError) {
        try check(options.busyloop, "busyloop")
        if let most = options.mostPorts, !(1...4096).contains(most) || most < options.ports.count {
            throw EngineError("\(options.ports.count) ports, and \(most) at most: up to 4096 can be wanted")
        }
        if options.ports.isEmpty && options.mostPorts == nil {
            throw EngineError("no ports; give --port at least once")
        }
        if options.mode == .crossconnect && options.ports.count != 2
            && (options.mostPorts == nil || options.ports.count > 2)
        {
            throw EngineError("crossconnect takes two ports, not \(options.ports.count); use --mode switch for more")
        }
        var names = Set<String>()
        for port in options.ports {
            if !names.insert(port.name).inserted {
                throw EngineError("\(port.name): given twice; each port needs a path of its own")
            }
            try check(port)
            try check(threads: port.threads, of: options.threadCount, port.name)
        }
        try checkSwitch(options.ports, options.mode)
        if case .generate(let size) = options.mode { try check(generated: size) }
        try checkThreads(options)
    }

    /// Bytes of frames of `generate`.
    static func check(generated size: Int) throws(EngineError) {
        if !Frames.sizes.contains(size) { throw EngineError("generate: size \(size); 14 to 9216 bytes") }
    }

    /// Microseconds that a packet function may take for a burst.
    static func check(functionBudget: Int) throws(EngineError) {
        if !(1...1_000_000).contains(functionBudget) {
            throw EngineError("a budget of \(functionBudget) us for a packet function; 1 to 1000000 are possible")
        }
    }

    /// The threads that are to serve a port.
    static func check(threads: [Int], of count: Int, _ name: String) throws(EngineError) {
        if threads.count > PairTable.pairsPerPort {
            throw EngineError("\(name): \(threads.count) threads; one for each queue pair is enough")
        }
        for thread in threads where !(0..<count).contains(thread) {
            throw EngineError(
                "\(name): thread \(thread): there is no such poll thread; "
                    + (count == 1 ? "there is 0 alone" : "0 to \(count - 1) are"))
        }
    }

    /// What can be seen from a port alone.
    static func check(_ port: PortOptions) throws(EngineError) {
        if !(1...PairTable.pairsPerPort).contains(port.queuePairs) {
            throw EngineError(
                "\(port.name): queues=\(port.queuePairs); 1 to \(PairTable.pairsPerPort) queue pairs are possible")
        }
        if let mac = port.mac, mac.count != 6 || mac[0] & 1 != 0 {
            throw EngineError("\(port.name): mac= takes a unicast address such as 02:00:00:00:00:01")
        }
        if !RingLayout.isValid(size: UInt32(clamping: port.ringSize), isPacked: port.wantsPacked) {
            throw EngineError(
                "\(port.name): queue_size=\(port.ringSize); 2 to 32768, a power of two without packed=on")
        }
        try checkDescriptor(port)
        if !port.socketAccess.isDefault && port.kind.listeningPath == nil {
            throw EngineError(
                "\(port.name): mode=, user= and group= are of a socket that the port makes; it makes none")
        }
        if let mode = port.socketAccess.mode, mode > 0o777 {
            throw EngineError("\(port.name): mode=\(String(mode, radix: 8)); 777 is the most")
        }
        try check(port.busyloop, port.name)
        if let mtu = port.mtu, mtu < 68 { throw EngineError("\(port.name): mtu=\(mtu); at least 68 bytes") }
    }

    /// One that was handed over says itself what it is, when it is opened.
    private static func checkDescriptor(_ port: PortOptions) throws(EngineError) {
        if port.kind.descriptor == nil { return }
        switch port.kind {
        case .vhostUser(_, true), .virtioUser(_, true, _):
            throw EngineError("\(port.name): client= and server= go with a path; this socket listens, or is connected")
        case .virtioUser(let place, _, .some):
            throw EngineError("\(place): tap= goes with /dev/vhost-net")
        case .tap where port.queuePairs != 1:
            throw EngineError("\(port.name): queues=\(port.queuePairs); a descriptor of a TAP is one queue")
        default: break
        }
    }

    private static func checkThreads(_ options: EngineOptions) throws(EngineError) {
        if options.requests < 2 || options.requests > 1024 {
            throw EngineError("\(options.requests) requests; 2 to 1024 are possible")
        }
        if !(1...64).contains(options.unpinnedThreads) {
            throw EngineError("\(options.unpinnedThreads) threads that are not pinned; 1 to 64 are possible")
        }
        if options.unpinnedThreads > 1 && !options.cpus.isEmpty {
            throw EngineError("threads are pinned or not: give CPUs or a number of unpinned threads, not both")
        }
        try check(functionBudget: options.functionBudget)
        if options.cpus.count > 64 { throw EngineError("\(options.cpus.count) CPUs; at most 64 poll threads") }
        if Set(options.cpus).count != options.cpus.count {
            throw EngineError("a CPU is given twice; one poll thread runs on each")
        }
        for cpu in options.cpus where !CPlat_cpu_allowed(Int32(clamping: cpu)) {
            throw EngineError("CPU \(cpu) is not one this process may run on; see `taskset -p $$`")
        }
    }

    static func checkSwitch(_ ports: [PortOptions], _ mode: ForwardingMode) throws(EngineError) {
        guard let port = ports.first(where: { !$0.switching.isPlain }) else { return }
        if mode != .switch {
            throw EngineError("\(port.name): access, isolated and the like go with --mode switch")
        }
        try SwitchMember.check(ports.map(\.member))
    }
}
