import Foundation

/// A program in a terminal of its own.
final class Pty {
    let pid: pid_t
    private let terminal: Int32
    private var seen: [UInt8] = []
    private var hasEnded = false

    /// `arguments[0]` is a path.
    init(_ arguments: [String], width: UInt16 = 100, height: UInt16 = 30) throws {
        terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
        // TIOCSPTLCK and TIOCGPTN of <asm-generic/ioctls.h>: what unlockpt(3) and ptsname(3) do.
        var (isLocked, number) = (Int32(0), UInt32(0))
        guard terminal >= 0, ioctl(terminal, 0x4004_5431, &isLocked) == 0, ioctl(terminal, 0x8004_5430, &number) == 0
        else { throw Unexpected("no terminal: \(errno)") }
        let name = "/dev/pts/\(number)"
        var size = winsize(ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0)
        _ = ioctl(terminal, UInt(TIOCSWINSZ), &size)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        // The first one that a session opens is its terminal.
        posix_spawn_file_actions_addopen(&actions, 0, name, O_RDWR, 0)
        for fd in Int32(1)...2 { posix_spawn_file_actions_adddup2(&actions, 0, fd) }
        var attributes = posix_spawnattr_t()
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_init(&attributes)
        posix_spawnattr_setsigmask(&attributes, &none)
        // POSIX_SPAWN_SETSID is 0x80 in <spawn.h>.
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | 0x80)
        var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var child = pid_t()
        let code = posix_spawn(&child, arguments[0], &actions, &attributes, &argv, environ)
        for p in argv { free(p) }
        posix_spawnattr_destroy(&attributes)
        posix_spawn_file_actions_destroy(&actions)
        guard code == 0 else { throw Unexpected("\(arguments[0]): \(String(cString: strerror(code)))") }
        pid = child
    }

    deinit {
        if !hasEnded {
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
        }
        close(terminal)
    }

    func type(_ keys: String) { _ = write(terminal, keys, keys.utf8.count) }

    func resize(_ width: UInt16, _ height: UInt16) {
        var size = winsize(ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0)
        _ = ioctl(terminal, UInt(TIOCSWINSZ), &size)
    }

    /// Whether keys are echoed and come line by line, as before a full-screen program.
    var isCooked: Bool {
        var state = termios()
        tcgetattr(terminal, &state)
        return state.c_lflag & tcflag_t(ICANON | ECHO) == tcflag_t(ICANON | ECHO)
    }

    /// What it has written after the first `mark` bytes, once `isEnough` says so.
    @discardableResult
    func wait(after mark: Int = 0, seconds: Double = 20, _ isEnough: (String) -> Bool) throws -> String {
        let end = deadline(seconds)
        while true {
            var waiting = pollfd(fd: terminal, events: Int16(POLLIN), revents: 0)
            if poll(&waiting, 1, 50) > 0 && waiting.revents & Int16(POLLIN) != 0 {
                var room = [UInt8](repeating: 0, count: 65_536)
                let n = read(terminal, &room, room.count)
                if n > 0 { seen += room[..<n] }
            }
            let text = String(decoding: seen.dropFirst(mark), as: UTF8.self)
            if isEnough(text) { return text }
            if now > end { throw Unexpected("the terminal shows:\n\(text.suffix(3000))") }
        }
    }

    /// Bytes that came so far.
    var count: Int { seen.count }

    /// Status of its end; 128 + signal if one killed it.
    func end(seconds: Double = 20) -> Int32? {
        let limit = deadline(seconds)
        var raw: Int32 = 0
        while now < limit {
            // What it writes at its end has to go somewhere.
            _ = try? wait { _ in true }
            if waitpid(pid, &raw, WNOHANG) == pid {
                hasEnded = true
                return raw & 0x7f == 0 ? (raw >> 8) & 0xff : 128 + (raw & 0x7f)
            }
        }
        return nil
    }
}
