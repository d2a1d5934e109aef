import Foundation
import Testing

/// What a program links that embeds Ringway (Tests/Embedder, which is the README's example).
@Suite struct EmbedderTests {
    private static func text(_ arguments: String...) throws -> String {
        String(decoding: try HotPathTests.output(arguments), as: UTF8.self)
    }

    /// Modules of which a program has symbols, and shared libraries that it loads, among those that are not for
    /// embedders.
    private static func extras(_ program: String) throws -> Set<String> {
        let symbols = try text("/usr/bin/nm", program)
        let libraries = try text("/usr/bin/ldd", program)
        // A mangled name has the length of each word before it.
        let modules = ["RingwayLab", "RingwayBench", "Console", "Histogram", "ArgumentParser", "Foundation"]
        return Set(
            modules.filter { symbols.contains("$s\($0.count)\($0)") }
                + ["libFoundation"].filter { libraries.contains($0) })
    }

    @Test("an embedder links no plots, no HDR histograms, no Foundation; ringway-bench does, which this check sees")
    func links() throws {
        let release = root + "/.build/release/"
        #expect(try EmbedderTests.extras(release + "Embedder") == [])
        #expect(
            try EmbedderTests.extras(release + "ringway-bench").isSuperset(of: [
                "RingwayLab", "Histogram", "libFoundation",
            ]))
    }

    @Test("the README's example is the one that is compiled")
    func readme() throws {
        let readme = try String(contentsOfFile: root + "/README.md", encoding: .utf8)
        let program = try String(contentsOfFile: root + "/Tests/Embedder/main.swift", encoding: .utf8)
        #expect(readme.contains(program))
        // What the documentation begins with is a part of it.
        let page = try String(contentsOfFile: root + "/Sources/Ringway/Ringway.docc/Ringway.md", encoding: .utf8)
        let listing = page.components(separatedBy: "```")[1].dropFirst("swift\n".count)
        #expect(program.contains(listing))
    }

    @Test("the listings of docs/functions.md are the ones that are compiled")
    func guide() throws {
        let guide = try String(contentsOfFile: root + "/docs/functions.md", encoding: .utf8)
        let source = try String(contentsOfFile: root + "/Tests/DataplaneTests/GuideFunctions.swift", encoding: .utf8)
        let listings = source.components(separatedBy: "// listing: ").dropFirst().map { part in
            part.components(separatedBy: "// end")[0].drop { $0 != "\n" }.dropFirst()
        }
        #expect(listings.count >= 6)
        for listing in listings {
            #expect(guide.contains("```swift\n\(listing)```"), "\(listing.prefix(60))")
        }
    }

    @Test("the examples in comments are ones that are compiled")
    func comments() throws {
        /// Without the indentation that all lines have.
        func plain(_ lines: [Substring]) -> String {
            let least = lines.filter { !$0.isEmpty }.map { $0.prefix { $0 == " " }.count }.min() ?? 0
            return lines.map { $0.dropFirst(least) }.joined(separator: "\n")
        }
        let examples = try String(contentsOfFile: root + "/Tests/DataplaneTests/DocExamples.swift", encoding: .utf8)
        var compiled: Set<String> = []
        var listing: [Substring]?
        for line in examples.split(separator: "\n", omittingEmptySubsequences: false) {
            let code = line.drop { $0 == " " }
            if code.hasPrefix("// listing: ") {
                listing = []
            } else if code == "// end" {
                compiled.insert(plain(listing ?? []))
                listing = nil
            } else {
                listing?.append(line)
            }
        }
        var shown: Set<String> = []
        let files = FileManager.default.enumerator(atPath: root + "/Sources")?.compactMap { $0 as? String } ?? []
        for file in files where file.hasSuffix(".swift") {
            let source = try String(contentsOfFile: root + "/Sources/" + file, encoding: .utf8)
            var example: [Substring]?
            for line in source.split(separator: "\n", omittingEmptySubsequences: false) {
                let code = line.drop { $0 == " " }
                if code == "/// ```swift" {
                    example = []
                } else if code == "/// ```" {
                    let text = plain(example ?? [])
                    #expect(compiled.contains(text), "\(file): \(text.prefix(80))")
                    shown.insert(text)
                    example = nil
                } else {
                    example?.append(code.dropFirst(3))
                }
            }
        }
        #expect(shown == compiled && shown.count >= 33)
    }
}
