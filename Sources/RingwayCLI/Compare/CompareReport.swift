import Foundation
import Ringway

/// What was measured of one case: a list of samples for each side.
struct CompareResult {
    let what: CompareCase
    let names: [String]
    var samples: [[Sample]]

    func cycles(_ side: Int) -> Double { CompareResult.median(samples[side].map(\.cycles)) }
    func median(_ side: Int) -> Double { CompareResult.median(samples[side].map(\.mpps)) }
    /// Ringway, which is the first side, against another: the median of the ratios of samples taken one after the other. The
    /// machine changes its speed now and then, and that is then the same for both.
    func ratio(_ side: Int) -> Double { CompareResult.median(zip(samples[0], samples[side]).map { $1.mpps > 0 ? $0.mpps / $1.mpps : 0 }) }
    /// How many times more cycles a packet takes there; where both are known.
    func cycleRatio(_ side: Int) -> Double {
        CompareResult.median(zip(samples[0], samples[side]).compactMap { $0.cycles > 0 && $1.cycles > 0 ? $1.cycles / $0.cycles : nil })
    }
    func spread(_ side: Int) -> String {
        let all = samples[side].map(\.mpps)
        return "\(Report.number(all.min() ?? 0, 1))–\(Report.number(all.max() ?? 0, 1))"
    }

    static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        if sorted.isEmpty { return 0 }
        return sorted.count % 2 == 1 ? sorted[sorted.count / 2] : (sorted[sorted.count / 2 - 1] + sorted[sorted.count / 2]) / 2
    }
}

/// The comparison as a table, as JSON and as a plot.
struct CompareReport {
    let results: [CompareResult]
    let seconds: Double
    let peer: String
    private let clock = CompareReport.ticksPerSecond

    init(results: [CompareResult], seconds: Double, peer: String) {
        self.results = results
        self.seconds = seconds
        self.peer = peer
    }

    private static var machine: String {
        let info = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        let model = info.split(separator: "\n").first { $0.hasPrefix("model name") }?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown CPU"
        return "\(model), \(ProcessInfo.processInfo.activeProcessorCount) CPUs"
    }

    /// Of the time-stamp counter.
    private static var ticksPerSecond: Double {
        let (n, c) = (CPlatClock.nanoseconds, CPlatClock.cycles)
        usleep(50_000)
        return Double(CPlatClock.cycles &- c) / Double(CPlatClock.nanoseconds &- n) * 1e9
    }

    /// Who could not do more: the device side, where it had work for nearly all of the time.
    private func limit(_ r: CompareResult, _ side: Int) -> String {
        if r.cycles(side) == 0 { return "–" }
        let busy = r.median(side) * 1e6 * r.cycles(side) / clock
        return busy > 0.85 ? "device" : "driver (\(Report.number(busy * 100, 0)) %)"
    }

    var markdown: String {
        var text = ""
        for other in ["DPDK", "OVS", "peer"] {
            let rows = results.compactMap { r in r.names.firstIndex(of: other).map { (r, $0) } }
            if !rows.isEmpty { text += table(other, rows) + "\n" }
        }
        let all = results.flatMap { $0.samples.joined() }
        let trips = all.map(\.pingPong).sorted()
        return text + "Medians of \(results.first?.samples.first?.count ?? 0) samples of \(Report.number(seconds, 2)) s a side, alternating within one session of the driver; no sample discarded; ratios are medians of the ratios of neighbouring samples; "
            + "payloads verified in each case. *Limit*: who could not do more; in brackets how busy the device side was. \(CompareReport.machine); peer `\(peer)`; driver: DPDK virtio-user, 1024 entries. "
            + "A cache line between the CPUs and back: median \(Report.number(CompareResult.median(trips), 0)) cycles, \(Report.number(trips.first ?? 0, 0)) to \(Report.number(trips.last ?? 0, 0)).\n"
    }

    private func table(_ other: String, _ rows: [(CompareResult, Int)]) -> String {
        var text = "| mode | rings | bytes | queues | burst | \(other) Mpps | (spread) | Ringway Mpps | (spread) | ratio | \(other) cycles | Ringway cycles | cycle ratio | limit \(other) | limit Ringway |\n"
            + "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        for (r, k) in rows {
            text += "| \(r.what.mode) | \(r.what.format) | \(r.what.sizeName) | \(r.what.queues) | \(r.what.burst) | \(Report.number(r.median(k), 2)) | \(r.spread(k)) "
                + "| \(Report.number(r.median(0), 2)) | \(r.spread(0)) | **\(Report.number(r.ratio(k), 2))** | \(Report.number(r.cycles(k), 0)) | \(Report.number(r.cycles(0), 0)) "
                + "| \(Report.number(r.cycleRatio(k), 2)) | \(limit(r, k)) | \(limit(r, 0)) |\n"
        }
        return text
    }

    var json: String {
        let cases: [[String: Any]] = results.map { r in
            let sides = r.names.indices.map { k -> [String: Any] in
                ["name": r.names[k], "median_mpps": r.median(k), "cycles_per_packet": r.cycles(k), "ratio": r.ratio(k), "cycle_ratio": r.cycleRatio(k), "limit": limit(r, k),
                    "samples": r.samples[k].map { ["mpps": $0.mpps, "cycles_per_packet": $0.cycles, "ping_pong_cycles": $0.pingPong] }]
            }
            return ["mode": r.what.mode, "rings": r.what.format, "bytes": r.what.sizeName, "queues": r.what.queues, "burst": r.what.burst, "sides": sides]
        }
        let object: [String: Any] = ["machine": CompareReport.machine, "peer": peer, "seconds": seconds, "cases": cases]
        let data = (try? JSONSerialization.data(withJSONObject: object, options: [.prettyPrinted, .sortedKeys])) ?? Data()
        return String(decoding: data, as: UTF8.self)
    }

    /// How many times as many packets a second as each peer, and how many times fewer cycles a packet.
    var svg: String {
        var series: [(name: String, values: [Double])] = []
        for other in ["DPDK", "OVS", "peer"] where results.contains(where: { $0.names.contains(other) }) {
            func values(_ of: (CompareResult, Int) -> Double) -> [Double] { results.map { r in r.names.firstIndex(of: other).map { of(r, $0) } ?? 0 } }
            series.append(("\(other): packets/s", values { $0.ratio($1) }))
            series.append(("\(other): cycles", values { $0.cycleRatio($1) }))
        }
        return Plot.bars(
            title: "Ringway against its peers: ratios, more is better",
            subtitle: "how many times the packets a second, and how many times fewer cycles a packet; frames in bytes; dashed: equal",
            labels: results.map(\.what.name), series: series, mark: 1)
    }
}
