import CPlatform

/// One packet of a burst: where its bytes lie, and what is known of it. 64 bytes: one cache line.
///
/// The frame is its *front*, `frontLength` bytes of private memory, followed by what is left of the sender's: `data`
/// from `skip` to `dataLength`, then `moreCount` segments at `more`. A frame of which nobody has looked at a byte has
/// no front. What a decision is based on is read into the front once (`loadFront`) and delivered from there: the sender
/// cannot change it any more. Headers are put on and taken off in the front; the payload stays where it lies.
///
/// Always: `length` = `frontLength` + (`dataLength` - `skip`) + the lengths of `more`, and `skip` <= `dataLength`.
/// Whoever delivers chooses its buffers by `length` and copies the pieces.
public struct PacketSlot: BitwiseCopyable {
    /// The net header, read once.
    public var header: NetHeader
    /// Bytes of the frame, without the net header.
    public var length: UInt32
    /// First byte of the frame's first segment, in the sender's memory, behind the net header.
    public var data: UnsafeMutableRawPointer
    /// Bytes at `data`.
    public var dataLength: UInt32
    /// For the forwarding function: the destination.
    public var verdict: UInt32
    /// The frame's further segments, among the burst's; nil where there are none.
    public var more: UnsafeMutablePointer<Segment>?
    /// Segments at `more`.
    public var moreCount: UInt16
    /// Ring slots that the chain takes (packed rings advance by it).
    public var slots: UInt16
    /// The sender's chain: head index (split) or buffer id (packed).
    public var id: UInt16
    /// Where the front lies and what it stands for; `nothing` while nobody has looked at the frame.
    public var front: Front
    /// Private memory of this slot, `PacketSlot.roomBytes` long (`madeRoomBytes` where the slot is for packets that a
    /// function makes). Belongs to the burst, never changes.
    public let room: UnsafeMutableRawPointer

    /// Four numbers in one word, so that a change of all of them is one addition.
    public struct Front: BitwiseCopyable, Equatable {
        /// From the lowest bit: bytes (12 bits), bytes of `data` that they stand for (12), by how much the frame has
        /// become longer since it came (28, and a bias that keeps it above 0), where in the room they begin (12).
        @usableFromInline var word: UInt64

        @inlinable @inline(__always)
        init(length: Int, skip: Int, start: Int = PacketSlot.frontPlace, growth: Int = 0) {
            assert(length >> 12 == 0 && skip >> 12 == 0 && start >> 12 == 0)
            word = UInt64(truncatingIfNeeded: length | skip &<< 12 | (growth &+ Front.bias) &<< 24 | start &<< 52)
        }
        @inlinable init(word: UInt64) { self.word = word }

        @inlinable static var bias: Int { 1 << 27 }
        /// Nobody has looked at the frame.
        @inlinable public static var nothing: Front { @inline(__always) get { Front(word: 0) } }
        @inlinable @inline(__always) public static func == (a: Front, b: Front) -> Bool { a.word == b.word }
        /// The MAC addresses alone, at the beginning of the room: what most functions look at, so it is delivered by a
        /// way of its own. No other front begins there.
        @inlinable static var addresses: Front { @inline(__always) get { Front(length: 12, skip: 12, start: 0) } }
        /// A front of `n` bytes (at most `longestFront`) as it is read, for `loadFront`. Of 12: the addresses alone.
        @inlinable @inline(__always)
        public static func wanted(_ n: Int) -> Front {
            n == 12 ? .addresses : Front(length: min(max(0, n), longestFront), skip: min(max(0, n), longestFront))
        }
        /// Neither nothing nor addresses alone.
        @inlinable @inline(__always) var isLarge: Bool { word >= 1 &<< 52 }
        /// Bytes of the front.
        @inlinable @inline(__always) public var length: Int { Int(truncatingIfNeeded: word & 0xfff) }
        /// Bytes of `data` that it stands for.
        @inlinable @inline(__always) public var skip: Int { Int(truncatingIfNeeded: word &>> 12 & 0xfff) }
        /// Where it begins in the slot's room, in bytes.
        @inlinable @inline(__always) public var start: Int { Int(truncatingIfNeeded: word &>> 52) }
        /// By how many bytes the frame has become longer since it came; negative: shorter.
        public var growth: Int { self == .nothing ? 0 : Int(truncatingIfNeeded: word &>> 24 & 0xfff_ffff) - Front.bias }

        /// `n` bytes more at its beginning (fewer: negative).
        @inlinable @inline(__always)
        mutating func grow(by n: Int) {
            assert(start >= n && length + n >= 0 && length + n <= 0xfff)
            word = word &+ UInt64(truncatingIfNeeded: n &+ n &<< 24 &- n &<< 52)
        }
    }

    /// Bytes of the front.
    @inlinable @inline(__always) public var frontLength: Int { front.length }
    /// Bytes of `data` that the front stands for.
    @inlinable @inline(__always) public var skip: Int { front.skip }
    /// Where the front begins.
    @inlinable @inline(__always) public var frontBytes: UnsafeMutableRawPointer { room + front.start }
    /// Bytes of the frame as it came.
    public var received: Int { Int(length) - front.growth }

    /// Bytes before a frame's front that can be put on it.
    @inlinable public static var headroom: Int { 128 }
    /// Where a front is put that headers can go before.
    @inlinable public static var frontPlace: Int { 64 + headroom }
    @inlinable static var tailPlace: Int { frontPlace + longestFront }
    /// Bytes of a front as it is read from the sender, at most.
    @inlinable public static var longestFront: Int { 256 }
    /// Bytes that can be appended.
    @inlinable public static var tailroom: Int { 64 }
    /// An odd number of cache lines: slots' fronts lie in different cache sets.
    @inlinable public static var roomBytes: Int { tailPlace + 2 * tailroom }
    /// Room of a packet that a function makes: a full frame of an Ethernet without jumbo frames.
    @inlinable public static var madeRoomBytes: Int { 2048 - 64 }

    /// Pieces of memory that one packet lies in at most; one of more pieces is dropped for its length.
    public static var mostSegments: Int { 1024 }

    /// Shortest and longest frame that is forwarded: an Ethernet header; 64 KiB of segmentation
    /// offload with its headers.
    @inlinable public static var minimumLength: UInt32 { 14 }
    /// Longest frame that is forwarded, in bytes.
    @inlinable public static var maximumLength: UInt32 { 65536 + 64 }

    /// An empty slot.
    init(room: UnsafeMutableRawPointer) {
        self.room = room
        header = NetHeader()
        (data, more, front) = (room, nil, .nothing)
        (length, dataLength, verdict) = (0, 0, 0)
        (moreCount, slots, id) = (0, 0, 0)
    }

    /// Pieces that the frame consists of, also empty ones: the front, what is left of `data`, and `more`.
    public var pieces: Int { 2 + Int(moreCount) }

    /// A piece by its place; nil behind the last.
    @inlinable @inline(__always)
    public func piece(_ i: Int) -> Segment? {
        if i == 0 { return Segment(base: frontBytes, length: UInt32(truncatingIfNeeded: frontLength)) }
        if i == 1 { return Segment(base: data + skip, length: dataLength &- UInt32(truncatingIfNeeded: skip)) }
        return i &- 2 < Int(moreCount) ? more.unsafelyUnwrapped[i &- 2] : nil
    }

    /// A packet of one piece without a front; everything else as in a new slot.
    public mutating func place(_ data: UnsafeMutableRawPointer, _ length: UInt32) {
        self = PacketSlot(room: room)
        self.data = data
        (self.length, dataLength) = (length, length)
    }

    // MARK: Slots of packets that a function makes

    /// Bytes of a frame that has no payload but its front.
    public static var madeLengths: ClosedRange<Int> { Int(minimumLength)...madeRoomBytes - frontPlace - tailroom }

    /// A packet of `length` bytes of zero, all of them front. `length`: of `madeLengths`.
    public mutating func make(_ length: Int) {
        place(room, 0)
        front = Front(length: length, skip: 0, growth: length)
        self.length = UInt32(length)
        CPlat_zero(frontBytes, UInt64(length))
    }
}
