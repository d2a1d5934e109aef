import Virtio

/// What a `PacketBurst` consists of, kept apart while code of another language runs, which can hold no non-escaping
/// value (the C face, `RingwayC`). Valid as long as the burst that it is of.
package struct BurstParts {
    package let burst: UnsafeMutablePointer<Burst>
    package let packets: UnsafeMutablePointer<PacketSlot>
    let counters: CounterRow
    let table: PairTable
    package let (count, port, pair): (Int, Int, Int)
    package let seconds: UInt32
    package let ticks: UInt64
}

extension PacketBurst {
    /// Of a burst as a thread gives it to its function, not of a chain's second part.
    package var parts: BurstParts {
        BurstParts(
            burst: burst, packets: packets, counters: counters, table: table, count: count, port: port, pair: pair,
            seconds: seconds, ticks: ticks)
    }

    @_lifetime(immortal)
    package init(_ parts: BurstParts) {
        self.init(
            parts.burst, count: parts.count, port: parts.port, pair: parts.pair, seconds: parts.seconds,
            ticks: parts.ticks, counters: parts.counters, table: parts.table)
    }
}
