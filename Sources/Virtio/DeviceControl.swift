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
    mutating func finishControl(_ g: Gathering, id: UInt16, into room: UnsafeMutableRawBufferPointer)
        -> ControlCommand?
    {
        guard let answer = g.answer else {
            fail(.chainTooShort, UInt32(id), g.bytes)
            return nil
        }
        var filled = 0
        for i in 0..<g.count {
            let take = min(Int(g.segments[i].length), room.count - filled)
            CPlat_copy(room.baseAddress.unsafelyUnwrapped + filled, g.segments[i].base, UInt64(take))
            filled += take
        }
        return ControlCommand(length: filled, answer: answer, id: id, slots: UInt16(truncatingIfNeeded: g.descriptors))
    }
}
