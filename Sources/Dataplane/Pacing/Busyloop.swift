import CPlatform

/// How long a queue is polled after its last work before its thread may sleep.
public enum BusyloopBudget: Sendable, Equatable {
    /// Never sleep.
    case poll
    /// Sleep as soon as there is no work ("0").
    case sleep
    /// Poll this many microseconds after the last work.
    case microseconds(Int)
    /// Learned per queue from the arrivals.
    case auto
}

/// A queue's busyloop budget in ticks of the cycle counter, fixed or learned.
struct BudgetState: BitwiseCopyable {
    /// Ticks to poll after the last work; `UInt64.max`: for ever.
    var ticks: UInt64 = UInt64.max
    var isAuto = false
    private var auto = AutoBudget(ticksPerMicrosecond: 1)

    init() {}

    /// Nil: for ever.
    var nanoseconds: UInt64? {
        ticks == UInt64.max ? nil : UInt64(Double(ticks) * 1000 / Double(TickClock.shared.ticksPerMicrosecond))
    }

    init(_ budget: BusyloopBudget, clock: TickClock) {
        switch budget {
        case .poll: ticks = UInt64.max
        case .sleep: ticks = 0
        case .microseconds(let us): ticks = clock.ticks(microseconds: us)
        case .auto:
            isAuto = true
            auto = AutoBudget(ticksPerMicrosecond: clock.ticksPerMicrosecond)
            ticks = auto.ticks
        }
    }

    /// Only where `isAuto`; see `AutoBudget.arrived`.
    @inline(__always)
    mutating func learn(after gap: UInt64, packets: Int, slept: Bool) {
        auto.arrived(after: gap, packets: packets, slept: slept)
        ticks = auto.ticks
    }
}

/// The cycle counter as a clock. Measured once against CLOCK_MONOTONIC.
public struct TickClock: BitwiseCopyable, Sendable {
    /// How fast the counter is.
    public let ticksPerMicrosecond: UInt64

    /// This machine's. Whoever asks first waits 5 ms for the measurement.
    public static let shared = TickClock()

    /// A clock of another speed, for simulations.
    public init(ticksPerMicrosecond: UInt64) { self.ticksPerMicrosecond = ticksPerMicrosecond }

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
