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
    private let reads: OwnedIOUring
    private let writes: OwnedIOUring
    /// What the kernel writes into as long as reads wait there.
    private let buffers: TapBuffers
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
        let reads = try OwnedIOUring(entries: UInt32(2 * TapEnd.frames))
        let writes = try OwnedIOUring(entries: UInt32(2 * TapEnd.frames))
        self.init(fd, goneFD, reads, writes)
    }

    private init(_ fd: Int32, _ goneFD: Int32, _ reads: consuming OwnedIOUring, _ writes: consuming OwnedIOUring) {
        self.fd = fd
        self.goneFD = goneFD
        self.reads = reads
        self.writes = writes
        buffers = TapBuffers(count: TapEnd.frames, size: TapEnd.room)
    }

    deinit {
        // A read that could not be cancelled may still be written into.
        if outstanding > 0 { buffers.keepForever() }
    }

    /// Readable when there are frames.
    var incoming: Int32 { reads.fd }

    /// On the poll thread: begins to read.
    mutating func start() {
        for i in 0..<TapEnd.frames { read(i) }
        reads.submit()
    }

    /// On the poll thread, as the last: afterwards the kernel writes into no buffer any more.
    mutating func cancel() {
        for buffer in 0..<TapEnd.frames {
            guard let sqe = reads.entry() else { break }
            io_uring_prep_cancel64(sqe, UInt64(buffer), 0)
            sqe.pointee.user_data = TapEnd.cancelTag
        }
        var patience = 1000
        while outstanding > 0 && patience > 0 {
            reads.submit()
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
            let start = buffers.start + buffer &* TapEnd.room
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
        guard let sqe = reads.entry() else { return assertionFailure("no room for a read") }
        io_uring_prep_read(sqe, fd, buffers.start + i &* TapEnd.room, UInt32(TapEnd.room), 0)
        sqe.pointee.user_data = UInt64(i)
        outstanding &+= 1
    }

    /// Takes finished reads over. A read that failed is made again, unless the interface has gone.
    private mutating func collect(isEnding: Bool = false) {
        while let read = reads.completion() {
            if read.tag >= UInt64(TapEnd.frames) { continue }
            outstanding &-= 1
            if read.result < 0 {
                failed(Int(read.tag), read.result, isEnding)
                continue
            }
            lengths[Int(read.tag)] = read.result
            order[end % TapEnd.frames] = Int(read.tag)
            end &+= 1
        }
        // Reads that were made again, and those that the kernel did not take the last time.
        if !isEnding && reads.queued > 0 { reads.submit() }
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

    /// The last `n` popped frames will be popped again.
    mutating func unpop(_ n: Int) { next &-= n }

    /// The oldest `n` popped frames are done with: their buffers wait for frames again.
    mutating func complete(_ n: Int) {
        for _ in 0..<n {
            read(order[first % TapEnd.frames])
            first &+= 1
        }
        if n > 0 { reads.submit() }
    }

    /// Whether there is something to pop, or to hand to the kernel: asked before sleeping.
    func arm() -> Bool { next != end || reads.queued > 0 || reads.hasCompletions }

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
                guard let sqe = writes.entry() else { break }
                let parts = gather(burst, list[result.consumed &+ place], place)
                // A packet in too many pieces fails with EINVAL, as no pieces at all would.
                io_uring_prep_writev(sqe, fd, vectors.start + place &* TapEnd.parts, UInt32(parts), 0)
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
            if let written = writes.completion() {
                if written.tag >= UInt64(TapEnd.frames) { continue }
                results[Int(written.tag)] = written.result
                left &-= 1
                continue
            }
            let status = io_uring_submit_and_wait(writes.ring, wanted)
            wanted = 1
            if status >= 0 || status == -EINTR { continue }
            patience &-= 1
            // What is under way reads the sender's memory and is waited for; what the kernel does not take is given up.
            if patience <= 0 { left &-= writes.withdraw(tag: TapEnd.cancelTag) }
            sched_yield()
        }
    }

    /// Lists the parts of packet `index` in the vector of write `place`; returns how many they are, 0 for too many. Net
    /// header and front come from private memory, so that what was judged goes out; the rest from where it lies.
    private func gather(_ burst: borrowing Burst, _ index: Int, _ place: Int) -> Int {
        let room = headers.start + place &* 8
        let first = place &* TapEnd.parts
        (burst.packets + index).writeHeader(to: room)
        vectors[first] = iovec(iov_base: room, iov_len: PacketSlot.headerLength)
        var (count, piece) = (1, 0)
        while let segment = burst.packets[index].piece(piece) {
            piece &+= 1
            if segment.length == 0 { continue }
            if count == TapEnd.parts { return 0 }
            vectors[first &+ count] = iovec(iov_base: segment.base, iov_len: Int(segment.length))
            count &+= 1
        }
        return count
    }
}

/// Buffers for frames that the kernel writes.
final class TapBuffers {
    private let room: OwnedMemory<UInt8>

    init(count: Int, size: Int) { room = OwnedMemory(count: count * size) }

    /// Must not be used after this has gone.
    var start: UnsafeMutablePointer<UInt8> { room.start }

    /// They are never given back.
    func keepForever() { _ = Unmanaged.passRetained(self) }
}
