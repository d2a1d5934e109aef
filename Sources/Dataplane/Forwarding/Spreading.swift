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
        if verdict.isSingle, let port = verdict.port {
            thread.pointee.targets[port] = Target()
        } else {
            thread.pointee.targets.clear(thread.pointee.table.portCount)
        }
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
        if verdict != .none { return toDestinations(thread, origin, burst, burst.first(n), verdict) }
        var others = spreadMixed(thread, origin, burst, first: 0, mask(n) & ~refused)
        let made = Int(burst.work.made)
        if made > 0 { others |= spreadMixed(thread, origin, burst, first: Burst.maximum, mask(made)) }
        return others
    }

    /// `n` bits.
    private static func mask(_ n: Int) -> UInt64 { n >= 64 ? UInt64.max : (1 << UInt64(n)) &- 1 }

    /// Packets with verdicts of their own: those from `first` on that have a bit in `all`. What goes to one port
    /// arrives there in its order, as far as no pairs were chosen.
    @inline(never)
    private static func spreadMixed(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, first: Int, _ all: UInt64
    ) -> UInt64 {
        let packets = burst.packets + first
        var (candidates, withPair, goesFar) = (all, UInt64(0), false)
        while candidates != 0 {
            let i = candidates.trailingZeroBitCount
            let verdict = Verdict(rawValue: packets[i].verdict)
            if verdict.isSeveral { goesFar = true }
            if verdict.pair != nil { withPair |= 1 << UInt64(i) }
            candidates &= candidates &- 1
        }
        if !goesFar { return spreadByVerdict(thread, origin, burst, first: first, all) }
        return spreadByVerdict(thread, origin, burst, first: first, withPair)
            | spreadByPort(thread, origin, burst, first: first, all & ~withPair)
    }

    /// Each goes to one port or nowhere: those with the same verdict go together.
    @inline(__always)
    private static func spreadByVerdict(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, first: Int, _ all: UInt64
    ) -> UInt64 {
        var (others, left) = (UInt64(0), all)
        let places = thread.pointee.list.start
        let packets = burst.packets + first
        while left != 0 {
            let wanted = packets[left.trailingZeroBitCount].verdict
            var length = 0
            var candidates = left
            while candidates != 0 {
                let i = candidates.trailingZeroBitCount
                candidates &= candidates &- 1
                if packets[i].verdict == wanted {
                    places[length] = UInt16(truncatingIfNeeded: first &+ i)
                    length &+= 1
                    left &= ~(1 << UInt64(i))
                }
            }
            others |= toDestinations(
                thread, origin, burst, PacketList(places, count: length), Verdict(rawValue: wanted))
        }
        return others
    }

    /// Some go to several ports: port by port.
    @inline(never)
    private static func spreadByPort(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, first: Int, _ all: UInt64
    ) -> UInt64 {
        let places = thread.pointee.list.start
        let packets = burst.packets + first
        var (others, deliverable, candidates) = (UInt64(0), UInt64(0), all)
        while candidates != 0 {
            let i = candidates.trailingZeroBitCount
            candidates &= candidates &- 1
            let verdict = Verdict(rawValue: packets[i].verdict)
            if verdict.isSeveral || (verdict.port ?? Int.max) < thread.pointee.table.portCount {
                deliverable |= 1 << UInt64(i)
            }
            if case .own(let sender) = origin { settleOne(thread, sender, verdict) }
        }
        var port = 0
        while port < thread.pointee.table.portCount {
            defer { port &+= 1 }
            var (n, copies) = (0, 0)
            candidates = deliverable
            while candidates != 0 {
                let i = candidates.trailingZeroBitCount
                candidates &= candidates &- 1
                let verdict = Verdict(rawValue: packets[i].verdict)
                let isCopy = verdict.isSeveral && reaches(verdict, burst, port, except: Forwarder.port(of: origin))
                if isCopy || verdict == .port(port) {
                    places[n] = UInt16(truncatingIfNeeded: first &+ i)
                    n &+= 1
                    copies &+= isCopy ? 1 : 0
                }
            }
            if n > 0 {
                others |= toPort(thread, origin, burst, PacketList(places, count: n), copies: copies, .port(port))
            }
        }
        return others
    }

    /// Counts, at its sender's, a packet that goes nowhere, or to several ports.
    private static func settleOne(_ thread: ThreadPointer, _ sender: PairPointer, _ verdict: Verdict) {
        if verdict.isSeveral {
            sender.pointee.counters.add(.flooded, 1)
        } else if let port = verdict.port {
            if port >= thread.pointee.table.portCount { dropUndeliverable(thread, sender, port, 1) }
        } else {
            endJudged(sender, verdict, 1)
        }
    }

    /// What the function did not send anywhere: it is used up, or dropped.
    private static func endJudged(_ sender: PairPointer, _ verdict: Verdict, _ n: Int) {
        if let cause = verdict.cause {
            sender.pointee.counters.dropFor(cause, n)
        } else if verdict == .consumed {
            sender.pointee.counters.add(.consumed, n)
        } else {
            Receiver.drop(sender, .function, n)
        }
    }

    /// Whether a verdict for several ports is for `port`. It never is for the one that the packet came from.
    static func reaches(_ verdict: Verdict, _ burst: borrowing Burst, _ port: Int, except origin: Int) -> Bool {
        if port == origin { return false }
        guard let set = verdict.set else { return true }
        return burst.sets[set].contains(port)
    }

    private static func port(of origin: Origin) -> Int {
        switch origin {
        case .own(let sender): return sender.pointee.port
        case .parcel(let parcel): return parcel.pointee.port
        }
    }

    @inline(never)
    private static func toDestinations(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, _ list: PacketList,
        _ verdict: Verdict
    ) -> UInt64 {
        if verdict.port != nil { return toPort(thread, origin, burst, list, copies: 0, verdict) }
        if !verdict.isSeveral {
            if case .own(let sender) = origin { endJudged(sender, verdict, list.count) }
            return 0
        }
        if case .own(let sender) = origin { sender.pointee.counters.add(.flooded, list.count) }
        var (others, port) = (UInt64(0), 0)
        while port < thread.pointee.table.portCount {
            if reaches(verdict, burst, port, except: Forwarder.port(of: origin)) {
                others |= toPort(thread, origin, burst, list, copies: list.count, .port(port))
            }
            port &+= 1
        }
        return others
    }

    /// A list of packets for one port, `copies` of which go to other ports, too. Returns the bit of the thread that
    /// delivers them, if it is another one.
    @inline(never)
    private static func toPort(
        _ thread: ThreadPointer, _ origin: Origin, _ burst: borrowing Burst, _ list: PacketList,
        copies: Int, _ verdict: Verdict
    ) -> UInt64 {
        let port = verdict.port ?? -1
        let me = UInt32(truncatingIfNeeded: thread.pointee.index)
        switch origin {
        case .own(let sender):
            let target = decide(thread, sender, port, verdict)
            guard let receiver = target.pair else {
                if copies < list.count { dropUndeliverable(thread, sender, port, list.count &- copies) }
                return 0
            }
            if target.thread == me {
                thread.pointee.countRefused(handOut(thread, receiver, burst, list, copies: copies))
                return 0
            }
            return 1 << UInt64(target.thread)
        case .parcel(let parcel):
            // What the sender could not deliver, or has delivered, is no target of this thread.
            if port < 0 || port >= thread.pointee.table.portCount { return 0 }
            let target = parcel.pointee.targets[verdict, port]
            if target.thread != me { return 0 }
            if let receiver = mine(thread, target) {
                let refused = handOut(thread, receiver, burst, list, copies: copies)
                if refused > 0 {
                    parcel.pointee.refused.add(UInt32(truncatingIfNeeded: refused), ordering: .relaxed)
                }
            } else {
                lose(parcel, list.count &- copies, port: verdict.pair == nil ? port : nil)
            }
            return 0
        }
    }

    /// Where a burst's packets for `port` go: looked up for the first of its lists, noted among the targets, and the
    /// same for the rest. A port may start, stop or change its thread between two lists of a burst (what came and what
    /// the function made); another thread that finds the port among its targets delivers them all.
    private static func decide(
        _ thread: ThreadPointer, _ sender: PairPointer, _ port: Int, _ verdict: Verdict
    ) -> Target {
        if port < 0 || port >= thread.pointee.table.portCount { return Target(thread: Target.nobody) }
        let known = thread.pointee.targets[verdict, port]
        if known.thread != Target.undecided { return known }
        let receiver = destination(thread, verdict.pair ?? sender.pointee.pair, port)
        let owner = receiver.map { $0.pointee.owner } ?? Target.nobody
        let target = Target(pair: receiver, thread: owner)
        thread.pointee.targets[verdict, port] = target
        return target
    }

    /// Delivers a list of packets; what finds no buffers is dropped. Returns how many of these the function had made.
    static func handOut(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList,
        copies: Int
    ) -> Int {
        if copies > 0 { receiver.pointee.counters.add(.made, copies) }
        let consumed = deliver(thread, receiver, burst, list)
        let refused = list.count &- consumed
        if refused > 0 { Receiver.drop(receiver, .receiverFull, refused) }
        return list[0] >= Burst.maximum ? refused : 0
    }

    /// A parcel of another thread: delivers the part that belongs here.
    static func accept(_ thread: ThreadPointer, _ parcel: ParcelPointer) {
        // Release: the sender reuses the burst when this reaches zero.
        defer { _ = parcel.pointee.remaining.subtract(1, ordering: .releasing) }
        let (count, verdict) = (parcel.pointee.burst.count, parcel.pointee.verdict)
        if !verdict.isSingle {
            _ = spreadOut(thread, .parcel(parcel), parcel.pointee.burst, count, verdict, refused: 0)
            return
        }
        // A single destination: what it has no buffers for goes back to the sender.
        let port = Int(verdict.rawValue) &- 1
        guard let receiver = mine(thread, parcel.pointee.targets[port]) else {
            return lose(parcel, count, port: port)
        }
        parcel.pointee.consumed = deliver(
            thread, receiver, parcel.pointee.burst, parcel.pointee.burst.first(count))
    }

    /// The pair to which a parcel's sender found the way; nil if another thread has it meanwhile.
    private static func mine(_ thread: ThreadPointer, _ target: Target) -> PairPointer? {
        guard let receiver = target.pair,
            receiver.pointee.owner == UInt32(truncatingIfNeeded: thread.pointee.index)
        else { return nil }
        return receiver
    }

    /// Packets whose destination moved while they were under way: their sender sends them on, or counts them.
    @inline(never)
    private static func lose(_ parcel: ParcelPointer, _ n: Int, port: Int?) {
        var before = parcel.pointee.lost.load(ordering: .relaxed)
        while true {
            var lost = LostPackets(word: before)
            lost.add(n, port: port)
            let (isDone, now) = parcel.pointee.lost.compareExchange(
                expected: before, desired: lost.word, ordering: .relaxed)
            if isDone { return }
            before = now
        }
    }

    /// A parcel that is back, of whose packets some were for a pair that another thread has taken over meanwhile: those
    /// go to that thread, the others have been dealt with. False where none is under way afterwards.
    @inline(never)
    static func sendOn(_ thread: ThreadPointer, _ parcel: ParcelPointer, pair: Int, isCapturing: Bool) -> Bool {
        guard let port = LostPackets(word: parcel.pointee.lost.load(ordering: .relaxed)).port,
            let receiver = destination(thread, pair, port)
        else { return false }
        thread.pointee.countRefused(Int(parcel.pointee.refused.load(ordering: .relaxed)))
        let owner = receiver.pointee.owner
        parcel.pointee.targets.clear(thread.pointee.table.portCount)
        parcel.pointee.targets[port] = Target(pair: receiver, thread: owner)
        if owner != UInt32(truncatingIfNeeded: thread.pointee.index) {
            thread.pointee.exchange.send(parcel, to: 1 << UInt64(owner))
            return true
        }
        parcel.pointee.prepare(threads: 1)
        if isCapturing { acceptCaptured(thread, parcel) } else { accept(thread, parcel) }
        return false
    }

    /// Looks whether the pair's parcel is back, and completes its burst.
    @inline(never)
    static func settle(_ thread: ThreadPointer, _ sender: PairPointer) -> Bool {
        guard let parcel = sender.pointee.parcel else { return false }
        if parcel.pointee.remaining.load(ordering: .acquiring) != 0 { return true }
        if parcel.pointee.lost.load(ordering: .relaxed) != 0 {
            if sendOn(thread, parcel, pair: sender.pointee.pair, isCapturing: false) { return true }
            let lost = LostPackets(word: parcel.pointee.lost.load(ordering: .relaxed))
            if lost.count > 0 { Receiver.drop(sender, .notReady, lost.count) }
        }
        sender.pointee.parcel = nil
        let refused = parcel.pointee.refused.load(ordering: .relaxed)
        if refused > 0 { thread.pointee.countRefused(Int(refused)) }
        conclude(thread, sender, nil, parcel.pointee.burst, parcel.pointee.burst.count, parcel.pointee.consumed)
        thread.pointee.exchange.giveBack(parcel)
        return true
    }
}
