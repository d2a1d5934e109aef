import Console
import Glibc
import Ringway
import RingwayLab

/// Prints counters: a table for people, a JSON object a line for programs.
struct Report {
    let isJSON: Bool
    let start: Double
    private var last: [PortSnapshot]
    private var lastTime: Double
    private var lastTimes: [QueueTimeSnapshot] = []
    private var lastThreads: [ThreadSnapshot]

    init(isJSON: Bool, start: Double, _ snapshot: [PortSnapshot], _ threads: [ThreadSnapshot]) {
        self.isJSON = isJSON
        self.start = start
        last = snapshot
        lastThreads = threads
        lastTime = start
    }

    /// What happened since the last interval.
    mutating func interval(
        _ now: [PortSnapshot], _ times: [QueueTimeSnapshot], _ threads: [ThreadSnapshot], _ time: Double
    ) {
        let new = times.compactMap { t in
            var t = t
            if let before = lastTimes.first(where: { $0.port == t.port && $0.queue == t.queue && $0.what == t.what }) {
                t.counts = t.counts.since(before.counts)
            }
            return t.counts.count > 0 ? t : nil
        }
        show("interval", now, since: last, time - lastTime, new, zip(threads, lastThreads).map { $0.since($1) })
        (last, lastTimes, lastThreads) = (now, times, threads)
        lastTime = time
    }

    /// All that the engine has counted. (A snapshot that was taken while it ran would not be of one moment.)
    func totals(_ now: [PortSnapshot], _ times: [QueueTimeSnapshot], _ threads: [ThreadSnapshot], _ time: Double) {
        show("totals", now, since: [], time - start, times, threads)
    }

    private func show(
        _ kind: String, _ now: [PortSnapshot], since: [PortSnapshot], _ seconds: Double, _ times: [QueueTimeSnapshot],
        _ threads: [ThreadSnapshot]
    ) {
        let rows = now.indices.map { Row(now[$0], since.isEmpty ? nil : since[$0], max(seconds, 1e-9)) }
        if isJSON {
            let record = PeriodRecord(
                seconds: seconds.rounded(digits: 3), ports: rows.map(\.record),
                queueTimes: times.isEmpty ? nil : times.map(PeriodRecord.Times.init),
                threads: threads.isEmpty ? nil : threads.map(PeriodRecord.Thread.init))
            print(JSON.text(type: kind, record))
        } else {
            print(
                kind == "totals"
                    ? "totals of \(Text.number(seconds, 1)) s"
                    : "after \(Text.number(lastTime + seconds - start, 1)) s")
            let width = rows.map { $0.name.count }.max() ?? 0
            print(Row.header(width))
            for row in rows { print(row.lines(width)) }
            for line in Report.lines(of: rows) { print(line) }
            for line in Report.lines(times) { print(line) }
        }
    }

    /// Kicks and calls of the queues that had any.
    private static func lines(of rows: [Row]) -> [String] {
        let all = rows.flatMap { row in row.queues.map { ("\(row.port.name) queue \($0.queue)", $0) } }
        if all.isEmpty { return [] }
        let width = max(36, all.map(\.0.count).max() ?? 0)
        return [Text.left("events of queues", width) + Text.right("kicks", 12) + Text.right("calls", 12)]
            + all.map { Text.left($0, width) + Text.right("\($1.kicks)", 12) + Text.right("\($1.calls)", 12) }
    }

    /// What each queue has timed, where there is any.
    private static func lines(_ times: [QueueTimeSnapshot]) -> [String] {
        if times.isEmpty { return [] }
        let names = times.map { "\($0.port) queue \($0.queue), \($0.what.text)" }
        let width = max(36, names.map(\.count).max() ?? 0)
        let header =
            Text.left("queue times in µs", width) + Text.right("count", 12)
            + [50, 99, 99.9, 99.99].map { Text.right(LatencyHistogram.name($0), 10) }.joined() + Text.right("max", 10)
        return [header]
            + zip(names, times).map { name, t in
                let h = t.latencies
                return Text.left(name, width) + Text.right("\(h.count)", 12)
                    + [50, 99, 99.9, 99.99].map { Text.right(Text.microseconds(h.percentile($0)), 10) }.joined()
                    + Text.right(Text.microseconds(h.maximum), 10)
            }
    }
}

/// A period as `forward --json` writes it.
private struct PeriodRecord: Encodable {
    struct Direction: Encodable {
        let packets: UInt64
        let bytes: UInt64
        let mpps: Double
        let gbps: Double
    }

    struct Queue: Encodable {
        let queue: Int
        let kicks: UInt64
        let calls: UInt64
    }

    struct Port: Encodable {
        let port: String
        let connected: Bool
        let rx: Direction
        let tx: Direction
        let flooded: UInt64
        let consumed: UInt64
        let made: UInt64
        /// By cause.
        let drops: [String: UInt64]
        let stoppedQueues: [String: UInt64]
        /// Those that had events.
        let queues: [Queue]
    }

    struct Times: Encodable {
        let port: String
        let queue: Int
        let what: String
        let nanoseconds: LatencyHistogram

        init(_ t: QueueTimeSnapshot) { (port, queue, what, nanoseconds) = (t.port, t.queue, t.what.text, t.latencies) }
    }

    struct Thread: Encodable {
        let cpu: Int
        let busyCycles: UInt64
        let systemCalls: UInt64
        let cpuSeconds: Double

        init(_ t: ThreadSnapshot) {
            (cpu, busyCycles, systemCalls) = (t.cpu, t.busyCycles, t.systemCalls)
            cpuSeconds = (Double(t.cpuNanoseconds) / 1e9).rounded(digits: 6)
        }
    }

    let seconds: Double
    let ports: [Port]
    /// What queues have timed, where there is any.
    let queueTimes: [Times]?
    /// Work and system calls, where threads are given.
    let threads: [Thread]?
}

/// One port over one period.
private struct Row {
    let port: PortSnapshot
    let rx: DirectionCounters
    let tx: DirectionCounters
    let drops: [(cause: String, count: UInt64)]
    let flooded: UInt64
    let consumed: UInt64
    let made: UInt64
    /// Of queues that had events.
    let queues: [QueueSnapshot]
    let stops: [(cause: String, count: UInt64)]
    let seconds: Double

    /// Without `before`: since the engine started.
    init(_ now: PortSnapshot, _ before: PortSnapshot?, _ seconds: Double) {
        port = now
        let queues = before.map { zip(now.queues, $0.queues).map { $0.since($1) } } ?? now.queues
        self.queues = queues.filter { $0.kicks > 0 || $0.calls > 0 }
        flooded = now.flooded &- (before?.flooded ?? 0)
        consumed = now.consumed &- (before?.consumed ?? 0)
        made = now.made &- (before?.made ?? 0)
        rx = Row.difference(now.rx, before?.rx ?? .init())
        tx = Row.difference(now.tx, before?.tx ?? .init())
        drops = Row.difference(now.drops, before?.drops ?? [])
        stops = Row.difference(now.stoppedQueues, before?.stoppedQueues ?? [])
        self.seconds = seconds
    }

    private static func difference(
        _ now: [(cause: String, count: UInt64)], _ before: [(cause: String, count: UInt64)]
    ) -> [(cause: String, count: UInt64)] {
        now.compactMap { n in
            let count = n.count &- (before.first { $0.cause == n.cause }?.count ?? 0)
            return count > 0 ? (n.cause, count) : nil
        }
    }

    private static func difference(_ a: DirectionCounters, _ b: DirectionCounters) -> DirectionCounters {
        var d = DirectionCounters()
        d.packets = a.packets &- b.packets
        d.bytes = a.bytes &- b.bytes
        return d
    }

    private func mpps(_ d: DirectionCounters) -> Double { Double(d.packets) / seconds / 1e6 }
    private func gbps(_ d: DirectionCounters) -> Double { Double(d.bytes) * 8 / seconds / 1e9 }

    var record: PeriodRecord.Port {
        func direction(_ d: DirectionCounters) -> PeriodRecord.Direction {
            .init(
                packets: d.packets, bytes: d.bytes, mpps: mpps(d).rounded(digits: 6), gbps: gbps(d).rounded(digits: 6))
        }
        func object(_ counts: [(cause: String, count: UInt64)]) -> [String: UInt64] {
            Dictionary(counts.map { ($0.cause, $0.count) }, uniquingKeysWith: &+)
        }
        return PeriodRecord.Port(
            port: port.name, connected: port.isConnected, rx: direction(rx), tx: direction(tx), flooded: flooded,
            consumed: consumed, made: made, drops: object(drops), stoppedQueues: object(stops),
            queues: queues.map { .init(queue: $0.queue, kicks: $0.kicks, calls: $0.calls) })
    }

    static func header(_ width: Int) -> String {
        line(width, "port", "", "packets", "bytes", "Mpps", "Gbit/s", "drops")
    }

    var name: String { port.name + (port.isConnected ? "" : " (not connected)") }

    func lines(_ width: Int) -> String {
        let causes = drops.map { "\($0.cause): \($0.count)" }.joined(separator: ", ")
        let stopped = stops.map { "queues stopped, \($0.cause): \($0.count)" }.joined(separator: ", ")
        return Row.line(
            width, name, "rx", "\(rx.packets)", "\(rx.bytes)", Text.number(mpps(rx), 3), Text.number(gbps(rx), 3),
            causes) + "\n"
            + Row.line(
                width, "", "tx", "\(tx.packets)", "\(tx.bytes)", Text.number(mpps(tx), 3), Text.number(gbps(tx), 3),
                stopped)
    }

    private static func line(_ width: Int, _ name: String, _ way: String, _ columns: String...) -> String {
        Text.left(name, max(32, width)) + " " + Text.left(way, 3) + Text.right(columns[0], 14)
            + Text.right(columns[1], 17)
            + Text.right(columns[2], 9) + Text.right(columns[3], 9) + (columns[4].isEmpty ? "" : "  " + columns[4])
    }
}
