import CPlatform
import Glibc
import Ringway
import Telemetry

/// Loops that drive embedded drivers, on the calling thread.
enum Load {
    /// Packets from one pair to another (or back to the same one).
    struct Flow {
        var from: UnsafeMutablePointer<DriverPair>
        var to: UnsafeMutablePointer<DriverPair>
    }

    struct Count {
        var sent: UInt64 = 0
        var received: UInt64 = 0
        /// Received frames whose number or filling was not what was sent.
        var wrong: UInt64 = 0
        var nanoseconds: UInt64 = 0

        var mpps: Double { nanoseconds == 0 ? 0 : Double(received) * 1000 / Double(nanoseconds) }
        mutating func add(_ o: Count) {
            sent &+= o.sent
            received &+= o.received
            wrong &+= o.wrong
        }
    }

    /// Offset of the time stamp in a frame: behind the Ethernet, IP and UDP headers.
    static let stamp = 42

    /// Writes the headers of a UDP frame of `size` bytes into every buffer that a burst can use.
    static func write(_ frame: UnsafeMutableRawPointer, size: Int, isForward: Bool) {
        memset(frame, 0, size)
        let macs: [UInt8] = isForward ? [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1] : [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        for (i, b) in (macs + [0x08, 0x00, 0x45]).enumerated() { frame.storeBytes(of: b, toByteOffset: i, as: UInt8.self) }
    }

    /// As many packets as the rings take until `end`, with bursts of `burst`; what comes back is counted.
    static func saturate(_ flows: [Flow], size: Int, burst: Int, until end: UInt64, counts: inout [Count], sends: Bool = true) {
        let start = CPlat_monotonic_ns()
        var rounds = 0
        while true {
            rounds &+= 1
            if rounds & 63 == 0 && CPlat_monotonic_ns() >= end { break }
            for (i, flow) in flows.enumerated() {
                if sends {
                    let n = flow.from.pointee.prepare(burst)
                    let outgoing = flow.from.pointee.outgoing
                    for k in 0..<n { outgoing[k].length = UInt32(truncatingIfNeeded: size) }
                    if n > 0 { flow.from.pointee.send(n) }
                    counts[i].sent &+= UInt64(n)
                }
                counts[i].received &+= UInt64(flow.to.pointee.receiveBurst())
                flow.to.pointee.giveBack()
            }
        }
        for i in flows.indices { counts[i].nanoseconds &+= CPlat_monotonic_ns() &- start }
    }

    /// Sends at `rate` packets a second on the first flow until `end`, whatever comes back: each frame
    /// carries the time at which it was due, so a stall counts for every packet that it delays
    /// (no coordinated omission). Records what passed until it was received.
    static func paced(_ flow: Flow, size: Int, rate: Double, until end: UInt64, into histogram: inout LatencyHistogram) -> Count {
        var count = Count()
        let interval = 1e9 / rate
        let start = CPlat_monotonic_ns()
        var due = Double(start)
        while true {
            let now = CPlat_monotonic_ns()
            if now >= end { break }
            if Double(now) >= due {
                let n = flow.from.pointee.prepare(min(DriverPair.burst, Int((Double(now) - due) / interval) + 1))
                for k in 0..<n {
                    let frame = flow.from.pointee.outgoing + k
                    frame.pointee.length = UInt32(truncatingIfNeeded: size)
                    (frame.pointee.base + stamp).storeBytes(of: UInt64(due), as: UInt64.self)
                    due += interval
                }
                if n > 0 { flow.from.pointee.send(n) }
                count.sent &+= UInt64(n)
            }
            count.received &+= take(flow, &histogram)
        }
        // What is still under way.
        let last = CPlat_monotonic_ns() &+ 100_000_000
        while count.received < count.sent && CPlat_monotonic_ns() < last { count.received &+= take(flow, &histogram) }
        count.nanoseconds = CPlat_monotonic_ns() &- start
        return count
    }

    @inline(__always)
    private static func take(_ flow: Flow, _ histogram: inout LatencyHistogram) -> UInt64 {
        let n = flow.to.pointee.receiveBurst()
        if n == 0 { return 0 }
        let now = CPlat_monotonic_ns()
        for k in 0..<n {
            let sent = (flow.to.pointee.incoming[k].base + stamp).loadUnaligned(as: UInt64.self)
            histogram.record(nanoseconds: now > sent ? now &- sent : 0)
        }
        flow.to.pointee.giveBack()
        return UInt64(n)
    }

    /// Fills every transmit buffer once; later bursts only change lengths and stamps. Nothing may be under way.
    static func prepare(_ flows: [Flow], size: Int) {
        for (i, flow) in flows.enumerated() {
            settle(flow)
            // Each frame is sent once, so that all buffers come by.
            var left = Int(flow.from.pointee.transmit.size)
            while left > 0 {
                let n = flow.from.pointee.prepare(min(left, DriverPair.burst))
                for k in 0..<n {
                    flow.from.pointee.outgoing[k].length = UInt32(truncatingIfNeeded: size)
                    write(flow.from.pointee.outgoing[k].base, size: size, isForward: i == 0)
                }
                if n > 0 { flow.from.pointee.send(n) }
                left -= n
                if flow.to.pointee.receiveBurst() > 0 { flow.to.pointee.giveBack() }
            }
            settle(flow)
        }
    }

    /// Waits until everything that was sent has been dealt with, at most 100 ms.
    static func settle(_ flow: Flow) {
        let end = CPlat_monotonic_ns() &+ 100_000_000
        while CPlat_monotonic_ns() < end {
            flow.from.pointee.reclaim()
            let n = flow.to.pointee.receiveBurst()
            flow.to.pointee.giveBack()
            if flow.from.pointee.outstanding == 0 && n == 0 { return }
        }
    }
}
