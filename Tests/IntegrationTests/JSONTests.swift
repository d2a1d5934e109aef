import Foundation
import Testing

/// What every command prints with `--json` against docs/json.md, whose tables are read here.
@Suite(.serialized) struct JSONTests {
    @Test("forward: ready, intervals and totals; a line each, and nothing else on standard output")
    func forward() throws {
        let folder = Folder()
        let ringway = try Program(
            "ringway",
            [
                Ringway.binary, "forward", "--json", "--mode", "macswap", "--stats", "0.2", "--busyloop", "0", "--port",
                "vhost-user:\(folder("p"))",
            ], errors: folder("log"))
        _ = try ringway.wait(for: "\"ready\"")
        let drive = try JSONTests.lines("drive", [folder("p"), "--seconds", "1", "--json"])
        try Schema.check(drive, ["connected": "drive: connected", "second": "drive: second"])
        #expect(drive.count == 2)
        let probe = try JSONTests.lines("probe", [folder("p"), "--json"])
        try Schema.check(probe, "probe")
        #expect(ringway.end() == 0)
        let lines = try JSONTests.parse(ringway.output)
        try Schema.check(
            lines,
            [
                "ready": "forward: ready", "interval": "forward: interval, totals",
                "totals": "forward: interval, totals",
            ])
        #expect(lines.first?["type"] == .string("ready") && lines.last?["type"] == .string("totals"))
        #expect(lines.contains { $0["queue_times"] != nil }, "\(ringway.output)")
    }

    @Test("demo")
    func demo() throws {
        let lines = try JSONTests.lines("demo", ["--seconds", "1", "--json"])
        try Schema.check(lines, ["second": "demo: second", "size": "demo: size"])
        #expect(lines.count == 4)
    }

    @Test(
        "bench and tune: one object a line as the tables say",
        arguments: [
            ["bench", "throughput", "--mode", "macswap", "--seconds", "0.5", "--trial", "0.05", "--resolution", "20"],
            ["bench", "throughput", "--mode", "generate", "--seconds", "0.1"],
            ["bench", "latency", "--mode", "macswap", "--seconds", "1", "--rates", "1k,5k"],
            ["bench", "scale", "--queues", "1,3", "--budgets", "poll,0", "--samples", "1", "--seconds", "0.05"],
            ["bench", "threads", "--samples", "1", "--seconds", "0.05"],
            [
                "tune", "--budgets", "0,auto,poll", "--rates", "1k,full", "--samples", "1", "--seconds", "0.1",
            ],
        ])
    func bench(_ arguments: [String]) throws {
        let lines = try JSONTests.lines(arguments[0], arguments.dropFirst() + ["--json"])
        try Schema.check(lines, arguments[0] == "tune" ? "tune" : arguments[0...1].joined(separator: " "))
    }

    @Test("bench peer-latency, beside DPDK; and the same in its file")
    func peerLatency() throws {
        // Where the machine has other work it measures nothing, and says so.
        try withKnownIssue("CPUs 0 and 1 have other work", isIntermittent: true) {
            let folder = Folder()
            let lines = try JSONTests.lines(
                "bench",
                ["peer-latency", "--formats", "split", "--samples", "2", "--json", "--output", folder("x")])
            try Schema.check(lines, "bench peer-latency")
            #expect(try JSONTests.file(folder("x.json")) == lines[0])
        } matching: {
            ($0.error as? Unexpected)?.description.contains("is something else running on CPUs") == true
        }
    }

    @Test("compare's file, beside DPDK")
    func compare() throws {
        let folder = Folder()
        let compare = try Program(
            "compare",
            [
                Ringway.binary, "compare", "--modes", "drop,macswap", "--formats", "split", "--sizes", "64",
                "--samples", "1",
                "--seconds", "0.1", "--output", folder("x"),
            ])
        #expect(compare.wait(seconds: 120) == 0, "\(compare.output)")
        try Schema.check([try JSONTests.file(folder("x.json"))], "compare")
    }

    /// The objects that a command prints; anything else on standard output is an error.
    static func lines(_ command: String, _ arguments: some Sequence<String>) throws -> [JSON] {
        let folder = Folder()
        let program = try Program(command, [Ringway.binary, command] + arguments, errors: folder("errors"))
        let status = program.wait(seconds: 120)
        guard status == 0 else {
            let errors = (try? String(contentsOfFile: folder("errors"), encoding: .utf8)) ?? ""
            throw Unexpected("\(command): status \(status ?? -1): \(errors)")
        }
        return try parse(program.output)
    }

    static func parse(_ text: String) throws -> [JSON] {
        try text.split(separator: "\n").map { line in
            do { return try JSONDecoder().decode(JSON.self, from: Data(line.utf8)) } catch {
                throw Unexpected("no JSON: \(line)")
            }
        }
    }

    private static func file(_ path: String) throws -> JSON {
        try JSONDecoder().decode(JSON.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
    }
}

/// A value of JSON that knows what it was written as.
enum JSON: Decodable, Equatable {
    case null
    case boolean(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([JSON])
    case object([String: JSON])

    init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let v = try? value.decode(Bool.self) {
            self = .boolean(v)
        } else if let v = try? value.decode(Int.self) {
            self = .integer(v)
        } else if let v = try? value.decode(Double.self) {
            self = .number(v)
        } else if let v = try? value.decode(String.self) {
            self = .string(v)
        } else if let v = try? value.decode([JSON].self) {
            self = .array(v)
        } else {
            self = .object(try value.decode([String: JSON].self))
        }
    }

    subscript(key: String) -> JSON? {
        if case .object(let members) = self { return members[key] }
        return nil
    }
}

/// The tables of docs/json.md and docs/control.md.
struct Schema {
    struct Member {
        /// As in `ports[].rx.packets`.
        var way: String
        /// Of `integer`, `number`, …, `histogram`.
        var types: [String]
        var mayBeAbsent: Bool
    }

    private static let tables: [String: [Member]] = {
        var all: [String: [Member]] = [:]
        var heading = ""
        let texts = ["json", "control"].map { try? String(contentsOfFile: root + "/docs/\($0).md", encoding: .utf8) }
        for line in texts.compactMap(\.self).joined(separator: "\n").split(separator: "\n") {
            if line.hasPrefix("## ") { heading = String(line.dropFirst(3)) }
            guard line.hasPrefix("| `") else { continue }
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).map {
                $0.trimmingCharacters(in: .whitespaces)
            }
            let parts = cells[2].components(separatedBy: ", ")
            all[heading, default: []].append(
                Member(
                    way: cells[1].replacingOccurrences(of: "`", with: ""),
                    types: parts[0].components(separatedBy: " or "),
                    mayBeAbsent: parts.contains("absent") || cells[3].hasPrefix("absent")))
        }
        return all
    }()

    /// Objects of several kinds, told apart by their member `type`: the table of each.
    static func check(_ objects: [JSON], _ headings: [String: String]) throws {
        if objects.isEmpty { throw Unexpected("nothing was printed") }
        for object in objects {
            guard case .string(let type) = object["type"], let heading = headings[type] else {
                throw Unexpected("of no known type: \(object)")
            }
            try check([object], heading)
        }
    }

    static func check(_ objects: [JSON], _ heading: String) throws {
        guard let members = tables[heading] else { throw Unexpected("the documents have no table '\(heading)'") }
        if objects.isEmpty { throw Unexpected("\(heading): nothing was printed") }
        for object in objects {
            let problems = problems(object, at: "", members)
            if !problems.isEmpty { throw Unexpected("\(heading): \(problems.joined(separator: "; ")): \(object)") }
        }
    }

    /// `prefix` is the way to `value`, in the table's words.
    private static func problems(_ value: JSON, at prefix: String, _ members: [Member]) -> [String] {
        if let member = members.first(where: { $0.way == prefix }) {
            return member.types.contains { fits(value, $0) } ? [] : ["\(prefix) is not \(member.types)"]
        }
        switch value {
        case .array(let elements): return elements.flatMap { problems($0, at: prefix + "[]", members) }
        case .object(let object) where members.contains { $0.way.hasPrefix(prefix + "{}") }:
            return object.values.flatMap { problems($0, at: prefix + "{}", members) }
        case .object(let object):
            let start = prefix.isEmpty ? "" : prefix + "."
            let inside = members.filter { $0.way.hasPrefix(start) }
            if inside.isEmpty { return ["\(prefix) is in no table"] }
            // What the table has here, member by member.
            let wanted = Dictionary(
                grouping: inside, by: { String($0.way.dropFirst(start.count).prefix { !".[{".contains($0) }) })
            let missing = wanted.filter { object[$0.key] == nil && !$0.value.contains { $0.mayBeAbsent } }
            return missing.map { "\(start)\($0.key) is missing" }
                + object.flatMap { problems($0.value, at: start + $0.key, members) }
        default: return ["\(prefix) is in no table"]
        }
    }

    private static func fits(_ value: JSON, _ type: String) -> Bool {
        switch (type, value) {
        case ("string", .string), ("boolean", .boolean), ("integer", .integer), ("number", .integer),
            ("number", .number), ("null", .null):
            return true
        case ("histogram", .object(let members)):
            // Its keys have points, so they are no way.
            let table = tables["histogram"] ?? []
            return Set(members.keys) == Set(table.map(\.way)) && members.values.allSatisfy { fits($0, "integer") }
        default: return false
        }
    }
}
