import Glibc

/// How far long work is, on standard error: on a terminal one line that is written over, else a line a step.
package enum Progress {
    private static let isTerminal = isatty(2) == 1
    nonisolated(unsafe) private static var isShown = false

    package static func show(_ line: String) {
        if !isTerminal { return note(line) }
        write("\r\u{1b}[K" + line)
        isShown = true
    }

    /// Before something is printed where the line stands.
    package static func clear() {
        if isShown { write("\r\u{1b}[K") }
        isShown = false
    }

    private static func write(_ text: String) { _ = text.withCString { Glibc.write(2, $0, strlen($0)) } }
}

/// A line on standard error.
package func note(_ line: String) {
    Progress.clear()
    _ = (line + "\n").withCString { write(2, $0, strlen($0)) }
}
