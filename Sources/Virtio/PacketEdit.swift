import CPlatform

/// Making a packet longer and shorter. The net header's offsets follow, so that a packet with a partial checksum or
/// segmentation offload stays right (virtio 1.3, 5.1.6.2). All return false, and change nothing, where it cannot be
/// done.
extension PacketSlot {
    /// Checksum fields, and all headers that software writes, lie within this many bytes of the frame.
    public static var farthestChecksum: Int { 512 }

    /// Puts `n` bytes of zero before the frame. Needs a loaded front: a frame that had none now begins with these
    /// alone.
    @inlinable @inline(__always)
    public mutating func prepend(_ n: Int) -> Bool {
        if !open(n) { return false }
        // What an earlier packet left there is nobody's business.
        CPlat_zero(frontBytes, UInt64(n))
        return true
    }

    /// The same, but what the bytes hold is anything: whoever calls writes all of them.
    @inlinable @inline(__always)
    public mutating func open(_ n: Int) -> Bool {
        // Negative where either is not as it should be.
        if n | (front.start &- PacketSlot.leastStart &- n) < 0 && !makeRoom(n) { return false }
        if !(header.isPlain || shiftOffload(by: n)) { return false }
        front.grow(by: n)
        length &+= UInt32(truncatingIfNeeded: n)
        return true
    }

    /// Sees to it that `n` bytes fit before the front, if they can.
    @inline(never)
    @usableFromInline
    mutating func makeRoom(_ n: Int) -> Bool {
        settleFront()
        return n >= 0 && n <= front.start &- PacketSlot.leastStart
    }

    /// Where a front begins at the least that headers were put before.
    @inlinable static var leastStart: Int { frontPlace &- headroom }

    /// Takes the first `n` bytes off, at most those of the front.
    @inlinable @inline(__always)
    public mutating func removeFirst(_ n: Int) -> Bool {
        if n < 0 || n > frontLength || !(header.isPlain || shiftOffload(by: -n)) { return false }
        front.grow(by: -n)
        length &-= UInt32(truncatingIfNeeded: n)
        return true
    }

    /// A header of `n` bytes went on before what the offload fields speak of, or came off.
    @inline(never)
    @usableFromInline
    mutating func shiftOffload(by n: Int) -> Bool {
        let start = Int(header.csumStart) + n
        if start < 0 || start + Int(header.csumOffset) + 2 > (n > 0 ? PacketSlot.farthestChecksum : Int(length) + n) {
            return false
        }
        header.csumStart = UInt16(start)
        header.hdrLen = UInt16(clamping: max(0, Int(header.hdrLen) + n))
        return true
    }

    /// Cuts the frame's end off: `n` bytes stay. Not of a packet that is to be cut into segments, nor before the end of
    /// a checksum that is to be filled in.
    public mutating func truncate(to n: Int) -> Bool {
        if n < 0 || n > Int(length) || header.gsoType != NetHeader.gsoNone { return false }
        if !header.isPlain && n < Int(header.csumStart) + Int(header.csumOffset) + 2 { return false }
        settleFront()
        let growth = front.growth + n - Int(length)
        length = UInt32(n)
        front = Front(length: min(n, frontLength), skip: skip, start: front.start, growth: growth)
        if n <= frontLength {
            (dataLength, moreCount) = (UInt32(skip), 0)
            return true
        }
        var left = n - frontLength
        let first = min(left, Int(dataLength) - skip)
        dataLength = UInt32(first + skip)
        left -= first
        var i = 0
        while left > 0 {
            let segment = more.unsafelyUnwrapped + i
            segment.pointee.length = UInt32(min(left, Int(segment.pointee.length)))
            left -= Int(segment.pointee.length)
            i += 1
        }
        moreCount = UInt16(i)
        return true
    }

    /// Puts a VLAN tag behind the addresses.
    @inlinable @inline(__always)
    public mutating func pushTag(_ tag: UInt16, _ type: UInt16) -> Bool {
        if frontLength < Int(PacketSlot.minimumLength)
            || front.start < PacketSlot.leastStart &+ 4
        {
            return false
        }
        if !(header.isPlain || shiftOffload(by: 4)) { return false }
        let addresses = (
            frontBytes.loadUnaligned(as: UInt64.self), (frontBytes + 8).loadUnaligned(as: UInt32.self)
        )
        front.grow(by: 4)
        length &+= 4
        let to = frontBytes
        to.storeBytes(of: addresses.0, as: UInt64.self)
        (to + 8).storeBytes(of: addresses.1, as: UInt32.self)
        (to + 12).storeBytes(of: UInt32(type.byteSwapped) | UInt32(tag.byteSwapped) << 16, as: UInt32.self)
        return true
    }

    /// Takes the tag behind the addresses off.
    @inlinable @inline(__always)
    public mutating func popTag() -> UInt16? {
        if frontLength < Int(PacketSlot.minimumLength) + 4 { return nil }
        let from = frontBytes
        let word = (from + 12).loadUnaligned(as: UInt32.self)
        let type = UInt16(truncatingIfNeeded: word).byteSwapped
        if type != 0x8100 && type != 0x88a8 || !(header.isPlain || shiftOffload(by: -4)) { return nil }
        let addresses = (from.loadUnaligned(as: UInt64.self), (from + 8).loadUnaligned(as: UInt32.self))
        (from + 4).storeBytes(of: addresses.0, as: UInt64.self)
        (from + 12).storeBytes(of: addresses.1, as: UInt32.self)
        front.grow(by: -4)
        length &-= 4
        return UInt16(truncatingIfNeeded: word >> 16).byteSwapped
    }

    /// Appends `n` bytes (1 to `tailroom`) of zero and returns where they lie. Once a packet, but for one that has no
    /// payload behind its front.
    public mutating func append(_ n: Int, _ burst: inout Burst) -> UnsafeMutableRawPointer? {
        if n <= 0 || n > PacketSlot.tailroom || header.gsoType != NetHeader.gsoNone { return nil }
        if Int(length) + n > Int(PacketSlot.maximumLength) { return nil }
        settleFront()
        let tail = room + PacketSlot.tailPlace
        if moreCount == 0 && skip == dataLength && frontBytes + frontLength + n <= tail {
            let at = frontBytes + frontLength
            lengthen(n, front: frontLength + n)
            CPlat_zero(at, UInt64(n))
            return at
        }
        let count = Int(moreCount)
        // A front that reaches so far is one that the function made.
        if frontBytes + frontLength > tail || data == tail { return nil }
        if count > 0 && more.unsafelyUnwrapped[count - 1].base == tail { return nil }
        if count + 1 > PacketSlot.mostSegments { return nil }
        guard let list = burst.copySegments(more, count, room: count + 1) else { return nil }
        CPlat_zero(tail, UInt64(n))
        list[count] = Segment(base: tail, length: UInt32(n))
        (more, moreCount) = (list, moreCount + 1)
        lengthen(n, front: frontLength)
        return tail
    }

    private mutating func lengthen(_ n: Int, front bytes: Int) {
        length &+= UInt32(n)
        front = Front(length: bytes, skip: skip, start: front.start, growth: front.growth + n)
    }
}
