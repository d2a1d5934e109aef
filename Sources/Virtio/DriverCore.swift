import CPlatform

/// What the driver remembers of a chain (or of a free id), in memory that the device cannot reach.
struct DriverChain: BitwiseCopyable {
    var token: UInt32 = 0
    /// Bytes the device may write.
    var writable: UInt32 = 0
    /// Descriptors that the chain takes of the ring; 0: the id is not outstanding.
    var count: UInt16 = 0
    /// Split: the chain's next descriptor. The link in the table belongs to whoever scribbles there.
    var next: UInt16 = 0
}

/// The segments of a chain that is added: readable ones, then writable ones.
struct DriverSegments: BitwiseCopyable {
    let readable: UnsafePointer<Segment>?
    let readableCount: Int
    let writable: UnsafePointer<Segment>?
    let writableCount: Int

    @inline(__always) var count: Int { readableCount &+ writableCount }
    @inline(__always) func isWritable(_ i: Int) -> Bool { i >= readableCount }

    @inline(__always)
    subscript(_ i: Int) -> Segment {
        assert(i >= 0 && i < count)
        return isWritable(i)
            ? writable.unsafelyUnwrapped[i &- readableCount] : readable.unsafelyUnwrapped[i]
    }
}

/// Where the parts of a driver's ring lie in its memory: offsets in bytes, each on its own
/// pair of cache lines (virtio 1.3, 2.7 and 2.8, asks for less).
public struct DriverLayout: Sendable, Equatable {
    /// Split: available ring. Packed: driver event suppression.
    public let driverArea: Int
    /// Split: used ring. Packed: device event suppression.
    public let deviceArea: Int
    /// First of `size` indirect tables.
    public let indirect: Int
    /// Bytes of the whole.
    public let bytes: Int

    /// - Parameters:
    ///   - size: descriptors of the ring.
    ///   - isPacked: its format.
    ///   - indirectLength: descriptors of each indirect table; 0 for none.
    public init(size: UInt32, isPacked: Bool, indirectLength: Int = 0) {
        func up(_ n: UInt64) -> Int { (Int(n) + CacheLines.pair - 1) / CacheLines.pair * CacheLines.pair }
        driverArea = up(RingLayout.descriptorBytes(size))
        deviceArea = driverArea + up(RingLayout.driverAreaBytes(size, isPacked: isPacked))
        indirect = deviceArea + up(RingLayout.deviceAreaBytes(size, isPacked: isPacked))
        bytes = indirect + up(UInt64(size) * RingLayout.descriptorBytes(UInt32(indirectLength)))
    }
}

/// What the driver sides of split and packed rings have in common: where the ring lies, what was negotiated, which ids
/// are free and which chains are outstanding, in private memory that goes with this; and why the queue had to stop.
struct DriverCore: ~Copyable {
    let size: UInt32
    let descriptors: UnsafeMutableRawPointer
    /// Split: available ring. Packed: driver event suppression.
    let driverArea: UnsafeMutableRawPointer
    /// Split: used ring. Packed: device event suppression.
    let deviceArea: UnsafeMutableRawPointer
    /// The device side of this ring in its initial state.
    let setup: RingSetup
    /// Descriptors of each indirect table that the queue owns.
    let indirectLength: Int
    private let indirect: UnsafeMutableRawPointer
    /// What is added (with wrap-around) to a host address to make the device's.
    let delta: UInt64
    let hasEventIdx: Bool
    let isInOrder: Bool

    private let chainRoom: OwnedMemory<DriverChain>
    private let idRoom: OwnedMemory<UInt16>
    @inline(__always) var chains: UnsafeMutablePointer<DriverChain> { chainRoom.start }
    /// Free descriptors (split) or buffer ids (packed), first in, first out: so with IN_ORDER they
    /// are used in ring order, as 2.7.9 and 2.8.8 ask for.
    @inline(__always) var freeIDs: UnsafeMutablePointer<UInt16> { idRoom.start }
    let freeMask: UInt16
    var freeRead: UInt16 = 0
    var freeWrite: UInt16 = 0

    /// Descriptors of the ring that are free.
    var free: UInt32 = 0
    /// Chains that were added and not yet reclaimed.
    var outstanding: UInt32 = 0
    /// IN_ORDER: id of the oldest outstanding chain.
    var oldest: UInt16 = 0
    /// IN_ORDER: a batch of used chains has been read in part; it ends with `batchLast`.
    var inBatch = false
    var batchLast: UInt16 = 0
    var batchLength: UInt32 = 0

    var defect = RingDefect.none
    @inline(__always) var isStopped: Bool { defect.kind != .none }

    init(
        size: UInt32, isPacked: Bool, memory: UnsafeMutableRawPointer, features: Features, delta: UInt64,
        indirectLength: Int
    ) {
        precondition(RingLayout.isValid(size: size, isPacked: isPacked), "queue size \(size)")
        precondition(
            UInt64(UInt(bitPattern: memory)) % RingLayout.descriptorAlignment == 0,
            "ring memory must be aligned to \(RingLayout.descriptorAlignment) bytes")
        precondition(indirectLength >= 0 && indirectLength <= Int(size), "indirect tables longer than the queue")
        let layout = DriverLayout(size: size, isPacked: isPacked, indirectLength: indirectLength)
        self.size = size
        self.indirectLength = features.contains(.indirectDesc) ? indirectLength : 0
        self.delta = delta
        descriptors = memory
        driverArea = memory + layout.driverArea
        deviceArea = memory + layout.deviceArea
        indirect = memory + layout.indirect
        setup = RingSetup(
            size: size, isPacked: isPacked, descriptors: descriptors, driverArea: driverArea, deviceArea: deviceArea,
            position: RingPosition(), features: features, map: .identity)
        hasEventIdx = features.contains(.eventIdx)
        isInOrder = features.contains(.inOrder)
        var capacity = 2
        while capacity < Int(size) { capacity *= 2 }
        freeMask = UInt16(capacity - 1)
        idRoom = OwnedMemory(count: capacity)
        chainRoom = OwnedMemory(count: Int(size))
        start()
    }

    /// RING_RESET (2.6.1): the ring as it was made.
    mutating func reset() {
        CPlat_zero(descriptors, UInt64(DriverLayout(size: size, isPacked: setup.isPacked).indirect))
        start()
    }

    private mutating func start() {
        chains.initialize(repeating: DriverChain(), count: Int(size))
        for i in 0..<Int(size) { freeIDs[i] = UInt16(i) }
        (freeRead, freeWrite, free, outstanding) = (0, UInt16(truncatingIfNeeded: size), size, 0)
        (oldest, inBatch, batchLast, batchLength) = (0, false, 0, 0)
        defect = .none
    }

    /// Takes back the tokens of outstanding chains, at most `max`.
    mutating func abandon(into tokens: UnsafeMutablePointer<UInt32>, max: Int) -> Int {
        var n = 0
        for id in 0..<Int(size) where n < max && chains[id].count != 0 {
            tokens[n] = chains[id].token
            chains[id].count = 0
            outstanding &-= 1
            n += 1
        }
        return n
    }

    @inline(never)
    mutating func stop(_ kind: RingDefect.Kind, index: UInt32, value: UInt64) {
        defect = RingDefect(kind, index: index, value: value)
    }

    @inline(__always)
    func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) &+ delta }

    /// The indirect table that belongs to an id.
    @inline(__always)
    func indirectTable(_ id: UInt16) -> UnsafeMutableRawPointer {
        indirect + Int(id) &* SplitDescriptor.offset(indirectLength)
    }

    /// Whether a chain of `n` segments can be added, and in how many descriptors of the ring; 0: it cannot.
    @inline(__always)
    func slots(_ n: Int, wantsIndirect: Bool) -> Int {
        if isStopped || n <= 0 || n > Int(size) { return 0 }
        let count = wantsIndirect && n <= indirectLength ? 1 : n
        return count <= Int(free) ? count : 0
    }

    @inline(__always)
    mutating func takeID() -> UInt16 {
        let id = freeIDs[Int(freeRead & freeMask)]
        freeRead = freeRead &+ 1
        return id
    }

    @inline(__always)
    mutating func giveID(_ id: UInt16) {
        freeIDs[Int(freeWrite & freeMask)] = id
        freeWrite = freeWrite &+ 1
    }

    /// The event lies among the entries [old, new): `vring_need_event` of 2.7.10.
    @inline(__always)
    static func passes(_ event: UInt16, _ new: UInt16, _ old: UInt16) -> Bool { new &- event &- 1 < new &- old }
}

// MARK: IN_ORDER
extension DriverCore {
    /// Checks the used entry that ends a batch; `place`: where it stands.
    @inline(__always)
    mutating func beginBatch(_ id: UInt32, _ length: UInt32, at place: UInt32) -> Bool {
        if id >= size || chains[Int(id)].count == 0 {
            stop(.usedID, index: place, value: UInt64(id))
            return false
        }
        if length > chains[Int(id)].writable {
            stop(.usedLength, index: place, value: UInt64(length))
            return false
        }
        inBatch = true
        batchLast = UInt16(truncatingIfNeeded: id)
        batchLength = length
        return true
    }

    /// The completion of the oldest chain of a batch; ends the batch with its last one.
    @inline(__always)
    mutating func completeOldest() -> DriverCompletion {
        let chain = chains[Int(oldest)]
        let isLast = oldest == batchLast
        if isLast { inBatch = false }
        return DriverCompletion(token: chain.token, length: isLast ? batchLength : chain.writable)
    }
}
