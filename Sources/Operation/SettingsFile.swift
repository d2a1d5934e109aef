import Foundation
import Glibc
import Logging
import Memory
import Ringway
import Yams

/// What is wrong with a file: its line, and what may stand there.
package struct FileError: Error, Equatable, CustomStringConvertible {
    package let description: String
    init(_ file: String, _ line: Int, _ text: String) { description = "\(file):\(line): \(text)" }
}

/// Settings as a YAML file has them (docs/configuration.md).
package struct SettingsFile {
    package let settings: Settings
    private let file: String
    /// Where each of them stands; ports by their names.
    private var lines: [String: Int] = [:]
    private var portLines: [String: Int] = [:]

    private static let keys = [
        "mode", "size", "cpus", "threads", "busyloop", "pacing", "mac_ageing", "max_ports", "log_level",
        "log_format", "control", "control_read", "metrics", "sandbox", "allow", "ports",
    ]

    /// Reads and checks a file. Nothing of it is opened.
    package init(_ file: String) throws(FileError) {
        guard let data = FileManager.default.contents(atPath: file) else {
            throw FileError(file, 1, "\(SystemError.text(errno)); give the path of a file that can be read")
        }
        if data.count > 1 << 20 { throw FileError(file, 1, "\(data.count) bytes; a megabyte is the most") }
        guard let text = String(data: data, encoding: .utf8) else { throw FileError(file, 1, "this is no UTF-8 text") }
        try self.init(text, file: file)
    }

    /// The same of a file's text.
    package init(_ text: String, file: String) throws(FileError) {
        self.file = file
        let root = try SettingsFile.root(text, file)
        var values: [String: Node] = [:]
        for (key, value) in root {
            let (name, line) = (key.scalar?.string ?? "", SettingsFile.line(key))
            if !SettingsFile.keys.contains(name) {
                throw FileError(
                    file, line, "'\(name)': there is no such setting; \(SettingsFile.keys.joined(separator: ", ")) are")
            }
            (values[name], lines[name]) = (value, line)
        }
        var reader = Reader(file: file, values: values, lines: lines)
        settings = try reader.settings()
        portLines = reader.portLines
        do throws(EngineError) { _ = try Engine(settings.engine, logger: Logger(label: "ringway")) } catch {
            throw explain("\(error)")
        }
    }

    /// An error of the engine's, with the line of what it names.
    package func explain(_ error: String) -> FileError {
        if let port = portLines.first(where: { error.hasPrefix($0.key + ":") }) {
            return FileError(file, port.value, error)
        }
        let words = [
            ("CPU", "cpus"), ("threads", "threads"), ("busyloop", "busyloop"), ("generate", "size"),
            ("crossconnect", "mode"), ("ports", "ports"),
        ]
        let key = words.first { error.contains($0.0) && lines[$0.1] != nil }?.1 ?? "mode"
        return FileError(file, lines[key] ?? 1, error)
    }

    /// Only ports, the mode's parameters and the log's level change while a dataplane runs.
    package func checkSame(_ running: Settings) throws(FileError) {
        let (a, b) = (running, settings)
        let keys: [(String, Bool)] = [
            ("mode", a.engine.mode.name == b.engine.mode.name), ("cpus", a.engine.cpus == b.engine.cpus),
            ("threads", a.engine.unpinnedThreads == b.engine.unpinnedThreads),
            ("busyloop", a.engine.busyloop == b.engine.busyloop), ("pacing", a.engine.pacing == b.engine.pacing),
            ("max_ports", a.engine.mostPorts == b.engine.mostPorts), ("control", a.control == b.control),
            ("control_read", a.controlRead == b.controlRead), ("sandbox", a.isConfined == b.isConfined),
            ("allow", a.allowed == b.allowed), ("metrics", a.metrics == b.metrics),
            ("log_format", a.logFormat == b.logFormat),
        ]
        if let key = keys.first(where: { !$0.1 })?.0 {
            throw refusal(
                of: key,
                "it cannot change while ringway runs; ports, mac_ageing, size and log_level can. "
                    + "Restart ringway, or undo the change")
        }
    }

    /// Something that cannot change while the dataplane runs.
    package func refusal(of key: String, _ text: String) -> FileError {
        FileError(file, lines[key] ?? 1, "\(key): \(text)")
    }

    private static func line(_ node: Node) -> Int { node.mark?.line ?? 1 }

    private static func root(_ text: String, _ file: String) throws(FileError) -> Node.Mapping {
        let node: Node?
        do { node = try Yams.compose(yaml: text) } catch let error as YamlError {
            throw FileError(file, line(error), "this is no YAML: \(problem(error))")
        } catch {
            throw FileError(file, 1, "this is no YAML: \(error)")
        }
        guard let node else { throw FileError(file, 1, "nothing stands here; begin with mode: and ports:") }
        guard let mapping = node.mapping else {
            throw FileError(file, line(node), "settings are written as name: value, beginning with mode: and ports:")
        }
        return mapping
    }

    private static func line(_ error: YamlError) -> Int {
        switch error {
        case .scanner(_, _, let mark, _), .parser(_, _, let mark, _), .composer(_, _, let mark, _): return mark.line
        case .duplicatedKeysInMapping(_, let context): return context.mark.line
        default: return 1
        }
    }

    private static func problem(_ error: YamlError) -> String {
        switch error {
        case .scanner(_, let problem, _, _), .parser(_, let problem, _, _), .composer(_, let problem, _, _):
            return problem
        case .duplicatedKeysInMapping(let names, _):
            return "\(names.joined(separator: ", ")): stands more than once; leave one"
        default: return "\(error)".split(separator: "\n").joined(separator: " ")
        }
    }

    /// Reads the settings of a file one after the other.
    private struct Reader {
        let file: String
        let values: [String: Node]
        let lines: [String: Int]
        var portLines: [String: Int] = [:]

        private func refuse(_ key: String, _ text: String) -> FileError {
            FileError(file, lines[key] ?? 1, "\(key): \(text)")
        }

        private func text(_ key: String) throws(FileError) -> String? {
            guard let value = values[key] else { return nil }
            guard let scalar = value.scalar else { throw refuse(key, "write one value") }
            return scalar.string
        }

        private func number(_ key: String, _ range: ClosedRange<Int>, _ unit: String) throws(FileError) -> Int? {
            guard let text = try text(key) else { return nil }
            guard let n = Int(text), range.contains(n) else {
                throw refuse(key, "\(text): write \(range.lowerBound) to \(range.upperBound)\(unit)")
            }
            return n
        }

        /// A list, or one value.
        private func list(_ node: Node) -> [String]? {
            if let scalar = node.scalar { return [scalar.string] }
            guard let sequence = node.sequence else { return nil }
            let all = sequence.compactMap(\.scalar?.string)
            return all.count == sequence.count ? all : nil
        }

        mutating func settings() throws(FileError) -> Settings {
            let size = try number("size", 14...9216, " bytes without CRC") ?? 64
            let name = try text("mode") ?? "crossconnect"
            guard let mode = ForwardingMode(name: name, size: size) else {
                throw refuse("mode", "\(name): write crossconnect, switch, macswap, drop or generate")
            }
            if values["size"] != nil && name != "generate" { throw refuse("size", "goes with mode: generate") }
            if values["mac_ageing"] != nil && name != "switch" { throw refuse("mac_ageing", "goes with mode: switch") }
            var options = EngineOptions(ports: [], mode: mode)
            let texts = try ports(&options)
            options.mostPorts = try number("max_ports", 1...4096, " ports") ?? max(64, texts.count)
            try threads(&options)
            options.macAgeing = try number("mac_ageing", 1...1_000_000, " seconds") ?? options.macAgeing
            do throws(EngineError) {
                if let text = try? text("busyloop") { options.busyloop = try PortSyntax.busyloop(text) }
            } catch { throw refuse("busyloop", "\(error)") }
            do throws(EngineError) {
                if let text = try? text("pacing") { options.pacing = try PortSyntax.pacing(text) }
            } catch { throw refuse("pacing", "\(error)") }
            var settings = Settings(options, texts: texts)
            settings.control = try place("control")
            settings.controlRead = try place("control_read")
            settings.isConfined = try sandbox()
            settings.allowed = try allowances()
            if let text = try text("metrics") {
                do throws(RPC.Failure) { settings.metrics = try MetricsPlace(text, option: "metrics") } catch {
                    throw FileError(file, lines["metrics"] ?? 1, error.message)
                }
            }
            if let name = try text("log_format") {
                guard let format = LogFormat(rawValue: name) else {
                    throw refuse("log_format", "\(name): write \(LogFormat.names)")
                }
                settings.logFormat = format
            }
            if let name = try text("log_level") {
                guard let level = Logger.Level(rawValue: name) else {
                    throw refuse("log_level", "\(name): write \(LogLevel.names)")
                }
                settings.logLevel = level
            }
            return settings
        }

        private func threads(_ options: inout EngineOptions) throws(FileError) {
            if let cpus = values["cpus"] {
                guard let all = list(cpus) else { throw refuse("cpus", "write CPU numbers as in 1, 0,2-4 or [0, 2]") }
                if values["threads"] != nil { throw refuse("threads", "threads are pinned or not: give it, or cpus") }
                do throws(EngineError) { options.cpus = try PortSyntax.cpus(all.joined(separator: ",")) } catch {
                    throw refuse("cpus", error.description.replacing("--cpus ", with: ""))
                }
            }
            options.unpinnedThreads = try number("threads", 1...64, " threads") ?? 1
        }

        private func sandbox() throws(FileError) -> Bool {
            switch try text("sandbox").map({ SettingsFile.plain([$0]) }) {
            case nil, "on": return true
            case "off": return false
            case let text?: throw refuse("sandbox", "\(text): write on or off")
            }
        }

        private func allowances() throws(FileError) -> [Allowance] {
            guard let value = values["allow"] else { return [] }
            guard let all = list(value) else { throw refuse("allow", "write a list, as in [/srv/sockets, net_admin]") }
            do throws(RPC.Failure) {
                return try all.map { text throws(RPC.Failure) in try Allowance(text, option: "allow") }
            } catch {
                throw FileError(file, lines["allow"] ?? 1, error.message)
            }
        }

        private func place(_ key: String) throws(FileError) -> SocketPlace? {
            guard let text = try text(key) else { return nil }
            do throws(RPC.Failure) { return try SocketPlace(text, option: key) } catch {
                throw FileError(file, lines[key] ?? 1, error.message)
            }
        }

        private mutating func ports(_ options: inout EngineOptions) throws(FileError) -> [String] {
            guard let value = values["ports"] else { return [] }
            guard let sequence = value.sequence else {
                throw refuse("ports", "write a list, each port behind a '-': - vhost-user:/run/vm1.sock,queues=2")
            }
            var texts: [String] = []
            for node in sequence {
                let text = try port(node)
                let line = SettingsFile.line(node)
                do throws(EngineError) {
                    let port = try PortSyntax.port(text)
                    if let other = portLines.updateValue(line, forKey: port.name) {
                        throw EngineError(
                            "\(port.name): stands in line \(other), too; each port needs a path or name of its own")
                    }
                    options.ports.append(port)
                } catch {
                    throw FileError(file, line, error.description.replacing("--port ", with: ""))
                }
                texts.append(text)
            }
            return texts
        }

        /// As `--port` takes it: text, or a mapping that begins with the kind.
        private func port(_ node: Node) throws(FileError) -> String {
            if let scalar = node.scalar { return scalar.string }
            let line = SettingsFile.line(node)
            guard let mapping = node.mapping, let first = mapping.first else {
                throw FileError(
                    file, line, "ports: write text as --port takes it, or its parts, beginning with vhost-user: PATH")
            }
            var text = ""
            for (key, value) in mapping {
                guard let name = key.scalar?.string, let all = list(value) else {
                    throw FileError(file, SettingsFile.line(key), "ports: write name: value, or a list of values")
                }
                text +=
                    key == first.key ? "\(name):\(all.joined(separator: "+"))" : ",\(name)=\(SettingsFile.plain(all))"
            }
            return text
        }
    }

    /// Values as `--port` takes them.
    private static func plain(_ values: [String]) -> String {
        let words = ["true": "on", "false": "off", "yes": "on", "no": "off"]
        return values.map { words[$0] ?? $0 }.joined(separator: "+")
    }
}
