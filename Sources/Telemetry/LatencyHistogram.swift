import Histogram

/// Latencies from 1 ns to one minute with three significant digits (HDR histogram). A value; one
/// thread at a time.
public struct LatencyHistogram: Sendable {
    private var histogram = Histogram<UInt64>(highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)

    public init() {}

    /// Longer ones count as one minute.
    @inline(__always)
    public mutating func record(nanoseconds: UInt64) { histogram.record(min(nanoseconds, 60_000_000_000)) }

    public mutating func add(_ other: LatencyHistogram) { histogram.add(other.histogram) }

    public var count: UInt64 { histogram.totalCount }
    /// Nanoseconds.
    public var maximum: UInt64 { histogram.maxRecorded }
    public var mean: Double { histogram.mean }
    /// Nanoseconds at a percentile, 0…100.
    public func percentile(_ p: Double) -> UInt64 { histogram.valueAtPercentile(p) }

    /// The percentile distribution in microseconds as HdrHistogram's tools read it (.hgrm).
    public var hgrm: String {
        var text = ""
        histogram.outputPercentileDistribution(to: &text, outputValueUnitScalingRatio: 1000, percentileTicksPerHalfDistance: 5, format: .plainText)
        return text
    }
}
