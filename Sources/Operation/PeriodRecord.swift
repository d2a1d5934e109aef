import Console
import Ringway
import RingwayLab
import Telemetry

/// What a dataplane counted over a period: the shape of `forward --json` and of the control socket's `stats`
/// (docs/json.md). Rates are of the period.
package struct PeriodRecord: Codable, Sendable {
    package struct Direction: Codable, Sendable {
        package var packets: UInt64
        package var bytes: UInt64
        package var mpps: Double
        package var gbps: Double

        init(_ packets: UInt64, _ bytes: UInt64, _ seconds: Double) {
            (self.packets, self.bytes) = (packets, bytes)
            mpps = (Double(packets) / seconds / 1e6).rounded(digits: 6)
            gbps = (Double(bytes) * 8 / seconds / 1e9).rounded(digits: 6)
        }

        func since(_ earlier: Direction?, _ seconds: Double) -> Direction {
            Direction(packets &- (earlier?.packets ?? 0), bytes &- (earlier?.bytes ?? 0), seconds)
        }
    }

    package struct Queue: Codable, Sendable {
        package var queue: Int
        package var packets: UInt64
        package var bytes: UInt64
        package var kicks: UInt64
        package var calls: UInt64

        fileprivate var isIdle: Bool { packets == 0 && kicks == 0 && calls == 0 }
    }

    package struct Port: Codable, Sendable {
        package var port: String
        package var place: Int
        /// Ports that there were before it: tells apart those that had one name after each other.
        package var serial: UInt64
        package var up: Bool
        package var connected: Bool
        package var rx: Direction
        package var tx: Direction
        package var flooded: UInt64
        package var consumed: UInt64
        package var made: UInt64
        /// By cause.
        package var drops: [String: UInt64]
        package var stoppedQueues: [String: UInt64]
        /// Those that had events.
        package var queues: [Queue]
    }

    package struct Times: Codable, Sendable {
        package var port: String
        package var queue: Int
        package var what: String
        /// A `LatencyHistogram`'s summary.
        package var nanoseconds: [String: UInt64]
        /// How often which time: by the nanoseconds at which each of its histogram's buckets begins, those with any.
        package var counts: [String: UInt64]?

        package init(_ t: QueueTimeSnapshot) { self.init(t, withCounts: false) }

        init(_ t: QueueTimeSnapshot, withCounts: Bool) {
            (port, queue, what, nanoseconds) = (t.port, t.queue, t.what.text, t.latencies.summary)
            if !withCounts { return }
            counts = [:]
            for (bucket, count) in t.counts.counts.enumerated() where count > 0 {
                let begin = LiveHistogram.lowest(bucket) * 1000 / max(1, t.ticksPerMicrosecond)
                counts?["\(begin)", default: 0] += count
            }
        }

        /// What was timed after `earlier`; nil: nothing, or the counts are not known.
        fileprivate func since(_ earlier: Times?) -> Times? {
            guard let counts else { return nil }
            var (new, latencies) = (self, LatencyHistogram())
            new.counts = PeriodRecord.difference(counts, earlier?.counts)
            for (begin, count) in new.counts ?? [:] {
                guard let begin = UInt64(begin) else { continue }
                // A bucket is a sixteenth of its beginning wide: its middle, but nothing longer than the longest.
                let middle = min(begin + begin / 32, max(begin, nanoseconds["max"] ?? begin))
                latencies.record(nanoseconds: middle, count: count)
            }
            if latencies.count == 0 { return nil }
            new.nanoseconds = latencies.summary
            return new
        }
    }

    package struct Thread: Codable, Sendable {
        package var cpu: Int
        package var busyCycles: UInt64
        package var busySeconds: Double
        package var systemCalls: UInt64
        package var cpuSeconds: Double
    }

    package var seconds: Double
    package var ports: [Port]
    /// What queues have timed, where there is any.
    package var queueTimes: [Times]?
    /// Work and system calls, where threads are given.
    package var threads: [Thread]?
    /// What the packet function counts, by its names, where it counts anything.
    package var functionCounters: [String: UInt64]?

    /// All that was counted in so many seconds. `withCounts`: times can be told of periods, too (`since`).
    package init(_ counts: EngineCounts, withTimes: Bool = true, withCounts: Bool = false, seconds: Double) {
        let events = Dictionary(counts.function.map { ($0.name, $0.count) }, uniquingKeysWith: &+)
        functionCounters = events.isEmpty ? nil : events
        self.seconds = seconds.rounded(digits: 3)
        ports = counts.ports.map { Port($0, max(seconds, 1e-9)) }
        queueTimes = counts.times.isEmpty || !withTimes ? nil : counts.times.map { Times($0, withCounts: withCounts) }
        threads = counts.threads.isEmpty ? nil : counts.threads.map(Thread.init)
    }

    /// What was added after `earlier`, which was made so many seconds before. Of queue times those that have `counts`.
    package func since(_ earlier: PeriodRecord, seconds: Double) -> PeriodRecord {
        var new = self
        new.seconds = seconds.rounded(digits: 3)
        new.ports = ports.map { port in
            port.since(earlier.ports.first { $0.serial == port.serial }, max(seconds, 1e-9))
        }
        new.queueTimes = times(since: earlier)
        new.functionCounters = functionCounters?.reduce(into: [:]) {
            $0[$1.key] = $1.value &- (earlier.functionCounters?[$1.key] ?? 0)
        }
        if let threads, let before = earlier.threads { new.threads = zip(threads, before).map { $0.since($1) } }
        return new
    }

    private func times(since earlier: PeriodRecord) -> [Times]? {
        struct Place: Hashable {
            let port: String
            let queue: Int
            let what: String
        }
        // Another port that has the name now has nothing before it.
        let serials = Set(earlier.ports.map(\.serial))
        let same = Set(ports.filter { serials.contains($0.serial) }.map(\.port))
        var before: [Place: Times] = [:]
        for t in earlier.queueTimes ?? [] where same.contains(t.port) {
            before[Place(port: t.port, queue: t.queue, what: t.what)] = t
        }
        let all = (queueTimes ?? []).compactMap {
            $0.since(before[Place(port: $0.port, queue: $0.queue, what: $0.what)])
        }
        return all.isEmpty ? nil : all
    }

    /// What has grown, and by how much.
    fileprivate static func difference(_ now: [String: UInt64], _ before: [String: UInt64]?) -> [String: UInt64] {
        now.reduce(into: [:]) { all, next in
            let count = next.value &- (before?[next.key] ?? 0)
            if count > 0 { all[next.key] = count }
        }
    }
}

extension PeriodRecord.Port {
    package init(_ port: PortSnapshot, _ seconds: Double) {
        func object(_ counts: [(cause: String, count: UInt64)]) -> [String: UInt64] {
            Dictionary(counts.map { ($0.cause, $0.count) }, uniquingKeysWith: &+)
        }
        self.init(
            port: port.name, place: port.place, serial: port.serial, up: port.isUp, connected: port.isConnected,
            rx: .init(port.rx.packets, port.rx.bytes, seconds), tx: .init(port.tx.packets, port.tx.bytes, seconds),
            flooded: port.flooded, consumed: port.consumed, made: port.made, drops: object(port.drops),
            stoppedQueues: object(port.stoppedQueues),
            queues: port.queues.map {
                .init(queue: $0.queue, packets: $0.packets, bytes: $0.bytes, kicks: $0.kicks, calls: $0.calls)
            }.filter { !$0.isIdle })
    }

    func since(_ earlier: Self?, _ seconds: Double) -> Self {
        var new = self
        (new.rx, new.tx) = (rx.since(earlier?.rx, seconds), tx.since(earlier?.tx, seconds))
        new.flooded &-= earlier?.flooded ?? 0
        new.consumed &-= earlier?.consumed ?? 0
        new.made &-= earlier?.made ?? 0
        new.drops = PeriodRecord.difference(drops, earlier?.drops)
        new.stoppedQueues = PeriodRecord.difference(stoppedQueues, earlier?.stoppedQueues)
        new.queues = queues.map { queue in
            let before = earlier?.queues.first { $0.queue == queue.queue }
            return .init(
                queue: queue.queue, packets: queue.packets &- (before?.packets ?? 0),
                bytes: queue.bytes &- (before?.bytes ?? 0), kicks: queue.kicks &- (before?.kicks ?? 0),
                calls: queue.calls &- (before?.calls ?? 0))
        }.filter { !$0.isIdle }
        return new
    }
}

extension PeriodRecord.Thread {
    init(_ t: ThreadSnapshot) {
        self.init(
            cpu: t.cpu, busyCycles: t.busyCycles, busySeconds: (Double(t.busyNanoseconds) / 1e9).rounded(digits: 6),
            systemCalls: t.systemCalls, cpuSeconds: (Double(t.cpuNanoseconds) / 1e9).rounded(digits: 6))
    }

    func since(_ earlier: Self) -> Self {
        Self(
            cpu: cpu, busyCycles: busyCycles &- earlier.busyCycles,
            busySeconds: (busySeconds - earlier.busySeconds).rounded(digits: 6),
            systemCalls: systemCalls &- earlier.systemCalls,
            cpuSeconds: (cpuSeconds - earlier.cpuSeconds).rounded(digits: 6))
    }
}
