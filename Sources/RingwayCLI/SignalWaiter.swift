import CPlatform
import Glibc

/// SIGINT and SIGTERM, taken by waiting for them. Blocked in the thread that makes this, and in
/// every thread made later.
struct SignalWaiter {
    private var signals = sigset_t()

    init() {
        sigemptyset(&signals)
        sigaddset(&signals, SIGINT)
        sigaddset(&signals, SIGTERM)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    /// Seconds of a clock that only goes forward.
    static var now: Double { Double(CPlat_monotonic_ns()) / 1e9 }

    /// Sleeps until a signal (true) or `end` (false); for ever without an end.
    func wait(until end: Double?) -> Bool {
        var set = signals
        guard let end else {
            while sigwaitinfo(&set, nil) < 0 {}
            return true
        }
        while true {
            let left = end - SignalWaiter.now
            if left <= 0 { return false }
            // A day at a time: an end may be farther away than an integer can say.
            let part = min(left, 86_400)
            var time = timespec(tv_sec: Int(part), tv_nsec: Int((part - part.rounded(.down)) * 1e9))
            if sigtimedwait(&set, nil, &time) > 0 { return true }
        }
    }
}
