import CLiburing
import CPlatform
import Glibc
import Telemetry

/// A poll thread's io_uring: kicks come in as multishot polls of eventfds, calls go out as writes
/// that one system call submits together. Belongs to the thread that made it.
struct Notifier {
    private let ring: UnsafeMutablePointer<io_uring>
    /// What is written to eventfds of our own: the 64-bit 1 of eventfd(2).
    private let one: UnsafeMutablePointer<UInt64>
    private var queued = 0
    /// System calls that submitted or waited.
    private(set) var submits: UInt64 = 0

    /// Off: each call is submitted at once, by a system call of its own. For comparison.
    var batchesCalls = true
    /// Calls that are queued: when they were decided on, and where their delay is recorded.
    private let waiting: UnsafeMutablePointer<WaitingCall>
    private var waitingCount = 0
    static var entries: UInt32 { 1024 }

    private struct WaitingCall: BitwiseCopyable {
        var since: UInt64
        var delays: LiveHistogram
    }

    /// user_data of calls: their completions, which come only on errors, are passed over.
    private static let callTag: UInt64 = UInt64.max
    private static let cancelTag: UInt64 = UInt64.max - 1

    /// The descriptor that wakes the thread: watched from the start.
    private let wakeFD: Int32

    init(wakeFD: Int32) throws(EngineError) {
        self.wakeFD = wakeFD
        ring = try IOUring.make(entries: Notifier.entries, completions: 8192)
        one = .allocate(capacity: 1)
        one.initialize(to: 1)
        waiting = .allocate(capacity: Int(Notifier.entries))
        // Without it calls would get lost in silence.
        let probe = io_uring_get_probe_ring(ring)
        defer { io_uring_free_probe(probe) }
        guard let probe, io_uring_opcode_supported(probe, Int32(IORING_OP_MSG_RING.rawValue)) != 0 else {
            close()
            throw EngineError("io_uring has no MSG_RING; Ringway needs Linux 5.18 or later")
        }
    }

    func close() {
        IOUring.close(ring)
        one.deallocate()
        waiting.deallocate()
    }

    /// Room for one more request; submits what is queued when there is none.
    private mutating func request() -> UnsafeMutablePointer<io_uring_sqe> {
        if let sqe = io_uring_get_sqe(ring) { queued &+= 1; return sqe }
        flush()
        queued &+= 1
        // After a submit the ring of requests is empty.
        return io_uring_get_sqe(ring).unsafelyUnwrapped
    }

    /// A completion with `tag` for every event on `fd` until `unwatch`.
    mutating func watch(_ fd: Int32, tag: UInt64) {
        let sqe = request()
        io_uring_prep_poll_multishot(sqe, fd, UInt32(POLLIN))
        sqe.pointee.user_data = tag
    }

    /// The thread's own wake-up descriptor again.
    mutating func watchAgain(tag: UInt64) { watch(wakeFD, tag: tag) }

    mutating func unwatch(tag: UInt64) {
        let sqe = request()
        io_uring_prep_poll_remove(sqe, tag)
        sqe.pointee.user_data = Notifier.cancelTag
    }

    /// Queues a call.
    @inline(__always)
    mutating func call(_ calls: Calls) {
        calls.drain()
        let sqe = request()
        io_uring_prep_msg_ring(sqe, calls.fd, 0, 0, 0)
        sqe.pointee.flags |= UInt8(1 << IOSQE_CQE_SKIP_SUCCESS_BIT)
        sqe.pointee.user_data = Notifier.callTag
    }

    /// Queues a call whose delay is recorded.
    @inline(__always)
    mutating func call(_ calls: Calls, _ delays: LiveHistogram) {
        call(calls)
        if QueueTimes.areKept {
            // There is room: each is one of the requests that are queued.
            waiting[waitingCount] = WaitingCall(since: CPlat_cycles(), delays: delays)
            waitingCount &+= 1
        }
        if !batchesCalls { flush() }
    }

    /// Queues a write of an eventfd of our own.
    @inline(__always)
    mutating func call(_ fd: Int32) {
        let sqe = request()
        io_uring_prep_write(sqe, fd, one, 8, 0)
        sqe.pointee.rw_flags = Int32(CPlat_RWF_NOWAIT)
        sqe.pointee.flags |= UInt8(1 << IOSQE_CQE_SKIP_SUCCESS_BIT)
        sqe.pointee.user_data = Notifier.callTag
    }

    /// Submits what is queued: one system call, none if there is nothing.
    @inline(__always)
    mutating func flush() {
        if queued == 0 { return }
        queued = 0
        submits &+= 1
        _ = io_uring_submit(ring)
        if waitingCount > 0 { recordDelays() }
    }

    /// The queued calls have been made.
    private mutating func recordDelays() {
        let now = CPlat_cycles()
        var i = 0
        while i < waitingCount {
            waiting[i].delays.record(now &- waiting[i].since)
            i &+= 1
        }
        waitingCount = 0
    }

    /// Submits and sleeps until there is a completion.
    mutating func wait() {
        queued = 0
        submits &+= 1
        _ = io_uring_submit_and_wait(ring, 1)
    }

    /// Whether completions wait; reads memory only.
    @inline(__always)
    var hasCompletions: Bool { CPlat_load32_acquire(ring.pointee.cq.ktail) != ring.pointee.cq.khead.pointee }

    /// The next completion: its tag and whether the watch has ended. Nil when there is none.
    mutating func next() -> (tag: UInt64, ended: Bool)? {
        while hasCompletions {
            let head = ring.pointee.cq.khead.pointee
            let cqe = ring.pointee.cq.cqes + Int(head & ring.pointee.cq.ring_mask)
            let tag = cqe.pointee.user_data
            let ended = cqe.pointee.flags & UInt32(IORING_CQE_F_MORE) == 0
            CPlat_store32_release(ring.pointee.cq.khead, head &+ 1)
            if tag < Notifier.cancelTag { return (tag, ended) }
        }
        return nil
    }
}
