/// Columns for people.
package enum Text {
    package static func right(_ s: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - s.count)) + s
    }
    package static func left(_ s: String, _ width: Int) -> String {
        s + String(repeating: " ", count: max(0, width - s.count))
    }
    package static func microseconds(_ nanoseconds: UInt64) -> String {
        number(Double(nanoseconds) / 1000, nanoseconds < 1_000_000 ? 2 : nanoseconds < 100_000_000 ? 1 : 0)
    }

    /// In decimals; a dash for what is no number, as a ratio to nothing.
    package static func number(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        guard abs(value) * scale < 9e18 else { return "–" }
        let rounded = Int((abs(value) * scale).rounded())
        let whole = rounded / Int(scale)
        let sign = value < 0 && rounded > 0 ? "-" : ""
        if digits == 0 { return sign + "\(whole)" }
        let fraction = String(rounded % Int(scale))
        return sign + "\(whole)." + String(repeating: "0", count: digits - fraction.count) + fraction
    }
}
