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
    var state: ThreadPointer { room.start }
    private let room: OwnedValues<ThreadState>
    private var thread: NamedThread?
    private var body: ((PollThread) -> Void)?
    /// What the packet function points at: lives as long as the thread.
    var kept: FunctionBox?
    /// While it captures: what for, and the function that judges.
    var captures: [ThreadCapture] = []
    var captured: FunctionBox?
    private var isStopping = false
    private var generation: UInt64 = 0

    init(
        index: Int, cpu: Int, mailboxes: [Mailbox], table: PairTable, places: Int, requests: Int
    ) throws(EngineError) {
        self.index = index
        self.cpu = cpu
        mailbox = mailboxes[index]
        let notifier = try Notifier(wakeFD: mailbox.wakeFD, requests: requests)
        let exchange = Exchange(mailboxes, places: places)
        room = OwnedValues(
            ThreadState(index: index, table: table, places: places, notifier: notifier, exchange: exchange))
    }

    /// Starts the thread, which has its packet function already (`judge`).
    func start() throws(EngineError) {
        mailbox.queue.open()
        do { thread = try NamedThread("ringway-\(index)") { self.enter() } } catch {
            mailbox.queue.close()
            throw EngineError("\(error)")
        }
    }

    /// Has a packet function of the thread's own judge, whose wishes these are: before the thread starts, or on it, in
    /// a mailbox closure, from the next round on; no parcel is under way then. Specialised for each `F` here, so that
    /// the loop calls it directly.
    @inline(__always)
    func judge<F: PacketFunction>(_ function: F, _ traits: FunctionTraits) {
        state.pointee.obey(traits)
        body = { me in
            var own = function
            me.loop(&own)
        }
    }

    private func enter() {
        mailbox.queue.adopt()
        if cpu >= 0 { _ = CPlat_pin_to_cpu(Int32(cpu)) }
        state.pointee.notifier.watchAgain(tag: PollThread.wakeTag)
        state.pointee.notifier.flush()
        while let next = body {
            body = nil
            next(self)
        }
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
    private func loop<F: PacketFunction>(_ function: inout F) {
        let thread = state
        while true {
            if mailbox.hasWork {
                thread.pointee.bringUpToDate()
                mailbox.queue.serve()
                if isStopping { body = nil }
                if isStopping || body != nil { return }
            }
            PollLoop.round(thread, &function)
            if thread.pointee.isIdle { sleep(thread) } else if !thread.pointee.didWork { giveWay() }
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
    private func sleep(_ thread: ThreadPointer) {
        mailbox.isAsleep.store(true, ordering: .relaxed)
        CPlat_fence_full()
        let hasWork =
            mailbox.hasWork || thread.pointee.notifier.hasCompletions
            || (thread.pointee.exchange.threadCount > 1 && thread.pointee.exchange.hasIncoming)
        if !hasWork {
            let due = thread.pointee.tickDue
            thread.pointee.notifier.wait(nanoseconds: due == .max ? nil : nanoseconds(until: due))
        }
        mailbox.isAsleep.store(false, ordering: .relaxed)
        thread.pointee.bringUpToDate()
    }

    /// From now to a tick of the time-stamp counter.
    private func nanoseconds(until due: UInt64) -> UInt64 {
        let now = CPlat_cycles()
        return due <= now ? 0 : (due &- now) / max(1, state.pointee.clock.ticksPerMicrosecond) &* 1000
    }

    /// Does these one after the other, in a mailbox closure, and then submits what they have queued, all together:
    /// calls that are in the kernel hold their descriptors themselves.
    func carryOut(_ part: [(PollThread) -> Void]) {
        for body in part { body(self) }
        state.pointee.notifier.flushAll()
    }

    // MARK: Rings; called in mailbox closures

    /// Another thread owns the pair from now on.
    func letGo(_ pair: PairPointer, to thread: Int) {
        if thread == index { return }
        state.pointee.forget(pair)
        pair.pointee.give(to: thread)
    }

    /// Another thread owns the pair from now on, whose rings may run. Nothing of it is under way then: not its packets,
    /// and no call of its drivers. Until that thread has come to `enter`, it delivers to the pair, and pops nothing.
    func leave(_ pair: PairPointer, _ move: PairMove) {
        drain(pair)
        pair.pointee.transmit.end.tell(state, pair)
        for direction in QueueDirection.allCases where unwatch(pair, direction) {
            pair.pointee[direction].isWatched = false
            move.isWatched[direction.rawValue] = true
        }
        // Calls in the kernel hold the descriptors themselves.
        state.pointee.notifier.flushAll()
        // Kicks that were told of already: afterwards the tags are the other thread's.
        PollLoop.acceptEvents(state)
        move.shown = captures.map { capture in
            let tap = capture.room.start
            defer { tap.pointee.setShown(pair, 0) }
            return tap.pointee.shown(pair)
        }
        state.pointee.forget(pair)
        pair.pointee.give(to: move.thread)
    }

    /// Goes on with a pair that another thread has let go of.
    func enter(_ pair: PairPointer, _ move: PairMove) {
        for direction in QueueDirection.allCases where move.isWatched[direction.rawValue] {
            if pair.pointee[direction].isWatchedAsleep {
                tag(pair, direction)
            } else {
                // Kicks since then are in the eventfd, which nobody has read.
                watch(pair, direction)
            }
        }
        // All threads have the same captures.
        for (capture, shown) in zip(captures, move.shown) { capture.room.start.pointee.setShown(pair, shown) }
        if pair.pointee.isRunning { state.pointee.poll(pair) }
    }

    /// Takes a guest's ring over.
    func startRing(
        _ pair: PairPointer, _ direction: QueueDirection, _ ring: GuestRing, _ state: QueueState, watchesKick: Bool
    ) {
        pair.pointee[direction] = state
        pair.pointee.countStart(direction)
        pair.pointee.enable(direction, state.isEnabled)
        pair.pointee[direction].end =
            direction == .receive ? pair.pointee.receiveRoom.end(ring) : pair.pointee.transmitRoom.end(ring)
        if watchesKick && state.kickFD >= 0 { watch(pair, direction) }
        callNow(pair.pointee[direction].calls)
        if direction == .receive {
            pair.pointee[direction].end.suppressKicks()
            pair.pointee.receiveLag = LagState(
                size: ring.size, pacing: pair.pointee.pacing, clock: self.state.pointee.clock)
        } else {
            pair.pointee.lag = LagState(
                size: ring.size, hold: ring.bestHold, mayWait: true, pacing: pair.pointee.pacing,
                clock: self.state.pointee.clock)
        }
        self.state.pointee.poll(pair)
    }

    /// A driver may wait for what was done before it could be told: before the ring's start (stop/cont of a guest, a
    /// crash of ours), or while there was no call descriptor, or another one. One call too many does no harm.
    private func callNow(_ calls: Calls) {
        if calls.fd >= 0 { state.pointee.notifier.call(calls) }
    }

    private func watch(_ pair: PairPointer, _ direction: QueueDirection) {
        tag(pair, direction)
        state.pointee.notifier.watch(pair.pointee[direction].kickFD, tag: pair.pointee[direction].kickTag)
    }

    /// Whether the kick was watched.
    private func unwatch(_ pair: PairPointer, _ direction: QueueDirection) -> Bool {
        let tag = pair.pointee[direction].kickTag
        if tag == 0 { return false }
        state.pointee.notifier.unwatch(tag: tag)
        pair.pointee[direction].kickTag = 0
        return true
    }

    /// By which the kick is known.
    private func tag(_ pair: PairPointer, _ direction: QueueDirection) {
        // The tag has room for 23 bits; 0 is that of the thread's own descriptor. The thread is part of it: a late
        // event is no event of a pair that another thread has by now.
        generation = generation % 0x1_ffff + 1
        let place = UInt64(pair.pointee.port * PairTable.pairsPerPort + pair.pointee.pair)
        let number = generation << 6 | UInt64(index)
        pair.pointee[direction].kickTag = number << 41 | place << 1 | UInt64(direction.rawValue)
    }

    /// Lets go of a ring and says where it stands. Afterwards nothing of it is used, once what is queued has been
    /// submitted (`carryOut`).
    func stopRing(_ pair: PairPointer, _ direction: QueueDirection) -> RingPosition {
        if direction == .transmit {
            drain(pair)
            // With a call: the driver may sleep until it hears of these, and no later completion will tell.
            pair.pointee[direction].end.tell(state, pair)
        }
        let position = pair.pointee[direction].end.position
        _ = unwatch(pair, direction)
        pair.pointee[direction] = QueueState()
        if !pair.pointee.transmit.isRunning && !pair.pointee.receive.isRunning { state.pointee.forget(pair) }
        return position
    }

    /// A ring goes on at other addresses, where it stands; returns where that is.
    func moveRing(_ pair: PairPointer, _ direction: QueueDirection, to setup: RingSetup, watchesKick: Bool)
        -> RingPosition
    {
        let old = pair.pointee[direction]
        var setup = setup
        setup.position = stopRing(pair, direction)
        var state = QueueState()
        (state.isEnabled, state.calls) = (old.isWanted, old.calls)
        (state.kickFD, state.errFD) = (old.kickFD, old.errFD)
        startRing(pair, direction, GuestRing(setup), state, watchesKick: watchesKick)
        return setup.position
    }

    /// Addresses that are asked for at once.
    private let mostMisses = 2 * Burst.maximum

    /// Why the ring had to stop, once.
    func takeDefect(_ pair: PairPointer, _ direction: QueueDirection) -> StoppedRing? {
        let defect = pair.pointee[direction].end.defect(direction)
        if pair.pointee[direction].isLogged || !pair.pointee[direction].isReported && defect.kind == .none {
            return nil
        }
        pair.pointee[direction].isLogged = true
        return StoppedRing(
            ring: direction.queue(ofPair: pair.pointee.pair), defect: defect, errFD: pair.pointee[direction].errFD,
            misses: defect.isMiss ? [defect] + pair.pointee[direction].end.addressMisses(most: mostMisses) : [])
    }

    /// The pair's rings translate with another map. One that waited for an address goes on.
    func use(_ map: MemoryMap, _ pair: PairPointer) {
        // Packets under way point into the old memory.
        drain(pair)
        for direction in QueueDirection.allCases {
            if pair.pointee[direction].end.defect(direction).isMiss {
                (pair.pointee[direction].isReported, pair.pointee[direction].isLogged) = (false, false)
            }
            pair.pointee[direction].end.use(map.forRing(direction))
        }
        state.pointee.poll(pair)
    }

    /// Takes over a pair of which Ringway is the driver, or a TAP queue: `incoming` is readable when packets come;
    /// -1: nothing tells.
    func startOther(_ pair: PairPointer, _ end: QueueEnd, incoming: Int32, watches: Bool) {
        for direction in [QueueDirection.transmit, .receive] {
            pair.pointee[direction] = QueueState()
            pair.pointee.countStart(direction)
            pair.pointee[direction].end = end
            pair.pointee.enable(direction, true)
        }
        pair.pointee[.transmit].kickFD = incoming
        if case .xdp = end {
            tag(pair, .transmit)
            pair.pointee[.transmit].isWatchedAsleep = true
        } else if watches && incoming >= 0 {
            watch(pair, .transmit)
        }
        if case .tap(let tap) = end { tap.pointee.start() }
        state.pointee.poll(pair)
    }

    /// Lets go of it. Afterwards nothing of it is used, as with `stopRing`.
    func stopOther(_ pair: PairPointer) {
        let end = pair.pointee.transmit.end
        _ = stopRing(pair, .transmit)
        _ = stopRing(pair, .receive)
        if case .tap(let tap) = end { tap.pointee.cancel() }
    }

    /// Waits until other threads have let go of the pair's packets; serves them meanwhile, as they
    /// may wait for this thread.
    func drain(_ pair: PairPointer) {
        while pair.pointee.parcel != nil {
            PollLoop.acceptParcels(state)
            _ = Forwarder.settle(state, pair)
            giveWay()
        }
    }

    /// Waits until other threads have let go of all that this one sent them; serves them meanwhile.
    func letParcelsHome() {
        for place in 0..<state.pointee.table.portCount * PairTable.pairsPerPort {
            // Whose it is comes first: all else is its owner's.
            if let pair = state.pointee.table[place: place], pair.pointee.owner == UInt32(index) { drain(pair) }
        }
    }

    /// Lets go of pairs that were taken out of the table, and of what other threads have of their ports.
    func letGo(of pairs: [PairPointer]) {
        for pair in pairs where pair.pointee.owner == UInt32(index) {
            drain(pair)
            state.pointee.forget(pair)
        }
        letParcelsHome()
    }

    /// Ports come, or have gone.
    func setPortCount(_ count: Int) {
        letParcelsHome()
        state.pointee.setPortCount(count)
    }

    /// New enable state and descriptors of a running ring.
    func updateRing(
        _ pair: PairPointer, _ direction: QueueDirection, enabled: Bool, calls: Calls, kickFD: Int32, errFD: Int32,
        watchesKick: Bool
    ) {
        if !pair.pointee[direction].isRunning { return }
        pair.pointee.enable(direction, enabled)
        let isNewCall = pair.pointee[direction].calls.fd != calls.fd
        pair.pointee[direction].calls = calls
        if isNewCall {
            pair.pointee[direction].end.forgetCalls()
            callNow(calls)
        }
        pair.pointee[direction].errFD = errFD
        if pair.pointee[direction].kickFD != kickFD || pair.pointee[direction].kickTag == 0 {
            _ = unwatch(pair, direction)
            pair.pointee[direction].kickFD = kickFD
            if watchesKick && kickFD >= 0 { watch(pair, direction) }
        }
        state.pointee.poll(pair)
    }
}

/// A pair on its way to another thread: written by the one that it leaves, then read by the one that it comes to.
final class PairMove {
    let thread: Int
    /// By direction: its kicks are watched.
    fileprivate var isWatched = [false, false]
    /// As `CaptureTap.shown`, of each capture.
    fileprivate var shown: [Int] = []

    init(to thread: Int) { self.thread = thread }
}

/// A ring that its poll thread had to stop.
struct StoppedRing {
    let ring: Int
    let defect: RingDefect
    let errFD: Int32
    /// It has not stopped, but waits for these of its IOTLB.
    let misses: [RingDefect]
}

extension PollThread {
    /// From the next round on this function judges, and packets are captured for these. On the thread, as `judge`.
    func judge(
        _ box: FunctionBox, _ traits: FunctionTraits, capturing orders: [CaptureOrder], keepsArrivals: Bool
    ) {
        captures = orders.map { order in
            captures.first { $0.order === order } ?? ThreadCapture(order, thread: index)
        }
        captured = box
        for capture in captures { capture.room.start.pointee.keepsArrivals = keepsArrivals }
        state.pointee.taps.set(captures.map { $0.room.start })
        judge(CapturedFunction(box: .passUnretained(box)), traits)
    }

    /// Captures no more. On the thread, before another function judges.
    func stopCapturing() {
        state.pointee.taps.set([])
        (captures, captured) = ([], nil)
    }
}
