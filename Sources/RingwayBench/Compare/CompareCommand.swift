import ArgumentParser
import Console
import Foundation
import Ringway
import RingwayLab

/// Ringway and its peers side by side.
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "Measure Ringway and DPDK's vhost PMD alternately, as back-ends of the same DPDK virtio-user driver.",
        discussion: """
            Needs DPDK's testpmd and huge pages (tools/compare sets them up) and two CPUs with nothing else on them: \
            the driver runs on the first, the device side on the second. All sides are started at once and have ports \
            of the same driver process; all but the one that is measured are stopped (SIGSTOP). No sample is \
            discarded; each is printed with the cycles that a cache line takes between the CPUs and back, which every \
            figure depends on. Packets are those that the driver counted; cycles a packet those of the device side's \
            busy rounds. Before a case is measured an embedded driver checks the payloads of each side.

            --from FILE.json measures nothing: it writes the table and the plot of a saved report again, beside it \
            or to --output's prefix. What stands above the table there is kept.
            """)

    @Option(help: "drop, generate, macswap, crossconnect; several with commas.")
    var modes = "drop,generate,macswap,crossconnect"

    @Option(help: "split, split-in-order, packed, packed-in-order; several with commas.")
    var formats = "split,packed,packed-in-order"

    @Option(help: "Frame sizes in bytes, or imix (64, 570 and 1518 as 7:4:1); several with commas.")
    var sizes = "64,256,1518,imix"

    @Option(help: "Queue pairs of a port; several with commas.")
    var queues = "1"

    @Option(help: "Frames of the driver's burst, 1 to 512; several with commas.")
    var bursts = "32"

    @Option(help: "Samples of each side for each case.")
    var samples = 8

    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds"))
    var seconds = 0.4

    @Option(help: ArgumentHelp("Another build of testpmd as the peer, or of ringway.", valueName: "path"))
    var peer = "dpdk-testpmd"

    @Option(
        help: ArgumentHelp(
            "Open vSwitch with DPDK as a second peer of crossconnect: the script tools/testbed/ovs.", valueName: "path")
    )
    var ovs: String?

    @Option(help: ArgumentHelp("Writes PREFIX.md, PREFIX.json and PREFIX.svg.", valueName: "prefix"))
    var output: String?

    @Option(help: ArgumentHelp("Table and plot of a saved report, PREFIX.json, without measuring.", valueName: "file"))
    var from: String?

    func run() throws {
        if let from { return redraw(from) }
        let cpus = Bench.allowedCPUs
        guard cpus.count >= 2 else { fail("two CPUs are needed, this process may use \(cpus.count)") }
        check("--samples", samples, 1...100)
        check("--seconds", seconds, 0.1...60)
        checkFolder(of: output, "--output")
        let all = usage {
            try CompareCase.all(modes: modes, formats: formats, sizes: sizes, queues: queues, bursts: bursts)
        }
        if all.isEmpty {
            fail("--sizes \(sizes): generate sends frames of one size; nothing is left to compare", status: 64)
        }
        if !all.contains(where: { $0.mode == "crossconnect" }) {
            refuse("--ovs", because: "takes part in crossconnect only, which is not among the modes")
        }
        Signals.handOver()
        let folder = NSTemporaryDirectory() + "ringway-compare-\(getpid())"
        Leftovers.add(folder: folder)
        defer { Leftovers.remove(folder: folder) }
        var report = CompareReport(machine: Machine.summary, peer: peer, seconds: seconds, cases: [])
        do {
            for (i, c) in all.enumerated() where !Signals.haveCome {
                Progress.show("\(i + 1)/\(all.count) \(c.name): starting all sides")
                if let result = try measure(c, (cpus[0], cpus[1]), folder, "\(i + 1)/\(all.count)") {
                    report.cases.append(result)
                }
                report.interrupted = Signals.haveCome
                if let output, !report.cases.isEmpty {
                    writeFile(output + ".json", report.text)
                    CompareCommand.write(report, to: output)
                }
            }
        } catch {
            fail("\(error)")
        }
        print("\n" + report.markdown)
    }

    private func redraw(_ file: String) {
        refuse(
            "--modes", "--formats", "--sizes", "--queues", "--bursts", "--samples", "--seconds", "--peer", "--ovs",
            because: "--from measures nothing; give only --output with it")
        checkFolder(of: output, "--output")
        do {
            let report = try CompareReport.read(file)
            let prefix = output ?? (file.hasSuffix(".json") ? String(file.dropLast(5)) : file)
            let old = (try? String(contentsOfFile: prefix + ".md", encoding: .utf8)) ?? ""
            let head = old.range(of: CompareReport.tableStart).map { old[..<$0.lowerBound] } ?? ""
            CompareCommand.write(report, to: prefix, head: String(head))
            print(report.markdown)
        } catch {
            fail("\(error)")
        }
    }

    private static func write(_ report: CompareReport, to prefix: String, head: String = "") {
        writeFile(prefix + ".md", head + report.markdown)
        writeFile(prefix + ".svg", report.svg)
    }

    private func sides(_ c: CompareCase) -> [(name: String, kind: DeviceSide.Kind)] {
        var all: [(String, DeviceSide.Kind)] = [("Ringway", .ringway(Program.beside("ringway")))]
        all.append(DeviceSide.peer(peer))
        if let ovs, c.mode == "crossconnect" { all.append(("OVS", .ovs(ovs))) }
        return all
    }

    /// Samples until a signal comes; nil where it came before every side had one.
    private func measure(_ c: CompareCase, _ cpus: (driver: Int, device: Int), _ folder: String, _ place: String) throws
        -> CompareReport.Case?
    {
        let kinds = sides(c)
        var all: [[Sample]] = kinds.map { _ in [] }
        do {
            let session = try CompareSession(c, kinds, testpmd: "dpdk-testpmd", cpus: cpus, folder: folder)
            for i in 1...samples {
                // Alternating who is first.
                for k in i % 2 == 0 ? Array(kinds.indices) : kinds.indices.reversed() {
                    let s = try session.sample(k, seconds: seconds)
                    all[k].append(s)
                    Progress.clear()
                    print(
                        "\(place) \(c.name), sample \(i)/\(samples) \(Text.left(kinds[k].name, 8)) "
                            + "\(Text.number(s.mpps, 2)) Mpps, \(Text.number(s.cyclesPerPacket, 0)) cycles/packet, "
                            + "ping-pong \(Text.number(s.pingPongCycles, 0)) cycles")
                    flush()
                }
            }
            session.end()
        } catch is Interrupted {
            // Ratios are of neighbours: as many of each side.
            let complete = all.map(\.count).min() ?? 0
            if complete == 0 { return nil }
            all = all.map { Array($0.prefix(complete)) }
        }
        var result = CompareReport.Case(
            c, names: kinds.map(\.name), samples: all,
            ticksPerSecond: Double(TickClock.shared.ticksPerMicrosecond) * 1e6)
        let texts = result.sides.enumerated().map { k, s in
            "\(s.name) \(Text.number(s.medianMpps, 2)) Mpps, \(Text.number(s.cyclesPerPacket, 0)) cycles"
                + (k == 0
                    ? ""
                    : " (ratio \(Text.number(s.ratio, 2)), of cycles \(Text.number(s.cycleRatio, 2)))")
        }
        print("    median: " + texts.joined(separator: "; "))
        if c.returns && c.size != nil && !Signals.haveCome {
            do { try addLatency(to: &result, c, kinds, cpus, folder) } catch is Interrupted {}
        }
        return result
    }

    /// Round trips at half of the load that the slower side reached; not of Open vSwitch, whose worker is not ours to
    /// stop exactly.
    private func addLatency(
        to result: inout CompareReport.Case, _ c: CompareCase, _ kinds: [(name: String, kind: DeviceSide.Kind)],
        _ cpus: (driver: Int, device: Int), _ folder: String
    ) throws {
        let known = kinds.filter { if case .ovs = $0.kind { return false } else { return true } }
        let rate = (result.sides.prefix(known.count).map(\.medianMpps).min() ?? 0) * 1e6 / 2
        if rate < 1 { return }
        let count = samples
        let taken = try apart {
            let session = try PeerLatencySession(c, known, cpus: cpus, folder: folder + "/latency")
            defer { session.end() }
            guard let taken = try session.sample(2 * count, rate: rate, seconds: 0.05) else { throw Interrupted() }
            return taken
        }
        for (k, side) in taken.enumerated() {
            result.sides[k].latency = .init(
                mpps: rate / 1e6, p50Microseconds: side.median(\.p50), p99Microseconds: side.median(\.p99))
        }
        let texts = known.indices.map { "\(known[$0].name) \(result.sides[$0].latency?.text ?? "")" }
        print("    p50, p99 in µs at \(Text.number(rate / 1e6, 2)) Mpps: " + texts.joined(separator: "; "))
        flush()
    }
}
