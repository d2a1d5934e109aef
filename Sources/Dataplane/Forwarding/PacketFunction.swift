import CPlatform
import Virtio

/// Where a burst came from.
public struct Ingress: BitwiseCopyable {
    /// Place of the port in the engine's options.
    public let port: Int
    public let pair: Int
    /// Ports of the engine.
    public let portCount: Int
    /// Whole seconds of a clock that only goes forward.
    public let seconds: UInt32
}

/// What is done with packets: the embedder's code. Called once a burst on the poll thread that owns
/// the queue; each thread has a value of its own, so no locks are needed. It must not block,
/// allocate or touch reference-counted objects.
public protocol PacketFunction {
    /// Whether a packet may be judged again later when its destination had no buffers for it
    /// (backpressure on the sender for up to a millisecond). False: it is dropped then, so that
    /// each packet is seen once. The default is false.
    static var judgesAgain: Bool { get }

    /// Whether the packets of most bursts are read or delivered; false saves asking for their memory early. The default
    /// is true.
    static var wantsData: Bool { get }

    /// Judges `packets`: either returns one verdict for all of them, or nil after setting each
    /// packet's `verdict`. Bytes that a decision depends on are read once with `PacketSlot.loadFront`;
    /// changes are made in `PacketSlot.front`. Frames can be of any length here, also 0.
    mutating func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, from ingress: Ingress) -> Verdict?
}

extension PacketFunction {
    public static var judgesAgain: Bool { false }
    public static var wantsData: Bool { true }
}

/// `drop`: received and thrown away.
struct DropFunction: PacketFunction {
    static var wantsData: Bool { false }

    @inline(__always)
    mutating func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, from ingress: Ingress) -> Verdict? {
        .drop
    }
}

/// `crossconnect`: port 0 to port 1 and back.
struct CrossconnectFunction: PacketFunction {
    static var judgesAgain: Bool { true }

    @inline(__always)
    mutating func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, from ingress: Ingress) -> Verdict? {
        .port(ingress.port ^ 1)
    }
}

/// `macswap`: back to where it came from with the MAC addresses exchanged.
struct MACSwapFunction: PacketFunction {
    static var judgesAgain: Bool { true }

    @inline(__always)
    mutating func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, from ingress: Ingress) -> Verdict? {
        var i = 0
        while i < packets.count {
            let p = packets.baseAddress.unsafelyUnwrapped + i
            p.pointee.loadFront(12)
            if p.pointee.frontLength >= 12 { p.pointee.swapMACs() }
            i &+= 1
        }
        return .port(ingress.port)
    }
}

/// An embedder's function behind one call a burst. What it says of itself goes to the thread as values: see
/// `PollThread.start`.
struct EmbeddedFunction: PacketFunction {
    let box: Unmanaged<FunctionBox>

    @inline(__always)
    mutating func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, from ingress: Ingress) -> Verdict? {
        box._withUnsafeGuaranteedRef { $0.process(packets, ingress) }
    }
}

/// Hides the type of an embedder's function; `process` is the one indirect call of a burst.
class FunctionBox {
    func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, _ ingress: Ingress) -> Verdict? { .drop }
}

final class TypedFunctionBox<F: PacketFunction>: FunctionBox {
    let function: UnsafeMutablePointer<F>

    init(_ function: F) {
        self.function = .allocateApart(capacity: 1)
        self.function.initialize(to: function)
    }

    deinit {
        function.deinitialize(count: 1)
        function.deallocate()
    }

    override func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, _ ingress: Ingress) -> Verdict? {
        function.pointee.process(packets, from: ingress)
    }
}
