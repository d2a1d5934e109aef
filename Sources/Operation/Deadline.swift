import CPlatform
import Glibc
import Memory

/// A time at which the kernel ends this process, whatever it does: also where it hangs, or is stopped (SIGSTOP). A
/// process that has to let go of something in time, and cannot be trusted to, gets one before it has it. Any thread.
final class Deadline: Sendable {
    private let timer: Int

    /// Nothing happens until `set`. Errors: the kernel makes no timers.
    init() throws(UpgradeError) {
        timer = CPlat_deadline()
        if timer < 0 { throw UpgradeError("timer_create: \(SystemError.text(errno))") }
    }

    deinit { CPlat_deadline_remove(timer) }

    /// From now on it is so many seconds away.
    func set(seconds: UInt32) throws(UpgradeError) {
        if CPlat_deadline_set(timer, seconds) != 0 { throw UpgradeError("timer_settime: \(SystemError.text(errno))") }
    }

    /// There is none any more.
    func clear() { _ = CPlat_deadline_set(timer, 0) }
}
