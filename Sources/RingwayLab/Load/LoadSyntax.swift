import Ringway
/// How loads are written on a command line.
public enum LoadSyntax {
    /// RFC 2544's smallest to largest, and `imix`: 64, 570 and 1518 bytes as 7 : 4 : 1, always in the same order.
    public static let imix = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570]

    /// `64` or `imix`: the sizes that frames take in turn, in bytes without CRC.
    public static func sizes(_ text: String) throws(EngineError) -> [Int] {
        if text.lowercased() == "imix" { return imix }
        guard let size = Int(text), (60...9216).contains(size) else {
            throw EngineError("--size \(text): give 60 to 9216 bytes, or imix (64, 570 and 1518 as 7:4:1)")
        }
        return [size]
    }

    /// An offered load.
    public enum Rate: Sendable, Equatable {
        /// Packets a second.
        case packets(Double)
        /// Of the highest rate without loss, 0…1.
        case share(Double)
        /// As many as the rings take.
        case full

        /// Packets a second, where `lossless` is the highest rate without loss.
        public func packets(lossless: Double) -> Double {
            switch self {
            case .packets(let n): return n
            case .share(let s): return s * lossless
            case .full: return .infinity
            }
        }
    }

    /// `10000,50%,1M`: packets a second, with k or M, or percent of the highest rate without loss; `full` where
    /// `allowsFull`.
    public static func rates(_ text: String, allowsFull: Bool = false) throws(EngineError) -> [Rate] {
        var all: [Rate] = []
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            let trimmed = word.filter { !$0.isWhitespace }
            if allowsFull && trimmed == "full" {
                all.append(.full)
            } else if trimmed.hasSuffix("%"), let p = Double(trimmed.dropLast()), p > 0, p <= 100 {
                all.append(.share(p / 100))
            } else if let n = packets(trimmed), n >= 1, n <= 1e8 {
                all.append(.packets(n))
            } else {
                throw EngineError(
                    "--rates \(text): '\(word)' is no load; write packets a second (10000, 50k, 1.5M, at most 100M)\(allowsFull ? " or full" : " or percent of the highest rate without loss (90%)"), with commas"
                )
            }
        }
        return all
    }

    private static func packets(_ text: String) -> Double? {
        if text.hasSuffix("k") { return Double(text.dropLast()).map { $0 * 1e3 } }
        if text.hasSuffix("M") { return Double(text.dropLast()).map { $0 * 1e6 } }
        return Double(text)
    }
}
