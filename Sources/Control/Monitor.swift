import Glibc

/// A lock, and a wait for a change of what it guards. (`Synchronization.Mutex` has no such wait, and ThreadSanitizer
/// does not see what it orders.)
final class Monitor {
    // On the heap: a stored property has no address that stays.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        pthread_cond_destroy(condition)
        mutex.deallocate()
        condition.deallocate()
    }

    func lock() { pthread_mutex_lock(mutex) }
    func unlock() { pthread_mutex_unlock(mutex) }
    /// Gives the lock up until somebody tells of a change, or for no reason.
    func wait() { pthread_cond_wait(condition, mutex) }
    func tellAll() { pthread_cond_broadcast(condition) }
}
