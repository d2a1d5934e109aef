import CPlatform

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
    private let packetRoom = OwnedMemory<PacketSlot>(count: 2 * Burst.maximum)
    /// The slots' private memory. Large: the pages of rooms that nobody uses are never there.
    private let rooms = OwnedMemory<UInt8>(
        count: Burst.maximum * (PacketSlot.roomBytes + PacketSlot.madeRoomBytes))
    private let segmentRoom = OwnedMemory<Segment>(count: Burst.mostSegments)
    private let placeRoom = OwnedMemory<UnsafeMutablePointer<PacketSlot>>(count: Burst.maximum)
    /// Where the packets of the ring lie, in order: the list for a function that judges all of them.
    @inline(__always)
    public var places: SlotList { SlotList(placeRoom.start) }
    private let identityRoom = OwnedMemory<UInt16>(count: Burst.maximum)
    /// `maximum` packets of the ring, then as many that the packet function has made.
    @inline(__always) public var packets: UnsafeMutablePointer<PacketSlot> { packetRoom.start }
    /// Where the packets' further segments lie: `mostSegments` places, of which `segmentCount` are taken.
    @inline(__always) public var segments: UnsafeMutablePointer<Segment> { segmentRoom.start }
    /// 0, 1, 2 …: the list for "all packets in order".
    @inline(__always) public var identity: UnsafePointer<UInt16> { UnsafePointer(identityRoom.start) }
    /// Packets that were popped into this burst.
    public var count = 0
    /// Sets of ports that packets of this burst go to.
    public let sets = OwnedMemory<PortSet>(count: Verdict.mostSets)
    /// What the function has done to the burst.
    public var work = FunctionWork()
    /// Places of `segments` that are taken.
    public var segmentCount = 0
    /// Bytes of the frames.
    public var bytes: UInt64 = 0
    /// Some packet has offload fields, or a length below `PacketSlot.minimumLength` or above `maximumLength`.
    public var needsScreening = false
    /// Somebody will read the frames: their second lines are asked for early, too.
    public var wantsData = true

    /// Packets a burst holds at most.
    public static var maximum: Int { 64 }
    /// Segments a burst holds at most: one chain of as many as the largest ring has descriptors, behind those that make
    /// a burst end early. A longer chain stops its queue.
    public static var mostSegments: Int { 32768 + 2 * maximum }

    /// An empty burst: allocates its rooms, about half a megabyte of addresses, of which pages are used as packets need
    /// them.
    public init() {
        assert(Burst.maximum == UInt64.bitWidth, "sets of packets are masks of 64 bits")
        for i in 0..<Burst.maximum { identityRoom[i] = UInt16(i) }
        let room = UnsafeMutableRawPointer(rooms.start)
        for i in 0..<Burst.maximum {
            packetRoom[i] = PacketSlot(room: room + i * PacketSlot.roomBytes)
            placeRoom[i] = packetRoom.start + i
            let made = room + Burst.maximum * PacketSlot.roomBytes + i * PacketSlot.madeRoomBytes
            packetRoom[Burst.maximum + i] = PacketSlot(room: made)
        }
    }

    /// Takes `room` of the segments that are left, and begins them with copies of `count` others; nil: fewer are left.
    mutating func copySegments(
        _ from: UnsafeMutablePointer<Segment>?, _ count: Int, room: Int
    ) -> UnsafeMutablePointer<Segment>? {
        if room > Burst.mostSegments - segmentCount { return nil }
        let list = segments + segmentCount
        for i in 0..<count { list[i] = from.unsafelyUnwrapped[i] }
        segmentCount += room
        return list
    }
}

/// Packets of a burst by where they lie, for who looks at each of them. Whoever made the list knows how many they are,
/// and keeps its memory as long as it is used.
public struct SlotList: BitwiseCopyable {
    @usableFromInline let places: UnsafeMutablePointer<UnsafeMutablePointer<PacketSlot>>

    @inlinable @inline(__always)
    init(_ places: UnsafeMutablePointer<UnsafeMutablePointer<PacketSlot>>) { self.places = places }

    /// Where a packet lies.
    @inlinable @inline(__always)
    public subscript(_ i: Int) -> UnsafeMutablePointer<PacketSlot> {
        get { places[i] }
        nonmutating set { places[i] = newValue }
    }

    /// Lends `body` an empty list that a whole burst fits into.
    @inlinable @inline(__always)
    public static func withRoom<Result>(_ body: (SlotList) -> Result) -> Result {
        withUnsafeTemporaryAllocation(of: UnsafeMutablePointer<PacketSlot>.self, capacity: Burst.maximum) {
            body(SlotList($0.baseAddress.unsafelyUnwrapped))
        }
    }
}

extension UnsafeMutablePointer where Pointee == PacketSlot {
    /// Reads the fronts of `n` packets that nobody has looked at.
    @inline(__always)
    public func loadFronts(_ n: Int, _ wanted: PacketSlot.Front) {
        if wanted == .addresses {
            loadAddresses(n, wanted)
        } else if wanted.length > 0 {
            loadLarge(n, wanted)
        }
    }

    @inline(never)
    func loadLarge(_ n: Int, _ wanted: PacketSlot.Front) {
        let (length, lines) = (UInt32(truncatingIfNeeded: wanted.length), wanted.length &>> 6)
        var packet = self
        let end = self + n
        if wanted.length & 63 == 0 {
            // Whole cache lines.
            while packet < end {
                if packet.pointee.dataLength >= length {
                    CPlat_copy_lines(
                        packet.pointee.room + PacketSlot.frontPlace, packet.pointee.data,
                        UInt64(truncatingIfNeeded: lines))
                    packet.pointee.front = wanted
                } else {
                    packet.pointee.loadFront(wanted)
                }
                packet += 1
            }
            return
        }
        while packet < end {
            packet.pointee.loadFront(wanted)
            packet += 1
        }
    }

    /// Four at a time: what is done is little more than the loop itself.
    @inline(never)
    func loadAddresses(_ n: Int, _ addresses: PacketSlot.Front) {
        var i = 0
        while i &+ 3 < n {
            self[i].loadAddresses(addresses)
            self[i &+ 1].loadAddresses(addresses)
            self[i &+ 2].loadAddresses(addresses)
            self[i &+ 3].loadAddresses(addresses)
            i &+= 4
        }
        while i < n {
            self[i].loadAddresses(addresses)
            i &+= 1
        }
    }
}

/// What a packet function has done to a burst, beside its verdicts.
public struct FunctionWork: BitwiseCopyable {
    /// Packets that it has made, from `packets[Burst.maximum]` on.
    public var made: UInt16 = 0
    /// Sets of ports that its packets go to.
    public var sets: UInt16 = 0
    /// It has made packets, or may have made one shorter than an Ethernet header.
    public var isReviewed: UInt32 = 0

    /// Counters that functions have at most, a power of two.
    @inlinable public static var mostCounters: Int { 64 }

    /// Nothing was done yet.
    @inlinable public init() {}
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

    /// Allocates its rooms. One per thread that delivers.
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

extension PacketSlot {
    /// The same packet as `other`, of the same burst, but for its verdict: the front is copied, the rest pointed at.
    /// False where the list of its pieces has no room among the burst's segments.
    public mutating func take(_ other: borrowing PacketSlot, _ burst: inout Burst) -> Bool {
        let count = Int(other.moreCount)
        guard let list = burst.copySegments(other.more, count, room: count) else { return false }
        place(other.data, other.length)
        header = other.header
        dataLength = other.dataLength
        front = other.front
        CPlat_copy_short(frontBytes, other.frontBytes, UInt64(truncatingIfNeeded: other.frontLength))
        (more, moreCount) = (list, other.moreCount)
        return true
    }
}
