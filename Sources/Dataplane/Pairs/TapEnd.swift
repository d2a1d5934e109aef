import CLiburing
import CPlatform
import Glibc
import Memory
import Virtio

/// A queue of a TAP device. Reads wait in an io_uring of its own, whose descriptor is readable when frames have
/// come; frames are written through a second one, a burst with one system call that returns when all are done, so
/// they go out straight from the sender's memory. Belongs to the poll thread that owns the pair.
struct TapEnd: ~Copyable {
    let fd: Int32
    /// Eventfd that is written, once, when the interface has gone.
    private let goneFD: Int32
    private var isGone = false
    private let readRing: OwnedIOUring
    private let writeRing: OwnedIOUring
    private var reads: UnsafeMutablePointer<io_uring> { readRing.ring }
    private var writes: UnsafeMutablePointer<io_uring> { writeRing.ring }
    private let buffers: UnsafeMutableRawPointer
    private let lengths = OwnedMemory<Int32>(count: TapEnd.frames)
    /// Buffers with frames in the order they came: those from `first` were popped and not completed, those from `next`
    /// not popped. Free-running indexes.
    private let order = OwnedMemory<Int>(count: TapEnd.frames)
    private var first = 0
    private var next = 0
    private var end = 0
    /// Reads that wait in the kernel.
    private var outstanding = 0
    /// 64 bytes a frame: net header and head.
    private let headers = OwnedMemory<UInt64>(count: TapEnd.frames * 8)
    private let vectors = OwnedMemory<iovec>(count: TapEnd.frames * TapEnd.parts)
    private let results = OwnedMemory<Int32>(count: TapEnd.frames)
    private static var frames: Int { 32 }
    /// A frame of 64 KiB with headers.
    private static var room: Int { 65536 + 128 }
    /// Parts of a frame that is written: header, head and what is left.
    private static var parts: Int { 64 }
    private static var cancelTag: UInt64 { 1 << 32 }

    /// `fd` blocks: a read without a frame waits in the kernel.
    init(fd: Int32, goneFD: Int32) throws(EngineError) {
        let readRing = try OwnedIOUring(entries: UInt32(2 * TapEnd.frames))
        let writeRing = try OwnedIOUring(entries: UInt32(2 * TapEnd.frames))
        self.init(fd, goneFD, readRing, writeRing)
    }

    private init(
        _ fd: Int32, _ goneFD: Int32, _ readRing: consuming OwnedIOUring, _ writeRing: consuming OwnedIOUring
    ) {
        self.fd = fd
        self.goneFD = goneFD
        self.readRing = readRing
        self.writeRing = writeRing
        buffers = .allocate(byteCount: TapEnd.frames * TapEnd.room, alignment: 64)
    }

    deinit {
        // A read that could not be cancelled may still be written into.
        if outstanding == 0 { buffers.deallocate() }
    }

    /// Readable when there are frames.
    var incoming: Int32 { reads.pointee.ring_fd }

    /// On the poll thread: begins to read.
    mutating func start() {
        for i in 0..<TapEnd.frames { read(i) }
        IOUring.submit(reads)
    }

    /// On the poll thread, as the last: afterwards the kernel writes into no buffer any more.
    mutating func cancel() {
        for buffer in 0..<TapEnd.frames {
            guard let sqe = IOUring.entry(reads) else { break }
            io_uring_prep_cancel64(sqe, UInt64(buffer), 0)
            sqe.pointee.user_data = TapEnd.cancelTag
        }
        var patience = 1000
        while outstanding > 0 && patience > 0 {
            IOUring.submit(reads)
            collect(isEnding: true)
            if outstanding > 0 { usleep(100) }
            patience &-= 1
        }
    }

    // MARK: From the kernel

    /// Up to `limit` frames; they stay in place until `complete`.
    mutating func pop(_ burst: inout Burst, limit: Int) -> Int {
        collect()
        burst.bytes = 0
        burst.needsScreening = false
        burst.segmentCount = 0
        var count = 0
        while count < limit && next != end {
            let buffer = order[next % TapEnd.frames]
            next &+= 1
            let start = buffers + buffer &* TapEnd.room
            // `collect` leaves nothing out that is shorter than a header: its packet is empty, and screening drops it.
            var packet = burst.packets[count]
            _ = packet.receive(at: start, UInt32(lengths[buffer]))
            packet.header.flags &= NetHeader.needsCsum
            packet.slots = 1
            if !packet.header.isPlain || packet.length < PacketSlot.minimumLength { burst.needsScreening = true }
            burst.packets[count] = packet
            burst.bytes &+= UInt64(packet.length)
            count &+= 1
        }
        burst.count = count
        return count
    }

    /// There is room: each buffer has one request at most, and requests have twice the places.
    private mutating func read(_ i: Int) {
        guard let sqe = IOUring.entry(reads) else { return assertionFailure("no room for a read") }
        io_uring_prep_read(sqe, fd, buffers + i &* TapEnd.room, UInt32(TapEnd.room), 0)
        sqe.pointee.user_data = UInt64(i)
        outstanding &+= 1
    }

    /// Takes finished reads over. A read that failed is made again, unless the interface has gone.
    private mutating func collect(isEnding: Bool = false) {
        while let (tag, result) = TapEnd.completion(reads) {
            if tag >= UInt64(TapEnd.frames) { continue }
            outstanding &-= 1
            if result < 0 {
                failed(Int(tag), result, isEnding)
                continue
            }
            lengths[Int(tag)] = result
            order[end % TapEnd.frames] = Int(tag)
            end &+= 1
        }
        // Reads that were made again, and those that the kernel did not take the last time.
        if !isEnding && io_uring_sq_ready(reads) > 0 { IOUring.submit(reads) }
    }

    @inline(never)
    private mutating func failed(_ i: Int, _ result: Int32, _ isEnding: Bool) {
        if TapEnd.isLoss(result) { return reportGone() }
        // No memory, a signal: the interface is there.
        if !isEnding && result != -ECANCELED { read(i) }
    }

    /// What the kernel answers when the interface was deleted: EBADFD, and to a read that waits EFAULT.
    private static func isLoss(_ result: Int32) -> Bool {
        [-EBADFD, -EFAULT, -EIO, -ENODEV, -ENXIO].contains(result)
    }

    @inline(never)
    private mutating func reportGone() {
        if isGone { return }
        isGone = true
        EventFD.signalOwn(goneFD)
    }

    /// The next completion of a ring, if it is there.
    private static func completion(_ ring: UnsafeMutablePointer<io_uring>) -> (tag: UInt64, result: Int32)? {
        let head = ring.pointee.cq.khead.pointee
        if CPlat_load32_acquire(ring.pointee.cq.ktail) == head { return nil }
        let cqe = ring.pointee.cq.cqes + Int(head & ring.pointee.cq.ring_mask)
        let found = (cqe.pointee.user_data, cqe.pointee.res)
        CPlat_store32_release(ring.pointee.cq.khead, head &+ 1)
        return found
    }

    /// The last `n` popped frames will be popped again.
    mutating func unpop(_ n: Int) { next &-= n }

    /// The oldest `n` popped frames are done with: their buffers wait for frames again.
    mutating func complete(_ n: Int) {
        for _ in 0..<n {
            read(order[first % TapEnd.frames])
            first &+= 1
        }
        if n > 0 { IOUring.submit(reads) }
    }

    /// Whether there is something to pop, or to hand to the kernel: asked before sleeping.
    func arm() -> Bool {
        next != end || io_uring_sq_ready(reads) > 0
            || CPlat_load32_acquire(reads.pointee.cq.ktail) != reads.pointee.cq.khead.pointee
    }

    // MARK: To the kernel

    /// Writes the listed packets. What the kernel does not take (the interface is down, no memory) is consumed
    /// without being delivered.
    mutating func deliver(_ burst: borrowing Burst, _ list: PacketList) -> Delivery {
        var result = Delivery(consumed: 0, delivered: 0, bytes: 0)
        while result.consumed < list.count {
            let batch = min(TapEnd.frames, list.count &- result.consumed)
            var entries = 0
            for place in 0..<batch {
                // None when the kernel takes nothing: the rest is consumed without being delivered.
                guard let sqe = IOUring.entry(writes) else { break }
                let packet = burst.packets + list[result.consumed &+ place]
                let vector = vectors.start + place &* TapEnd.parts
                let parts = gather(packet, UnsafeMutableRawPointer(headers.start + place &* 8), vector)
                // A packet in too many pieces fails with EINVAL, as no pieces at all would.
                io_uring_prep_writev(sqe, fd, vector, UInt32(parts), 0)
                sqe.pointee.user_data = UInt64(place)
                entries &+= 1
            }
            finishWrites(entries)
            for place in 0..<entries where results[place] == -EBADFD { reportGone() }
            for place in 0..<entries where results[place] > 0 {
                result.delivered &+= 1
                result.bytes &+= UInt64(burst.packets[list[result.consumed &+ place]].length)
            }
            result.consumed &+= batch
        }
        return result
    }

    /// Submits `count` writes and waits for their results: they do not wait for anybody but the kernel.
    private func finishWrites(_ count: Int) {
        for place in 0..<count { results[place] = -EAGAIN }
        var left = count
        var patience = 16
        var wanted = UInt32(count)
        while left > 0 {
            if let (tag, result) = TapEnd.completion(writes) {
                if tag >= UInt64(TapEnd.frames) { continue }
                results[Int(tag)] = result
                left &-= 1
                continue
            }
            let status = io_uring_submit_and_wait(writes, wanted)
            wanted = 1
            if status >= 0 || status == -EINTR { continue }
            patience &-= 1
            // What is under way reads the sender's memory and is waited for; what the kernel does not take is given up.
            if patience <= 0 { left &-= IOUring.withdraw(writes, tag: TapEnd.cancelTag) }
            sched_yield()
        }
    }

    /// Net header and front from private memory, so that what was judged goes out; the rest from where it lies.
    private func gather(
        _ packet: UnsafeMutablePointer<PacketSlot>, _ room: UnsafeMutableRawPointer, _ to: UnsafeMutablePointer<iovec>
    ) -> Int {
        packet.writeHeader(to: room)
        to[0] = iovec(iov_base: room, iov_len: PacketSlot.headerLength)
        var (count, piece) = (1, 0)
        while let segment = packet.pointee.piece(piece) {
            piece &+= 1
            if segment.length == 0 { continue }
            if count == TapEnd.parts { return 0 }
            to[count] = iovec(iov_base: segment.base, iov_len: Int(segment.length))
            count &+= 1
        }
        return count
    }
}
