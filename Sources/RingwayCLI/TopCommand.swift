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
            column, t shows or hides the threads, arrows, Page Up, Page Down, Home and End scroll the ports, h shows \
            the keys. docs/observability.md has the columns.
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
            record: try client.call(Methods.Stats.self, .init(counts: true)),
            queues: try client.call(Methods.Why.self, .init()).queues)
    }

    private func printOne(_ client: ControlClient) throws(RPC.Failure) {
        let first = try ask(client)
        if Signals.wait(until: CPlatClock.seconds + interval) { return }
        let second = try ask(client)
        let frame = TopFrame(first.record, second.record, second.queues)
        for line in frame.lines(title: title(second, [])) { print(line) }
        flush()
    }

    private func title(_ sample: Sample, _ more: [String]) -> String {
        let still = sample.queues.filter(\.standsStill).count
        var parts = ["ringway \(control)", "\(sample.record.ports.count) ports", "\(sample.queues.count) queues"]
        if still > 0 { parts.append("\(still) STAND STILL") }
        return (parts + more).joined(separator: "  ")
    }

    private static let help = [
        "q   quit", "p   pause, and go on", "s   sort by place, received, delivered, drops", "t   threads",
        "↑ ↓, Page Up, Page Down, Home, End   scroll the ports", "h   this",
    ]

    /// Parameters of SGR (ECMA-48, 8.3.117). Colours but for who wants none (no-color.org).
    private func rendition(_ style: TopFrame.Style) -> String {
        switch style {
        case .plain: return ""
        case .title, .port: return "1"
        case .header: return "7"
        case .still: return ProcessInfo.processInfo.environment["NO_COLOR", default: ""].isEmpty ? "1;31" : "1"
        }
    }

    private func showAll(_ client: ControlClient) throws(RPC.Failure) {
        guard let terminal = Terminal() else { fail("this is no terminal; print a frame with --once", status: 64) }
        defer { terminal.restore() }
        var (before, now) = (try ask(client), nil as Sample?)
        var (order, showsThreads, isPaused, showsHelp) = (TopFrame.Order.place, true, false, false)
        var due = CPlatClock.seconds + min(interval, 0.5)
        var shown: (width: Int, height: Int) = (0, 0)
        // Lines of ports above the first one, and those that have room.
        var (first, room) = (0, 1)
        while !Signals.haveCome && !terminal.isGone {
            var isNew = terminal.size != shown
            let key = terminal.key(milliseconds: 50)
            switch key {
            case .character("q"), .character("Q"): return
            case .character("p"): isPaused.toggle()
            case .character("s"): (order, first) = (order.next, 0)
            case .character("t"): showsThreads.toggle()
            case .character("h"), .character("?"): showsHelp.toggle()
            case .up: first -= 1
            case .down: first += 1
            case .pageUp: first -= room
            case .pageDown: first += room
            case .home: first = 0
            case .end: first = .max
            case .character, .other, nil: break
            }
            if key != nil { isNew = true }
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
            let view = frame.view(
                width: shown.width, height: shown.height, title: title(sample, more), from: first)
            (first, room) = (view.first, max(1, view.room))
            if showsHelp {
                terminal.show([view.lines[0], ""] + TopCommand.help)
            } else {
                let lines = zip(view.lines, view.styles)
                terminal.show(
                    lines.map { $1 == .header ? Text.left($0, shown.width) : $0 }, lines.map { rendition($1) })
            }
        }
    }
}
