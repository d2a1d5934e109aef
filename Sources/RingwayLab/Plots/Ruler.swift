import Foundation

/// Where a value stands on an axis, from 0 to 1, and what is written beside it.
struct Ruler {
    let scale: Plot.Scale
    let low: Double
    let high: Double
    let ticks: [(value: Double, label: String)]
    /// Lines without labels.
    let minor: [Double]

    init(_ scale: Plot.Scale, _ values: [Double]) {
        self.scale = scale
        switch scale {
        case .linear: (low, high, ticks, minor) = Ruler.linear(values)
        case .log: (low, high, ticks, minor) = Ruler.logarithmic(values)
        case .percentile: (low, high, ticks, minor) = Ruler.percentiles(values)
        }
    }

    private typealias Marks = (low: Double, high: Double, ticks: [(value: Double, label: String)], minor: [Double])

    private static func linear(_ values: [Double]) -> Marks {
        let most = max(values.max() ?? 1, 1e-9)
        let power = pow(10, log10(most).rounded(.down))
        let step = [0.1, 0.2, 0.5, 1, 2].map { $0 * power }.first { most / $0 <= 8 } ?? power
        let count = Int((most / step).rounded(.up))
        return (0, step * Double(count), (0...count).map { (step * Double($0), Plot.short(step * Double($0))) }, [])
    }

    private static func logarithmic(_ values: [Double]) -> Marks {
        let good = values.filter { $0 > 0 }
        let (least, most) = (good.min() ?? 1, good.max() ?? 10)
        var decades = (Int(log10(least).rounded(.down)), Int(log10(most).rounded(.up)))
        if decades.1 <= decades.0 { decades.1 = decades.0 + 1 }
        let all = (decades.0...decades.1).flatMap { d in [1, 2, 5].map { $0 * pow(10, Double(d)) } }
        // Not further than needed: from 1, 2 or 5 to 1, 2 or 5.
        let low = all.last { $0 <= least * 1.0001 } ?? least
        let top = all.first { $0 >= most * 0.9999 } ?? most
        let high = top > low ? top : low * 10
        let few = log10(high / low) < 2.3
        let minor = all.filter { $0 >= low && $0 <= high }
        let ticks = minor.filter { few || abs(log10($0) - log10($0).rounded()) < 1e-6 }
        return (low, high, ticks.map { ($0, Plot.short($0)) }, minor)
    }

    private static func percentiles(_ values: [Double]) -> Marks {
        let most = values.max() ?? 90
        let nines = max(1, (most < 100 ? -log10(1 - most / 100) : 5).rounded(.up))
        let ticks = (1...Int(nines)).map { n in
            let text = n == 1 ? "90" : n == 2 ? "99" : "99." + String(repeating: "9", count: n - 2)
            return (value: 100 - pow(10, 2 - Double(n)), label: text + " %")
        }
        return (0, nines, [(50, "50 %")] + ticks, [])
    }

    func place(_ v: Double) -> Double {
        switch scale {
        case .linear: return (v - low) / (high - low)
        case .log: return log10(max(v, low) / low) / log10(high / low)
        case .percentile: return min(1, -log10(max(1e-12, 1 - v / 100)) / high)
        }
    }
}
