/// A driver's queue of either format, chosen once, when the ring is made. The queue itself stays in one place.
public enum DriverQueue: DriverRing, ~Copyable {
    /// A split ring, 2.7.
    case split(OwnedValues<SplitDriverQueue>)
    /// A packed ring, 2.8.
    case packed(OwnedValues<PackedDriverQueue>)

    /// Bytes of memory that a queue needs.
    public static func bytes(size: UInt32, isPacked: Bool, indirectLength: Int = 0) -> Int {
        DriverLayout(size: size, isPacked: isPacked, indirectLength: indirectLength).bytes
    }

    /// - Parameters:
    ///   - size: descriptors; see `RingLayout.isValid`.
    ///   - isPacked: the format.
    ///   - memory: zeroed, aligned to 16 or more, of `bytes(…)`; the caller's, must outlive the queue.
    ///   - features: as negotiated; of use here are EVENT_IDX, IN_ORDER and INDIRECT_DESC.
    ///   - delta: what is added to a host address to make the address that the device sees.
    ///   - indirectLength: descriptors of each indirect table, if the queue shall own such.
    public init(
        size: UInt32, isPacked: Bool, memory: UnsafeMutableRawPointer, features: Features,
        delta: UInt64 = 0, indirectLength: Int = 0
    ) {
        let core = DriverCore(
            size: size, isPacked: isPacked, memory: memory, features: features, delta: delta,
            indirectLength: indirectLength)
        self =
            isPacked ? .packed(OwnedValues(PackedDriverQueue(core))) : .split(OwnedValues(SplitDriverQueue(core)))
    }

    public var setup: RingSetup {
        switch self {
        case .split(let ring): return ring.start.pointee.setup
        case .packed(let ring): return ring.start.pointee.setup
        }
    }
    @inlinable public var free: UInt32 {
        switch self {
        case .split(let ring): return ring.start.pointee.free
        case .packed(let ring): return ring.start.pointee.free
        }
    }
    @inlinable public var outstanding: UInt32 {
        switch self {
        case .split(let ring): return ring.start.pointee.outstanding
        case .packed(let ring): return ring.start.pointee.outstanding
        }
    }
    @inlinable public var defect: RingDefect {
        switch self {
        case .split(let ring): return ring.start.pointee.defect
        case .packed(let ring): return ring.start.pointee.defect
        }
    }
    public var hasUsed: Bool {
        switch self {
        case .split(let ring): return ring.start.pointee.hasUsed
        case .packed(let ring): return ring.start.pointee.hasUsed
        }
    }

    public mutating func reset() {
        switch self {
        case .split(let ring): ring.start.pointee.reset()
        case .packed(let ring): ring.start.pointee.reset()
        }
    }

    public mutating func abandon(into tokens: UnsafeMutablePointer<UInt32>, max: Int) -> Int {
        switch self {
        case .split(let ring): return ring.start.pointee.abandon(into: tokens, max: max)
        case .packed(let ring): return ring.start.pointee.abandon(into: tokens, max: max)
        }
    }

    @inlinable @inline(__always)
    public mutating func add(
        readable: UnsafePointer<Segment>?, _ readableCount: Int, writable: UnsafePointer<Segment>?,
        _ writableCount: Int, token: UInt32, indirect: Bool = false
    ) -> Bool {
        switch self {
        case .split(let ring):
            return ring.start.pointee.add(
                readable: readable, readableCount, writable: writable, writableCount, token: token, indirect: indirect)
        case .packed(let ring):
            return ring.start.pointee.add(
                readable: readable, readableCount, writable: writable, writableCount, token: token, indirect: indirect)
        }
    }

    @inlinable @inline(__always)
    public mutating func addTransmit(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int {
        switch self {
        case .split(let ring): return ring.start.pointee.addTransmit(buffers, count)
        case .packed(let ring): return ring.start.pointee.addTransmit(buffers, count)
        }
    }

    @inlinable @inline(__always)
    public mutating func addReceive(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int {
        switch self {
        case .split(let ring): return ring.start.pointee.addReceive(buffers, count)
        case .packed(let ring): return ring.start.pointee.addReceive(buffers, count)
        }
    }

    @inlinable @inline(__always)
    public mutating func publish() {
        switch self {
        case .split(let ring): ring.start.pointee.publish()
        case .packed(let ring): ring.start.pointee.publish()
        }
    }

    @inlinable @inline(__always)
    public mutating func reclaim(into completions: UnsafeMutablePointer<DriverCompletion>, max: Int) -> Int {
        switch self {
        case .split(let ring): return ring.start.pointee.reclaim(into: completions, max: max)
        case .packed(let ring): return ring.start.pointee.reclaim(into: completions, max: max)
        }
    }

    @inlinable @inline(__always)
    public mutating func needsKick() -> Bool {
        switch self {
        case .split(let ring): return ring.start.pointee.needsKick()
        case .packed(let ring): return ring.start.pointee.needsKick()
        }
    }

    public mutating func armCalls() -> Bool {
        switch self {
        case .split(let ring): return ring.start.pointee.armCalls()
        case .packed(let ring): return ring.start.pointee.armCalls()
        }
    }

    public mutating func suppressCalls() {
        switch self {
        case .split(let ring): ring.start.pointee.suppressCalls()
        case .packed(let ring): ring.start.pointee.suppressCalls()
        }
    }

    public func notificationData(queueIndex: UInt16) -> UInt32 {
        switch self {
        case .split(let ring): return ring.start.pointee.notificationData(queueIndex: queueIndex)
        case .packed(let ring): return ring.start.pointee.notificationData(queueIndex: queueIndex)
        }
    }
}
