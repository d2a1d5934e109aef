import CPlatform

/// Counts of durations that one thread keeps while it works, in plain memory of a fixed size: no allocation, lock or
/// reference counting. 16 buckets share an octave, so a value is known to within 6.25 % (its bucket's middle to within
/// 3.2 %).
///
/// `record` belongs to one thread; `counts` may be read by any other at the same time (each count is one relaxed
/// access, so a reading is exact when the writer rests, a few records old otherwise). Unit: ticks of the writer's
/// clock.
public struct LiveHistogram: BitwiseCopyable {
    @usableFromInline let words: UnsafeMutablePointer<UInt64>

    /// Longer durations count as this many ticks: seven minutes of a 2.6 GHz counter.
    @inlinable public static var longest: UInt64 { 1 << 40 - 1 }
    /// Buckets, then one word for the longest duration.
    static var buckets: Int { 37 * 16 }
    /// Bytes of memory that one takes.
    public static var bytes: Int { (buckets + 1) * 8 }

    /// `memory`: `bytes` of zeroes, aligned to 8, the caller's for as long as this is used.
    public init(memory: UnsafeMutableRawPointer) {
        words = memory.bindMemory(to: UInt64.self, capacity: LiveHistogram.buckets + 1)
    }

    /// Which bucket counts `ticks`.
    @inlinable @inline(__always)
    static func bucket(_ ticks: UInt64) -> Int {
        if ticks < 16 { return Int(truncatingIfNeeded: ticks) }
        let shift = 59 &- ticks.leadingZeroBitCount
        return (shift &+ 1) &* 16 &+ Int(truncatingIfNeeded: (ticks &>> UInt64(shift)) & 15)
    }

    /// Smallest duration of a bucket.
    package static func lowest(_ bucket: Int) -> UInt64 {
        bucket < 16 ? UInt64(bucket) : UInt64(16 + bucket % 16) << UInt64(bucket / 16 - 1)
    }

    /// Counts a duration; the writer's thread only. What is longer than `longest` counts as that.
    @inlinable @inline(__always)
    public func record(_ ticks: UInt64) {
        let value = min(ticks, LiveHistogram.longest)
        let word = words + LiveHistogram.bucket(value)
        CPlat_store64_relaxed(word, word.pointee &+ 1)
        let most = words + 37 &* 16
        if value > most.pointee { CPlat_store64_relaxed(most, value) }
    }

    /// What has been counted so far.
    public var counts: LiveCounts {
        LiveCounts(
            counts: (0..<LiveHistogram.buckets).map { CPlat_load64_relaxed(words + $0) },
            longest: CPlat_load64_relaxed(words + LiveHistogram.buckets))
    }
}

/// A reading of a `LiveHistogram`.
public struct LiveCounts: Sendable, Equatable {
    package var counts: [UInt64]
    /// The longest duration since the start, in ticks.
    package var longest: UInt64

    /// Nothing counted.
    public init() {
        counts = [UInt64](repeating: 0, count: LiveHistogram.buckets)
        longest = 0
    }

    init(counts: [UInt64], longest: UInt64) {
        self.counts = counts
        self.longest = longest
    }

    /// Durations in all.
    public var count: UInt64 { counts.reduce(0, &+) }

    /// Adds another histogram's counts, with ticks of the same clock.
    public mutating func add(_ other: LiveCounts) {
        for i in counts.indices { counts[i] &+= other.counts[i] }
        longest = max(longest, other.longest)
    }

    /// What was counted after `earlier`, a reading of the same histogram.
    public func since(_ earlier: LiveCounts) -> LiveCounts {
        let difference = zip(counts, earlier.counts).map { $0 &- $1 }
        // The longest may be an older one: then it is at most as long as its bucket allows.
        let top = difference.lastIndex { $0 > 0 }.map { LiveHistogram.lowest($0 + 1) - 1 } ?? 0
        return LiveCounts(counts: difference, longest: min(longest, top))
    }

    /// Ticks within which this share of the durations lie, 0…100 percent, to within a bucket; 0 without any.
    public func percentile(_ percent: Double) -> UInt64 {
        let wanted = max(1, UInt64((Double(count) * min(max(percent, 0), 100) / 100).rounded(.up)))
        var sum: UInt64 = 0
        for (bucket, n) in counts.enumerated() {
            sum &+= n
            if sum >= wanted { return min(LiveHistogram.lowest(bucket + 1) - 1, longest) }
        }
        return 0
    }
}
