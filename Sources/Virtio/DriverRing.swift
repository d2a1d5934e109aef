/// A buffer of one segment for the bursts of a `DriverRing`.
public struct DriverBuffer: BitwiseCopyable {
    /// First byte, as the driver sees it. The memory stays the caller's until the token comes back.
    public var base: UnsafeMutableRawPointer
    /// Bytes.
    public var length: UInt32
    /// Comes back with the completion.
    public var token: UInt32
    /// `length` bytes from `base` on, under a token of the caller's choice.
    @inlinable public init(base: UnsafeMutableRawPointer, length: UInt32, token: UInt32) {
        self.base = base
        self.length = length
        self.token = token
    }
}

/// A chain that the device has used.
public struct DriverCompletion: BitwiseCopyable {
    /// What the chain was added with.
    public var token: UInt32
    /// Bytes that the device wrote: never more than the chain's writable segments hold.
    public var length: UInt32
    /// As the ring says it.
    @inlinable public init(token: UInt32, length: UInt32) {
        self.token = token
        self.length = length
    }
}

/// The driver side of one virtqueue: what rings of both formats can do (virtio 1.3, 2.7 and 2.8).
///
/// A value that one thread uses at a time, best in place. The ring lies in memory that belongs to the caller and is
/// shared with the device; what the driver must remember lies in private memory, which goes with the value. Nothing
/// that the device writes is trusted: a wrong id, index or length stops the queue (`defect`), and then every burst
/// function does nothing.
///
/// A round: `add…` any number of chains, `publish()`, `needsKick()`; later `reclaim`.
public protocol DriverRing: ~Copyable {
    /// The device side of this ring in its initial state, for a device that uses the driver's own addresses.
    var setup: RingSetup { get }
    /// Descriptors of the ring that are free.
    var free: UInt32 { get }
    /// Chains that were added and not yet reclaimed.
    var outstanding: UInt32 { get }
    /// What stopped the queue; `.none` while it works.
    var defect: RingDefect { get }
    /// Whether `reclaim` has something to do.
    var hasUsed: Bool { get }

    /// RING_RESET (2.6.1): the ring as it was made, once the device has let go of it. Tokens of
    /// outstanding chains are forgotten: see `abandon`.
    mutating func reset()
    /// Takes back the tokens of outstanding chains, at most `max`, when the device is gone or has
    /// reset the ring; all that is left to do with the queue then is `reset()`.
    mutating func abandon(into tokens: UnsafeMutablePointer<UInt32>, max: Int) -> Int

    /// Adds one chain: readable segments, then writable ones. Not visible before `publish()`.
    ///
    /// - Parameters:
    ///   - readable: what the device reads; copied into the ring. Nil for none.
    ///   - readableCount: segments at `readable`.
    ///   - writable: what the device writes. Nil for none.
    ///   - writableCount: segments at `writable`.
    ///   - token: comes back with the chain's completion.
    ///   - indirect: through an indirect table of the queue, if it has such and the chain fits.
    /// - Returns: false when the ring has no room for it, it is empty or the queue is stopped.
    mutating func add(
        readable: UnsafePointer<Segment>?, _ readableCount: Int, writable: UnsafePointer<Segment>?,
        _ writableCount: Int, token: UInt32, indirect: Bool
    ) -> Bool
    /// Adds chains of one readable segment each, as many as there is room for; returns their number.
    mutating func addTransmit(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int
    /// Adds chains of one writable segment each, as many as there is room for; returns their number.
    mutating func addReceive(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int
    /// Shows the device everything that was added.
    mutating func publish()
    /// Takes back used chains, at most `max`; returns their number. When what the device wrote stops
    /// the queue, the chains before the defect still come back.
    mutating func reclaim(into completions: UnsafeMutablePointer<DriverCompletion>, max: Int) -> Int

    /// Whether the device wants a kick for what `publish()` has shown since the last call.
    mutating func needsKick() -> Bool
    /// Asks for a call at the next used chain.
    ///
    /// - Returns: true when there is something to reclaim already: the call may never come, so reclaim
    ///   instead of sleeping. Also true when the queue is stopped.
    mutating func armCalls() -> Bool
    /// Asks for no calls. With EVENT_IDX a split ring can only put the event far away (2.7.7): a call
    /// comes after 32768 chains unless this is called again.
    mutating func suppressCalls()
    /// What a kick carries with NOTIFICATION_DATA (2.9, 4.1.5.2): queue index in bits 0–15, where the
    /// next available entry will be in bits 16–30, and in bit 31 its wrap counter (packed) or bit 15
    /// of the available index (split).
    func notificationData(queueIndex: UInt16) -> UInt32
}

extension DriverRing where Self: ~Copyable {
    /// Descriptors of the ring.
    public var size: UInt32 { setup.size }
    /// The format: packed (2.8) or split (2.7).
    public var isPacked: Bool { setup.isPacked }
    /// Split: descriptor table. Packed: descriptor ring. In the driver's memory.
    public var descriptors: UnsafeMutableRawPointer { setup.descriptors }
    /// Split: available ring. Packed: driver event suppression.
    public var driverArea: UnsafeMutableRawPointer { setup.driverArea }
    /// Split: used ring. Packed: device event suppression.
    public var deviceArea: UnsafeMutableRawPointer { setup.deviceArea }
    /// A defect was found: burst functions do nothing any more, until `reset()`.
    @inlinable @inline(__always) public var isStopped: Bool { defect.kind != .none }

    /// The device side of this ring in its initial state, for a device in this process.
    public func deviceSetup(map: MemoryMap = .identity) -> RingSetup {
        var setup = setup
        setup.map = map
        return setup
    }
}
