import Foundation
import Operation
import Testing

/// docs/ringway.schema.json, which editors read, against what `SettingsFile` takes.
@Suite struct SchemaTests {
    private typealias Object = [String: Any]
    private let schema: Object

    init() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let data = try Data(contentsOf: root.appending(path: "docs/ringway.schema.json"))
        schema = try #require(try JSONSerialization.jsonObject(with: data) as? Object)
    }

    /// Why the file is refused; nil: it is taken.
    private func error(_ text: String) -> String? {
        do throws(FileError) {
            _ = try SettingsFile(text, file: "f")
            return nil
        } catch { return error.description }
    }

    /// What stands behind `$ref`, with what stands beside it.
    private func resolved(_ value: Any?) -> Object {
        guard let object = value as? Object, let ref = object["$ref"] as? String else { return value as? Object ?? [:] }
        let definition = (schema["definitions"] as? Object)?[ref.replacing("#/definitions/", with: "")]
        return resolved(definition).merging(object) { $1 }
    }

    private var settings: Object { schema["properties"] as? Object ?? [:] }
    private func properties(_ kind: String) -> Object {
        resolved(["$ref": "#/definitions/\(kind)"])["properties"] as? Object ?? [:]
    }

    /// The kinds of ports that it has as objects.
    private var kinds: [String] {
        let items = resolved(resolved(settings["ports"])["items"])["anyOf"] as? [Object] ?? []
        return items.compactMap { ($0["$ref"] as? String)?.replacing("#/definitions/", with: "") }
    }

    /// The names between two texts of an error: `a, b, c`.
    private func names(_ error: String, after: String, until: String) throws -> Set<String> {
        let start = try #require(error.range(of: after), "\(error)").upperBound
        let end = try #require(error.range(of: until, range: start..<error.endIndex), "\(error)").lowerBound
        return Set(
            error[start..<end].replacing(" and ", with: ", ").split(separator: ", ").map(String.init))
    }

    @Test("its settings, kinds of ports and options are those that are taken")
    func keys() throws {
        let top = try names(
            try #require(error("nonsense: 1")), after: "there is no such setting; ", until: " are")
        #expect(top == Set(settings.keys))
        let known = try names(
            try #require(error("mode: drop\nports: ['what:x']")), after: "is no kind of port; ", until: " are")
        #expect(known == Set(kinds))
        let pattern =
            (resolved(resolved(settings["ports"])["items"])["anyOf"] as? [Object])?.first?["pattern"] as? String
        #expect(pattern == "^(\(kinds.joined(separator: "|"))):.")
        for kind in kinds {
            let text = try #require(error("mode: drop\nports:\n  - \(kind): x\n    nonsense: 1"))
            let own = try names(text, after: "is no option of \(kind); ", until: " are")
            let switching = try names(text + ".", after: "of a switch's port ", until: ".")
            #expect(Set(properties(kind).keys) == own.union(switching).union([kind]), "\(kind)")
        }
    }

    /// A file with one setting, and what that one needs beside it.
    private func file(_ key: String, _ value: Any) -> String {
        switch key {
        case "mode": return "mode: \(value)" + (value as? String == "crossconnect" ? "\nports: [null:a, null:b]" : "")
        case "size": return "mode: generate\nsize: \(value)"
        default: return "mode: switch\n\(key): \(value)"
        }
    }

    private func port(_ kind: String, _ option: String, _ value: Any) -> String {
        // A path that a device could have, so that its own options can stand there.
        let place = kind.hasSuffix("-user") ? "/run/x" : "x"
        return "mode: switch\nports:\n  - \(kind): \(place)\n"
            + (option == "native" ? "    trunk: all\n" : "") + "    \(option): \(value)\n"
    }

    @Test("its ranges and lists of values are those that are taken, and no more")
    func values() throws {
        var checked = 0
        func check(_ name: String, _ member: Any, _ file: (Any) -> String) {
            let member = resolved(member)
            if let low = member["minimum"] as? Int, let high = member["maximum"] as? Int {
                for value in [low, high] { #expect(error(file(value)) == nil, "\(name): \(value)") }
                for value in [low - 1, high + 1] { #expect(error(file(value)) != nil, "\(name): \(value)") }
                checked += 1
            } else if let all = member["enum"] as? [String] {
                for value in all { #expect(error(file(value)) == nil, "\(name): \(value)") }
                // An error names all that there are.
                let text = error(file("nonsense")) ?? ""
                for value in all { #expect(text.contains(value), "\(name): \(text)") }
                checked += 1
            }
        }
        for (key, member) in settings { check(key, member) { file(key, $0) } }
        for kind in kinds {
            for (option, member) in properties(kind) { check("\(kind) \(option)", member) { port(kind, option, $0) } }
        }
        #expect(checked > 20)
    }

    @Test("the example that packages install is a file that runs, and names the schema")
    func example() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "packaging/ringway.yaml"), encoding: .utf8)
        #expect(text.hasPrefix("# yaml-language-server: $schema=/usr/share/ringway/ringway.schema.json\n"))
        #expect(error(text) == nil)
        // With its comments taken away, too.
        let whole = text.replacing("ports: []\n", with: "").replacing("# ports:", with: "ports:").replacing(
            /\n# ( +(-|[a-z_]+:) )/, with: { "\n" + String($0.1) })
        #expect(error(whole) == nil)
        #expect(try SettingsFile(whole, file: "f").settings.texts.count == 2)
    }
}
