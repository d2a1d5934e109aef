/// Plots as SVG. Every label lies inside the picture, and none over another.
public enum Plot {
    public enum Scale: Sendable {
        case linear
        case log
        /// For percentiles: 90, 99, 99.9 … are equally far apart.
        case percentile
    }

    /// An axis: its scale, and what it shows with its unit.
    public struct Axis: Sendable {
        public var title: String
        public var scale: Scale
        public init(_ title: String, _ scale: Scale) {
            self.title = title
            self.scale = scale
        }
    }

    /// A colour by what it stands for: one hue for all that belongs together, such as one side's percentiles, and a
    /// shade for each of them.
    public struct Colour: Sendable, Equatable {
        public var hue: Int
        /// 0: full, 1: light, 2: dark, and so on in turn.
        public var shade: Int
        public init(hue: Int, shade: Int = 0) {
            self.hue = hue
            self.shade = shade
        }

        private static let hues = [
            0x0b6fb8, 0xd8572a, 0x2a9d5c, 0x8a4fbf, 0xc9a227, 0x17a2b8, 0xd6336c, 0x6c757d, 0x333333, 0x7a5230,
        ]

        /// `#rrggbb`.
        var text: String {
            let full = Colour.hues[hue % Colour.hues.count]
            // Towards white or black by parts of 256.
            let (end, part) = [(0, 0), (255, 130), (0, 110)][shade % 3]
            return [16, 8, 0].reduce(into: "#") { out, shift in
                let channel = full >> shift & 255
                let mixed = channel + (end - channel) * part / 256
                out += (mixed < 16 ? "0" : "") + String(mixed, radix: 16)
            }
        }
    }

    /// 1500000 as `1.5 M`.
    public static func short(_ v: Double) -> String {
        for (factor, unit) in [(1e9, " G"), (1e6, " M"), (1e3, " k")] where abs(v) >= factor {
            return number(v / factor, abs(v / factor) < 1 ? 3 : 2) + unit
        }
        return number(v, abs(v) < 1 ? 3 : 2)
    }

    /// With at most so many digits after the point, and no zeroes at the end.
    static func number(_ v: Double, _ digits: Int) -> String {
        var text = fixed(v, digits)
        while text.contains(".") && (text.hasSuffix("0") || text.hasSuffix(".")) { text.removeLast() }
        return text
    }

    /// With so many digits after the point.
    static func fixed(_ v: Double, _ digits: Int) -> String {
        let scale = (0..<digits).reduce(1) { n, _ in n * 10 }
        let scaled = (abs(v) * Double(scale)).rounded()
        guard scaled < 1e15 else { return "\(v)" }
        let (whole, part) = Int(scaled).quotientAndRemainder(dividingBy: scale)
        let sign = v < 0 && scaled > 0 ? "-" : ""
        if digits == 0 { return "\(sign)\(whole)" }
        return "\(sign)\(whole)." + String("\(scale + part)".dropFirst())
    }
}
