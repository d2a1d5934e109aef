import CPlatform
import Glibc

/// What is done to eventfds, also to those that another process holds, too. O_NONBLOCK belongs to both holders, and
/// either can change it, or fill the counter, between any two instructions. So no operation here depends on it: none
/// ever waits.
public enum EventFD {
    /// A new one, with a count of 0. Nil: no descriptors are left; errno tells.
    public static func make() -> OwnedDescriptor? {
        let fd = CPlat_eventfd(0)
        return fd < 0 ? nil : OwnedDescriptor(fd)
    }

    /// Whether it was signalled; clears it (of a semaphore: takes one). False, too, for what is no eventfd.
    public static func take(_ fd: Int32) -> Bool { CPlat_take_now(fd) != 0 }

    /// Adds one; a full counter is readable already and stays full. False: the system lacks memory or descriptors.
    @discardableResult
    public static func signal(_ fd: Int32) -> Bool { fd >= 0 && CPlat_signal_now(fd) == 0 }

    /// The same for one that no other process holds: a plain write, which O_NONBLOCK keeps from waiting.
    @discardableResult
    public static func signalOwn(_ fd: Int32) -> Bool {
        var one: UInt64 = 1
        while true {
            if write(fd, &one, 8) == 8 { return true }
            if errno != EINTR { return errno == EAGAIN }
        }
    }
}
