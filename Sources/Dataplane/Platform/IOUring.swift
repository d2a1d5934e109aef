import CLiburing
import CPlatform
import Glibc
import Memory
import Virtio

/// An io_uring, in cache lines of its own, which is closed with its owner. What is declared here of liburing's types
/// stays in this target: whoever imports it would load them with it, and they differ from the kernel's own, which
/// swift-system imports.
struct OwnedIOUring: ~Copyable {
    private let room: OwnedValues<io_uring>

    /// With room for `completions` (else twice the requests). Error: what the system lacks.
    init(entries: UInt32, completions: UInt32? = nil) throws(EngineError) {
        let made = OwnedValues(io_uring())
        var parameters = io_uring_params()
        if let completions {
            parameters.flags = UInt32(IORING_SETUP_CQSIZE)
            parameters.cq_entries = completions
        }
        let status = io_uring_queue_init_params(entries, made.start, &parameters)
        if status != 0 { throw OwnedIOUring.refusal(status) }
        self.init(open: made)
    }

    /// Takes a ring over that is open.
    private init(open room: consuming OwnedValues<io_uring>) { self.room = room }

    deinit { io_uring_queue_exit(room.start) }

    private static func refusal(_ status: Int32) -> EngineError {
        EngineError(
            "io_uring_setup: \(SystemError.text(-status)); "
                + (status == -ENOMEM
                    ? "raise the limit of locked memory (ulimit -l), or run as root"
                    : """
                    Ringway needs io_uring (see /proc/sys/kernel/io_uring_disabled, and the container's seccomp \
                    profile)
                    """)
        )
    }

    /// For calls of liburing that nothing here makes. Must not outlive this.
    @inline(__always) var ring: UnsafeMutablePointer<io_uring> { room.start }
    /// Readable when there are completions, and what other rings send messages to.
    var fd: Int32 { room.start.pointee.ring_fd }

    // MARK: Requests

    /// Room for one more request, which is the caller's to fill in; nil: there is none.
    @inline(__always)
    func request() -> UnsafeMutablePointer<io_uring_sqe>? { io_uring_get_sqe(room.start) }

    /// The same, but that it hands the kernel what is queued when there is no room. Nil: the kernel takes nothing now.
    func entry() -> UnsafeMutablePointer<io_uring_sqe>? {
        if let sqe = request() { return sqe }
        // Some may have been taken, if not all.
        submit()
        return request()
    }

    /// Requests that the kernel has not taken yet.
    var queued: UInt32 { io_uring_sq_ready(room.start) }

    /// Hands the kernel all that is queued. A signal is no reason to stop. False: the kernel lacks memory (EAGAIN,
    /// ENOMEM) or room for completions (EBUSY). What it did not take stays queued; a later submit hands it over.
    @discardableResult
    func submit() -> Bool {
        while queued > 0 {
            let status = io_uring_submit(room.start)
            if status <= 0 && status != -EINTR { return false }
        }
        return true
    }

    /// As `submit`, for a thread that may wait: tries for a second.
    func submitAll() -> Bool {
        for _ in 0..<1000 {
            if submit() { return true }
            usleep(1000)
        }
        return false
    }

    /// Takes the requests back that the kernel has not taken; returns how many. In their places are requests that do
    /// nothing, with the tag `tag`.
    func withdraw(tag: UInt64) -> Int {
        let n = queued
        let queue = room.start.pointee.sq
        for i in 0..<n {
            let sqe = queue.sqes + Int((queue.sqe_tail &- n &+ i) & queue.ring_mask)
            io_uring_prep_nop(sqe)
            sqe.pointee.user_data = tag
        }
        return Int(n)
    }

    // MARK: Completions

    /// Whether completions wait; reads memory only.
    @inline(__always)
    var hasCompletions: Bool {
        CPlat_load32_acquire(room.start.pointee.cq.ktail) != room.start.pointee.cq.khead.pointee
    }

    /// The kernel has more of them than the ring could hold.
    var hasOverflowed: Bool {
        CPlat_load32_relaxed(room.start.pointee.sq.kflags) & UInt32(IORING_SQ_CQ_OVERFLOW) != 0
    }

    /// The next completion, if it is there.
    @inline(__always)
    func completion() -> Completion? {
        if !hasCompletions { return nil }
        let head = room.start.pointee.cq.khead.pointee
        let cqe = room.start.pointee.cq.cqes + Int(head & room.start.pointee.cq.ring_mask)
        let found = Completion(
            tag: cqe.pointee.user_data, result: cqe.pointee.res,
            ended: cqe.pointee.flags & UInt32(IORING_CQE_F_MORE) == 0)
        CPlat_store32_release(room.start.pointee.cq.khead, head &+ 1)
        return found
    }

    /// Submits and sleeps until there is a completion, or `nanoseconds` have passed.
    func wait(nanoseconds: UInt64) {
        var time = __kernel_timespec(
            tv_sec: Int64(nanoseconds / 1_000_000_000), tv_nsec: Int64(nanoseconds % 1_000_000_000))
        var first: UnsafeMutablePointer<io_uring_cqe>?
        _ = io_uring_submit_and_wait_timeout(room.start, &first, 1, &time, nil)
    }
}

/// What the kernel answers to a request.
struct Completion: BitwiseCopyable {
    /// The request's `user_data`.
    let tag: UInt64
    /// Below 0: an errno, negated.
    let result: Int32
    /// The last one of its request: what was watched is watched no more.
    let ended: Bool
}
