import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// CPU use against latency and throughput for busyloop budgets and loads.
struct TuneCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tune",
        abstract: "Sweep the busyloop budget over loads: CPU use against latency and throughput, and a recommendation.",
        discussion: """
            For each load and budget an embedded driver exchanges packets with an engine; the poll thread's CPU time \
            and system calls are counted, and the latency from when each packet was due (see bench latency). Samples \
            of all budgets and loads are interleaved, and medians are shown.

            Recommended is the budget that uses the least CPU over all loads among those whose p99 is at every load \
            within --accept of poll's, or within 1.2 times it (at full load: whose packets take at most 1.2 times as \
            long).

            auto is judged at each load: its p99 is within 1.2 times poll's or its CPU within 1.2 times budget 0's; \
            and no fixed budget is better in both p99 and CPU by more than 1.2 times. At full load the time per packet \
            stands for p99.

            At the end the engine serves drivers that ask for calls, with all calls of a round in one system call and \
            with one system call for each.

            Example: ringway tune --rates 1k,20k,500k,full --svg tune
            """)

    @Option(help: "Budgets: poll, 0, microseconds, auto; several with commas.") var budgets =
        "0,5,20,50,100,200,auto,poll"
    @Option(help: "Packets a second (1000, 20k, 1.5M) or full, several with commas.") var rates =
        "1k,10k,50k,200k,1M,full"
    @Option(help: "crossconnect, macswap or switch.") var mode = "macswap"
    @Option(help: ArgumentHelp("Frame size in bytes without CRC, or imix.", valueName: "bytes")) var size = "64"
    @Option(help: "Frames that the driver sends at once, 1 to 64.") var burst = 1
    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds")) var seconds = 0.3
    @Option(help: "Samples of each budget at each load.") var samples = 5
    @Option(
        help: ArgumentHelp("What a p99 may be worse than poll's for the recommendation.", valueName: "microseconds"))
    var accept = 50.0
    @Option(help: ArgumentHelp("Queue pairs of the part about calls.", valueName: "pairs")) var callQueues = 4
    @Flag(help: "Packed rings.") var packed = false
    @Flag(help: "One JSON object.") var json = false
    @Option(
        help: ArgumentHelp("Writes PREFIX-latency.svg, PREFIX-cpu.svg and PREFIX-latency-cpu.svg.", valueName: "prefix")
    ) var svg: String?

    /// One engine with its drivers, whose budget changes.
    private struct Station {
        let bench: Bench
        let flows: [Load.Flow]
        let sizes: [Int]
    }

    private struct Sample {
        var cpu = 0.0
        var p50 = 0.0
        var p99 = 0.0
        var throughput = 0.0
        var systemCalls = 0.0
        var calls = 0.0
        var busyCycles = 0.0
    }

    func run() throws {
        do throws(EngineError) { try measure() } catch { fail(error.description) }
    }

    private func measure() throws(EngineError) {
        check("--seconds", seconds, 0.1...60)
        check("--samples", samples, 1...1000)
        check("--burst", burst, 1...DriverPair.burst)
        check("--call-queues", callQueues, 1...64, "queue pairs")
        check("--accept", accept, 0...1e6, "microseconds")
        checkFolder(of: svg, "--svg")
        let (loads, names) = usage { (try LoadSyntax.rates(rates, allowsFull: true), try PortSyntax.budgets(budgets)) }
        if loads.contains(where: { if case .share = $0 { return true } else { return false } }) {
            fail("--rates \(rates): give packets a second, or full", status: 64)
        }
        _ = usage { (try forwarding(), try LoadSyntax.sizes(size)) }
        if !names.contains(where: { $0.name == "poll" }) {
            refuse("--accept", because: "is judged against poll's p99, and poll is not among the budgets; add it")
        }
        if loads == [.full] {
            refuse("--svg", because: "draws packets a second, and full is the only load; add one such as 10k")
        }
        let points = try apart { () throws(EngineError) in try sweep(loads.map { $0.packets(lossless: 0) }, names) }
        let report = BudgetReport(points)
        let calls =
            Signals.haveCome
            ? [] : try apart { () throws(EngineError) in try compareCalls(loads.map { $0.packets(lossless: 0) }) }
        Progress.clear()
        if json { printJSON(record(report, calls)) } else { conclude(report, calls) }
        if let svg, !report.points.isEmpty { draw(report, svg) }
    }

    private func forwarding() throws(EngineError) -> ForwardingMode {
        let modes: [String: ForwardingMode] = ["crossconnect": .crossconnect, "macswap": .macswap, "switch": .switch]
        guard let mode = modes[mode] else { throw EngineError("--mode \(mode): write crossconnect, macswap or switch") }
        return mode
    }

    private func station(queues: Int, wantsCalls: Bool, batches: Bool) throws(EngineError) -> Station {
        let (mode, sizes) = (try forwarding(), try LoadSyntax.sizes(size))
        var setup = Bench.Setup()
        (setup.mode, setup.busyloop, setup.batchesCalls) = (mode, .sleep, batches)
        (setup.driver.isPacked, setup.driver.queuePairs, setup.driver.wantsCalls) = (packed, queues, wantsCalls)
        setup.driver.frameRoom = max(2048, sizes.max() ?? 64)
        Bench.choosePlaces(&setup)
        let bench = try Bench(setup)
        Load.prepare(bench.flows(bothWays: true), size: sizes.max() ?? 64)
        return Station(bench: bench, flows: bench.flows(bothWays: false), sizes: sizes)
    }

    private func sweep(_ loads: [Double], _ names: [(name: String, value: BusyloopBudget)]) throws(EngineError)
        -> [BudgetReport.Point]
    {
        let station = try station(queues: 1, wantsCalls: false, batches: true)
        defer { station.bench.close() }
        var all: [String: [Sample]] = [:]
        for n in 0..<samples {
            for load in loads {
                for k in names.indices where !Signals.haveCome {
                    Progress.show("sample \(n + 1) of \(samples), \(TuneCommand.name(load)) packets/s")
                    // Each time another one is first.
                    let (name, budget) = names[(k + n) % names.count]
                    station.bench.engine.setBusyloop(budget)
                    let sample = sample(station, load)
                    if !Signals.haveCome { all["\(name) \(load)", default: []].append(sample) }
                }
            }
        }
        return names.flatMap { name in
            loads.compactMap { load in
                guard let s = all["\(name.0) \(load)"] else { return nil }
                func median(_ key: KeyPath<Sample, Double>) -> Double {
                    BudgetReport.median(s.map { $0[keyPath: key] })
                }
                return BudgetReport.Point(
                    budget: name.0, load: load, cpu: median(\.cpu), p50: median(\.p50), p99: median(\.p99),
                    throughput: median(\.throughput), systemCalls: median(\.systemCalls))
            }
        }
    }

    /// The engine's budget has just been set: some time to learn, then the sample.
    private func sample(_ s: Station, _ load: Double) -> Sample {
        func offer(_ seconds: Double) -> Load.Paced {
            if load.isFinite {
                return Load.paced(s.flows, Load.Pace(rate: load, burst: burst, seconds: seconds, sizes: s.sizes))
            }
            var counts = [Load.Count](repeating: .init(), count: s.flows.count)
            Load.saturate(
                s.flows, sizes: s.sizes, burst: 32, until: CPlat_monotonic_ns() + UInt64(seconds * 1e9), counts: &counts
            )
            var paced = Load.Paced()
            for c in counts { (paced.arrived, paced.nanoseconds) = (paced.arrived + c.received, c.nanoseconds) }
            return paced
        }
        _ = offer(max(0.15, min(1, 400 / load)))
        for f in s.flows { Load.settle(f) }
        let (before, calls) = (s.bench.engine.threadSnapshots()[0], callCount(s))
        let paced = offer(seconds)
        let after = s.bench.engine.threadSnapshots()[0]
        for f in s.flows { Load.settle(f) }
        let elapsed = Double(max(1, paced.nanoseconds)) / 1e9
        return Sample(
            cpu: Double(after.cpuNanoseconds - before.cpuNanoseconds) / 1e9 / elapsed * 100,
            p50: Double(paced.roundTrip.percentile(50)) / 1000,
            p99: Double(paced.roundTrip.percentile(99)) / 1000, throughput: Double(paced.arrived) / elapsed,
            systemCalls: Double(after.systemCalls - before.systemCalls) / elapsed,
            calls: Double(callCount(s) - calls) / elapsed,
            busyCycles: Double(after.busyCycles &- before.busyCycles) / Double(max(1, paced.arrived)))
    }

    private func callCount(_ s: Station) -> UInt64 {
        s.bench.engine.queueTimes().filter { $0.what == .receiveCallDelay || $0.what == .transmitCallDelay }.reduce(0) {
            $0 + $1.counts.count
        }
    }

    /// Drivers that ask for calls, all polled: with and without batching, in turn.
    private func compareCalls(_ loads: [Double]) throws(EngineError) -> [(
        load: Double, batched: Sample, single: Sample
    )] {
        let stations = [
            try station(queues: callQueues, wantsCalls: true, batches: true),
            try station(queues: callQueues, wantsCalls: true, batches: false),
        ]
        defer { for s in stations { s.bench.close() } }
        var all: [String: [Sample]] = [:]
        for n in 0..<samples {
            for load in loads {
                for (i, s) in stations.enumerated() where !Signals.haveCome {
                    Progress.show("calls: sample \(n + 1) of \(samples), \(TuneCommand.name(load)) packets/s")
                    s.bench.engine.setBusyloop(.poll)
                    let sample = sample(s, load)
                    if !Signals.haveCome { all["\(i) \(load)", default: []].append(sample) }
                    // The other one has the CPU to itself.
                    s.bench.engine.setBusyloop(.sleep)
                }
            }
        }
        func median(_ i: Int, _ load: Double) -> Sample {
            let s = all["\(i) \(load)"] ?? []
            func m(_ key: KeyPath<Sample, Double>) -> Double { BudgetReport.median(s.map { $0[keyPath: key] }) }
            return Sample(
                cpu: m(\.cpu), p50: m(\.p50), p99: m(\.p99), throughput: m(\.throughput), systemCalls: m(\.systemCalls),
                calls: m(\.calls), busyCycles: m(\.busyCycles))
        }
        return loads.filter { all["0 \($0)"] != nil && all["1 \($0)"] != nil }.map {
            ($0, median(0, $0), median(1, $0))
        }
    }

    private static func name(_ load: Double) -> String { load.isFinite ? Text.number(load, 0) : "full" }

    private static func line(_ columns: [String]) -> String {
        zip(columns, [11, 9, 11, 12, 12, 12, 13, 13]).map { Text.right($0, $1) }.joined()
    }

    private func conclude(_ report: BudgetReport, _ calls: [(load: Double, batched: Sample, single: Sample)]) {
        print(
            "\(mode), \(packed ? "packed" : "split") rings, \(size)\(size == "imix" ? "" : " bytes"), burst \(burst); "
                + "medians of \(samples) samples of \(Text.number(seconds, 2)) s; \(Machine.summary)"
        )
        print(
            TuneCommand.line(["packets/s", "budget", "CPU %", "p50 µs", "p99 µs", "Mpps", "syscalls/s", "per packet"]))
        for load in report.loads {
            for budget in report.budgets {
                guard let p = report.point(budget, load) else { continue }
                print(
                    TuneCommand.line([
                        TuneCommand.name(load), budget, Text.number(p.cpu, 1),
                        load.isFinite ? Text.number(p.p50, 1) : "-", load.isFinite ? Text.number(p.p99, 1) : "-",
                        Text.number(p.throughput / 1e6, 4), Text.number(p.systemCalls, 0),
                        Text.number(p.systemCalls / max(1, p.throughput), 4),
                    ]))
            }
        }
        if !report.verdicts.isEmpty {
            print(
                "\nauto:  p99 against poll's (at most 1.2), or CPU against 0's (at most 1.2);  "
                    + "fixed budgets better in both"
            )
        }
        for v in report.verdicts {
            let better = v.betterInBoth.isEmpty ? "none: pass" : v.betterInBoth.joined(separator: ", ") + ": FAIL"
            print(
                Text.right(TuneCommand.name(v.load), 11) + Text.right("p99 x\(Text.number(v.delayToPoll, 2))", 15)
                    + Text.right("CPU x\(Text.number(v.cpuToZero, 2))", 12)
                    + "  \(v.isNearEither ? "pass" : "FAIL")   \(better)"
            )
        }
        if calls.isEmpty { return }
        print("\ncalls of \(callQueues) queue pairs whose drivers ask for them, poll")
        print(
            TuneCommand.line([
                "packets/s", "calls", "calls/s", "syscalls/s", "per packet", "p50 µs", "p99 µs", "cycles/pkt",
            ]))
        for c in calls {
            for (name, s) in [("batched", c.batched), ("single", c.single)] {
                print(
                    TuneCommand.line([
                        TuneCommand.name(c.load), name, Text.number(s.calls, 0), Text.number(s.systemCalls, 0),
                        Text.number(s.systemCalls / max(1, s.throughput), 4),
                        c.load.isFinite ? Text.number(s.p50, 1) : "-",
                        c.load.isFinite ? Text.number(s.p99, 1) : "-", Text.number(s.busyCycles, 0),
                    ]))
            }
        }
        if let chosen = report.recommended(allowed: accept) {
            print(
                "\nrecommended: --busyloop \(chosen) (\(Text.number(report.cost(chosen), 1)) % CPU, the mean over "
                    + "these loads: the least among the budgets whose p99 is within \(Text.number(accept, 0)) µs of "
                    + "poll's, or 1.2 times it)"
            )
        } else {
            print("\nno recommendation: poll was not measured")
        }
    }

    private struct Record: Encodable {
        /// Packets a second, or `full`.
        struct Load: Encodable {
            let rate: Double

            func encode(to encoder: any Encoder) throws {
                var container = encoder.singleValueContainer()
                if rate.isFinite { try container.encode(rate.rounded()) } else { try container.encode("full") }
            }
        }

        struct Point: Encodable {
            let load: Load
            let budget: String
            let cpuPercent: Double
            let p50Us: Double
            let p99Us: Double
            let mpps: Double
            let systemCallsPerSecond: Double
            let systemCallsPerPacket: Double
        }

        struct Verdict: Encodable {
            let load: Load
            let p99ToPoll: Double
            let cpuToZero: Double
            let nearEither: Bool
            let betterInBoth: [String]
            let passed: Bool
        }

        struct Calls: Encodable {
            let load: Load
            let batched: Bool
            let callsPerSecond: Double
            let systemCallsPerSecond: Double
            let systemCallsPerPacket: Double
            let p50Us: Double
            let p99Us: Double
            let busyCyclesPerPacket: Double

            init(_ load: Double, batched: Bool, _ s: Sample) {
                (self.load, self.batched) = (Load(rate: load), batched)
                callsPerSecond = s.calls.rounded(digits: 1)
                systemCallsPerSecond = s.systemCalls.rounded(digits: 1)
                systemCallsPerPacket = (s.systemCalls / max(1, s.throughput)).rounded(digits: 6)
                (p50Us, p99Us) = (s.p50.rounded(digits: 2), s.p99.rounded(digits: 2))
                busyCyclesPerPacket = s.busyCycles.rounded(digits: 1)
            }
        }

        let machine = Machine.summary
        let interrupted = Signals.haveCome
        let mode: String
        let packed: Bool
        let size: String
        let burst: Int
        let samples: Int
        let sampleSeconds: Double
        let points: [Point]
        let auto: [Verdict]
        let calls: [Calls]
        let recommended: JSON.OrNull<String>
    }

    private func record(_ report: BudgetReport, _ calls: [(load: Double, batched: Sample, single: Sample)]) -> Record {
        Record(
            mode: mode, packed: packed, size: size, burst: burst, samples: samples,
            sampleSeconds: seconds.rounded(digits: 2),
            points: report.points.map {
                Record.Point(
                    load: .init(rate: $0.load), budget: $0.budget, cpuPercent: $0.cpu.rounded(digits: 2),
                    p50Us: $0.p50.rounded(digits: 2), p99Us: $0.p99.rounded(digits: 2),
                    mpps: ($0.throughput / 1e6).rounded(digits: 6),
                    systemCallsPerSecond: $0.systemCalls.rounded(digits: 1),
                    systemCallsPerPacket: ($0.systemCalls / max(1, $0.throughput)).rounded(digits: 6))
            },
            auto: report.verdicts.map {
                Record.Verdict(
                    load: .init(rate: $0.load), p99ToPoll: $0.delayToPoll.rounded(digits: 3),
                    cpuToZero: $0.cpuToZero.rounded(digits: 3), nearEither: $0.isNearEither,
                    betterInBoth: $0.betterInBoth, passed: $0.passed)
            },
            calls: calls.flatMap {
                [
                    Record.Calls($0.load, batched: true, $0.batched),
                    Record.Calls($0.load, batched: false, $0.single),
                ]
            }, recommended: .init(report.recommended(allowed: accept)))
    }

    private func draw(_ report: BudgetReport, _ prefix: String) {
        let finite = report.loads.filter { $0.isFinite }
        let subtitle =
            "\(mode), \(packed ? "packed" : "split") rings, \(size) bytes; medians of \(samples) samples; "
            + Machine.summary
        func series(_ key: KeyPath<BudgetReport.Point, Double>) -> [Plot.Series] {
            report.budgets.map { budget in
                var s = Plot.Series(
                    budget == "auto" || budget == "poll" ? budget : "\(budget) µs",
                    finite.compactMap { load in report.point(budget, load).map { (load, $0[keyPath: key]) } })
                s.isBold = budget == "auto"
                return s
            }
        }
        writeFile(
            prefix + "-latency.svg",
            Plot.lines(
                title: "p99 of the latency by busyloop budget", subtitle: subtitle, x: .init("packets a second", .log),
                y: .init("p99, µs", .log), series: series(\.p99)))
        writeFile(
            prefix + "-cpu.svg",
            Plot.lines(
                title: "CPU use of the poll thread by busyloop budget", subtitle: subtitle,
                x: .init("packets a second", .log), y: .init("CPU, %", .linear), series: series(\.cpu)))
        let loads = finite.map { load in
            var s = Plot.Series("\(Plot.short(load))/s", [])
            let points = report.budgets.filter { $0 != "auto" }.compactMap { report.point($0, load) }
            s.points = points.map { ($0.cpu, $0.p99) }
            // Those that poll all the time stand at the right edge, one above the other.
            s.labels = points.map { $0.cpu < 90 ? $0.budget : "" }
            s.apart = report.point("auto", load).map { ($0.cpu, $0.p99, "auto") }
            return s
        }
        writeFile(
            prefix + "-latency-cpu.svg",
            Plot.lines(
                title: "p99 against CPU use: a line for each load, a point for each budget in µs, a ring for auto",
                subtitle: subtitle, x: .init("CPU, %", .linear), y: .init("p99, µs", .log), series: loads))
    }
}
