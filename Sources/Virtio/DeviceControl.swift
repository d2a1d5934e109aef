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

extension DeviceQueue {
    /// Takes the next command off a control queue and copies it into `room` (at most its count; what
    /// is longer is cut, and refused by the caller's length checks). Nil when there is none or on a defect.
    public mutating func popControl(into room: UnsafeMutableRawBufferPointer, scratch: Burst) -> ControlCommand? {
        guard defect.kind == .none, hasWork else { return nil }
        var g = Gathering(
            segments: scratch.segments, capacity: scratch.segmentCapacity, headerLength: 0, wantsWritable: false)
        g.takesAnswer = true
        var id: UInt16
        if isPacked {
            guard let last = gatherPacked(slot: available, wrap: availableWrap, &g) else { return nil }
            id = last
        } else {
            // waitingSplit checks the index; hasWork has seen that it moved.
            guard waitingSplit(1) > 0 else { return nil }
            let slot = Int(available & UInt16(truncatingIfNeeded: size &- 1))
            id = CPlat_load16_relaxed(driverArea + 4 + 2 * slot)
            if UInt32(id) >= size {
                fail(.descriptorIndex, UInt32(slot), UInt64(id))
                return nil
            }
            if !gatherSplit(head: id, &g) { return nil }
        }
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
        if isPacked {
            var cursor = availableCursor
            cursor.advance(g.descriptors, size)
            availableCursor = cursor
        } else {
            available = available &+ 1
        }
        return ControlCommand(length: filled, answer: answer, id: id, slots: UInt16(truncatingIfNeeded: g.descriptors))
    }

    /// Writes the answer byte (`ControlCode.ok` or `.error`) and hands the command back.
    public mutating func completeControl(_ command: ControlCommand, answer: UInt8) {
        command.answer.storeBytes(of: answer, as: UInt8.self)
        if isPacked {
            var cursor = usedCursor
            publishUsedPacked(cursor, command.id, 1)
            cursor.advance(UInt32(command.slots), size)
            usedCursor = cursor
            slotsSinceCall &+= UInt32(command.slots)
        } else {
            storeUsed(deviceArea + 4, used & UInt16(truncatingIfNeeded: size &- 1), command.id, 1)
            publishUsedSplit(used &+ 1)
        }
    }
}
