import Console

/// Metrics in the text format of Prometheus (0.0.4), or in that of OpenMetrics (1.0.0): written family by family.
struct MetricsText {
    enum Kind: String { case counter, gauge, histogram }

    private let isOpenMetrics: Bool
    private(set) var text = ""
    /// Of the family that is being written.
    private var name = ""

    init(isOpenMetrics: Bool) { self.isOpenMetrics = isOpenMetrics }

    /// Begins a family. A counter's name ends in `_total`.
    mutating func family(_ name: String, _ kind: Kind, _ help: String) {
        self.name = name
        // OpenMetrics names a counter's family without its ending.
        let isShort = isOpenMetrics && kind == .counter && name.hasSuffix("_total")
        let family = isShort ? String(name.dropLast("_total".count)) : name
        text += "# HELP \(family) \(help)\n# TYPE \(family) \(kind.rawValue)\n"
    }

    typealias Labels = KeyValuePairs<String, String>

    mutating func add(_ value: UInt64, _ labels: Labels) { line("", labels, nil, "\(value)") }
    mutating func add(_ value: Double, _ labels: Labels) { line("", labels, nil, MetricsText.number(value)) }
    mutating func add(_ value: Bool, _ labels: Labels) { line("", labels, nil, value ? "1" : "0") }

    /// A histogram: how many there were up to each bound, in the order of the bounds, in all, and their sum.
    mutating func add(_ bounds: [(bound: Double, count: UInt64)], count: UInt64, sum: Double, _ labels: Labels) {
        for (bound, n) in bounds { line("_bucket", labels, MetricsText.number(bound), "\(n)") }
        line("_bucket", labels, "+Inf", "\(count)")
        line("_sum", labels, nil, MetricsText.number(sum))
        line("_count", labels, nil, "\(count)")
    }

    mutating func end() { if isOpenMetrics { text += "# EOF\n" } }

    private mutating func line(_ ending: String, _ labels: Labels, _ bound: String?, _ value: String) {
        var all = labels.map { "\($0)=\"\(MetricsText.escaped($1))\"" }
        if let bound { all.append("le=\"\(bound)\"") }
        text += name + ending + (all.isEmpty ? "" : "{" + all.joined(separator: ",") + "}") + " " + value + "\n"
    }

    /// Without exponents for what is usual.
    private static func number(_ value: Double) -> String {
        if value == .infinity { return "+Inf" }
        return value == value.rounded() && abs(value) < 1e15 ? "\(Int64(value))" : "\(value)"
    }

    private static func escaped(_ text: String) -> String {
        if !text.contains(where: { $0 == "\\" || $0 == "\"" || $0.isNewline }) { return text }
        return text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
    }
}
