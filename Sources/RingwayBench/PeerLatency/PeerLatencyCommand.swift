import ArgumentParser
import Console
import Foundation
import Ringway
import RingwayLab

/// The round trip through Ringway beside that through DPDK's vhost PMD.
struct PeerLatencyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "peer-latency",
        abstract: "Round trips through Ringway and DPDK's vhost PMD, alternately, from the same driver.",
        discussion: """
            All back-ends (ringway forward --busyloop poll, and testpmd's net_vhost) run for the whole case on the \
            same CPU, each with an embedded driver of this process on the other; all but the one that is measured \
            are stopped (SIGSTOP), so that samples alternate quickly within one session. Frames are counted from when \
            they were due. No sample is discarded; what is compared are the medians of the samples' percentiles. A \
            sample is marked (*) where a CPU was taken away for more than 0.2 ms, which the kernel's clock of each \
            thread tells; all samples together are shown with and without the marked ones. Needs DPDK's testpmd and \
            huge pages (tools/setup tests) and two CPUs with nothing else on them.

            --sweep goes from --rates upwards by --step until every side loses more than 0.1 % of the frames (in half \
            of the samples): latency against load, and where each side begins to lose. It takes less than ten minutes \
            for split and packed rings.

            Examples:
              ringway bench peer-latency --rates 10k --output latency-peer
              ringway bench peer-latency --sweep --output sweep
              ringway bench peer-latency --sweep --burst 32 --formats packed --peer OTHER-BUILD
            """)

    @Option(help: "Packets a second; several with commas. With --sweep: the lowest.")
    var rates = "10000"

    @Flag(help: "Latency against load, up to where every side loses frames.")
    var sweep = false

    @Option(help: "--sweep: each rate is so many times the one before, 1.05 to 10.")
    var step = 1.35

    @Option(help: "split, split-in-order, packed, packed-in-order; several with commas.")
    var formats = "split,packed"

    @Option(help: "macswap (back to the sender) or crossconnect (from one driver to another).")
    var mode = "macswap"

    @Option(help: ArgumentHelp("Frame size in bytes without CRC.", valueName: "bytes"))
    var size = 64

    @Option(help: "Frames that are due at the same moment, 1 to 64.")
    var burst = 1

    @Option(help: ArgumentHelp("Queue pairs, used in turn; one thread serves them all.", valueName: "pairs"))
    var queues = 1

    @Option(help: "Samples of each side for each case (default: 100; with --sweep 80 over all sides).")
    var samples: Int?

    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds"))
    var seconds = 0.05

    @Option(help: ArgumentHelp("Ringway's --pacing: auto, throughput, latency.", valueName: "goal"))
    var pacing: String?

    @Option(help: ArgumentHelp("The peer's testpmd, or another build of ringway; may be repeated.", valueName: "path"))
    var peer: [String] = ["dpdk-testpmd"]

    @Flag(help: "One JSON object at the end.")
    var json = false

    @Option(
        help: ArgumentHelp(
            "Writes PREFIX.md, PREFIX.json and plots: PREFIX.svg, with --sweep PREFIX-FORMAT.svg; without it the "
                + "distributions as .hgrm, too.", valueName: "prefix"))
    var output: String?

    func run() throws {
        let cpus = Bench.allowedCPUs
        if cpus.count < 2 { fail("two CPUs are needed, this process may use \(cpus.count)") }
        if let samples { check("--samples", samples, 1...1000) }
        check("--seconds", seconds, 0.05...60)
        check("--size", size, 60...1518, "bytes")
        check("--burst", burst, 1...DriverPair.burst)
        check("--queues", queues, 1...8)
        check("--step", step, 1.05...10)
        if !sweep { refuse("--step", because: "belongs to --sweep") }
        checkFolder(of: output, "--output")
        if let pacing { _ = usage { try PortSyntax.pacing(pacing) } }
        if !["macswap", "crossconnect"].contains(mode) {
            fail("--mode \(mode): write macswap or crossconnect", status: 64)
        }
        let cases = usage {
            try CompareCase.all(
                modes: mode, formats: formats, sizes: "64", queues: "\(queues)", bursts: "\(burst)")
        }.map { known in
            var known = known
            known.size = size
            return known
        }
        let loads = loads()
        let others = peer.map { DeviceSide.peer($0).name }.joined(separator: " and ")
        Signals.handOver()
        var report = PeerLatencyReport(
            size: size, burst: burst, queues: queues, mode: mode, seconds: seconds, isSweep: sweep)
        do {
            for c in cases where !Signals.haveCome {
                Progress.show("\(c.format): starting Ringway and \(others)")
                report.cases += try apart { try measure(c, loads, (cpus[0], cpus[1])) }
            }
        } catch {
            if !(error is Interrupted) { fail("\(error)") }
        }
        Progress.clear()
        if json { print(report.text) } else { print("\n" + report.markdown) }
        if let output, !report.cases.isEmpty { report.write(to: output) }
    }

    /// Packets a second.
    private func loads() -> [Double] {
        let known = usage { try LoadSyntax.rates(rates) }
        if known.contains(where: { if case .packets = $0 { return false } else { return true } }) {
            fail("--rates \(rates): give packets a second", status: 64)
        }
        let given = known.map { $0.packets(lossless: 0) }
        if !sweep { return given }
        if given.count > 1 { fail("--rates \(rates): give one with --sweep, the lowest", status: 64) }
        // Until every side loses; the last is beyond what any of them can do.
        return Array(sequence(first: given[0]) { $0 * step < 2e8 ? $0 * step : nil })
    }

    private var wanted: Int { samples ?? (sweep ? max(1, 80 / (peer.count + 1)) : 100) }

    /// The case's loads, as far as no signal came.
    private func measure(_ c: CompareCase, _ loads: [Double], _ cpus: (driver: Int, device: Int)) throws
        -> [PeerLatencyReport.Case]
    {
        let folder = NSTemporaryDirectory() + "ringway-peer-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        Leftovers.add(folder: folder)
        defer { Leftovers.remove(folder: folder) }
        let kinds =
            [("Ringway", DeviceSide.Kind.ringway(Program.beside("ringway"), pacing: pacing))]
            + peer.map(DeviceSide.peer)
        let session = try PeerLatencySession(c, kinds, cpus: cpus, folder: folder)
        defer { session.end() }
        var cases: [PeerLatencyReport.Case] = []
        for rate in loads {
            guard let load = try measure(c, rate, session) else { break }
            cases.append(load)
            if sweep && load.sides.allSatisfy(\.loses) { break }
        }
        return cases
    }

    private func measure(_ c: CompareCase, _ rate: Double, _ session: PeerLatencySession) throws
        -> PeerLatencyReport.Case?
    {
        let sides = try session.sample(wanted, rate: rate, seconds: seconds) { n in
            Progress.show("\(c.format) \(Text.number(rate, 0))/s: sample \(n) of \(wanted)")
        } took: { n, name, sample in
            if !json && !sweep { show(c, rate, n, name, sample) }
        }
        guard let sides else { return nil }
        if !json && sweep {
            Progress.clear()
            print("\(c.format) \(Text.right(Text.number(rate, 0), 9))/s  " + sides.map(\.line).joined(separator: "   "))
            flush()
        }
        return PeerLatencyReport.Case(rings: c.format, rate: rate, sides: sides)
    }

    private func show(_ c: CompareCase, _ rate: Double, _ n: Int, _ name: String, _ s: LatencySample) {
        Progress.clear()
        print(
            "\(c.format) \(Text.number(rate, 0))/s, sample \(n)/\(wanted) \(Text.left(name, 8))"
                + " p50 \(Text.microseconds(s.p50)) p99 \(Text.microseconds(s.p99)) p99.9 \(Text.microseconds(s.p999))"
                + " late \(Text.microseconds(s.driverLate)) max \(Text.microseconds(s.max)) µs, lost \(s.lost)"
                + (s.isMarked ? " *" : ""))
        flush()
    }
}
