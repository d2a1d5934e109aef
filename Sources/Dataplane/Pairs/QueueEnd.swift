import Virtio

/// What is at the end of a pair's queue: where a transmit queue's packets come from, where a receive queue's go. Chosen
/// once, when the queue starts; every step of a burst's life asks it. It points at what it stands for, which belongs
/// to the poll thread that owns the pair.
enum QueueEnd: BitwiseCopyable {
    /// The queue does not run.
    case none
    /// A guest's ring, split or packed: Ringway is the device.
    case split(UnsafeMutablePointer<SplitQueue>)
    case packed(UnsafeMutablePointer<PackedQueue>)
    /// A back-end's ring: Ringway is the driver.
    case driver(UnsafeMutablePointer<DriverEnd>)
    /// A queue of a TAP device.
    case tap(UnsafeMutablePointer<TapEnd>)
    /// Nothing, which takes all packets.
    case null(UnsafeMutablePointer<NullEnd>)

    @inline(__always)
    var isNone: Bool { if case .none = self { return true } else { return false } }

    @inline(__always)
    var isGuest: Bool {
        switch self {
        case .split, .packed: return true
        case .none, .driver, .tap, .null: return false
        }
    }

    // MARK: A transmit queue's

    /// Takes up to `PairState.window` packets into the thread's burst; returns their number.
    @inline(__always)
    func pop(_ t: ThreadPointer, _ p: PairPointer) -> Int {
        switch self {
        case .split(let ring): return QueueEnd.popGuest(t, p, ring)
        case .packed(let ring): return QueueEnd.popGuest(t, p, ring)
        default: return popOther(t, p)
        }
    }

    @inline(__always)
    private static func popGuest(_ t: ThreadPointer, _ p: PairPointer, _ ring: UnsafeMutablePointer<some DeviceRing>)
        -> Int
    {
        if p.pointee.lag.isWaiting(t.pointee.now) { return 0 }
        let n = ring.pointee.popTransmit(
            &t.pointee.burst, limit: p.pointee.window, leave: p.pointee.lag.leave,
            least: min(p.pointee.lag.least, p.pointee.window))
        p.pointee.lag.note(n, t.pointee.now)
        if n > 0 { ring.pointee.suppressKicks() }
        return n
    }

    @inline(never)
    private func popOther(_ t: ThreadPointer, _ p: PairPointer) -> Int {
        switch self {
        case .none, .split, .packed: return 0
        case .driver(let end): return end.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        case .tap(let end): return end.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        case .null(let end): return end.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        }
    }

    /// Gives the last `n` popped packets back: they will be popped again.
    func giveBack(_ packets: UnsafePointer<PacketSlot>, _ n: Int) {
        switch self {
        case .none, .null: break
        case .split(let ring): ring.pointee.unpop(packets, n)
        case .packed(let ring): ring.pointee.unpop(packets, n)
        case .driver(let end): end.pointee.unpop(packets, n)
        case .tap(let end): end.pointee.unpop(n)
        }
    }

    /// The oldest `n` popped packets are done with; whoever sent them is told now, or with many others (`mayHold`).
    @inline(__always)
    func complete(_ t: ThreadPointer, _ p: PairPointer, _ packets: UnsafePointer<PacketSlot>, _ n: Int, mayHold: Bool) {
        switch self {
        case .split(let ring): QueueEnd.completeGuest(t, p, ring, packets, n, mayHold)
        case .packed(let ring): QueueEnd.completeGuest(t, p, ring, packets, n, mayHold)
        default: completeOther(t, p, packets, n)
        }
    }

    @inline(__always)
    private static func completeGuest(
        _ t: ThreadPointer, _ p: PairPointer, _ ring: UnsafeMutablePointer<some DeviceRing>,
        _ packets: UnsafePointer<PacketSlot>, _ n: Int, _ mayHold: Bool
    ) {
        let hold = mayHold && p.pointee.lag.mayHold(ring.pointee.held &+ n)
        ring.pointee.complete(packets, n, hold: hold)
        if !hold { callSender(t, p, ring) }
        p.pointee.lag.judge(t.pointee.now)
    }

    @inline(never)
    private func completeOther(_ t: ThreadPointer, _ p: PairPointer, _ packets: UnsafePointer<PacketSlot>, _ n: Int) {
        switch self {
        case .none, .split, .packed, .null: break
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
    private static func callSender(
        _ t: ThreadPointer, _ p: PairPointer, _ ring: UnsafeMutablePointer<some DeviceRing>
    ) {
        if p.pointee.transmit.calls.fd >= 0 && ring.pointee.needsCall() {
            p.pointee.counters.add(.transmitCalls, 1)
            t.pointee.notifier.call(p.pointee.transmit.calls, p.pointee.times[.transmitCallDelay])
        }
    }

    /// Tells the sender of completions that were held back, if there are any.
    @inline(never)
    func tell(_ t: ThreadPointer, _ p: PairPointer) {
        switch self {
        case .split(let ring) where ring.pointee.held > 0:
            ring.pointee.publishHeld()
            QueueEnd.callSender(t, p, ring)
        case .packed(let ring) where ring.pointee.held > 0:
            ring.pointee.publishHeld()
            QueueEnd.callSender(t, p, ring)
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
    func tellLate(_ t: ThreadPointer, _ p: PairPointer) {
        if held > 0 && p.pointee.lag.mustTell(t.pointee.now) { tell(t, p) }
    }

    /// Before the pair is left alone: asks to be told of packets (`generate`: of a guest's buffers). True if there are
    /// some already.
    @inline(never)
    func arm() -> Bool {
        switch self {
        case .none: return false
        case .split(let ring): return ring.pointee.armKicks()
        case .packed(let ring): return ring.pointee.armKicks()
        case .driver(let end): return end.pointee.arm()
        case .tap(let end): return end.pointee.arm()
        case .null(let end): return end.pointee.hasPackets
        }
    }

    // MARK: A receive queue's

    /// Delivers the listed packets.
    @inline(__always)
    func deliver(
        _ t: ThreadPointer, _ d: PairPointer, _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ n: Int
    )
        -> Delivery
    {
        switch self {
        case .split(let ring): return ring.pointee.deliver(burst, list, n, with: t.pointee.delivery)
        case .packed(let ring): return ring.pointee.deliver(burst, list, n, with: t.pointee.delivery)
        default: return deliverOther(t, d, burst, list, n)
        }
    }

    @inline(never)
    private func deliverOther(
        _ t: ThreadPointer, _ d: PairPointer, _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ n: Int
    ) -> Delivery {
        switch self {
        case .none, .split, .packed: return Delivery(consumed: n, delivered: 0, bytes: 0)
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
        let isWanted: Bool
        switch self {
        case .split(let ring): isWanted = d.pointee.receive.calls.fd >= 0 && ring.pointee.needsCall()
        case .packed(let ring): isWanted = d.pointee.receive.calls.fd >= 0 && ring.pointee.needsCall()
        default: return
        }
        if isWanted {
            d.pointee.counters.add(.receiveCalls, 1)
            t.pointee.notifier.call(d.pointee.receive.calls, d.pointee.times[.receiveCallDelay])
        }
    }

    /// Why a packet that was consumed was not delivered.
    var refusal: DropCause { if case .tap = self { return .notTaken } else { return .tooLong } }

    /// Whether a guest has made `n` receive buffers available; other ends tell with the delivery.
    @inline(__always)
    func mayTake(_ n: Int) -> Bool {
        switch self {
        case .split(let ring): return ring.pointee.hasAvailable(ahead: n &- 1)
        case .packed(let ring): return ring.pointee.hasAvailable(ahead: n &- 1)
        default: return true
        }
    }

    // MARK: Either's

    /// Why the ring at the end had to stop; `.none` while it works.
    @inline(__always)
    func defect(_ direction: QueueDirection) -> RingDefect {
        switch self {
        case .none, .tap, .null: return .none
        case .split(let ring): return ring.pointee.defect
        case .packed(let ring): return ring.pointee.defect
        case .driver(let end): return direction == .receive ? end.pointee.transmit.defect : end.pointee.receive.defect
        }
    }

    // MARK: A guest's

    /// Where the ring stands.
    var position: RingPosition {
        switch self {
        case .split(let ring): return ring.pointee.position
        case .packed(let ring): return ring.pointee.position
        default: return RingPosition()
        }
    }

    /// Nobody may have heard of the calls so far: the next decision calls.
    func forgetCalls() {
        switch self {
        case .split(let ring): ring.pointee.forgetCalls()
        case .packed(let ring): ring.pointee.forgetCalls()
        default: break
        }
    }

    /// The guest's memory has grown.
    func use(_ map: MemoryMap) {
        switch self {
        case .split(let ring): ring.pointee.use(map)
        case .packed(let ring): ring.pointee.use(map)
        default: break
        }
    }

    /// Asks a guest not to kick.
    func suppressKicks() {
        switch self {
        case .split(let ring): ring.pointee.suppressKicks()
        case .packed(let ring): ring.pointee.suppressKicks()
        default: break
        }
    }
}

/// Room for the ring of a guest, of either format.
struct GuestRingRoom: ~Copyable {
    private var split = OwnedValues<SplitQueue>(capacity: 1)
    private var packed = OwnedValues<PackedQueue>(capacity: 1)

    /// Takes a ring over; valid until the next one.
    mutating func end(_ ring: DeviceQueue) -> QueueEnd {
        split.removeAll()
        packed.removeAll()
        switch ring {
        case .split(let ring):
            split.append(ring)
            return .split(split.start)
        case .packed(let ring):
            packed.append(ring)
            return .packed(packed.start)
        }
    }
}
