import Virtio

/// A virtqueue, or what stands in its place, at one moment between two bursts of its thread: what somebody has to know
/// who wants to say why it stands still.
package struct QueueLook: Sendable {
    /// What is at the queue's end.
    package enum End: Sendable { case none, guest, driver, tap, xdp, null }

    /// Of its port in the engine.
    package var place: Int
    /// Virtqueue index: 2k is pair k's receive queue, 2k + 1 its transmit queue.
    package var queue: Int
    /// Index of the thread that owns it.
    package var thread: Int
    package var end: End
    /// Its other side has it enabled.
    package var isWanted: Bool
    package var defect: RingDefect
    /// A guest's: what was made available and not taken, and whether the driver waits for a call. Of a ring of which
    /// Ringway is the driver see `DriverEnd.waiting`.
    package var ring: RingLook
    /// Descriptors of a guest's ring; else 0.
    package var size: Int
    /// Its driver can kick, and can be called.
    package var hasKick: Bool
    package var hasCall: Bool
    /// Its thread looks at the pair, and needs no kick.
    package var isPolled: Bool
    /// A burst of it is with another thread.
    package var isUnderWay: Bool
    /// Of its pair: what it sent waits for a receiver without buffers.
    package var isStalled: Bool
    /// Packets that were taken from a transmit queue, or delivered into a receive queue.
    package var packets: UInt64
    package var kicks: UInt64
    package var calls: UInt64
    /// How often the queue has been started.
    package var starts: UInt64
    /// How long its pair is polled after its last packet, in nanoseconds; nil: for ever.
    package var busyloop: UInt64?
    /// Packets of its pair that were dropped as a receiver had no buffers, or took none: see `PortSnapshot.drops`.
    package var refused: UInt64

    package var direction: QueueDirection { QueueDirection(queue: queue) }
}

extension PairState {
    /// By the thread that owns the pair.
    func look(_ direction: QueueDirection) -> QueueLook {
        let (state, isReceive) = (self[direction], direction == .receive)
        let (end, ring) = state.end.look(direction)
        return QueueLook(
            place: port, queue: direction.queue(ofPair: pair), thread: Int(owner), end: end, isWanted: state.isWanted,
            defect: state.end.defect(direction), ring: ring, size: state.end.size, hasKick: state.kickTag != 0,
            hasCall: state.calls.fd >= 0,
            isPolled: isPolled, isUnderWay: parcel != nil, isStalled: stalledAt != 0,
            packets: counters[isReceive ? .txPackets : .rxPackets],
            kicks: counters[isReceive ? .receiveKicks : .transmitKicks],
            calls: counters[isReceive ? .receiveCalls : .transmitCalls], starts: starts[direction.rawValue],
            busyloop: budget.nanoseconds,
            refused: counters[.receiverFull] &+ counters[.notTaken])
    }
}

extension QueueEnd {
    fileprivate var size: Int {
        switch self {
        case .split(let ring): return Int(ring.pointee.size)
        case .packed(let ring): return Int(ring.pointee.size)
        case .recorded(let ring): return Int(ring.pointee.size)
        default: return 0
        }
    }

    fileprivate func look(_ direction: QueueDirection) -> (QueueLook.End, RingLook) {
        switch self {
        case .none: return (.none, RingLook(available: 0, wish: .always))
        case .split(let ring): return (.guest, ring.pointee.look)
        case .packed(let ring): return (.guest, ring.pointee.look)
        case .recorded(let ring): return (.guest, ring.pointee.look)
        case .driver(let end): return (.driver, RingLook(available: end.pointee.waiting(direction), wish: .always))
        case .tap: return (.tap, RingLook(available: 0, wish: .always))
        case .xdp: return (.xdp, RingLook(available: 0, wish: .always))
        case .null(let end): return (.null, RingLook(available: end.pointee.hasPackets ? 1 : 0, wish: .always))
        }
    }
}
