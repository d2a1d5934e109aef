import Console
import Logging
import Ringway

/// Looks at all queues of an engine again and again, says what each of them waits for, and logs which begins to stand
/// still and which goes on. Belongs to the thread that calls the engine.
final class Watchdog {
    /// What is known of a queue from earlier looks.
    private struct State {
        let condition: QueueCondition
        /// When it began to be so, and what had been dropped then.
        let since: UInt64
        let refused: UInt64
        /// Why the queue stands still, as far as the log knows.
        var told: QueueCondition?
    }

    private struct Key: Hashable {
        let serial: UInt64
        let queue: Int
    }

    private let engine: Engine
    private let log: Logger
    /// The last looks, `shortest` apart from each other: what is new is compared with one of them.
    private var last: EngineLook?
    private var older: EngineLook?
    private var states: [Key: State] = [:]
    private var histories: [Key: QueueHistory] = [:]
    /// What the last look found, by ports and queues.
    private(set) var reports: [QueueReport] = []
    /// The share of its time in which each thread had work then.
    private(set) var busyShares: [Double] = []

    /// Poll threads that do not come round, as far as the log knows.
    private var toldLate = Set<Int>()

    /// Nanoseconds from look to look.
    static let period: UInt64 = 1_000_000_000
    /// A look tells little that soon after another one.
    private static let shortest: UInt64 = 200_000_000
    /// A queue that stands still is told of after so many nanoseconds.
    private static let patience: UInt64 = 900_000_000
    /// Lines for each look. More queues that stand still at once are counted.
    private static let mostLines = 16

    init(_ engine: Engine, _ log: Logger) { (self.engine, self.log) = (engine, log) }

    /// Whether each poll thread that does not sleep has come round in the last so many nanoseconds, where this is asked
    /// that often.
    func threadsComeRound(within nanoseconds: UInt64) -> Bool { latest() < nanoseconds }

    /// For how long a poll thread has not come round; 0: all do. One that does not for long is logged.
    private func latest() -> UInt64 {
        let late = engine.lateThreads()
        for thread in late where thread.nanoseconds >= Watchdog.patience && toldLate.insert(thread.thread).inserted {
            log.error(
                """
                poll thread \(thread.thread)\(thread.cpu < 0 ? "" : " (CPU \(thread.cpu))") has not come round for \
                \(thread.nanoseconds / 1_000_000) ms: its packet function does not return, or it gets no CPU
                """,
                metadata: ["thread": "\(thread.thread)"])
        }
        for thread in toldLate.sorted() where !late.contains(where: { $0.thread == thread }) {
            toldLate.remove(thread)
            log.info("poll thread \(thread) comes round again", metadata: ["thread": "\(thread)"])
        }
        return late.map(\.nanoseconds).max() ?? 0
    }

    /// Looks, and logs what has changed. While a poll thread does not come round, what was seen before stays.
    func look() {
        if latest() >= Watchdog.shortest { return }
        guard let now = engine.look() else { return }
        let isSoon = now.nanoseconds &- (last?.nanoseconds ?? 0) < Watchdog.shortest
        let comparison = Comparison(isSoon ? older : last, now)
        if !isSoon { (older, last) = (last, now) }
        busyShares = now.threads.indices.map(comparison.busyShare)
        var new: [Key: State] = [:]
        var lines: [(Logger.Level, QueueReport, String)] = []
        reports = now.queues.compactMap { queue in
            guard let port = comparison.port(of: queue) else { return nil }
            let key = Key(serial: port.serial, queue: queue.queue)
            var state = next(states[key], comparison.condition(queue), queue, now.nanoseconds)
            let thread = now.threads[queue.thread]
            var report = QueueReport(
                queue, port, state.condition, busyShare: busyShares[queue.thread], cpu: thread.cpu)
            report.seconds = (Double(now.nanoseconds &- state.since) / 1e9).rounded(digits: 3)
            // The counter is the pair's; what its driver does not take is what counts.
            if queue.direction == .receive { report.dropped = queue.refused &- state.refused }
            if let line = change(&state, report, now.nanoseconds &- state.since) { lines.append(line) }
            new[key] = state
            histories[key, default: QueueHistory()].note(queue, report)
            return report
        }
        states = new
        // Those of ports that have gone.
        if histories.count > new.count { histories = histories.filter { new[$0.key] != nil } }
        tell(lines)
    }

    /// What a queue is in now.
    private func next(_ old: State?, _ found: QueueCondition, _ queue: QueueLook, _ time: UInt64) -> State {
        var condition = found
        // Nothing has come since, for a driver that still gives no buffers.
        if found == .idle, let old, old.condition.isReceiversOwn, queue.ring.available == 0 {
            condition = old.condition
        }
        if let old, old.condition == condition { return old }
        return State(condition: condition, since: time, refused: queue.refused, told: old?.told)
    }

    /// What is to be said of a queue that has been so for `age` nanoseconds. (Why it stopped at a defect, its port has
    /// said.)
    private func change(
        _ state: inout State, _ report: QueueReport, _ age: UInt64
    ) -> (Logger.Level, QueueReport, String)? {
        if state.condition.standsStill {
            if state.told == state.condition || state.condition == .defect || age < Watchdog.patience { return nil }
            state.told = state.condition
            return (.warning, report, QueueReport.paragraphs([report])[0])
        }
        if state.told == nil { return nil }
        state.told = nil
        return (.info, report, "\(report.port) queue \(report.queue) (\(report.direction)) goes on: \(report.text)")
    }

    /// The last events of queues of a port, by their numbers; those of which nothing is known are missing.
    func events(port serial: UInt64) -> [(queue: Int, events: [QueueEvent])] {
        histories.filter { $0.key.serial == serial }.map { ($0.key.queue, $0.value.events) }.sorted { $0.0 < $1.0 }
    }

    private func tell(_ lines: [(level: Logger.Level, report: QueueReport, text: String)]) {
        for line in lines.prefix(Watchdog.mostLines) {
            log.log(
                level: line.level, "\(line.text)",
                metadata: [
                    "port": "\(line.report.port)", "queue": "\(line.report.queue)",
                    "condition": "\(line.report.condition.rawValue)",
                ])
        }
        let left = lines.count - Watchdog.mostLines
        if left > 0 { log.warning("\(left) more queues stand still or go on; `ringway why` names them") }
    }
}
