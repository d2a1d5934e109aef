import CLiburing
import CPlatform
import Glibc
import Memory

/// Adds to an eventfd that somebody else holds, too, without ever waiting. write(2) waits where the counter is full,
/// and O_NONBLOCK, which would prevent that, is for the other holder to change between any two instructions. The kernel
/// itself never waits: it adds to the eventfd with which an io_uring is registered whenever that gets a completion. So
/// each such eventfd has a small io_uring, to which the poll thread's own sends completions (IORING_OP_MSG_RING).
package final class CallRing {
    private let ring: OwnedIOUring
    /// As many as a thread can queue before it submits (`EngineOptions.requests`).
    private static var completions: UInt32 { 1024 }

    /// `eventfd` stays the caller's. Error: no descriptors or memory.
    package init(_ eventfd: Int32) throws(EngineError) {
        ring = try OwnedIOUring(entries: 1, completions: CallRing.completions)
        let status = io_uring_register_eventfd(ring.ring, eventfd)
        if status != 0 { throw EngineError("io_uring_register_eventfd: \(SystemError.text(-status))") }
    }

    /// For a poll thread; valid while this object lives.
    var calls: Calls { Calls(fd: ring.fd, head: ring.ring.pointee.cq.khead, tail: ring.ring.pointee.cq.ktail) }

    /// Adds one at once, from a thread that may wait. False: the kernel took no request for a second.
    package func signal() -> Bool {
        calls.drain()
        // One that was not taken the last time does for both.
        if ring.queued == 0 {
            guard let sqe = ring.entry() else { return false }
            io_uring_prep_nop(sqe)
        }
        return ring.submitAll()
    }

    /// Adds one to `eventfd` at once; none if it is negative. False: the kernel lacks memory or descriptors.
    package static func signal(_ eventfd: Int32) -> Bool { eventfd < 0 || EventFD.signal(eventfd) }
}

/// What a poll thread needs of a `CallRing`.
struct Calls: BitwiseCopyable {
    /// -1: nobody wants calls.
    var fd: Int32 = -1
    var head: UnsafeMutablePointer<UInt32>?
    var tail: UnsafeMutablePointer<UInt32>?

    /// Makes room for the completions of the next calls: nobody reads them.
    @inline(__always)
    func drain() { CPlat_store32_release(head.unsafelyUnwrapped, CPlat_load32_relaxed(tail.unsafelyUnwrapped)) }
}
