import CPlatform

/// Reading a packet's first bytes.
extension PacketSlot {
    /// Reads the first bytes of a frame that nobody has looked at into its front, as many as `wanted` says (all of a
    /// shorter frame): see `Front.wanted`. They are read from the sender once; from then on they are what every
    /// receiver gets.
    @inlinable @inline(__always)
    public mutating func loadFront(_ wanted: Front) {
        assert(front == .nothing)
        if wanted == .addresses { return loadAddresses(.addresses) }
        if UInt64(dataLength) >= wanted.word & 0xfff {
            CPlat_copy_short(room + PacketSlot.frontPlace, data, wanted.word & 0xfff)
            front = wanted
        } else if moreCount == 0 {
            let n = Int(dataLength)
            CPlat_copy_short(room + PacketSlot.frontPlace, data, UInt64(truncatingIfNeeded: n))
            front = Front(length: n, skip: n)
        } else {
            extendFront(to: wanted.length)
        }
    }

    /// Reads the MAC addresses alone. `addresses` is `Front.addresses`, in a register where there is a loop around.
    @inlinable @inline(__always)
    mutating func loadAddresses(_ addresses: Front) {
        if dataLength < 12 { return loadShort() }
        let (a, b) = (data.loadUnaligned(as: UInt64.self), (data + 8).loadUnaligned(as: UInt32.self))
        room.storeBytes(of: a, as: UInt64.self)
        (room + 8).storeBytes(of: b, as: UInt32.self)
        front = addresses
    }

    /// Of a frame that is shorter, or lies in several pieces.
    @inline(never)
    @usableFromInline
    mutating func loadShort() { extendFront(to: 12) }

    /// The same for a front that is there already, or a frame in several pieces. False when the frame, or the room, is
    /// shorter; then the front is as long as it can be.
    @inline(never)
    @discardableResult
    public mutating func extendFront(to wanted: Int) -> Bool {
        settleFront()
        let most = PacketSlot.tailPlace &- front.start
        var (end, skip) = (frontLength, skip)
        let target = min(wanted, most)
        while end < target {
            let take = min(target &- end, Int(dataLength) &- skip)
            CPlat_copy(frontBytes + end, data + skip, UInt64(take))
            end &+= take
            skip &+= take
            if skip < Int(dataLength) { continue }
            if moreCount == 0 { break }
            let next = more.unsafelyUnwrapped
            (data, dataLength, skip) = (next.pointee.base, next.pointee.length, 0)
            more = next + 1
            moreCount &-= 1
        }
        assert(end <= max(most, frontLength))
        front = Front(length: end, skip: skip, start: front.start, growth: front.growth)
        return end >= wanted
    }

    /// Puts the front where headers can go before it.
    @inline(never)
    @usableFromInline
    mutating func settleFront() {
        if front == .nothing {
            front = Front(length: 0, skip: 0)
        } else if front.start < PacketSlot.leastStart {
            let from = frontBytes
            front = Front(length: frontLength, skip: skip, growth: front.growth)
            CPlat_copy_short(frontBytes, from, UInt64(truncatingIfNeeded: frontLength))
        }
    }

    /// Destination address as it stands in the frame's first six bytes (little-endian load of the
    /// bytes in their order). Needs a front of 12 bytes, as the following do.
    @inlinable @inline(__always)
    public var destinationMAC: UInt64 { frontBytes.loadUnaligned(as: UInt64.self) & 0xffff_ffff_ffff }

    /// Source address, the same way.
    @inlinable @inline(__always)
    public var sourceMAC: UInt64 { (frontBytes + 4).loadUnaligned(as: UInt64.self) >> 16 }

    /// Exchanges source and destination address, where they were read.
    @inlinable @inline(__always)
    public mutating func swapMACs() {
        if front == .addresses { return PacketSlot.swapMACs(at: room) }
        if frontLength >= 12 { PacketSlot.swapMACs(at: frontBytes) }
    }

    @inlinable @inline(__always)
    static func swapMACs(at p: UnsafeMutableRawPointer) {
        let (d, s) = (p.loadUnaligned(as: UInt64.self), (p + 4).loadUnaligned(as: UInt64.self) >> 16)
        p.storeBytes(of: s | d << 48, as: UInt64.self)
        (p + 8).storeBytes(of: UInt32(truncatingIfNeeded: d >> 16), as: UInt32.self)
    }
}
