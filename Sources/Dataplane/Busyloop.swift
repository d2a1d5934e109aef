import CPlatform

/// A queue's busyloop budget in ticks of the cycle counter, fixed or learned.
struct BudgetState: BitwiseCopyable {
    /// Ticks to poll after the last work; `UInt64.max`: for ever.
    var ticks: UInt64 = UInt64.max
    var isAuto = false
    /// Learned: mean gap between arrivals in ticks, exponentially weighted.
    var meanGap: UInt64 = 0

    init() {}

    init(_ budget: BusyloopBudget, clock: TickClock) {
        switch budget {
        case .poll: ticks = UInt64.max
        case .sleep: ticks = 0
        case .microseconds(let us): ticks = clock.ticks(microseconds: us)
        case .auto:
            isAuto = true
            ticks = clock.ticks(microseconds: AutoBudget.longest)
        }
    }

    /// A gap of `gap` ticks between two arrivals has ended: learn from it.
    @inline(__always)
    mutating func learn(_ gap: UInt64, clock: TickClock) {
        guard isAuto else { return }
        meanGap = meanGap &- (meanGap >> 3) &+ (gap >> 3)
        let longest = clock.ticksPerMicrosecond &* UInt64(AutoBudget.longest)
        // Where the next arrival is expected within reach, poll long enough to meet it, and some
        // more for the spread; where it is not, polling would be wasted.
        ticks = meanGap &* 3 <= longest ? max(meanGap &* 3, clock.ticksPerMicrosecond &* UInt64(AutoBudget.shortest)) : 0
    }
}

/// Bounds of the learned budget, in microseconds.
enum AutoBudget {
    static let longest = 100
    static let shortest = 5
}

/// The cycle counter as a clock. Measured once against CLOCK_MONOTONIC.
struct TickClock: BitwiseCopyable, Sendable {
    let ticksPerMicrosecond: UInt64

    static let shared = TickClock()

    /// A clock of another speed, for `RoundBench`.
    init(ticksPerMicrosecond: UInt64) { self.ticksPerMicrosecond = ticksPerMicrosecond }

    private init() {
        func nanoseconds() -> UInt64 { CPlat_monotonic_ns() }
        let (n0, c0) = (nanoseconds(), CPlat_cycles())
        while nanoseconds() &- n0 < 5_000_000 { CPlat_pause() }
        let (n1, c1) = (nanoseconds(), CPlat_cycles())
        ticksPerMicrosecond = max(1, (c1 &- c0) &* 1000 / (n1 &- n0))
    }

    @inline(__always)
    func ticks(microseconds: Int) -> UInt64 { ticksPerMicrosecond &* UInt64(max(0, microseconds)) }

    /// Whole seconds since an arbitrary moment.
    @inline(__always)
    func seconds(_ ticks: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: ticks / (ticksPerMicrosecond &* 1_000_000)) }
}
