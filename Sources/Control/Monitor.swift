import Glibc
import Virtio

/// A lock, and a wait for a change of what it guards. (`Synchronization.Mutex` has no such wait, and ThreadSanitizer
/// does not see what it orders.)
package final class Monitor {
    // Room of their own: a stored property has no address that stays.
    private let mutex = OwnedValues(pthread_mutex_t())
    private let condition = OwnedValues(pthread_cond_t())

    package init() {
        pthread_mutex_init(mutex.start, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition.start, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_mutex_destroy(mutex.start)
        pthread_cond_destroy(condition.start)
    }

    package func lock() { pthread_mutex_lock(mutex.start) }
    package func unlock() { pthread_mutex_unlock(mutex.start) }
    /// Gives the lock up until somebody tells of a change, or for no reason.
    package func wait() { pthread_cond_wait(condition.start, mutex.start) }
    /// The same until a moment of CLOCK_MONOTONIC at most.
    package func wait(until nanoseconds: UInt64) {
        var time = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
        pthread_cond_timedwait(condition.start, mutex.start, &time)
    }
    package func tellAll() { pthread_cond_broadcast(condition.start) }
}
