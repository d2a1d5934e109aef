import Console
import Foundation
import Glibc
import Logging
import Operation
import Ringway

/// A dataplane from its start to its end: what `forward` and `run` have in common.
struct Run {
    let settings: Settings
    /// That they were read from.
    var file: String?
    /// Goes on in this one's place.
    var successor: Successor?
    let json: Bool
    let stats: Double?
    let duration: Double?

    func run() {
        LogLevel.current = settings.logLevel
        LogLevel.startLog(settings.logFormat)
        let engine = usage { try Engine(settings.engine, logger: Logger(label: "ringway")) }
        // Where the sandbox does not let it connect any more, it is connected.
        let manager = serviceManager()
        let metrics = successor == nil ? openMetrics() : nil
        let sandbox = confine()
        Signals.watch()
        Signals.handOver()
        do {
            if let successor { try successor.takeOver(engine) } else { try engine.start() }
        } catch {
            fail(Sandbox.explain("\(error)", settings.engine.ports))
        }
        for path in settings.engine.ports.compactMap(\.kind.listeningPath) { Leftovers.add(socket: path) }
        tell(sandbox)
        let op = Operator(engine, settings, file: file, manager: manager, after: successor, metrics: metrics) {
            CPlatClock.seconds
        }
        do { try op.start() } catch {
            engine.stop()
            fail("\(error)")
        }
        let last = serve(op)
        for path in last.compactMap(\.kind.listeningPath) { Leftovers.forget(socket: path) }
        flush()
        if op.hasLeft { return }
        let lonely = zip(last, engine.snapshot()).filter { $0.kind.connects && !$1.wasConnected }.map(\.0.name)
        if !lonely.isEmpty {
            fail("\(lonely.joined(separator: ", ")): never connected; start what serves the socket, or check the path")
        }
    }

    /// Before the sandbox, which lets no socket be made but Unix ones.
    private func openMetrics() -> Int32? {
        do { return try settings.metrics?.open() } catch { fail("\(error)") }
    }

    /// Gives up what these settings do not need; nil: nothing.
    private func confine() -> Sandbox.Report? {
        if !settings.isConfined { return nil }
        do throws(SandboxError) { return try Sandbox(settings, file: file, follows: successor != nil).enter() } catch {
            fail("sandbox: \(error); without one: --no-sandbox, or sandbox: off in the file")
        }
    }

    private func tell(_ sandbox: Sandbox.Report?) {
        let log = Logger(label: "ringway")
        log.notice("sandbox: \(sandbox?.inForce.joined(separator: "; ") ?? "off")")
        for line in sandbox?.missing ?? [] { log.warning("sandbox: not in force: \(line)") }
    }

    /// Who does not get to know how this program is, may end it: that goes into the log, and packets flow.
    private func serviceManager() -> ServiceManager? {
        let inherited = successor?.manager ?? [:]
        let environment = ProcessInfo.processInfo.environment.merging(inherited) { $1 }
        do throws(EngineError) { return try ServiceManager(environment) } catch {
            Logger(label: "ringway").warning("the service manager is not told of anything: \(error)")
            return nil
        }
    }

    /// Until a signal, the end of `duration`, or until nobody reads what is printed. Without `stats` nothing wakes
    /// up meanwhile. Returns the ports that there were at the end.
    private func serve(_ op: Operator) -> [PortOptions] {
        print(json ? "{\"type\":\"ready\"}" : "ready")
        let start = CPlatClock.seconds
        let end = duration.map { start + $0 }
        var report = op.perform { Report(isJSON: json, start: start, EngineCounts($0)) }
        var next = stats.map { start + $0 }
        while isOutputOpen {
            if Signals.wait(until: [end, next].compactMap { $0 }.min()) { break }
            let now = CPlatClock.seconds
            if let end, now >= end { break }
            if let due = next, now >= due {
                report.interval(op.perform { EngineCounts($0) }, now)
                next = due + (stats ?? 1)
            }
        }
        op.stop()
        return op.perform { engine in
            let now = CPlatClock.seconds
            let (threads, ports) = (engine.threadSnapshots(), engine.portOptions.map(\.options))
            engine.stop()
            report.totals(EngineCounts(engine, threads: threads), now)
            return ports
        }
    }
}

/// Ends the program where `--stats` or `--duration` cannot be.
func checkPeriods(stats: Double?, duration: Double?) {
    if let stats, !(stats >= 0.01) { fail("--stats \(stats): give seconds above 0.01", status: 64) }
    if let duration, !(duration > 0) { fail("--duration \(duration): give seconds above 0", status: 64) }
}
