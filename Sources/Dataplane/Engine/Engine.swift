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
    /// As it was made with; `mode` is `drop` where there is a packet function. `portOptions` has the ports of now,
    /// `macAgeing` and `generatedSize` what was changed of the mode, `functionBudget` what was of a packet function's.
    public let options: EngineOptions
    let logger: Logger
    /// An embedder's function for each thread, and what it says of itself.
    let embedded: (make: (Int) -> FunctionBox, traits: FunctionTraits)?
    /// What the packet function calls what it counts.
    let functionNames: FunctionNames
    private(set) var core: EngineCore?
    /// Seconds after which the switch forgets an address (`setMACAgeing`).
    public internal(set) var macAgeing: Int
    /// Bytes of frames of `generate`, in other modes nil (`setGeneratedSize`).
    public internal(set) var generatedSize: Int?
    /// Microseconds that an embedder's packet function may take for a burst (`setFunctionBudget`).
    public internal(set) var functionBudget: Int
    /// By thread: what was sent to those that are to show that they come round.
    var probes: [Int: ThreadProbe] = [:]
    /// By place.
    var ports: [PlacedPort?] = []
    /// Ports so far.
    var serial: UInt64 = 0

    /// Checks the options; nothing is opened yet.
    public init(_ options: EngineOptions, logger: Logger) throws(EngineError) {
        self.options = options
        self.logger = logger
        (macAgeing, functionBudget) = (options.macAgeing, options.functionBudget)
        embedded = nil
        var names = FunctionNames()
        if options.mode == .switch {
            (names.dropCauses, names.counters) = (GuardedSwitch.dropCauses, GuardedSwitch.counters)
        }
        functionNames = names
        if case .generate(let size) = options.mode { generatedSize = size }
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
        (macAgeing, functionBudget) = (options.macAgeing, options.functionBudget)
        embedded = (make, FunctionTraits(wishes))
        functionNames = try FunctionNames(wishes, threads: options.threadCount)
        try Engine.check(options)
    }

    /// An engine that is dropped stops: its threads work in memory that goes with it.
    deinit { stop() }

    /// Opens the ports and starts the threads; returns when every socket listens.
    public func start() throws(EngineError) { try start { port throws(EngineError) in try port.start() } }

    /// The same; `open` opens each port.
    func start(_ open: (any EnginePort) throws(EngineError) -> Void) throws(EngineError) {
        if core != nil { throw EngineError("the engine runs already") }
        let core = try EngineCore(
            options, cpus: options.cpus.isEmpty ? Array(repeating: -1, count: options.unpinnedThreads) : options.cpus)
        self.core = core
        do throws(EngineError) {
            // Their pairs first: threads find them there.
            for (i, port) in options.ports.enumerated() {
                ports.append(PlacedPort(try makePort(i, port, core), serial: serial))
                serial += 1
            }
            if var traits = embedded?.traits {
                traits.budgetMicroseconds = functionBudget
                core.setTraits(traits)
            }
            for thread in core.threads { try startThread(thread, core) }
            for port in ports.compactMap(\.self) { try open(port.port) }
        } catch {
            stop()
            throw error
        }
    }

    func makePort(_ index: Int, _ options: PortOptions, _ core: EngineCore) throws(EngineError)
        -> any EnginePort
    {
        var logger = self.logger
        logger[metadataKey: "port"] = "\(options.name)"
        switch options.kind {
        case .vhostUser: return try Port(index: index, options: options, core: core, logger: logger)
        case .virtioUser: return try DriverPort(index: index, options: options, core: core, logger: logger)
        case .tap: return try TapPort(index: index, options: options, core: core, logger: logger)
        case .xdp: return try XDPPort(index: index, options: options, core: core, logger: logger)
        case .null: return try NullPort(index: index, options: options, core: core)
        }
    }

    private func startThread(_ thread: PollThread, _ core: EngineCore) throws(EngineError) {
        if let embedded {
            thread.kept = embedded.make(thread.index)
        } else if let size = generatedSize {
            thread.state.pointee.template = FrameTemplate(Frames.udp(size: size))
        }
        core.setFunction(of: thread, core.judging)
        try thread.start()
    }

    /// Stops threads, closes connections, removes sockets. Safe to call twice.
    public func stop() {
        guard let core else { return }
        endCaptures(core, .stopped)
        let all = ports.compactMap(\.self)
        let connected = all.map(\.port.isConnected)
        for port in all { port.port.stop() }
        for thread in core.threads { thread.stop() }
        // Now nothing is under way any more; whoever was there a moment ago is told of as such.
        (lastCounters, lastTimes, lastFunctionCounters) = (snapshot(), queueTimes(), functionCounters())
        for (i, isConnected) in zip(lastCounters.indices, connected) { lastCounters[i].isConnected = isConnected }
        for port in all { port.port.dispose() }
        (ports, probes) = ([], [:])
        self.core = nil
    }

    /// Counters as the last `stop` found them.
    private(set) var lastCounters: [PortSnapshot] = []
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
        for port in ports.compactMap({ $0?.port }) where core.budget(port.options) != .poll || budget == .poll {
            // Of a kernel's the option is vhost's own.
            if !port.options.kind.isKernel { ports[port.index]?.setBusyloop(budget) }
            setBusyloop(budget, of: port, core)
        }
    }

    func setBusyloop(_ budget: BusyloopBudget, of port: any EnginePort, _ core: EngineCore) {
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

    /// The times that each queue has kept since the start, of kinds and queues that have any; after `stop` those of the
    /// moment before.
    public func queueTimes() -> [QueueTimeSnapshot] {
        guard let core else { return lastTimes }
        var all: [QueueTimeSnapshot] = []
        for port in ports.compactMap({ $0?.port }) {
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
}
