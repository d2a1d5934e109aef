/// What became of the packets handed to `deliver`.
public struct Delivery: BitwiseCopyable {
    /// Entries of the list that were dealt with, delivered or not; the rest found no receive buffers.
    public var consumed: Int
    /// Of those, packets that now lie in the driver's buffers.
    public var delivered: Int
    /// Bytes of the delivered frames, without net headers.
    public var bytes: UInt64

    /// What one call did.
    public init(consumed: Int, delivered: Int, bytes: UInt64) {
        self.consumed = consumed
        self.delivered = delivered
        self.bytes = bytes
    }
}

/// The device side of one virtqueue: what rings of both formats can do. A plain value that belongs to one thread.
///
/// Nothing here calls the system, allocates or locks. Everything read from the ring is read once
/// into a local and checked; on a defect the queue stops (`defect` says why), and every later call
/// does nothing.
public protocol DeviceRing {
    /// A queue on a ring that goes on at `setup.position`. The ring's memory and the map belong to the caller and
    /// outlive the queue.
    init(_ setup: RingSetup)

    /// Descriptors of the ring.
    var size: UInt32 { get }
    /// What the driver accepted.
    var features: Features { get }
    /// Where guest memory lies.
    var map: MemoryMap { get }
    /// Why the queue stopped; `.none` while it works.
    var defect: RingDefect { get }
    /// Where the ring stands; valid when every popped chain was completed and nothing is held back.
    var position: RingPosition { get }
    /// Whether the driver has made something available that was not popped yet.
    var hasWork: Bool { get }
    /// Chains (split) or descriptors (packed) that were completed and that the driver was not told.
    var held: Int { get }
    /// How many completions it pays to hold back under load: telling the driver of many at a time takes fewer writes to
    /// lines that it reads. 0: none can be, as each has a line of its own. Found with `tools/compare`; with more than
    /// 128 DPDK's in-order driver becomes slower.
    var bestHold: Int { get }
    /// Whether the driver has made something available `n` entries (split) or descriptors (packed) further on.
    func hasAvailable(ahead n: Int) -> Bool

    /// Fills `burst` with up to `limit` packets of the driver's transmit chains. With `leave` the newest chains (in
    /// packed rings: descriptors) are left for later, and nothing is taken unless `least` can be. Returns the number.
    mutating func popTransmit(_ burst: inout Burst, limit: Int, leave: Int, least: Int) -> Int
    /// Takes the last `count` popped chains back into the ring, as if they had not been popped: the
    /// next pop reads and checks them anew. Nothing after them may have been completed.
    mutating func unpop(_ packets: UnsafePointer<PacketSlot>, _ count: Int)
    /// Hands `count` popped chains back to the driver, in the order they were popped. It is told at once, unless they
    /// are held back (`bestHold`) until `publishHeld`.
    mutating func complete(_ packets: UnsafePointer<PacketSlot>, _ count: Int, hold: Bool)
    /// Tells the driver of what is held back.
    mutating func publishHeld()
    /// Copies the listed packets of `burst` into the driver's receive buffers and publishes them once.
    /// A packet that does not fit the buffers (without MRG_RXBUF) is consumed, but not delivered.
    /// `burst` is only read, so several threads may deliver it at once, each with a scratch and queues of its own.
    mutating func deliver(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, with scratch: borrowing DeliveryScratch
    ) -> Delivery
    /// Whether the driver wants a call for what was published since the last question. Ask once a burst. The first
    /// answer after the ring's start is yes.
    mutating func needsCall() -> Bool
    /// The next decision calls. For a new call descriptor: whatever was decided before, nobody may have heard of it.
    mutating func forgetCalls()
    /// Asks the driver to kick, then looks again: true if there is work already, so that no kick is lost.
    mutating func armKicks() -> Bool
    /// Asks the driver not to kick; a hint (2.7.7, 2.8.10).
    mutating func suppressKicks()
    /// Uses another map from now on (slots were added).
    mutating func use(_ map: MemoryMap)
    /// Stops the queue for a reason found outside the ring core.
    mutating func stop(_ reason: RingDefect)
    /// Takes the next command off a control queue and copies it into `room` (at most its count; what
    /// is longer is cut, and refused by the caller's length checks). Nil when there is none or on a defect.
    mutating func popControl(into room: ControlRoom) -> ControlCommand?
    /// Writes the answer byte (`ControlCode.ok` or `.error`) and hands the command back.
    mutating func completeControl(_ command: ControlCommand, answer: UInt8)
}
