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
    /// All that was counted: times are of the whole life.
    private let times: [PeriodRecord.Times]
    private let queues: [QueueReport]
    private let order: Order
    private let showsThreads: Bool

    package init(
        _ before: PeriodRecord, _ now: PeriodRecord, _ queues: [QueueReport], order: Order = .place,
        showsThreads: Bool = true
    ) {
        period = now.since(before, seconds: now.seconds - before.seconds)
        times = now.queueTimes ?? []
        (self.queues, self.order, self.showsThreads) = (queues, order, showsThreads)
    }

    /// The frame, a line each, without what has no room: `width` columns, `height` lines.
    package func lines(width: Int, height: Int, title: String) -> [String] {
        var all = [title] + (showsThreads ? threadLines : [])
        all += ["", header]
        for port in ports { all += lines(of: port) }
        if all.count > height {
            let left = all.count - height + 1
            all = all.prefix(max(0, height - 1)) + ["… \(left) more lines"]
        }
        return all.map { String($0.prefix(width)) }
    }

    // MARK: Threads

    private var threadLines: [String] {
        let header = Text.left("thread", 8) + ["CPU", "busy", "on CPU", "calls/s"].map { Text.right($0, 9) }.joined()
        let seconds = max(period.seconds, 1e-9)
        return [header]
            + (period.threads ?? []).enumerated().map { index, thread in
                let share = Text.number(thread.busySeconds / seconds * 100, 0) + " %"
                let cpu = Text.number(thread.cpuSeconds / seconds * 100, 0) + " %"
                return Text.left("\(index)", 8)
                    + [
                        thread.cpu < 0 ? "any" : "\(thread.cpu)", share, cpu,
                        Text.number(Double(thread.systemCalls) / seconds, 0),
                    ].map { Text.right($0, 9) }.joined()
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

    private func lines(of port: PeriodRecord.Port) -> [String] {
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
        if !port.connected || !port.up { return [total] }
        return [total]
            + queues.filter { $0.port == port.port && isShown($0, port) }.map { line($0, port) }
    }

    /// Queues that do something, or should.
    private func isShown(_ queue: QueueReport, _ port: PeriodRecord.Port) -> Bool {
        queue.standsStill || queue.condition == .overloaded || port.queues.contains { $0.queue == queue.queue }
    }

    private func line(_ queue: QueueReport, _ port: PeriodRecord.Port) -> String {
        let counts = port.queues.first { $0.queue == queue.queue }
        let (packets, bytes) = (counts?.packets ?? 0, counts?.bytes ?? 0)
        let seconds = max(period.seconds, 1e-9)
        let rates = [
            Text.number(Double(packets) / seconds / 1e6, 3), Text.number(Double(bytes) * 8 / seconds / 1e9, 3),
        ]
        let columns = queue.direction == "transmit" ? rates + ["", "", ""] : ["", ""] + rates + [""]
        let isNews = queue.standsStill || queue.condition == .overloaded
        let news = isNews ? "\(queue.text), for \(QueueReport.age(queue.seconds))" : ""
        return TopFrame.line(
            "  queue \(queue.queue) \(queue.direction)", columns,
            [sojourn(queue), news].filter { !$0.isEmpty }.joined(separator: " "))
    }

    private func sojourn(_ queue: QueueReport) -> String {
        guard
            let time = times.first(where: {
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
