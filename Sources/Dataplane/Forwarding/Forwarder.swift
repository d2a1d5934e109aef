import CPlatform
import Virtio

/// The life of a burst on its thread: pop, screen, judge, deliver, complete. Free functions over
/// pointers, so that nothing on the way is counted, checked for exclusivity or locked.
enum Forwarder {
    /// Microseconds for which a sender is held back because its destination has no buffers. Then its
    /// packets are dropped, so that a guest that stopped receiving cannot stop others from sending.
    static var patience: Int { 1000 }

    /// Serves the pair once. True if there was work.
    @inline(__always)
    static func serve<F: PacketFunction>(_ t: ThreadPointer, _ f: UnsafeMutablePointer<F>, _ p: PairPointer) -> Bool {
        if p.pointee.parcel != nil {
            t.pointee.arrived = 0
            return settle(t, p)
        }
        if !p.pointee.transmit.isRunning { return false }
        if p.pointee.stalledAt != 0 && !mayRetry(t, p)
            || t.pointee.exchange.threadCount > 1 && t.pointee.exchange.freeCount == 0
        {
            t.pointee.arrived = 0
            return true
        }
        let n = p.pointee.transmit.end.pop(t, p)
        if n == 0 {
            if p.pointee.transmit.end.defect(isReceive: false).kind != .none { report(t, p, &p.pointee.transmit) }
            p.pointee.transmit.end.tellLate(t, p)
            return false
        }
        // What went back into the ring for want of buffers arrived the first time.
        t.pointee.arrived = p.pointee.stalledAt == 0 ? n : 0
        if QueueTimes.areKept
            && (p.pointee.kickedAt != 0
                || Stamp.isOn(t.pointee.burst.packets, near: F.wantsData && t.pointee.wantsData))
        {
            QueueTimes.took(t, p, n)
        }
        if !p.pointee.transmit.isEnabled {
            // Started but disabled: consumed without effect (vhost-user, "Ring states").
            drop(p, .notReady, n)
            finish(t, p, t.pointee.burst, n)
            return true
        }
        let bad = t.pointee.burst.needsScreening ? Offload.screen(&t.pointee.burst) : 0
        let ingress = Ingress(
            port: p.pointee.port, pair: p.pointee.pair, portCount: t.pointee.table.portCount, seconds: t.pointee.seconds
        )
        let packets = UnsafeMutableBufferPointer(start: t.pointee.burst.packets, count: n)
        var verdict = f.pointee.process(packets, from: ingress) ?? uniform(packets)
        if bad != 0 {
            spread(verdict, packets)
            verdict = .none
            discard(p, packets, bad)
        }
        return dispatch(t, p, n, verdict, refused: bad)
    }

    /// One verdict that all packets share, else `.none`.
    @inline(__always)
    private static func uniform(_ packets: UnsafeMutableBufferPointer<Packet>) -> Verdict {
        let base = packets.baseAddress.unsafelyUnwrapped
        let first = base.pointee.verdict
        var i = 1
        while i < packets.count {
            if base[i].verdict != first { return .none }
            i &+= 1
        }
        return Verdict(rawValue: first)
    }

    /// Gives each packet the verdict that was given for all.
    private static func spread(_ verdict: Verdict, _ packets: UnsafeMutableBufferPointer<Packet>) {
        if verdict == .none { return }
        for i in 0..<packets.count { packets.baseAddress.unsafelyUnwrapped[i].verdict = verdict.rawValue }
    }

    /// Drops the packets that screening refused: `bad` has a bit for each, a second word tells the cause.
    @inline(never)
    private static func discard(_ p: PairPointer, _ packets: UnsafeMutableBufferPointer<Packet>, _ bad: UInt64) {
        var left = bad
        while left != 0 {
            let i = left.trailingZeroBitCount
            left &= left &- 1
            let packet = packets.baseAddress.unsafelyUnwrapped + i
            drop(p, Offload.isGoodLength(packet.pointee.length) ? .badOffload : .badLength, 1)
            packet.pointee.verdict = Verdict.drop.rawValue
        }
    }

    /// Sends the `n` packets of the thread's burst where they belong.
    @inline(__always)
    private static func dispatch(
        _ t: ThreadPointer, _ p: PairPointer, _ n: Int, _ verdict: Verdict, refused: UInt64
    ) -> Bool {
        if verdict == .drop {
            drop(p, .function, n)
            finish(t, p, t.pointee.burst, n)
            return true
        }
        if verdict.rawValue < Verdict.none.rawValue {
            guard let d = destination(t, p, Int(verdict.rawValue) &- 1) else {
                dropUndeliverable(t, p, Int(verdict.rawValue) &- 1, n)
                finish(t, p, t.pointee.burst, n)
                return true
            }
            if CPlat_load32_relaxed(PairState.owner(d)) == UInt32(truncatingIfNeeded: t.pointee.index) {
                let consumed = deliver(t, d, t.pointee.burst, t.pointee.burst.identity, n)
                conclude(t, p, d, t.pointee.burst, n, consumed)
                return true
            }
        }
        dispatchSlow(t, p, n, verdict, refused)
        return true
    }

    /// Several destinations, or one on another thread. `refused`: packets that are dropped and counted already, a bit
    /// each.
    @inline(never)
    private static func dispatchSlow(
        _ t: ThreadPointer, _ p: PairPointer, _ n: Int, _ verdict: Verdict, _ refused: UInt64
    ) {
        let burst = t.pointee.burst
        if verdict == .none || verdict == .flood { t.pointee.targets.clear() }
        let others = spreadOut(t, p, burst, n, verdict, refused, nil)
        if others == 0 {
            finish(t, p, burst, n)
            return
        }
        let parcel = t.pointee.exchange.take()
        // The burst goes with the parcel, and with it who delivers what; the thread goes on with the parcel's.
        t.pointee.burst = parcel.pointee.burst
        parcel.pointee.burst = burst
        let targets = t.pointee.targets
        t.pointee.targets = parcel.pointee.targets
        parcel.pointee.targets = targets
        parcel.pointee.port = p.pointee.port
        parcel.pointee.verdict = verdict
        parcel.pointee.consumed = n
        p.pointee.parcel = parcel
        t.pointee.exchange.send(parcel, to: others)
    }

    /// Delivers what goes to this thread's rings: of a burst of its own, or of another thread's parcel. Returns the
    /// other threads that are needed, a bit each.
    @inline(never)
    private static func spreadOut(
        _ t: ThreadPointer, _ p: PairPointer?, _ burst: Burst, _ n: Int, _ verdict: Verdict, _ refused: UInt64,
        _ parcel: ParcelPointer?
    ) -> UInt64 {
        if verdict != .none { return toDestinations(t, p, burst, burst.identity, n, verdict, parcel) }
        var others: UInt64 = 0
        var left: UInt64 = (n == 64 ? UInt64.max : (1 << UInt64(n)) &- 1) & ~refused
        let list = t.pointee.list.start
        while left != 0 {
            let wanted = burst.packets[left.trailingZeroBitCount].verdict
            var count = 0
            var candidates = left
            while candidates != 0 {
                let i = candidates.trailingZeroBitCount
                candidates &= candidates &- 1
                if burst.packets[i].verdict == wanted {
                    list[count] = UInt16(truncatingIfNeeded: i)
                    count &+= 1
                    left &= ~(1 << UInt64(i))
                }
            }
            others |= toDestinations(t, p, burst, list, count, Verdict(rawValue: wanted), parcel)
        }
        return others
    }

    @inline(never)
    private static func toDestinations(
        _ t: ThreadPointer, _ p: PairPointer?, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ verdict: Verdict, _ parcel: ParcelPointer?
    ) -> UInt64 {
        if let parcel {
            acceptPart(t, parcel, list, n, verdict)
            return 0
        }
        guard let p else { return 0 }
        return judged(t, p, burst, list, n, verdict)
    }

    /// A list of this thread's packets with one verdict. What becomes of them is decided here, once: a destination that
    /// another thread owns is noted among the targets.
    private static func judged(
        _ t: ThreadPointer, _ p: PairPointer, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ verdict: Verdict
    ) -> UInt64 {
        if verdict == .drop {
            drop(p, .function, n)
            return 0
        }
        let floods = verdict == .flood
        if floods { p.pointee.counters.add(.flooded, n) }
        var port = floods ? 0 : Int(verdict.rawValue) &- 1
        let end = floods ? t.pointee.table.portCount : port &+ 1
        var others: UInt64 = 0
        while port < end {
            defer { port &+= 1 }
            if floods && port == p.pointee.port { continue }
            guard let d = destination(t, p, port) else {
                if !floods { dropUndeliverable(t, p, port, n) }
                continue
            }
            let owner = CPlat_load32_relaxed(PairState.owner(d))
            if owner == UInt32(truncatingIfNeeded: t.pointee.index) {
                handOut(t, d, burst, list, n, isCopy: floods)
            } else {
                t.pointee.targets[port] = Target(pair: d, thread: owner)
                others |= 1 << UInt64(owner)
            }
        }
        return others
    }

    /// Delivers a list of packets; what finds no buffers is dropped.
    private static func handOut(
        _ t: ThreadPointer, _ d: PairPointer, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int, isCopy: Bool
    ) {
        if isCopy { d.pointee.counters.add(.made, n) }
        let consumed = deliver(t, d, burst, list, n)
        if consumed < n { drop(d, .receiverFull, n &- consumed) }
    }

    /// A parcel of another thread: delivers the part that belongs here.
    static func accept(_ t: ThreadPointer, _ parcel: ParcelPointer) {
        // Release: the sender reuses the burst when this reaches zero.
        defer { _ = CPlat_sub32_release(Parcel.remaining(parcel), 1) }
        let burst = parcel.pointee.burst
        let verdict = parcel.pointee.verdict
        if verdict == .none || verdict == .flood {
            _ = spreadOut(t, nil, burst, burst.count, verdict, 0, parcel)
            return
        }
        // A single destination: what it has no buffers for goes back to the sender.
        guard let d = mine(t, parcel, Int(verdict.rawValue) &- 1) else { return lose(parcel, burst.count) }
        parcel.pointee.consumed = deliver(t, d, burst, burst.identity, burst.count)
    }

    private static func acceptPart(
        _ t: ThreadPointer, _ parcel: ParcelPointer, _ list: UnsafePointer<UInt16>, _ n: Int, _ verdict: Verdict
    ) {
        if verdict == .drop { return }
        let floods = verdict == .flood
        var port = floods ? 0 : Int(verdict.rawValue) &- 1
        let end = floods ? t.pointee.table.portCount : port &+ 1
        while port < end {
            defer { port &+= 1 }
            // What the sender could not deliver, or has delivered, is no target of this thread.
            if port < 0 || port >= t.pointee.table.portCount || floods && port == parcel.pointee.port { continue }
            if parcel.pointee.targets[port].thread != UInt32(truncatingIfNeeded: t.pointee.index) { continue }
            if let d = mine(t, parcel, port) {
                handOut(t, d, parcel.pointee.burst, list, n, isCopy: floods)
            } else if !floods {
                lose(parcel, n)
            }
        }
    }

    /// The ring of a port to which the parcel's sender found the way; nil if another thread has it meanwhile.
    private static func mine(_ t: ThreadPointer, _ parcel: ParcelPointer, _ port: Int) -> PairPointer? {
        guard let d = parcel.pointee.targets[port].pair,
            CPlat_load32_relaxed(PairState.owner(d)) == UInt32(truncatingIfNeeded: t.pointee.index)
        else { return nil }
        return d
    }

    /// Packets whose destination moved while they were under way: their sender counts them.
    private static func lose(_ parcel: ParcelPointer, _ n: Int) {
        _ = CPlat_add32_relaxed(Parcel.lost(parcel), UInt32(truncatingIfNeeded: n))
    }

    /// Looks whether the pair's parcel is back, and completes its burst.
    @inline(never)
    static func settle(_ t: ThreadPointer, _ p: PairPointer) -> Bool {
        guard let parcel = p.pointee.parcel else { return false }
        if CPlat_load32_acquire(Parcel.remaining(parcel)) != 0 { return true }
        p.pointee.parcel = nil
        let burst = parcel.pointee.burst
        let lost = CPlat_load32_relaxed(Parcel.lost(parcel))
        if lost > 0 { drop(p, .notReady, Int(lost)) }
        conclude(t, p, nil, burst, burst.count, parcel.pointee.consumed)
        t.pointee.exchange.giveBack(parcel)
        return true
    }

    /// Where packets from `p` to `port` go: the pair of the same number, as far as the port has them.
    @inline(__always)
    private static func destination(_ t: ThreadPointer, _ p: PairPointer, _ port: Int) -> PairPointer? {
        if port < 0 || port >= t.pointee.table.portCount { return nil }
        let active = t.pointee.table.activePairs(port)
        if active == 0 { return nil }
        let pair = p.pointee.pair
        return t.pointee.table[port, pair < active ? pair : pair % active]
    }

    @inline(never)
    private static func dropUndeliverable(_ t: ThreadPointer, _ p: PairPointer, _ port: Int, _ n: Int) {
        drop(p, port >= 0 && port < t.pointee.table.portCount ? .notReady : .noDestination, n)
    }

    /// Puts packets into `d`'s receive ring, which is this thread's; returns how many were dealt with.
    @inline(__always)
    private static func deliver(
        _ t: ThreadPointer, _ d: PairPointer, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int
    ) -> Int {
        if !(d.pointee.receive.isRunning && d.pointee.receive.isEnabled) {
            drop(d, .notReady, n)
            return n
        }
        if burst.needsScreening && !Offload.fits(burst, list, n, d.pointee.receiveOffloads) {
            return Offload.deliver(t, d, burst, list, n)
        }
        let result = d.pointee.receive.end.deliver(t, d, burst, list, n)
        account(t, d, result)
        return result.consumed
    }

    /// Counts a delivery and calls the driver.
    @inline(__always)
    static func account(_ t: ThreadPointer, _ d: PairPointer, _ result: Delivery) {
        if result.consumed == 0 {
            if d.pointee.receive.end.defect(isReceive: true).kind != .none { report(t, d, &d.pointee.receive) }
            return
        }
        t.pointee.didWork = true
        d.pointee.counters.add(.txPackets, result.delivered)
        d.pointee.counters.add(.txBytes, Int(truncatingIfNeeded: result.bytes))
        if result.delivered < result.consumed {
            drop(d, d.pointee.receive.end.refusal, result.consumed &- result.delivered)
        }
        d.pointee.receive.end.callReceiver(t, d)
    }

    /// After a delivery to a single destination: the rest goes back into the sender's ring, for a while.
    @inline(__always)
    private static func conclude(
        _ t: ThreadPointer, _ p: PairPointer, _ d: PairPointer?, _ burst: Burst, _ n: Int, _ consumed: Int
    ) {
        if consumed == n {
            if p.pointee.window < Burst.maximum { p.pointee.window = min(Burst.maximum, p.pointee.window &* 2) }
            p.pointee.stalledAt = 0
            p.pointee.gaveUp = false
            finish(t, p, burst, n)
        } else {
            stall(t, p, d, burst, n, consumed)
        }
    }

    @inline(never)
    private static func stall(
        _ t: ThreadPointer, _ p: PairPointer, _ d: PairPointer?, _ burst: Burst, _ n: Int, _ consumed: Int
    ) {
        if consumed > 0 || p.pointee.stalledAt == 0 { p.pointee.stalledAt = max(1, t.pointee.now) }
        if consumed > 0 { p.pointee.gaveUp = false }
        let waited = t.pointee.now &- p.pointee.stalledAt
        if !t.pointee.judgesAgain || p.pointee.gaveUp || waited > t.pointee.clock.ticks(microseconds: patience) {
            p.pointee.gaveUp = true
            drop(d ?? p, .receiverFull, n &- consumed)
            finish(t, p, burst, n)
            return
        }
        p.pointee.window = min(Burst.maximum, max(4, consumed &* 2))
        if consumed == 0 { p.pointee.transmit.end.tell(t, p) }
        p.pointee.transmit.end.giveBack(burst.packets + consumed, n &- consumed)
        if consumed > 0 { finish(t, p, burst, consumed, isPart: true) }
    }

    /// While stalled: whether to try again. Looks at the destination's ring first, where that is known
    /// and near; patience ends by the clock.
    private static func mayRetry(_ t: ThreadPointer, _ p: PairPointer) -> Bool {
        if p.pointee.gaveUp { return true }
        if t.pointee.now &- p.pointee.stalledAt > t.pointee.clock.ticks(microseconds: patience) { return true }
        // A retry costs reading the burst anew: not at each turn.
        p.pointee.retries = p.pointee.retries &+ 1
        return p.pointee.retries & 7 == 0
    }

    /// Hands `n` chains back to the sender and counts them.
    @inline(__always)
    private static func finish(_ t: ThreadPointer, _ p: PairPointer, _ burst: Burst, _ n: Int, isPart: Bool = false) {
        p.pointee.transmit.end.complete(t, p, burst.packets, n, mayHold: !isPart)
        t.pointee.didWork = true
        p.pointee.counters.add(.rxPackets, n)
        p.pointee.counters.add(.rxBytes, Int(truncatingIfNeeded: isPart ? bytes(burst, n) : burst.bytes))
    }

    private static func bytes(_ burst: Burst, _ n: Int) -> UInt64 {
        var sum: UInt64 = 0
        for i in 0..<n { sum &+= UInt64(burst.packets[i].length) }
        return sum
    }

    @inline(__always)
    static func drop(_ p: PairPointer, _ cause: DropCause, _ n: Int) {
        p.pointee.counters.drop(cause, n)
    }

    /// A ring had to stop: tells the port's control thread, once, which tells the front-end.
    @inline(never)
    static func report(_ t: ThreadPointer, _ p: PairPointer, _ q: UnsafeMutablePointer<QueueState>) {
        if q.pointee.isReported { return }
        q.pointee.isReported = true
        t.pointee.notifier.call(p.pointee.defectFD)
    }

    /// `generate`: fills the pair's receive ring from the template. True if it took something.
    @inline(__always)
    static func generate(_ t: ThreadPointer, _ p: PairPointer, _ template: Burst) -> Bool {
        if !(p.pointee.receive.isRunning && p.pointee.receive.isEnabled) { return false }
        if p.pointee.receiveLag.isWaiting(t.pointee.now) { return false }
        let leave = p.pointee.receiveLag.leave
        if leave > 0 && !p.pointee.receive.end.mayTake(p.pointee.receiveLag.least &+ leave) {
            p.pointee.receiveLag.note(0, t.pointee.now)
            return false
        }
        let result = p.pointee.receive.end.deliver(t, p, template, template.identity, Burst.maximum)
        p.pointee.receiveLag.note(result.consumed, t.pointee.now)
        p.pointee.receiveLag.judge(t.pointee.now)
        account(t, p, result)
        if result.consumed == 0 { return false }
        t.pointee.arrived = result.consumed
        p.pointee.counters.add(.made, result.consumed)
        return true
    }

    /// Delivers one frame of the engine's own to pair 0 of each target that this thread owns.
    static func inject(_ t: ThreadPointer, _ frame: UnsafeMutableRawBufferPointer, to targets: [Int]) {
        var burst = t.pointee.resolved
        burst.needsScreening = false
        burst.packets[0] = Packet(data: frame.baseAddress.unsafelyUnwrapped, length: UInt32(frame.count))
        for port in targets {
            guard let d = t.pointee.table[port, 0], CPlat_load32_relaxed(PairState.owner(d)) == UInt32(t.pointee.index)
            else { continue }
            handOut(t, d, burst, burst.identity, 1, isCopy: true)
        }
    }
}
