import Ringway

/// Lets each port send so many packets and bytes a second, and drops the rest. What is within the limits goes to the
/// next function of a chain.
///
/// Each poll thread has limits of its own: with several, a port whose queues are spread over all gets as many times
/// as much.
public struct RateLimiter: PacketFunction {
    /// What a port may send.
    public struct Limits: Sendable, Equatable {
        /// Packets a second.
        public var packets: UInt64
        /// At most so many packets at once after a pause.
        public var packetBurst: UInt64
        /// Bytes a second, without Ethernet's preamble, gap and CRC.
        public var bytes: UInt64
        /// At most so many bytes at once after a pause. A longer packet never passes.
        public var byteBurst: UInt64

        /// All four.
        public init(packets: UInt64, packetBurst: UInt64, bytes: UInt64, byteBurst: UInt64) {
            (self.packets, self.packetBurst) = (packets, packetBurst)
            (self.bytes, self.byteBurst) = (bytes, byteBurst)
        }
    }

    /// New limits for a port, while packets flow.
    public struct Change: Sendable {
        /// The port's place.
        public var port: Int
        /// What it may send from now on.
        public var limits: Limits

        /// A command for `perform`.
        public init(port: Int, limits: Limits) { (self.port, self.limits) = (port, limits) }
    }

    /// Lengths are known without a header.
    public static let frontBytes = 0
    public static let dropCauses = ["packet limit", "byte limit"]
    public static let counters = ["passed packets", "passed bytes"]

    private struct Port {
        var packets: TokenBucket
        var bytes: TokenBucket
    }

    private var ports: [Port]

    /// Limits by port; a port beyond their end has none. `now` and `ticksPerSecond`: the clock of `PacketBurst.ticks`.
    /// In a test it is what the test says.
    public init(
        _ limits: [Limits], now: UInt64 = 0, ticksPerSecond: UInt64 = TickClock.shared.ticksPerMicrosecond * 1_000_000
    ) {
        ports = limits.map {
            Port(
                packets: TokenBucket(
                    rate: $0.packets, burst: $0.packetBurst, ticksPerSecond: ticksPerSecond, now: now),
                bytes: TokenBucket(rate: $0.bytes, burst: $0.byteBurst, ticksPerSecond: ticksPerSecond, now: now))
        }
    }

    /// False where there is no such port.
    public mutating func perform(_ command: Change, at time: BurstTime) -> Bool {
        guard ports.indices.contains(command.port) else { return false }
        let limits = command.limits
        ports[command.port].packets.change(rate: limits.packets, burst: limits.packetBurst, now: time.ticks)
        ports[command.port].bytes.change(rate: limits.bytes, burst: limits.byteBurst, now: time.ticks)
        return true
    }

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        let now = packets.ticks
        guard packets.port < ports.count else { return .next }
        var (passed, bytes) = (0, 0)
        for i in 0..<packets.count {
            let length = packets[i].length
            // A packet that only the second limit stops has used up credit of the first.
            if !ports[packets.port].packets.take(1, now: now) {
                packets.drop(i, because: 0)
            } else if !ports[packets.port].bytes.take(UInt64(length), now: now) {
                packets.drop(i, because: 1)
            } else {
                packets.decide(i, .next)
                passed += 1
                bytes += length
            }
        }
        packets.count(0, passed)
        packets.count(1, bytes)
        return nil
    }
}

/// Port 0 to port 1 and back: what stands behind the limiter in the example's chain.
public struct Wire: PacketFunction {
    public static let frontBytes = 0

    /// A wire.
    public init() {}

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .port(1 - packets.port) }
}
