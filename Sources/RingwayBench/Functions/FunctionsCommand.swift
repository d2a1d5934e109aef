import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// Network functions in Ringway beside those of DPDK's l3fwd.
struct FunctionsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "functions",
        abstract: "Routing and an ACL on Ringway's packet API and in DPDK's l3fwd, alternately.",
        discussion: """
            Both sides route by the same 10,000 prefixes, or look the same 1,000 rules up, for packets of 10,000 or \
            4,096 flows, between two vhost-user ports on one CPU; the same embedded drivers on the other CPU send as \
            much as is taken. One side is stopped (SIGSTOP) while the other is measured. First each flow is sent once, \
            and each packet checked as it leaves. No sample is discarded.

            Needs DPDK's libraries and huge pages (tools/setup tests), the source of l3fwd, which tools/testbed/l3fwd \
            gets and builds, and two CPUs with nothing else on them.
            """)

    @Option(help: "route, acl; several with commas.") var functions = "route,acl"
    @Option(help: "Frame sizes in bytes; several with commas.") var sizes = "64,1518"
    @Option(help: "split, packed; several with commas.") var formats = "split,packed"
    @Option(help: "Samples of each side for each case.") var samples = 8
    @Option(help: ArgumentHelp("Length of a sample.", valueName: "seconds")) var seconds = 0.4
    @Option(help: ArgumentHelp("DPDK's l3fwd, or the script that builds and starts it.", valueName: "path"))
    var peer = "tools/testbed/l3fwd"
    @Flag(help: "One JSON object at the end.") var json = false
    @Option(help: ArgumentHelp("Writes PREFIX.md and PREFIX.json.", valueName: "prefix")) var output: String?

    func run() throws {
        let cpus = Bench.allowedCPUs
        if cpus.count < 2 { fail("two CPUs are needed, this process may use \(cpus.count)") }
        check("--samples", samples, 1...1000)
        check("--seconds", seconds, 0.05...60)
        checkFolder(of: output, "--output")
        let works = list(functions, "--functions", ["route", "acl"]).compactMap { FunctionWork(rawValue: $0) }
        let formats = list(formats, "--formats", ["split", "packed"])
        let sizes = list(sizes, "--sizes", nil).map { text in
            guard let n = Int(text), (64...1518).contains(n) else {
                fail("--sizes \(text): 64 to 1518 bytes", status: 64)
            }
            return n
        }
        Signals.handOver()
        var report = FunctionReport(
            cyclesPerMicrosecond: Double(TickClock.shared.ticksPerMicrosecond), seconds: seconds)
        do {
            for work in works {
                for format in formats {
                    report.cases += try apart { try measure(work, format, sizes, cpus[0], cpus[1]) }
                }
            }
        } catch {
            if !(error is Interrupted) { fail("\(error)") }
        }
        Progress.clear()
        if json { print(report.text) } else { print("\n" + report.markdown) }
        if let output, !report.cases.isEmpty { report.write(to: output) }
    }

    private func list(_ text: String, _ option: String, _ known: [String]?) -> [String] {
        usage { try CompareCase.list(text, option, known) }
    }

    /// All sizes of one function on one kind of rings. The calling thread becomes the drivers'.
    private func measure(
        _ work: FunctionWork, _ format: String, _ sizes: [Int], _ driverCPU: Int, _ deviceCPU: Int
    ) throws -> [FunctionReport.Case] {
        let folder = NSTemporaryDirectory() + "ringway-functions-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        Leftovers.add(folder: folder)
        defer { Leftovers.remove(folder: folder) }
        var sides: [FunctionSide] = []
        defer { for side in sides { side.end() } }
        for other in [nil, peer] {
            Progress.show("\(work.text), \(format): starting \(other ?? "Ringway")")
            let side = try FunctionSide(
                work, peer: other, isPacked: format == "packed", cpu: deviceCPU, folder: "\(folder)/\(sides.count)")
            sides.append(side)
            side.pause()
        }
        // Not before: the sides inherit what this thread may run on.
        _ = CPlat_pin_to_cpu(Int32(driverCPU))
        for side in sides {
            side.resume()
            var traffic = FunctionTraffic(work, size: sizes[0])
            try traffic.check(side)
            side.pause()
        }
        return try sizes.map { size in
            var traffic = FunctionTraffic(work, size: size)
            let sampled = try sample(sides, &traffic, "\(work.text), \(format) \(size)")
            return FunctionReport.Case(function: work.rawValue, rings: format, bytes: size, sides: sampled)
        }
    }

    /// By turns, alternating who is first.
    private func sample(_ sides: [FunctionSide], _ traffic: inout FunctionTraffic, _ what: String) throws
        -> [FunctionReport.Side]
    {
        var all = sides.map { FunctionReport.Side(name: $0.name, samples: []) }
        for n in 1...samples {
            for k in n % 2 == 0 ? [0, 1] : [1, 0] {
                Progress.show("\(what): sample \(n) of \(samples)")
                let trip = PingPong.cycles(Bench.allowedCPUs[0], Bench.allowedCPUs[1])
                sides[k].resume()
                _ = traffic.saturate(sides[k], seconds: 0.05)
                let counted = traffic.saturate(sides[k], seconds: seconds)
                traffic.settle(sides[k])
                sides[k].pause()
                if Signals.haveCome { throw Interrupted() }
                all[k].samples.append(
                    FunctionReport.Sample(
                        mpps: Double(counted.received) / counted.seconds / 1e6,
                        fullShare: Double(counted.fullRounds) / Double(counted.rounds), pingPongCycles: trip))
            }
        }
        return all
    }
}
