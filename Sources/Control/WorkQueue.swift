import CPlatform
import Glibc
import Synchronization

/// Work that any thread hands to one thread: the mailbox of control threads and of poll threads. Whoever posts wakes
/// the thread afterwards, each kind of thread in its own way.
///
/// Each piece runs once, in the order of posting, and never two at a time. While the queue is closed, which it is
/// before `open` and after `close`, it has no thread: a piece runs on the thread that posts it, before `post` returns,
/// and others that post wait for its end.
package struct WorkQueue: ~Copyable {
    /// There is work for the thread. It changes under the queue's lock alone, so a relaxed load is enough to decide
    /// whether to call `serve`, which takes the lock.
    package let hasWork = Atomic(false)
    private let monitor = Monitor()
    /// Guarded by `monitor`.
    private let state = QueueState()

    /// What a piece of work is known by, to wait for its end.
    package struct Ticket: Sendable { fileprivate let number: UInt64 }

    package init() {}

    // MARK: Any thread

    /// Has the queue's thread run `work` soon; when the queue is closed, `work` has run here.
    package func post(_ work: @escaping () -> Void) -> Ticket {
        monitor.lock()
        defer { monitor.unlock() }
        // A piece of a closed queue that posts another one runs it at once.
        while !state.isOpen && state.runner != nil && !state.isRunner { monitor.wait() }
        if !state.isOpen {
            runHere(work)
            return Ticket(number: 0)
        }
        hasWork.store(true, ordering: .relaxed)
        return Ticket(number: state.add(work))
    }

    /// Posts `work`, calls `wake`, and returns when `work` has run. On the thread that runs the queue's work it runs at
    /// once, before what waits.
    package func run(_ work: @escaping () -> Void, wake: () -> Void) {
        if isRunHere { return work() }
        let ticket = post(work)
        wake()
        wait(for: ticket)
    }

    /// Returns when what the ticket is of has run. Not for the queue's own thread, which would wait for itself.
    package func wait(for ticket: Ticket) {
        monitor.lock()
        defer { monitor.unlock() }
        precondition(ticket.number <= state.done || !state.isRunner, "a thread waits for its own work")
        while state.done < ticket.number { monitor.wait() }
    }

    /// The same, but waits until a moment of CLOCK_MONOTONIC at most. False: the work has not run then.
    package func wait(for ticket: Ticket, until nanoseconds: UInt64) -> Bool {
        monitor.lock()
        defer { monitor.unlock() }
        while state.done < ticket.number {
            if CPlat_monotonic_ns() >= nanoseconds { return false }
            monitor.wait(until: nanoseconds)
        }
        return true
    }

    /// Whether this is the thread that runs the work now: the queue's own until `close`.
    package var isRunHere: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return state.isRunner
    }

    /// How many pieces the thread was handed so far.
    package var posted: UInt64 {
        monitor.lock()
        defer { monitor.unlock() }
        return state.posted
    }

    // MARK: The queue's thread, or who starts it

    /// From here on work waits for the thread. Before it starts.
    package func open() {
        monitor.lock()
        defer { monitor.unlock() }
        precondition(!state.isOpen && !state.isRunner, "one queue, one thread")
        while state.runner != nil { monitor.wait() }
        state.isOpen = true
    }

    /// The thread's first act: work is run by this thread from now on.
    package func adopt() {
        monitor.lock()
        state.runner = pthread_self()
        monitor.unlock()
    }

    /// Runs what waits now; what is posted meanwhile waits for the next time.
    package func serve() {
        monitor.lock()
        runWaiting()
        monitor.unlock()
    }

    /// The thread's last act, or that of who could not start it: runs what waits, then closes. There is no moment
    /// between the last piece that runs here and the first one that runs on the thread that posts it.
    package func close() {
        monitor.lock()
        while state.isAnyWaiting { runWaiting() }
        (state.isOpen, state.runner) = (false, nil)
        monitor.tellAll()
        monitor.unlock()
    }

    // MARK: Under the lock, which they give up while work runs

    private func runWaiting() {
        var batch = state.takeWaiting()
        hasWork.store(false, ordering: .relaxed)
        while !batch.isEmpty {
            perform(batch.removeLast())
            state.countDone()
            monitor.tellAll()
        }
    }

    /// Of a closed queue.
    private func runHere(_ work: @escaping () -> Void) {
        if state.isRunner { return perform(work) }
        state.runner = pthread_self()
        perform(work)
        state.runner = nil
        monitor.tellAll()
    }

    /// Lets go of the work before its end is told, and without the lock: what it holds may post in its `deinit`.
    private func perform(_ work: consuming @escaping () -> Void) {
        monitor.unlock()
        work()
        _ = consume work
        monitor.lock()
    }
}

private final class QueueState {
    private var waiting: [() -> Void] = []
    /// Pieces that the thread was handed, and those of them that have run.
    private(set) var (posted, done): (UInt64, UInt64) = (0, 0)
    var isOpen = false
    /// The thread that runs the work: the queue's own while that lives, else who has posted the piece that runs.
    var runner: pthread_t?

    var isRunner: Bool { runner == pthread_self() }
    var isAnyWaiting: Bool { !waiting.isEmpty }

    /// Returns how many pieces there were so far.
    func add(_ work: @escaping () -> Void) -> UInt64 {
        waiting.append(work)
        posted += 1
        return posted
    }

    /// From its end: the first is last.
    func takeWaiting() -> [() -> Void] {
        defer { waiting = [] }
        return waiting.reversed()
    }

    func countDone() { done += 1 }
}
