import ArgumentParser
import CPlatform
import Foundation
import Ringway
import Telemetry

/// Measurements with embedded drivers on real sockets and real rings.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure throughput or latency with embedded virtio drivers.",
        subcommands: [ThroughputCommand.self, LatencyCommand.self])
}

/// What both measurements have in common.
struct BenchOptions: ParsableArguments {
    @Option(help: "crossconnect (from one driver to another), macswap (round trip), drop or generate.")
    var mode = "crossconnect"

    @Flag(help: "Packed rings.")
    var packed = false

    @Flag(help: "IN_ORDER.")
    var inOrder = false

    @Option(help: ArgumentHelp("Frame size without CRC.", valueName: "bytes"))
    var size = 64

    @Option(help: "Frames of a driver's burst, 1 to 64.")
    var burst = 32

    @Option(help: ArgumentHelp("Descriptors of each ring.", valueName: "entries"))
    var ringSize: UInt32 = 1024

    @Option(help: ArgumentHelp("The engine's budget: poll, 0, microseconds, auto.", valueName: "budget"))
    var busyloop = "poll"

    @Option(help: ArgumentHelp("Length of each measurement.", valueName: "seconds"))
    var seconds = 2.0

    @Option(help: ArgumentHelp("Somebody else's vhost-user back-end, which sends packets back, instead of an engine of our own.", valueName: "path"))
    var socket: String?

    func setup() throws(EngineError) -> Bench.Setup {
        guard (60...9216).contains(size) else { throw EngineError("--size \(size): give 60 to 9216 bytes") }
        guard (1...DriverPair.burst).contains(burst) else { throw EngineError("--burst \(burst): give 1 to \(DriverPair.burst)") }
        guard seconds >= 0.1, seconds <= 3600 else { throw EngineError("--seconds \(seconds): give 0.1 to 3600") }
        guard RingLayout.isValid(size: ringSize, isPacked: packed) else { throw EngineError("--ring-size \(ringSize): 2 to 32768, a power of two for split rings") }
        var s = Bench.Setup()
        switch mode {
        case "crossconnect": s.mode = .crossconnect
        case "macswap": s.mode = .macswap
        case "drop": s.mode = .drop
        case "generate": s.mode = .generate(size: size)
        default: throw EngineError("--mode \(mode): write crossconnect, macswap, drop or generate")
        }
        s.socket = socket
        if socket != nil { s.mode = .macswap }
        s.driver.isPacked = packed
        s.driver.isInOrder = inOrder
        s.driver.ringSize = ringSize
        s.driver.frameRoom = max(2048, size)
        s.busyloop = try PortSyntax.busyloop(busyloop)
        Bench.choosePlaces(&s)
        return s
    }

    var length: UInt64 { UInt64(seconds * 1e9) }
    var title: String { "\(socket ?? mode), \(packed ? "packed" : "split")\(inOrder ? " in-order" : ""), \(size) bytes, busyloop \(busyloop)" }
}

/// As many packets as go, and the highest rate without loss.
struct ThroughputCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "throughput",
        abstract: "The rate of full rings, and the highest rate without loss (found by bisection, as RFC 2544 does).",
        discussion: "Example: ringway bench throughput --mode macswap --packed --size 1518")

    @OptionGroup var options: BenchOptions
    @Flag(help: "One JSON object.") var json = false

    func run() throws {
        do throws(EngineError) {
            let setup = try options.setup()
            let bench = try Bench(setup)
            defer { bench.close() }
            let flows = bench.flows
            if !isGenerate(setup) { Load.prepare(flows, size: options.size) }
            var counts = [Load.Count](repeating: .init(), count: flows.count)
            Load.saturate(flows, size: options.size, burst: options.burst, until: CPlat_monotonic_ns() + options.length, counts: &counts, sends: !isGenerate(setup))
            let full = counts.reduce(0.0) { $0 + (setup.mode == .drop ? Double($1.sent) * 1000 / Double(max(1, $1.nanoseconds)) : $1.mpps) }
            for flow in flows { Load.settle(flow) }
            let lossless = setup.mode == .drop || isGenerate(setup) ? nil : search(flows[0], upTo: full * 1e6)
            show(full, lossless)
        } catch {
            fail(error.description)
        }
    }

    private func isGenerate(_ s: Bench.Setup) -> Bool { if case .generate = s.mode { return true } else { return false } }

    /// Packets a second on the first flow.
    private func search(_ flow: Load.Flow, upTo: Double) -> Double {
        var (low, high) = (0.0, upTo)
        for _ in 0..<8 {
            let rate = (low + high) / 2
            var histogram = LatencyHistogram()
            let count = Load.paced(flow, size: options.size, rate: rate, until: CPlat_monotonic_ns() + options.length / 4, into: &histogram)
            // Without loss, and as many as were wanted.
            let reached = Double(count.sent) >= rate * Double(options.length / 4) / 1e9 * 0.99
            if count.received >= count.sent && reached { low = rate } else { high = rate }
            Load.settle(flow)
            if !json { print("  tried \(Report.number(rate / 1e6, 3)) Mpps: \(count.received >= count.sent && reached ? "no loss" : "lost or late \(count.sent - min(count.sent, count.received))")") }
        }
        return low
    }

    private func show(_ full: Double, _ lossless: Double?) {
        let gbps = full * Double(options.size) * 8 / 1000
        if json {
            print("{\"mode\":\"\(options.mode)\",\"packed\":\(options.packed),\"in_order\":\(options.inOrder),\"size\":\(options.size),\"mpps\":\(Report.number(full, 4)),"
                + "\"gbps\":\(Report.number(gbps, 4)),\"lossless_mpps\":\(lossless.map { Report.number($0 / 1e6, 4) } ?? "null")}")
            return
        }
        print("\(options.title)\n  full rings        \(Report.number(full, 2)) Mpps, \(Report.number(gbps, 2)) Gbit/s (all flows)")
        if let lossless { print("  without loss      \(Report.number(lossless / 1e6, 3)) Mpps one way") }
    }
}

/// Latency at given loads.
struct LatencyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "latency",
        abstract: "Latency at given loads, to 99.999 %, counted from when each packet was due.",
        discussion: """
            crossconnect: one way, from the sender's ring to the receiver. macswap, and --socket: the round trip.
            A stall counts for every packet that it delays (no coordinated omission).
            Example: ringway bench latency --rates 10000,100000,1000000 --svg latency.svg
            """)

    @OptionGroup var options: BenchOptions
    @Option(help: "Packets a second; several with commas.") var rates = "10000,100000,1000000"
    @Flag(help: "One JSON object a line.") var json = false
    @Option(help: ArgumentHelp("Writes each rate's distribution to PREFIX-RATE.hgrm.", valueName: "prefix")) var hgrm: String?
    @Option(help: ArgumentHelp("Draws the percentiles.", valueName: "file")) var svg: String?

    static let percentiles = [50, 90, 99, 99.9, 99.99, 99.999]

    func run() throws {
        var lines: [(name: String, points: [(Double, Double)])] = []
        do throws(EngineError) {
            let setup = try options.setup()
            if setup.mode == .drop { throw EngineError("--mode drop: nothing comes back; use crossconnect or macswap") }
            if case .generate = setup.mode { throw EngineError("--mode generate: it has no sender; use crossconnect or macswap") }
            let wanted = rates.split(separator: ",").map { Double($0) }
            guard !wanted.isEmpty, !wanted.contains(where: { $0 == nil || $0! < 1 || $0! > 1e8 }) else { throw EngineError("--rates \(rates): packets a second, as in 10000,100000") }
            let bench = try Bench(setup)
            defer { bench.close() }
            Load.prepare(bench.flows, size: options.size)
            if !json { print("\(options.title); µs\n" + Text.right("packets/s", 11) + LatencyCommand.percentiles.map { Text.right("p\(Report.number($0, $0 == $0.rounded() ? 0 : $0 < 99.95 ? 1 : $0 < 99.995 ? 2 : 3))", 10) }.joined() + Text.right("max", 10) + Text.right("lost", 8)) }
            for rate in wanted.compactMap({ $0 }) {
                var histogram = LatencyHistogram()
                // The first moments, when caches and budgets are cold, are not counted.
                var cold = LatencyHistogram()
                _ = Load.paced(bench.flows[0], size: options.size, rate: rate, until: CPlat_monotonic_ns() + 100_000_000, into: &cold)
                let count = Load.paced(bench.flows[0], size: options.size, rate: rate, until: CPlat_monotonic_ns() + options.length, into: &histogram)
                show(rate, histogram, count)
                lines.append(("\(Report.number(rate, 0))/s", LatencyCommand.percentiles.map { (1 / (1 - $0 / 100), Double(histogram.percentile($0)) / 1000) }))
                if let hgrm { try? histogram.hgrm.write(toFile: "\(hgrm)-\(Report.number(rate, 0)).hgrm", atomically: true, encoding: .utf8) }
            }
        } catch {
            fail(error.description)
        }
        if let svg {
            let plot = Plot.lines(title: "Latency: \(options.title)", x: "1 / (1 - percentile): 10 is p90, 100 is p99 …", y: "µs", series: lines)
            do { try plot.write(toFile: svg, atomically: true, encoding: .utf8) } catch { fail("\(svg): \(error.localizedDescription)") }
        }
    }

    private func show(_ rate: Double, _ h: LatencyHistogram, _ count: Load.Count) {
        let lost = count.sent - min(count.sent, count.received)
        if json {
            let all = LatencyCommand.percentiles.map { "\"p\($0)\":\(h.percentile($0))" }.joined(separator: ",")
            print("{\"rate\":\(Report.number(rate, 0)),\"sent\":\(count.sent),\"received\":\(count.received),\"nanoseconds\":{\(all),\"max\":\(h.maximum)}}")
        } else {
            print(Text.right(Report.number(rate, 0), 11) + LatencyCommand.percentiles.map { Text.right(Text.microseconds(h.percentile($0)), 10) }.joined()
                + Text.right(Text.microseconds(h.maximum), 10) + Text.right("\(lost)", 8))
        }
        fflush(nil)
    }
}
