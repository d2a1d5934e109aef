import Console
import Ringway
import RingwayLab

/// Round trips of all sides at each load: as a table, as JSON and as plots.
struct PeerLatencyReport {
    struct Side {
        var name: String
        var samples: [LatencySample] = []
        /// All samples together.
        var all = LatencyHistogram()
        /// Those that are not marked.
        var unmarked = LatencyHistogram()

        mutating func add(_ sample: LatencySample, _ paced: Load.Paced) {
            samples.append(sample)
            all.add(paced.roundTrip)
            if !sample.isMarked { unmarked.add(paced.roundTrip) }
        }

        /// The median of the samples, in microseconds.
        func median(_ value: (LatencySample) -> UInt64) -> Double {
            BudgetReport.median(samples.map { Double(value($0)) / 1000 })
        }

        /// Of half of the samples more than 0.1 % was lost.
        var loses: Bool { BudgetReport.median(samples.map(\.loss)) > 0.001 }
        var marked: Int { samples.count(where: \.isMarked) }

        /// For people who watch.
        var line: String {
            "\(name) p50 \(Text.number(median(\.p50), 2)) p99 \(Text.number(median(\.p99), 2)) "
                + "p99.9 \(Text.number(median(\.p999), 1)) µs" + (loses ? ", loses" : "")
        }
    }

    struct Case {
        var rings: String
        /// Packets a second.
        var rate: Double
        /// Ringway comes first.
        var sides: [Side]
    }

    var size: Int
    var burst: Int
    var queues: Int
    var mode: String
    var seconds: Double
    var isSweep: Bool
    var cases: [Case] = []

    private static var percentiles: [(name: String, of: (LatencySample) -> UInt64)] {
        [("p50", \.p50), ("p99", \.p99), ("p99.9", \.p999)]
    }

    private var conditions: String {
        let pairs = "\(queues) queue pair\(queues == 1 ? "" : "s")"
        return "\(mode), \(size) bytes, burst \(burst), \(pairs), poll; \(Machine.summary)"
    }

    /// Formats in the order in which they were measured.
    private var formats: [String] {
        cases.reduce(into: []) { all, c in if !all.contains(c.rings) { all.append(c.rings) } }
    }

    // MARK: The table

    var markdown: String {
        guard let first = cases.first else { return "" }
        let others = first.sides.dropFirst().map(\.name)
        var text = "Round trips in µs, medians of \(first.sides[0].samples.count) alternating samples of "
        text += "\(Text.number(seconds, 2)) s a side; none discarded. \(conditions). *Marked*: samples in which a CPU "
        text += "was taken away for more than \(Text.number(Double(LatencySample.stall) / 1e6, 1)) ms.\n\n"
        for (k, other) in others.enumerated() { text += comparison(k + 1, other) + "\n" }
        text += together + "\n"
        if isSweep { text += formats.map(losses).joined() }
        return text
    }

    private func comparison(_ k: Int, _ other: String) -> String {
        var text = "| rings | packets/s |"
        for (name, _) in PeerLatencyReport.percentiles { text += " \(other) \(name) | Ringway | ratio |" }
        text += " driver late p99: \(other) | Ringway | lost: \(other) | Ringway |\n|---|---|"
        text += String(repeating: "---|", count: 13) + "\n"
        for c in cases {
            let (peer, ringway) = (c.sides[k], c.sides[0])
            text += "| \(c.rings) | \(Text.number(c.rate, 0)) |"
            for (_, value) in PeerLatencyReport.percentiles {
                let (a, b) = (peer.median(value), ringway.median(value))
                text += " \(Text.number(a, 2)) | \(Text.number(b, 2)) | **\(Text.number(a > 0 ? b / a : 0, 2))** |"
            }
            text += " \(Text.number(peer.median(\.driverLate), 2)) | \(Text.number(ringway.median(\.driverLate), 2)) |"
            text += " \(PeerLatencyReport.lost(peer)) | \(PeerLatencyReport.lost(ringway)) |\n"
        }
        return text
    }

    private static func lost(_ side: Side) -> String {
        Text.number(100 * BudgetReport.median(side.samples.map(\.loss)), 1) + " %"
    }

    /// With stalls and without them.
    private var together: String {
        var text = "All samples together, with and without the marked ones:\n\n"
        text += "| rings | packets/s | side | p50 | p99 | p99.9 | marked | p50 | p99 | p99.9 |\n"
        text += "|---|---|---|---|---|---|---|---|---|---|\n"
        func values(_ h: LatencyHistogram) -> String {
            [50, 99, 99.9].map { h.count == 0 ? "–" : Text.number(Double(h.percentile($0)) / 1000, 2) }
                .joined(separator: " | ")
        }
        for c in cases {
            for s in c.sides {
                text += "| \(c.rings) | \(Text.number(c.rate, 0)) | \(s.name) | \(values(s.all)) "
                text += "| \(s.marked) of \(s.samples.count) | \(values(s.unmarked)) |\n"
            }
        }
        return text
    }

    private func losses(_ rings: String) -> String {
        let own = cases.filter { $0.rings == rings }
        return "\(rings): "
            + own[0].sides.indices.map { k in
                let first = own.first { $0.sides[k].loses }.map { Text.number($0.rate, 0) + " packets/s" }
                return "\(own[0].sides[k].name) begins to lose at \(first ?? "no rate that was tried")"
            }.joined(separator: ", ") + ".\n\n"
    }

    // MARK: Files

    func write(to prefix: String) {
        writeFile(prefix + ".md", markdown)
        writeFile(prefix + ".json", text)
        if isSweep {
            for f in formats { writeFile("\(prefix)-\(f).svg", sweepPlot(f)) }
            return
        }
        writeFile(prefix + ".svg", distributions)
        for c in cases {
            for s in c.sides {
                let name = s.name.lowercased().map { $0.isLetter || $0.isNumber || $0 == "." ? $0 : "-" }
                writeFile("\(prefix)-\(String(name))-\(c.rings)-\(Text.number(c.rate, 0)).hgrm", s.all.hgrm)
            }
        }
    }

    private var distributions: String {
        var series: [Plot.Series] = []
        for (k, c) in cases.enumerated() {
            for (hue, s) in c.sides.enumerated() {
                let rate = cases.count > 2 ? ", \(Plot.short(c.rate))/s" : ""
                var line = Plot.Series(
                    "\(s.name), \(c.rings)\(rate)",
                    s.all.curve.map { ($0.percentile, Double($0.nanoseconds) / 1000) })
                // A side has a colour, a case a shade of it; then they are dashed.
                (line.hasMarkers, line.colour, line.isDashed) = (false, .init(hue: hue, shade: k), k / 3 % 2 == 1)
                series.append(line)
            }
        }
        return Plot.lines(
            title: "Round trip, all samples together", subtitle: conditions,
            x: .init("packets that took at most this long", .percentile), y: .init("µs", .log), series: series)
    }

    /// Latency against load; a side has a colour, a percentile a shade of it.
    private func sweepPlot(_ rings: String) -> String {
        let own = cases.filter { $0.rings == rings }
        var series: [Plot.Series] = []
        for k in own[0].sides.indices {
            for (shade, (name, value)) in PeerLatencyReport.percentiles.enumerated() {
                var line = Plot.Series(
                    "\(own[0].sides[k].name) \(name)",
                    own.map { ($0.rate, $0.sides[k].median(value)) }.filter { $0.1 > 0 })
                (line.colour, line.isDashed) = (.init(hue: k, shade: shade), name == "p99.9")
                line.isBold = name == "p50"
                if name == "p50", let first = own.first(where: { $0.sides[k].loses }) {
                    line.apart = (
                        first.rate, max(1e-3, first.sides[k].median(value)), "loses from \(Plot.short(first.rate))/s"
                    )
                }
                series.append(line)
            }
        }
        return Plot.lines(
            title: "Round trip against load, \(rings) rings: medians of samples' percentiles",
            subtitle: conditions, x: .init("packets a second", .log), y: .init("µs", .log), series: series)
    }
}

extension PeerLatencyReport {
    private struct Record: Encodable {
        struct Side: Encodable {
            let name: String
            let samples: [LatencySample]
            /// How many of them are marked.
            let marked: Int
            let all: LatencyHistogram
            let unmarked: LatencyHistogram
        }

        struct Case: Encodable {
            let rings: String
            let rate: Double
            let sides: [Side]
        }

        let machine = Machine.summary
        let interrupted = Signals.haveCome
        let mode: String
        let size: Int
        let burst: Int
        let queues: Int
        let sampleSeconds: Double
        let unit = "ns"
        let cases: [Case]
    }

    var text: String {
        let all = cases.map { c in
            Record.Case(
                rings: c.rings, rate: c.rate.rounded(),
                sides: c.sides.map {
                    .init(name: $0.name, samples: $0.samples, marked: $0.marked, all: $0.all, unmarked: $0.unmarked)
                })
        }
        return JSON.text(
            Record(
                mode: mode, size: size, burst: burst, queues: queues, sampleSeconds: seconds.rounded(digits: 2),
                cases: all))
    }
}
