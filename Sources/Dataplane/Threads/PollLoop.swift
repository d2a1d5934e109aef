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
    static func round<F: PacketFunction>(_ t: ThreadPointer, _ f: UnsafeMutablePointer<F>) {
        if t.pointee.notifier.hasCompletions { acceptEvents(t) }
        if t.pointee.exchange.rings { acceptParcels(t) }
        let start = CPlat_cycles()
        // The last round, its notifications with it.
        if t.pointee.didWork { t.pointee.busyTicks.add(start &- t.pointee.now) }
        t.pointee.now = start
        t.pointee.didWork = false
        if t.pointee.now > t.pointee.secondsDue { keepTime(t, f) }
        var i = 0
        while i < t.pointee.polledCount {
            let p = t.pointee.polled[i]
            if visit(t, f, p) {
                // Waiting for another thread, or for a receiver, is no arrival.
                if t.pointee.arrived > 0 {
                    if p.pointee.budget.isAuto { learn(t, p) }
                    p.pointee.lastWork = t.pointee.now
                }
                i &+= 1
            } else if !mayRest(t, p) {
                i &+= 1
            }
        }
        if t.pointee.quietCount > 0 { visitQuiet(t, f) }
        t.pointee.notifier.flush()
    }

    /// A few times a second: brings the clock up to date. And when it is due the packet function keeps house.
    @inline(never)
    private static func keepTime<F: PacketFunction>(_ t: ThreadPointer, _ f: UnsafeMutablePointer<F>) {
        let ticks = t.pointee.now >= t.pointee.tickDue
        if ticks {
            let interval = t.pointee.clock.ticks(microseconds: t.pointee.traits.tickMicroseconds)
            t.pointee.tickDue = t.pointee.now &+ interval
        }
        t.pointee.bringUpToDate()
        if ticks { Forwarder.tick(t, f) }
    }

    @inline(__always)
    private static func visit<F: PacketFunction>(_ t: ThreadPointer, _ f: UnsafeMutablePointer<F>, _ p: PairPointer)
        -> Bool
    {
        let worked = Forwarder.serve(t, f, p)
        if t.pointee.template != nil {
            return Forwarder.generate(t, p) || worked
        }
        return worked
    }

    /// How long the pair was without work.
    @inline(__always)
    private static func learn(_ t: ThreadPointer, _ p: PairPointer) {
        let slept = p.pointee.quietSince != 0
        let since = slept ? p.pointee.quietSince : p.pointee.lastWork
        p.pointee.budget.learn(after: t.pointee.now &- since, packets: t.pointee.arrived, slept: slept)
        p.pointee.quietSince = 0
    }

    /// The pair had nothing to do. True when it was taken off the list (another stands in its place).
    @inline(__always)
    private static func mayRest(_ t: ThreadPointer, _ p: PairPointer) -> Bool {
        p.pointee.kickedAt = 0
        // It waits for a whole burst, a moment only.
        if p.pointee.lag.isWaiting(t.pointee.now) || p.pointee.receiveLag.isWaiting(t.pointee.now) { return false }
        let idle = t.pointee.now &- p.pointee.lastWork
        if p.pointee.budget.ticks == UInt64.max {
            if idle <= t.pointee.clock.ticks(microseconds: quietAfter) { return false }
            t.pointee.quieten(p)
            return true
        }
        if idle <= p.pointee.budget.ticks { return false }
        return rest(t, p)
    }

    /// Asks for kicks and, if there is still nothing, stops polling the pair.
    @inline(never)
    private static func rest(_ t: ThreadPointer, _ p: PairPointer) -> Bool {
        if p.pointee.parcel != nil { return false }
        var hasWork = false
        if p.pointee.transmit.isRunning {
            p.pointee.transmit.end.tell(t, p)
            // A guest's ring without a kick descriptor has to be polled.
            if p.pointee.transmit.end.isGuest && p.pointee.transmit.kickFD < 0 { return false }
            hasWork = p.pointee.transmit.end.arm()
        }
        if t.pointee.template != nil && p.pointee.receive.isRunning {
            // Nothing tells when a back-end, or the kernel, takes packets again.
            if !p.pointee.receive.end.isGuest { return false }
            if p.pointee.receive.kickFD < 0 { return false }
            hasWork = p.pointee.receive.end.arm() || hasWork
        }
        if hasWork { return false }
        t.pointee.forget(p)
        return true
    }

    @inline(never)
    private static func visitQuiet<F: PacketFunction>(_ t: ThreadPointer, _ f: UnsafeMutablePointer<F>) {
        var left = min(t.pointee.didWork ? max(1, t.pointee.polledCount) : visits, t.pointee.quietCount)
        while left > 0 && t.pointee.quietCount > 0 {
            left &-= 1
            t.pointee.quietNext &+= 1
            if t.pointee.quietNext >= t.pointee.quietCount { t.pointee.quietNext = 0 }
            let p = t.pointee.quiet[t.pointee.quietNext]
            if visit(t, f, p) {
                t.pointee.forget(p)
                t.pointee.poll(p)
            }
        }
    }

    /// Kicks and messages that io_uring reports.
    @inline(never)
    private static func acceptEvents(_ t: ThreadPointer) {
        while let event = t.pointee.notifier.next() {
            let place = Int(truncatingIfNeeded: (event.tag >> 1) & 0xff_ffff)
            if event.tag >> 41 == 0 {
                if event.ended { t.pointee.notifier.watchAgain(tag: event.tag) }
                continue
            }
            guard place < t.pointee.table.portCount &* PairTable.pairsPerPort, let p = t.pointee.table.pairs[place]
            else { continue }
            let direction = QueueDirection(queue: Int(truncatingIfNeeded: event.tag))
            let q = PollThread.queue(p, direction)
            // A late event of a ring that was stopped meanwhile carries an old generation.
            if q.pointee.kickTag != event.tag { continue }
            if event.ended { t.pointee.notifier.watch(q.pointee.kickFD, tag: event.tag) }
            p.pointee.counters.add(direction == .receive ? .receiveKicks : .transmitKicks, 1)
            t.pointee.wake(p)
        }
    }

    /// Parcels of other threads.
    @inline(never)
    static func acceptParcels(_ t: ThreadPointer) {
        var i = 0
        while i < t.pointee.exchange.threadCount {
            if let ring = t.pointee.exchange.incoming[i] {
                while let parcel = ring.pop() { Forwarder.accept(t, parcel) }
            }
            i &+= 1
        }
    }
}
