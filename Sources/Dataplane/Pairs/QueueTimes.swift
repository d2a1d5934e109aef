import CPlatform
import Telemetry
import Virtio

/// What a live engine times on each queue.
public enum QueueTime: Int, CaseIterable, Sendable {
    /// Transmit queues: from the moment that a frame's `Stamp` tells until it was taken from the ring, for each frame
    /// that has one.
    case ringSojourn
    /// Transmit queues: the same for the first frame that is taken after the thread was kicked: the kick, the wake-up
    /// and the pickup.
    case kickToPickup
    /// Transmit queues: from when the thread sees a kick (on a sleeping thread: right after its wake-up) until the
    /// first frames were taken. The kernel's part of the wake-up comes before; only a stamp can tell it.
    case wakeToPickup
    /// From the decision to call the driver until the system call that did it, together with others, has returned. On
    /// driver-side ports: to kick the device.
    case transmitCallDelay, receiveCallDelay

    /// Its name for people.
    public var text: String {
        switch self {
        case .ringSojourn: return "ring sojourn"
        case .kickToPickup: return "kick to pickup"
        case .wakeToPickup: return "wake to pickup"
        case .transmitCallDelay, .receiveCallDelay: return "call delay"
        }
    }

    /// Of which queue of a pair it is.
    public var direction: QueueDirection { self == .receiveCallDelay ? .receive : .transmit }
}

/// A frame that tells when it was sent, or due: EtherType 0x88B5 (IEEE 802's for local experiments), the letters `RW`,
/// then the sender's time-stamp counter, little-endian, in bytes 16 to 23. Sender and engine must see the same counter:
/// drivers on the same machine, and guests whose counter is not offset.
public enum Stamp {
    /// Bytes 12 to 15, loaded little-endian.
    @usableFromInline static var mark: UInt32 { 0x57_52_b5_88 }

    /// Marks a frame of at least 24 bytes.
    @inlinable @inline(__always)
    public static func write(_ ticks: UInt64, to frame: UnsafeMutableRawPointer) {
        (frame + 12).storeBytes(of: mark, as: UInt32.self)
        (frame + 16).storeBytes(of: ticks, as: UInt64.self)
    }

    /// The stamp of a frame of at least 24 bytes.
    @inlinable @inline(__always)
    public static func read(_ frame: UnsafeRawPointer) -> UInt64? {
        (frame + 12).loadUnaligned(as: UInt32.self) == mark ? (frame + 16).loadUnaligned(as: UInt64.self) : nil
    }

    /// Whether the packet has a mark. Looks only where the memory is at hand: `near` says that its first line was asked
    /// for; else at marks on the line of the net header, which was read.
    @inline(__always)
    static func isOn(_ packet: UnsafePointer<PacketSlot>, near: Bool) -> Bool {
        if packet.pointee.dataLength < 24 { return false }
        let place = UInt(bitPattern: packet.pointee.data) & 63
        if !near && (place < 12 || place > 48) { return false }
        return (packet.pointee.data + 12).loadUnaligned(as: UInt32.self) == mark
    }
}

/// The histograms of one pair, one for each `QueueTime`. Written by the pair's thread alone.
struct QueueTimes: ~Copyable {
    /// Off only in builds that measure what the histograms cost: `swift build -Xswiftc -DRINGWAY_WITHOUT_QUEUE_TIMES`.
    static var areKept: Bool {
        #if RINGWAY_WITHOUT_QUEUE_TIMES
        return false
        #else
        return true
        #endif
    }

    private let memory = OwnedMemory<UInt8>(count: LiveHistogram.bytes * QueueTime.allCases.count, repeating: 0)

    @inline(__always)
    subscript(_ what: QueueTime) -> LiveHistogram {
        LiveHistogram(memory: UnsafeMutableRawPointer(memory.start) + what.rawValue &* LiveHistogram.bytes)
    }
}

/// One kind of times of one queue since the engine started.
public struct QueueTimeSnapshot: Sendable {
    /// The port's name.
    public var port: String
    /// Virtqueue index: 2k is pair k's receive queue, 2k + 1 its transmit queue.
    public var queue: Int
    /// What was timed.
    public var what: QueueTime
    /// How often which duration, in ticks.
    public var counts: LiveCounts
    /// How long the ticks of `counts` are.
    public var ticksPerMicrosecond: UInt64

    /// Nanoseconds within which this share of the times lie, 0…100 percent, to within 6 %; 0 without any.
    public func nanoseconds(percentile: Double) -> UInt64 {
        counts.percentile(percentile) * 1000 / max(1, ticksPerMicrosecond)
    }
}
