import Ringway

/// Frames of a capture file, put through a packet function without an engine, and what became of them.
package struct Replay: Equatable {
    /// Packets and their bytes.
    package struct Count: Equatable {
        package var packets = 0
        package var bytes = 0

        package init(packets: Int = 0, bytes: Int = 0) { (self.packets, self.bytes) = (packets, bytes) }

        mutating func add(_ length: Int) {
            packets += 1
            bytes += length
        }
    }

    /// Frames read.
    package var read = Count()
    /// Of those, how many were longer than what the file has of them.
    package var cut = 0
    /// Copies, and packets of the function's own.
    package var made = Count()
    /// What goes to each port. A packet for several is counted at each.
    package var ports: [Count]
    /// What was dropped, by cause.
    package var drops: [String: Count] = [:]

    /// Nothing yet, of an engine of `ports` ports.
    package init(ports: Int) { self.ports = Array(repeating: Count(), count: ports) }

    /// Has `function` judge all frames of `reader` as if they came from `port`, in bursts of up to 64, and writes what
    /// goes to any port, once. The function's clock is the capture's. `isEnough` is asked before each burst.
    package mutating func run<F: PacketFunction>(
        _ function: F, from reader: CaptureReader, port: Int, to writer: CaptureWriter?,
        until isEnough: () -> Bool = { false }
    ) throws(CaptureError) {
        let harness = FunctionHarness(function, ports: ports.count)
        var first: UInt64?
        while !isEnough() {
            var burst: [CapturedFrame] = []
            // What was read before a defect is judged before that is told.
            var defect: CaptureError?
            do throws(CaptureError) {
                while burst.count < 64, let frame = try reader.next() { burst.append(frame) }
            } catch { defect = error }
            if let start = burst.first?.nanoseconds {
                let passed = start - min(start, first ?? start)
                first = first ?? start
                // They may wrap: a file can say anything of its times.
                harness.seconds = 1 &+ UInt32(clamping: passed / 1_000_000_000)
                harness.ticks = 1 &+ passed / 1000 &* TickClock.shared.ticksPerMicrosecond
                for frame in burst {
                    read.add(frame.bytes.count)
                    cut += frame.originalLength > frame.bytes.count ? 1 : 0
                }
                for (i, output) in harness.process(burst.map(\.bytes), from: port).enumerated() {
                    try note(output, burst[min(i, burst.count - 1)], writer)
                }
            }
            if let defect { throw defect }
            if burst.count < 64 { return }
        }
    }

    private mutating func note<F: PacketFunction>(
        _ output: FunctionHarness<F>.Output, _ frame: CapturedFrame, _ writer: CaptureWriter?
    ) throws(CaptureError) {
        let length = output.frame.count
        if output.isMade { made.add(length) }
        if output.ports.isEmpty {
            let cause = length < 14 ? "frame length" : output.cause ?? "verdict"
            drops[cause, default: Count()].add(length)
            return
        }
        for port in output.ports { ports[port].add(length) }
        // What the capture had cut off stays cut off.
        let missing = output.isMade ? 0 : max(0, Int(frame.originalLength) - frame.bytes.count)
        try writer?.add(
            CapturedFrame(
                nanoseconds: frame.nanoseconds, bytes: output.frame, originalLength: UInt32(clamping: length + missing))
        )
    }

    /// A line each for what was read, made, sent and dropped.
    package var table: [String] {
        func line(_ count: Count, _ text: String) -> String {
            let numbers = [count.packets, count.bytes].map { String($0) }
            return numbers.map { String(repeating: " ", count: max(1, 12 - $0.count)) + $0 }.joined() + "  " + text
        }
        var lines = ["     packets       bytes", line(read, "read")]
        if cut > 0 { lines.append("\(cut) of them are longer than what the file has of them") }
        if made.packets > 0 { lines.append(line(made, "made by the function")) }
        for (port, count) in ports.enumerated() where count.packets > 0 { lines.append(line(count, "to port \(port)")) }
        for (cause, count) in drops.sorted(by: { $0.key < $1.key }) { lines.append(line(count, "dropped: \(cause)")) }
        return lines
    }
}
