import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// What poll threads cost each other.
struct ThreadsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "threads",
        abstract: "The rate of poll threads one at a time and all at once, in one engine and in engines of their own.",
        discussion: """
            Each thread runs the poll thread's loop and its drivers by turns on one CPU, so that no line has to go \
            from CPU to CPU unless threads share one. What threads of one engine lose when all of them run is \
            Ringway's doing only as far as threads in engines of their own, which share nothing, do not lose it, too. \
            Samples alternate; medians are compared.
            Example: ringway bench threads --mode crossconnect
            """)

    @Option(help: "Poll threads; by default one for each CPU.") var threads: Int?
    @Option(help: "drop, macswap, crossconnect or switch.") var mode = "macswap"
    @Flag(help: "Packed rings.") var packed = false
    @Option(help: ArgumentHelp("Frame size without CRC.", valueName: "bytes")) var size = 64
    @Option(help: "Samples of each figure.") var samples = 15
    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds")) var seconds = 0.2
    @Flag(help: "One JSON object.") var json = false

    func run() throws {
        let cpus = Array(Bench.allowedCPUs.prefix(max(0, threads ?? Bench.allowedCPUs.count)))
        if cpus.count < 2 || cpus.count < threads ?? 2 {
            fail(
                "--threads \(threads ?? cpus.count): at least 2 are compared, each on a CPU of its own; "
                    + "this process has \(Bench.allowedCPUs.count)",
                status: 64)
        }
        check("--size", size, 60...1518, "bytes")
        check("--samples", samples, 1...1000)
        check("--seconds", seconds, 0.05...60)
        let shape = usage(self.shape)
        do throws(EngineError) {
            let together = try RoundBench(shape(cpus.count))
            var apart: [RoundBench] = []
            for _ in cpus { apart.append(try RoundBench(shape(1))) }
            var (one, own) = (Rates(), Rates())
            Signals.handOver()
            for n in 1...samples where !Signals.haveCome {
                Progress.show("sample \(n) of \(samples)")
                one.sample(together.lanes) { measure($0, cpus) }
                own.sample(apart.map { $0.lanes[0] }) { measure($0, cpus) }
            }
            Progress.clear()
            for bench in apart + [together] { if let complaint = bench.complaint { throw EngineError(complaint) } }
            if !own.together.isEmpty { show(cpus.count, one, own) }
        } catch {
            fail(error.description)
        }
    }

    private func shape() throws(EngineError) -> (Int) -> RoundBench.Shape {
        let modes: [String: ForwardingMode] = [
            "drop": .drop, "macswap": .macswap, "crossconnect": .crossconnect, "switch": .switch,
        ]
        guard let mode = modes[mode] else {
            throw EngineError("--mode \(mode): write drop, macswap, crossconnect or switch")
        }
        return { [packed, size] threads in
            var shape = RoundBench.Shape()
            (shape.mode, shape.isPacked, shape.size, shape.threads) = (mode, packed, size, threads)
            // All of it lies in a CPU's own cache: the one that CPUs share would be a reason of its own to slow down.
            shape.ringSize = 128
            return shape
        }
    }

    /// Mpps of each lane on average, each stepped on a CPU of its own.
    private func measure(_ lanes: [RoundBench.Lane], _ cpus: [Int]) -> Double {
        let rates = OwnedMemory<Double>(count: lanes.count)
        nonisolated(unsafe) let results = rates.start
        let done = DispatchSemaphore(value: 0)
        // All of them run before the first begins to count, and until the last has ended.
        let start = CPlat_monotonic_ns() + 20_000_000
        let end = start + UInt64(seconds * 1e9)
        for (k, lane) in lanes.enumerated() {
            let thread = Thread {
                _ = CPlat_pin_to_cpu(Int32(cpus[k]))
                while CPlat_monotonic_ns() < start { lane.step() }
                let (begun, before) = (CPlat_monotonic_ns(), lane.packets)
                var now = begun
                while now < end {
                    for _ in 0..<16 { lane.step() }
                    now = CPlat_monotonic_ns()
                }
                results[k] = Double(lane.packets &- before) * 1000 / Double(max(1, now &- begun))
                while CPlat_monotonic_ns() < end + 2_000_000 { lane.step() }
                done.signal()
            }
            thread.start()
        }
        for _ in lanes { done.wait() }
        return lanes.indices.reduce(0) { $0 + rates[$1] } / Double(lanes.count)
    }

    private func show(_ count: Int, _ one: Rates, _ own: Rates) {
        if json {
            printJSON(
                Record(
                    threads: count, mode: mode, packed: packed, size: size, oneEngine: one.record,
                    ownEngines: own.record))
            return
        }
        print(
            "\(mode), \(packed ? "packed" : "split"), \(size) bytes, \(count) threads, each with its drivers on one "
                + "CPU; Mpps of a thread, medians of \(samples)"
        )
        print("                     alone   at once     kept")
        for (name, rates) in [("in one engine", one), ("an engine each", own)] {
            print(
                "  " + name.padding(toLength: 16, withPad: " ", startingAt: 0)
                    + Text.right(Text.number(BudgetReport.median(rates.alone), 2), 8)
                    + Text.right(Text.number(BudgetReport.median(rates.together), 2), 10)
                    + Text.right(Text.number(rates.kept, 1), 7) + " %")
        }
    }

    /// Mpps of a thread: lanes one at a time, on average, and all at once.
    private struct Rates {
        var alone: [Double] = []
        var together: [Double] = []

        mutating func sample(_ lanes: [RoundBench.Lane], _ measure: ([RoundBench.Lane]) -> Double) {
            alone.append(lanes.reduce(0) { $0 + measure([$1]) } / Double(lanes.count))
            together.append(measure(lanes))
        }

        /// Percent of the lone rate that is left when all run.
        var kept: Double { BudgetReport.median(together) / BudgetReport.median(alone) * 100 }

        var record: Record.Rates {
            Record.Rates(
                alone: BudgetReport.median(alone).rounded(digits: 3),
                together: BudgetReport.median(together).rounded(digits: 3), keptPercent: kept.rounded(digits: 1),
                allAlone: alone.map { $0.rounded(digits: 3) }, allTogether: together.map { $0.rounded(digits: 3) })
        }
    }

    private struct Record: Encodable {
        struct Rates: Encodable {
            let alone: Double
            let together: Double
            let keptPercent: Double
            let allAlone: [Double]
            let allTogether: [Double]
        }

        let threads: Int
        let interrupted = Signals.haveCome
        let mode: String
        let packed: Bool
        let size: Int
        let oneEngine: Rates
        let ownEngines: Rates
    }
}
