import Foundation
import Testing

/// tools/instructions: the gate on instructions per packet, and that it can close.
@Suite(.serialized) struct InstructionsTests {
    private static let thresholds = root + "/Benchmarks/instructions.tsv"

    private func count(_ arguments: String...) throws -> (status: Int32?, output: String) {
        let program = try Program("instructions", [root + "/tools/instructions", "--no-build"] + arguments)
        return (program.wait(seconds: 120), program.output)
    }

    /// The file with one line changed.
    private func changed(_ folder: Folder, _ change: (inout [String]) -> Void) throws -> String {
        var lines = try String(contentsOfFile: InstructionsTests.thresholds, encoding: .utf8).split(separator: "\n")
            .map(String.init)
        change(&lines)
        try (lines.joined(separator: "\n") + "\n").write(toFile: folder("file"), atomically: true, encoding: .utf8)
        return folder("file")
    }

    @Test("no case needs more instructions per packet than Benchmarks/instructions.tsv allows")
    func gate() throws {
        let (status, output) = try count()
        #expect(status == 0, "\(output)")
    }

    @Test("an embedder's function, and what it does to packets, cost no more than the documentation says")
    func functions() throws {
        var rows: [String: Double] = [:]
        for line in try String(contentsOfFile: InstructionsTests.thresholds, encoding: .utf8).split(separator: "\n") {
            let fields = line.split(separator: "\t")
            if fields.count == 2, let count = Double(fields[1]) { rows[String(fields[0])] = count }
        }
        for format in ["split", "packed"] {
            func row(_ name: String) throws -> Double { try #require(rows["\(name) \(format) 64"], "\(name)") }
            let (own, embedded) = (try row("macswap"), try row("embedded macswap"))
            #expect(embedded <= own * 1.03, "\(format): a function of an embedder beside Ringway's own")
            let front = try row("embedded read-64")
            #expect(front - embedded <= 40, "\(format): 64 bytes of front in place of 12")
            #expect(try row("embedded vlan") - front <= 30, "\(format): a VLAN tag")
            #expect(try row("embedded vxlan") - front <= 120, "\(format): headers of a VXLAN tunnel")
        }
    }

    @Test("counts repeat exactly")
    func repetition() throws {
        // What `auto` learns depends on the clock, and what libc does (the last column) on who waits for whom.
        let runs = try (0..<2).map { _ in
            try count("split").output.split(separator: "\n").filter { !$0.contains(" auto ") }
                .map { $0.split(separator: " ").dropLast().joined(separator: " ") }
        }
        #expect(runs[0] == runs[1])
        #expect(runs[0].contains { $0.hasPrefix("macswap split 64 ") }, "\(runs[0])")
    }

    @Test("a threshold that is 2 % too low fails, and the case is named")
    func closes() throws {
        let folder = Folder()
        let file = try changed(folder) { lines in
            for (i, line) in lines.enumerated() where line.hasPrefix("drop split 64\t") {
                lines[i] = "drop split 64\t\(Double(line.split(separator: "\t")[1])! * 0.98)"
            }
        }
        let (status, output) = try count("--file", file, "drop split")
        #expect(status == 1)
        #expect(
            output.split(separator: "\n").contains { $0.hasPrefix("drop split 64 ") && $0.hasSuffix("MORE") },
            "\(output)")
    }

    @Test("a case that is not counted any more, or has no threshold, fails")
    func completeness() throws {
        let folder = Folder()
        let file = try changed(folder) { lines in
            lines.removeAll { $0.hasPrefix("drop packed 64\t") }
            lines.append("drop triangular 64\t100")
        }
        let (status, output) = try count("--file", file, "drop")
        #expect(status == 1)
        #expect(output.contains("drop triangular 64: in the file, but not counted"), "\(output)")
        #expect(
            output.split(separator: "\n").contains {
                $0.hasPrefix("drop packed 64 ") && $0.hasSuffix("not in the file")
            }, "\(output)")
    }
}

/// What grows with the number of queues and threads.
@Suite(.serialized) struct ScaleTests {
    /// Instructions per packet by case.
    private func counts(_ only: String) throws -> [String: Double] {
        let program = try Program("instructions", [root + "/tools/instructions", "--no-build", only])
        guard program.wait(seconds: 120) == 0 else { throw Unexpected(program.output) }
        var counts: [String: Double] = [:]
        for line in try String(contentsOfFile: root + "/Benchmarks/instructions.tsv", encoding: .utf8).split(
            separator: "\n")
        {
            let columns = line.split(separator: "\t")
            // The line of the table: name, before, now, change.
            guard columns.count == 2,
                let shown = program.output.split(separator: "\n").first(where: {
                    $0.hasPrefix(columns[0] + " ".repeated(40 - columns[0].count))
                })
            else { continue }
            counts[String(columns[0])] = Double(shown.dropFirst(40).split(separator: " ")[1])
        }
        return counts
    }

    @Test(
        """
        a thousand idle queue pairs cost the busy one at most 5 % more instructions in poll, and nothing in auto; a \
        second thread costs nothing
        """
    )
    func instructions() throws {
        var counts = try counts("drop")
        for format in ["split", "packed", "packed-in-order"] {
            let alone = try #require(counts["drop \(format) 64"])
            #expect(try #require(counts["drop \(format) 64 1000-idle poll"]) < alone * 1.05)
            // What `auto` learns depends on the clock: where something else runs on this machine, it sleeps and wakes.
            func costsNothing() throws -> Bool {
                let (idle, none) = ("drop \(format) 64 1000-idle auto", "drop \(format) 64 auto")
                return try #require(counts[idle]) < #require(counts[none]) * 1.002
            }
            for _ in 0..<4 where try !costsNothing() { counts = try self.counts("drop") }
            #expect(try costsNothing())
            #expect(try #require(counts["drop \(format) 64 2-threads"]) < alone * 1.002)
        }
    }

    @Test("poll threads share no cache line on the path of a packet, unless it crosses from one to the other")
    func cacheLines() throws {
        let program = try Program("cachelines", [root + "/tools/cachelines"])
        // Status 1: the crossing case is traced, too, and shows that sharing is seen.
        #expect(program.wait(seconds: 280) == 1, "\(program.output)")
        let cases = program.output.split(separator: "\n").filter { $0.contains(" pairs of lines written, ") }
        #expect(cases.count >= 8, "\(program.output)")
        for line in cases {
            let shared = try #require(line.split(separator: " ").dropLast().last.flatMap { Int($0) })
            #expect(line.contains(" crossing: ") == (shared > 0), "\(program.output)")
            #expect(!line.contains(": 0 packets"))
        }
    }

    @Test("a thousand queue pairs run where a process may open 1024 descriptors at first", arguments: ["poll", "auto"])
    func thousand(_ budget: String) throws {
        let command =
            """
            ulimit -Sn 1024; exec \(Ringway.binary) bench scale --queues 1000 --budgets \(budget) --samples 3 \
            --seconds 0.1 --json
            """
        let program = try Program("scale", ["/bin/sh", "-c", command])
        #expect(program.wait(seconds: 300) == 0, "\(program.output)")
        // Progress goes to the same place.
        let object = try #require(objects(in: program.output).last, "\(program.output)")
        // What idle pairs cost is counted in instructions above; a rate depends on what else the machine does.
        #expect(object["percent"] is Double, "\(program.output)")
    }
}

extension String {
    fileprivate func repeated(_ count: Int) -> String { String(repeating: self, count: max(1, count)) }
}
