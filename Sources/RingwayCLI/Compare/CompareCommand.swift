import ArgumentParser
import Foundation
import Ringway

/// Ringway and its peers side by side.
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "Measure Ringway and DPDK's vhost PMD alternately, as back-ends of the same DPDK virtio-user driver.",
        discussion: """
            Needs DPDK's testpmd and huge pages (tools/compare sets them up) and two CPUs with nothing else on them: the driver \
            runs on the first, the device side on the second. All sides are started at once and have ports of the same \
            driver process; all but the one that is measured are stopped (SIGSTOP). No sample is discarded; each is printed \
            with the cycles that a cache line takes between the CPUs and back, which every figure depends on. Packets are \
            those that the driver counted; cycles a packet those of the device side's busy rounds. \
            Before a case is measured an embedded driver checks the payloads of each side.
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

    @Option(help: ArgumentHelp("Open vSwitch with DPDK as a second peer of crossconnect: the script tools/testbed/ovs.", valueName: "path"))
    var ovs: String?

    @Option(help: ArgumentHelp("Writes PREFIX.md, PREFIX.json and PREFIX.svg.", valueName: "prefix"))
    var output: String?

    func run() throws {
        let cpus = Bench.allowedCPUs
        guard cpus.count >= 2 else { fail("two CPUs are needed, this process may use \(cpus.count)") }
        check("--samples", samples, 1...100)
        check("--seconds", seconds, 0.1...60)
        checkFolder(of: output, "--output")
        let all = usage { try CompareCase.all(modes: modes, formats: formats, sizes: sizes, queues: queues, bursts: bursts) }
        let folder = NSTemporaryDirectory() + "ringway-compare-\(getpid())"
        Leftovers.add(folder: folder)
        defer { Leftovers.remove(folder: folder) }
        var results: [CompareResult] = []
        do {
            for (i, c) in all.enumerated() {
                results.append(try measure(c, (cpus[0], cpus[1]), folder, "\(i + 1)/\(all.count)"))
                if let output { try write(report(results), to: output) }
            }
        } catch {
            fail("\(error)")
        }
        print("\n" + report(results).markdown)
    }

    private func report(_ results: [CompareResult]) -> CompareReport { CompareReport(results: results, seconds: seconds, peer: peer) }

    private func write(_ report: CompareReport, to prefix: String) throws {
        for (ending, text) in [("md", report.markdown), ("json", report.json), ("svg", report.svg)] {
            try text.write(toFile: "\(prefix).\(ending)", atomically: true, encoding: .utf8)
        }
    }

    private func sides(_ c: CompareCase) -> [(name: String, kind: DeviceSide.Kind)] {
        let isRingway = URL(fileURLWithPath: peer).lastPathComponent.hasPrefix("ringway")
        var all: [(String, DeviceSide.Kind)] = [("Ringway", .ringway(CommandLine.arguments[0]))]
        all.append(isRingway ? ("peer", .ringway(peer)) : ("DPDK", .testpmd(peer)))
        if let ovs, c.mode == "crossconnect" { all.append(("OVS", .ovs(ovs))) }
        return all
    }

    private func measure(_ c: CompareCase, _ cpus: (driver: Int, device: Int), _ folder: String, _ place: String) throws -> CompareResult {
        let kinds = sides(c)
        let session = try CompareSession(c, kinds, testpmd: "dpdk-testpmd", cpus: cpus, folder: folder)
        var result = CompareResult(what: c, names: kinds.map(\.name), samples: kinds.map { _ in [] })
        for i in 1...samples {
            // Alternating who is first.
            for k in i % 2 == 0 ? Array(kinds.indices) : kinds.indices.reversed() {
                let s = try session.sample(k, seconds: seconds)
                result.samples[k].append(s)
                let name = kinds[k].name + String(repeating: " ", count: 8 - kinds[k].name.count)
                print("\(place) \(c.name), sample \(i)/\(samples) \(name) \(Report.number(s.mpps, 2)) Mpps, \(Report.number(s.cycles, 0)) cycles/packet, ping-pong \(Report.number(s.pingPong, 0)) cycles")
                flush()
            }
        }
        session.end()
        print("    median: " + kinds.indices.map { k in
            "\(kinds[k].name) \(Report.number(result.median(k), 2)) Mpps, \(Report.number(result.cycles(k), 0)) cycles" + (k > 0 ? " (ratio \(Report.number(result.ratio(k), 2)), of cycles \(Report.number(result.cycleRatio(k), 2)))" : "")
        }.joined(separator: "; "))
        return result
    }
}
