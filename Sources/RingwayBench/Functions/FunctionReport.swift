import Console
import Foundation
import RingwayLab

/// What `functions` measured, as it is saved.
struct FunctionReport: Encodable {
    struct Sample: Encodable {
        /// Packets a second that arrived at port 1, in millions.
        var mpps: Double
        /// Share of the driver's rounds that found the ring full.
        var fullShare: Double
        /// Of a cache line between the CPUs and back, before the sample.
        var pingPongCycles: Double
    }

    struct Side: Encodable {
        var name: String
        var samples: [Sample]

        var mpps: Double { BudgetReport.median(samples.map(\.mpps)) }
        /// The driver could have sent more.
        var isLimit: Bool { BudgetReport.median(samples.map(\.fullShare)) > 0.9 }
        /// Of a packet, where the device side's CPU had no time left; nil where the driver was slower.
        func cycles(perMicrosecond: Double) -> Double? { isLimit && mpps > 0 ? perMicrosecond / mpps : nil }
    }

    struct Case: Encodable {
        var function: String
        var rings: String
        var bytes: Int
        /// Ringway comes first.
        var sides: [Side]

        /// The median of the ratios of neighbouring samples.
        var ratio: Double {
            BudgetReport.median(
                zip(sides[0].samples, sides[1].samples).map { $1.mpps > 0 ? $0.mpps / $1.mpps : 0 })
        }
    }

    var machine = Machine.summary
    /// Of the time-stamp counter.
    var cyclesPerMicrosecond: Double
    var seconds: Double
    var cases: [Case] = []

    var text: String { JSON.text(self, isIndented: true) }

    var markdown: String {
        var text = """
            | function | rings | bytes | Ringway Mpps | DPDK Mpps | ratio | cycles a packet: Ringway, DPDK |
            |---|---|---:|---:|---:|---:|---|

            """
        for c in cases {
            let cycles = c.sides.map { side in
                side.cycles(perMicrosecond: cyclesPerMicrosecond).map { Text.number($0, 0) } ?? "the driver's limit"
            }
            text += "| \(c.function) | \(c.rings) | \(c.bytes) | "
            text += c.sides.map { Text.number($0.mpps, 2) }.joined(separator: " | ")
            text += " | \(Text.number(c.ratio, 2)) | \(cycles.joined(separator: ", ")) |\n"
        }
        let trips = cases.flatMap { $0.sides.flatMap(\.samples) }.map(\.pingPongCycles).sorted()
        return text + """

            Medians of \(cases.first?.sides.first?.samples.count ?? 0) samples of \(Text.number(seconds, 2)) s a side, \
            alternating; no sample discarded; ratios are medians of the ratios of neighbouring samples. Each flow was \
            sent once before, and each packet checked as it left. Both sides have the same embedded drivers, from port \
            0 to port 1, with bursts of 32. Cycles are of the time-stamp counter, on the device side's CPU, where the \
            driver found the ring full in nine of ten rounds. DPDK: its example l3fwd (tools/testbed/l3fwd). \
            \(machine). A cache line between the CPUs and back: median \
            \(Text.number(BudgetReport.median(trips), 0)) cycles.

            """
    }

    func write(to prefix: String) {
        writeFile(prefix + ".md", markdown)
        writeFile(prefix + ".json", text)
    }
}
