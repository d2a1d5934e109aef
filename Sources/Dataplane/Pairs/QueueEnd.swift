import Virtio

/// What is at the end of a pair's queue: where a transmit queue's packets come from, where a receive queue's go. Chosen
/// once, when the queue starts; every step of a burst's life asks it. It points at what it stands for, which belongs
/// to the poll thread that owns the pair. `QueueEndBursts` has what moves a burst: pop, complete, deliver.
enum QueueEnd: BitwiseCopyable {
    /// The queue does not run.
    case none
    /// A guest's ring, split or packed: Ringway is the device.
    case split(UnsafeMutablePointer<SplitQueue>)
    case packed(UnsafeMutablePointer<PackedQueue>)
    /// The same, of a guest that migrates or whose front-end keeps what is in flight: off the short way.
    case recorded(UnsafeMutablePointer<RecordedRing>)
    /// A back-end's ring: Ringway is the driver.
    case driver(UnsafeMutablePointer<DriverEnd>)
    /// A queue of a TAP device.
    case tap(UnsafeMutablePointer<TapEnd>)
    /// A queue of a network interface, through AF_XDP.
    case xdp(UnsafeMutablePointer<XDPEnd>)
    /// Nothing, which takes all packets.
    case null(UnsafeMutablePointer<NullEnd>)

    @inline(__always)
    var isNone: Bool { if case .none = self { return true } else { return false } }

    @inline(__always)
    var isGuest: Bool {
        switch self {
        case .split, .packed, .recorded: return true
        case .none, .driver, .tap, .xdp, .null: return false
        }
    }

    // MARK: A transmit queue's

    /// Gives the last `count` popped packets back: they will be popped again.
    func giveBack(_ burst: borrowing Burst, from start: Int, _ count: Int) {
        switch self {
        case .none, .null: break
        case .split(let ring): ring.pointee.unpop(burst.packets + start, count)
        case .packed(let ring): ring.pointee.unpop(burst.packets + start, count)
        case .recorded(let ring): ring.pointee.unpop(burst.packets + start, count)
        case .driver(let end): end.pointee.unpop(burst, from: start, count)
        case .tap(let end): end.pointee.unpop(count)
        case .xdp(let end): end.pointee.unpop(burst, from: start, count)
        }
    }

    /// Before the pair is left alone: asks to be told of packets (`generate`: of a guest's buffers). True if there are
    /// some already.
    @inline(never)
    func arm() -> Bool {
        switch self {
        case .none: return false
        case .split(let ring): return ring.pointee.armKicks()
        case .packed(let ring): return ring.pointee.armKicks()
        case .recorded(let ring): return ring.pointee.armKicks()
        case .driver(let end): return end.pointee.arm()
        case .tap(let end): return end.pointee.arm()
        case .xdp(let end): return end.pointee.arm()
        case .null(let end): return end.pointee.hasPackets
        }
    }

    // MARK: A receive queue's

    /// Why a packet that was consumed was not delivered.
    var refusal: DropCause { if case .tap = self { return .notTaken } else { return .tooLong } }

    /// Whether a guest has made `count` receive buffers available; other ends tell with the delivery.
    @inline(__always)
    func mayTake(_ count: Int) -> Bool {
        switch self {
        case .split(let ring): return ring.pointee.hasAvailable(ahead: count &- 1)
        case .packed(let ring): return ring.pointee.hasAvailable(ahead: count &- 1)
        case .recorded(let ring): return ring.pointee.hasAvailable(ahead: count &- 1)
        default: return true
        }
    }

    // MARK: Either's

    /// Why the ring at the end had to stop; `.none` while it works.
    @inline(__always)
    func defect(_ direction: QueueDirection) -> RingDefect {
        switch self {
        case .none, .tap, .xdp, .null: return .none
        case .split(let ring): return ring.pointee.defect
        case .packed(let ring): return ring.pointee.defect
        case .recorded(let ring): return ring.pointee.defect
        case .driver(let end): return direction == .receive ? end.pointee.transmit.defect : end.pointee.receive.defect
        }
    }

    // MARK: A guest's

    /// Of a ring that waits for its IOTLB: all that its next entries need.
    func addressMisses(most: Int) -> [RingDefect] {
        switch self {
        case .split(let ring): return ring.pointee.addressMisses(most: most)
        case .packed(let ring): return ring.pointee.addressMisses(most: most)
        case .recorded(let ring): return ring.pointee.addressMisses(most: most)
        default: return []
        }
    }

    /// Where the ring stands.
    var position: RingPosition {
        switch self {
        case .split(let ring): return ring.pointee.position
        case .packed(let ring): return ring.pointee.position
        case .recorded(let ring): return ring.pointee.position
        default: return RingPosition()
        }
    }

    /// Nobody may have heard of the calls so far: the next decision calls.
    func forgetCalls() {
        switch self {
        case .split(let ring): ring.pointee.forgetCalls()
        case .packed(let ring): ring.pointee.forgetCalls()
        case .recorded(let ring): ring.pointee.forgetCalls()
        default: break
        }
    }

    /// The guest's memory has grown.
    func use(_ map: MemoryMap) {
        switch self {
        case .split(let ring): ring.pointee.use(map)
        case .packed(let ring): ring.pointee.use(map)
        case .recorded(let ring): ring.pointee.use(map)
        default: break
        }
    }

    /// Asks a guest not to kick.
    func suppressKicks() {
        switch self {
        case .split(let ring): ring.pointee.suppressKicks()
        case .packed(let ring): ring.pointee.suppressKicks()
        case .recorded(let ring): ring.pointee.suppressKicks()
        default: break
        }
    }
}

/// Room for the ring of a guest, of either format.
struct GuestRingRoom: ~Copyable {
    private var split = OwnedValues<SplitQueue>(capacity: 1)
    private var packed = OwnedValues<PackedQueue>(capacity: 1)
    private var recorded = OwnedValues<RecordedRing>(capacity: 1)

    /// Takes a ring over; valid until the next one.
    mutating func end(_ ring: consuming GuestRing) -> QueueEnd {
        split.removeAll()
        packed.removeAll()
        recorded.removeAll()
        switch ring {
        case .split(let ring):
            split.add(ring)
            return .split(split.start)
        case .packed(let ring):
            packed.add(ring)
            return .packed(packed.start)
        case .recorded(let ring):
            recorded.add(ring)
            return .recorded(recorded.start)
        }
    }
}

/// A guest's ring on its way from the control thread to a poll thread.
enum GuestRing {
    case split(SplitQueue)
    case packed(PackedQueue)
    case recorded(RecordedRing)

    init(_ setup: RingSetup) {
        if setup.isRecorded {
            self = .recorded(RecordedRing(setup))
        } else {
            self = setup.isPacked ? .packed(PackedQueue(setup)) : .split(SplitQueue(setup))
        }
    }

    var size: UInt32 {
        switch self {
        case .split(let ring): return ring.size
        case .packed(let ring): return ring.size
        case .recorded(let ring): return ring.size
        }
    }

    var bestHold: Int {
        switch self {
        case .split(let ring): return ring.bestHold
        case .packed(let ring): return ring.bestHold
        case .recorded(let ring): return ring.bestHold
        }
    }
}
