import Logging
import Ringway

/// All that a dataplane is started with, by the command line or by a file.
package struct Settings: Sendable {
    /// With the ports in it.
    package var engine: EngineOptions
    /// The ports as they were written, in the same order.
    package var texts: [String]
    package var control: SocketPlace?
    package var controlRead: SocketPlace?
    package var logLevel = Logger.Level.info
    /// It gives up what it does not need (`Sandbox`).
    package var isConfined = true
    /// What the sandbox leaves to ports that are added later.
    package var allowed: [Allowance] = []
    package var logFormat = LogFormat.text
    /// Where metrics can be fetched; nil: nowhere.
    package var metrics: MetricsPlace?

    package init(_ engine: EngineOptions, texts: [String]) { (self.engine, self.texts) = (engine, texts) }
}

extension Settings {
    /// The ports as they were written, by name.
    var textsByName: [String: String] {
        Dictionary(zip(engine.ports.map(\.name), texts).map { ($0, $1) }, uniquingKeysWith: { $1 })
    }

    /// As a file of `ringway run` has them, with other ports.
    package func file(ports: [String]) -> String {
        func quoted(_ text: String) -> String { "\"" + text.unicodeScalars.map(\.inYAML).joined() + "\"" }
        var lines = ["mode: \(engine.mode.name)"]
        if case .generate(let size) = engine.mode { lines.append("size: \(size)") }
        if engine.cpus.isEmpty {
            lines.append("threads: \(engine.unpinnedThreads)")
        } else {
            lines.append("cpus: [\(engine.cpus.map(String.init).joined(separator: ", "))]")
        }
        lines.append("busyloop: \(engine.busyloop.name)")
        lines.append("pacing: \(engine.pacing.rawValue)")
        if engine.mode == .switch { lines.append("mac_ageing: \(engine.macAgeing)") }
        if let most = engine.mostPorts { lines.append("max_ports: \(most)") }
        lines.append("log_level: \(LogLevel.current.rawValue)")
        lines.append("log_format: \(logFormat.rawValue)")
        for (key, text) in [
            ("control", control?.text), ("control_read", controlRead?.text), ("metrics", metrics?.text),
        ] {
            if let text { lines.append("\(key): \(quoted(text))") }
        }
        if !isConfined { lines.append("sandbox: off") }
        if !allowed.isEmpty { lines.append("allow: [\(allowed.map { quoted($0.text) }.joined(separator: ", "))]") }
        lines.append(ports.isEmpty ? "ports: []" : "ports:")
        return (lines + ports.map { "  - " + quoted($0) }).joined(separator: "\n") + "\n"
    }
}

extension Unicode.Scalar {
    /// Between double quotes (YAML 1.2, 7.3.1), where what is not printable, and line ends, have to be escaped.
    fileprivate var inYAML: String {
        switch self {
        case "\\", "\"": return "\\\(self)"
        case "\u{0}"..<" ", "\u{7F}"..."\u{9F}", "\u{2028}", "\u{2029}", "\u{FEFF}", "\u{FFFE}", "\u{FFFF}":
            let digits = String(value, radix: 16)
            return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default: return String(self)
        }
    }
}

extension ForwardingMode {
    /// As `--mode` takes it.
    package var name: String {
        switch self {
        case .crossconnect: return "crossconnect"
        case .switch: return "switch"
        case .macswap: return "macswap"
        case .drop: return "drop"
        case .generate: return "generate"
        }
    }

    /// `size`: of `generate`. Nil: there is no such mode.
    package init?(name: String, size: Int) {
        let all: [ForwardingMode] = [.crossconnect, .switch, .macswap, .drop, .generate(size: size)]
        guard let mode = all.first(where: { $0.name == name }) else { return nil }
        self = mode
    }
}

extension BusyloopBudget {
    /// As `--busyloop` takes it.
    fileprivate var name: String {
        switch self {
        case .poll: return "poll"
        case .auto: return "auto"
        case .sleep: return "0"
        case .microseconds(let n): return "\(n)us"
        }
    }
}
