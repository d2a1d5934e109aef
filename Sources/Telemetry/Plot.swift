import Foundation

/// Plots as SVG.
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

    /// A line with markers at its points.
    public struct Series: Sendable {
        public var name: String
        public var points: [(x: Double, y: Double)]
        public var hasMarkers = true
        public var isDashed = false
        /// Drawn over the others.
        public var isBold = false
        /// Written beside the points.
        public var labels: [String] = []
        /// A point apart from the line: a ring with a label.
        public var apart: (x: Double, y: Double, label: String)?
        public init(_ name: String, _ points: [(x: Double, y: Double)]) {
            self.name = name
            self.points = points
        }
    }

    static let colours = ["#0b6fb8", "#d8572a", "#2a9d5c", "#8a4fbf", "#c9a227", "#17a2b8", "#d6336c", "#6c757d", "#000000", "#7a5230"]

    private static func escape(_ s: String) -> String {
        s.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;").replacingOccurrences(of: ">", with: "&gt;")
    }

    private static func f(_ v: Double) -> String { String(format: "%.1f", v) }

    static func text(_ x: Double, _ y: Double, _ s: String, anchor: String = "start", size: Int = 12, colour: String = "#222222", more: String = "") -> String {
        "<text x=\"\(f(x))\" y=\"\(f(y))\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"\(size)\" fill=\"\(colour)\" text-anchor=\"\(anchor)\" \(more)>\(escape(s))</text>\n"
    }

    static func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ colour: String) -> String {
        "<line x1=\"\(f(x1))\" y1=\"\(f(y1))\" x2=\"\(f(x2))\" y2=\"\(f(y2))\" stroke=\"\(colour)\"/>\n"
    }

    private static func open(_ width: Double, _ height: Double) -> String {
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(f(width))\" height=\"\(f(height))\" viewBox=\"0 0 \(f(width)) \(f(height))\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    }

    /// 1500000 as `1.5 M`.
    public static func short(_ v: Double) -> String {
        for (factor, unit) in [(1e9, " G"), (1e6, " M"), (1e3, " k")] where abs(v) >= factor { return trim(v / factor) + unit }
        return trim(v)
    }

    private static func trim(_ v: Double) -> String {
        if v == v.rounded() && abs(v) < 1e6 { return "\(Int(v))" }
        var s = String(format: abs(v) < 1 ? "%.3f" : "%.2f", v)
        while s.hasSuffix("0") { s.removeLast() }
        if s.hasSuffix(".") { s.removeLast() }
        return s
    }

    /// Horizontal bars, a group for each label; values of 0 are not there. `mark`: a value with a line through all groups.
    /// `subtitle` tells what the values are.
    public static func bars(title: String, subtitle: String = "", labels: [String], series: [(name: String, values: [Double])], mark: Double? = nil) -> String {
        let (left, wide, bar) = (230.0, 480.0, 14.0)
        let rows = labels.indices.map { i in series.indices.filter { series[$0].values[i] > 0 } }
        let top = subtitle.isEmpty ? 30.0 : 50
        let height = top + 30 + rows.reduce(0) { $0 + bar * Double($1.count) + 10 }
        let most = max(series.flatMap(\.values).max() ?? 1, 1e-9)
        var out = open(800, height)
        out += text(10, 22, title, size: 15) + (subtitle.isEmpty ? "" : text(10, 40, subtitle, colour: "#555555"))
        for (k, s) in series.enumerated() {
            out += "<rect x=\"\(f(left + 140 * Double(k)))\" y=\"\(f(top))\" width=\"12\" height=\"12\" fill=\"\(colours[k % colours.count])\"/>\n"
            out += text(left + 18 + 140 * Double(k), top + 11, s.name)
        }
        var y = top + 25
        for (i, label) in labels.enumerated() {
            out += text(left - 8, y + bar * (Double(rows[i].count) + 1) / 2 - 3, label, anchor: "end")
            for k in rows[i] {
                let length = series[k].values[i] / most * wide
                out += "<rect x=\"\(f(left))\" y=\"\(f(y))\" width=\"\(f(length))\" height=\"\(f(bar - 2))\" fill=\"\(colours[k % colours.count])\"/>\n"
                out += text(left + length + 4, y + 10, String(format: "%.2f", series[k].values[i]), size: 10)
                y += bar
            }
            y += 10
        }
        if let mark {
            let x = f(left + mark / most * wide)
            out += "<line x1=\"\(x)\" x2=\"\(x)\" y1=\"\(f(top + 20))\" y2=\"\(f(height - 8))\" stroke=\"black\" stroke-dasharray=\"3 3\"/>\n"
        }
        return out + "</svg>\n"
    }

    /// Where a value stands on an axis, from 0 to 1, and what is written beside it.
    struct Ruler {
        let scale: Scale
        let low: Double
        let high: Double
        let ticks: [(value: Double, label: String)]
        let minor: [Double]

        init(_ scale: Scale, _ values: [Double]) {
            self.scale = scale
            switch scale {
            case .linear:
                let most = max(values.max() ?? 1, 1e-9)
                let power = pow(10, log10(most).rounded(.down))
                let step = [0.1, 0.2, 0.5, 1, 2].map { $0 * power }.first { most / $0 <= 8 } ?? power
                let count = Int((most / step).rounded(.up))
                (low, high) = (0, step * Double(count))
                ticks = (0...count).map { (step * Double($0), short(step * Double($0))) }
                minor = []
            case .log:
                let good = values.filter { $0 > 0 }
                let (least, most) = (good.min() ?? 1, good.max() ?? 10)
                var decades = (Int(log10(least).rounded(.down)), Int(log10(most).rounded(.up)))
                if decades.1 <= decades.0 { decades.1 = decades.0 + 1 }
                let all = (decades.0...decades.1).flatMap { d in [1, 2, 5].map { $0 * pow(10, Double(d)) } }
                // Not further than needed: from 1, 2 or 5 to 1, 2 or 5.
                low = all.last { $0 <= least * 1.0001 } ?? least
                let top = all.first { $0 >= most * 0.9999 } ?? most
                high = top > low ? top : low * 10
                let (from, to) = (low, high)
                let few = log10(to / from) < 2.3
                ticks = all.filter { $0 >= from && $0 <= to && (few || abs(log10($0) - log10($0).rounded()) < 1e-6) }.map { ($0, short($0)) }
                minor = all.filter { $0 >= from && $0 <= to }
            case .percentile:
                let nines = max(1, ((values.max() ?? 90) < 100 ? -log10(1 - (values.max() ?? 90) / 100) : 5).rounded(.up))
                (low, high) = (0, nines)
                ticks = [(50, "50 %")] + (1...Int(nines)).map { n in
                    let text = n == 1 ? "90" : n == 2 ? "99" : "99." + String(repeating: "9", count: n - 2)
                    return (100 - pow(10, 2 - Double(n)), text + " %")
                }
                minor = []
            }
        }

        func place(_ v: Double) -> Double {
            switch scale {
            case .linear: return (v - low) / (high - low)
            case .log: return log10(max(v, low) / low) / log10(high / low)
            case .percentile: return min(1, -log10(max(1e-12, 1 - v / 100)) / high)
            }
        }
    }

    /// Lines with markers; on logarithmic axes points at 0 stand at the axis' lower end. `subtitle` tells the conditions.
    public static func lines(title: String, subtitle: String = "", x: Axis, y: Axis, series: [Series]) -> String {
        let longest = Double(series.map(\.name.count).max() ?? 0)
        let (left, top, wide, high) = (78.0, 64.0, 620.0, 380.0)
        let width = left + wide + 60 + longest * 7.5
        var out = open(width, top + high + 62)
        out += text(left, 24, title, size: 16) + text(left, 44, subtitle, colour: "#555555")
        let points = series.flatMap { s in s.points + (s.apart.map { [($0.x, $0.y)] } ?? []) }
        if points.isEmpty { return out + text(left, 90, "no values") + "</svg>\n" }
        let (rx, ry) = (Ruler(x.scale, points.map(\.x)), Ruler(y.scale, points.map(\.y)))
        func px(_ v: Double) -> Double { left + rx.place(v) * wide }
        func py(_ v: Double) -> Double { top + high - ry.place(v) * high }
        for v in ry.minor { out += line(left, py(v), left + wide, py(v), "#f0f0f0") }
        for v in rx.minor { out += line(px(v), top, px(v), top + high, "#f0f0f0") }
        for t in ry.ticks { out += line(left, py(t.value), left + wide, py(t.value), "#d5d5d5") + text(left - 7, py(t.value) + 4, t.label, anchor: "end") }
        for t in rx.ticks { out += line(px(t.value), top, px(t.value), top + high, "#d5d5d5") + text(px(t.value), top + high + 18, t.label, anchor: "middle") }
        out += line(left, top, left, top + high, "#444444") + line(left, top + high, left + wide, top + high, "#444444")
        out += text(left + wide / 2, top + high + 44, x.title, anchor: "middle", size: 13)
        out += text(0, 0, y.title, anchor: "middle", size: 13, more: "transform=\"translate(18,\(f(top + high / 2))) rotate(-90)\"")
        // Labels that would lie over one another are left out; rings come first.
        var taken: [(x: Double, y: Double)] = []
        func label(_ x: Double, _ y: Double, _ s: String, _ size: Int, _ colour: String) -> String {
            if s.isEmpty || taken.contains(where: { abs($0.x - x) < 26 && abs($0.y - y) < 12 }) { return "" }
            taken.append((x, y))
            return text(x, y, s, size: size, colour: colour)
        }
        for (k, s) in series.enumerated() {
            guard let a = s.apart else { continue }
            // Beside the ring where there is room, else on its other side.
            out += label(px(a.x) + (px(a.x) < left + 60 ? 12 : -38), py(a.y) + 4, a.label, 11, colours[k % colours.count])
        }
        for (k, s) in series.enumerated() {
            let colour = colours[k % colours.count]
            let dash = s.isDashed ? " stroke-dasharray=\"6 4\"" : ""
            let thick = s.isBold ? "3.5" : "2"
            out += "<polyline fill=\"none\" stroke=\"\(colour)\" stroke-width=\"\(thick)\"\(dash) points=\"\(s.points.map { "\(f(px($0.x))),\(f(py($0.y)))" }.joined(separator: " "))\"/>\n"
            for (i, p) in s.points.enumerated() {
                if s.hasMarkers { out += "<circle cx=\"\(f(px(p.x)))\" cy=\"\(f(py(p.y)))\" r=\"\(s.isBold ? "5" : "3.5")\" fill=\"\(colour)\"/>\n" }
                if i < s.labels.count { out += label(px(p.x) + 6, py(p.y) - 5, s.labels[i], 10, colour) }
            }
            if let a = s.apart {
                out += "<circle cx=\"\(f(px(a.x)))\" cy=\"\(f(py(a.y)))\" r=\"8\" fill=\"none\" stroke=\"\(colour)\" stroke-width=\"2.5\"/>\n"
            }
            let row = top + 10 + 20 * Double(k)
            out += "<line x1=\"\(f(left + wide + 14))\" y1=\"\(f(row))\" x2=\"\(f(left + wide + 38))\" y2=\"\(f(row))\" stroke=\"\(colour)\" stroke-width=\"\(thick)\"\(dash)/>\n"
            out += text(left + wide + 44, row + 4, s.name)
        }
        return out + "</svg>\n"
    }
}
