import CPlatform

/// Writes the net header for the receiver: `num_buffers` is set here, 10 bytes for legacy drivers.
@inline(__always)
func storeHeader(_ header: NetHeader, buffers: UInt16, to p: UnsafeMutableRawPointer, length: UInt32) {
    p.storeBytes(of: header.low, as: UInt64.self)
    if length == 12 {
        (p + 8).storeBytes(of: header.high & 0xffff | UInt32(buffers) << 16, as: UInt32.self)
    } else {
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
func copyFrame(_ packet: UnsafeMutablePointer<Packet>, to destination: UnsafeMutableRawPointer) {
    CPlat_copy(destination, packet.pointee.data, UInt64(packet.pointee.dataLength))
    if packet.pointee.moreCount > 0 {
        var to = destination + Int(packet.pointee.dataLength)
        let more = packet.pointee.more.unsafelyUnwrapped
        var i = 0
        while i < Int(packet.pointee.moreCount) {
            CPlat_copy(to, more[i].base, UInt64(more[i].length))
            to += Int(more[i].length)
            i &+= 1
        }
    }
    let n = packet.pointee.headLength
    if n == 12 {
        // The MAC addresses, as the forwarding function has set them.
        destination.storeBytes(of: packet.pointee.head.0, as: UInt64.self)
        (destination + 8).storeBytes(of: UInt32(truncatingIfNeeded: packet.pointee.head.1), as: UInt32.self)
    } else if n > 0 {
        withUnsafeBytes(of: &packet.pointee.head) {
            CPlat_copy(destination, $0.baseAddress.unsafelyUnwrapped, UInt64(packet.pointee.headBytes))
        }
    }
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

    /// The frame; its first `headLength` bytes come from the packet's head.
    mutating func write(_ packet: UnsafeMutablePointer<Packet>) {
        var skip = UInt32(packet.pointee.headBytes)
        let head = skip
        if head > 0 {
            withUnsafeBytes(of: &packet.pointee.head) { write($0.baseAddress.unsafelyUnwrapped, head) }
        }
        var i = -1
        while i < Int(packet.pointee.moreCount) {
            let s =
                i < 0
                ? Segment(base: packet.pointee.data, length: packet.pointee.dataLength)
                : packet.pointee.more.unsafelyUnwrapped[i]
            let off = min(skip, s.length)
            skip &-= off
            write(s.base + Int(off), s.length &- off)
            i &+= 1
        }
    }
}
