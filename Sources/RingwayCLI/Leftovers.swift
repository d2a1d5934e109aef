import Foundation
import Glibc

/// What must not outlive the program, however it ends: folders in /tmp, and other programs that it started. Those poll a CPU,
/// or are stopped and would not hear of the end.
enum Leftovers {
    private static let lock = NSLock()
    nonisolated(unsafe) private static var folders: Set<String> = []
    nonisolated(unsafe) private static var programs: Set<pid_t> = []
    nonisolated(unsafe) private static var isWatching = false
    nonisolated(unsafe) private static var bell: Int32 = -1

    static func add(folder: String) {
        lock.withLock {
            watch()
            folders.insert(folder)
        }
    }

    /// Starts `process`, which has to go with this one.
    static func start(_ process: Process) throws {
        try lock.withLock {
            watch()
            try process.run()
            programs.insert(process.processIdentifier)
        }
    }

    static func add(program: pid_t) { _ = lock.withLock { programs.insert(program) } }

    static func remove(folder: String) {
        lock.withLock {
            try? FileManager.default.removeItem(atPath: folder)
            folders.remove(folder)
        }
    }

    /// It has ended.
    static func forget(program: pid_t) { _ = lock.withLock { programs.remove(program) } }

    /// Ends the programs and removes the folders. Nothing can be added any more: the caller ends this program.
    static func clear() {
        lock.lock()
        for p in programs {
            kill(p, SIGTERM)
            kill(p, SIGCONT)
        }
        for _ in 0..<300 where !programs.isEmpty {
            programs = programs.filter { waitpid($0, nil, WNOHANG) == 0 }
            if !programs.isEmpty { usleep(10_000) }
        }
        for p in programs {
            kill(p, SIGKILL)
            waitpid(p, nil, 0)
        }
        for f in folders { try? FileManager.default.removeItem(atPath: f) }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP clear up before they end the program.
    private static func watch() {
        if isWatching { return }
        isWatching = true
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { return }
        for fd in ends { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
        bell = ends[1]
        let listener = ends[0]
        Thread.detachNewThread {
            var number: UInt8 = 0
            while read(listener, &number, 1) != 1 {}
            clear()
            signal(Int32(number), SIG_DFL)
            raise(Int32(number))
        }
        for number in [SIGINT, SIGTERM, SIGHUP] {
            // What is ignored (nohup, a job in the background) stays so.
            var old = sigaction()
            sigaction(number, nil, &old)
            if unsafeBitCast(old.__sigaction_handler.sa_handler, to: Int.self) == 1 { continue }
            signal(number) {
                var number = UInt8($0)
                _ = write(Leftovers.bell, &number, 1)
            }
        }
    }
}
