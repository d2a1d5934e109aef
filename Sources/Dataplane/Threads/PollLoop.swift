import CPlatform
import Virtio

/// One round of a poll thread.
enum PollLoop {
    /// Microseconds without work after which a pair that is never to sleep is quiet.
    static var quietAfter: Int { 1000 }
    /// Quiet pairs visited in a round without work, after which the next has its turn. In a round with work it is one
    /// for each polled pair: so they cost a burst next to nothing, however many pairs are busy, and many busy ones do
    /// not put off their turn.
    static var visits: Int { 8 }

    /// Not inlined, so that a test can look at what each specialisation calls.
    @inline(never)
    static func round<F: PacketFunction>(_ thread: ThreadPointer, _ function: inout F) {
        if thread.pointee.notifier.hasCompletions { acceptEvents(thread) }
        if thread.pointee.exchange.rings {
            if F.self == CapturedFunction.self {
                Forwarder.acceptCapturedParcels(thread)
            } else {
                acceptParcels(thread)
            }
        }
        let start = CPlat_cycles()
        // The last round, its notifications with it.
        if thread.pointee.didWork { thread.pointee.busyTicks.add(0, start &- thread.pointee.now) }
        thread.pointee.now = start
        thread.pointee.didWork = false
        if thread.pointee.now > thread.pointee.secondsDue { keepTime(thread, &function) }
        var place = 0
        while place < thread.pointee.polledCount {
            let pair = thread.pointee.polled[place]
            if visit(thread, &function, pair) {
                // Waiting for another thread, or for a receiver, is no arrival.
                if thread.pointee.arrived > 0 {
                    if pair.pointee.budget.isAuto { learn(thread, pair) }
                    pair.pointee.lastWork = thread.pointee.now
                }
                place &+= 1
            } else if !mayRest(thread, pair) {
                place &+= 1
            }
        }
        if thread.pointee.quietCount > 0 { visitQuiet(thread, &function) }
        thread.pointee.notifier.flush()
    }

    /// A few times a second: brings the clock up to date. And when it is due the packet function keeps house.
    @inline(never)
    private static func keepTime<F: PacketFunction>(_ thread: ThreadPointer, _ function: inout F) {
        let ticks = thread.pointee.now >= thread.pointee.tickDue
        if ticks {
            let interval = thread.pointee.clock.ticks(microseconds: thread.pointee.traits.tickMicroseconds)
            thread.pointee.tickDue = thread.pointee.now &+ interval
        }
        thread.pointee.bringUpToDate()
        if ticks { Forwarder.tick(thread, &function) }
    }

    @inline(__always)
    private static func visit<F: PacketFunction>(
        _ thread: ThreadPointer, _ function: inout F, _ pair: PairPointer
    )
        -> Bool
    {
        let worked = Forwarder.serve(thread, &function, pair)
        if thread.pointee.template != nil {
            return Forwarder.generate(thread, pair) || worked
        }
        return worked
    }

    /// How long the pair was without work.
    @inline(__always)
    private static func learn(_ thread: ThreadPointer, _ pair: PairPointer) {
        let slept = pair.pointee.quietSince != 0
        let since = slept ? pair.pointee.quietSince : pair.pointee.lastWork
        pair.pointee.budget.learn(after: thread.pointee.now &- since, packets: thread.pointee.arrived, slept: slept)
        pair.pointee.quietSince = 0
    }

    /// The pair had nothing to do. True when it was taken off the list (another stands in its place).
    @inline(__always)
    private static func mayRest(_ thread: ThreadPointer, _ pair: PairPointer) -> Bool {
        pair.pointee.kickedAt = 0
        // It waits for a whole burst, a moment only.
        if pair.pointee.lag.isWaiting(thread.pointee.now) || pair.pointee.receiveLag.isWaiting(thread.pointee.now) {
            return false
        }
        let idle = thread.pointee.now &- pair.pointee.lastWork
        if pair.pointee.budget.ticks == UInt64.max {
            if idle <= thread.pointee.clock.ticks(microseconds: quietAfter) { return false }
            thread.pointee.quieten(pair)
            return true
        }
        if idle <= pair.pointee.budget.ticks { return false }
        return rest(thread, pair)
    }

    /// Asks for kicks and, if there is still nothing, stops polling the pair.
    @inline(never)
    private static func rest(_ thread: ThreadPointer, _ pair: PairPointer) -> Bool {
        if pair.pointee.parcel != nil { return false }
        var hasWork = false
        if pair.pointee.transmit.isRunning {
            pair.pointee.transmit.end.tell(thread, pair)
            // A guest's ring without a kick descriptor has to be polled.
            if pair.pointee.transmit.end.isGuest && pair.pointee.transmit.kickFD < 0 { return false }
            hasWork = pair.pointee.transmit.end.arm()
        }
        if thread.pointee.template != nil && pair.pointee.receive.isRunning {
            // Nothing tells when a back-end, or the kernel, takes packets again.
            if !pair.pointee.receive.end.isGuest { return false }
            if pair.pointee.receive.kickFD < 0 { return false }
            hasWork = pair.pointee.receive.end.arm() || hasWork
        }
        if hasWork { return false }
        if pair.pointee.transmit.isWatchedAsleep && !pair.pointee.transmit.isWatched {
            pair.pointee.transmit.isWatched = true
            thread.pointee.notifier.watchOnce(pair.pointee.transmit.kickFD, tag: pair.pointee.transmit.kickTag)
        }
        thread.pointee.forget(pair)
        return true
    }

    @inline(never)
    private static func visitQuiet<F: PacketFunction>(_ thread: ThreadPointer, _ function: inout F) {
        var left = min(thread.pointee.didWork ? max(1, thread.pointee.polledCount) : visits, thread.pointee.quietCount)
        while left > 0 && thread.pointee.quietCount > 0 {
            left &-= 1
            thread.pointee.quietNext &+= 1
            if thread.pointee.quietNext >= thread.pointee.quietCount { thread.pointee.quietNext = 0 }
            let pair = thread.pointee.quiet[thread.pointee.quietNext]
            if visit(thread, &function, pair) {
                thread.pointee.forget(pair)
                thread.pointee.poll(pair)
            }
        }
    }

    /// Kicks and messages that io_uring reports.
    @inline(never)
    static func acceptEvents(_ thread: ThreadPointer) {
        while let event = thread.pointee.notifier.next() {
            let place = Int(truncatingIfNeeded: (event.tag >> 1) & 0xff_ffff)
            if event.tag >> 41 == 0 {
                if event.ended { thread.pointee.notifier.watchAgain(tag: event.tag) }
                continue
            }
            guard place < thread.pointee.table.portCount &* PairTable.pairsPerPort,
                let pair = thread.pointee.table[place: place]
            else { continue }
            let direction = QueueDirection(queue: Int(truncatingIfNeeded: event.tag))
            // A late event of a ring that was stopped meanwhile carries an old generation.
            if pair.pointee[direction].kickTag != event.tag { continue }
            if pair.pointee[direction].isWatchedAsleep {
                pair.pointee[direction].isWatched = false
            } else if event.ended {
                thread.pointee.notifier.watch(pair.pointee[direction].kickFD, tag: event.tag)
            }
            pair.pointee.counters.add(direction == .receive ? .receiveKicks : .transmitKicks, 1)
            thread.pointee.wake(pair)
        }
    }

    /// Parcels of other threads.
    @inline(never)
    static func acceptParcels(_ thread: ThreadPointer) {
        var other = 0
        while other < thread.pointee.exchange.threadCount {
            if let ring = thread.pointee.exchange.incoming[other] {
                while let parcel = ring.pop() { Forwarder.accept(thread, parcel) }
            }
            other &+= 1
        }
    }
}
