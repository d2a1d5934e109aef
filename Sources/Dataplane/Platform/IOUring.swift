import CLiburing
import Glibc
import Memory

/// No extension of UnsafeMutablePointer: whoever imports this module would load liburing's types with it, and those
/// differ from the kernel's own, which swift-system imports.
enum IOUring {
    /// An io_uring in cache lines of its own, with room for `completions` (else twice the requests). Error: what the
    /// system lacks.
    static func make(entries: UInt32, completions: UInt32? = nil) throws(EngineError) -> UnsafeMutablePointer<io_uring>
    {
        let ring = UnsafeMutablePointer<io_uring>.allocateApart(capacity: 1)
        ring.initialize(to: io_uring())
        var parameters = io_uring_params()
        if let completions {
            parameters.flags = UInt32(IORING_SETUP_CQSIZE)
            parameters.cq_entries = completions
        }
        let status = io_uring_queue_init_params(entries, ring, &parameters)
        if status == 0 { return ring }
        ring.deallocate()
        throw EngineError(
            "io_uring_setup: \(SystemError.text(-status)); "
                + (status == -ENOMEM
                    ? "raise the limit of locked memory (ulimit -l), or run as root"
                    : """
                    Ringway needs io_uring (see /proc/sys/kernel/io_uring_disabled, and the container's seccomp \
                    profile)
                    """)
        )
    }

    /// Room for one more request; hands the kernel what is queued when there is none. Nil: the kernel takes nothing
    /// now.
    static func entry(_ ring: UnsafeMutablePointer<io_uring>) -> UnsafeMutablePointer<io_uring_sqe>? {
        if let sqe = io_uring_get_sqe(ring) { return sqe }
        // Some may have been taken, if not all.
        submit(ring)
        return io_uring_get_sqe(ring)
    }

    /// Hands the kernel all that is queued. A signal is no reason to stop. False: the kernel lacks memory (EAGAIN,
    /// ENOMEM) or room for completions (EBUSY). What it did not take stays queued; a later submit hands it over.
    @discardableResult
    static func submit(_ ring: UnsafeMutablePointer<io_uring>) -> Bool {
        while io_uring_sq_ready(ring) > 0 {
            let status = io_uring_submit(ring)
            if status <= 0 && status != -EINTR { return false }
        }
        return true
    }

    /// As `submit`, for a thread that may wait: tries for a second.
    static func submitAll(_ ring: UnsafeMutablePointer<io_uring>) -> Bool {
        for _ in 0..<1000 {
            if submit(ring) { return true }
            usleep(1000)
        }
        return false
    }

    /// Takes the requests back that the kernel has not taken; returns how many. In their places are requests that do
    /// nothing, with the tag `tag`.
    static func withdraw(_ ring: UnsafeMutablePointer<io_uring>, tag: UInt64) -> Int {
        let n = io_uring_sq_ready(ring)
        for i in 0..<n {
            let at = Int((ring.pointee.sq.sqe_tail &- n &+ i) & ring.pointee.sq.ring_mask)
            let sqe = ring.pointee.sq.sqes + at
            io_uring_prep_nop(sqe)
            sqe.pointee.user_data = tag
        }
        return Int(n)
    }

    static func close(_ ring: UnsafeMutablePointer<io_uring>) {
        io_uring_queue_exit(ring)
        ring.deallocate()
    }
}

/// An io_uring that is closed with its owner. `ring` must not outlive it.
struct OwnedIOUring: ~Copyable {
    let ring: UnsafeMutablePointer<io_uring>

    /// See `IOUring.make`.
    init(entries: UInt32, completions: UInt32? = nil) throws(EngineError) {
        ring = try IOUring.make(entries: entries, completions: completions)
    }

    deinit { IOUring.close(ring) }
}
