import CPlatform

/// A buffer of one segment for the bursts of `DriverQueue`.
public struct DriverBuffer: BitwiseCopyable {
    public var base: UnsafeMutableRawPointer
    /// Bytes.
    public var length: UInt32
    /// Comes back with the completion.
    public var token: UInt32
    @inlinable public init(base: UnsafeMutableRawPointer, length: UInt32, token: UInt32) {
        self.base = base
        self.length = length
        self.token = token
    }
}

/// A chain that the device has used.
public struct DriverCompletion: BitwiseCopyable {
    public var token: UInt32
    /// Bytes that the device wrote: never more than the chain's writable segments hold.
    public var length: UInt32
    @inlinable public init(token: UInt32, length: UInt32) {
        self.token = token
        self.length = length
    }
}

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

/// Where the parts of a driver's ring lie in its memory: offsets in bytes, each on its own
/// pair of cache lines (virtio 1.3, 2.7 and 2.8, asks for less).
public struct DriverLayout: Sendable, Equatable {
    public let driverArea: Int
    public let deviceArea: Int
    /// First of `size` indirect tables.
    public let indirect: Int
    /// Bytes of the whole.
    public let bytes: Int

    /// - Parameter indirectLength: descriptors of each indirect table; 0 for none.
    public init(size: UInt32, isPacked: Bool, indirectLength: Int = 0) {
        func up(_ n: Int) -> Int { (n + 127) & ~127 }
        driverArea = up(Int(RingLayout.descriptorBytes(size)))
        deviceArea = driverArea + up(Int(RingLayout.driverAreaBytes(size, isPacked: isPacked)))
        indirect = deviceArea + up(Int(RingLayout.deviceAreaBytes(size, isPacked: isPacked)))
        bytes = indirect + up(Int(size) * indirectLength * 16)
    }
}

/// The driver side of a virtqueue, split or packed (virtio 1.3, 2.7 and 2.8).
///
/// A plain struct that one thread uses at a time, best through an `UnsafeMutablePointer`. The ring
/// lies in memory that belongs to the caller and is shared with the device; what the driver must
/// remember lies in private memory that `deallocate()` frees. Nothing that the device writes is
/// trusted: a wrong id, index or length stops the queue (`defect`), and then every burst function
/// does nothing.
///
/// A round: `add…` any number of chains, `publish()`, `needsKick()`; later `reclaim`.
public struct DriverQueue {
    public let size: UInt32
    public let isPacked: Bool
    public let features: Features
    public let descriptors: UnsafeMutableRawPointer
    /// Split: available ring. Packed: driver event suppression.
    public let driverArea: UnsafeMutableRawPointer
    /// Split: used ring. Packed: device event suppression.
    public let deviceArea: UnsafeMutableRawPointer
    /// Descriptors of each indirect table that the queue owns.
    public let indirectLength: Int
    let indirect: UnsafeMutableRawPointer
    /// What is added (with wrap-around) to a host address to make the device's.
    let delta: UInt64
    let hasEventIndex: Bool
    let isInOrder: Bool

    let chains: UnsafeMutablePointer<DriverChain>
    /// Free descriptors (split) or buffer ids (packed), first in, first out: so with IN_ORDER they
    /// are used in ring order, as 2.7.9 and 2.8.7 ask for.
    let freeIDs: UnsafeMutablePointer<UInt16>
    let freeMask: UInt16
    var freeRead: UInt16 = 0
    var freeWrite: UInt16 = 0

    /// Descriptors of the ring that are free.
    public internal(set) var free: UInt32 = 0
    /// Chains that were added and not yet reclaimed.
    public internal(set) var outstanding: UInt32 = 0
    /// Split: next available index (free-running). Packed: next slot.
    var available: UInt16 = 0
    /// Split: next used index to read. Packed: the slot where the next used descriptor will be.
    var used: UInt16 = 0
    /// Packed: wrap counters of both; 1 at the start (2.8.1).
    var availableWrap = true
    var usedWrap = true
    /// Split: the available index that the device was shown. Packed: descriptors shown since the
    /// last decision to kick.
    var published: UInt16 = 0
    var shown: UInt32 = 0
    /// Split: the published index at the last decision to kick.
    var kicked: UInt16 = 0
    /// Packed: the first chain's head that was added since `publish()`, held back; word 0: none.
    var heldSlot: UInt16 = 0
    var heldWord: UInt64 = 0
    var heldDescriptors: UInt32 = 0
    var heldChains: UInt32 = 0
    /// IN_ORDER: id of the oldest outstanding chain.
    var oldest: UInt16 = 0
    /// IN_ORDER: a batch of used chains has been read in part; it ends with `batchLast`.
    var inBatch = false
    var batchLast: UInt16 = 0
    var batchLength: UInt32 = 0

    /// What stopped the queue.
    public internal(set) var defect = RingDefect.none
    public internal(set) var isStopped = false

    /// Bytes of memory that a queue needs.
    public static func bytes(size: UInt32, isPacked: Bool, indirectLength: Int = 0) -> Int {
        DriverLayout(size: size, isPacked: isPacked, indirectLength: indirectLength).bytes
    }

    /// - Parameters:
    ///   - memory: zeroed, aligned to 16 or more, of `bytes(…)`; the caller's, must outlive the queue.
    ///   - features: as negotiated; of use here are EVENT_IDX, IN_ORDER and INDIRECT_DESC.
    ///   - delta: what is added to a host address to make the address that the device sees.
    ///   - indirectLength: descriptors of each indirect table, if the queue shall own such.
    public init(
        size: UInt32, isPacked: Bool, memory: UnsafeMutableRawPointer, features: Features,
        delta: UInt64 = 0, indirectLength: Int = 0
    ) {
        precondition(RingLayout.isValid(size: size, isPacked: isPacked), "queue size \(size)")
        precondition(UInt(bitPattern: memory) & 15 == 0, "ring memory must be aligned to 16 bytes")
        precondition(indirectLength >= 0 && indirectLength <= Int(size), "indirect tables longer than the queue")
        let layout = DriverLayout(size: size, isPacked: isPacked, indirectLength: indirectLength)
        self.size = size
        self.isPacked = isPacked
        self.features = features
        self.indirectLength = features.contains(.indirectDesc) ? indirectLength : 0
        self.delta = delta
        descriptors = memory
        driverArea = memory + layout.driverArea
        deviceArea = memory + layout.deviceArea
        indirect = memory + layout.indirect
        hasEventIndex = features.contains(.eventIdx)
        isInOrder = features.contains(.inOrder)
        var capacity = 2
        while capacity < Int(size) { capacity *= 2 }
        freeMask = UInt16(capacity - 1)
        freeIDs = .allocateApart(capacity: capacity)
        chains = .allocateApart(capacity: Int(size))
        start()
    }

    /// Frees the private memory. The queue must not be used afterwards.
    public func deallocate() {
        chains.deallocate()
        freeIDs.deallocate()
    }

    /// RING_RESET (2.6.1): the ring as it was made, once the device has let go of it. Tokens of
    /// outstanding chains are forgotten: see `abandon`.
    public mutating func reset() {
        let layout = DriverLayout(size: size, isPacked: isPacked)
        CPlat_zero(descriptors, UInt64(layout.indirect))
        start()
    }

    private mutating func start() {
        chains.initialize(repeating: DriverChain(), count: Int(size))
        for i in 0..<Int(size) { freeIDs[i] = UInt16(i) }
        (freeRead, freeWrite, free, outstanding) = (0, UInt16(truncatingIfNeeded: size), size, 0)
        (available, used, availableWrap, usedWrap) = (0, 0, true, true)
        (published, shown, kicked) = (0, 0, 0)
        (heldSlot, heldWord, heldDescriptors, heldChains) = (0, 0, 0, 0)
        (oldest, inBatch, batchLast, batchLength) = (0, false, 0, 0)
        (defect, isStopped) = (.none, false)
    }

    /// Takes back the tokens of outstanding chains, at most `max`, when the device is gone or has
    /// reset the ring; all that is left to do with the queue then is `reset()`.
    public mutating func abandon(into tokens: UnsafeMutablePointer<UInt32>, max: Int) -> Int {
        var n = 0
        for id in 0..<Int(size) where n < max && chains[id].count != 0 {
            tokens[n] = chains[id].token
            chains[id].count = 0
            outstanding &-= 1
            n += 1
        }
        return n
    }

    /// The device side of this ring in its initial state, for a device in this process.
    public func deviceSetup(map: MemoryMap = .identity) -> RingSetup {
        RingSetup(
            size: size, isPacked: isPacked, descriptors: descriptors, driverArea: driverArea,
            deviceArea: deviceArea, position: RingPosition(), features: features, map: map)
    }

    // MARK: Bursts

    /// Adds one chain: readable segments, then writable ones. Not visible before `publish()`.
    ///
    /// - Parameter indirect: through an indirect table of the queue, if it has such and the chain fits.
    /// - Returns: false when the ring has no room for it, it is empty or the queue is stopped.
    @inlinable @inline(__always)
    public mutating func add(
        readable: UnsafePointer<Segment>?, _ readableCount: Int, writable: UnsafePointer<Segment>?,
        _ writableCount: Int,
        token: UInt32, indirect: Bool = false
    ) -> Bool {
        isPacked
            ? addPacked(readable, readableCount, writable, writableCount, token, indirect)
            : addSplit(readable, readableCount, writable, writableCount, token, indirect)
    }

    /// Adds chains of one readable segment each, as many as there is room for; returns their number.
    @inlinable @inline(__always)
    public mutating func addTransmit(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int {
        isPacked ? addSinglesPacked(buffers, count, false) : addSinglesSplit(buffers, count, false)
    }

    /// Adds chains of one writable segment each, as many as there is room for; returns their number.
    @inlinable @inline(__always)
    public mutating func addReceive(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int {
        isPacked ? addSinglesPacked(buffers, count, true) : addSinglesSplit(buffers, count, true)
    }

    /// Shows the device everything that was added.
    @inlinable @inline(__always)
    public mutating func publish() {
        if isPacked { publishPacked() } else { publishSplit() }
    }

    /// Takes back used chains, at most `max`; returns their number. When what the device wrote stops
    /// the queue, the chains before the defect still come back.
    @inlinable @inline(__always)
    public mutating func reclaim(into completions: UnsafeMutablePointer<DriverCompletion>, max: Int) -> Int {
        isPacked
            ? (reclaimsInOrder ? reclaimPackedInOrder(completions, max) : reclaimPacked(completions, max))
            : (reclaimsInOrder ? reclaimSplitInOrder(completions, max) : reclaimSplit(completions, max))
    }

    @usableFromInline var reclaimsInOrder: Bool { isInOrder }

    @inline(never)
    mutating func stop(_ kind: RingDefect.Kind, index: UInt32, value: UInt64, length: UInt32 = 0) {
        defect = RingDefect(kind, index: index, value: value, length: length)
        isStopped = true
    }

    @inline(__always)
    func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) &+ delta }

    /// Fills the indirect table of `id`; returns the bytes that the device may write.
    @inline(__always)
    func fillIndirect(
        _ id: UInt16, _ readable: UnsafePointer<Segment>?, _ r: Int, _ writable: UnsafePointer<Segment>?, _ w: Int
    ) -> UInt64 {
        let table = indirectTable(id)
        let n = r &+ w
        var room: UInt64 = 0
        var i = 0
        while i < n {
            let isWritable = i >= r
            let s = isWritable ? writable.unsafelyUnwrapped[i &- r] : readable.unsafelyUnwrapped[i]
            if isWritable { room &+= UInt64(s.length) }
            var flags: UInt16 = isWritable ? DescriptorFlag.write : 0
            // Packed tables are read in order, NEXT is reserved there (2.8.8).
            if !isPacked && i &+ 1 < n { flags |= DescriptorFlag.next }
            let next = UInt16(truncatingIfNeeded: i &+ 1)
            let at = table + i &* 16
            if isPacked {
                PackedDescriptor.write(address(s.base), s.length, id: 0, flags, to: at)
            } else {
                SplitDescriptor.write(address(s.base), s.length, flags, next: i &+ 1 < n ? next : 0, to: at)
            }
            i &+= 1
        }
        return room
    }

    @inline(__always)
    func indirectTable(_ id: UInt16) -> UnsafeMutableRawPointer { indirect + Int(id) &* indirectLength &* 16 }
}
