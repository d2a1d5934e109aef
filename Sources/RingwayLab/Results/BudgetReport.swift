/// What a sweep of busyloop budgets over loads found, and what follows from it.
public struct BudgetReport: Sendable {
    /// Medians over the samples of one budget at one load.
    public struct Point: Sendable, Equatable {
        /// `0`, `50`, `auto`, `poll`.
        public var budget: String
        /// Packets a second; infinity: as many as the rings take.
        public var load: Double
        /// CPU time of the poll thread in percent of one CPU.
        public var cpu: Double
        /// Microseconds. At infinite load latency only tells how long the rings are.
        public var p50: Double
        public var p99: Double
        /// Packets a second that arrived.
        public var throughput: Double
        /// A second.
        public var systemCalls: Double

        public init(
            budget: String, load: Double, cpu: Double, p50: Double, p99: Double, throughput: Double, systemCalls: Double
        ) {
            self.budget = budget
            self.load = load
            self.cpu = cpu
            self.p50 = p50
            self.p99 = p99
            self.throughput = throughput
            self.systemCalls = systemCalls
        }

        /// What a better budget has less of: p99, at infinite load the time a packet takes.
        var delay: Double { load.isFinite ? p99 : 1e6 / max(1, throughput) }
    }

    /// How `auto` did at one load.
    public struct Verdict: Sendable, Equatable {
        public var load: Double
        /// auto's p99 (at infinite load: time a packet) as a multiple of poll's.
        public var delayToPoll: Double
        /// auto's CPU as a multiple of budget 0's.
        public var cpuToZero: Double
        /// Within `margin` of one of the two.
        public var isNearEither: Bool
        /// Fixed budgets that are better in both CPU and p99 by more than `margin`.
        public var betterInBoth: [String]
        public var passed: Bool { isNearEither && betterInBoth.isEmpty }
    }

    /// What counts as near, and what as worse.
    public static let margin = 1.2

    public var points: [Point]
    public init(_ points: [Point]) { self.points = points }

    public var loads: [Double] { Set(points.map(\.load)).sorted() }
    /// In the order of the points.
    public var budgets: [String] { points.reduce(into: []) { if !$0.contains($1.budget) { $0.append($1.budget) } } }

    public func point(_ budget: String, _ load: Double) -> Point? {
        points.first { $0.budget == budget && $0.load == load }
    }

    /// A verdict for each load that has `auto`, `poll` and `0`.
    public var verdicts: [Verdict] {
        loads.compactMap { load in
            guard let auto = point("auto", load), let poll = point("poll", load), let zero = point("0", load) else {
                return nil
            }
            let margin = BudgetReport.margin
            let better = points.filter {
                $0.load == load && $0.budget != "auto" && auto.delay > $0.delay * margin && auto.cpu > $0.cpu * margin
            }
            let (delay, cpu) = (auto.delay / max(poll.delay, 1e-9), auto.cpu / max(zero.cpu, 1e-9))
            return Verdict(
                load: load, delayToPoll: delay, cpuToZero: cpu, isNearEither: delay <= margin || cpu <= margin,
                betterInBoth: better.map(\.budget))
        }
    }

    /// The budget with the least CPU time over all loads among those whose delay is within `allowed` microseconds of
    /// poll's, or within `margin` of it, at every load; nil if none is (`poll` is, if it was measured).
    public func recommended(allowed: Double) -> String? {
        let good = budgets.filter { budget in
            loads.allSatisfy { load in
                guard let p = point(budget, load), let poll = point("poll", load) else { return false }
                return p.delay <= poll.delay * BudgetReport.margin || (load.isFinite && p.delay <= poll.delay + allowed)
            }
        }
        return good.min { cost($0) < cost($1) }
    }

    /// Percent of a CPU, the mean over the loads.
    public func cost(_ budget: String) -> Double {
        let all = points.filter { $0.budget == budget }
        return all.isEmpty ? 0 : all.reduce(0) { $0 + $1.cpu } / Double(all.count)
    }

    /// The middle of several samples.
    public static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        if sorted.isEmpty { return 0 }
        return sorted.count % 2 == 1
            ? sorted[sorted.count / 2] : (sorted[sorted.count / 2 - 1] + sorted[sorted.count / 2]) / 2
    }
}
