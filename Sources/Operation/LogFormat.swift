import Console
import Foundation
import Glibc
import Logging

/// How the program's log is written: a line for each event, to standard error.
package enum LogFormat: String, CaseIterable, Sendable {
    /// For people.
    case text
    /// A JSON object a line (docs/observability.md).
    case json
    /// For systemd's journal: an entry with fields, where its socket is (`Journal`). Else sd-daemon(3)'s prefix, then
    /// the text, from which it takes the priority, too.
    case journald

    /// The names, for errors.
    package static let names = "text, json or journald"

    func line(_ event: LogEvent, _ label: String, _ metadata: Logger.Metadata) -> String {
        switch self {
        case .text: return ""
        case .json:
            let values = metadata.mapValues { "\($0)" }
            let line = JSONLine(
                time: LogFormat.time(), level: event.level.rawValue, label: label, message: "\(event.message)",
                metadata: values.isEmpty ? nil : values)
            return Console.JSON.text(line)
        case .journald:
            // What has several lines is several entries, else.
            let text = "\(event.message)".split(whereSeparator: \.isNewline).joined(separator: " ")
            return "<\(LogFormat.priority(event.level))>\(text)"
        }
    }

    private struct JSONLine: Encodable {
        let time, level, label, message: String
        let metadata: [String: String]?
    }

    /// The fields of an entry of the journal.
    static func fields(_ event: LogEvent, _ metadata: Logger.Metadata) -> [(name: String, value: String)] {
        [
            ("MESSAGE", "\(event.message)"), ("PRIORITY", "\(priority(event.level))"),
            ("SYSLOG_IDENTIFIER", "ringway"),
        ] + metadata.sorted { $0.key < $1.key }.map { (Journal.name($0.key), "\($0.value)") }
    }

    /// Of syslog(3).
    private static func priority(_ level: Logger.Level) -> Int {
        switch level {
        case .trace, .debug: return 7
        case .info: return 6
        case .notice: return 5
        case .warning: return 4
        case .error: return 3
        case .critical: return 2
        }
    }

    /// Now, as RFC 3339 has it: UTC, to a millisecond.
    static func time() -> String {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        var parts = tm()
        gmtime_r(&now.tv_sec, &parts)
        func two(_ n: Int32) -> String { n < 10 ? "0\(n)" : "\(n)" }
        let milliseconds = String(1000 + now.tv_nsec / 1_000_000).dropFirst()
        return "\(1900 + parts.tm_year)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
            + "T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(milliseconds)Z"
    }
}

/// Writes whole lines: each with one system call, so that those of several threads do not mix. Or sends entries to the
/// journal.
package struct LineLogHandler: LogHandler {
    let label: String
    let format: LogFormat
    /// Nil: there is none, or it is not asked for.
    let journal: Journal?
    package var metadata = Logger.Metadata()
    package var logLevel: Logger.Level {
        get { LogLevel.current }
        set {}
    }

    package init(_ label: String, _ format: LogFormat, _ journal: Journal?) {
        (self.label, self.format, self.journal) = (label, format, journal)
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { $1 }
        if let journal, journal.send(LogFormat.fields(event, all)) { return }
        let bytes = Array((format.line(event, label, all) + "\n").utf8)
        // Who reads the log and stops reading holds up whoever writes to it, as with any log.
        var sent = 0
        while sent < bytes.count {
            let n = bytes[sent...].withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
            if n < 0 && errno != EINTR { return }
            sent += max(0, n)
        }
    }
}
