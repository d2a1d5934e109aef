import CPlatform
import Telemetry
import Virtio

/// What a poll thread does with its burst at the end of a pair's queue, and with the calls and counters that follow.
extension QueueEnd {
    // MARK: A transmit queue's

    /// Takes up to `PairState.window` packets into the thread's burst; returns their number.
    @inline(__always)
    func pop(_ thread: ThreadPointer, _ sender: PairPointer) -> Int {
        switch self {
        case .split(let ring): return QueueEnd.popGuest(thread, sender, &ring.pointee)
        case .packed(let ring): return QueueEnd.popGuest(thread, sender, &ring.pointee)
        default: return popOther(thread, sender)
        }
    }

    @inline(__always)
    private static func popGuest(
        _ thread: ThreadPointer, _ sender: PairPointer, _ ring: inout some DeviceRing
    )
        -> Int
    {
        if sender.pointee.lag.isWaiting(thread.pointee.now) { return 0 }
        let count = ring.popTransmit(
            &thread.pointee.burst, limit: sender.pointee.window, leave: sender.pointee.lag.leave,
            least: min(sender.pointee.lag.least, sender.pointee.window))
        sender.pointee.lag.note(count, thread.pointee.now)
        if count > 0 { ring.suppressKicks() }
        return count
    }

    @inline(never)
    private func popOther(_ thread: ThreadPointer, _ sender: PairPointer) -> Int {
        switch self {
        case .none, .split, .packed: return 0
        case .recorded(let ring): return QueueEnd.popGuest(thread, sender, &ring.pointee)
        case .driver(let end): return end.pointee.pop(&thread.pointee.burst, limit: sender.pointee.window)
        case .tap(let end): return end.pointee.pop(&thread.pointee.burst, limit: sender.pointee.window)
        case .xdp(let end): return end.pointee.pop(&thread.pointee.burst, limit: sender.pointee.window)
        case .null(let end): return end.pointee.pop(&thread.pointee.burst, limit: sender.pointee.window)
        }
    }

    /// The oldest `count` popped packets are done with; whoever sent them is told now, or with many others (`mayHold`).
    @inline(__always)
    func complete(
        _ thread: ThreadPointer, _ sender: PairPointer, _ burst: borrowing Burst, _ count: Int,
        mayHold: Bool
    ) {
        switch self {
        case .split(let ring): QueueEnd.completeGuest(thread, sender, &ring.pointee, burst, count, mayHold)
        case .packed(let ring): QueueEnd.completeGuest(thread, sender, &ring.pointee, burst, count, mayHold)
        default: completeOther(thread, sender, burst, count)
        }
    }

    @inline(__always)
    private static func completeGuest(
        _ thread: ThreadPointer, _ sender: PairPointer, _ ring: inout some DeviceRing,
        _ burst: borrowing Burst, _ count: Int, _ mayHold: Bool
    ) {
        let hold = mayHold && sender.pointee.lag.mayHold(ring.held &+ count)
        ring.complete(burst.packets, count, hold: hold)
        if !hold { callSender(thread, sender, &ring) }
        sender.pointee.lag.judge(thread.pointee.now)
    }

    @inline(never)
    private func completeOther(
        _ thread: ThreadPointer, _ sender: PairPointer, _ burst: borrowing Burst, _ count: Int
    ) {
        switch self {
        case .none, .split, .packed, .null: break
        case .recorded(let ring): QueueEnd.completeGuest(thread, sender, &ring.pointee, burst, count, false)
        case .driver(let end):
            if end.pointee.complete(burst, count) {
                sender.pointee.counters.add(.transmitCalls, 1)
                thread.pointee.notifier.call(end.pointee.receiveKick, sender.pointee.times[.transmitCallDelay])
            }
        case .tap(let end): end.pointee.complete(count)
        case .xdp(let end): end.pointee.complete(burst, count)
        }
    }

    /// Calls the sender if it wants to know of its chains.
    @inline(__always)
    private static func callSender(
        _ thread: ThreadPointer, _ sender: PairPointer, _ ring: inout some DeviceRing
    ) {
        if sender.pointee.transmit.calls.fd >= 0 && ring.needsCall() {
            sender.pointee.counters.add(.transmitCalls, 1)
            thread.pointee.notifier.call(sender.pointee.transmit.calls, sender.pointee.times[.transmitCallDelay])
        }
    }

    /// Tells the sender of completions that were held back, if there are any.
    @inline(never)
    func tell(_ thread: ThreadPointer, _ sender: PairPointer) {
        switch self {
        case .split(let ring) where ring.pointee.held > 0:
            ring.pointee.publishHeld()
            QueueEnd.callSender(thread, sender, &ring.pointee)
        case .packed(let ring) where ring.pointee.held > 0:
            ring.pointee.publishHeld()
            QueueEnd.callSender(thread, sender, &ring.pointee)
        default: break
        }
    }

    /// Completions that the sender was not told of.
    @inline(__always)
    private var held: Int {
        switch self {
        case .split(let ring): return ring.pointee.held
        case .packed(let ring): return ring.pointee.held
        default: return 0
        }
    }

    /// The same after a look in vain, when they have waited long enough.
    @inline(__always)
    func tellLate(_ thread: ThreadPointer, _ sender: PairPointer) {
        if held > 0 && sender.pointee.lag.mustTell(thread.pointee.now) { tell(thread, sender) }
    }

    // MARK: A receive queue's

    /// Delivers the listed packets.
    @inline(__always)
    func deliver(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList
    )
        -> Delivery
    {
        switch self {
        case .split(let ring):
            return ring.pointee.deliver(burst, list.places, list.count, with: thread.pointee.delivery)
        case .packed(let ring):
            return ring.pointee.deliver(burst, list.places, list.count, with: thread.pointee.delivery)
        default: return deliverOther(thread, receiver, burst, list)
        }
    }

    @inline(never)
    private func deliverOther(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList
    ) -> Delivery {
        switch self {
        case .recorded(let ring):
            return ring.pointee.deliver(burst, list.places, list.count, with: thread.pointee.delivery)
        case .none, .split, .packed: return Delivery(consumed: list.count, delivered: 0, bytes: 0)
        case .tap(let end): return end.pointee.deliver(burst, list)
        case .xdp(let end):
            let result = end.pointee.deliver(burst, list)
            // What the kernel did not take yet is handed over with the next look for packets.
            if end.pointee.isSending { thread.pointee.poll(receiver) }
            return result
        case .null(let end): return end.pointee.deliver(burst, list)
        case .driver(let end):
            let result = end.pointee.deliver(burst, list)
            if result.delivered > 0 && end.pointee.transmit.needsKick() {
                receiver.pointee.counters.add(.receiveCalls, 1)
                thread.pointee.notifier.call(end.pointee.transmitKick, receiver.pointee.times[.receiveCallDelay])
            }
            return result
        }
    }

    /// Calls the receiver if it wants to know of what was delivered.
    @inline(__always)
    func callReceiver(_ thread: ThreadPointer, _ receiver: PairPointer) {
        let isWanted: Bool
        switch self {
        case .split(let ring): isWanted = receiver.pointee.receive.calls.fd >= 0 && ring.pointee.needsCall()
        case .packed(let ring): isWanted = receiver.pointee.receive.calls.fd >= 0 && ring.pointee.needsCall()
        case .recorded(let ring): isWanted = receiver.pointee.receive.calls.fd >= 0 && ring.pointee.needsCall()
        default: return
        }
        if isWanted {
            receiver.pointee.counters.add(.receiveCalls, 1)
            thread.pointee.notifier.call(receiver.pointee.receive.calls, receiver.pointee.times[.receiveCallDelay])
        }
    }
}

extension QueueTimes {
    /// `count` packets were taken from the pair's transmit queue, the first of them stamped or after a kick. What is
    /// read here of the sender's memory goes into statistics alone: a false stamp spoils those of its own queue.
    /// Packets that are put back for want of buffers count each time that they are taken.
    @inline(never)
    static func took(_ thread: ThreadPointer, _ pair: PairPointer, _ count: Int) {
        let now = CPlat_cycles()
        let (packets, kicked) = (thread.pointee.burst.packets, pair.pointee.kickedAt)
        pair.pointee.kickedAt = 0
        if kicked != 0 { pair.pointee.times[.wakeToPickup].record(now &- kicked) }
        var place = 0
        while place < count {
            let packet = packets + place
            if packet.pointee.dataLength >= 24, let stamp = Stamp.read(packet.pointee.data),
                now &- stamp < LiveHistogram.longest
            {
                pair.pointee.times[.ringSojourn].record(now &- stamp)
                if place == 0 && kicked != 0 { pair.pointee.times[.kickToPickup].record(now &- stamp) }
            }
            place &+= 1
        }
    }
}
