import CPlatform
import Foundation
import Glibc

/// Witness of stalls: how long a thread that never sleeps did not have its CPU. The kernel keeps that apart from the
/// thread's own time, whoever took it: the hypervisor (steal time), an interrupt or another program. So it knows
/// nothing of packets, and is asked alike for every side.
struct StolenTime {
    private let wall = CPlat_monotonic_ns()
    private let used: () -> UInt64

    /// Of the calling thread, from now on.
    init() {
        let start = StolenTime.ownTime
        used = { StolenTime.ownTime &- start }
    }

    /// Of the busiest thread of a process, from now on. The process has to be stopped now and when it is asked: the
    /// time of a thread that runs is added up at its next tick only. Nil: this kernel does not tell (schedstat).
    init?(process: pid_t) {
        guard let start = StolenTime.times(of: process) else { return nil }
        used = {
            let now = StolenTime.times(of: process) ?? [:]
            return now.map { $1 &- (start[$0] ?? 0) }.max() ?? 0
        }
    }

    /// Nanoseconds without the CPU so far.
    var nanoseconds: UInt64 {
        let passed = CPlat_monotonic_ns() &- wall
        return passed - min(passed, used())
    }

    private static var ownTime: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    /// Nanoseconds that each thread has had a CPU: the first number of /proc/PID/task/TID/schedstat.
    private static func times(of process: pid_t) -> [String: UInt64]? {
        let folder = "/proc/\(process)/task"
        guard let threads = try? FileManager.default.contentsOfDirectory(atPath: folder) else { return nil }
        var times: [String: UInt64] = [:]
        for thread in threads {
            guard let text = try? String(contentsOfFile: "\(folder)/\(thread)/schedstat", encoding: .utf8),
                let time = UInt64(text.prefix { $0.isNumber })
            else { return nil }
            times[thread] = time
        }
        return times
    }
}
