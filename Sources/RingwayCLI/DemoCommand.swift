import ArgumentParser
import CPlatform
import Console
import Glibc
import Ringway
import RingwayLab
import Telemetry

/// The main job on one machine without QEMU, DPDK or huge pages.
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Two embedded virtio drivers exchange packets through the engine; then a summary.",
        discussion: """
            The drivers connect through real vhost-user sockets and share their memory with the engine as a \
            guest would. The engine polls on one CPU, both drivers on another. Throughput is that of full rings. \
            Latency is that from the first driver to the second, at half of the packets a second just measured that \
            way and none the other way, in bursts of 32, counted from when each packet was due: medians of 20 samples \
            of 0.05 s, and the longest of all.
            """)

    @Option(help: ArgumentHelp("Length of the live part.", valueName: "seconds"))
    var seconds = 3

    @Flag(help: "Packed rings instead of split ones.")
    var packed = false

    @Flag(help: "JSON objects, one a line; latencies in nanoseconds.")
    var json = false

    /// A second of the live part: packets a second from the first driver to the second, and back.
    private struct Second: Encodable {
        var type = "second"
        var second: Int
        var aToBMpps: Double
        var bToAMpps: Double
        var gbps: Double
    }

    /// A line of the summary.
    private struct Size: Encodable {
        var type = "size"
        var bytes: Int
        var mpps: Double
        var gbps: Double
        var latencyMpps: Double
        var latency: [String: UInt64]
    }

    func run() throws {
        check("--seconds", seconds, 1...3600)
        var setup = Bench.Setup()
        setup.driver.isPacked = packed
        Bench.choosePlaces(&setup)
        if setup.engineCPU < 0 { setup.busyloop = .auto }
        do throws(EngineError) {
            let bench = try Bench(setup)
            if !json { introduce(bench, setup) }
            live(bench)
            if !Signals.haveCome { summary(bench) }
            if json { Signals.printMark() }
            bench.close()
        } catch {
            fail(error.description)
        }
    }

    private func introduce(_ bench: Bench, _ setup: Bench.Setup) {
        func place(_ cpu: Int) -> String { cpu < 0 ? "any CPU" : "CPU \(cpu)" }
        print(
            "engine on \(place(setup.engineCPU)), drivers on \(place(setup.driverCPU)), "
                + "\(packed ? "packed" : "split") rings of \(setup.driver.ringSize); "
                + "each driver's memory: \(bench.drivers[0].memory.summary)")
        if setup.engineCPU < 0 {
            print("this machine has one CPU: drivers and engine take turns, so the figures say little")
        }
    }

    /// A line a second: packets of 64 bytes, both ways, as fast as they go.
    private func live(_ bench: Bench) {
        if !json { print("\n64 byte packets, both ways\n  second     A to B Mpps     B to A Mpps     Gbit/s") }
        let flows = bench.flows
        Load.prepare(flows, size: 64)
        for second in 1...seconds where !Signals.haveCome {
            var counts = [Load.Count](repeating: .init(), count: flows.count)
            Load.saturate(flows, size: 64, burst: 32, until: CPlat_monotonic_ns() + 1_000_000_000, counts: &counts)
            let (there, back) = (counts[0].mpps, counts[1].mpps)
            let gbps = (there + back) * 64 * 8 / 1000
            if json {
                printJSON(
                    Second(
                        second: second, aToBMpps: there.rounded(digits: 6), bToAMpps: back.rounded(digits: 6),
                        gbps: gbps.rounded(digits: 6)))
            } else {
                print(
                    "  " + Text.right("\(second)", 6) + Text.right(Text.number(there, 2), 16)
                        + Text.right(Text.number(back, 2), 16) + Text.right(Text.number(gbps, 2), 11))
                flush()
            }
        }
        for flow in flows { Load.settle(flow) }
    }

    private func summary(_ bench: Bench) {
        if !json {
            print(
                "\n  full rings, both ways           latency A to B in µs, at half of its rate\n"
                    + "  bytes      Mpps    Gbit/s   at Mpps      p50      p99    p99.9      max")
        }
        let flows = bench.flows
        for size in [64, 512, 1518] {
            Load.prepare(flows, size: size)
            var counts = [Load.Count](repeating: .init(), count: flows.count)
            Load.saturate(flows, size: size, burst: 32, until: CPlat_monotonic_ns() + 1_000_000_000, counts: &counts)
            for flow in flows { Load.settle(flow) }
            let mpps = counts[0].mpps + counts[1].mpps
            let half = counts[0].mpps / 2
            let latency = DemoCommand.latency(flows[0], rate: half * 1e6, size: size)
            // One that was cut short says nothing of latency.
            if Signals.haveCome { return }
            let gbps = mpps * Double(size) * 8 / 1000
            if json {
                printJSON(
                    Size(
                        bytes: size, mpps: mpps.rounded(digits: 6), gbps: gbps.rounded(digits: 6),
                        latencyMpps: half.rounded(digits: 6), latency: latency))
                continue
            }
            print(
                Text.right("\(size)", 7) + Text.right(Text.number(mpps, 2), 10)
                    + Text.right(Text.number(gbps, 2), 10)
                    + Text.right(Text.number(half, 2), 10)
                    + ["p50", "p99", "p99.9", "max"].map { Text.right(Text.microseconds(latency[$0] ?? 0), 9) }.joined()
            )
            flush()
        }
    }

    /// At a load as users have it: at full load latency only tells how long the rings are. Medians of samples, so that
    /// a stall of the machine counts for the one that it fell into; the longest of all.
    private static func latency(_ flow: Load.Flow, rate: Double, size: Int) -> [String: UInt64] {
        var samples: [LatencyHistogram] = []
        // The first does not count.
        for n in 0...20 where !Signals.haveCome {
            let paced = Load.paced([flow], Load.Pace(rate: max(1, rate), burst: 32, seconds: 0.05, sizes: [size]))
            Load.settle(flow)
            if n > 0 { samples.append(paced.roundTrip) }
        }
        var all = ["count": samples.reduce(0) { $0 + $1.count }, "max": samples.map(\.maximum).max() ?? 0]
        for p in LatencyHistogram.reported {
            let values = samples.map { Double($0.percentile(p)) }
            all[LatencyHistogram.name(p)] = UInt64(BudgetReport.median(values))
        }
        return all
    }
}
