import CPlatform
import Control
import Glibc
import Memory
import Synchronization

/// Work that control threads hand to a poll thread, which picks it up between bursts.
final class Mailbox {
    /// The flags that poll threads read each round, on cache lines that hold nothing else that changes.
    private let before = CacheLine()
    /// Its `hasWork` is read by the poll thread each round. Opened by who starts the thread.
    let queue = WorkQueue()
    /// The poll thread sleeps, or is about to.
    let isAsleep = Atomic(false)
    private let after = CacheLine()

    /// Written to wake the thread; never read, its poll fires on each write.
    let wakeFD: Int32

    init() throws(EngineError) {
        wakeFD = CPlat_eventfd(0)
        if wakeFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
    }

    deinit { close(wakeFD) }

    /// There is work for the poll thread.
    @inline(__always)
    var hasWork: Bool { queue.hasWork.load(ordering: .relaxed) }

    /// Runs `work` on the poll thread and returns when it has run. Without a thread it runs here.
    func run(_ work: @escaping () -> Void) { queue.run(work, wake: wake) }

    /// Has the poll thread run `work` soon; returns a ticket for `wait`. Without a thread it has run here.
    func post(_ work: @escaping () -> Void) -> WorkQueue.Ticket {
        let ticket = queue.post(work)
        wake()
        return ticket
    }

    /// Returns when what the ticket is of has run.
    func wait(for ticket: WorkQueue.Ticket) { queue.wait(for: ticket) }

    /// Whether what the ticket is of has run by then, in nanoseconds of CLOCK_MONOTONIC.
    func wait(for ticket: WorkQueue.Ticket, until nanoseconds: UInt64) -> Bool {
        queue.wait(for: ticket, until: nanoseconds)
    }

    /// How often the thread was sent something so far.
    var trips: UInt64 { queue.posted }

    /// Wakes the thread if it sleeps.
    func wake() {
        // The work must be visible before the flag is read: the sleeper does it the other way round.
        CPlat_fence_full()
        if isAsleep.load(ordering: .relaxed) {
            EventFD.signalOwn(wakeFD)
        }
    }
}

/// Keeps what stands before and behind it in an object on different cache lines.
private struct CacheLine {
    private let words: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0)
}
