import CPlatform
import Glibc
import Memory
import Ringway
import Virtio

/// A queue pair of an embedded driver: bursts of whole frames in memory that the device sees. One
/// thread at a time, which polls; it kicks the device when that wants it.
public struct DriverPair: ~Copyable {
    public private(set) var transmit: DriverQueue
    public private(set) var receive: DriverQueue
    /// Frames of the burst that is prepared or was received: `base` is the frame's first byte, the net
    /// header lies before it, `length` is the frame's.
    public let outgoing = OwnedMemory<DriverBuffer>(count: DriverPair.burst)
    public let incoming = OwnedMemory<DriverBuffer>(count: DriverPair.burst)
    /// Longest frame that one buffer holds.
    public let frameRoom: Int

    private let transmitBuffers: UnsafeMutableRawPointer
    private let receiveBuffers: UnsafeMutableRawPointer
    private let stride: Int
    private let free: OwnedMemory<UInt32>
    private var freeCount: Int
    private let scratch = OwnedMemory<DriverBuffer>(count: DriverPair.burst)
    private let completions = OwnedMemory<DriverCompletion>(count: DriverPair.burst)
    private var received = 0
    private var wantsCalls = false
    /// The back-end has their eventfds, too; whoever made the pair keeps them.
    private let transmitKick: Unmanaged<CallRing>
    private let receiveKick: Unmanaged<CallRing>

    /// Frames of a burst.
    public static var burst: Int { 64 }
    static var header: Int { PacketSlot.headerLength }

    /// Bytes of shared memory that a pair needs.
    static func bytes(size: UInt32, isPacked: Bool, frameRoom: Int) -> Int {
        2 * ringBytes(size, isPacked) + 2 * Int(size) * stride(frameRoom)
    }

    private static func ringBytes(_ size: UInt32, _ isPacked: Bool) -> Int {
        (DriverQueue.bytes(size: size, isPacked: isPacked) + 4095) & ~4095
    }

    /// A frame, its header and a line more: buffers at powers of two would share cache sets.
    private static func stride(_ frameRoom: Int) -> Int { ((frameRoom + header + 63) & ~63) + 64 }

    /// `memory`: `bytes(…)` of zeroes from `start` on, the caller's; addresses in it are the device's too.
    init(
        size: UInt32, isPacked: Bool, features: Features, frameRoom: Int, memory: HostMemory, at start: Int,
        transmitKick: CallRing, receiveKick: CallRing
    ) {
        self.frameRoom = frameRoom
        self.transmitKick = .passUnretained(transmitKick)
        self.receiveKick = .passUnretained(receiveKick)
        let ring = DriverPair.ringBytes(size, isPacked)
        stride = DriverPair.stride(frameRoom)
        transmit = DriverQueue(size: size, isPacked: isPacked, memory: memory.base + start, features: features)
        receive = DriverQueue(size: size, isPacked: isPacked, memory: memory.base + start + ring, features: features)
        transmitBuffers = memory.base + start + 2 * ring
        receiveBuffers = transmitBuffers + Int(size) * stride
        free = OwnedMemory(count: Int(size))
        freeCount = Int(size)
        for i in 0..<Int(size) { free[i] = UInt32(Int(size) - 1 - i) }
        for token in 0..<size { post(token) }
        receive.publish()
    }

    private mutating func post(_ token: UInt32) {
        scratch[0] = DriverBuffer(
            base: receiveBuffers + Int(token) * stride, length: UInt32(frameRoom + DriverPair.header), token: token)
        _ = receive.addReceive(scratch.start, 1)
    }

    /// Chooses buffers for up to `wanted` (at most 64) frames: fill `outgoing`, then `send`. Returns
    /// how many there are.
    public mutating func prepare(_ wanted: Int) -> Int {
        if freeCount < wanted { reclaim() }
        let n = min(wanted, min(freeCount, Int(transmit.free)))
        var i = 0
        while i < n {
            let token = free[freeCount &- 1 &- i]
            outgoing[i] = DriverBuffer(
                base: transmitBuffers + (Int(token) &* stride &+ DriverPair.header), length: 0, token: token)
            i &+= 1
        }
        return n
    }

    /// Takes back what the device has sent.
    public mutating func reclaim() {
        while true {
            let n = transmit.reclaim(into: completions.start, max: DriverPair.burst)
            var i = 0
            while i < n {
                free[freeCount] = completions[i].token
                freeCount &+= 1
                i &+= 1
            }
            if wantsCalls && n > 0 { _ = transmit.armCalls() }
            if n < DriverPair.burst { return }
        }
    }

    /// Sends the first `count` prepared frames.
    public mutating func send(_ count: Int) {
        show(count)
        if transmit.needsKick() { DriverPair.kick(transmitKick) }
    }

    /// As `send`, without a kick: of a driver whose kick gets lost.
    @inline(__always)
    package mutating func show(_ count: Int) {
        var i = 0
        while i < count {
            let frame = outgoing[i]
            scratch[i] = DriverBuffer(
                base: frame.base - DriverPair.header, length: frame.length &+ UInt32(DriverPair.header),
                token: frame.token)
            i &+= 1
        }
        freeCount &-= transmit.addTransmit(scratch.start, count)
        transmit.publish()
    }

    /// The driver polls, but asks for calls all the same, each time that it found nothing more.
    mutating func wantCalls() {
        wantsCalls = true
        _ = transmit.armCalls()
        _ = receive.armCalls()
    }

    /// The pair is polled: no calls are wanted.
    mutating func suppressCalls() {
        transmit.suppressCalls()
        receive.suppressCalls()
    }

    /// Frames that were sent and not yet taken back.
    public var outstanding: Int { Int(transmit.outstanding) }

    /// Fills `incoming` with received frames; returns how many. They are valid until `giveBack`.
    public mutating func receiveBurst() -> Int {
        let n = receive.reclaim(into: completions.start, max: DriverPair.burst)
        var i = 0
        while i < n {
            let c = completions[i]
            let base = receiveBuffers + Int(c.token) &* stride
            incoming[i] = DriverBuffer(
                base: base + DriverPair.header,
                length: c.length > UInt32(DriverPair.header) ? c.length &- UInt32(DriverPair.header) : 0, token: c.token
            )
            i &+= 1
        }
        received = n
        if wantsCalls && n > 0 { _ = receive.armCalls() }
        return n
    }

    /// Hands the buffers of the received burst to the device again.
    public mutating func giveBack() {
        var i = 0
        while i < received {
            scratch[i] = DriverBuffer(
                base: incoming[i].base - DriverPair.header,
                length: UInt32(truncatingIfNeeded: frameRoom &+ DriverPair.header), token: incoming[i].token)
            i &+= 1
        }
        if received == 0 { return }
        _ = receive.addReceive(scratch.start, received)
        received = 0
        receive.publish()
        if receive.needsKick() { DriverPair.kick(receiveKick) }
    }

    @inline(never)
    private static func kick(_ ring: Unmanaged<CallRing>) {
        // What the kernel does not take for a second stays queued: the next kick hands it over.
        _ = ring._withUnsafeGuaranteedRef { $0.signal() }
    }
}

/// Queue pairs that lie side by side, seen from one of them: what loops that drive pairs hold, without a reference to
/// their driver. Valid as long as whoever owns the pairs.
@frozen
public struct DriverPairs {
    @usableFromInline var first: UnsafeMutablePointer<DriverPair>

    init(_ pairs: borrowing OwnedValues<DriverPair>) { first = pairs.start }

    /// The pair itself.
    @inlinable
    public var pair: DriverPair {
        @inline(__always) unsafeAddress { UnsafePointer(first) }
        @inline(__always) nonmutating unsafeMutableAddress { first }
    }

    /// The `i`-th pair from this one on.
    @inlinable
    public subscript(_ i: Int) -> DriverPair {
        @inline(__always) unsafeAddress { UnsafePointer(first + i) }
        @inline(__always) nonmutating unsafeMutableAddress { first + i }
    }

    /// The same, seen from the `i`-th on.
    @inlinable
    public static func + (pairs: DriverPairs, i: Int) -> DriverPairs {
        var others = pairs
        others.first += i
        return others
    }
}
