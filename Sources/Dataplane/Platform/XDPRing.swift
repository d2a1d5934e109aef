import CPlatform
import Glibc

/// One of the four rings that an AF_XDP socket shares with the kernel: one side produces entries, the other consumes
/// them. Indexes run freely. The kernel is trusted no further than it costs nothing: an index of its that cannot be
/// says the ring is full.
struct XDPRing: BitwiseCopyable {
    private let producer: UnsafeMutablePointer<UInt32>
    private let consumer: UnsafeMutablePointer<UInt32>
    private let flags: UnsafeMutablePointer<UInt32>
    private let entries: UnsafeMutableRawPointer
    private let size: UInt32
    /// Ours of the two indexes: the consumer's of what comes, the producer's of what goes.
    private var index: UInt32 = 0

    /// `size`: a power of two. `offsets`: where its parts lie in the mapping that begins at `start`.
    init(_ start: UnsafeMutableRawPointer, _ offsets: xdp_ring_offset, size: Int) {
        producer = (start + Int(offsets.producer)).assumingMemoryBound(to: UInt32.self)
        consumer = (start + Int(offsets.consumer)).assumingMemoryBound(to: UInt32.self)
        flags = (start + Int(offsets.flags)).assumingMemoryBound(to: UInt32.self)
        entries = start + Int(offsets.desc)
        self.size = UInt32(size)
    }

    /// The entry `ahead` behind our index, of frames received and to be sent.
    @inline(__always)
    subscript(frame ahead: Int) -> XDPFrame {
        get { place(ahead, 16).load(as: XDPFrame.self) }
        nonmutating set { place(ahead, 16).storeBytes(of: newValue, as: XDPFrame.self) }
    }

    /// The same of rings of addresses.
    @inline(__always)
    subscript(address ahead: Int) -> UInt64 {
        get { place(ahead, 8).load(as: UInt64.self) }
        nonmutating set { place(ahead, 8).storeBytes(of: newValue, as: UInt64.self) }
    }

    @inline(__always)
    private func place(_ ahead: Int, _ bytes: Int) -> UnsafeMutableRawPointer {
        entries + Int((index &+ UInt32(truncatingIfNeeded: ahead)) & (size &- 1)) &* bytes
    }

    // MARK: Rings that the kernel fills: received frames, completions

    /// Entries that wait for us. Acquire: they were written before the index was.
    @inline(__always)
    var waiting: Int { Int(min(CPlat_load32_acquire(producer) &- index, size)) }

    /// The first `count` of them were read. Release: the kernel may overwrite them.
    @inline(__always)
    mutating func take(_ count: Int) {
        index &+= UInt32(truncatingIfNeeded: count)
        CPlat_store32_release(consumer, index)
    }

    // MARK: Rings that the kernel empties: free frames, frames to be sent

    /// Entries that the kernel has not taken. Acquire: it has read those that it took.
    @inline(__always)
    var outstanding: Int { Int(min(index &- CPlat_load32_acquire(consumer), size)) }

    /// Entries that there is room for.
    @inline(__always)
    var room: Int { Int(size) &- outstanding }

    /// `count` entries behind our index were written. Release: the kernel sees them before the index.
    @inline(__always)
    mutating func put(_ count: Int) {
        index &+= UInt32(truncatingIfNeeded: count)
        CPlat_store32_release(producer, index)
    }

    /// The kernel looks at the ring when it is told to (XDP_USE_NEED_WAKEUP).
    @inline(__always)
    var needsWakeup: Bool { CPlat_load32_relaxed(flags) & UInt32(XDP_RING_NEED_WAKEUP) != 0 }
}

/// `struct xdp_desc`: a frame, or a piece of one, in the UMEM.
struct XDPFrame: BitwiseCopyable {
    /// From the UMEM's first byte on.
    var address: UInt64
    var length: UInt32
    var options: UInt32

    /// The next entry has more of the same frame.
    @inline(__always)
    var goesOn: Bool { options & UInt32(CPlat_XDP_PKT_CONTD) != 0 }
}
