import ArgumentParser
import CPlatform
import Glibc
import Ringway
import Telemetry

/// The main job on one machine without QEMU, DPDK or huge pages.
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Two embedded virtio drivers exchange packets through the engine; then a summary.",
        discussion: """
            The drivers connect through real vhost-user sockets and share their memory with the engine as a \
            guest would. The engine polls on one CPU, both drivers on another. Latency is one way, at 100,000 \
            packets a second, counted from when each packet was due.
            """)

    @Option(help: ArgumentHelp("Length of the live part.", valueName: "seconds"))
    var seconds = 3

    @Flag(help: "Packed rings instead of split ones.")
    var packed = false

    func run() throws {
        check("--seconds", seconds, 1...3600)
        var setup = Bench.Setup()
        setup.driver.isPacked = packed
        Bench.choosePlaces(&setup)
        if setup.engineCPU < 0 { setup.busyloop = .auto }
        do throws(EngineError) {
            let bench = try Bench(setup)
            introduce(bench, setup)
            live(bench)
            summary(bench)
            bench.close()
        } catch {
            fail(error.description)
        }
    }

    private func introduce(_ bench: Bench, _ setup: Bench.Setup) {
        print("engine on \(setup.engineCPU < 0 ? "any CPU" : "CPU \(setup.engineCPU)"), drivers on \(setup.driverCPU < 0 ? "any CPU" : "CPU \(setup.driverCPU)"), "
            + "\(packed ? "packed" : "split") rings of \(setup.driver.ringSize); each driver's memory: \(bench.drivers[0].memory.summary)")
        if setup.engineCPU < 0 { print("this machine has one CPU: drivers and engine take turns, so the figures say little") }
    }

    /// A line a second: packets of 64 bytes, both ways, as fast as they go.
    private func live(_ bench: Bench) {
        print("\n64 byte packets, both ways\n  second     A to B Mpps     B to A Mpps     Gbit/s")
        let flows = bench.flows
        Load.prepare(flows, size: 64)
        for second in 1...seconds {
            var counts = [Load.Count](repeating: .init(), count: flows.count)
            Load.saturate(flows, size: 64, burst: 32, until: CPlat_monotonic_ns() + 1_000_000_000, counts: &counts)
            let total = counts[0].mpps + counts[1].mpps
            print("  " + Text.right("\(second)", 6) + Text.right(Report.number(counts[0].mpps, 2), 16)
                + Text.right(Report.number(counts[1].mpps, 2), 16) + Text.right(Report.number(total * 64 * 8 / 1000, 2), 11))
            flush()
        }
        for flow in flows { Load.settle(flow) }
    }

    private func summary(_ bench: Bench) {
        print("\n  bytes      Mpps    Gbit/s   latency µs:   p50      p99    p99.9      max")
        let flows = bench.flows
        for size in [64, 512, 1518] {
            Load.prepare(flows, size: size)
            var counts = [Load.Count](repeating: .init(), count: flows.count)
            Load.saturate(flows, size: size, burst: 32, until: CPlat_monotonic_ns() + 1_000_000_000, counts: &counts)
            for flow in flows { Load.settle(flow) }
            let histogram = Load.paced([flows[0]], Load.Pace(rate: 100_000, seconds: 1, sizes: [size])).roundTrip
            let mpps = counts[0].mpps + counts[1].mpps
            print(Text.right("\(size)", 7) + Text.right(Report.number(mpps, 2), 10) + Text.right(Report.number(mpps * Double(size) * 8 / 1000, 2), 10)
                + "             " + [50, 99, 99.9].map { Text.right(Text.microseconds(histogram.percentile($0)), 9) }.joined().dropFirst(3)
                + Text.right(Text.microseconds(histogram.maximum), 9))
            flush()
        }
    }
}

/// Columns for people.
enum Text {
    static func right(_ s: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - s.count)) + s }
    static func left(_ s: String, _ width: Int) -> String { s + String(repeating: " ", count: max(0, width - s.count)) }
    static func microseconds(_ nanoseconds: UInt64) -> String { Report.number(Double(nanoseconds) / 1000, nanoseconds < 1_000_000 ? 2 : nanoseconds < 100_000_000 ? 1 : 0) }
}
