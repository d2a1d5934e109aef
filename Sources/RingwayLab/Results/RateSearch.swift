/// The highest rate without loss, found as RFC 2544 section 26.1 does: trials at offered rates, halving the interval
/// between the highest rate that passed and the lowest that failed, until it is narrower than the resolution; then a
/// confirmation trial at the rate found. If that fails, the rate counts as failed and the search goes on below it.
///
/// A value that only decides: whoever runs the trials asks `next`, runs that trial and hands the outcome to `record`.
public struct RateSearch: Sendable {
    /// What to run.
    public struct Trial: Sendable, Equatable {
        /// Frames a second to offer.
        public var rate: Double
        public var isConfirmation: Bool
    }

    /// What came of a trial.
    public struct Outcome: Sendable, Equatable {
        public var trial: Trial
        /// Frames that were to be sent, and those that arrived.
        public var offered: UInt64
        public var arrived: UInt64
        public var passed: Bool
        public var loss: Double { offered == 0 ? 0 : Double(offered - min(offered, arrived)) / Double(offered) }
    }

    /// Share of the offered frames that may be lost, 0…1.
    public let tolerance: Double
    /// The search ends when the interval is narrower than this share of its upper end.
    public let resolution: Double
    public private(set) var outcomes: [Outcome] = []
    /// Frames a second: the highest rate without loss, confirmed; nil while the search goes on, or if no rate passed.
    public private(set) var result: Double?
    public private(set) var isOver = false
    private var passed: Double = 0
    private var failed: Double?
    private let highest: Double
    private let lowest: Double

    /// Searches between `lowest` and `highest` frames a second; the first trial is at `highest`.
    public init(lowest: Double, highest: Double, resolution: Double = 0.01, tolerance: Double = 0) {
        self.lowest = max(1, lowest)
        self.highest = max(self.lowest, highest)
        self.resolution = max(1e-4, resolution)
        self.tolerance = tolerance
    }

    /// The next trial; nil when the search is over.
    public var next: Trial? {
        if isOver { return nil }
        guard let failed else { return Trial(rate: highest, isConfirmation: passed == highest) }
        if passed > 0 && failed - passed <= failed * resolution { return Trial(rate: passed, isConfirmation: true) }
        return Trial(rate: passed > 0 ? (passed + failed) / 2 : max(lowest, failed / 2), isConfirmation: false)
    }

    /// The outcome of `trial`, which `next` gave.
    public mutating func record(_ trial: Trial, offered: UInt64, arrived: UInt64) {
        var outcome = Outcome(trial: trial, offered: offered, arrived: arrived, passed: false)
        outcome.passed = offered > 0 && outcome.loss <= tolerance
        outcomes.append(outcome)
        if outcome.passed {
            if trial.isConfirmation {
                result = trial.rate
                isOver = true
            } else {
                passed = trial.rate
            }
        } else {
            failed = trial.rate
            // The highest rate that has passed, and never failed, below it.
            passed =
                outcomes.filter { o in
                    o.passed && o.trial.rate < trial.rate
                        && !outcomes.contains { !$0.passed && $0.trial.rate == o.trial.rate }
                }
                .map(\.trial.rate).max() ?? 0
            if trial.rate <= lowest { isOver = true }
        }
    }
}
