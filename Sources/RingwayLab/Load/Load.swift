import CPlatform
import Console
import Glibc
import Ringway

/// Loops that drive embedded drivers, on the calling thread.
package enum Load {
    /// Packets from one pair to another (or back to the same one).
    package struct Flow {
        package var from: DriverPairs
        package var to: DriverPairs

        package init(from: DriverPairs, to: DriverPairs) { (self.from, self.to) = (from, to) }
    }

    package struct Count {
        package var sent: UInt64 = 0
        package var received: UInt64 = 0
        package var nanoseconds: UInt64 = 0

        package var mpps: Double { nanoseconds == 0 ? 0 : Double(received) * 1000 / Double(nanoseconds) }
        package var sentMpps: Double { nanoseconds == 0 ? 0 : Double(sent) * 1000 / Double(nanoseconds) }

        package init() {}
    }

    /// Writes the headers of a UDP frame of `size` bytes.
    private static func write(_ frame: DriverBuffer, size: Int, isForward: Bool) {
        memset(frame.base, 0, size)
        let macs: [UInt8] = isForward ? [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1] : [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        for (i, b) in (macs + [0x08, 0x00, 0x45]).enumerated() {
            frame.base.storeBytes(of: b, toByteOffset: i, as: UInt8.self)
        }
    }

    /// As many packets as the rings take until `end` or a signal, with bursts of `burst`; what comes back is counted.
    /// `sizes` are taken in turn.
    package static func saturate(
        _ flows: [Flow], sizes: [Int], burst: Int, until end: UInt64, counts: inout [Count], sends: Bool = true
    ) {
        let start = CPlat_monotonic_ns()
        var (rounds, turn) = (0, 0)
        while true {
            rounds &+= 1
            if rounds & 63 == 0 && (CPlat_monotonic_ns() >= end || Signals.haveCome) { break }
            for (i, flow) in flows.enumerated() {
                if sends {
                    let n = flow.from.pair.prepare(burst)
                    for k in 0..<n {
                        flow.from.pair.outgoing[k].length = UInt32(truncatingIfNeeded: sizes[turn])
                        turn = turn &+ 1 == sizes.count ? 0 : turn &+ 1
                    }
                    if n > 0 { flow.from.pair.send(n) }
                    counts[i].sent &+= UInt64(n)
                }
                counts[i].received &+= UInt64(flow.to.pair.receiveBurst())
                flow.to.pair.giveBack()
            }
        }
        for i in flows.indices { counts[i].nanoseconds &+= CPlat_monotonic_ns() &- start }
    }

    package static func saturate(
        _ flows: [Flow], size: Int, burst: Int, until end: UInt64, counts: inout [Count], sends: Bool = true
    ) {
        saturate(flows, sizes: [size], burst: burst, until: end, counts: &counts, sends: sends)
    }

    /// Frames at an offered rate.
    package struct Pace {
        /// Packets a second over all flows.
        package var rate: Double
        /// Frames that are due at the same moment.
        package var burst = 1
        package var seconds: Double
        package var sizes = [64]
        /// Each frame carries the moment at which it was due (`Stamp`).
        package var isStamped = true
        /// Frames come back; else they are dropped.
        package var comesBack = true

        package init(
            rate: Double, burst: Int = 1, seconds: Double, sizes: [Int] = [64], isStamped: Bool = true,
            comesBack: Bool = true
        ) {
            (self.rate, self.burst, self.seconds, self.sizes) = (rate, burst, seconds, sizes)
            (self.isStamped, self.comesBack) = (isStamped, comesBack)
        }
    }

    package struct Paced {
        package var offered: UInt64 = 0
        package var sent: UInt64 = 0
        /// Received, or where nothing comes back taken by the device.
        package var arrived: UInt64 = 0
        /// Received without the stamp that was sent.
        package var wrong: UInt64 = 0
        package var nanoseconds: UInt64 = 0
        /// From when each frame was due until it was received.
        package var roundTrip = LatencyHistogram()
        /// From when each frame was due until this thread sent it: full rings, and its own stalls.
        package var lateness = LatencyHistogram()

        package var lost: UInt64 { offered - min(offered, arrived) }

        package init() {}
    }

    /// Frames that were due and could not be sent within this time after the end are lost, in seconds.
    package static let grace = 0.01

    /// Offers frames at a rate whatever comes back: one that is late, because a ring was full or this thread was held
    /// up, still counts from when it was due (no coordinated omission). A signal ends it early.
    package static func paced(_ flows: [Flow], _ pace: Pace) -> Paced {
        var result = Paced()
        result.offered = UInt64(max(1, (pace.rate * pace.seconds / Double(pace.burst)).rounded()) * Double(pace.burst))
        paced(flows.span, pace.sizes.span, pace, &result)
        return result
    }

    private static func paced(
        _ flows: Span<Flow>, _ sizes: Span<Int>, _ pace: Pace, _ result: inout Paced
    ) {
        let perMicrosecond = TickClock.shared.ticksPerMicrosecond
        let ticksPerSecond = Double(perMicrosecond) * 1e6
        // Ticks from one burst to the next.
        let step = Double(pace.burst) / pace.rate * ticksPerSecond
        let burst = pace.burst
        let start = CPlat_cycles()
        let last = UInt64((pace.seconds + grace) * ticksPerSecond)
        var (due, inBurst, flow, turn, rounds) = (0.0, 0, 0, 0, 0)
        var left = result.offered
        while left > 0 {
            let now = CPlat_cycles() &- start
            if now > last { break }
            rounds &+= 1
            if rounds & 255 == 0 && Signals.haveCome {
                // Those that are due later are not asked for any more.
                (result.offered, left) = (result.offered &- left, 0)
                break
            }
            if Double(now) >= due {
                let bursts = min(DriverPair.burst, Int((Double(now) - due) / step) + 1)
                let from = flows[flow].from
                let n = from.pair.prepare(min(Int(min(left, UInt64(DriverPair.burst))), bursts &* burst &- inBurst))
                for k in 0..<n {
                    let frame = from.pair.outgoing.start + k
                    frame.pointee.length = UInt32(truncatingIfNeeded: sizes[turn])
                    turn = turn &+ 1 == sizes.count ? 0 : turn &+ 1
                    if pace.isStamped {
                        Stamp.write(start &+ UInt64(due), to: frame.pointee.base)
                        result.lateness.record(nanoseconds: (now &- UInt64(due)) &* 1000 / perMicrosecond)
                    }
                    inBurst &+= 1
                    if inBurst == burst { (inBurst, due) = (0, due + step) }
                }
                if n > 0 { from.pair.send(n) }
                left &-= UInt64(n)
                flow = flow &+ 1 == flows.count ? 0 : flow &+ 1
            }
            for i in flows.indices { take(flows[i], pace, &result) }
        }
        result.sent = result.offered &- left
        // What is still under way.
        let end = CPlat_monotonic_ns() &+ 100_000_000
        while CPlat_monotonic_ns() < end {
            for i in flows.indices { take(flows[i], pace, &result) }
            var outstanding = 0
            for i in flows.indices {
                flows[i].from.pair.reclaim()
                outstanding &+= flows[i].from.pair.outstanding
            }
            if !pace.comesBack { result.arrived = result.sent &- UInt64(outstanding) }
            if outstanding == 0 && result.arrived >= result.sent { break }
        }
        result.nanoseconds = UInt64(Double(CPlat_cycles() &- start) / ticksPerSecond * 1e9)
    }

    @inline(__always)
    private static func take(_ flow: Flow, _ pace: Pace, _ result: inout Paced) {
        let n = flow.to.pair.receiveBurst()
        if n == 0 { return }
        if pace.isStamped {
            let (now, perMicrosecond) = (CPlat_cycles(), TickClock.shared.ticksPerMicrosecond)
            for k in 0..<n {
                if let due = Stamp.read(flow.to.pair.incoming[k].base) {
                    result.roundTrip.record(nanoseconds: (now > due ? now &- due : 0) &* 1000 / perMicrosecond)
                } else {
                    result.wrong &+= 1
                }
            }
        }
        flow.to.pair.giveBack()
        result.arrived &+= UInt64(n)
    }

    /// Fills every transmit buffer once; later bursts only change lengths and stamps. Nothing may be under way.
    package static func prepare(_ flows: [Flow], size: Int) {
        for (i, flow) in flows.enumerated() {
            settle(flow)
            // Each frame is sent once, so that all buffers come by.
            var left = Int(flow.from.pair.transmit.size)
            while left > 0 {
                let n = flow.from.pair.prepare(min(left, DriverPair.burst))
                for k in 0..<n {
                    flow.from.pair.outgoing[k].length = UInt32(truncatingIfNeeded: size)
                    write(flow.from.pair.outgoing[k], size: size, isForward: i < (flows.count + 1) / 2)
                }
                if n > 0 { flow.from.pair.send(n) }
                left -= n
                if flow.to.pair.receiveBurst() > 0 { flow.to.pair.giveBack() }
            }
            settle(flow)
        }
    }

    /// Waits until everything that was sent has been dealt with and nothing has come back for a millisecond (a back-end
    /// may hold packets after it has taken them), at most 100 ms where they do not end. One that has not taken all
    /// after two seconds, or when a signal has come after 100 ms, is waited for no longer. Returns how many came.
    @discardableResult
    package static func settle(_ flow: Flow) -> UInt64 {
        let start = CPlat_monotonic_ns()
        var (taken, emptied, last): (UInt64, UInt64, UInt64) = (0, start, start)
        while true {
            flow.from.pair.reclaim()
            let n = flow.to.pair.receiveBurst()
            flow.to.pair.giveBack()
            taken &+= UInt64(n)
            let now = CPlat_monotonic_ns()
            if flow.from.pair.outstanding > 0 {
                (emptied, last) = (now, now)
                if now &- start > (Signals.haveCome ? 100_000_000 : 2_000_000_000) { return taken }
                continue
            }
            if n > 0 { last = now }
            if now &- last > 1_000_000 || now &- emptied > 100_000_000 { return taken }
        }
    }
}
