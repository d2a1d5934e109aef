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
        if !verdict.isSingle { thread.pointee.targets.clear() }
        let made = Int(thread.pointee.burst.work.made)
        if made > 0 { sender.pointee.counters.add(.made, made) }
        let others = spreadOut(thread, .own(sender), thread.pointee.burst, n, verdict, refused: refused)
        if others == 0 {
            if n == 0 { return }
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
        var others = spreadMixed(thread, origin, burst, first: 0, mask(n) & ~refused)
        let made = Int(burst.work.made)
        if made > 0 { others |= spreadMixed(thread, origin, burst, first: Burst.maximum, mask(made)) }
        return others
    }

    /// `n` bits.
    private static func mask(_ n: Int) -> UInt64 { n >= 64 ? UInt64.max : (1 << UInt64(n)) &- 1 }

    /// Packets with verdicts of their own: those from `first` on that have a bit in `all`. Those with the same one go
    /// together.
    @inline(never)
    private static func spreadMixed(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, first: Int, _ all: UInt64
    ) -> UInt64 {
        var (others, left) = (UInt64(0), all)
        let list = thread.pointee.list.start
        let packets = burst.packets + first
        while left != 0 {
            let wanted = packets[left.trailingZeroBitCount].verdict
            var length = 0
            var candidates = left
            while candidates != 0 {
                let i = candidates.trailingZeroBitCount
                candidates &= candidates &- 1
                if packets[i].verdict == wanted {
                    list[length] = UInt16(truncatingIfNeeded: first &+ i)
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
        _ n: Int, _ verdict: Verdict
    ) -> UInt64 {
        var ports = Destinations(verdict, burst, except: sender.pointee.port, thread.pointee.table.portCount)
        switch ports.kind {
        case .nowhere:
            if let cause = verdict.cause {
                sender.pointee.counters.dropFor(cause, n)
            } else {
                Receiver.drop(sender, .function, n)
            }
            return 0
        case .one: break
        case .several: sender.pointee.counters.add(.flooded, n)
        }
        var others: UInt64 = 0
        while let port = ports.next() {
            guard let receiver = destination(thread, sender, port) else {
                if ports.kind == .one { dropUndeliverable(thread, sender, port, n) }
                continue
            }
            let owner = CPlat_load32_relaxed(PairState.owner(receiver))
            if owner == UInt32(truncatingIfNeeded: thread.pointee.index) {
                handOut(thread, receiver, burst, list, n, isCopy: ports.kind == .several)
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
        if consumed < n {
            Receiver.drop(receiver, .receiverFull, n &- consumed)
            if Int(list.pointee) >= Burst.maximum { thread.pointee.countRefused(n &- consumed) }
        }
    }

    /// A parcel of another thread: delivers the part that belongs here.
    static func accept(_ thread: ThreadPointer, _ parcel: ParcelPointer) {
        // Release: the sender reuses the burst when this reaches zero.
        defer { _ = CPlat_sub32_release(Parcel.remaining(parcel), 1) }
        let (count, verdict) = (parcel.pointee.burst.count, parcel.pointee.verdict)
        if !verdict.isSingle {
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
        let count = thread.pointee.table.portCount
        var ports = Destinations(verdict, parcel.pointee.burst, except: parcel.pointee.port, count)
        while let port = ports.next() {
            // What the sender could not deliver, or has delivered, is no target of this thread.
            if port < 0 || port >= count { continue }
            if parcel.pointee.targets[port].thread != UInt32(truncatingIfNeeded: thread.pointee.index) { continue }
            if let receiver = mine(thread, parcel, port) {
                handOut(thread, receiver, parcel.pointee.burst, list, n, isCopy: ports.kind == .several)
            } else if ports.kind == .one {
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

/// The ports that a verdict names, one after the other.
private struct Destinations {
    enum Kind { case nowhere, one, several }
    private(set) var kind = Kind.several
    private var port = 0
    private let end: Int
    /// With several: never back to where it came from.
    private let origin: Int
    private var set: PortSet?

    init(_ verdict: Verdict, _ burst: borrowing Burst, except origin: Int, _ portCount: Int) {
        self.origin = origin
        if verdict == .flood {
            end = portCount
        } else if let place = verdict.set {
            set = burst.sets[place]
            end = min(portCount, PortSet.most)
        } else if let one = verdict.port {
            (kind, port) = (.one, one)
            end = one &+ 1
        } else {
            kind = .nowhere
            end = 0
        }
    }

    mutating func next() -> Int? {
        while port < end {
            let this = port
            port &+= 1
            if kind == .one { return this }
            if this == origin { continue }
            if let set, !set.contains(this) { continue }
            return this
        }
        return nil
    }
}
