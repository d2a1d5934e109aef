import Console
import Glibc

/// The terminal as a full-screen program has it: nothing is echoed, keys come one by one, and the screen of before is
/// there again afterwards, however the program ends.
final class Terminal {
    private var before = termios()

    /// Takes the terminal over; nil where standard input or output is none.
    init?() {
        guard isatty(STDIN_FILENO) == 1, isatty(STDOUT_FILENO) == 1, tcgetattr(STDIN_FILENO, &before) == 0 else {
            return nil
        }
        var new = before
        // ^C stays a signal. ^Z would leave the screen as it is.
        new.c_lflag &= ~tcflag_t(ICANON | ECHO)
        withUnsafeMutableBytes(of: &new.c_cc) { $0[Int(VSUSP)] = 0 }
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &new)
        Terminal.write("\u{1b}[?1049h\u{1b}[?25l")
        let old = before
        Leftovers.add { Terminal.restore(old) }
    }

    func restore() { Terminal.restore(before) }

    private static func restore(_ state: termios) {
        write("\u{1b}[?25h\u{1b}[?1049l")
        var state = state
        tcsetattr(STDIN_FILENO, TCSADRAIN, &state)
    }

    /// Columns and lines.
    var size: (width: Int, height: Int) {
        var size = winsize()
        guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0 else {
            return (80, 24)
        }
        return (Int(size.ws_col), Int(size.ws_row))
    }

    /// Shows lines in place of those that are there; `renditions`: parameters of SGR for each, or none.
    func show(_ lines: [String], _ renditions: [String] = []) {
        let all = lines.enumerated().map { index, line in
            let rendition = index < renditions.count ? renditions[index] : ""
            return (rendition.isEmpty ? line : "\u{1b}[\(rendition)m\(line)\u{1b}[m") + "\u{1b}[K"
        }
        Terminal.write("\u{1b}[H" + all.joined(separator: "\r\n") + "\u{1b}[J")
    }

    enum Key: Equatable {
        case character(Character)
        case up, down, pageUp, pageDown, home, end
        /// Another one that has no character.
        case other
    }

    /// The next key, if one comes in so many milliseconds. Nil, too, where nobody types any more.
    func key(milliseconds: Int32) -> Key? {
        guard let byte = byte(milliseconds: milliseconds) else { return nil }
        if byte != 0x1b { return .character(Character(UnicodeScalar(byte))) }
        // CSI or, where the terminal's keypad is an application's, SS3; parameters; and one byte that ends it (ECMA-48,
        // 5.4). Escape by itself has nothing behind it.
        guard let next = self.byte(milliseconds: 50), next == UInt8(ascii: "[") || next == UInt8(ascii: "O") else {
            return .other
        }
        var parameters = ""
        while let byte = self.byte(milliseconds: 50) {
            if !(0x40...0x7e).contains(byte) {
                if parameters.count < 8 { parameters.append(Character(UnicodeScalar(byte))) }
                continue
            }
            switch (Character(UnicodeScalar(byte)), parameters) {
            case ("A", _): return .up
            case ("B", _): return .down
            case ("H", _), ("~", "1"), ("~", "7"): return .home
            case ("F", _), ("~", "4"), ("~", "8"): return .end
            case ("~", "5"): return .pageUp
            case ("~", "6"): return .pageDown
            default: return .other
            }
        }
        return .other
    }

    private func byte(milliseconds: Int32) -> UInt8? {
        var waiting = pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, milliseconds) > 0 else { return nil }
        if waiting.revents & Int16(POLLIN) == 0 {
            isGone = true
            return nil
        }
        var byte: UInt8 = 0
        let n = read(STDIN_FILENO, &byte, 1)
        if n == 0 || n < 0 && errno != EINTR && errno != EAGAIN { isGone = true }
        return n == 1 ? byte : nil
    }

    /// The terminal was closed.
    private(set) var isGone = false

    private static func write(_ text: String) {
        let bytes = Array(text.utf8)
        var sent = 0
        while sent < bytes.count {
            let n = bytes[sent...].withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if n < 0 && errno != EINTR && errno != EAGAIN { return }
            sent += max(0, n)
        }
    }
}
