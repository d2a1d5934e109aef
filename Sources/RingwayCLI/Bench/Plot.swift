import CPlatform
import Foundation

/// The time-stamp counter and the monotonic clock.
enum CPlatClock {
    static var nanoseconds: UInt64 { CPlat_monotonic_ns() }
    static var cycles: UInt64 { CPlat_cycles() }
}

/// Plots as SVG, for people who would rather look.
enum Plot {
    private static let colours = ["#7a8796", "#d8572a", "#2a78d8", "#2a9d5c", "#8a4fbf", "#c9a227", "#444444", "#e377c2", "#17becf"]
    private static func text(_ x: Double, _ y: Double, _ s: String, anchor: String = "start", size: Int = 12) -> String {
        "<text x=\"\(f(x))\" y=\"\(f(y))\" font-family=\"sans-serif\" font-size=\"\(size)\" text-anchor=\"\(anchor)\">\(s)</text>\n"
    }
    private static func f(_ v: Double) -> String { Report.number(v, 1) }

    /// Horizontal bars, a group for each label.
    static func bars(title: String, labels: [String], series: [(name: String, values: [Double])]) -> String {
        let (left, wide, bar) = (230.0, 480.0, 14.0)
        let group = bar * Double(series.count) + 10
        let height = 60 + group * Double(labels.count)
        let most = max(series.flatMap(\.values).max() ?? 1, 1e-9)
        var out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"\(f(height))\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        out += text(10, 22, title, size: 15)
        for (k, s) in series.enumerated() {
            out += "<rect x=\"\(f(left + 130 * Double(k)))\" y=\"30\" width=\"12\" height=\"12\" fill=\"\(colours[k % colours.count])\"/>\n" + text(left + 18 + 130 * Double(k), 41, s.name)
        }
        for (i, label) in labels.enumerated() {
            let y = 55 + group * Double(i)
            out += text(left - 8, y + bar, label, anchor: "end")
            for (k, s) in series.enumerated() {
                let length = s.values[i] / most * wide
                out += "<rect x=\"\(f(left))\" y=\"\(f(y + bar * Double(k)))\" width=\"\(f(length))\" height=\"\(f(bar - 2))\" fill=\"\(colours[k % colours.count])\"/>\n"
                out += text(left + length + 4, y + bar * Double(k) + 10, Report.number(s.values[i], 2), size: 10)
            }
        }
        return out + "</svg>\n"
    }

    /// Lines over a logarithmic x axis and a logarithmic y axis; points with values of 0 are left out.
    static func lines(title: String, x: String, y: String, series: [(name: String, points: [(Double, Double)])]) -> String {
        let (left, top, wide, high) = (70.0, 50.0, 560.0, 330.0)
        let points = series.flatMap(\.points).filter { $0.0 > 0 && $0.1 > 0 }
        guard let x0 = points.map({ log10($0.0) }).min(), let x1 = points.map({ log10($0.0) }).max(),
            let y0 = points.map({ log10($0.1) }).min(), let y1 = points.map({ log10($0.1) }).max()
        else { return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"10\" height=\"10\"/>\n" }
        let (yl, yh) = (y0.rounded(.down), max(y1.rounded(.up), y0.rounded(.down) + 1))
        func px(_ v: Double) -> Double { left + (x1 > x0 ? (log10(v) - x0) / (x1 - x0) : 0.5) * wide }
        func py(_ v: Double) -> Double { top + high - (log10(v) - yl) / (yh - yl) * high }
        var out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"430\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        out += text(10, 22, title, size: 15) + text(left + wide / 2, 420, x, anchor: "middle") + text(10, 42, y)
        for decade in Int(yl)...Int(yh) {
            let v = pow(10, Double(decade))
            out += "<line x1=\"\(f(left))\" x2=\"\(f(left + wide))\" y1=\"\(f(py(v)))\" y2=\"\(f(py(v)))\" stroke=\"#dddddd\"/>\n" + text(left - 6, py(v) + 4, decade >= 0 ? Report.number(v, 0) : Report.number(v, -decade), anchor: "end")
        }
        for v in Set(points.map(\.0)).sorted() { out += text(px(v), top + high + 18, Report.number(v, v < 10 ? 1 : 0), anchor: "middle", size: 10) }
        for (k, s) in series.enumerated() {
            let good = s.points.filter { $0.0 > 0 && $0.1 > 0 }
            let path = good.map { "\(f(px($0.0))),\(f(py($0.1)))" }.joined(separator: " ")
            out += "<polyline fill=\"none\" stroke=\"\(colours[k % colours.count])\" stroke-width=\"2\" points=\"\(path)\"/>\n"
            out += text(left + wide + 10, top + 14 + 16 * Double(k), s.name).replacingOccurrences(of: "<text ", with: "<text fill=\"\(colours[k % colours.count])\" ")
        }
        return out + "</svg>\n"
    }
}
