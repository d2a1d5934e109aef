import CPlatform
import Glibc
import Virtio

/// An engine whose poll threads stand still: each runs one round of the loop when it is told to, on the calling thread.
/// It is the very code of `Engine`'s threads, in an order that repeats, so that instructions and memory accesses can be
/// counted. It has no ports, only pairs whose rings are handed in.
package final class SteppedEngine {
    private let core: EngineCore
    /// Different ones may be stepped by different threads at a time.
    package let threads: [SteppedThread]

    /// One pair of each port for each of `options.ports`' queue pairs; none has a ring yet. `defectFD` is the caller's.
    /// `function`: an embedder's, in place of the options' mode.
    package init(
        _ options: EngineOptions, threads count: Int, defectFD: Int32, function: SteppedFunction? = nil
    ) throws(EngineError) {
        core = try EngineCore(options, cpus: [Int](repeating: -1, count: count))
        threads = core.threads.map { [core] in SteppedThread($0, core, function) }
        for (i, port) in options.ports.enumerated() {
            core.addPairs(port: i, port, defectFD: defectFD)
            core.table.setActivePairs(port.queuePairs, i)
        }
    }

    /// No second begins any more: the switch's table is written at the first packet of each, by every thread.
    package func stopSeconds() { for thread in core.threads { thread.state.pointee.secondsDue = .max } }

    package func pair(_ port: Int, _ pair: Int) -> SteppedPair {
        SteppedPair(pointer: core.table[port, pair].unsafelyUnwrapped)
    }

    /// Gives a pair without rings to a thread; pair *k* is thread *k*'s otherwise.
    package func give(_ pair: SteppedPair, to thread: Int) {
        pair.pointer.pointee.give(to: thread)
    }

    /// Starts a guest's rings. The eventfd and `callRings`, one for each thread, are the caller's for as long as this
    /// lives.
    package func start(
        _ pair: SteppedPair, receive: RingSetup, transmit: RingSetup, kick: Int32, callRings: [CallRing]
    ) {
        let thread = core.owner(of: pair.pointer)
        for direction in QueueDirection.allCases {
            var state = QueueState()
            state.isEnabled = true
            (state.kickFD, state.calls) = (kick, callRings[thread.index].calls)
            thread.startRing(
                pair.pointer, direction, GuestRing(direction == .receive ? receive : transmit), state,
                watchesKick: core.busyloop != .poll && direction == .transmit)
        }
    }
}

/// A queue pair of a `SteppedEngine`.
package struct SteppedPair {
    fileprivate let pointer: PairPointer

    /// Packets that were taken from the driver, and that were delivered to it.
    package var taken: UInt64 { pointer.pointee.counters[.rxPackets] }
    package var delivered: UInt64 { pointer.pointee.counters[.txPackets] }

    /// What stopped a ring of the pair.
    package var defect: RingDefect? {
        for direction in [QueueDirection.transmit, .receive] {
            let defect = pointer.pointee[direction].end.defect(direction)
            if defect.kind != .none { return defect }
        }
        return nil
    }

    /// Both rings are taken for ones of the highest rate. (Nothing measures it where the clock stands.)
    package func saturate() {
        pointer.pointee.lag.saturate(CPlat_cycles())
        pointer.pointee.receiveLag.saturate(CPlat_cycles())
    }
}

/// A poll thread of a `SteppedEngine`.
package final class SteppedThread {
    private let state: ThreadPointer
    private let mailbox: Mailbox
    private let mode: ForwardingMode
    private let functions: ModeFunctions
    private let embedded: OwnedValues<EmbeddedFunction>
    private let box: FunctionBox?

    fileprivate init(_ thread: PollThread, _ core: EngineCore, _ embedder: SteppedFunction?) {
        box = embedder?.make()
        var embedded = OwnedValues<EmbeddedFunction>(capacity: 1)
        if let box { embedded.add(EmbeddedFunction(box: .passUnretained(box))) }
        self.embedded = embedded
        (state, mailbox, mode) = (thread.state, thread.mailbox, core.mode)
        functions = ModeFunctions(core)
        if case .generate(let size) = mode { state.pointee.template = FrameTemplate(Frames.udp(size: size)) }
        state.pointee.obey(embedder?.traits ?? FunctionTraits(functions.kind(mode)))
    }

    /// A clock on which no time passes, so that what depends on time stays as it is; or one that runs.
    package var isClockRunning = true {
        didSet { state.pointee.clock = TickClock(ticksPerMicrosecond: isClockRunning ? 1 : 1 << 40) }
    }

    /// Pairs that are looked at each round.
    package var polledCount: Int { state.pointee.polledCount }

    /// The loop goes round once.
    package func step() {
        if box != nil { PollLoop.round(state, &embedded.start.pointee) } else { functions.round(state, mailbox, mode) }
    }
}

/// An embedder's packet function for a `SteppedEngine`: each thread has a copy.
package struct SteppedFunction {
    fileprivate let make: () -> FunctionBox
    fileprivate let traits: FunctionTraits

    package init<F: PacketFunction>(_ function: F) {
        make = { TypedFunctionBox(function) }
        traits = FunctionTraits(F.self)
    }
}

/// A packet function for each mode, as `Engine` starts its threads with them.
private struct ModeFunctions: ~Copyable {
    private let drop = OwnedValues(DropFunction())
    private let crossconnect = OwnedValues(CrossconnectFunction())
    private let macswap = OwnedValues(MACSwapFunction())
    /// None in other modes.
    private var `switch` = OwnedValues<SwitchFunction>(capacity: 1)
    private var guarded = OwnedValues<GuardedSwitch>(capacity: 1)

    init(_ core: EngineCore) {
        if let table = core.addresses { `switch`.add(SwitchFunction(table: table)) }
        if let core = core.guarded { guarded.add(GuardedSwitch(core)) }
    }

    func kind(_ mode: ForwardingMode) -> any PacketFunction.Type {
        switch mode {
        case .drop, .generate: return DropFunction.self
        case .crossconnect: return CrossconnectFunction.self
        case .macswap: return MACSwapFunction.self
        case .switch: return guarded.count > 0 ? GuardedSwitch.self : SwitchFunction.self
        }
    }

    func round(_ state: ThreadPointer, _ mailbox: Mailbox, _ mode: ForwardingMode) {
        switch mode {
        case .drop, .generate: PollLoop.round(state, &drop.start.pointee)
        case .crossconnect: PollLoop.round(state, &crossconnect.start.pointee)
        case .macswap: PollLoop.round(state, &macswap.start.pointee)
        case .switch where guarded.count > 0: PollLoop.round(state, &guarded.start.pointee)
        case .switch: PollLoop.round(state, &`switch`.start.pointee)
        }
    }
}
