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
        var lines = try String(contentsOfFile: InstructionsTests.thresholds, encoding: .utf8).split(separator: "\n").map(String.init)
        change(&lines)
        try (lines.joined(separator: "\n") + "\n").write(toFile: folder("file"), atomically: true, encoding: .utf8)
        return folder("file")
    }

    @Test("no case needs more instructions per packet than Benchmarks/instructions.tsv allows")
    func gate() throws {
        let (status, output) = try count()
        #expect(status == 0, "\(output)")
    }

    @Test("counts repeat exactly")
    func repetition() throws {
        let runs = try (0..<2).map { _ in try count("split") }
        #expect(runs[0].output == runs[1].output)
        #expect(runs[0].output.contains("macswap split 64"), "\(runs[0].output)")
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
        #expect(output.split(separator: "\n").contains { $0.hasPrefix("drop split 64 ") && $0.hasSuffix("MORE") }, "\(output)")
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
        #expect(output.split(separator: "\n").contains { $0.hasPrefix("drop packed 64 ") && $0.hasSuffix("not in the file") }, "\(output)")
    }
}
