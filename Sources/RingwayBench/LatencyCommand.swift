import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// Latency at given loads.
struct LatencyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "latency",
        abstract: "Latency at given loads, to 99.999 %, counted from when each packet was due.",
        discussion: """
            round trip: from when a frame was due until the driver received it: back from the engine (macswap, \
            --socket), or at the other driver (crossconnect, switch). ring sojourn: from when it was due until the \
            engine took it from the transmit ring (one way); all that drop has. Frames are offered at the rate \
            whatever comes back, and each is counted from when it was due, not from when it could be sent: a stall \
            counts for every packet that it delays, so there is no coordinated omission. Round trips are kept to three \
            digits, sojourns to 3 %. Loads in percent are of the highest rate without loss, which is searched for \
            first (as bench throughput does).

            Example: ringway bench latency --mode macswap --rates 10k,10%,50%,90% --svg latency.svg --hgrm latency
            """)

    @OptionGroup var options: BenchOptions

    @Option(
        help: "Packets a second (10000, 10k, 1.5M) or percent of the highest rate without loss; several with commas.")
    var rates = "10000,100000,1000000"

    @Flag(help: "One JSON object; times in nanoseconds.")
    var json = false

    @Option(
        help: ArgumentHelp(
            """
            Writes the distributions, in microseconds, to PREFIX-LOAD-round-trip.hgrm and \
            PREFIX-LOAD-ring-sojourn.hgrm.
            """,
            valueName: "prefix"))
    var hgrm: String?

    @Option(help: ArgumentHelp("Draws the distributions.", valueName: "file"))
    var svg: String?

    private struct Result {
        var name: String
        var rate: Double
        var paced: Load.Paced
        var sojourn: LatencyHistogram

        var record: Record.Load {
            Record.Load(
                load: name, rate: rate.rounded(), offered: paced.offered, sent: paced.sent, arrived: paced.arrived,
                lost: paced.lost, roundTrip: paced.roundTrip, ringSojourn: sojourn)
        }
    }

    private struct Record: Encodable {
        struct Load: Encodable {
            let load: String
            let rate: Double
            let offered: UInt64
            let sent: UInt64
            let arrived: UInt64
            let lost: UInt64
            let roundTrip: LatencyHistogram
            let ringSojourn: LatencyHistogram
        }

        let losslessMpps: JSON.OrNull<Double>
        let results: [Load]
    }

    func run() throws {
        do throws(EngineError) { try measure() } catch { fail(error.description) }
    }

    private func measure() throws(EngineError) {
        let (setup, sizes, burst, loads) = usage {
            (try options.setup(), try options.sizes(), options.burst ?? 1, try LoadSyntax.rates(rates))
        }
        if case .generate = setup.mode {
            fail("--mode generate: it has no sender; use crossconnect, switch, macswap or drop", status: 64)
        }
        checkFolder(of: svg, "--svg")
        checkFolder(of: hgrm, "--hgrm")
        let bench = try Bench(setup)
        defer { bench.close() }
        Load.prepare(bench.flows(bothWays: true), size: sizes.max() ?? 64)
        if !json { print(options.title(setup, burst: burst)) }
        let pace = Load.Pace(
            rate: 0, burst: burst, seconds: options.seconds, sizes: sizes, comesBack: setup.mode != .drop)
        let lossless = try findLossless(loads, bench, setup, pace)
        if !json { print(LatencyCommand.header) }
        var results: [Result] = []
        for (n, load) in loads.enumerated() where !Signals.haveCome {
            Progress.show("load \(n + 1) of \(loads.count), \(Text.number(options.seconds, 1)) s")
            guard let result = one(load, lossless, bench, pace) else { break }
            if result.paced.arrived == 0 { throw options.nothingCame(back: result.paced.sent) }
            results.append(result)
            Progress.clear()
            if !json { show(result, hasSojourn: options.socket == nil) }
            if result.paced.wrong > 0 {
                throw EngineError(
                    "\(result.paced.wrong) of \(result.paced.arrived) frames came back without the stamp that was sent")
            }
        }
        if json {
            let record = Record(
                losslessMpps: .init(lossless.map { ($0 / 1e6).rounded(digits: 6) }), results: results.map(\.record))
            printJSON(JSON.Joined(options.conditions(setup, burst: burst), record))
        }
        if !results.isEmpty { write(results, options.title(setup, burst: burst)) }
    }

    /// Where loads are shares of it.
    private func findLossless(_ loads: [LoadSyntax.Rate], _ bench: Bench, _ setup: Bench.Setup, _ pace: Load.Pace)
        throws(EngineError) -> Double?
    {
        guard loads.contains(where: { if case .share = $0 { return true } else { return false } }) else { return nil }
        var pace = pace
        (pace.isStamped, pace.seconds) = (false, 0.3)
        let full = try options.saturate(bench, setup, seconds: 0.5, burst: max(pace.burst, 32))
        let search = options.search(bench, pace, highest: full, resolution: 0.02, tolerance: 0, confirmation: 1) {
            _, _ in
        }
        Progress.clear()
        guard let found = search.result else {
            if Signals.haveCome { return nil }
            throw EngineError(
                "--rates \(rates): no rate passed without loss, so there is none to take percent of; "
                    + "give packets a second")
        }
        if !json {
            print("highest rate without loss: \(Text.number(found / 1e6, 3)) Mpps (\(search.outcomes.count) trials)")
        }
        return found
    }

    /// Nil where a signal came before there was anything.
    private func one(_ load: LoadSyntax.Rate, _ lossless: Double?, _ bench: Bench, _ pace: Load.Pace) -> Result? {
        var pace = pace
        pace.rate = load.packets(lossless: lossless ?? 0)
        let flows = bench.flows(bothWays: options.bothWays)
        // The first moments, when caches and budgets are cold, are not counted.
        var cold = pace
        cold.seconds = max(0.1, min(1, 300 / pace.rate))
        _ = Load.paced(flows, cold)
        for flow in flows { Load.settle(flow) }
        if Signals.haveCome { return nil }
        let before = bench.sojourn
        let paced = Load.paced(flows, pace)
        for flow in flows { Load.settle(flow) }
        if Signals.haveCome && paced.arrived == 0 { return nil }
        let sojourn = bench.sojourn.since(before).latencies(ticksPerMicrosecond: TickClock.shared.ticksPerMicrosecond)
        var name = "\(Text.number(pace.rate, 0))"
        if case .share(let s) = load { name = "\(Text.number(s * 100, 0))pct" }
        return Result(name: name, rate: pace.rate, paced: paced, sojourn: sojourn)
    }

    private static let header =
        Text.right("packets/s", 11) + "  " + Text.left("µs", 13)
        + LatencyHistogram.reported.map { Text.right(LatencyHistogram.name($0), 10) }.joined()
        + Text.right("max", 11) + Text.right("lost", 10)

    private func show(_ r: Result, hasSojourn: Bool) {
        func line(_ first: String, _ name: String, _ h: LatencyHistogram, _ last: String) {
            print(
                Text.right(first, 11) + "  " + Text.left(name, 13)
                    + LatencyHistogram.reported.map { Text.right(Text.microseconds(h.percentile($0)), 10) }.joined()
                    + Text.right(Text.microseconds(h.maximum), 11) + Text.right(last, 10))
        }
        let rate = Text.number(r.rate, 0)
        if r.paced.roundTrip.count > 0 { line(rate, "round trip", r.paced.roundTrip, "\(r.paced.lost)") }
        if hasSojourn {
            line(
                r.paced.roundTrip.count > 0 ? "" : rate, "ring sojourn", r.sojourn,
                r.paced.roundTrip.count > 0 ? "" : "\(r.paced.lost)")
        }
        flush()
    }

    private func write(_ results: [Result], _ title: String) {
        if let hgrm {
            for r in results {
                if r.paced.roundTrip.count > 0 {
                    writeFile("\(hgrm)-\(r.name)-round-trip.hgrm", r.paced.roundTrip.hgrm)
                }
                if r.sojourn.count > 0 { writeFile("\(hgrm)-\(r.name)-ring-sojourn.hgrm", r.sojourn.hgrm) }
            }
        }
        guard let svg else { return }
        var series: [Plot.Series] = []
        for (name, dashed, histogram) in [
            ("", false, \Result.paced.roundTrip), (" ring sojourn", true, \Result.sojourn),
        ] {
            for (k, r) in results.enumerated() where r[keyPath: histogram].count > 0 {
                var s = Plot.Series(
                    "\(Plot.short(r.rate))/s\(name)",
                    r[keyPath: histogram].curve.map { ($0.percentile, Double($0.nanoseconds) / 1000) })
                (s.isDashed, s.hasMarkers, s.colour) = (dashed, false, .init(hue: k))
                series.append(s)
            }
        }
        writeFile(
            svg,
            Plot.lines(
                title: "Latency from when each packet was due", subtitle: title,
                x: .init("packets that took at most this long", .percentile), y: .init("µs", .log), series: series))
    }
}
