import Virtio

/// What is at the end of a pair's queue: where a transmit queue's packets come from, where a receive queue's go. Chosen
/// once, when the queue starts; every step of a burst's life asks it. It points at what it stands for, which belongs
/// to the poll thread that owns the pair.
enum QueueEnd: BitwiseCopyable {
    /// The queue does not run.
    case none
    /// A guest's ring: Ringway is the device.
    case guest(UnsafeMutablePointer<DeviceQueue>)
    /// A back-end's ring: Ringway is the driver.
    case driver(UnsafeMutablePointer<DriverEnd>)
    /// A queue of a TAP device.
    case tap(UnsafeMutablePointer<TapEnd>)
    /// Nothing, which takes all packets.
    case null(UnsafeMutablePointer<NullEnd>)

    @inline(__always)
    var isNone: Bool { if case .none = self { return true } else { return false } }

    @inline(__always)
    var isGuest: Bool { if case .guest = self { return true } else { return false } }

    // MARK: A transmit queue's

    /// Takes up to `PairState.window` packets into the thread's burst; returns their number.
    @inline(__always)
    func pop(_ t: ThreadPointer, _ p: PairPointer) -> Int {
        if case .guest(let ring) = self {
            if p.pointee.lag.isWaiting(t.pointee.now) { return 0 }
            let n = ring.pointee.popTransmit(
                &t.pointee.burst, limit: p.pointee.window, leave: p.pointee.lag.leave,
                least: min(p.pointee.lag.least, p.pointee.window))
            p.pointee.lag.note(n, t.pointee.now)
            if n > 0 { ring.pointee.suppressKicks() }
            return n
        }
        return popOther(t, p)
    }

    @inline(never)
    private func popOther(_ t: ThreadPointer, _ p: PairPointer) -> Int {
        switch self {
        case .none, .guest: return 0
        case .driver(let end): return end.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        case .tap(let end): return end.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        case .null(let end): return end.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        }
    }

    /// Gives the last `n` popped packets back: they will be popped again.
    func giveBack(_ packets: UnsafePointer<Packet>, _ n: Int) {
        switch self {
        case .none, .null: break
        case .guest(let ring): ring.pointee.unpop(packets, n)
        case .driver(let end): end.pointee.unpop(packets, n)
        case .tap(let end): end.pointee.unpop(n)
        }
    }

    /// The oldest `n` popped packets are done with; whoever sent them is told now, or with many others (`mayHold`).
    @inline(__always)
    func complete(_ t: ThreadPointer, _ p: PairPointer, _ packets: UnsafePointer<Packet>, _ n: Int, mayHold: Bool) {
        if case .guest(let ring) = self {
            let hold = mayHold && p.pointee.lag.mayHold(ring.pointee.held &+ n)
            ring.pointee.complete(packets, n, hold: hold)
            if !hold { QueueEnd.callSender(t, p, ring) }
            p.pointee.lag.judge(t.pointee.now)
            return
        }
        completeOther(t, p, packets, n)
    }

    @inline(never)
    private func completeOther(_ t: ThreadPointer, _ p: PairPointer, _ packets: UnsafePointer<Packet>, _ n: Int) {
        switch self {
        case .none, .guest, .null: break
        case .driver(let end):
            if end.pointee.complete(packets, n) {
                p.pointee.counters.add(.transmitCalls, 1)
                t.pointee.notifier.call(end.pointee.receiveKick, p.pointee.times[.transmitCallDelay])
            }
        case .tap(let end): end.pointee.complete(n)
        }
    }

    /// Calls the sender if it wants to know of its chains.
    @inline(__always)
    private static func callSender(_ t: ThreadPointer, _ p: PairPointer, _ ring: UnsafeMutablePointer<DeviceQueue>) {
        if p.pointee.transmit.calls.fd >= 0 && ring.pointee.needsCall() {
            p.pointee.counters.add(.transmitCalls, 1)
            t.pointee.notifier.call(p.pointee.transmit.calls, p.pointee.times[.transmitCallDelay])
        }
    }

    /// Tells the sender of completions that were held back, if there are any.
    @inline(never)
    func tell(_ t: ThreadPointer, _ p: PairPointer) {
        guard case .guest(let ring) = self, ring.pointee.held > 0 else { return }
        ring.pointee.publishHeld()
        QueueEnd.callSender(t, p, ring)
    }

    /// The same after a look in vain, when they have waited long enough.
    @inline(__always)
    func tellLate(_ t: ThreadPointer, _ p: PairPointer) {
        guard case .guest(let ring) = self, ring.pointee.held > 0 else { return }
        if p.pointee.lag.mustTell(t.pointee.now) { tell(t, p) }
    }

    /// Before the pair is left alone: asks to be told of packets (`generate`: of a guest's buffers). True if there are
    /// some already.
    @inline(never)
    func arm() -> Bool {
        switch self {
        case .none: return false
        case .guest(let ring): return ring.pointee.armKicks()
        case .driver(let end): return end.pointee.arm()
        case .tap(let end): return end.pointee.arm()
        case .null(let end): return end.pointee.hasPackets
        }
    }

    // MARK: A receive queue's

    /// Delivers the listed packets.
    @inline(__always)
    func deliver(_ t: ThreadPointer, _ d: PairPointer, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int)
        -> Delivery
    {
        if case .guest(let ring) = self { return ring.pointee.deliver(burst, list, n, with: t.pointee.delivery) }
        return deliverOther(t, d, burst, list, n)
    }

    @inline(never)
    private func deliverOther(
        _ t: ThreadPointer, _ d: PairPointer, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int
    ) -> Delivery {
        switch self {
        case .none, .guest: return Delivery(consumed: n, delivered: 0, bytes: 0)
        case .tap(let end): return end.pointee.deliver(burst, list, n)
        case .null(let end): return end.pointee.deliver(burst, list, n)
        case .driver(let end):
            let result = end.pointee.deliver(burst, list, n)
            if result.delivered > 0 && end.pointee.transmit.needsKick() {
                d.pointee.counters.add(.receiveCalls, 1)
                t.pointee.notifier.call(end.pointee.transmitKick, d.pointee.times[.receiveCallDelay])
            }
            return result
        }
    }

    /// Calls the receiver if it wants to know of what was delivered.
    @inline(__always)
    func callReceiver(_ t: ThreadPointer, _ d: PairPointer) {
        guard case .guest(let ring) = self else { return }
        if d.pointee.receive.calls.fd >= 0 && ring.pointee.needsCall() {
            d.pointee.counters.add(.receiveCalls, 1)
            t.pointee.notifier.call(d.pointee.receive.calls, d.pointee.times[.receiveCallDelay])
        }
    }

    /// Why a packet that was consumed was not delivered.
    var refusal: DropCause { if case .tap = self { return .notTaken } else { return .tooLong } }

    /// Whether a guest has made `n` receive buffers available; other ends tell with the delivery.
    @inline(__always)
    func mayTake(_ n: Int) -> Bool {
        if case .guest(let ring) = self { return ring.pointee.hasAvailable(ahead: n &- 1) }
        return true
    }

    // MARK: Either's

    /// Why the ring at the end had to stop; `.none` while it works.
    @inline(__always)
    func defect(isReceive: Bool) -> RingDefect {
        switch self {
        case .none, .tap, .null: return .none
        case .guest(let ring): return ring.pointee.defect
        case .driver(let end): return isReceive ? end.pointee.transmit.defect : end.pointee.receive.defect
        }
    }
}
