import ArgumentParser
import CPlatform
import Foundation
import Ringway
import Telemetry

/// CPU use against latency for busyloop budgets and loads.
struct TuneCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tune",
        abstract: "Sweep the busyloop budget over loads: CPU use against latency, and a recommendation.",
        discussion: """
            For each budget and load two embedded drivers exchange packets through an engine; its poll thread's CPU time, the
            latency and the system calls are counted. The recommendation is the cheapest budget whose p99 is within
            twice that of `poll` at every load.
            """)

    @Option(help: "Budgets: poll, 0, microseconds, auto; several with commas.") var budgets = "0,5,20,50,100,200,auto,poll"
    @Option(help: "Packets a second; several with commas.") var rates = "1000,10000,50000,200000,1000000"
    @Option(help: ArgumentHelp("Length of each measurement.", valueName: "seconds")) var seconds = 1.0
    @Flag(help: "Packed rings.") var packed = false
    @Flag(help: "One JSON object a line.") var json = false
    @Option(help: ArgumentHelp("Writes PREFIX-latency.svg and PREFIX-cpu.svg.", valueName: "prefix")) var svg: String?

    private struct Point {
        var budget: String
        var rate: Double
        var cpu: Double
        var p50: Double
        var p99: Double
        var calls: Double
    }

    func run() throws {
        var points: [Point] = []
        let loads = rates.split(separator: ",").compactMap { Double($0) }.filter { $0 >= 1 && $0 <= 1e8 }
        let names = budgets.split(separator: ",").map(String.init)
        if loads.isEmpty || names.isEmpty || !(0.1...600).contains(seconds) { fail("--rates 1000,10000 --budgets 0,50,auto --seconds 0.1 or more", status: 64) }
        if !json { print(Text.right("budget", 8) + Text.right("packets/s", 11) + Text.right("CPU %", 8) + Text.right("p50 µs", 10) + Text.right("p99 µs", 10) + Text.right("syscalls/s", 12) + Text.right("per packet", 12)) }
        for name in names {
            do throws(EngineError) {
                for rate in loads {
                    let p = try apart { () throws(EngineError) in try measure(name, rate) }
                    points.append(p)
                    show(p)
                }
            } catch {
                fail(error.description)
            }
        }
        recommend(points, names)
        if let svg { draw(points, names, svg) }
    }

    /// Runs `body` on a thread of its own, which pins itself: the next one may choose its CPUs anew.
    private func apart(_ body: @escaping () throws(EngineError) -> Point) throws(EngineError) -> Point {
        nonisolated(unsafe) var result: Result<Point, EngineError>?
        nonisolated(unsafe) let body = body
        let done = DispatchSemaphore(value: 0)
        let thread = Thread {
            do throws(EngineError) { result = .success(try body()) } catch { result = .failure(error) }
            done.signal()
        }
        thread.start()
        done.wait()
        return try result!.get()
    }

    private func measure(_ name: String, _ rate: Double) throws(EngineError) -> Point {
        var setup = Bench.Setup()
        setup.busyloop = try PortSyntax.busyloop(name)
        setup.driver.isPacked = packed
        Bench.choosePlaces(&setup)
        let bench = try Bench(setup)
        defer { bench.close() }
        let flow = bench.flows[0]
        Load.prepare(bench.flows, size: 64)
        var (cold, histogram) = (LatencyHistogram(), LatencyHistogram())
        _ = Load.paced(flow, size: 64, rate: rate, until: CPlat_monotonic_ns() + 200_000_000, into: &cold)
        let (cpu, calls) = (TuneCommand.engineCPU, bench.engine.threadSnapshots()[0].systemCalls)
        let count = Load.paced(flow, size: 64, rate: rate, until: CPlat_monotonic_ns() + UInt64(seconds * 1e9), into: &histogram)
        let elapsed = Double(count.nanoseconds) / 1e9
        return Point(
            budget: name, rate: rate, cpu: (TuneCommand.engineCPU - cpu) / elapsed * 100, p50: Double(histogram.percentile(50)) / 1000,
            p99: Double(histogram.percentile(99)) / 1000, calls: Double(bench.engine.threadSnapshots()[0].systemCalls &- calls) / elapsed)
    }

    /// CPU seconds of this process's poll threads.
    private static var engineCPU: Double {
        let base = "/proc/self/task/"
        var sum = 0.0
        for task in (try? FileManager.default.contentsOfDirectory(atPath: base)) ?? [] {
            guard let name = try? String(contentsOfFile: base + task + "/comm", encoding: .utf8), name.hasPrefix("ringway-"), !name.hasPrefix("ringway-ctl") else { continue }
            let stat = (try? String(contentsOfFile: base + task + "/schedstat", encoding: .utf8)) ?? ""
            sum += (Double(stat.split(separator: " ").first ?? "0") ?? 0) / 1e9
        }
        return sum
    }

    private func show(_ p: Point) {
        if json {
            print("{\"budget\":\"\(p.budget)\",\"rate\":\(Report.number(p.rate, 0)),\"cpu_percent\":\(Report.number(p.cpu, 2)),\"p50_us\":\(Report.number(p.p50, 2)),\"p99_us\":\(Report.number(p.p99, 2)),\"system_calls_per_second\":\(Report.number(p.calls, 0))}")
        } else {
            print(Text.right(p.budget, 8) + Text.right(Report.number(p.rate, 0), 11) + Text.right(Report.number(p.cpu, 1), 8) + Text.right(Report.number(p.p50, 1), 10)
                + Text.right(Report.number(p.p99, 1), 10) + Text.right(Report.number(p.calls, 0), 12) + Text.right(Report.number(p.calls / p.rate, 3), 12))
        }
        fflush(nil)
    }

    private func recommend(_ points: [Point], _ names: [String]) {
        guard !json, names.contains("poll") else { return }
        func best(_ rate: Double) -> Double { points.first { $0.budget == "poll" && $0.rate == rate }?.p99 ?? 0 }
        let good = names.filter { name in points.filter { $0.budget == name }.allSatisfy { $0.p99 <= 2 * best($0.rate) } }
        func cost(_ name: String) -> Double { points.filter { $0.budget == name }.reduce(0) { $0 + $1.cpu } }
        let chosen = good.min { cost($0) < cost($1) } ?? "poll"
        print("\nrecommended: --busyloop \(chosen)  (the least CPU, \(Report.number(cost(chosen) / Double(max(1, points.filter { $0.budget == chosen }.count)), 0)) % on average, with p99 within twice that of poll at every load)")
    }

    private func draw(_ points: [Point], _ names: [String], _ prefix: String) {
        func series(_ key: KeyPath<Point, Double>) -> [(name: String, points: [(Double, Double)])] {
            names.map { n in (n, points.filter { $0.budget == n }.map { ($0.rate, max(0.01, $0[keyPath: key])) }) }
        }
        do {
            try Plot.lines(title: "p99 latency by busyloop budget", x: "packets a second", y: "µs", series: series(\.p99)).write(toFile: prefix + "-latency.svg", atomically: true, encoding: .utf8)
            try Plot.lines(title: "CPU use of the poll thread by busyloop budget", x: "packets a second", y: "%", series: series(\.cpu)).write(toFile: prefix + "-cpu.svg", atomically: true, encoding: .utf8)
        } catch {
            fail("\(prefix): \(error.localizedDescription)")
        }
    }
}
