/// A queue of either format, as a value: what a control thread prepares and hands to a poll thread, and what queues off
/// the path of packets use. Where packets go the format is asked once, when the ring starts: the poll thread works with
/// a `SplitQueue` or a `PackedQueue` in place.
public enum DeviceQueue: DeviceRing {
    /// A split ring, 2.7.
    case split(SplitQueue)
    /// A packed ring, 2.8.
    case packed(PackedQueue)

    /// A queue of the format that `setup` says. The ring's memory and the map belong to the caller and outlive the
    /// queue.
    public init(_ setup: RingSetup) {
        self = setup.isPacked ? .packed(PackedQueue(setup)) : .split(SplitQueue(setup))
    }

    public var size: UInt32 {
        switch self {
        case .split(let ring): return ring.size
        case .packed(let ring): return ring.size
        }
    }
    public var features: Features {
        switch self {
        case .split(let ring): return ring.features
        case .packed(let ring): return ring.features
        }
    }
    public var map: MemoryMap {
        switch self {
        case .split(let ring): return ring.map
        case .packed(let ring): return ring.map
        }
    }
    public var defect: RingDefect {
        switch self {
        case .split(let ring): return ring.defect
        case .packed(let ring): return ring.defect
        }
    }
    public var position: RingPosition {
        switch self {
        case .split(let ring): return ring.position
        case .packed(let ring): return ring.position
        }
    }
    public var hasWork: Bool {
        switch self {
        case .split(let ring): return ring.hasWork
        case .packed(let ring): return ring.hasWork
        }
    }
    public var held: Int {
        switch self {
        case .split(let ring): return ring.held
        case .packed(let ring): return ring.held
        }
    }
    public var bestHold: Int {
        switch self {
        case .split(let ring): return ring.bestHold
        case .packed(let ring): return ring.bestHold
        }
    }
    public func hasAvailable(ahead n: Int) -> Bool {
        switch self {
        case .split(let ring): return ring.hasAvailable(ahead: n)
        case .packed(let ring): return ring.hasAvailable(ahead: n)
        }
    }

    public mutating func popTransmit(_ burst: inout Burst, limit: Int, leave: Int = 0, least: Int = 1) -> Int {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.popTransmit(&burst, limit: limit, leave: leave, least: least)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.popTransmit(&burst, limit: limit, leave: leave, least: least)
        }
    }

    public mutating func unpop(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.unpop(packets, count)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.unpop(packets, count)
        }
    }

    public mutating func complete(_ packets: UnsafePointer<PacketSlot>, _ count: Int, hold: Bool = false) {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.complete(packets, count, hold: hold)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.complete(packets, count, hold: hold)
        }
    }

    public mutating func publishHeld() {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.publishHeld()
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.publishHeld()
        }
    }

    public mutating func deliver(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, with scratch: borrowing DeliveryScratch
    ) -> Delivery {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.deliver(burst, list, count, with: scratch)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.deliver(burst, list, count, with: scratch)
        }
    }

    public mutating func needsCall() -> Bool {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.needsCall()
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.needsCall()
        }
    }

    public mutating func forgetCalls() {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.forgetCalls()
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.forgetCalls()
        }
    }

    public mutating func armKicks() -> Bool {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.armKicks()
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.armKicks()
        }
    }

    public mutating func suppressKicks() {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.suppressKicks()
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.suppressKicks()
        }
    }

    /// The driver was told not to kick.
    var areKicksSuppressed: Bool {
        switch self {
        case .split(let ring): return ring.core.areKicksSuppressed
        case .packed(let ring): return ring.core.areKicksSuppressed
        }
    }

    public mutating func use(_ map: MemoryMap) {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.use(map)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.use(map)
        }
    }

    public mutating func stop(_ reason: RingDefect) {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.stop(reason)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.stop(reason)
        }
    }

    public mutating func popControl(into room: ControlRoom) -> ControlCommand? {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.popControl(into: room)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.popControl(into: room)
        }
    }

    public mutating func completeControl(_ command: ControlCommand, answer: UInt8) {
        switch self {
        case .split(var ring):
            defer { self = .split(ring) }
            return ring.completeControl(command, answer: answer)
        case .packed(var ring):
            defer { self = .packed(ring) }
            return ring.completeControl(command, answer: answer)
        }
    }
}
