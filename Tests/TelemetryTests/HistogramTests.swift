import RingwayLab
import Telemetry
import Testing

@Suite struct HistogramTests {
    @Test("percentiles of known values, to three digits")
    func percentiles() {
        var h = LatencyHistogram()
        #expect(h.count == 0 && h.percentile(99) == 0 && h.maximum == 0)
        for i in 1...100_000 { h.record(nanoseconds: UInt64(i)) }
        for (p, wanted) in [
            (50.0, 50_000.0), (90, 90_000), (99, 99_000), (99.9, 99_900), (99.99, 99_990), (99.999, 99_999),
        ] {
            #expect(abs(Double(h.percentile(p)) - wanted) <= wanted / 1000 + 1, "p\(p): \(h.percentile(p))")
        }
        #expect(h.count == 100_000 && abs(Double(h.maximum) - 100_000) < 100)
        #expect(LatencyHistogram.name(99.999) == "p99.999" && LatencyHistogram.name(50) == "p50")
    }

    @Test("merged histograms have the counts and percentiles of all values")
    func merging() {
        var (all, odd, even) = (LatencyHistogram(), LatencyHistogram(), LatencyHistogram())
        for i in 1...10_000 {
            let value = UInt64(i * i)
            all.record(nanoseconds: value)
            if i % 2 == 0 { even.record(nanoseconds: value) } else { odd.record(nanoseconds: value) }
        }
        odd.add(even)
        #expect(odd.count == all.count && odd.maximum == all.maximum)
        for p in LatencyHistogram.reported { #expect(odd.percentile(p) == all.percentile(p)) }
    }

    @Test("a live histogram gives percentiles within 3.2 %, over all magnitudes, and their count and maximum")
    func live() {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: LiveHistogram.bytes, alignment: 8)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: LiveHistogram.bytes)
        defer { memory.deallocate() }
        let live = LiveHistogram(memory: memory)
        for scale in 0..<9 {
            let before = live.counts
            var exact: [UInt64] = []
            for i in 0..<10_000 {
                var value = UInt64(1000 + i * 7)
                for _ in 0..<scale { value *= 10 }
                live.record(value)
                exact.append(value)
            }
            let now = live.counts.since(before)
            #expect(now.count == 10_000)
            // 1000 ticks a microsecond: ticks are nanoseconds.
            let h = now.latencies(ticksPerMicrosecond: 1000)
            for p in [1.0, 50, 90, 99, 99.9] {
                let wanted = Double(min(exact[Int(p * 100) - 1], 60_000_000_000))
                #expect(
                    abs(Double(h.percentile(p)) - wanted) <= wanted * 0.034, "p\(p): \(h.percentile(p)), not \(wanted)")
                // Without a histogram of HdrHistogram's: the upper end of the bucket.
                let (ticks, least) = (Double(now.percentile(p)), Double(exact[Int(p * 100) - 1]))
                #expect(ticks >= min(least, Double(LiveHistogram.longest)) && ticks <= least * 1.0625)
            }
        }
        #expect(live.counts.count == 90_000)
        #expect(LiveCounts().percentile(50) == 0)
        live.record(UInt64.max)
        live.record(0)
        #expect(live.counts.count == 90_002)
    }

    @Test("no live value is reported above the longest that was recorded")
    func longest() {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: LiveHistogram.bytes, alignment: 8)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: LiveHistogram.bytes)
        defer { memory.deallocate() }
        let live = LiveHistogram(memory: memory)
        for value in [1, 15, 16, 17, 1023, 1024, 1025, 123_456] as [UInt64] {
            live.record(value)
            #expect(live.counts.latencies(ticksPerMicrosecond: 1000).maximum <= value + value / 1000)
        }
    }

    @Test(".hgrm: columns, rising values and percentiles, the total at the end")
    func hgrm() throws {
        var h = LatencyHistogram()
        for i in 1...5000 { h.record(nanoseconds: UInt64(i) * 100) }
        let lines = h.hgrm.split(separator: "\n", omittingEmptySubsequences: true)
        #expect(
            lines[0].split(separator: " ").map(String.init) == [
                "Value", "Percentile", "TotalCount", "1/(1-Percentile)",
            ])
        var (value, percentile, count) = (0.0, -1.0, 0)
        let rows = lines.dropFirst().filter { !$0.hasPrefix("#") }
        for line in rows {
            let words = line.split(separator: " ")
            let (v, p, n) = (
                try #require(Double(words[0])), try #require(Double(words[1])), try #require(Int(words[2]))
            )
            #expect(v >= value && p >= percentile && n >= count)
            (value, percentile, count) = (v, p, n)
        }
        #expect(rows.count > 20 && count == 5000 && percentile == 1 && abs(value - 500) < 1)
        #expect(
            lines.contains { $0.hasPrefix("#[Mean") }
                && lines.contains { $0.contains("Total count") && $0.contains("5000") })
    }
}
