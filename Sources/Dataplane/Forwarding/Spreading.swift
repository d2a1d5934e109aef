import CPlatform
import Virtio

/// Bursts with several destinations, or with one on another thread.
extension Forwarder {
    /// Whose packets are delivered.
    private enum Origin {
        /// This thread's own sender.
        case own(PairPointer)
        /// Another thread's: the part that belongs here.
        case parcel(ParcelPointer)
    }

    /// Several destinations, or one on another thread. `refused`: packets that are dropped and counted already, a bit
    /// each.
    @inline(never)
    static func dispatchSlow(
        _ thread: ThreadPointer, _ sender: PairPointer, _ n: Int, _ verdict: Verdict, _ refused: UInt64
    ) {
        if verdict == .none || verdict == .flood { thread.pointee.targets.clear() }
        let others = spreadOut(thread, .own(sender), thread.pointee.burst, n, verdict, refused: refused)
        if others == 0 {
            finish(thread, sender, thread.pointee.burst, n)
            return
        }
        let parcel = thread.pointee.exchange.take()
        // The burst goes with the parcel, and with it who delivers what; the thread goes on with the parcel's.
        swap(&thread.pointee.burst, &parcel.pointee.burst)
        swap(&thread.pointee.targets, &parcel.pointee.targets)
        parcel.pointee.port = sender.pointee.port
        parcel.pointee.verdict = verdict
        parcel.pointee.consumed = n
        sender.pointee.parcel = parcel
        thread.pointee.exchange.send(parcel, to: others)
    }

    /// Delivers what goes to this thread's rings: of a burst of its own, or of another thread's parcel. Returns the
    /// other threads that are needed, a bit each.
    @inline(never)
    private static func spreadOut(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, _ n: Int, _ verdict: Verdict,
        refused: UInt64
    ) -> UInt64 {
        if verdict != .none { return toDestinations(thread, origin, burst, burst.identity, n, verdict) }
        var others: UInt64 = 0
        var left: UInt64 = (n == 64 ? UInt64.max : (1 << UInt64(n)) &- 1) & ~refused
        let list = thread.pointee.list.start
        while left != 0 {
            let wanted = burst.packets[left.trailingZeroBitCount].verdict
            var length = 0
            var candidates = left
            while candidates != 0 {
                let i = candidates.trailingZeroBitCount
                candidates &= candidates &- 1
                if burst.packets[i].verdict == wanted {
                    list[length] = UInt16(truncatingIfNeeded: i)
                    length &+= 1
                    left &= ~(1 << UInt64(i))
                }
            }
            others |= toDestinations(thread, origin, burst, list, length, Verdict(rawValue: wanted))
        }
        return others
    }

    @inline(never)
    private static func toDestinations(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ verdict: Verdict
    ) -> UInt64 {
        switch origin {
        case .own(let sender): return judged(thread, sender, burst, list, n, verdict)
        case .parcel(let parcel):
            acceptPart(thread, parcel, list, n, verdict)
            return 0
        }
    }

    /// A list of this thread's packets with one verdict. What becomes of them is decided here, once: a destination that
    /// another thread owns is noted among the targets.
    private static func judged(
        _ thread: ThreadPointer, _ sender: PairPointer, _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>,
        _ n: Int,
        _ verdict: Verdict
    ) -> UInt64 {
        if verdict == .drop {
            Receiver.drop(sender, .function, n)
            return 0
        }
        let floods = verdict == .flood
        if floods { sender.pointee.counters.add(.flooded, n) }
        var port = floods ? 0 : Int(verdict.rawValue) &- 1
        let end = floods ? thread.pointee.table.portCount : port &+ 1
        var others: UInt64 = 0
        while port < end {
            defer { port &+= 1 }
            if floods && port == sender.pointee.port { continue }
            guard let receiver = destination(thread, sender, port) else {
                if !floods { dropUndeliverable(thread, sender, port, n) }
                continue
            }
            let owner = CPlat_load32_relaxed(PairState.owner(receiver))
            if owner == UInt32(truncatingIfNeeded: thread.pointee.index) {
                handOut(thread, receiver, burst, list, n, isCopy: floods)
            } else {
                thread.pointee.targets[port] = Target(pair: receiver, thread: owner)
                others |= 1 << UInt64(owner)
            }
        }
        return others
    }

    /// Delivers a list of packets; what finds no buffers is dropped.
    static func handOut(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>,
        _ n: Int,
        isCopy: Bool
    ) {
        if isCopy { receiver.pointee.counters.add(.made, n) }
        let consumed = deliver(thread, receiver, burst, list, n)
        if consumed < n { Receiver.drop(receiver, .receiverFull, n &- consumed) }
    }

    /// A parcel of another thread: delivers the part that belongs here.
    static func accept(_ thread: ThreadPointer, _ parcel: ParcelPointer) {
        // Release: the sender reuses the burst when this reaches zero.
        defer { _ = CPlat_sub32_release(Parcel.remaining(parcel), 1) }
        let (count, verdict) = (parcel.pointee.burst.count, parcel.pointee.verdict)
        if verdict == .none || verdict == .flood {
            _ = spreadOut(thread, .parcel(parcel), parcel.pointee.burst, count, verdict, refused: 0)
            return
        }
        // A single destination: what it has no buffers for goes back to the sender.
        guard let receiver = mine(thread, parcel, Int(verdict.rawValue) &- 1) else { return lose(parcel, count) }
        parcel.pointee.consumed = deliver(
            thread, receiver, parcel.pointee.burst, parcel.pointee.burst.identity, count)
    }

    private static func acceptPart(
        _ thread: ThreadPointer, _ parcel: ParcelPointer, _ list: UnsafePointer<UInt16>, _ n: Int, _ verdict: Verdict
    ) {
        if verdict == .drop { return }
        let floods = verdict == .flood
        var port = floods ? 0 : Int(verdict.rawValue) &- 1
        let end = floods ? thread.pointee.table.portCount : port &+ 1
        while port < end {
            defer { port &+= 1 }
            // What the sender could not deliver, or has delivered, is no target of this thread.
            if port < 0 || port >= thread.pointee.table.portCount || floods && port == parcel.pointee.port { continue }
            if parcel.pointee.targets[port].thread != UInt32(truncatingIfNeeded: thread.pointee.index) { continue }
            if let receiver = mine(thread, parcel, port) {
                handOut(thread, receiver, parcel.pointee.burst, list, n, isCopy: floods)
            } else if !floods {
                lose(parcel, n)
            }
        }
    }

    /// The ring of a port to which the parcel's sender found the way; nil if another thread has it meanwhile.
    private static func mine(_ thread: ThreadPointer, _ parcel: ParcelPointer, _ port: Int) -> PairPointer? {
        guard let receiver = parcel.pointee.targets[port].pair,
            CPlat_load32_relaxed(PairState.owner(receiver)) == UInt32(truncatingIfNeeded: thread.pointee.index)
        else { return nil }
        return receiver
    }

    /// Packets whose destination moved while they were under way: their sender counts them.
    private static func lose(_ parcel: ParcelPointer, _ n: Int) {
        _ = CPlat_add32_relaxed(Parcel.lost(parcel), UInt32(truncatingIfNeeded: n))
    }

    /// Looks whether the pair's parcel is back, and completes its burst.
    @inline(never)
    static func settle(_ thread: ThreadPointer, _ sender: PairPointer) -> Bool {
        guard let parcel = sender.pointee.parcel else { return false }
        if CPlat_load32_acquire(Parcel.remaining(parcel)) != 0 { return true }
        sender.pointee.parcel = nil
        let lost = CPlat_load32_relaxed(Parcel.lost(parcel))
        if lost > 0 { Receiver.drop(sender, .notReady, Int(lost)) }
        conclude(thread, sender, nil, parcel.pointee.burst, parcel.pointee.burst.count, parcel.pointee.consumed)
        thread.pointee.exchange.giveBack(parcel)
        return true
    }
}
