import CPlatform
import Glibc
import Memory

/// A thread of the program's own, under a name that `top -H` shows.
package struct NamedThread: Sendable {
    private let id: pthread_t

    /// Runs `body` on a new thread; fails where the system gives no more threads.
    package init(_ name: String, _ body: @escaping () -> Void) throws(ThreadError) {
        final class Start {
            let name: String
            let body: () -> Void
            init(_ name: String, _ body: @escaping () -> Void) { (self.name, self.body) = (name, body) }
        }
        let start = Unmanaged.passRetained(Start(name, body))
        var id = pthread_t()
        let status = pthread_create(
            &id, nil,
            { raw in
                let start = Unmanaged<Start>.fromOpaque(raw!).takeRetainedValue()
                CPlat_set_thread_name(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        if status != 0 {
            start.release()
            throw ThreadError("no thread can be started: \(SystemError.text(status)); see `ulimit -u`")
        }
        self.id = id
    }

    /// Returns when `body` has; once.
    package func join() { pthread_join(id, nil) }

    /// Instead of `join`: it ends by itself, and nobody waits.
    package func detach() { pthread_detach(id) }

    /// CPU time so far; 0 when the thread has ended.
    package var cpuNanoseconds: UInt64 {
        var (clock, time) = (clockid_t(), timespec())
        guard pthread_getcpuclockid(id, &clock) == 0, clock_gettime(clock, &time) == 0 else { return 0 }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

package struct ThreadError: Error, CustomStringConvertible {
    package let description: String
    init(_ description: String) { self.description = description }
}
