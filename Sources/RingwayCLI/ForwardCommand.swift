import ArgumentParser
import Glibc
import Logging
import Ringway

struct ForwardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forward",
        abstract: "Forward packets between ports until SIGINT or SIGTERM.",
        discussion: """
            PORT is vhost-user:PATH, with options after commas:
              queues=N      queue pairs offered (1 to 128, default 1)
              mtu=N         MTU offered to the driver, in bytes
              mac=ADDRESS   MAC address offered to the driver
              busyloop=B    this port's budget instead of --busyloop
              client=on     connect to PATH (and reconnect) instead of listening there
              ring_reset=on offer RING_RESET (not to QEMU, which does not pass it on)

            virtio-user:PATH is the driver's side, on somebody else's back-end: a vhost-user socket, \
            /dev/vhost-net or /dev/vhost-vdpa-N. Besides queues, mtu, mac:
              server=on     (socket) listen for the back-end instead of connecting to it
              tap=NAME      (/dev/vhost-net) the TAP interface; made if there is none
              busyloop=Nus  on /dev/vhost-net, how long vhost itself polls
              packed=on, in_order=off, queue_size=N   rings; else split, in order, 1024

            tap:NAME is a TAP interface through io_uring; queues=N, busyloop=B.

            Example: two QEMU guests with two queue pairs each, on CPU 1
              ringway forward --port vhost-user:/run/vm1.sock,queues=2 \\
                  --port vhost-user:/run/vm2.sock,queues=2 \\
                  --mode crossconnect --cpus 1 --stats 1
            """)

    @Option(name: .customLong("port"), help: ArgumentHelp("A port; repeat for each.", valueName: "port"))
    var ports: [String] = []

    @Option(help: "crossconnect (two ports), switch, macswap, drop or generate.")
    var mode = "crossconnect"

    @Option(help: ArgumentHelp("CPUs for poll threads, one each, as in 1 or 0,2-4 (default: one thread, not pinned).", valueName: "list"))
    var cpus: String?

    @Option(help: ArgumentHelp("Poll threads that are not pinned, in place of --cpus; for tests, as there may be more than CPUs.", valueName: "number"))
    var unpinned = 1

    @Option(help: ArgumentHelp("How long to poll after the last packet before sleeping: poll (for ever), 0, microseconds as in 50us, or auto.", valueName: "budget"))
    var busyloop = "auto"

    @Option(help: ArgumentHelp("Frame size for generate, in bytes without CRC.", valueName: "bytes"))
    var size = 64

    @Option(help: ArgumentHelp("Forget a switch's MAC address after this long without a packet.", valueName: "seconds"))
    var macAgeing = 300

    @Option(help: ArgumentHelp("Print counters at this interval.", valueName: "seconds"))
    var stats: Double?

    @Flag(help: "Print intervals and totals as one JSON object a line.")
    var json = false

    @Option(help: ArgumentHelp("End after this long.", valueName: "seconds"))
    var duration: Double?

    @Option(help: "trace, debug, info, notice, warning, error or critical.")
    var logLevel = "info"

    func run() throws {
        let options = usage(engineOptions)
        if let stats, !(stats >= 0.01) { fail("--stats \(stats): give seconds above 0.01", status: 64) }
        if let duration, !(duration > 0) { fail("--duration \(duration): give seconds above 0", status: 64) }
        guard let level = Logger.Level(rawValue: logLevel) else {
            fail("--log-level \(logLevel): write trace, debug, info, notice, warning, error or critical", status: 64)
        }
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        var logger = Logger(label: "ringway")
        logger.logLevel = level
        let signals = SignalWaiter()
        let engine = usage { try Engine(options, logger: logger) }
        do throws(EngineError) {
            try engine.start()
            run(engine, signals)
        } catch {
            fail(error.description)
        }
    }

    private func engineOptions() throws(EngineError) -> EngineOptions {
        if ports.isEmpty { throw EngineError("no ports; give at least one as in --port vhost-user:/run/vm1.sock") }
        var all: [PortOptions] = []
        for text in ports { all.append(try PortSyntax.port(text)) }
        var options = EngineOptions(ports: all, mode: try forwardingMode())
        if let cpus { options.cpus = try PortSyntax.cpus(cpus) }
        options.unpinnedThreads = unpinned
        do throws(EngineError) { options.busyloop = try PortSyntax.busyloop(busyloop) } catch { throw EngineError("--\(error)") }
        guard (1...1_000_000).contains(macAgeing) else { throw EngineError("--mac-ageing \(macAgeing): give 1 to 1000000 seconds") }
        options.macAgeing = macAgeing
        return options
    }

    private func forwardingMode() throws(EngineError) -> ForwardingMode {
        switch mode {
        case "crossconnect": return .crossconnect
        case "switch": return .switch
        case "macswap": return .macswap
        case "drop": return .drop
        case "generate": return .generate(size: size)
        default: throw EngineError("--mode \(mode): write crossconnect, switch, macswap, drop or generate")
        }
    }

    /// Until a signal or the end of `--duration`. Without `--stats` nothing wakes up meanwhile.
    private func run(_ engine: Engine, _ signals: SignalWaiter) {
        print("ready")
        flush()
        let start = SignalWaiter.now
        let end = duration.map { start + $0 }
        var report = Report(isJSON: json, start: start, engine.snapshot(), engine.threadSnapshots())
        var next = stats.map { start + $0 }
        while true {
            let wake = [end, next].compactMap { $0 }.min()
            if signals.wait(until: wake) { break }
            let now = SignalWaiter.now
            if let end, now >= end { break }
            if let due = next, now >= due {
                report.interval(engine.snapshot(), engine.queueTimes(), engine.threadSnapshots(), now)
                next = due + (stats ?? 1)
                // Who reads them is gone: ends as after a signal, and says so.
                if !isOutputOpen { break }
            }
        }
        let now = SignalWaiter.now
        let threads = engine.threadSnapshots()
        engine.stop()
        report.totals(engine.snapshot(), engine.queueTimes(), threads, now)
        flush()
    }
}
