import CPlatform
import Virtio

/// The life of a burst on its thread, from top to bottom: pop, screen, judge, deliver, complete. Free functions over
/// pointers, so that nothing on the way is counted, checked for exclusivity or locked. `Spreading` has what bursts with
/// several destinations need, `Receiver` what happens at the other end.
enum Forwarder {
    /// Microseconds for which a sender is held back because its destination has no buffers. Then its packets are
    /// dropped, so that a guest that stopped receiving cannot stop others from sending.
    static var patience: Int { 1000 }

    /// Serves the pair once. True if there was work.
    @inline(__always)
    static func serve<F: PacketFunction>(
        _ thread: ThreadPointer, _ function: inout F, _ sender: PairPointer
    ) -> Bool {
        if sender.pointee.parcel != nil {
            thread.pointee.arrived = 0
            return F.self == CapturedFunction.self ? settleCaptured(thread, sender) : settle(thread, sender)
        }
        if !sender.pointee.transmit.isRunning { return false }
        if sender.pointee.stalledAt != 0 && !mayRetry(thread, sender)
            || thread.pointee.exchange.threadCount > 1 && thread.pointee.exchange.freeCount == 0
        {
            thread.pointee.arrived = 0
            return true
        }
        let n = sender.pointee.transmit.end.pop(thread, sender)
        if n == 0 {
            if sender.pointee.transmit.end.defect(.transmit).kind != .none {
                Receiver.report(thread, sender, .transmit)
            }
            sender.pointee.transmit.end.tellLate(thread, sender)
            return false
        }
        // What went back into the ring for want of buffers arrived the first time.
        thread.pointee.arrived = sender.pointee.stalledAt == 0 ? n : 0
        if QueueTimes.areKept
            && (sender.pointee.kickedAt != 0
                || Stamp.isOn(thread.pointee.burst.packets, near: wantsData(F.self, thread)))
        {
            QueueTimes.took(thread, sender, n)
        }
        if !sender.pointee.transmit.isEnabled {
            // Started but disabled: consumed without effect (vhost-user, "Ring states").
            Receiver.drop(sender, .notReady, n)
            if F.self == CapturedFunction.self { noteUnready(thread, sender, n) }
            finish(thread, sender, thread.pointee.burst, n)
            return true
        }
        let bad = thread.pointee.burst.needsScreening ? Offload.screen(&thread.pointee.burst) : 0
        let verdict = judge(thread, &function, sender, n) ?? uniform(thread.pointee.burst, n)
        return F.self == CapturedFunction.self
            ? sendCaptured(thread, sender, n, verdict, bad)
            : send(thread, sender, n, verdict, bad, mayBeReviewed: F.self != MACSwapFunction.self)
    }

    /// The function's packets are asked for early. Of Ringway's own modes the compiler knows.
    @inline(__always)
    private static func wantsData<F: PacketFunction>(_: F.Type, _ thread: ThreadPointer) -> Bool {
        F.self == EmbeddedFunction.self || F.self == CapturedFunction.self
            ? F.wantsData && thread.pointee.traits.wantsData : F.wantsData
    }

    /// Sends `n` judged packets of the thread's burst where they belong. `bad`: those that screening refused, a bit
    /// each.
    @inline(__always)
    static func send(
        _ thread: ThreadPointer, _ sender: PairPointer, _ n: Int, _ verdict: Verdict, _ bad: UInt64,
        mayBeReviewed: Bool = true
    ) -> Bool {
        if bad != 0 || mayBeReviewed && thread.pointee.burst.work.isReviewed != 0 {
            let all = bad | short(thread.pointee.burst, n)
            if all != 0 || thread.pointee.burst.work.made > 0 {
                spread(verdict, thread.pointee.burst, n)
                discard(sender, thread.pointee.burst, all)
                dispatchSlow(thread, sender, n, .none, all)
                return true
            }
        }
        return dispatch(thread, sender, n, verdict)
    }

    /// Asks the function.
    @inline(__always)
    private static func judge<F: PacketFunction>(
        _ thread: ThreadPointer, _ function: inout F, _ sender: PairPointer, _ n: Int
    ) -> Verdict? {
        let burst = ThreadState.burst(thread)
        burst.pointee.work = FunctionWork()
        if F.self == EmbeddedFunction.self || F.self == CapturedFunction.self {
            burst.pointee.packets.loadFronts(n, thread.pointee.traits.front)
            if F.self == CapturedFunction.self { keepArrivals(thread, sender, n) }
            let start = CPlat_cycles()
            let verdict = ask(thread, &function, sender, n)
            let ticks = CPlat_cycles() &- start
            if ticks > thread.pointee.functionBudget { thread.pointee.noteSlow(ticks) }
            return verdict
        }
        return ask(thread, &function, sender, n)
    }

    @inline(__always)
    private static func ask<F: PacketFunction>(
        _ thread: ThreadPointer, _ function: inout F, _ sender: PairPointer, _ n: Int
    ) -> Verdict? {
        function.process(packets(thread, sender, n))
    }

    /// The first `n` packets of the thread's burst, which came from `sender`, as functions get them.
    @inline(__always) @_lifetime(immortal)
    private static func packets(_ thread: ThreadPointer, _ sender: PairPointer, _ n: Int) -> PacketBurst {
        PacketBurst(
            ThreadState.burst(thread), count: n, port: sender.pointee.port, pair: sender.pointee.pair,
            seconds: thread.pointee.seconds, ticks: thread.pointee.now,
            counters: thread.pointee.functionCounters, table: thread.pointee.table)
    }

    /// Has the function keep house. What it makes goes out as if it had come with a burst of a pair of this thread;
    /// without a pair that is free it waits for the next time.
    @inline(never)
    static func tick<F: PacketFunction>(_ thread: ThreadPointer, _ function: inout F) {
        guard let sender = thread.pointee.freePair() else { return }
        let burst = ThreadState.burst(thread)
        (burst.pointee.work, burst.pointee.count) = (FunctionWork(), 0)
        (burst.pointee.segmentCount, burst.pointee.needsScreening) = (0, false)
        function.tick(packets(thread, sender, 0))
        if burst.pointee.work.made == 0 { return }
        if F.self == CapturedFunction.self {
            _ = sendCaptured(thread, sender, 0, .none, 0)
        } else {
            dispatchSlow(thread, sender, 0, .none, 0)
        }
    }

    /// One verdict that all packets share, else `.none`.
    @inline(__always)
    private static func uniform(_ burst: borrowing Burst, _ n: Int) -> Verdict {
        let packets = burst.packets
        let first = packets.pointee.verdict
        var i = 1
        while i < n {
            if packets[i].verdict != first { return .none }
            i &+= 1
        }
        return Verdict(rawValue: first)
    }

    /// Gives each packet the verdict that was given for all.
    private static func spread(_ verdict: Verdict, _ burst: borrowing Burst, _ n: Int) {
        if verdict == .none { return }
        for i in 0..<n { burst.packets[i].verdict = verdict.rawValue }
    }

    /// Packets that the function has left shorter than an Ethernet header, a bit each.
    @inline(never)
    static func short(_ burst: borrowing Burst, _ n: Int) -> UInt64 {
        var bad: UInt64 = 0
        for i in 0..<n where burst.packets[i].length < PacketSlot.minimumLength { bad |= 1 << UInt64(i) }
        return bad
    }

    /// Drops the packets that screening, or the function's changes, made bad: `bad` has a bit for each.
    @inline(never)
    private static func discard(_ sender: PairPointer, _ burst: borrowing Burst, _ bad: UInt64) {
        var left = bad
        while left != 0 {
            let i = left.trailingZeroBitCount
            left &= left &- 1
            let packet = burst.packets + i
            Receiver.drop(sender, Offload.isGoodLength(packet.pointee.length) ? .badOffload : .badLength, 1)
            packet.pointee.verdict = Verdict.drop.rawValue
        }
    }

    /// Sends the `n` packets of the thread's burst where they belong.
    @inline(__always)
    private static func dispatch(
        _ thread: ThreadPointer, _ sender: PairPointer, _ n: Int, _ verdict: Verdict
    ) -> Bool {
        if verdict == .drop {
            Receiver.drop(sender, .function, n)
            finish(thread, sender, thread.pointee.burst, n)
            return true
        }
        if verdict.isSingle {
            guard let receiver = destination(thread, sender.pointee.pair, Int(verdict.rawValue) &- 1) else {
                dropUndeliverable(thread, sender, Int(verdict.rawValue) &- 1, n)
                finish(thread, sender, thread.pointee.burst, n)
                return true
            }
            if receiver.pointee.owner == UInt32(truncatingIfNeeded: thread.pointee.index) {
                let consumed = deliver(thread, receiver, thread.pointee.burst, thread.pointee.burst.first(n))
                conclude(thread, sender, receiver, thread.pointee.burst, n, consumed)
                return true
            }
        }
        dispatchSlow(thread, sender, n, verdict, 0)
        return true
    }

    /// Where packets from `sender` to `port` go: the pair of the same number, as far as the port has them.
    @inline(__always)
    static func destination(_ thread: ThreadPointer, _ pair: Int, _ port: Int) -> PairPointer? {
        if port < 0 || port >= thread.pointee.table.portCount { return nil }
        let active = thread.pointee.table.activePairs(port)
        if active == 0 { return nil }
        return thread.pointee.table[port, pair < active ? pair : pair % active]
    }

    @inline(never)
    static func dropUndeliverable(_ thread: ThreadPointer, _ sender: PairPointer, _ port: Int, _ n: Int) {
        let table = thread.pointee.table
        let isThere = port >= 0 && port < table.portCount && table[port, 0] != nil
        Receiver.drop(sender, isThere ? .notReady : .noDestination, n)
    }

    /// Puts packets into `receiver`'s ring, which is this thread's; returns how many were dealt with.
    @inline(__always)
    static func deliver(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList
    ) -> Int {
        if !(receiver.pointee.receive.isRunning && receiver.pointee.receive.isEnabled) {
            Receiver.drop(receiver, .notReady, list.count)
            return list.count
        }
        if burst.needsScreening && !Offload.fits(burst, list, receiver.pointee.receiveOffloads) {
            return Offload.deliver(thread, receiver, burst, list)
        }
        return Receiver.put(thread, receiver, burst, list)
    }

    /// After a delivery to a single destination: the rest goes back into the sender's ring, for a while.
    @inline(__always)
    static func conclude(
        _ thread: ThreadPointer, _ sender: PairPointer, _ receiver: PairPointer?, _ burst: borrowing Burst, _ n: Int,
        _ consumed: Int
    ) {
        if consumed == n {
            if sender.pointee.window < Burst.maximum {
                sender.pointee.window = min(Burst.maximum, sender.pointee.window &* 2)
            }
            sender.pointee.stalledAt = 0
            sender.pointee.gaveUp = false
            finish(thread, sender, burst, n)
        } else {
            stall(thread, sender, receiver, burst, n, consumed)
        }
    }

    @inline(never)
    private static func stall(
        _ thread: ThreadPointer, _ sender: PairPointer, _ receiver: PairPointer?, _ burst: borrowing Burst, _ n: Int,
        _ consumed: Int
    ) {
        if consumed > 0 || sender.pointee.stalledAt == 0 { sender.pointee.stalledAt = max(1, thread.pointee.now) }
        if consumed > 0 { sender.pointee.gaveUp = false }
        let waited = thread.pointee.now &- sender.pointee.stalledAt
        if !thread.pointee.traits.judgesAgain || sender.pointee.gaveUp
            || waited > thread.pointee.clock.ticks(microseconds: patience)
        {
            sender.pointee.gaveUp = true
            Receiver.drop(receiver ?? sender, .receiverFull, n &- consumed)
            finish(thread, sender, burst, n)
            return
        }
        sender.pointee.window = min(Burst.maximum, max(4, consumed &* 2))
        if consumed == 0 { sender.pointee.transmit.end.tell(thread, sender) }
        sender.pointee.transmit.end.giveBack(burst, from: consumed, n &- consumed)
        if consumed > 0 { finish(thread, sender, burst, consumed, isPart: true) }
    }

    /// While stalled: whether to try again. Looks at the destination's ring first, where that is known
    /// and near; patience ends by the clock.
    private static func mayRetry(_ thread: ThreadPointer, _ sender: PairPointer) -> Bool {
        if sender.pointee.gaveUp { return true }
        if thread.pointee.now &- sender.pointee.stalledAt > thread.pointee.clock.ticks(microseconds: patience) {
            return true
        }
        // A retry costs reading the burst anew: not at each turn.
        sender.pointee.retries = sender.pointee.retries &+ 1
        return sender.pointee.retries & 7 == 0
    }

    /// Hands `n` chains back to the sender and counts them.
    @inline(__always)
    static func finish(
        _ thread: ThreadPointer, _ sender: PairPointer, _ burst: borrowing Burst, _ n: Int, isPart: Bool = false
    ) {
        sender.pointee.transmit.end.complete(thread, sender, burst, n, mayHold: !isPart)
        thread.pointee.didWork = true
        sender.pointee.counters.add(.rxPackets, n)
        sender.pointee.counters.add(.rxBytes, Int(truncatingIfNeeded: isPart ? bytes(burst, n) : burst.bytes))
    }

    private static func bytes(_ burst: borrowing Burst, _ n: Int) -> UInt64 {
        var sum: UInt64 = 0
        for i in 0..<n { sum &+= UInt64(truncatingIfNeeded: burst.packets[i].received) }
        return sum
    }
}
