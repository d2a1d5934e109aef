import CPlatform
import Virtio

/// What is done with packets: the embedder's code. Called once a burst on the poll thread that owns
/// the queue; each thread has a value of its own, so no locks are needed. It must not block,
/// allocate or touch reference-counted objects. A function may be `~Copyable`, and own tables that are.
///
/// `docs/functions.md` leads from nothing to a firewall. `FunctionHarness` runs a function without an engine.
///
/// ```swift
/// struct Direct: PacketFunction {
///     static var counters: [String] { ["IPv4"] }
///
///     mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
///         for i in 0..<packets.count {
///             if let ethernet = Ethernet(packets[i].bytes), ethernet.etherType == .ipv4 { packets.count(0) }
///         }
///         return .port(1 - packets.port)
///     }
/// }
/// ```
public protocol PacketFunction: ~Copyable {
    /// What other threads can tell it: see `Engine.send`. `Never`: nothing.
    associatedtype Command: Sendable = Never
    /// What it answers.
    associatedtype Answer: Sendable = Void

    /// Bytes of each packet's front that are read from its sender into private memory before it is judged, 0
    /// to 256; of a shorter packet all. The default is 128: Ethernet with two VLAN tags, IPv6 and TCP with options.
    static var frontBytes: Int { get }

    /// Whether a packet may be judged again later when its destination had no buffers for it
    /// (backpressure on the sender for up to a millisecond). False: it is dropped then, so that
    /// each packet is seen once. The default is false.
    static var judgesAgain: Bool { get }

    /// Whether the packets of most bursts are read or delivered; false saves asking for their memory early. The default
    /// is true.
    static var wantsData: Bool { get }

    /// Names of its own causes of drops, at most 64 in a chain: shown with the other causes of the port that a packet
    /// came from. See `PacketBurst.drop`.
    static var dropCauses: [String] { get }

    /// Names of its counters, at most 64 in a chain: summed over threads in `Engine.functionCounters`. See
    /// `PacketBurst.count(_:_:)`.
    static var counters: [String] { get }

    /// Microseconds between two calls of `tick`, about; 0 (the default): none.
    static var tickMicroseconds: Int { get }

    /// Poll threads among which its work may be divided. An engine with more of them does not start: a function whose
    /// threads must know of each other what they do not, such as a NAT, says 1. The default has no limit.
    static var mostThreads: Int { get }

    /// Judges `packets`: either returns one verdict for all of them, or nil after setting each
    /// packet's `verdict` (which is `drop` before). Frames can be of any length here, also 0.
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict?

    /// Obeys a command, on its thread, between two bursts. It may allocate; packets wait meanwhile.
    mutating func perform(_ command: Command, at time: BurstTime) -> Answer

    /// Keeps house: ages tables, sends packets of its own (`PacketBurst.originate`). `burst` holds no packets. Called
    /// on its thread, also when there is no traffic.
    mutating func tick(_ burst: borrowing PacketBurst)

    /// A port got its first queue pair that takes packets, or lost its last. On its thread, between two bursts.
    mutating func portChanged(_ port: Int, isUp: Bool)
}

/// When something comes to a function that comes with no burst: by the clock of `PacketBurst`.
public struct BurstTime: Sendable, BitwiseCopyable {
    /// As `PacketBurst.seconds`.
    public var seconds: UInt32
    /// As `PacketBurst.ticks`.
    public var ticks: UInt64

    /// A time of both clocks.
    public init(seconds: UInt32, ticks: UInt64) { (self.seconds, self.ticks) = (seconds, ticks) }
}

extension PacketFunction where Self: ~Copyable {
    public static var frontBytes: Int { 128 }
    public static var judgesAgain: Bool { false }
    public static var wantsData: Bool { true }
    public static var dropCauses: [String] { [] }
    public static var counters: [String] { [] }
    public static var tickMicroseconds: Int { 0 }
    public static var mostThreads: Int { .max }
    public mutating func tick(_ burst: borrowing PacketBurst) {}
    public mutating func portChanged(_ port: Int, isUp: Bool) {}
}

extension PacketFunction where Self: ~Copyable, Command == Never {
    /// Nothing can be told.
    public mutating func perform(_ command: Never, at time: BurstTime) -> Answer {}
}

/// `drop`: received and thrown away.
struct DropFunction: PacketFunction {
    static var frontBytes: Int { 0 }
    static var wantsData: Bool { false }

    @inline(__always)
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .drop }
}

/// `crossconnect`: port 0 to port 1 and back.
struct CrossconnectFunction: PacketFunction {
    static var frontBytes: Int { 0 }
    static var judgesAgain: Bool { true }

    @inline(__always)
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .port(packets.port ^ 1) }
}

/// `macswap`: back to where it came from with the MAC addresses exchanged.
struct MACSwapFunction: PacketFunction {
    static var frontBytes: Int { 12 }
    static var judgesAgain: Bool { true }

    @inline(__always)
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        var i = 0
        while i < packets.count {
            packets.look(i, .wanted(MACSwapFunction.frontBytes)).swapMACs()
            i &+= 1
        }
        return .port(packets.port)
    }
}
