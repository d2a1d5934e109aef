import Console

/// What `ringway top` shows at one moment: two records of the counters and what queues wait for, as lines of text.
package struct TopFrame {
    package enum Order: String, CaseIterable, Sendable {
        case place, received, delivered, drops

        package var next: Order {
            let all = Order.allCases
            return all[((all.firstIndex(of: self) ?? 0) + 1) % all.count]
        }
    }

    /// What was counted since the last frame.
    private let period: PeriodRecord
    private let queues: [QueueReport]
    private let order: Order
    private let showsThreads: Bool

    package init(
        _ before: PeriodRecord, _ now: PeriodRecord, _ queues: [QueueReport], order: Order = .place,
        showsThreads: Bool = true
    ) {
        period = now.since(before, seconds: now.seconds - before.seconds)
        (self.queues, self.order, self.showsThreads) = (queues, order, showsThreads)
    }

    /// What a line is.
    package enum Style: Sendable {
        case plain, title, header, port
        /// Of a queue that stands still, or whose thread is overloaded.
        case still
    }

    private typealias Line = (text: String, style: Style)

    /// What of a frame is shown.
    package struct View {
        package let lines: [String]
        /// Of each line.
        package let styles: [Style]
        /// Lines of ports above the first that is shown.
        package let first: Int
        /// Lines of ports that there is room for.
        package let room: Int
    }

    /// The whole frame, a line each.
    package func lines(title: String) -> [String] {
        view(width: .max, height: .max, title: title, from: 0).lines
    }

    /// What of it has room in `width` columns and `height` lines: `title` and threads always, of the ports those from
    /// line `first` on, or the last ones where there are fewer behind it. The last line says which ports are shown,
    /// where others are not.
    package func view(width: Int, height: Int, title: String, from first: Int) -> View {
        let ends: [Line] = [("", .plain), (header, .header)]
        var head: [Line] = [(title, .title)] + (showsThreads ? threadLines : []) + ends
        // Ports come first on a terminal of a few lines.
        if height - head.count < 3 { head = [(title, .title)] + ends }
        let groups = ports.map { lines(of: $0) }
        let body = groups.enumerated().flatMap { index, group in group.map { (port: index + 1, line: $0) } }
        var (room, start, foot) = (max(0, height - head.count), 0, [] as [Line])
        if body.count > room {
            room = max(0, room - 1)
            start = max(0, min(first, body.count - room))
            let seen = body[start...].prefix(room)
            let numbers = seen.first.map { "\($0.port)-\(seen.last?.port ?? $0.port)" } ?? "0"
            foot = [("ports \(numbers) of \(groups.count)", .title)]
        }
        let shown = (head + body.dropFirst(start).prefix(room).map(\.line) + foot).prefix(height)
        return View(
            lines: shown.map { String($0.text.prefix(width)) }, styles: shown.map(\.style), first: start, room: room)
    }

    // MARK: Threads

    private var threadLines: [Line] {
        let header = Text.left("thread", 8) + ["CPU", "busy", "on CPU", "calls/s"].map { Text.right($0, 9) }.joined()
        let seconds = max(period.seconds, 1e-9)
        return [(header, .header)]
            + (period.threads ?? []).enumerated().map { index, thread -> Line in
                let share = Text.number(thread.busySeconds / seconds * 100, 0) + " %"
                let cpu = Text.number(thread.cpuSeconds / seconds * 100, 0) + " %"
                let line =
                    Text.left("\(index)", 8)
                    + [
                        thread.cpu < 0 ? "any" : "\(thread.cpu)", share, cpu,
                        Text.number(Double(thread.systemCalls) / seconds, 0),
                    ].map { Text.right($0, 9) }.joined()
                return (line, .plain)
            }
    }

    // MARK: Ports

    private var ports: [PeriodRecord.Port] {
        func weight(_ port: PeriodRecord.Port) -> Double {
            switch order {
            case .place: return 0
            case .received: return port.rx.mpps
            case .delivered: return port.tx.mpps
            case .drops: return Double(port.drops.values.reduce(0, &+))
            }
        }
        return period.ports.sorted { (-weight($0), $0.place) < (-weight($1), $1.place) }
    }

    private static let nameWidth = 34

    private var header: String {
        Text.left("port", TopFrame.nameWidth)
            + ["rx Mpps", "Gbit/s", "tx Mpps", "Gbit/s", "drops/s"].map { Text.right($0, 9) }.joined()
            + "  " + "sojourn p50/p99 µs, drops by cause, what stands still"
    }

    private func lines(of port: PeriodRecord.Port) -> [Line] {
        let drops = port.drops.values.reduce(0, &+)
        let state = port.up ? port.connected ? "" : "not connected" : "down"
        let causes = port.drops.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map {
            "\($0.key): \(rate($0.value))"
        }
        let words = (state.isEmpty ? [] : [state]) + causes
        let total = TopFrame.line(
            port.port,
            [
                Text.number(port.rx.mpps, 3), Text.number(port.rx.gbps, 3), Text.number(port.tx.mpps, 3),
                Text.number(port.tx.gbps, 3), rate(drops),
            ], words.joined(separator: ", "))
        if !port.connected || !port.up { return [(total, .port)] }
        return [(total, .port)]
            + queues.filter { $0.port == port.port && isShown($0, port) }.map { line($0, port) }
    }

    /// Queues that do something, or should.
    private func isShown(_ queue: QueueReport, _ port: PeriodRecord.Port) -> Bool {
        queue.standsStill || queue.condition == .overloaded || port.queues.contains { $0.queue == queue.queue }
    }

    private func line(_ queue: QueueReport, _ port: PeriodRecord.Port) -> Line {
        let counts = port.queues.first { $0.queue == queue.queue }
        let (packets, bytes) = (counts?.packets ?? 0, counts?.bytes ?? 0)
        let seconds = max(period.seconds, 1e-9)
        let rates = [
            Text.number(Double(packets) / seconds / 1e6, 3), Text.number(Double(bytes) * 8 / seconds / 1e9, 3),
        ]
        let columns = queue.direction == "transmit" ? rates + ["", "", ""] : ["", ""] + rates + [""]
        let isNews = queue.standsStill || queue.condition == .overloaded
        let news = isNews ? "\(queue.text), for \(QueueReport.age(queue.seconds))" : ""
        let line = TopFrame.line(
            "  queue \(queue.queue) \(queue.direction)", columns,
            [sojourn(queue), news].filter { !$0.isEmpty }.joined(separator: " "))
        return (line, isNews ? .still : .plain)
    }

    private func sojourn(_ queue: QueueReport) -> String {
        guard
            let time = period.queueTimes?.first(where: {
                $0.port == queue.port && $0.queue == queue.queue && $0.what == "ring sojourn"
            })
        else { return "" }
        return Text.microseconds(time.nanoseconds["p50"] ?? 0) + "/" + Text.microseconds(time.nanoseconds["p99"] ?? 0)
    }

    private func rate(_ count: UInt64) -> String { Text.number(Double(count) / max(period.seconds, 1e-9), 0) }

    private static func line(_ name: String, _ columns: [String], _ words: String) -> String {
        let name = name.count > nameWidth ? "…" + name.suffix(nameWidth - 1) : name
        let line = Text.left(name, nameWidth) + columns.map { Text.right($0, 9) }.joined()
        return words.isEmpty ? String(line.reversed().drop { $0 == " " }.reversed()) : line + "  " + words
    }
}
