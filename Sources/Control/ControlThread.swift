import CPlatform
import Glibc
import Memory
import Synchronization

/// A thread of the control plane: sleeps in poll(2) until something happens that its owner waits for, until a deadline,
/// or until somebody has work for it.
///
/// Before each sleep it runs the work that was posted, in its order, and then asks its owner what to wait for.
/// Handlers, posted work and the owner's closures all run on this thread, one at a time. Before `start` and after
/// `stop` there is no thread: posted work runs on the thread that posts it (see `WorkQueue`).
package final class ControlThread {
    /// What a thread waits for, once: its owner says so anew before each sleep.
    package struct Waits {
        fileprivate var polled: [pollfd] = []
        fileprivate var handlers: [(Int32) -> Void] = []
        /// The thread wakes at this time at the latest, in nanoseconds of CLOCK_MONOTONIC; nil: it may sleep for ever.
        package var deadline: UInt64?

        /// Has `handler` called with what poll(2) says of `fd` (`revents`), if it says anything: one of `events`, or an
        /// error. Handlers are called in the order in which they were added, also where an earlier one has changed
        /// something. Nothing is done for an `fd` of -1.
        package mutating func on(_ fd: Int32, _ events: Int32 = POLLIN, _ handler: @escaping (Int32) -> Void) {
            if fd < 0 { return }
            polled.append(pollfd(fd: fd, events: Int16(events), revents: 0))
            handlers.append(handler)
        }
    }

    private let work = WorkQueue()
    /// Written after work was posted.
    private let wakeFD = OwnedDescriptor(CPlat_eventfd(0))
    /// Watches the descriptors of `watch`.
    private let watcher = OwnedDescriptor(CPlat_watcher())
    /// Why there is no descriptor for either.
    private let failure: ThreadError?
    /// Held while the thread starts and while somebody waits for its end; guards `thread`.
    private let life = Monitor()
    /// Until it is joined.
    private var thread: NamedThread?
    /// `pthread_self` of the thread while it lives; else 0.
    private let threadID = Atomic<UInt>(0)

    /// Guards the three that follow: how often the thread was to wait, at which of these it has arrived, and up to
    /// which it may go on. (It is perhaps to wait again before it has seen that it may go on.)
    private let parking = Monitor()
    private var (parked, reached, released) = (0, 0, 0)

    // The thread's own, while there is one
    private var prepare: ((inout Waits) -> Void)?
    private var atEnd: (() -> Void)?
    private var watched: [Int32: () -> Void] = [:]
    private var isStopping = false

    package init() {
        let code = errno
        failure = wakeFD.fd < 0 || watcher.fd < 0 ? ThreadError("eventfd: \(SystemError.text(code))") : nil
    }

    deinit { thread?.detach() }

    /// Starts the thread. It calls `prepare` before each sleep, which does what is due and says what to wait for, and
    /// `atEnd` at its end; it keeps both until then. `isParked`: it first waits for `release`. Errors: no descriptors
    /// or no threads are left.
    package func start(
        _ name: String, isParked: Bool = false, prepare: @escaping (inout Waits) -> Void,
        atEnd: @escaping () -> Void = {}
    ) throws(ThreadError) {
        if let failure { throw failure }
        life.lock()
        defer { life.unlock() }
        precondition(thread == nil, "a control thread is started once until it is stopped")
        work.open()
        (isStopping, self.prepare, self.atEnd) = (false, prepare, atEnd)
        if isParked { _ = postParking() }
        do throws(ThreadError) { thread = try NamedThread(name) { self.loop() } } catch {
            release()
            (self.prepare, self.atEnd) = (nil, nil)
            work.close()
            throw error
        }
    }

    /// Ends the thread when it has run the work that was posted before, and returns when it has ended. On the thread
    /// itself it returns at once; the thread ends when what it does now is done. Any number of times.
    package func stop() {
        if isCurrent {
            isStopping = true
            // It may be about to sleep.
            return wake()
        }
        life.lock()
        defer { life.unlock() }
        guard let running = thread else { return }
        post { self.isStopping = true }
        running.join()
        thread = nil
    }

    /// Whether this is the thread.
    package var isCurrent: Bool { threadID.load(ordering: .relaxed) == UInt(pthread_self()) }

    /// Has the thread run `body` soon.
    package func post(_ body: @escaping () -> Void) {
        _ = work.post(body)
        wake()
    }

    /// Runs `body` on the thread and returns its answer. On the thread itself it runs at once, before what waits.
    package func run<Answer>(_ body: @escaping () -> Answer) -> Answer {
        var answer: Answer?
        work.run({ answer = body() }, wake: wake)
        return answer!
    }

    /// Has the thread wait, and do nothing at all, until `release`; returns when it has begun to. Whoever does this may
    /// use what is the thread's own until then, and must not `run` anything on it.
    package func park() {
        life.lock()
        defer { life.unlock() }
        if thread == nil { return }
        let number = postParking()
        parking.lock()
        while reached < number { parking.wait() }
        parking.unlock()
    }

    private func postParking() -> Int {
        parking.lock()
        parked += 1
        let number = parked
        parking.unlock()
        post {
            self.parking.lock()
            self.reached = number
            self.parking.tellAll()
            while self.released < number { self.parking.wait() }
            self.parking.unlock()
        }
        return number
    }

    /// The parked thread goes on.
    package func release() {
        parking.lock()
        released = parked
        parking.tellAll()
        parking.unlock()
    }

    private func wake() { EventFD.signalOwn(wakeFD.fd) }

    /// Calls `handler` when `fd`, an eventfd, is written; the handler reads it. Once for each time, whether or not it
    /// is empty afterwards: an eventfd of another process may be a semaphore with a huge count. On the thread, or while
    /// there is none. False, and errno: the system cannot watch it.
    package func watch(_ fd: Int32, _ handler: @escaping () -> Void) -> Bool {
        watched[fd] = handler
        return CPlat_watch(watcher.fd, fd) == 0
    }

    /// Before `fd` is closed. On the thread, or while there is none.
    package func unwatch(_ fd: Int32) {
        if watched.removeValue(forKey: fd) != nil { CPlat_unwatch(watcher.fd, fd) }
    }

    // MARK: The thread

    private func loop() {
        threadID.store(UInt(pthread_self()), ordering: .relaxed)
        work.adopt()
        while true {
            work.serve()
            if isStopping { break }
            var waits = Waits()
            waits.on(watcher.fd) { _ in self.serveWatched() }
            waits.on(wakeFD.fd) { _ in _ = EventFD.take(self.wakeFD.fd) }
            prepare?(&waits)
            sleep(&waits)
        }
        atEnd?()
        // Here, where an owner that goes with them may still post and stop.
        (prepare, atEnd, watched) = (nil, nil, [:])
        work.close()
        // Another thread may get this number next.
        threadID.store(0, ordering: .relaxed)
    }

    /// Until something happens, which it then hands to its handlers.
    private func sleep(_ waits: inout Waits) {
        let timeout = ControlThread.milliseconds(until: waits.deadline)
        if poll(&waits.polled, nfds_t(waits.polled.count), timeout) <= 0 { return }
        for (polled, handler) in zip(waits.polled, waits.handlers) where polled.revents != 0 {
            handler(Int32(polled.revents))
        }
    }

    /// For poll(2): rounded up, so that the time has come when it returns.
    private static func milliseconds(until deadline: UInt64?) -> Int32 {
        guard let deadline else { return -1 }
        let now = CPlat_monotonic_ns()
        return now >= deadline ? 0 : Int32(clamping: (deadline - now) / 1_000_000 + 1)
    }

    private func serveWatched() {
        var ready = [Int32](repeating: -1, count: 16)
        let count = CPlat_watched(watcher.fd, &ready, 16)
        for fd in ready.prefix(Int(max(0, count))) { watched[fd]?() }
    }
}
