import CPlatform
import Glibc
import Logging
import Telemetry
import Virtio

/// A running dataplane: ports, poll threads and forwarding.
///
/// Its methods may be called from any one thread at a time; none of them is for a poll thread.
///
/// Unchecked: the caller keeps its threads apart; nothing here locks.
///
/// ```swift
/// let engine = try Engine(EngineOptions(ports: ports, mode: .switch), logger: logger)
/// try engine.start()
/// for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
/// engine.stop()
/// ```
public final class Engine: @unchecked Sendable {
    /// As it was made with; `mode` is `drop` where there is a packet function.
    public let options: EngineOptions
    let logger: Logger
    /// An embedder's function for each thread, and what it says of itself.
    private let embedded: (make: (Int) -> FunctionBox, traits: FunctionTraits)?
    /// What the packet function calls what it counts.
    let functionNames: FunctionNames
    private(set) var core: EngineCore?
    private var ports: [any EnginePort] = []

    /// Checks the options; nothing is opened yet.
    public init(_ options: EngineOptions, logger: Logger) throws(EngineError) {
        self.options = options
        self.logger = logger
        embedded = nil
        var names = FunctionNames()
        if options.isGuarded { names.dropCauses = GuardedSwitch.dropCauses }
        functionNames = names
        try Engine.check(options)
    }

    /// The same with an embedder's packet function in place of `options.mode`: `function` makes one
    /// value for each poll thread, by its number.
    public convenience init<F: PacketFunction & ~Copyable>(
        _ options: EngineOptions, logger: Logger, function: @escaping (Int) -> F
    ) throws(EngineError) {
        try self.init(options, logger, FunctionWishes(F.self)) { TypedFunctionBox(function($0)) }
    }

    /// The same with a function whose wishes are known when it runs alone: `wishes` stands for what its type says.
    package convenience init<F: PacketFunction>(
        _ options: EngineOptions, logger: Logger, wishes: FunctionWishes, function: @escaping (Int) -> F
    ) throws(EngineError) {
        try self.init(options, logger, wishes) { TypedFunctionBox(function($0)) }
    }

    private init(
        _ options: EngineOptions, _ logger: Logger, _ wishes: FunctionWishes, _ make: @escaping (Int) -> FunctionBox
    ) throws(EngineError) {
        var options = options
        options.mode = .drop
        self.options = options
        self.logger = logger
        embedded = (make, FunctionTraits(wishes))
        functionNames = try FunctionNames(
            wishes, threads: options.cpus.isEmpty ? options.unpinnedThreads : options.cpus.count)
        try Engine.check(options)
    }

    /// An engine that is dropped stops: its threads work in memory that goes with it.
    deinit { stop() }

    /// Microseconds fit into vhost's 32 bits, and into ticks.
    private static func check(_ budget: BusyloopBudget?, _ name: String) throws(EngineError) {
        guard case .microseconds(let us) = budget, !(0...Int(UInt32.max)).contains(us) else { return }
        throw EngineError("\(name): a busyloop budget of \(us) us; 0 to \(UInt32.max) are possible")
    }

    private static func check(_ options: EngineOptions) throws(EngineError) {
        try check(options.busyloop, "busyloop")
        if options.ports.isEmpty { throw EngineError("no ports; give --port at least once") }
        if options.mode == .crossconnect && options.ports.count != 2 {
            throw EngineError("crossconnect takes two ports, not \(options.ports.count); use --mode switch for more")
        }
        var names = Set<String>()
        for port in options.ports {
            if !names.insert(port.name).inserted {
                throw EngineError("\(port.name): given twice; each port needs a path of its own")
            }
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
            try check(port.busyloop, port.name)
            if let mtu = port.mtu, mtu < 68 { throw EngineError("\(port.name): mtu=\(mtu); at least 68 bytes") }
        }
        try checkSwitch(options)
        if case .generate(let size) = options.mode, !(14...9216).contains(size) {
            throw EngineError("generate: size \(size); 14 to 9216 bytes")
        }
        if options.requests < 2 || options.requests > 1024 {
            throw EngineError("\(options.requests) requests; 2 to 1024 are possible")
        }
        if !(1...64).contains(options.unpinnedThreads) {
            throw EngineError("\(options.unpinnedThreads) threads that are not pinned; 1 to 64 are possible")
        }
        if options.unpinnedThreads > 1 && !options.cpus.isEmpty {
            throw EngineError("threads are pinned or not: give CPUs or a number of unpinned threads, not both")
        }
        if !(1...1_000_000).contains(options.functionBudget) {
            throw EngineError(
                "a budget of \(options.functionBudget) us for a packet function; 1 to 1000000 are possible")
        }
        if options.cpus.count > 64 { throw EngineError("\(options.cpus.count) CPUs; at most 64 poll threads") }
        if Set(options.cpus).count != options.cpus.count {
            throw EngineError("a CPU is given twice; one poll thread runs on each")
        }
        for cpu in options.cpus where !CPlat_cpu_allowed(Int32(clamping: cpu)) {
            throw EngineError("CPU \(cpu) is not one this process may run on; see `taskset -p $$`")
        }
    }

    private static func checkSwitch(_ options: EngineOptions) throws(EngineError) {
        guard let port = options.ports.first(where: { !$0.switching.isPlain }) else { return }
        if options.mode != .switch {
            throw EngineError("\(port.name): access, isolated and the like go with --mode switch")
        }
        try SwitchMember.check(options.members)
    }

    /// Opens the ports and starts the threads; returns when every socket listens.
    public func start() throws(EngineError) {
        if core != nil { throw EngineError("the engine runs already") }
        let core = try EngineCore(
            options, cpus: options.cpus.isEmpty ? Array(repeating: -1, count: options.unpinnedThreads) : options.cpus)
        self.core = core
        do throws(EngineError) {
            // Their pairs first: threads look at the table, and it does not change any more.
            for (i, port) in options.ports.enumerated() {
                ports.append(try makePort(i, port, core))
            }
            for thread in core.threads { try startThread(thread, core) }
            for port in ports { try port.start() }
        } catch {
            stop()
            throw error
        }
    }

    private func makePort(_ index: Int, _ options: PortOptions, _ core: EngineCore) throws(EngineError)
        -> any EnginePort
    {
        switch options.kind {
        case .vhostUser: return try Port(index: index, options: options, core: core, logger: logger)
        case .virtioUser: return try DriverPort(index: index, options: options, core: core, logger: logger)
        case .tap: return try TapPort(index: index, options: options, core: core, logger: logger)
        case .null: return try NullPort(index: index, options: options, core: core)
        }
    }

    private func startThread(_ thread: PollThread, _ core: EngineCore) throws(EngineError) {
        if let embedded {
            let box = embedded.make(thread.index)
            thread.kept = box
            var traits = embedded.traits
            traits.budgetMicroseconds = options.functionBudget
            return try thread.start(EmbeddedFunction(box: Unmanaged.passUnretained(box)), traits)
        }
        switch options.mode {
        case .drop: try thread.start(DropFunction())
        case .crossconnect: try thread.start(CrossconnectFunction())
        case .macswap: try thread.start(MACSwapFunction())
        case .switch:
            guard let guarded = core.guarded else { return try thread.start(SwitchFunction(table: core.addresses!)) }
            var traits = FunctionTraits(GuardedSwitch.self)
            traits.judgesAgain = !options.countsPackets
            try thread.start(GuardedSwitch(guarded), traits)
        case .generate(let size):
            thread.state.pointee.template = FrameTemplate(Frames.udp(size: size))
            try thread.start(DropFunction())
        }
    }

    /// Stops threads, closes connections, removes sockets. Safe to call twice.
    public func stop() {
        guard let core else { return }
        let connected = ports.map(\.isConnected)
        for port in ports { port.stop() }
        for thread in core.threads { thread.stop() }
        // Now nothing is under way any more; whoever was there a moment ago is told of as such.
        (lastCounters, lastTimes, lastFunctionCounters) = (snapshot(), queueTimes(), functionCounters())
        for (i, isConnected) in zip(lastCounters.indices, connected) { lastCounters[i].isConnected = isConnected }
        for port in ports { port.dispose() }
        ports = []
        self.core = nil
    }

    /// Counters as the last `stop` found them.
    private var lastCounters: [PortSnapshot] = []
    private var lastTimes: [QueueTimeSnapshot] = []
    private(set) var lastFunctionCounters: [(name: String, count: UInt64)] = []

    /// Poll threads; empty after `stop`.
    public func threadSnapshots() -> [ThreadSnapshot] {
        (core?.threads ?? []).map {
            ThreadSnapshot(
                cpu: $0.cpu, busyCycles: $0.state.pointee.busyTicks[0],
                systemCalls: $0.state.pointee.notifier.submits[0], cpuNanoseconds: $0.cpuNanoseconds,
                function: functionNames.function,
                slowBursts: $0.state.pointee.functionCounters[FunctionTraits.slowPlace],
                longestNanoseconds: $0.state.pointee.functionCounters[FunctionTraits.longestPlace]
                    &* 1000 / max(1, TickClock.shared.ticksPerMicrosecond))
        }
    }

    /// How often control threads have sent each poll thread something to do so far.
    package var trips: [UInt64] { core?.threads.map(\.mailbox.trips) ?? [] }

    /// Gives every queue another busyloop budget from now on. Not those of ports (or an engine) started with `poll`,
    /// which watch no kicks, one that sleeps.
    public func setBusyloop(_ budget: BusyloopBudget) {
        guard let core else { return }
        for port in ports where core.budget(port.options) != .poll || budget == .poll {
            for pair in 0..<port.queuePairs {
                guard let p = core.table[port.index, pair] else { continue }
                core.onOwner(of: p) { thread in
                    p.pointee.budget = BudgetState(budget, clock: TickClock.shared)
                    // Off the list of the quiet ones, too, where it would stay awake.
                    thread.state.pointee.forget(p)
                    if p.pointee.isRunning { thread.state.pointee.poll(p) }
                }
            }
        }
    }

    /// The times that each queue has kept since the start, of kinds and queues that have any; after `stop` those of the
    /// moment before.
    public func queueTimes() -> [QueueTimeSnapshot] {
        guard let core else { return lastTimes }
        var all: [QueueTimeSnapshot] = []
        for port in ports {
            for pair in 0..<port.queuePairs {
                guard let p = core.table[port.index, pair] else { continue }
                for what in QueueTime.allCases {
                    let counts = p.pointee.times[what].counts
                    if counts.count == 0 { continue }
                    all.append(
                        QueueTimeSnapshot(
                            port: port.options.name, queue: what.direction.queue(ofPair: pair), what: what,
                            counts: counts,
                            ticksPerMicrosecond: TickClock.shared.ticksPerMicrosecond))
                }
            }
        }
        return all
    }

    /// Counters of all ports; after `stop` those of the moment before.
    public func snapshot() -> [PortSnapshot] {
        guard let core else { return lastCounters }
        return ports.map { port in
            var s = PortSnapshot(
                name: port.options.name, isConnected: port.isConnected, rx: .init(), tx: .init(), drops: [])
            s.wasConnected = port.wasConnected
            var drops = [UInt64](repeating: 0, count: DropCause.allCases.count)
            var own = [UInt64](repeating: 0, count: functionNames.dropCauses.count)
            for pair in 0..<port.queuePairs {
                guard let p = core.table[port.index, pair] else { continue }
                func count(_ what: PairCounters.Kind) -> UInt64 { p.pointee.counters[what] }
                s.rx.packets &+= count(.rxPackets)
                s.rx.bytes &+= count(.rxBytes)
                s.tx.packets &+= count(.txPackets)
                s.tx.bytes &+= count(.txBytes)
                s.made &+= count(.made)
                s.flooded &+= count(.flooded)
                s.consumed &+= count(.consumed)
                s.queues += QueueDirection.allCases.map {
                    QueueSnapshot(
                        queue: $0.queue(ofPair: pair),
                        kicks: count($0 == .receive ? .receiveKicks : .transmitKicks),
                        calls: count($0 == .receive ? .receiveCalls : .transmitCalls))
                }
                for cause in DropCause.allCases { drops[cause.rawValue] &+= p.pointee.counters[cause] }
                for cause in own.indices { own[cause] &+= p.pointee.counters.drops(for: cause) }
            }
            s.stoppedQueues = core.stops[port.index].all
            s.drops = DropCause.allCases.filter { drops[$0.rawValue] > 0 }.map { ($0.text, drops[$0.rawValue]) }
            s.drops += own.indices.filter { own[$0] > 0 }.map { (functionNames.dropCauses[$0], own[$0]) }
            return s
        }
    }
}
