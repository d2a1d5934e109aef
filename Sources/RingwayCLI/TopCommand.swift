import ArgumentParser
import Console
import Foundation
import Operation

struct TopCommand: ParsableCommand, GoesOn {
    static let configuration = CommandConfiguration(
        commandName: "top", abstract: "Show what a ringway that runs does, on the whole screen.",
        discussion: """
            Packets and bytes by port and queue, drops by cause, how busy each thread is, and which queue stands still \
            and why. The socket for reading (--control-read) will do. Keys: q quits, p pauses, s sorts by another \
            column, t shows or hides the threads, h shows the keys. docs/observability.md has the columns.
            """)

    @Option(help: ArgumentHelp("Between two frames.", valueName: "seconds")) var interval = 1.0
    @Flag(help: "Print one frame, of one interval; needs no terminal.") var once = false
    @Option(help: ArgumentHelp("The control socket of the ringway that runs.", valueName: "path"))
    var control = "/run/ringway/ctl.sock"

    /// What has been asked, and when.
    private struct Sample {
        let record: PeriodRecord
        let queues: [QueueReport]
    }

    func run() throws {
        if !(interval >= 0.05 && interval <= 3600) {
            fail("--interval \(interval): give 0.05 to 3600 seconds", status: 64)
        }
        Signals.handOver()
        do throws(RPC.Failure) {
            let client = try ControlClient(control)
            if once { try printOne(client) } else { try showAll(client) }
        } catch {
            fail("\(error)")
        }
    }

    private func ask(_ client: ControlClient) throws(RPC.Failure) -> Sample {
        Sample(
            record: try client.call(Methods.Stats.self, .init()),
            queues: try client.call(Methods.Why.self, .init()).queues)
    }

    private func printOne(_ client: ControlClient) throws(RPC.Failure) {
        let first = try ask(client)
        if Signals.wait(until: CPlatClock.seconds + interval) { return }
        let second = try ask(client)
        let frame = TopFrame(first.record, second.record, second.queues)
        for line in frame.lines(width: .max, height: .max, title: title(second, [])) { print(line) }
        flush()
    }

    private func title(_ sample: Sample, _ more: [String]) -> String {
        let still = sample.queues.filter(\.standsStill).count
        var parts = ["ringway \(control)", "\(sample.record.ports.count) ports", "\(sample.queues.count) queues"]
        if still > 0 { parts.append("\(still) STAND STILL") }
        return (parts + more).joined(separator: "  ")
    }

    private static let help = [
        "q   quit", "p   pause, and go on", "s   sort by place, received, delivered, drops", "t   threads", "h   this",
    ]

    private func showAll(_ client: ControlClient) throws(RPC.Failure) {
        guard let terminal = Terminal() else { fail("this is no terminal; print a frame with --once", status: 64) }
        defer { terminal.restore() }
        var (before, now) = (try ask(client), nil as Sample?)
        var (order, showsThreads, isPaused, showsHelp) = (TopFrame.Order.place, true, false, false)
        var due = CPlatClock.seconds + min(interval, 0.5)
        var shown: (width: Int, height: Int) = (0, 0)
        while !Signals.haveCome && !terminal.isGone {
            var isNew = terminal.size != shown
            switch terminal.key(milliseconds: 50).map({ Character(UnicodeScalar($0)) }) {
            case "q", "Q": return
            case "p": (isPaused, isNew) = (!isPaused, true)
            case "s": (order, isNew) = (order.next, true)
            case "t": (showsThreads, isNew) = (!showsThreads, true)
            case "h", "?": (showsHelp, isNew) = (!showsHelp, true)
            default: break
            }
            if !isPaused && CPlatClock.seconds >= due {
                if let now { before = now }
                (now, isNew) = (try ask(client), true)
                due = CPlatClock.seconds + interval
            }
            if !isNew { continue }
            shown = terminal.size
            var more = ["by \(order.rawValue)", "h: help"]
            if isPaused { more.insert("PAUSED", at: 0) }
            let sample = now ?? before
            let frame = TopFrame(before.record, sample.record, sample.queues, order: order, showsThreads: showsThreads)
            let lines = frame.lines(width: shown.width, height: shown.height, title: title(sample, more))
            terminal.show(showsHelp ? [lines[0], ""] + TopCommand.help : lines)
        }
    }
}
