import CPlatform
import Glibc
import Memory
import Synchronization

/// Work that control threads hand to a poll thread, which picks it up between bursts.
final class Mailbox {
    /// The flags that poll threads read each round, on cache lines that hold nothing else.
    private let before = CacheLine()
    /// There is work: read by the poll thread each round.
    let hasWork = Atomic(false)
    /// The poll thread sleeps, or is about to.
    let isAsleep = Atomic(false)
    private let after = CacheLine()

    // On the heap: a stored property has no address that stays.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var waiting: [() -> Void] = []
    private var posted: UInt64 = 0
    private var done: UInt64 = 0
    private var isClosed = false
    /// Written to wake the thread; never read, its poll fires on each write.
    let wakeFD: Int32

    init() throws(EngineError) {
        wakeFD = CPlat_eventfd(0)
        if wakeFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        close(wakeFD)
        pthread_mutex_destroy(mutex)
        pthread_cond_destroy(condition)
        mutex.deallocate()
        condition.deallocate()
    }

    /// Runs `work` on the poll thread and returns when it has run. After `closeForGood` it runs here.
    func run(_ work: @escaping () -> Void) { wait(for: post(work)) }

    /// Has the poll thread run `work` soon; returns a ticket for `wait`. After `closeForGood` it has run here.
    func post(_ work: @escaping () -> Void) -> UInt64 {
        pthread_mutex_lock(mutex)
        if isClosed {
            pthread_mutex_unlock(mutex)
            work()
            return 0
        }
        waiting.append(work)
        posted += 1
        let ticket = posted
        hasWork.store(true, ordering: .releasing)
        pthread_mutex_unlock(mutex)
        wake()
        return ticket
    }

    /// Returns when what the ticket is of has run.
    func wait(for ticket: UInt64) {
        pthread_mutex_lock(mutex)
        while done < ticket { pthread_cond_wait(condition, mutex) }
        pthread_mutex_unlock(mutex)
    }

    /// How often the thread was sent something so far.
    var trips: UInt64 {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return posted
    }

    /// Wakes the thread if it sleeps.
    func wake() {
        // The work must be visible before the flag is read: the sleeper does it the other way round.
        CPlat_fence_full()
        if isAsleep.load(ordering: .relaxed) {
            EventFD.signalOwn(wakeFD)
        }
    }

    /// On the poll thread: runs what has been posted.
    func serve() {
        pthread_mutex_lock(mutex)
        let work = waiting
        waiting = []
        hasWork.store(false, ordering: .releasing)
        pthread_mutex_unlock(mutex)
        for body in work { body() }
        pthread_mutex_lock(mutex)
        done += UInt64(work.count)
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(mutex)
    }

    /// On the poll thread, as its last act: later work runs on the caller's thread.
    func closeForGood() {
        pthread_mutex_lock(mutex)
        isClosed = true
        pthread_mutex_unlock(mutex)
        serve()
    }
}

/// Keeps what stands before and behind it in an object on different cache lines.
private struct CacheLine {
    private let words: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0)
}
