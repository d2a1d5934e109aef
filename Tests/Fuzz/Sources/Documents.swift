import Operation
import Ringway

/// A configuration file of any bytes. Nothing may trap, and an error is one line that names the file, a line of it, and
/// what is wrong there.
@Sendable func fuzzSettings(_ given: Input) -> Int32 {
    let text = String(decoding: bytes(given), as: UTF8.self)
    do throws(FileError) {
        let file = try SettingsFile(text, file: "f")
        precondition(file.settings.texts.count == file.settings.engine.ports.count)
    } catch {
        let parts = error.description.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        precondition(parts.count == 3 && parts[0] == "f" && parts[2].count > 1, "an error that says nothing")
        // YAML ends lines in more ways than one (YAML 1.1, 5.4).
        let ends: [Unicode.Scalar] = ["\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"]
        let lines = 1 + text.unicodeScalars.count(where: ends.contains)
        precondition(Int(parts[1]).map { (1...lines + 1).contains($0) } ?? false, "not in a line of the file: \(error)")
    }
    return 0
}

private func bytes(_ given: Input) -> [UInt8] {
    var input = given
    return (0..<input.left).map { _ in input.byte() }
}
