import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// What idle queues cost the busy one.
struct ScaleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scale",
        abstract: "The rate of one busy queue pair while its thread has up to thousands of idle ones.",
        discussion: """
            Idle pairs are real ones: drivers on vhost-user sockets whose rings run, up to 128 pairs each. Samples \
            with and without them alternate, each in an engine of its own; the medians are compared.
            Example: ringway bench scale --queues 1,10,100,1000 --budgets poll,auto,0
            """)

    @Option(help: "Queue pairs of the poll thread, the busy one with them; several with commas.") var queues =
        "10,100,1000"
    @Option(help: "Budgets: poll, 0, microseconds, auto; several with commas.") var budgets = "poll,auto,0"
    @Option(help: "drop or macswap.") var mode = "drop"
    @Flag(help: "Packed rings.") var packed = false
    @Option(help: ArgumentHelp("Frame size without CRC.", valueName: "bytes")) var size = 64
    @Option(help: "Samples of each figure.") var samples = 7
    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds")) var seconds = 0.3
    @Flag(help: "One JSON object a line.") var json = false

    private struct Sample {
        var mpps: Double
        /// Cycles of the poll thread's rounds with work, by packet.
        var cycles: Double
    }

    private struct Record: Encodable {
        let queues: Int
        let interrupted = Signals.haveCome
        let budget: String
        let mode: String
        let packed: Bool
        let size: Int
        let mpps: Double
        let aloneMpps: Double
        let percent: Double
        let cyclesPerPacket: Double
        let aloneCyclesPerPacket: Double
        let allMpps: [Double]
        let allAloneMpps: [Double]
    }

    func run() throws {
        let counts = queues.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
        if counts.contains(where: { !(1...8192).contains($0) }) {
            fail("--queues \(queues): numbers of queue pairs, 1 to 8192, as in 10,100,1000", status: 64)
        }
        if mode != "drop" && mode != "macswap" { fail("--mode \(mode): write drop or macswap", status: 64) }
        check("--size", size, 60...1518, "bytes")
        check("--samples", samples, 1...1000)
        check("--seconds", seconds, 0.05...60)
        let budgets = usage { try PortSyntax.budgets(self.budgets) }
        if !json {
            print(
                "\(mode), \(packed ? "packed" : "split"), \(size) bytes; medians of \(samples)\n"
                    + ScaleCommand.line(
                        "queues", "budget", "Mpps", "alone", "%", "cycles/packet", "alone", "spread of Mpps"))
        }
        do throws(EngineError) {
            for budget in budgets {
                for count in counts where !Signals.haveCome { try compare(count, budget) }
            }
        } catch {
            fail(error.description)
        }
    }

    private func compare(_ count: Int, _ budget: (name: String, value: BusyloopBudget)) throws(EngineError) {
        var (lone, crowded): ([Sample], [Sample]) = ([], [])
        for n in 1...samples {
            Progress.show("budget \(budget.name), \(count) queue pairs: sample \(n) of \(samples)")
            let alone = try apart { () throws(EngineError) in try sample(1, budget.value) }
            if Signals.haveCome { break }
            let now = try apart { () throws(EngineError) in try sample(count, budget.value) }
            // One that was cut short counts for nothing.
            if Signals.haveCome { break }
            lone.append(alone)
            crowded.append(now)
        }
        Progress.clear()
        if lone.isEmpty { return }
        func median(_ all: [Sample], _ key: KeyPath<Sample, Double>) -> Double {
            BudgetReport.median(all.map { $0[keyPath: key] })
        }
        let (alone, now) = (median(lone, \.mpps), median(crowded, \.mpps))
        let rates = crowded.map(\.mpps)
        if json {
            printJSON(
                Record(
                    queues: count, budget: budget.name, mode: mode, packed: packed, size: size,
                    mpps: now.rounded(digits: 3), aloneMpps: alone.rounded(digits: 3),
                    percent: (now / alone * 100).rounded(digits: 1),
                    cyclesPerPacket: median(crowded, \.cycles).rounded(digits: 1),
                    aloneCyclesPerPacket: median(lone, \.cycles).rounded(digits: 1),
                    allMpps: rates.map { $0.rounded(digits: 3) },
                    allAloneMpps: lone.map { $0.mpps.rounded(digits: 3) }))
        } else {
            print(
                ScaleCommand.line(
                    "\(count)", budget.name, Text.number(now, 2), Text.number(alone, 2),
                    Text.number(now / alone * 100, 0), Text.number(median(crowded, \.cycles), 0),
                    Text.number(median(lone, \.cycles), 0),
                    "\(Text.number(rates.min() ?? 0, 2)) to \(Text.number(rates.max() ?? 0, 2))"))
        }
        flush()
    }

    private static func line(_ columns: String...) -> String {
        zip(columns, [7, 8, 8, 8, 6, 15, 8, 18]).map { Text.right($0, $1) }.joined()
    }

    /// An engine with one thread and `count` pairs, one of them busy.
    private func sample(_ count: Int, _ budget: BusyloopBudget) throws(EngineError) -> Sample {
        var setup = Bench.Setup()
        setup.busyloop = budget
        setup.mode = mode == "drop" ? .drop : .macswap
        setup.driver.isPacked = packed
        Bench.choosePlaces(&setup)
        setup.idlePairs = count - 1
        let bench = try Bench(setup)
        defer { bench.close() }
        let flows = bench.flows
        Load.prepare(flows, size: size)
        var cold = [Load.Count()]
        var counts = [Load.Count()]
        // Long enough for idle pairs to be known as such.
        Load.saturate(flows, size: size, burst: 32, until: CPlat_monotonic_ns() + 100_000_000, counts: &cold)
        let before = (bench.engine.threadSnapshots()[0].busyCycles, bench.engine.snapshot()[0].rx.packets)
        Load.saturate(
            flows, size: size, burst: 32, until: CPlat_monotonic_ns() + UInt64(seconds * 1e9), counts: &counts)
        let packets = bench.engine.snapshot()[0].rx.packets &- before.1
        let cycles = bench.engine.threadSnapshots()[0].busyCycles &- before.0
        return Sample(
            mpps: Double(packets) * 1000 / Double(max(1, counts[0].nanoseconds)),
            cycles: Double(cycles) / Double(max(1, packets)))
    }
}
