import CLiburing
import Glibc

/// No extension of UnsafeMutablePointer: whoever imports this module would load liburing's types with it, and those differ
/// from the kernel's own, which swift-system imports.
enum IOUring {
    /// An io_uring in cache lines of its own, with room for `completions` (else twice the requests). Error: what the system lacks.
    static func make(entries: UInt32, completions: UInt32? = nil) throws(EngineError) -> UnsafeMutablePointer<io_uring> {
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
            "io_uring_setup: \(String(cString: strerror(-status))); "
                + (status == -ENOMEM
                    ? "raise the limit of locked memory (ulimit -l), or run as root"
                    : "Ringway needs io_uring (see /proc/sys/kernel/io_uring_disabled, and the container's seccomp profile)"))
    }

    static func close(_ ring: UnsafeMutablePointer<io_uring>) {
        io_uring_queue_exit(ring)
        ring.deallocate()
    }
}
