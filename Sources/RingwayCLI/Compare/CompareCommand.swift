import ArgumentParser
import Foundation
import Ringway

/// Ringway and DPDK's vhost PMD side by side.
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "Measure Ringway and DPDK's vhost PMD alternately, as back-ends of the same DPDK virtio-user driver.",
        discussion: """
            Needs DPDK's testpmd and huge pages (tools/compare sets them up) and two CPUs with nothing else on them: the
            driver runs on the first, the device side on the second. No sample is discarded; each is printed with the
            cycles that a cache line takes between the CPUs and back, which every figure depends on. Packets are those that
            the driver counted; cycles a packet those of the device side's busy rounds.
            """)

    @Option(help: "drop, generate, macswap, crossconnect; several with commas.")
    var modes = "drop,generate,macswap,crossconnect"

    @Option(help: "split, split-in-order, packed, packed-in-order; several with commas.")
    var formats = "split,packed,packed-in-order"

    @Option(help: "Frame sizes in bytes; several with commas.")
    var sizes = "64,1518"

    @Option(help: "Samples of each side for each case.")
    var samples = 8

    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds"))
    var seconds = 1.0

    @Option(help: "Burst of the driver, 1 to 512.")
    var burst = 32

    @Option(help: ArgumentHelp("Another build of testpmd as the peer.", valueName: "path"))
    var peer = "dpdk-testpmd"

    @Option(help: ArgumentHelp("Writes PREFIX.md, PREFIX.json and PREFIX.svg.", valueName: "prefix"))
    var output: String?

    func run() throws {
        let cpus = Bench.allowedCPUs
        guard cpus.count >= 2 else { fail("two CPUs are needed, this process may use \(cpus.count)") }
        guard (1...100).contains(samples), seconds >= 0.2, (1...512).contains(burst) else { fail("--samples 1 to 100, --seconds 0.2 or more, --burst 1 to 512", status: 64) }
        let folder = NSTemporaryDirectory() + "ringway-compare-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let sampler = Sampler(testpmd: "dpdk-testpmd", peer: peer, cpus: (cpus[0], cpus[1]), seconds: seconds, burst: burst, folder: folder)
        var results: [CompareResult] = []
        do {
            let all = try cases()
            for (i, c) in all.enumerated() { results.append(try measure(c, sampler, "\(i + 1)/\(all.count)")) }
        } catch {
            fail("\(error)")
        }
        let report = CompareReport(results: results, seconds: seconds, burst: burst, peer: peer)
        print("\n" + report.markdown)
        if let output {
            try report.markdown.write(toFile: output + ".md", atomically: true, encoding: .utf8)
            try report.json.write(toFile: output + ".json", atomically: true, encoding: .utf8)
            try report.svg.write(toFile: output + ".svg", atomically: true, encoding: .utf8)
        }
    }

    private func cases() throws -> [CompareCase] {
        func list(_ text: String, _ known: [String]?) throws -> [String] {
            let all = text.split(separator: ",").map(String.init)
            if let known, let odd = all.first(where: { !known.contains($0) }) { throw CompareError("'\(odd)': write \(known.joined(separator: ", "))") }
            return all
        }
        let modes = try list(modes, ["drop", "generate", "macswap", "crossconnect"])
        let formats = try list(formats, ["split", "split-in-order", "packed", "packed-in-order"])
        let sizes = try list(sizes, nil).map { text -> Int in
            guard let n = Int(text), (64...1518).contains(n) else { throw CompareError("--sizes \(text): 64 to 1518 bytes") }
            return n
        }
        return modes.flatMap { m in formats.flatMap { f in sizes.map { CompareCase(mode: m, format: f, size: $0) } } }
    }

    private func measure(_ c: CompareCase, _ sampler: Sampler, _ place: String) throws -> CompareResult {
        var result = CompareResult(what: c)
        for i in 1...samples {
            // Alternating who is first.
            for isRingway in i % 2 == 0 ? [true, false] : [false, true] {
                let s = try sampler.run(c, isRingway: isRingway)
                if isRingway { result.ringway.append(s) } else { result.dpdk.append(s) }
                print("\(place) \(c.name), sample \(i)/\(samples) \(isRingway ? "ringway" : "dpdk   "): \(Report.number(s.mpps, 2)) Mpps, "
                    + "\(Report.number(s.cycles, 0)) cycles/packet, ping-pong \(Report.number(s.pingPong.0, 0)) and \(Report.number(s.pingPong.1, 0)) cycles")
                fflush(nil)
            }
        }
        print("    median: dpdk \(Report.number(result.dpdk.median(\.mpps), 2)), ringway \(Report.number(result.ringway.median(\.mpps), 2)), ratio \(Report.number(result.ratio, 2))")
        return result
    }
}

extension [Sample] {
    func median(_ key: KeyPath<Sample, Double>) -> Double {
        let sorted = map { $0[keyPath: key] }.sorted()
        if sorted.isEmpty { return 0 }
        return sorted.count % 2 == 1 ? sorted[sorted.count / 2] : (sorted[sorted.count / 2 - 1] + sorted[sorted.count / 2]) / 2
    }

    var span: String { "\(Report.number(map(\.mpps).min() ?? 0, 1))–\(Report.number(map(\.mpps).max() ?? 0, 1))" }
}

struct CompareResult {
    let what: CompareCase
    var dpdk: [Sample] = []
    var ringway: [Sample] = []

    var ratio: Double { dpdk.median(\.mpps) > 0 ? ringway.median(\.mpps) / dpdk.median(\.mpps) : 0 }
    var cycleRatio: Double { ringway.median(\.cycles) > 0 ? dpdk.median(\.cycles) / ringway.median(\.cycles) : 0 }
}

/// The comparison as a table, as JSON and as a plot.
struct CompareReport {
    let results: [CompareResult]
    let seconds: Double
    let burst: Int
    let peer: String

    private var machine: String {
        let info = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        let model = info.split(separator: "\n").first { $0.hasPrefix("model name") }?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown CPU"
        return "\(model), \(ProcessInfo.processInfo.activeProcessorCount) CPUs"
    }

    /// Ticks of the time-stamp counter in a second.
    private static var clock: Double {
        let (n, c) = (CPlatClock.nanoseconds, CPlatClock.cycles)
        usleep(50_000)
        return Double(CPlatClock.cycles &- c) / Double(CPlatClock.nanoseconds &- n) * 1e9
    }

    var markdown: String {
        let clock = CompareReport.clock
        var text = """
            | mode | rings | bytes | DPDK Mpps | (spread) | Ringway Mpps | (spread) | ratio | DPDK cycles | Ringway cycles | cycle ratio | limit (Ringway) |
            |---|---|---|---|---|---|---|---|---|---|---|---|

            """
        for r in results {
            let ours = r.ringway.median(\.mpps)
            // The device side's busy share at this rate.
            let busy = ours * 1e6 * r.ringway.median(\.cycles) / clock
            text += "| \(r.what.mode) | \(r.what.format) | \(r.what.size) | \(Report.number(r.dpdk.median(\.mpps), 2)) | \(r.dpdk.span) | \(Report.number(ours, 2)) | \(r.ringway.span) "
                + "| **\(Report.number(r.ratio, 2))** | \(Report.number(r.dpdk.median(\.cycles), 0)) | \(Report.number(r.ringway.median(\.cycles), 0)) "
                + "| \(Report.number(r.cycleRatio, 2)) | \(busy > 0.85 ? "device side" : "driver") (\(Report.number(busy * 100, 0)) % busy) |\n"
        }
        let all = results.flatMap { $0.dpdk + $0.ringway }
        let trips = all.flatMap { [$0.pingPong.0, $0.pingPong.1] }.sorted()
        text += "\nMedians of \(results.first?.ringway.count ?? 0) samples of \(Report.number(seconds, 1)) s a side, alternating; no sample discarded. \(machine); peer `\(peer)`; driver: DPDK virtio-user, burst \(burst), "
            + "1024 entries. A cache line between the CPUs and back: median \(Report.number(trips.isEmpty ? 0 : trips[trips.count / 2], 0)) cycles, "
            + "\(Report.number(trips.first ?? 0, 0)) to \(Report.number(trips.last ?? 0, 0)).\n"
        return text
    }

    var json: String {
        func side(_ s: [Sample]) -> [[String: Double]] { s.map { ["mpps": $0.mpps, "cycles_per_packet": $0.cycles, "ping_pong_before": $0.pingPong.0, "ping_pong_after": $0.pingPong.1] } }
        let object: [[String: Any]] = results.map {
            ["mode": $0.what.mode, "format": $0.what.format, "size": $0.what.size, "ratio": $0.ratio, "cycle_ratio": $0.cycleRatio, "dpdk": side($0.dpdk), "ringway": side($0.ringway)]
        }
        let data = (try? JSONSerialization.data(withJSONObject: ["machine": machine, "burst": burst, "cases": object] as [String: Any], options: [.prettyPrinted, .sortedKeys])) ?? Data()
        return String(decoding: data, as: UTF8.self)
    }

    var svg: String {
        Plot.bars(
            title: "Ringway and DPDK's vhost, Mpps (medians)", labels: results.map(\.what.name),
            series: [("DPDK", results.map { $0.dpdk.median(\.mpps) }), ("Ringway", results.map { $0.ringway.median(\.mpps) })])
    }
}
