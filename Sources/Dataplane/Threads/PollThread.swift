import CPlatform
import Control
import Glibc
import Synchronization
import Virtio

/// A poll thread: pinned, owner of its rings. Control threads talk to it through its mailbox.
final class PollThread {
    let index: Int
    /// CPU it is pinned to; -1: none.
    let cpu: Int
    let mailbox: Mailbox
    /// Touched by the thread alone once it runs, and by mailbox closures, which run on it.
    let state: ThreadPointer
    private var thread: NamedThread?
    private var body: ((PollThread) -> Void)?
    /// What the packet function points at: lives as long as the thread.
    var kept: FunctionBox?
    private var isStopping = false
    private var generation: UInt64 = 0

    init(index: Int, cpu: Int, mailboxes: [Mailbox], table: PairTable, requests: Int) throws(EngineError) {
        self.index = index
        self.cpu = cpu
        mailbox = mailboxes[index]
        let notifier = try Notifier(wakeFD: mailbox.wakeFD, requests: requests)
        state = .allocateApart(capacity: 1)
        let exchange = Exchange(mailboxes, ports: table.portCount)
        state.initialize(to: ThreadState(index: index, table: table, notifier: notifier, exchange: exchange))
    }

    deinit {
        state.deinitialize(count: 1)
        state.deallocate()
    }

    /// Starts the thread with a packet function of its own. Specialised for each `F` here, so that
    /// the loop calls it directly.
    @inline(__always)
    func start<F: PacketFunction>(_ function: F) throws(EngineError) {
        try start(function, FunctionTraits(F.self))
    }

    /// The same for a function that stands for another one, whose wishes these are.
    @inline(__always)
    func start<F: PacketFunction>(_ function: F, _ traits: FunctionTraits) throws(EngineError) {
        state.pointee.obey(traits)
        body = { me in
            let f = UnsafeMutablePointer<F>.allocateApart(capacity: 1)
            f.initialize(to: function)
            me.loop(f)
            f.deinitialize(count: 1)
            f.deallocate()
        }
        mailbox.queue.open()
        do { thread = try NamedThread("ringway-\(index)") { self.enter() } } catch {
            mailbox.queue.close()
            throw EngineError("\(error)")
        }
    }

    private func enter() {
        mailbox.queue.adopt()
        if cpu >= 0 { _ = CPlat_pin_to_cpu(Int32(cpu)) }
        body?(self)
        body = nil
        mailbox.queue.close()
    }

    /// CPU time of the thread while it runs.
    var cpuNanoseconds: UInt64 { thread?.cpuNanoseconds ?? 0 }

    /// Ends the thread; its rings must have been stopped.
    func stop() {
        guard let thread else { return }
        mailbox.run { self.isStopping = true }
        thread.join()
        self.thread = nil
    }

    // MARK: The loop

    private static var wakeTag: UInt64 { 1 << 40 }

    @inline(__always)
    private func loop<F: PacketFunction>(_ f: UnsafeMutablePointer<F>) {
        let t = state
        t.pointee.notifier.watchAgain(tag: PollThread.wakeTag)
        t.pointee.notifier.flush()
        while true {
            if mailbox.hasWork {
                t.pointee.bringUpToDate()
                mailbox.queue.serve()
                if isStopping { return }
            }
            PollLoop.round(t, f)
            if t.pointee.isIdle { sleep(t) } else if !t.pointee.didWork { giveWay() }
        }
    }

    /// A moment in which there was nothing to do. Threads that share CPUs let another run.
    @inline(__always)
    private func giveWay() {
        if cpu < 0 && state.pointee.exchange.threadCount > 1 { sched_yield() } else { CPlat_pause() }
    }

    /// Sleeps until a kick, a parcel or a message. Whoever has work for the thread publishes it, then
    /// looks at `isAsleep`; here the order is the other way round, so one of the two sees the other.
    @inline(never)
    private func sleep(_ t: ThreadPointer) {
        mailbox.isAsleep.store(true, ordering: .relaxed)
        CPlat_fence_full()
        let hasWork =
            mailbox.hasWork || t.pointee.notifier.hasCompletions
            || (t.pointee.exchange.threadCount > 1 && t.pointee.exchange.hasIncoming)
        if !hasWork {
            let due = t.pointee.tickDue
            t.pointee.notifier.wait(nanoseconds: due == .max ? nil : nanoseconds(until: due))
        }
        mailbox.isAsleep.store(false, ordering: .relaxed)
        t.pointee.bringUpToDate()
    }

    /// From now to a tick of the time-stamp counter.
    private func nanoseconds(until due: UInt64) -> UInt64 {
        let now = CPlat_cycles()
        return due <= now ? 0 : (due &- now) / max(1, state.pointee.clock.ticksPerMicrosecond) &* 1000
    }

    // MARK: Rings; called in mailbox closures

    /// Another thread owns the pair from now on.
    func letGo(_ p: PairPointer, to thread: Int) {
        if thread == index { return }
        state.pointee.forget(p)
        CPlat_store32_relaxed(PairState.owner(p), UInt32(thread))
    }

    /// Takes a guest's ring over.
    func startRing(
        _ p: PairPointer, _ direction: QueueDirection, _ ring: DeviceQueue, _ state: QueueState, watchesKick: Bool
    ) {
        let q = PollThread.queue(p, direction)
        q.pointee = state
        q.pointee.end = direction == .receive ? p.pointee.receiveRoom.end(ring) : p.pointee.transmitRoom.end(ring)
        if watchesKick && state.kickFD >= 0 { watch(p, direction, q) }
        callNow(q.pointee.calls)
        if direction == .receive {
            q.pointee.end.suppressKicks()
            p.pointee.receiveLag = LagState(size: ring.size, pacing: p.pointee.pacing, clock: self.state.pointee.clock)
        } else {
            p.pointee.lag = LagState(
                size: ring.size, hold: ring.bestHold, mayWait: true, pacing: p.pointee.pacing,
                clock: self.state.pointee.clock)
        }
        self.state.pointee.poll(p)
    }

    /// A driver may wait for what was done before it could be told: before the ring's start (stop/cont of a guest, a
    /// crash of ours), or while there was no call descriptor, or another one. One call too many does no harm.
    private func callNow(_ calls: Calls) {
        if calls.fd < 0 { return }
        state.pointee.notifier.call(calls)
        state.pointee.notifier.flush()
    }

    private func watch(_ p: PairPointer, _ direction: QueueDirection, _ q: UnsafeMutablePointer<QueueState>) {
        // The tag has room for 23 bits; 0 is that of the thread's own descriptor.
        generation = generation % 0x7f_ffff + 1
        let place = UInt64(p.pointee.port * PairTable.pairsPerPort + p.pointee.pair)
        q.pointee.kickTag = generation << 41 | place << 1 | UInt64(direction.rawValue)
        state.pointee.notifier.watch(q.pointee.kickFD, tag: q.pointee.kickTag)
    }

    /// Lets go of a ring and says where it stands. Afterwards nothing of it is used.
    func stopRing(_ p: PairPointer, _ direction: QueueDirection) -> RingPosition {
        let q = PollThread.queue(p, direction)
        if direction == .transmit {
            drain(p)
            // With a call: the driver may sleep until it hears of these, and no later completion will tell.
            q.pointee.end.tell(state, p)
        }
        let position = q.pointee.end.position
        if q.pointee.kickTag != 0 { state.pointee.notifier.unwatch(tag: q.pointee.kickTag) }
        q.pointee = QueueState()
        if !p.pointee.transmit.isRunning && !p.pointee.receive.isRunning { state.pointee.forget(p) }
        // Submitted: calls in the kernel hold the descriptors themselves.
        state.pointee.notifier.flushAll()
        return position
    }

    /// A ring goes on at other addresses, where it stands; returns where that is.
    func moveRing(_ p: PairPointer, _ direction: QueueDirection, to setup: RingSetup, watchesKick: Bool) -> RingPosition
    {
        let old = PollThread.queue(p, direction).pointee
        var setup = setup
        setup.position = stopRing(p, direction)
        var state = QueueState()
        (state.isEnabled, state.calls) = (old.isEnabled, old.calls)
        (state.kickFD, state.errFD) = (old.kickFD, old.errFD)
        startRing(p, direction, DeviceQueue(setup), state, watchesKick: watchesKick)
        return setup.position
    }

    /// Why the ring had to stop, once.
    func takeDefect(_ p: PairPointer, _ direction: QueueDirection) -> StoppedRing? {
        let q = PollThread.queue(p, direction)
        let defect = q.pointee.end.defect(direction)
        if q.pointee.isLogged || !q.pointee.isReported && defect.kind == .none { return nil }
        q.pointee.isLogged = true
        return StoppedRing(ring: direction.queue(ofPair: p.pointee.pair), defect: defect, errFD: q.pointee.errFD)
    }

    /// Takes over a pair of which Ringway is the driver, or a TAP queue: `incoming` is readable when packets come;
    /// -1: nothing tells.
    func startOther(_ p: PairPointer, _ end: QueueEnd, incoming: Int32, watches: Bool) {
        for direction in [QueueDirection.transmit, .receive] {
            let q = PollThread.queue(p, direction)
            q.pointee = QueueState()
            q.pointee.end = end
            q.pointee.isEnabled = true
        }
        let q = PollThread.queue(p, .transmit)
        q.pointee.kickFD = incoming
        if watches && incoming >= 0 { watch(p, .transmit, q) }
        if case .tap(let tap) = end { tap.pointee.start() }
        state.pointee.poll(p)
    }

    /// Lets go of it. Afterwards nothing of it is used.
    func stopOther(_ p: PairPointer) {
        let end = p.pointee.transmit.end
        _ = stopRing(p, .transmit)
        _ = stopRing(p, .receive)
        if case .tap(let tap) = end { tap.pointee.cancel() }
    }

    /// Waits until other threads have let go of the pair's packets; serves them meanwhile, as they
    /// may wait for this thread.
    func drain(_ p: PairPointer) {
        while p.pointee.parcel != nil {
            PollLoop.acceptParcels(state)
            _ = Forwarder.settle(state, p)
            giveWay()
        }
    }

    /// New enable state and descriptors of a running ring.
    func updateRing(
        _ p: PairPointer, _ direction: QueueDirection, enabled: Bool, calls: Calls, kickFD: Int32, errFD: Int32,
        watchesKick: Bool
    ) {
        let q = PollThread.queue(p, direction)
        if !q.pointee.isRunning { return }
        q.pointee.isEnabled = enabled
        let isNewCall = q.pointee.calls.fd != calls.fd
        q.pointee.calls = calls
        if isNewCall {
            q.pointee.end.forgetCalls()
            callNow(calls)
        }
        q.pointee.errFD = errFD
        if q.pointee.kickFD != kickFD || q.pointee.kickTag == 0 {
            if q.pointee.kickTag != 0 { state.pointee.notifier.unwatch(tag: q.pointee.kickTag) }
            q.pointee.kickTag = 0
            q.pointee.kickFD = kickFD
            if watchesKick && kickFD >= 0 { watch(p, direction, q) }
        }
        state.pointee.notifier.flush()
        state.pointee.poll(p)
    }

    static func queue(_ p: PairPointer, _ direction: QueueDirection) -> UnsafeMutablePointer<QueueState> {
        // The pair stays where it is, so these pointers stay valid.
        direction == .receive
            ? withUnsafeMutablePointer(to: &p.pointee.receive) { $0 }
            : withUnsafeMutablePointer(to: &p.pointee.transmit) { $0 }
    }
}

/// A ring that its poll thread had to stop.
struct StoppedRing {
    let ring: Int
    let defect: RingDefect
    let errFD: Int32
}
