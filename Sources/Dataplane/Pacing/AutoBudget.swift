/// The busyloop budget `auto`: how long to poll a queue after its last work, learned from the gaps between its
/// arrivals.
///
/// A gap of length g costs a polling thread g; a sleeping one pays for going to sleep and being woken, and the packet
/// waits for the wake-up. Both together are priced as `price` of polling. So for each budget B in powers of two the
/// gaps seen lately would have cost the sum of those up to B, and B + `price` for each longer one; the cheapest budget
/// is taken, if it is cheap enough against sleeping at once (budget 0) to be worth a change.
///
/// Plain values, for the thread that owns the queue; all times in ticks of its clock.
package struct AutoBudget: BitwiseCopyable, Sendable {
    /// Microseconds of polling that going to sleep, being woken and the packet's wait are worth. Measured: a sleep
    /// costs the thread about 10 µs of CPU time; the rest is what the 20 to 30 µs are worth that the packet waits
    /// longer.
    package static var price: Int { 50 }
    /// Gaps after which the budget is chosen anew; older ones then count half.
    package static var window: UInt32 { 128 }
    /// Arrivals from one listening to the next: a sleeping thread learns of a packet only when it is awake, so now and
    /// then it polls for as long as `price` to see how long the gaps really are. Costs a twelfth of what the sleeps
    /// cost at most.
    package static var listenEvery: UInt32 { 64 }
    /// Sizes of gaps: up to about 1 µs, 2 µs, 4 µs … 1 ms, and longer.
    static var sizes: Int { 12 }

    /// How long to poll after the last work, this time.
    package private(set) var ticks: UInt64
    /// What was learned: 0, or long enough for most gaps.
    package private(set) var learned: UInt64
    let price: UInt64
    /// The first size holds gaps below 2 to this.
    private let shift: UInt64
    private var gaps = InlineArray<12, Gaps>(repeating: Gaps())
    private var seen: UInt32 = 0
    private var arrivals: UInt32 = 0

    /// Gaps of one size.
    private struct Gaps: BitwiseCopyable {
        var count: UInt64 = 0
        var sum: UInt64 = 0
    }

    package init(ticksPerMicrosecond: UInt64) {
        price = ticksPerMicrosecond &* UInt64(AutoBudget.price)
        shift = UInt64(63 &- max(1, ticksPerMicrosecond).leadingZeroBitCount)
        learned = price
        ticks = price
    }

    /// `packets` arrived `gap` ticks after the last ones; the thread was polling, or has slept and been woken since.
    @inline(__always)
    package mutating func arrived(after gap: UInt64, packets: Int, slept: Bool) {
        if slept || learned == 0 { return arrivedAsleep(gap, packets, slept) }
        count(gap)
    }

    @inline(__always)
    private mutating func count(_ gap: UInt64) {
        let width = 64 &- UInt64(gap.leadingZeroBitCount)
        let size = Int(width > shift ? min(width &- shift, UInt64(AutoBudget.sizes &- 1)) : 0)
        gaps[size].count &+= 1
        gaps[size].sum &+= gap
        seen &+= 1
        if seen >= AutoBudget.window { choose() }
    }

    /// Not polling, or only listening.
    @inline(never)
    private mutating func arrivedAsleep(_ gap: UInt64, _ packets: Int, _ slept: Bool) {
        // The first of several packets may have come long before the thread was awake: then a gap that is not much
        // longer than a wake-up takes says nothing, unless the thread has listened for as long as matters.
        let isKnown = !slept || packets <= 1 || gap <= price || gap > 4 &* price || ticks >= price
        if isKnown { count(gap) }
        if learned != 0 { return }
        arrivals &+= 1
        // Listening goes on while it meets packets.
        ticks = !slept && ticks > 0 || arrivals % AutoBudget.listenEvery == 0 ? price : 0
    }

    /// The longest gap of a size; of the last one there is none.
    private func bound(_ size: Int) -> UInt64 { 1 << (shift &+ UInt64(size)) }

    /// What the gaps seen would have cost with the budget that meets those up to `size`.
    private func cost(_ size: Int) -> UInt64 {
        var sum: UInt64 = 0
        for i in 0..<AutoBudget.sizes {
            sum &+= i <= size ? gaps[i].sum : gaps[i].count &* (bound(size) &+ price)
        }
        return sum
    }

    @inline(never)
    private mutating func choose() {
        seen = 0
        var all: UInt64 = 0
        for i in 0..<AutoBudget.sizes { all &+= gaps[i].count }
        let asleep = all &* price
        // The cheapest among the budgets that meet most of the gaps.
        var (best, size, met) = (UInt64.max, 0, UInt64(0))
        for i in 0..<AutoBudget.sizes &- 1 {
            met &+= gaps[i].count
            if met &* 2 > all && cost(i) < best { (best, size) = (cost(i), i) }
        }
        // A change has to save a quarter, so that a load between the two does not go to and fro.
        let polls = best != UInt64.max && (learned > 0 ? best / 5 <= asleep / 4 : best / 3 <= asleep / 4)
        if polls {
            // The longest that costs little more: a stall of the driver is then no reason to sleep.
            var widest = size
            for i in size..<AutoBudget.sizes &- 1 where cost(i) <= best &+ best / 4 { widest = i }
            learned = bound(widest)
            ticks = learned
        } else if learned != 0 {
            learned = 0
            ticks = 0
        }
        for i in 0..<AutoBudget.sizes {
            gaps[i].count /= 2
            gaps[i].sum /= 2
        }
    }
}
