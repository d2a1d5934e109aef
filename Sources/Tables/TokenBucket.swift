/// A rate limit: so many units (packets, bytes) per second, and a burst of so many at once after a pause. A value; one
/// thread. Exact: credit is counted in fractions of a unit, and no rate, burst, clock or pause overflows.
///
/// ```swift
/// var limit = TokenBucket(
///     rate: 125_000_000, burst: 65_536, ticksPerSecond: 1_000_000_000, now: nanoseconds)
/// if !limit.take(UInt64(packet.length), now: nanoseconds) { packet.verdict = .drop }
/// ```
public struct TokenBucket: Sendable, BitwiseCopyable {
    /// Units per second.
    public private(set) var rate: UInt64
    /// The most units that can be taken at once.
    public private(set) var burst: UInt64
    /// Ticks of the clock per second.
    public let ticksPerSecond: UInt64
    /// Credit in units of 1 / `ticksPerSecond`: a tick adds `rate`.
    @usableFromInline var credit: UInt128
    @usableFromInline var most: UInt128
    @usableFromInline var last: UInt64
    /// Ticks after which an empty bucket is full.
    @usableFromInline var ticksToFill: UInt64

    /// A full bucket. `now`: what the clock says, in ticks; `ticksPerSecond` must not be 0 (0 counts as 1). A rate of 0
    /// lets a burst through and nothing more.
    public init(rate: UInt64, burst: UInt64, ticksPerSecond: UInt64, now: UInt64) {
        self.ticksPerSecond = max(1, ticksPerSecond)
        last = now
        (self.rate, self.burst, credit, most, ticksToFill) = (0, 0, 0, 0, 0)
        set(rate: rate, burst: burst)
        credit = most
    }

    /// Takes `n` units if they are there: then true. A packet of more units than `burst` never passes. A clock that
    /// goes back adds nothing.
    @inlinable @inline(__always)
    public mutating func take(_ n: UInt64, now: UInt64) -> Bool {
        refill(now)
        let cost = UInt128(n) &* UInt128(ticksPerSecond)
        if credit < cost { return false }
        credit &-= cost
        return true
    }

    /// Whole units that are there now.
    @inlinable
    public mutating func available(now: UInt64) -> UInt64 {
        refill(now)
        return UInt64(truncatingIfNeeded: credit / UInt128(ticksPerSecond))
    }

    /// Ticks until `n` units are there: 0 if they are now, nil if they never will be.
    public mutating func ticks(until n: UInt64, now: UInt64) -> UInt64? {
        refill(now)
        let cost = UInt128(n) * UInt128(ticksPerSecond)
        if credit >= cost { return 0 }
        if n > burst || rate == 0 { return nil }
        return UInt64(clamping: (cost - credit + UInt128(rate) - 1) / UInt128(rate))
    }

    /// Another rate and burst from `now` on. What was saved up stays, as far as the new burst allows.
    public mutating func change(rate: UInt64, burst: UInt64, now: UInt64) {
        refill(now)
        set(rate: rate, burst: burst)
        credit = min(credit, most)
    }

    private mutating func set(rate: UInt64, burst: UInt64) {
        self.rate = rate
        self.burst = burst
        most = UInt128(burst) * UInt128(ticksPerSecond)
        // Rounded up: after so many ticks it is full. What a tick more would add is cut off.
        ticksToFill = rate == 0 ? .max : UInt64(clamping: (most + UInt128(rate) - 1) / UInt128(rate))
    }

    @inlinable @inline(__always)
    mutating func refill(_ now: UInt64) {
        let elapsed = now &- last
        // A clock that went back by less than half of its range: it waits until the clock is there again.
        if Int64(bitPattern: elapsed) <= 0 { return }
        last = now
        if elapsed >= ticksToFill {
            credit = most
            return
        }
        // Less than most + rate, and credit at most `most`, of 128 bits: neither overflows.
        let sum = credit.addingReportingOverflow(UInt128(elapsed) &* UInt128(rate))
        credit = sum.overflow || sum.partialValue > most ? most : sum.partialValue
    }
}
