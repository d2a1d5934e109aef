import Synchronization
import Virtio

extension RateLimit {
    /// The longest packet has to fit into the part of a burst that threads have in common.
    static var leastByteBurst: UInt64 { 131_072 }
}

/// A rate that all threads keep together. A thread takes a part of what is there at a time and uses it up by itself, so
/// that it writes the shared word rarely. What threads may hold so, a sixteenth of the burst, is left out of what is
/// there: in no time do all threads together let through more than the burst and what the rate gives.
struct RateMeter: BitwiseCopyable {
    /// Of its word, and of a thread's part; -1: there is no limit.
    var place = -1
    /// Units that a thread takes at once; 0: as many as it needs.
    private var part: UInt64 = 0
    /// Ticks of the time-stamp counter that a unit takes, in parts of 2^24.
    private var cost: UInt64 = 0
    /// Ticks that the shared part of the burst takes.
    private var depth: UInt64 = 0

    init() {}

    /// `rate`, in units a second, of which `threads` threads make use.
    init(place: Int, rate: UInt64, burst: UInt64, least: UInt64, threads: Int, ticksPerSecond: UInt64) {
        self.place = place
        part = burst / UInt64(16 * threads)
        // Small ones are taken packet by packet.
        if part < least { part = 0 }
        cost = UInt64(clamping: max(1, (UInt128(ticksPerSecond) << 24 + UInt128(rate) - 1) / UInt128(rate)))
        let shared = UInt128(burst - part * UInt64(threads))
        // As many whole ticks as `take` makes of single units, so that all of a burst passes packet by packet.
        let whole = (cost + 0xff_ffff) >> 24
        depth = UInt64(clamping: whole < 256 ? (shared * UInt128(cost)) >> 24 : shared * UInt128(whole))
        // Far below half of the counter's range, so that times compare.
        depth = min(depth, 1 << 62)
    }

    /// Takes `units` of what is there; false where there are fewer. `word`: until when what was taken is paid for, in
    /// ticks.
    func take(_ units: UInt64, now: UInt64, _ word: borrowing Atomic<UInt64>) -> Bool {
        let product = units.multipliedFullWidth(by: cost)
        let ticks = (product.high &<< 40 | product.low &>> 24) &+ (product.low & 0xff_ffff == 0 ? 0 : 1)
        var before = word.load(ordering: .relaxed)
        while true {
            let end = max(before, now) &+ ticks
            if end > now &+ depth { return false }
            let (isDone, found) = word.compareExchange(
                expected: before, desired: end, successOrdering: .acquiringAndReleasing, failureOrdering: .relaxed)
            if isDone { return true }
            before = found
        }
    }

    /// The part of a thread that took what `units` need.
    fileprivate func refill(
        _ held: inout UInt64, _ units: UInt64, now: UInt64, _ word: borrowing Atomic<UInt64>
    ) -> Bool {
        let missing = units &- held
        if part > missing && take(part, now: now, word) {
            held &+= part &- units
            return true
        }
        if !take(missing, now: now, word) { return false }
        held = 0
        return true
    }
}

/// A limit of packets and one of bytes; either may be none.
struct RateMeters: BitwiseCopyable {
    var packets = RateMeter()
    var bytes = RateMeter()
    /// There is a limit.
    var isOn = false
}

/// Until when what was taken of each meter is paid for, in ticks: words on lines of their own. They stay when the
/// switch gets other ports.
final class MeterWords: Sendable {
    private let words: OwnedTable<Atomic<UInt64>>
    private static var apart: Int { CacheLines.pair / MemoryLayout<UInt64>.stride }
    /// Meters that there can be.
    let count: Int

    init(count: Int) {
        self.count = count
        words = OwnedTable(count: max(1, count) * MeterWords.apart) { _ in Atomic(0) }
    }

    /// Nobody has taken anything of a meter.
    func clear(_ place: Int) { words[place * MeterWords.apart].store(0, ordering: .relaxed) }

    /// The word of a meter.
    subscript(_ place: Int) -> Atomic<UInt64> {
        @inline(__always) _read { yield words[place &* MeterWords.apart] }
    }
}

/// What one thread has taken of each meter and not used up.
final class MeterParts {
    private let held: OwnedMemory<UInt64>
    private let words: MeterWords

    init(_ words: MeterWords) {
        self.words = words
        held = OwnedMemory(count: max(1, words.count), repeating: 0)
    }

    /// Whether a packet of so many bytes may pass; then it counts.
    @inline(__always)
    func admit(_ meters: borrowing RateMeters, bytes: Int, now: UInt64) -> Bool {
        if !take(meters.packets, 1, now) { return false }
        if take(meters.bytes, UInt64(truncatingIfNeeded: bytes), now) { return true }
        if meters.packets.place >= 0 { held[meters.packets.place] &+= 1 }
        return false
    }

    @inline(__always)
    private func take(_ meter: RateMeter, _ units: UInt64, _ now: UInt64) -> Bool {
        if meter.place < 0 { return true }
        let have = held[meter.place]
        if have >= units {
            held[meter.place] = have &- units
            return true
        }
        return more(meter, units, now)
    }

    @inline(never)
    private func more(_ meter: RateMeter, _ units: UInt64, _ now: UInt64) -> Bool {
        meter.refill(&held[meter.place], units, now: now, words[meter.place])
    }
}
