import Console
import RingwayLab

extension PeriodRecord {
    /// The record for people, a line each.
    package var table: [String] {
        let width = max(32, ports.map(\.name.count).max() ?? 0)
        return [PeriodRecord.line(width, "port", "", "packets", "bytes", "Mpps", "Gbit/s", "drops")]
            + ports.flatMap { $0.lines(width) } + counters + events + times
    }

    /// What the packet function counts.
    private var counters: [String] {
        guard let functionCounters else { return [] }
        let width = max(36, functionCounters.keys.map(\.count).max() ?? 0)
        return [Text.left("the function's counters", width) + Text.right("count", 12)]
            + functionCounters.sorted { $0.key < $1.key }.map {
                Text.left($0.key, width) + Text.right("\($0.value)", 12)
            }
    }

    /// Kicks and calls of the queues that had any.
    private var events: [String] {
        let all = ports.flatMap { port in
            port.queues.filter { $0.kicks > 0 || $0.calls > 0 }.map { ("\(port.port) queue \($0.queue)", $0) }
        }
        if all.isEmpty { return [] }
        let width = max(36, all.map(\.0.count).max() ?? 0)
        return [Text.left("events of queues", width) + Text.right("kicks", 12) + Text.right("calls", 12)]
            + all.map { Text.left($0, width) + Text.right("\($1.kicks)", 12) + Text.right("\($1.calls)", 12) }
    }

    /// What each queue has timed, where there is any.
    private var times: [String] {
        guard let queueTimes else { return [] }
        let names = queueTimes.map { "\($0.port) queue \($0.queue), \($0.what)" }
        let width = max(36, names.map(\.count).max() ?? 0)
        let percentiles = [50, 99, 99.9, 99.99].map(LatencyHistogram.name)
        let header =
            Text.left("queue times in µs", width) + Text.right("count", 12)
            + percentiles.map { Text.right($0, 10) }.joined() + Text.right("max", 10)
        return [header]
            + zip(names, queueTimes).map { name, t in
                func time(_ name: String) -> String { Text.right(Text.microseconds(t.nanoseconds[name] ?? 0), 10) }
                return Text.left(name, width) + Text.right("\(t.nanoseconds["count"] ?? 0)", 12)
                    + percentiles.map(time).joined() + time("max")
            }
    }

    fileprivate static func line(_ width: Int, _ name: String, _ way: String, _ columns: String...) -> String {
        Text.left(name, width) + " " + Text.left(way, 3) + Text.right(columns[0], 14) + Text.right(columns[1], 17)
            + Text.right(columns[2], 9) + Text.right(columns[3], 9) + (columns[4].isEmpty ? "" : "  " + columns[4])
    }
}

extension PeriodRecord.Port {
    fileprivate var name: String { port + (up ? "" : " (down)") + (connected ? "" : " (not connected)") }

    fileprivate func lines(_ width: Int) -> [String] {
        func list(_ counts: [String: UInt64], _ prefix: String) -> String {
            counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { "\(prefix)\($0.key): \($0.value)" }.joined(
                separator: ", ")
        }
        func line(_ name: String, _ way: String, _ d: PeriodRecord.Direction, _ more: String) -> String {
            PeriodRecord.line(
                width, name, way, "\(d.packets)", "\(d.bytes)", Text.number(d.mpps, 3), Text.number(d.gbps, 3), more)
        }
        return [line(name, "rx", rx, list(drops, "")), line("", "tx", tx, list(stoppedQueues, "queues stopped, "))]
    }
}
