import CPlatform

/// A piece of a packet in somebody's memory.
public struct Segment: BitwiseCopyable {
    public var base: UnsafeMutableRawPointer
    /// Bytes.
    public var length: UInt32
    @inlinable public init(base: UnsafeMutableRawPointer, length: UInt32) {
        self.base = base
        self.length = length
    }
}

/// One packet of a burst: where its bytes lie (in the sender's memory) and what is known of it.
///
/// The frame is `data[0 ..< dataLength]` followed by `moreCount` segments at `more`. Its first
/// `headLength` bytes are replaced by `head` when it is delivered: whatever a decision was based on
/// is written from there, never read from the sender a second time.
public struct Packet: BitwiseCopyable {
    /// The net header, read once.
    public var header: NetHeader
    /// Bytes of the frame, without the net header.
    public var length: UInt32
    public var data: UnsafeMutableRawPointer
    public var dataLength: UInt32
    /// Bytes at the front that come from `head`; at most 24.
    public var headLength: UInt16
    /// The sender's chain: head index (split) or buffer id (packed).
    public var id: UInt16
    public var more: UnsafeMutablePointer<Segment>?
    public var moreCount: UInt16
    /// Ring slots that the chain takes (packed rings advance by it).
    public var slots: UInt16
    /// For the forwarding function: the destination.
    public var verdict: UInt32
    public var head: (UInt64, UInt64, UInt64)

    /// Bytes of `head` at most: what is longer than `head` itself is never copied.
    @inlinable static var longestHead: UInt16 { 24 }
    /// Bytes at the front that come from `head`, never more than it holds.
    @inline(__always) public var headBytes: Int { Int(min(headLength, Packet.longestHead)) }
    /// Pieces of memory that one packet lies in at most; one of more pieces is dropped for its length.
    public static var mostSegments: Int { 1024 }

    /// Shortest and longest frame that is forwarded: an Ethernet header; 64 KiB of segmentation
    /// offload with its headers.
    @inlinable public static var minimumLength: UInt32 { 14 }
    @inlinable public static var maximumLength: UInt32 { 65536 + 64 }

    @inlinable public init(data: UnsafeMutableRawPointer, length: UInt32) {
        header = NetHeader()
        self.length = length
        self.data = data
        dataLength = length
        headLength = 0
        id = 0
        more = nil
        moreCount = 0
        slots = 0
        verdict = 0
        head = (0, 0, 0)
    }
}

/// A receive buffer that was chosen for one packet.
struct ReceiveTarget: BitwiseCopyable {
    var host: UnsafeMutableRawPointer
    var id: UInt16
}

/// A receive chain that a packet is spread over.
struct ReceiveChain: BitwiseCopyable {
    var id: UInt16
    /// Ring slots of the chain (packed).
    var slots: UInt16
    /// Bytes.
    var length: UInt32
}

/// Room for the packets of one burst and their segments, which it owns; belongs to one thread and is used again for
/// each burst.
public struct Burst: ~Copyable {
    private let packetRoom = OwnedMemory<Packet>(count: Burst.maximum)
    private let segmentRoom = OwnedMemory<Segment>(count: Burst.mostSegments)
    private let identityRoom = OwnedMemory<UInt16>(count: Burst.maximum)
    @inline(__always) public var packets: UnsafeMutablePointer<Packet> { packetRoom.start }
    @inline(__always) public var segments: UnsafeMutablePointer<Segment> { segmentRoom.start }
    /// 0, 1, 2 …: the list for "all packets in order".
    @inline(__always) public var identity: UnsafePointer<UInt16> { UnsafePointer(identityRoom.start) }
    public var count = 0
    public var segmentCount = 0
    /// Bytes of the frames.
    public var bytes: UInt64 = 0
    /// Some packet has offload fields, or a length below `Packet.minimumLength` or above `maximumLength`.
    public var needsScreening = false
    /// Somebody will read the frames: their second lines are asked for early, too.
    public var wantsData = true

    /// Packets a burst holds at most.
    public static var maximum: Int { 64 }
    /// Segments a burst holds at most: one chain of as many as the largest ring has descriptors, behind those that make
    /// a burst end early. A longer chain stops its queue.
    public static var mostSegments: Int { 32768 + 2 * maximum }

    public init() {
        assert(Burst.maximum == UInt64.bitWidth, "sets of packets are masks of 64 bits")
        for i in 0..<Burst.maximum { identityRoom[i] = UInt16(i) }
    }
}

/// Room that a delivery works in: the receive buffers that were chosen. It belongs to the thread that delivers, never
/// to the burst: several threads deliver one burst at the same time.
public struct DeliveryScratch: ~Copyable {
    private let targetRoom = OwnedMemory<ReceiveTarget>(count: Burst.maximum)
    private let scatterRoom = OwnedMemory<Segment>(count: DeliveryScratch.mostSegments)
    private let chainRoom = OwnedMemory<ReceiveChain>(count: DeliveryScratch.mostChains)
    var targets: UnsafeMutablePointer<ReceiveTarget> { targetRoom.start }
    var scatter: UnsafeMutablePointer<Segment> { scatterRoom.start }
    var chains: UnsafeMutablePointer<ReceiveChain> { chainRoom.start }
    /// Receive buffers that one packet is spread over at most (the kernel's bound too).
    static var mostChains: Int { 1024 }
    /// Pieces that these buffers have at most. A chain with more stops its queue: no driver of a network device makes
    /// such.
    static var mostSegments: Int { 2048 }
    /// Pieces that one call of `deliver` goes through, and those of one packet more. What is left waits for the next.
    static var mostWork: Int { 16384 }

    public init() {}
}

/// What one call of `deliver` has learned on its slow path.
struct DeliveryWork {
    /// Bytes of the receive buffers at the front that were too few for a packet: nothing longer need be tried there.
    var tooSmall = UInt64.max
    /// Pieces gone through.
    var segments = 0
    var isOver: Bool { segments > DeliveryScratch.mostWork }
}
