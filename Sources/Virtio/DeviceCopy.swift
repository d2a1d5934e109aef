import CPlatform

/// Writes the net header for the receiver: `num_buffers` is set here, 10 bytes for legacy drivers.
///
/// Where the same stands there already, nothing is written: a driver that uses its buffers again (DPDK's headers have a
/// cache line of their own, before the frame's) keeps the line, and need not fetch it for each packet.
@inline(__always)
func storeHeader(_ header: NetHeader, buffers: UInt16, to p: UnsafeMutableRawPointer, length: UInt32) {
    if length == 12 {
        let high = header.high & 0xffff | UInt32(buffers) << 16
        let isThere = p.loadUnaligned(as: UInt64.self) == header.low && (p + 8).loadUnaligned(as: UInt32.self) == high
        if isThere { return }
        p.storeBytes(of: header.low, as: UInt64.self)
        (p + 8).storeBytes(of: high, as: UInt32.self)
    } else {
        p.storeBytes(of: header.low, as: UInt64.self)
        (p + 8).storeBytes(of: header.csumOffset, as: UInt16.self)
    }
}

/// Reads the net header once, 10 or 12 bytes.
@inline(__always)
func loadHeader(_ p: UnsafeRawPointer) -> NetHeader {
    var h = NetHeader()
    h.low = p.loadUnaligned(as: UInt64.self)
    h.high = UInt32((p + 8).loadUnaligned(as: UInt16.self))
    return h
}

/// Copies a frame to contiguous memory of at least `packet.length` bytes: the one copy.
@inline(__always)
func copyFrame(_ packet: UnsafeMutablePointer<PacketSlot>, to destination: UnsafeMutableRawPointer) {
    if packet.pointee.moreCount > 0 { return copyPieces(packet, to: destination) }
    if packet.pointee.front.isLarge { return copyLarge(packet, to: destination) }
    assert(packet.pointee.dataLength == packet.pointee.length)
    CPlat_copy(destination, packet.pointee.data, UInt64(packet.pointee.dataLength))
    if packet.pointee.front != .nothing {
        // The MAC addresses, as the function has judged or set them.
        let room = packet.pointee.room
        destination.storeBytes(of: room.loadUnaligned(as: UInt64.self), as: UInt64.self)
        (destination + 8).storeBytes(of: (room + 8).loadUnaligned(as: UInt32.self), as: UInt32.self)
    }
}

/// The front, then what is left of the sender's piece.
@inline(never)
private func copyLarge(_ packet: UnsafeMutablePointer<PacketSlot>, to destination: UnsafeMutableRawPointer) {
    let (n, skip) = (packet.pointee.frontLength, packet.pointee.skip)
    let rest = Int(packet.pointee.dataLength) &- skip
    assert(n + rest == Int(packet.pointee.length))
    CPlat_copy_short(destination, packet.pointee.frontBytes, UInt64(truncatingIfNeeded: n))
    if rest > 0 { CPlat_copy(destination + n, packet.pointee.data + skip, UInt64(rest)) }
}

@inline(never)
private func copyPieces(_ packet: UnsafeMutablePointer<PacketSlot>, to destination: UnsafeMutableRawPointer) {
    var to = destination
    var i = 0
    while let s = packet.pointee.piece(i) {
        CPlat_copy(to, s.base, UInt64(s.length))
        to += Int(s.length)
        i &+= 1
    }
    assert(to == destination + Int(packet.pointee.length))
}

/// Writes a frame with its header over a list of writable segments: the receive side's slow path.
struct Scatter {
    var segments: UnsafeMutablePointer<Segment>
    var index = 0
    var offset: UInt32 = 0

    init(_ segments: UnsafeMutablePointer<Segment>) { self.segments = segments }

    /// The caller has made sure that the segments hold everything it writes.
    mutating func write(_ source: UnsafeRawPointer, _ length: UInt32) {
        var from = source
        var left = length
        while left > 0 {
            let s = segments[index]
            let n = min(left, s.length &- offset)
            assert(offset <= s.length && n <= left)
            CPlat_copy(s.base + Int(offset), from, UInt64(n))
            from += Int(n)
            left &-= n
            offset &+= n
            if offset == s.length {
                index &+= 1
                offset = 0
            }
        }
    }

    /// The frame.
    mutating func write(_ packet: UnsafeMutablePointer<PacketSlot>) {
        var piece = 0
        while let s = packet.pointee.piece(piece) {
            write(s.base, s.length)
            piece &+= 1
        }
    }
}
