import Console
import Foundation
import Ringway
import RingwayLab

/// What was compared, as it is saved: the table and the plot can be made of it again without measuring.
struct CompareReport: Codable {
    /// What was measured of one case.
    struct Case: Codable {
        var mode: String
        /// Format of the rings.
        var rings: String
        /// Of a frame, or `imix`.
        var bytes: String
        var queues: Int
        var burst: Int
        /// Ringway comes first.
        var sides: [Side]

        /// Without the mode.
        var name: String {
            "\(rings) \(bytes)" + (queues > 1 ? " \(queues)q" : "") + (burst != 32 ? " burst \(burst)" : "")
        }
    }

    struct Side: Codable {
        var name: String
        var medianMpps: Double
        var cyclesPerPacket: Double
        /// Ringway against this side: the median of the ratios of samples taken one after the other. The machine
        /// changes its speed now and then, and that is then the same for both.
        var ratio: Double
        /// How many times more cycles a packet takes here than with Ringway; 0: one of them is not known.
        var cycleRatio: Double
        /// Who could not do more.
        var limit: String
        /// Round trips at half of the load; nil where nothing comes back, and in reports from before 0.1.0.
        var latency: Latency?
        var samples: [Sample]

        var spread: String {
            let all = samples.map(\.mpps)
            return "\(Text.number(all.min() ?? 0, 1))–\(Text.number(all.max() ?? 0, 1))"
        }
    }

    /// Round trips from an embedded driver, medians of samples of 0.05 s.
    struct Latency: Codable {
        /// Packets a second, in millions: half of what the slower side reached with the other driver.
        var mpps: Double
        var p50Microseconds: Double
        var p99Microseconds: Double

        var text: String {
            "\(Text.number(p50Microseconds, 2)), \(Text.number(p99Microseconds, 2))"
        }
    }

    /// Sides that Ringway is compared with, in the order of tables and plots; `peer` is another build of it.
    private static let others = ["DPDK", "OVS", "peer"]

    var machine: String
    /// A signal came before the end; nil in reports from before 0.1.0.
    var interrupted: Bool?
    var peer: String
    /// Of a sample.
    var seconds: Double
    var cases: [Case]

    /// One that was written by `text`.
    static func read(_ path: String) throws -> CompareReport {
        let report: CompareReport
        do {
            report = try JSON.read(CompareReport.self, try Data(contentsOf: URL(fileURLWithPath: path)))
        } catch let error as DecodingError {
            throw CompareError("\(path): \(error.reason); give the .json file that ringway compare --output wrote")
        } catch {
            throw CompareError("\(path): \(error.localizedDescription)")
        }
        guard report.cases.allSatisfy({ c in c.sides.first?.name == "Ringway" && c.sides.count > 1 }) else {
            throw CompareError(
                "\(path): a case without Ringway as its first side and another one; give the .json file that "
                    + "ringway compare --output wrote")
        }
        return report
    }

    var text: String { JSON.text(self, isIndented: true) }

    // MARK: The table

    /// How its first line begins.
    static let tableStart = "| mode | rings |"

    var markdown: String {
        var text = ""
        for other in CompareReport.others {
            let rows = cases.compactMap { c in c.sides.first { $0.name == other }.map { (c, $0) } }
            if !rows.isEmpty { text += CompareReport.table(other, rows) + "\n" }
        }
        let trips = cases.flatMap { $0.sides.flatMap(\.samples) }.map(\.pingPongCycles).sorted()
        let samples = cases.first?.sides.first?.samples.count ?? 0
        let halfLoad =
            cases.contains { $0.sides[0].latency != nil }
            ? " *Half load*: round trips from Ringway's embedded driver at half of the slower side's packets a "
                + "second, counted from when each frame was due." : ""
        return text
            + """
            Medians of \(samples) samples of \(Text.number(seconds, 2)) s a side, alternating within one session of \
            the driver; no sample discarded; ratios are medians of the ratios of neighbouring samples; payloads \
            verified in each case. *Limit*: who could not do more; in brackets how busy the device side \
            was.\(halfLoad) \
            \(machine); peer `\(peer)`; driver: DPDK virtio-user, 1024 entries. A cache line between the CPUs and \
            back: median \(Text.number(BudgetReport.median(trips), 0)) cycles, \
            \(Text.number(trips.first ?? 0, 0)) to \(Text.number(trips.last ?? 0, 0)).

            """
    }

    private static func table(_ other: String, _ rows: [(Case, Side)]) -> String {
        let hasLatency = rows.contains { $1.latency != nil }
        var text =
            "\(tableStart) bytes | queues | burst | \(other) Mpps | (spread) | Ringway Mpps | (spread) | ratio "
            + "| \(other) cycles | Ringway cycles | cycle ratio | limit \(other) | limit Ringway |"
            + (hasLatency ? " half load, Mpps | \(other) p50, p99 µs | Ringway p50, p99 µs | p50 ratio |" : "") + "\n"
            + String(repeating: "|---", count: hasLatency ? 19 : 15) + "|\n"
        for (c, side) in rows {
            let ringway = c.sides[0]
            var columns = [
                c.mode, c.rings, c.bytes, "\(c.queues)", "\(c.burst)", Text.number(side.medianMpps, 2), side.spread,
                Text.number(ringway.medianMpps, 2), ringway.spread, "**\(Text.number(side.ratio, 2))**",
                Text.number(side.cyclesPerPacket, 0), Text.number(ringway.cyclesPerPacket, 0),
                Text.number(side.cycleRatio, 2), side.limit, ringway.limit,
            ]
            if hasLatency { columns += latencies(side.latency, ringway.latency) }
            text += "| " + columns.joined(separator: " | ") + " |\n"
        }
        return text
    }

    private static func latencies(_ other: Latency?, _ ringway: Latency?) -> [String] {
        guard let other, let ringway else { return ["–", "–", "–", "–"] }
        let ratio = other.p50Microseconds > 0 ? ringway.p50Microseconds / other.p50Microseconds : 0
        return [Text.number(ringway.mpps, 2), other.text, ringway.text, "**\(Text.number(ratio, 2))**"]
    }

    // MARK: The plot

    /// A panel for each mode: how many times as many packets a second as each other side, and how many times fewer
    /// cycles a packet.
    var svg: String {
        let others = CompareReport.others.filter { other in
            cases.contains { $0.sides.contains { $0.name == other } }
        }
        // As in latency plots: Ringway has the first hue, DPDK the second.
        let series = others.flatMap { other in
            let hue = 1 + (CompareReport.others.firstIndex(of: other) ?? 0)
            return [
                Plot.BarSeries("\(other): packets a second", .init(hue: hue)),
                Plot.BarSeries("\(other): cycles a packet", .init(hue: hue, shade: 1)),
            ]
        }
        var panels: [Plot.Panel] = []
        for c in cases {
            let known = panels.firstIndex { $0.title == c.mode }
            if known == nil { panels.append(panel(c.mode, others)) }
            let values = others.flatMap { other -> [Double?] in
                let side = c.sides.first { $0.name == other }
                return [side?.ratio, side?.cycleRatio].map { $0.flatMap { $0 > 0 ? $0 : nil } }
            }
            panels[known ?? panels.count - 1].rows.append((c.name, values))
        }
        return Plot.bars(
            title: "Ringway beside \(others.joined(separator: " and "))",
            subtitle: "How many times as many packets a second, and how many times fewer cycles a packet: right of 1 "
                + "Ringway is ahead. Formats of rings and bytes of frames; \(machine).",
            scale: .log, series: series, panels: panels, mark: 1)
    }

    /// With the sides that take part in its mode.
    private func panel(_ mode: String, _ others: [String]) -> Plot.Panel {
        let here = others.filter { other in
            cases.contains { $0.mode == mode && $0.sides.contains { $0.name == other } }
        }
        return Plot.Panel(mode, axis: "ratio to " + here.joined(separator: ", ratio to "))
    }
}

extension CompareReport.Case {
    /// Of samples taken by turns, a list for each side, Ringway's first. `ticksPerSecond`: of the time-stamp counter.
    init(_ what: CompareCase, names: [String], samples: [[Sample]], ticksPerSecond: Double) {
        let sides = zip(names, samples).map { name, own in
            let pairs = Array(zip(samples[0], own))
            var side = CompareReport.Side(
                name: name, medianMpps: BudgetReport.median(own.map(\.mpps)),
                cyclesPerPacket: BudgetReport.median(own.map(\.cyclesPerPacket)),
                ratio: BudgetReport.median(pairs.map { $1.mpps > 0 ? $0.mpps / $1.mpps : 0 }),
                cycleRatio: BudgetReport.median(
                    pairs.compactMap {
                        $0.cyclesPerPacket > 0 && $1.cyclesPerPacket > 0
                            ? $1.cyclesPerPacket / $0.cyclesPerPacket : nil
                    }), limit: "–", samples: own)
            if side.cyclesPerPacket > 0 {
                // The device side, where it had work for nearly all of the time.
                let busy = side.medianMpps * 1e6 * side.cyclesPerPacket / ticksPerSecond
                side.limit = busy > 0.85 ? "device" : "driver (\(Text.number(busy * 100, 0)) %)"
            }
            return side
        }
        self.init(
            mode: what.mode, rings: what.format, bytes: what.sizeName, queues: what.queues, burst: what.burst,
            sides: sides)
    }
}

extension DecodingError {
    /// What is wrong, and where.
    fileprivate var reason: String {
        func place(_ context: Context) -> String { context.codingPath.map(\.stringValue).joined(separator: ".") }
        switch self {
        case .keyNotFound(let key, let context):
            let place = place(context)
            return "no '\(key.stringValue)'" + (place.isEmpty ? "" : " in \(place)")
        case .typeMismatch(_, let context), .valueNotFound(_, let context): return "'\(place(context))' is odd"
        default: return "no JSON"
        }
    }
}
