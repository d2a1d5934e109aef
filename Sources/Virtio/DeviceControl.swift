import CPlatform

/// A command of the control queue (5.1.6.5), copied out of the driver's memory.
public struct ControlCommand: BitwiseCopyable {
    /// Bytes of class, command and data that were copied.
    public var length: Int
    /// Where the device's answer goes; one byte.
    var answer: UnsafeMutableRawPointer
    var id: UInt16
    var slots: UInt16
}

/// Memory that a control queue works in: a command as it was copied out of the driver's memory. One thread at a time.
public final class ControlRoom {
    let burst = Burst()
    let room: OwnedMemory<UInt8>
    /// Bytes; a command that is as long, or longer, is cut.
    public let size: Int

    /// - Parameter size: bytes of the longest command, and one more.
    public init(size: Int) {
        self.size = size
        room = OwnedMemory(count: size, repeating: 0)
    }

    /// The first `count` bytes of what was copied last.
    @_lifetime(borrow self)
    public func bytes(_ count: Int) -> Span<UInt8> {
        precondition(count >= 0 && count <= size)
        let start = room.start
        return _overrideLifetime(Span(_unsafeStart: start, count: count), borrowing: self)
    }
}

extension Gathering {
    /// For a chain of the control queue, in the burst's segments.
    init(control scratch: borrowing Burst) {
        self.init(
            segments: scratch.segments, capacity: Burst.mostSegments, headerLength: 0, wantsWritable: false)
        takesAnswer = true
    }
}

extension DeviceCore {
    /// The command of a gathered chain, copied into `room`; what is longer is cut. Nil on a defect.
    mutating func finishControl(_ g: Gathering, id: UInt16, into room: ControlRoom) -> ControlCommand? {
        guard let answer = g.answer else {
            fail(.chainTooShort, UInt32(id), g.bytes)
            return nil
        }
        var filled = 0
        for i in 0..<g.count {
            let take = min(Int(g.segments[i].length), room.size - filled)
            CPlat_copy(room.room.start + filled, g.segments[i].base, UInt64(take))
            filled += take
        }
        return ControlCommand(length: filled, answer: answer, id: id, slots: UInt16(truncatingIfNeeded: g.descriptors))
    }
}
