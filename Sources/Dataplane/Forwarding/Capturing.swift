import CPlatform
import Virtio

/// The life of a burst on a thread that captures. Packets are written while their memory is lent, seen by the reader
/// when it is known what became of them; those that went back into their ring are forgotten, as they come again.
extension Forwarder {
    /// As `send`.
    @inline(never)
    static func sendCaptured(
        _ thread: ThreadPointer, _ sender: PairPointer, _ n: Int, _ verdict: Verdict, _ bad: UInt64
    ) -> Bool {
        let refused = bad | (thread.pointee.burst.work.isReviewed != 0 ? short(thread.pointee.burst, n) : 0)
        for i in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[i]
            tap.pointee.begin()
            note(thread, tap, sender, n, verdict, refused)
        }
        let before = sender.pointee.counters[.rxPackets]
        let result = send(thread, sender, n, verdict, bad)
        // What becomes of those that went with a parcel another thread knows; see `settleCaptured`.
        let finished =
            sender.pointee.parcel != nil
            ? n : Int(truncatingIfNeeded: sender.pointee.counters[.rxPackets] &- before)
        for i in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[i]
            tap.pointee.setShown(sender, tap.pointee.shown(sender) &- finished)
            tap.pointee.conclude(finished, of: n)
        }
        return result
    }

    /// Writes the packets of the thread's burst: those that came by the wanted port, and those that go to it by this
    /// thread. `refused`: dropped for their offload fields or length, a bit each.
    private static func note(
        _ thread: ThreadPointer, _ tap: CapturePointer, _ sender: PairPointer, _ n: Int, _ verdict: Verdict,
        _ refused: UInt64
    ) {
        let isWanted = tap.pointee.wants(sender.pointee.port, sender.pointee.pair, .transmit)
        let shown = tap.pointee.shown(sender)
        let packets = thread.pointee.burst.packets
        for i in 0..<n {
            tap.pointee.markPacket(i)
            let packet = packets + i
            var fate = Fate()
            if refused & (1 << UInt64(i)) != 0 {
                let isLong = Offload.isGoodLength(packet.pointee.length)
                fate.cause = CaptureTap.number(isLong ? .badOffload : .badLength)
            } else {
                let own = verdict == .none ? Verdict(rawValue: packet.pointee.verdict) : verdict
                fate = Forwarder.fate(thread, tap, sender, own)
            }
            var inward: UInt64?
            if isWanted && i >= shown {
                inward = tap.pointee.writeArrival(packet.pointee, i, pair: sender.pointee.pair, fate.cause)
            }
            follow(thread, tap, packet, i, fate, inward)
        }
        for i in Burst.maximum..<Burst.maximum &+ Int(thread.pointee.burst.work.made) {
            let fate = Forwarder.fate(thread, tap, sender, Verdict(rawValue: packets[i].verdict))
            follow(thread, tap, packets + i, i, fate, nil)
        }
    }

    /// What is to become of a packet.
    private struct Fate: BitwiseCopyable {
        /// Where it goes; of several, the wanted port's.
        var receiver: PairPointer?
        /// It goes to others, too.
        var isSeveral = false
        var cause: UInt16 = 0
    }

    private static func fate(
        _ thread: ThreadPointer, _ tap: CapturePointer, _ sender: PairPointer, _ verdict: Verdict
    ) -> Fate {
        if let port = verdict.port {
            if let receiver = destination(thread, verdict.pair ?? sender.pointee.pair, port) {
                return Fate(receiver: receiver)
            }
            let isThere = port >= 0 && port < thread.pointee.table.portCount && thread.pointee.table[port, 0] != nil
            return Fate(cause: CaptureTap.number(isThere ? .notReady : .noDestination))
        }
        if verdict.isSeveral {
            let port = tap.pointee.port
            let isFor = reaches(verdict, thread.pointee.burst, port, except: sender.pointee.port)
            return Fate(receiver: isFor ? destination(thread, sender.pointee.pair, port) : nil, isSeveral: true)
        }
        if let cause = verdict.cause { return Fate(cause: CaptureTap.number(function: cause)) }
        return Fate(cause: verdict == .consumed ? 0 : CaptureTap.number(.function))
    }

    /// Writes a packet that goes to a ring of this thread, where it is wanted. `inward`: where it was written as it
    /// came; nil: it is not wanted there.
    private static func follow(
        _ thread: ThreadPointer, _ tap: CapturePointer, _ packet: UnsafeMutablePointer<PacketSlot>, _ i: Int,
        _ fate: Fate, _ inward: UInt64?
    ) {
        guard let receiver = fate.receiver,
            receiver.pointee.owner == UInt32(truncatingIfNeeded: thread.pointee.index)
        else { return }
        let isWanted = tap.pointee.wants(receiver.pointee.port, receiver.pointee.pair, .receive)
        let inward = fate.isSeveral ? nil : inward
        if !isWanted && inward == nil { return }
        let outward =
            isWanted ? tap.pointee.writeDeparture(packet.pointee, pair: receiver.pointee.pair) : CaptureTap.nowhere
        tap.pointee.expect(
            i, receiver, inward: inward ?? CaptureTap.nowhere, outward: outward, packet.pointee.length)
    }

    /// Packets of a ring that was started but is disabled: nobody has judged them.
    @inline(never)
    static func noteUnready(_ thread: ThreadPointer, _ sender: PairPointer, _ n: Int) {
        for place in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[place]
            if !tap.pointee.wants(sender.pointee.port, sender.pointee.pair, .transmit) { continue }
            tap.pointee.begin()
            if tap.pointee.keepsArrivals { tap.pointee.keep(thread.pointee.burst.packets, n) }
            for i in 0..<n {
                _ = tap.pointee.writeArrival(
                    thread.pointee.burst.packets[i], i, pair: sender.pointee.pair, CaptureTap.number(.notReady))
            }
            tap.pointee.conclude(n, of: n)
        }
    }

    /// Before the function sees packets that it may change.
    @inline(never)
    static func keepArrivals(_ thread: ThreadPointer, _ sender: PairPointer, _ n: Int) {
        for i in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[i]
            if tap.pointee.keepsArrivals && tap.pointee.wants(sender.pointee.port, sender.pointee.pair, .transmit) {
                tap.pointee.keep(thread.pointee.burst.packets, n)
            }
        }
    }

    // MARK: Between threads

    /// As `PollLoop.acceptParcels`.
    @inline(never)
    static func acceptCapturedParcels(_ thread: ThreadPointer) {
        for other in 0..<thread.pointee.exchange.threadCount {
            if let ring = thread.pointee.exchange.incoming[other] {
                while let parcel = ring.pop() { acceptCaptured(thread, parcel) }
            }
        }
    }

    /// As `accept`: what of the parcel is delivered here to the wanted port is written.
    static func acceptCaptured(_ thread: ThreadPointer, _ parcel: ParcelPointer) {
        let (n, verdict) = (parcel.pointee.burst.count, parcel.pointee.verdict)
        let isSingle = verdict.isSingle
        for place in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[place]
            tap.pointee.begin()
            for i in 0..<n {
                tap.pointee.markPacket(i)
                noteParcel(thread, tap, parcel, i, verdict)
            }
            for i in Burst.maximum..<Burst.maximum &+ Int(parcel.pointee.burst.work.made) {
                noteParcel(thread, tap, parcel, i, verdict)
            }
            tap.pointee.noteSent()
        }
        // Afterwards it is its sender's again.
        accept(thread, parcel)
        for place in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[place]
            // Of one with a single destination, what found no buffers goes back, and is dropped or comes again there.
            tap.pointee.conclude(isSingle ? min(n, tap.pointee.dealtWith()) : n, of: n)
        }
    }

    private static func noteParcel(
        _ thread: ThreadPointer, _ tap: CapturePointer, _ parcel: ParcelPointer, _ i: Int, _ verdict: Verdict
    ) {
        let packet = parcel.pointee.burst.packets + i
        let own = verdict == .none ? Verdict(rawValue: packet.pointee.verdict) : verdict
        let port = tap.pointee.port
        if own.port != port
            && !(own.isSeveral && reaches(own, parcel.pointee.burst, port, except: parcel.pointee.port))
        {
            return
        }
        if port >= thread.pointee.table.portCount { return }
        let target = parcel.pointee.targets[own.isSeveral ? .port(port) : own, port]
        guard let receiver = target.pair, target.thread == UInt32(truncatingIfNeeded: thread.pointee.index),
            receiver.pointee.owner == target.thread
        else { return }
        follow(thread, tap, packet, i, Fate(receiver: receiver), nil)
    }

    /// As `settle`: a burst that other threads have delivered is back.
    @inline(never)
    static func settleCaptured(_ thread: ThreadPointer, _ sender: PairPointer) -> Bool {
        guard let parcel = sender.pointee.parcel else { return false }
        // Not `settle`, which would look again: a parcel that came back in between would be settled, but not written.
        if parcel.pointee.remaining.load(ordering: .acquiring) != 0 { return true }
        if parcel.pointee.lost.load(ordering: .relaxed) != 0,
            sendOn(thread, parcel, pair: sender.pointee.pair, isCapturing: true)
        {
            return true
        }
        let n = parcel.pointee.burst.count
        let refused = parcel.pointee.verdict.isSingle ? n &- parcel.pointee.consumed : 0
        for i in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[i]
            tap.pointee.begin()
            if refused > 0 { noteRefused(tap, parcel, refused) }
        }
        let (taken, full) = (sender.pointee.counters[.rxPackets], sender.pointee.counters[.receiverFull])
        let result = settle(thread, sender)
        // They go back into their ring, or are dropped here.
        let areBack = sender.pointee.counters[.receiverFull] == full
        // Before those that were not popped with them, as a window is smaller than what went back the last time.
        let back = n &- Int(truncatingIfNeeded: sender.pointee.counters[.rxPackets] &- taken)
        for i in 0..<thread.pointee.taps.count {
            let tap = thread.pointee.taps[i]
            if areBack { tap.pointee.abandon(tap.pointee.start) }
            tap.pointee.conclude(0, of: 0)
            tap.pointee.setShown(sender, tap.pointee.shown(sender) &+ back)
        }
        return result
    }

    /// The last packets of a burst, for which the wanted port had no buffers.
    private static func noteRefused(_ tap: CapturePointer, _ parcel: ParcelPointer, _ refused: Int) {
        let verdict = parcel.pointee.verdict
        guard verdict.port == tap.pointee.port,
            let receiver = parcel.pointee.targets[verdict, tap.pointee.port].pair,
            tap.pointee.wants(tap.pointee.port, receiver.pointee.pair, .receive)
        else { return }
        let n = parcel.pointee.burst.count
        for i in n &- refused..<n {
            _ = tap.pointee.writeDeparture(
                parcel.pointee.burst.packets[i], pair: receiver.pointee.pair, CaptureTap.number(.receiverFull))
        }
    }
}
