import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// As many packets as go, and the highest rate without loss.
struct ThroughputCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "throughput",
        abstract: "The rate of full rings, and the highest rate without loss as RFC 2544 finds it.",
        discussion: """
            Frames are offered at a rate whatever comes back. A trial passes when every frame that was due has been \
            sent (at the latest 10 ms after the trial's end: a full ring makes the sender wait) and has arrived, but \
            for the share of --loss-tolerance. The first trial is at the rate of full rings; then the interval between \
            the highest rate that passed and the lowest that failed is halved until it is narrower than --resolution; \
            a longer trial confirms the rate, or the search goes on below it. generate has no sender, so no search.

            Example: ringway bench throughput --mode macswap --packed --size imix --json
            """)

    @OptionGroup var options: BenchOptions

    @Option(help: ArgumentHelp("Length of a trial of the search.", valueName: "seconds"))
    var trial = 0.5

    @Option(help: ArgumentHelp("Length of the confirmation (default: that of --seconds).", valueName: "seconds"))
    var confirmation: Double?

    @Option(help: ArgumentHelp("Share of the frames that may be lost.", valueName: "percent"))
    var lossTolerance = 0.0

    @Option(help: ArgumentHelp("How exactly the rate is found.", valueName: "percent"))
    var resolution = 1.0

    @Flag(help: "One JSON object.")
    var json = false

    @Option(help: ArgumentHelp("Draws the trials.", valueName: "file"))
    var svg: String?

    func run() throws {
        do throws(EngineError) { try measure() } catch { fail(error.description) }
    }

    private func measure() throws(EngineError) {
        check("--trial", trial, 0.05...3600, "seconds")
        check("--loss-tolerance", lossTolerance, 0...99, "percent")
        check("--resolution", resolution, 0.01...50, "percent")
        if let confirmation { check("--confirmation", confirmation, 0.05...3600, "seconds") }
        let (setup, sizes, burst) = usage { (try options.setup(), try options.sizes(), options.burst ?? 32) }
        checkFolder(of: svg, "--svg")
        var generates = false
        if case .generate = setup.mode { generates = true }
        if generates {
            refuse(
                "--trial", "--confirmation", "--loss-tolerance", "--resolution", "--svg", "--burst",
                because: "is the sender's and its search's; --mode generate has no sender")
        }
        let bench = try Bench(setup)
        defer { bench.close() }
        if !generates { Load.prepare(bench.flows(bothWays: true), size: sizes.max() ?? 64) }
        if !json { print(options.title(setup, burst: burst)) }
        Progress.show("full rings, \(Text.number(options.seconds, 1)) s")
        _ = try options.saturate(bench, setup, seconds: 0.1, burst: burst)
        if Signals.haveCome { return }
        let full = try options.saturate(bench, setup, seconds: options.seconds, burst: burst)
        let pingPong =
            setup.driverCPU >= 0 && setup.engineCPU >= 0 && setup.driverCPU != setup.engineCPU
            ? PingPong.cycles(setup.driverCPU, setup.engineCPU) : 0
        Progress.clear()
        if !json {
            if pingPong > 0 {
                print(
                    "a cache line between the CPUs and back: \(Text.number(pingPong, 0)) cycles, "
                        + "which every figure depends on")
            }
            print("full rings: \(rate(full, sizes))\n")
        }
        var search: RateSearch?
        if !generates {
            let pace = Load.Pace(
                rate: 0, burst: burst, seconds: trial, sizes: sizes, isStamped: false, comesBack: setup.mode != .drop)
            if !json { print("trial   offered Mpps   frames offered          lost    loss %") }
            search = options.search(
                bench, pace, highest: full, resolution: resolution / 100, tolerance: lossTolerance / 100,
                confirmation: confirmation ?? options.seconds, show: show)
        }
        report(full, search, sizes, setup, burst, pingPong)
    }

    private func rate(_ packets: Double, _ sizes: [Int]) -> String {
        "\(Text.number(packets / 1e6, 3)) Mpps, \(Text.number(gbps(packets, sizes), 2)) Gbit/s"
    }

    private func gbps(_ packets: Double, _ sizes: [Int]) -> Double {
        packets * Double(sizes.reduce(0, +)) / Double(sizes.count) * 8 / 1e9
    }

    private func show(_ number: Int, _ o: RateSearch.Outcome) {
        if json { return }
        Progress.clear()
        print(
            Text.right("\(number)", 5) + Text.right(Text.number(o.trial.rate / 1e6, 4), 15)
                + Text.right("\(o.offered)", 17)
                + Text.right("\(o.offered - min(o.offered, o.arrived))", 14)
                + Text.right(Text.number(o.loss * 100, 4), 10)
                + "  \(o.passed ? "passed" : "failed")\(o.trial.isConfirmation ? " (confirmation)" : "")")
        flush()
    }

    private struct Record: Encodable {
        let trialSeconds: Double
        let resolutionPercent: Double
        let lossTolerancePercent: Double
        let pingPongCycles: Double
        let fullMpps: Double
        let fullGbps: Double
        let losslessMpps: JSON.OrNull<Double>
        let losslessGbps: JSON.OrNull<Double>
        let trials: [Trial]
    }

    private struct Trial: Encodable {
        let mpps: Double
        let offered: UInt64
        let arrived: UInt64
        let passed: Bool
        let confirmation: Bool
    }

    private func record(_ full: Double, _ search: RateSearch?, _ sizes: [Int], _ pingPong: Double) -> Record {
        let trials = (search?.outcomes ?? []).map {
            Trial(
                mpps: ($0.trial.rate / 1e6).rounded(digits: 6), offered: $0.offered, arrived: $0.arrived,
                passed: $0.passed, confirmation: $0.trial.isConfirmation)
        }
        let lossless = search?.result
        return Record(
            trialSeconds: trial.rounded(digits: 2), resolutionPercent: resolution.rounded(digits: 2),
            lossTolerancePercent: lossTolerance.rounded(digits: 4), pingPongCycles: pingPong.rounded(),
            fullMpps: (full / 1e6).rounded(digits: 6), fullGbps: gbps(full, sizes).rounded(digits: 4),
            losslessMpps: .init(lossless.map { ($0 / 1e6).rounded(digits: 6) }),
            losslessGbps: .init(lossless.map { gbps($0, sizes).rounded(digits: 4) }), trials: trials)
    }

    private func report(
        _ full: Double, _ search: RateSearch?, _ sizes: [Int], _ setup: Bench.Setup, _ burst: Int, _ pingPong: Double
    ) {
        Progress.clear()
        if json {
            printJSON(
                JSON.Joined(options.conditions(setup, burst: burst), record(full, search, sizes, pingPong)))
        } else if let search {
            let highest = (search.outcomes.last?.trial.rate ?? 0) / 1e6
            print(
                "\n"
                    + (search.result.map { "highest rate without loss: \(rate($0, sizes))" }
                        ?? "no rate passed: even \(Text.number(highest, 4)) Mpps had loss"))
        }
        if let svg, let search, !search.outcomes.isEmpty {
            var panel = Plot.Panel("trials", axis: "Mpps")
            for (i, o) in search.outcomes.enumerated() {
                let offered = o.trial.rate / 1e6
                panel.rows.append(
                    ("trial \(i + 1) \(o.passed ? "passed" : "failed")", [offered, offered * (1 - o.loss)]))
            }
            writeFile(
                svg,
                Plot.bars(
                    title: "Search of the highest rate without loss", subtitle: options.title(setup, burst: burst),
                    scale: .linear,
                    series: [
                        .init("offered", .init(hue: 0)), .init("arrived", .init(hue: 0, shade: 1)),
                    ], panels: [panel]))
        }
    }
}
