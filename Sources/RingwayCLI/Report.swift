import Console
import Operation
import Ringway

/// Prints counters: a table for people, a JSON object a line for programs.
struct Report {
    let isJSON: Bool
    let start: Double
    /// All that was counted until the last interval.
    private var last: PeriodRecord
    private var lastTime: Double
    private var lastTimes: [QueueTimeSnapshot] = []

    init(isJSON: Bool, start: Double, _ counts: EngineCounts) {
        self.isJSON = isJSON
        self.start = start
        last = PeriodRecord(counts, withTimes: false, seconds: 0)
        lastTime = start
    }

    /// What happened since the last interval.
    mutating func interval(_ now: EngineCounts, _ time: Double) {
        let new = now.times.compactMap { t in
            var t = t
            if let before = lastTimes.first(where: { $0.port == t.port && $0.queue == t.queue && $0.what == t.what }),
                // Less: another port of this name.
                before.counts.count <= t.counts.count
            {
                t.counts = t.counts.since(before.counts)
            }
            return t.counts.count > 0 ? t : nil
        }
        let all = PeriodRecord(now, withTimes: false, seconds: time - start)
        var record = all.since(last, seconds: time - lastTime)
        record.queueTimes = new.isEmpty ? nil : new.map(PeriodRecord.Times.init)
        show("interval", record, "after \(Text.number(time - start, 1)) s")
        (last, lastTimes, lastTime) = (all, now.times, time)
    }

    /// All that the engine has counted. (A snapshot that was taken while it ran would not be of one moment.)
    func totals(_ now: EngineCounts, _ time: Double) {
        let record = PeriodRecord(now, seconds: time - start)
        show("totals", record, "totals of \(Text.number(time - start, 1)) s")
    }

    private func show(_ kind: String, _ record: PeriodRecord, _ title: String) {
        if isJSON { return print(JSON.text(type: kind, record)) }
        print(([title] + record.table).joined(separator: "\n"))
    }
}
