import ArgumentParser
import CPlatform
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
            Both back-ends (ringway forward --mode macswap --busyloop poll, and testpmd's net_vhost in macswap) run \
            for the whole case on the same CPU, each with an embedded driver of this process on the other; one of them \
            is stopped (SIGSTOP) while the other is measured, so that samples alternate quickly within one session. \
            Frames are counted from when they were due. No sample is discarded; what is compared are the medians of \
            the samples' percentiles. Needs DPDK's testpmd and huge pages (tools/setup tests) and two CPUs with \
            nothing else on them.

            Example: ringway bench peer-latency --rates 10k --output latency-peer
            """)

    @Option(help: "Packets a second; several with commas.")
    var rates = "10000"

    @Option(help: "split, packed; several with commas.")
    var formats = "split,packed"

    @Option(help: ArgumentHelp("Frame size in bytes without CRC.", valueName: "bytes"))
    var size = 64

    @Option(help: "Samples of each side for each case.")
    var samples = 100

    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds"))
    var seconds = 0.05

    @Option(help: ArgumentHelp("The peer's testpmd.", valueName: "path"))
    var peer = "dpdk-testpmd"

    @Flag(help: "One JSON object at the end.")
    var json = false

    @Option(
        help: ArgumentHelp("Writes PREFIX.json, PREFIX.svg and the merged distributions as .hgrm.", valueName: "prefix")
    )
    var output: String?

    private struct Side {
        var name: String
        var samples: [LatencyHistogram] = []
        /// How late the driver itself was, of the same packets.
        var lateness: [LatencyHistogram] = []
        var lost: UInt64 = 0
        func values(_ p: Double) -> [Double] { samples.map { Double($0.percentile(p)) / 1000 } }
        var merged: LatencyHistogram { samples.reduce(into: LatencyHistogram()) { $0.add($1) } }
    }

    private struct Case {
        var format: String
        var rate: Double
        var sides: [Side]
    }

    private static let shown = [50, 99, 99.9]

    func run() throws {
        let cpus = Bench.allowedCPUs
        if cpus.count < 2 { fail("two CPUs are needed, this process may use \(cpus.count)") }
        check("--samples", samples, 1...1000)
        check("--seconds", seconds, 0.05...60)
        check("--size", size, 60...1518, "bytes")
        checkFolder(of: output, "--output")
        let names = formats.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        if let odd = names.first(where: { !["split", "packed"].contains($0) }) {
            fail("--formats: '\(odd)' is not split or packed", status: 64)
        }
        let loads = usage { try LoadSyntax.rates(rates) }
        if loads.contains(where: { if case .packets = $0 { return false } else { return true } }) {
            fail("--rates \(rates): give packets a second", status: 64)
        }
        Signals.handOver()
        var cases: [Case] = []
        do {
            for format in names where !Signals.haveCome {
                Progress.show("\(format): starting Ringway and DPDK")
                cases += try apart { try measure(format, loads, (cpus[0], cpus[1])) }
            }
        } catch {
            if !(error is Interrupted) { fail("\(error)") }
        }
        Progress.clear()
        report(cases)
    }

    private func measure(_ format: String, _ loads: [LoadSyntax.Rate], _ cpus: (driver: Int, device: Int)) throws
        -> [Case]
    {
        let folder = NSTemporaryDirectory() + "ringway-peer-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        Leftovers.add(folder: folder)
        defer { Leftovers.remove(folder: folder) }
        let peers = [
            try PausedPeer(
                "DPDK", "\(folder)/dpdk.sock",
                [
                    "stdbuf", "-oL", peer, "-l", "\(cpus.driver),\(cpus.device)", "--main-lcore", "\(cpus.driver)",
                    "--in-memory", "--no-pci", "--no-telemetry", "-m", "256",
                    "--file-prefix", "peer", "--vdev", "net_vhost0,iface=\(folder)/dpdk.sock,queues=1", "--", "-i",
                    "--nb-cores=1", "--forward-mode=macswap", "--auto-start",
                    "--total-num-mbufs=16384",
                ], until: "testpmd> ", log: "\(folder)/dpdk.log"),
            try PausedPeer(
                "Ringway", "\(folder)/ringway.sock",
                [
                    Program.beside("ringway"), "forward", "--mode", "macswap", "--cpus", "\(cpus.device)", "--busyloop",
                    "poll", "--port", "vhost-user:\(folder)/ringway.sock",
                ], until: "ready\n", log: "\(folder)/ringway.log"),
        ]
        _ = CPlat_pin_to_cpu(Int32(cpus.driver))
        var options = DriverOptions()
        options.isPacked = format == "packed"
        options.node = NUMA.node(ofCPU: cpus.device)
        let drivers = try peers.map { try EmbeddedDriver(path: $0.socket, options) }
        defer { withExtendedLifetime(drivers) {} }
        let flows = drivers.map { [Load.Flow(from: $0.pairs, to: $0.pairs)] }
        for (i, peer) in peers.enumerated() {
            Load.prepare(flows[i], size: size)
            // Its first packets, and whether they come back as they were sent; a stall may lose some of them.
            var first = Load.Paced()
            for attempt in 1...5 where attempt == 1 || first.lost > 0 {
                first = Load.paced(flows[i], Load.Pace(rate: 100_000, seconds: 0.2, sizes: [size]))
                Load.settle(flows[i][0])
                if Signals.haveCome { throw Interrupted() }
                if first.wrong > 0 {
                    throw EngineError(
                        "\(peer.name), \(format): \(first.wrong) of \(first.offered) frames came back not as they "
                            + "were sent")
                }
            }
            if first.lost > 0 {
                throw EngineError(
                    "\(peer.name), \(format): \(first.lost) of \(first.offered) frames lost at 100,000 a second, five "
                        + "times; is something else running on CPUs \(cpus.driver) and \(cpus.device)?")
            }
            peer.pause()
        }
        return try loads.compactMap { load in try alternate(format, load.packets(lossless: 0), peers, flows) }
    }

    private func alternate(_ format: String, _ rate: Double, _ peers: [PausedPeer], _ flows: [[Load.Flow]]) throws
        -> Case?
    {
        var sides = peers.map { Side(name: $0.name) }
        for n in 1...samples {
            // Alternating who is first.
            for i in n % 2 == 0 ? [1, 0] : [0, 1] where !Signals.haveCome {
                Progress.show("\(format) \(Text.number(rate, 0))/s: sample \(n) of \(samples)")
                peers[i].resume()
                _ = Load.paced(flows[i], Load.Pace(rate: rate, seconds: 0.02, sizes: [size]))
                let paced = Load.paced(flows[i], Load.Pace(rate: rate, seconds: seconds, sizes: [size]))
                Load.settle(flows[i][0])
                peers[i].pause()
                // What was cut short counts for nothing.
                if Signals.haveCome { break }
                if paced.wrong > 0 {
                    throw EngineError(
                        "\(peers[i].name): \(paced.wrong) frames came back without the stamp that was sent")
                }
                sides[i].samples.append(paced.roundTrip)
                sides[i].lateness.append(paced.lateness)
                sides[i].lost += paced.lost
                if !json {
                    Progress.clear()
                    print(
                        "\(format) \(Text.number(rate, 0))/s, sample \(n)/\(samples) \(Text.left(peers[i].name, 8))"
                            + PeerLatencyCommand.shown.map {
                                " \(LatencyHistogram.name($0)) \(Text.microseconds(paced.roundTrip.percentile($0)))"
                            }.joined()
                            + " late \(Text.microseconds(paced.lateness.percentile(99)))"
                            + " max \(Text.microseconds(paced.roundTrip.maximum)) µs, lost \(paced.lost)")
                    flush()
                }
            }
        }
        return sides.contains { $0.samples.isEmpty } ? nil : Case(format: format, rate: rate, sides: sides)
    }

    private func report(_ cases: [Case]) {
        if json { print(text(cases)) } else { print("\n" + markdown(cases)) }
        guard let output, !cases.isEmpty else { return }
        writeFile(output + ".json", text(cases))
        var series: [Plot.Series] = []
        for (k, c) in cases.enumerated() {
            for (hue, s) in c.sides.enumerated() {
                let rate = cases.count > 2 ? ", \(Plot.short(c.rate))/s" : ""
                var line = Plot.Series(
                    "\(s.name), \(c.format)\(rate)",
                    s.merged.curve.map { ($0.percentile, Double($0.nanoseconds) / 1000) })
                // A side has a colour, a case a shade of it; then they are dashed.
                (line.hasMarkers, line.colour, line.isDashed) = (false, .init(hue: 1 - hue, shade: k), k / 3 % 2 == 1)
                series.append(line)
                writeFile(
                    "\(output)-\(s.name.lowercased())-\(c.format)-\(Text.number(c.rate, 0)).hgrm", s.merged.hgrm)
            }
        }
        writeFile(
            output + ".svg",
            Plot.lines(
                title: "Round trip through macswap, all samples together",
                subtitle: "\(rates) packets/s of \(size) bytes, poll; \(Machine.summary)",
                x: .init("packets that took at most this long", .percentile), y: .init("µs", .log), series: series))
    }

    private func markdown(_ cases: [Case]) -> String {
        var out =
            "| rings | packets/s | percentile | DPDK µs | (spread) | Ringway µs | (spread) | Ringway / DPDK |\n"
            + "|---|---|---|---|---|---|---|---|\n"
        for c in cases {
            for p in PeerLatencyCommand.shown {
                let (dpdk, ringway) = (c.sides[0].values(p), c.sides[1].values(p))
                func cell(_ v: [Double]) -> String {
                    "\(Text.number(BudgetReport.median(v), 2)) | "
                        + "\(Text.number(v.min() ?? 0, 2))–\(Text.number(v.max() ?? 0, 2))"
                }
                let ratio = BudgetReport.median(ringway) / max(1e-9, BudgetReport.median(dpdk))
                out +=
                    "| \(c.format) | \(Text.number(c.rate, 0)) | \(LatencyHistogram.name(p)) | \(cell(dpdk)) "
                    + "| \(cell(ringway)) | **\(Text.number(ratio, 2))** |\n"
            }
        }
        for c in cases {
            let late = c.sides.map { s in
                Text.number(BudgetReport.median(s.lateness.map { Double($0.percentile(99)) / 1000 }), 2)
            }
            out +=
                "\n\(c.format), \(Text.number(c.rate, 0))/s: the driver itself was late by \(late[0]) µs with DPDK "
                + "and \(late[1]) µs with Ringway (medians of the p99), which is part of the round trips.\n"
        }
        return out
            + "\nMedians of \(samples) alternating samples of \(Text.number(seconds, 2)) s a side; none discarded. "
            + "\(Machine.summary).\n"
    }

    private struct Record: Encodable {
        struct Load: Encodable {
            let rings: String
            let rate: Double
        }

        struct Side: Encodable {
            let lost: UInt64
            let samples: [LatencyHistogram]
            let driverLate: [LatencyHistogram]
            let merged: LatencyHistogram
        }

        let machine = Machine.summary
        let interrupted = Signals.haveCome
        let size: Int
        let sampleSeconds: Double
        let unit = "ns"
        /// Sides by name.
        let cases: [JSON.Joined<Load, [String: Side]>]
    }

    private func text(_ cases: [Case]) -> String {
        let all = cases.map { c in
            let sides = c.sides.map {
                (
                    $0.name.lowercased(),
                    Record.Side(lost: $0.lost, samples: $0.samples, driverLate: $0.lateness, merged: $0.merged)
                )
            }
            return JSON.Joined(
                Record.Load(rings: c.format, rate: c.rate.rounded()), Dictionary(uniqueKeysWithValues: sides))
        }
        return JSON.text(Record(size: size, sampleSeconds: seconds.rounded(digits: 2), cases: all))
    }
}

/// A back-end in a process of its own that can be stopped while another is measured; ended with the object.
private final class PausedPeer {
    let name: String
    let socket: String
    private let child: Child

    /// Returns when it has printed `text`.
    init(_ name: String, _ socket: String, _ arguments: [String], until text: String, log: String) throws {
        (self.name, self.socket) = (name, socket)
        child = try Child(arguments, log: log)
        do { try child.say(nil, until: text) } catch {
            if error is Interrupted { throw error }
            throw EngineError("\(name) did not start: \(Child.summary(child.output))")
        }
    }

    func pause() { child.pause() }

    /// Returns when it has had time to run again.
    func resume() {
        child.resume()
        usleep(5_000)
    }
}
