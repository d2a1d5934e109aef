import Foundation
import Testing

/// Documents and examples against what they tell of.
@Suite struct DocumentTests {
    private func run(_ words: [String]) throws -> (status: Int32?, output: String) {
        let program = try Program("command", words)
        return (program.wait(seconds: 60), program.output)
    }

    @Test("docs/reference.md has every command and option of the programs")
    func reference() throws {
        let (status, output) = try run([root + "/tools/reference", "--check"])
        #expect(status == 0, "\(output)")
        // It can fail: a program that is none has other options.
        #expect(try run([root + "/tools/reference", "--check", "--programs", "/nowhere"]).status != 0)
    }

    @Test("docs/messages.md has every line of the log, with what it means, and every error")
    func messages() throws {
        let (status, output) = try run([root + "/tools/messages", "--check"])
        #expect(status == 0, "\(output)")
        // It can fail: a line that has no meaning, and a meaning of no line.
        let folder = Folder()
        let script = """
            set -e; cd "$1"; mkdir tools docs
            cp -r "$0/Sources" .; cp "$0/docs/messages.md" docs
            cp "$0/tools/messages" "$0/tools/messages.meanings" tools
            tools/messages --check
            sed -i 's/that queue .* is broken/that all is well/' Sources/Dataplane/Ports/Driver/DriverPort.swift
            tools/messages --check
            """
        let broken = try run(["bash", "-c", script, root, folder.path])
        #expect(broken.status == 1, "\(broken.output)")
        #expect(broken.output.contains("no meaning: error\tPORT: the back-end reports that all is well"))
        #expect(broken.output.contains("no such line any more: PORT: the back-end reports that queue … is broken"))
    }

    /// Python's jsonschema, which knows nothing of Ringway. YAML's null is the name of a kind of port.
    private static let validator = """
        import json, sys, yaml, jsonschema
        class Loader(yaml.SafeLoader): pass
        Loader.yaml_implicit_resolvers = {k: [r for r in v if 'null' not in r[0]]
            for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
        schema = json.load(open(sys.argv[1]))
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.Draft7Validator(schema).validate(yaml.load(open(sys.argv[2]), Loader))
        """

    private func validate(_ file: String) throws -> (status: Int32?, output: String) {
        try run(["python3", "-c", DocumentTests.validator, root + "/docs/ringway.schema.json", file])
    }

    /// Configuration files that a user sees.
    private var files: [String] {
        let examples = root + "/docs/examples"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: examples)) ?? []
        return [root + "/packaging/ringway.yaml"]
            + names.filter { $0.hasPrefix("ringway") && $0.hasSuffix(".yaml") }.map { "\(examples)/\($0)" }
    }

    @Test("configuration files in packages and documents run, and keep to the schema; wrong ones do not")
    func configurations() throws {
        let folder = Folder()
        let text = try String(contentsOfFile: root + "/docs/configuration.md", encoding: .utf8)
        let block = try #require(text.components(separatedBy: "```yaml\n").last?.components(separatedBy: "```").first)
        // CPUs that this machine has.
        try block.replacing("cpus: 1,3-4", with: "cpus: \"0\"").write(
            toFile: folder("document.yaml"), atomically: true, encoding: .utf8)
        #expect(files.count > 1)
        for file in files + [folder("document.yaml")] {
            let checked = try run([Ringway.binary, "check", file])
            #expect(checked.status == 0, "\(checked.output)")
            let valid = try validate(file)
            #expect(valid.status == 0, "\(file): \(valid.output)")
        }
        for wrong in [
            "mode: hub", "modes: drop", "max_ports: 5000", "ports: [what:x]", "ports:\n  - null: a\n    client: on",
            "ports:\n  - tap: a\n    queues: 129", "ports:\n  - queues: 1",
        ] {
            try wrong.write(toFile: folder("wrong.yaml"), atomically: true, encoding: .utf8)
            #expect(try run([Ringway.binary, "check", folder("wrong.yaml")]).status == 64, "\(wrong)")
            #expect(try validate(folder("wrong.yaml")).status == 1, "\(wrong)")
        }
    }

    @Test("examples for libvirt keep to libvirt's schema")
    func libvirt() throws {
        let examples = root + "/docs/examples"
        let names = try FileManager.default.contentsOfDirectory(atPath: examples).filter { $0.hasSuffix(".xml") }
        #expect(!names.isEmpty)
        for name in names {
            let (status, output) = try run(["virt-xml-validate", "\(examples)/\(name)"])
            #expect(status == 0, "\(output)")
        }
    }

    @Test("scripts among the examples can be read, and others are YAML")
    func examples() throws {
        let examples = root + "/docs/examples"
        for name in try FileManager.default.contentsOfDirectory(atPath: examples) {
            let words =
                name.hasSuffix(".sh")
                ? ["bash", "-n", "\(examples)/\(name)"]
                : name.hasSuffix(".yaml")
                    ? [
                        "python3", "-c", "import yaml,sys; list(yaml.safe_load_all(open(sys.argv[1])))",
                        "\(examples)/\(name)",
                    ]
                    : ["true"]
            let (status, output) = try run(words)
            #expect(status == 0, "\(name): \(output)")
        }
    }

    @Test("links between documents lead somewhere")
    func links() throws {
        var documents = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
        for folder in ["docs", "docs/how-to"] {
            let names = (try? FileManager.default.contentsOfDirectory(atPath: "\(root)/\(folder)")) ?? []
            documents += names.filter { $0.hasSuffix(".md") }.map { "\(folder)/\($0)" }
        }
        var checked = 0
        for document in documents {
            let text = try String(contentsOfFile: "\(root)/\(document)", encoding: .utf8)
            let folder = URL(fileURLWithPath: "\(root)/\(document)").deletingLastPathComponent()
            for link in text.matches(of: /\]\(([^)#:\s]+)(#[^)]*)?\)/) {
                let path = folder.appending(path: String(link.1)).standardized.path
                #expect(FileManager.default.fileExists(atPath: path), "\(document): \(link.1)")
                checked += 1
            }
        }
        #expect(checked > 50)
    }
}
