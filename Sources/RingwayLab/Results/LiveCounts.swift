import Ringway

extension LiveCounts {
    /// The same as nanoseconds: each count at its bucket's middle, none above the longest duration.
    public func latencies(ticksPerMicrosecond: UInt64) -> LatencyHistogram {
        var histogram = LatencyHistogram()
        for (i, n) in counts.enumerated() where n > 0 {
            let low = LiveHistogram.lowest(i)
            let middle = min((low + LiveHistogram.lowest(i + 1) - 1) / 2, max(longest, low))
            histogram.record(nanoseconds: middle * 1000 / ticksPerMicrosecond, count: n)
        }
        return histogram
    }
}

extension QueueTimeSnapshot {
    /// As an HDR histogram in nanoseconds.
    public var latencies: LatencyHistogram { counts.latencies(ticksPerMicrosecond: ticksPerMicrosecond) }
}
