import Histogram

/// Latencies from 1 ns to one minute with three significant digits (HDR histogram). A value; one
/// thread at a time.
public struct LatencyHistogram: Sendable {
    private var histogram = Histogram<UInt64>(
        highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)

    public init() {}

    /// Longer ones count as one minute.
    @inline(__always)
    public mutating func record(nanoseconds: UInt64) { histogram.record(min(nanoseconds, 60_000_000_000)) }

    /// The same `count` times.
    public mutating func record(nanoseconds: UInt64, count: UInt64) {
        if count > 0 { histogram.record(min(nanoseconds, 60_000_000_000), count: count) }
    }

    public mutating func add(_ other: LatencyHistogram) { histogram.add(other.histogram) }

    public var count: UInt64 { histogram.totalCount }
    /// Nanoseconds; 0 without any.
    public var maximum: UInt64 { count == 0 ? 0 : histogram.maxRecorded }
    public var mean: Double { histogram.mean }
    /// Nanoseconds at a percentile, 0…100; 0 without any.
    public func percentile(_ p: Double) -> UInt64 { count == 0 ? 0 : histogram.valueAtPercentile(p) }

    /// Percentiles that reports show.
    public static let reported = [50, 75, 90, 99, 99.9, 99.99, 99.999]

    /// `p99.9` and so on.
    public static func name(_ percentile: Double) -> String {
        "p" + (percentile == percentile.rounded() ? "\(Int(percentile))" : "\(percentile)")
    }

    /// `count`, the percentiles by name and `max`, in nanoseconds.
    public var summary: [String: UInt64] {
        var all = ["count": count, "max": maximum]
        for p in LatencyHistogram.reported { all[LatencyHistogram.name(p)] = percentile(p) }
        return all
    }

    /// The curve of a percentile plot: nanoseconds at each percentile, as far as the counts reach.
    public var curve: [(percentile: Double, nanoseconds: UInt64)] {
        var all: [(Double, UInt64)] = []
        for step in histogram.percentiles(ticksPerHalfDistance: 5) where step.percentileLevelIteratedTo < 100 {
            all.append((step.percentileLevelIteratedTo, step.value))
        }
        return all
    }

    /// The percentile distribution in microseconds as HdrHistogram's tools read it (.hgrm).
    public var hgrm: String {
        var text = ""
        histogram.outputPercentileDistribution(
            to: &text, outputValueUnitScalingRatio: 1000, percentileTicksPerHalfDistance: 5, format: .plainText)
        return text
    }
}

/// Encoded as its `summary`.
extension LatencyHistogram: Encodable {
    public func encode(to encoder: any Encoder) throws { try summary.encode(to: encoder) }
}
