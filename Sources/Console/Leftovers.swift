import Foundation
import Glibc

/// What must not outlive the program, however it ends (see `Signals`): sockets, folders in /tmp, and other programs
/// that it started. Those poll a CPU, or are stopped and would not hear of the end.
package enum Leftovers {
    private static let lock = NSLock()
    nonisolated(unsafe) private static var folders: Set<String> = []
    nonisolated(unsafe) private static var sockets: Set<String> = []
    nonisolated(unsafe) private static var programs: Set<pid_t> = []
    nonisolated(unsafe) private static var last: [() -> Void] = []

    /// What is done before the program ends, however it ends; it takes no time.
    package static func add(_ work: @escaping () -> Void) { lock.withLock { last.append(work) } }

    package static func add(folder: String) { _ = lock.withLock { folders.insert(folder) } }

    /// It is this program's and listens.
    package static func add(socket: String) { _ = lock.withLock { sockets.insert(socket) } }

    /// It has been removed.
    package static func forget(socket: String) { _ = lock.withLock { sockets.remove(socket) } }

    /// Starts `process`, which has to go with this one.
    package static func start(_ process: Process) throws {
        try lock.withLock {
            try process.run()
            programs.insert(process.processIdentifier)
        }
    }

    package static func add(program: pid_t) { _ = lock.withLock { programs.insert(program) } }

    package static func remove(folder: String) {
        lock.withLock {
            try? FileManager.default.removeItem(atPath: folder)
            folders.remove(folder)
        }
    }

    /// It has ended.
    package static func forget(program: pid_t) { _ = lock.withLock { programs.remove(program) } }

    /// Ends the programs, removes sockets and folders. Nothing can be added any more: the caller ends this program.
    package static func clear() {
        lock.lock()
        for work in last { work() }
        for s in sockets { unlink(s) }
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
}
