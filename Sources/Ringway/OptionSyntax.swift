import Dataplane

/// Values that options of several kinds have.
enum OptionSyntax {
    /// A MAC address of six hexadecimal bytes with colons.
    static func mac(_ text: String) -> [UInt8]? {
        let bytes = text.split(separator: ":", omittingEmptySubsequences: false).map {
            $0.count <= 2 ? UInt8($0, radix: 16) : nil
        }
        return bytes.count == 6 && !bytes.contains(nil) ? bytes.map { $0! } : nil
    }

    /// `on` or `off`, of the option `name` of the port `text`.
    static func flag(_ name: String, _ value: String, _ text: String) throws(EngineError) -> Bool {
        switch value {
        case "on", "1": return true
        case "off", "0": return false
        default: throw EngineError("--port \(text): \(name)=\(value): write \(name)=on or \(name)=off")
        }
    }
}
