import CPlatform

/// Making a packet longer and shorter. The net header's offsets follow, so that a packet with a partial checksum or
/// segmentation offload stays right (virtio 1.3, 5.1.6.2). All return false, and change nothing, where it cannot be
/// done.
extension PacketSlot {
    /// The farthest byte at which a checksum may have to be filled in: see `Offload`.
    static var farthestChecksum: Int { 512 }

    /// Puts `n` bytes of zero before the frame. Needs a loaded front: a frame that had none now begins with these
    /// alone.
    @inlinable @inline(__always)
    public mutating func prepend(_ n: Int) -> Bool {
        if front == .nothing { front = Front(length: 0, skip: 0) }
        if n < 0 || n > front.start || !(header.isPlain || shiftOffload(by: n)) { return false }
        front.grow(by: n)
        length &+= UInt32(truncatingIfNeeded: n)
        // What an earlier packet left there is nobody's business.
        CPlat_zero(frontBytes, UInt64(n))
        return true
    }

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
        let growth = front.growth + n - Int(length)
        let start = front == .nothing ? PacketSlot.headroom : front.start
        length = UInt32(n)
        front = Front(length: min(n, frontLength), skip: skip, start: start, growth: growth)
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

    /// Appends `n` bytes of zero and returns where they lie. `spare`: room for segments, which is used from its
    /// beginning; `spareCount` of them are there, and those that were used are taken off both.
    public mutating func append(
        _ n: Int, _ spare: inout UnsafeMutablePointer<Segment>, _ spareCount: inout Int
    ) -> UnsafeMutableRawPointer? {
        if n <= 0 || n > PacketSlot.tailroom || header.gsoType != NetHeader.gsoNone { return nil }
        if Int(length) + n > Int(PacketSlot.maximumLength) { return nil }
        // One tail a packet.
        let tail = room + PacketSlot.headroom + PacketSlot.longestFront
        let count = Int(moreCount)
        if data == tail || count > 0 && more.unsafelyUnwrapped[count - 1].base == tail { return nil }
        if count + 1 > spareCount || count + 1 > PacketSlot.mostSegments { return nil }
        for i in 0..<count { spare[i] = more.unsafelyUnwrapped[i] }
        CPlat_zero(tail, UInt64(n))
        spare[count] = Segment(base: tail, length: UInt32(n))
        more = spare
        moreCount &+= 1
        spare += count + 1
        spareCount -= count + 1
        length &+= UInt32(n)
        let start = front == .nothing ? PacketSlot.headroom : front.start
        front = Front(length: frontLength, skip: skip, start: start, growth: front.growth + n)
        return tail
    }
}
