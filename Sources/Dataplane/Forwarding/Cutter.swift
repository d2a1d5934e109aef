import CPlatform
import Headers
import Virtio

/// Resolves one packet's offload fields: fills in its checksum and cuts it into segments. Headers are
/// copied out of the sender's memory once, checked there and rewritten; the payload stays where it is
/// and is only pointed at.
struct Cutter {
    private let scratch: HeaderRooms
    private let header: NetHeader
    /// Bytes that every segment starts with.
    private let prefix: Int
    /// Offsets of the network and transport header; network 0: a checksum alone.
    private var network = 0
    private let transport: Int
    private var isIPv6 = false
    /// Of a tunnel's packet: where its outer IP and UDP headers begin.
    private var outer: (network: Int, udp: Int, isIPv6: Bool)?
    /// Payload bytes of a segment, of the packet, and those cut so far.
    private let segmentSize: Int
    private let payload: Int
    private var done = 0
    private var segments = 0
    private var cursor: SegmentCursor

    /// Nil: the headers are not what the offload fields say.
    init?(_ packet: PacketSlot, _ scratch: HeaderRooms) {
        self.scratch = scratch
        header = packet.header
        transport = Int(header.csumStart)
        cursor = SegmentCursor(packet)
        let length = Int(packet.length)
        let template = scratch.template
        if header.gsoType == NetHeader.gsoNone {
            prefix = transport + Int(header.csumOffset) + 2
            cursor.read(prefix, to: template)
            payload = length - prefix
            segmentSize = max(1, payload)
            assert(prefix <= OffloadScratch.longestPrefix && prefix <= length)
            return
        }
        let isTCP = header.gsoKind != NetHeader.gsoUDPL4
        let least = transport + (isTCP ? 20 : 8)
        if least > length || least > OffloadScratch.longestPrefix { return nil }
        var ahead = cursor
        ahead.read(least, to: template)
        let transportLength = isTCP ? Int(template[transport + 12] >> 4) * 4 : 8
        prefix = transport + transportLength
        if transportLength < (isTCP ? 20 : 8) || prefix > length || prefix > OffloadScratch.longestPrefix { return nil }
        // The header's length comes from the first reading; the second only adds the options after it.
        let dataOffset = template[transport + (isTCP ? 12 : 0)]
        cursor.read(prefix, to: template)
        if isTCP { template[transport + 12] = dataOffset }
        payload = length - prefix
        segmentSize = Int(header.gsoSize)
        var inner = 0
        if header.isTunnel {
            guard let tunnel = Cutter.tunnel(template, transport) else { return nil }
            (outer, inner) = (tunnel.outer, tunnel.inner)
        }
        guard let found = Cutter.networkHeader(template, inner, transport), found.end == transport else { return nil }
        (network, isIPv6) = (found.start, found.isIPv6)
        let wants6 = header.gsoKind == NetHeader.gsoTCPv6
        let wants4 = header.gsoKind == NetHeader.gsoTCPv4
        if (wants6 && !isIPv6) || (wants4 && isIPv6) { return nil }
        // What the IP header's length field cannot say: in IPv6 it leaves out the first 40 bytes.
        let first = outer.map { ($0.network, $0.isIPv6) } ?? (network, isIPv6)
        if prefix - first.0 - (first.1 ? 40 : 0) + min(segmentSize, payload) > 65535 { return nil }
    }

    /// Where the IP header of a frame that begins at `frame` starts, behind at most two VLAN tags, and ends. An IPv6
    /// header ends at `limit`: whatever its extension headers are. Nothing behind `limit` is looked at.
    private static func networkHeader(
        _ header: HeaderRoom, _ frame: Int, _ limit: Int
    ) -> (start: Int, end: Int, isIPv6: Bool)? {
        var offset = frame + 12
        func type() -> Int { offset + 2 > limit ? 0 : header.load16(offset) }
        while (type() == 0x8100 || type() == 0x88a8) && offset < frame + 20 { offset += 4 }
        let start = offset + 2
        if type() == 0x0800 && start < limit {
            let first = header[start]
            let end = start + Int(first & 15) * 4
            return first >> 4 == 4 && first & 15 >= 5 && end <= limit ? (start, end, false) : nil
        }
        return type() == 0x86dd && start + 40 <= limit ? (start, limit, true) : nil
    }

    /// The outer headers of a tunnel, and where its inner frame begins: VXLAN (RFC 7348) or Geneve (RFC 8926).
    private static func tunnel(
        _ header: HeaderRoom, _ transport: Int
    ) -> (outer: (network: Int, udp: Int, isIPv6: Bool), inner: Int)? {
        guard let ip = networkHeader(header, 0, transport) else { return nil }
        let udp = ip.isIPv6 ? ip.start + 40 : ip.end
        let next = header[ip.start + (ip.isIPv6 ? 6 : 9)]
        if next != 17 || udp + 16 > transport { return nil }
        let port = UInt16(truncatingIfNeeded: header.load16(udp + 2))
        var options = 0
        if port == Geneve.port {
            options = Int(header[udp + 8] & 0x3f) * 4
        } else if port != VXLAN.port {
            return nil
        }
        return ((ip.start, udp, ip.isIPv6), udp + 16 + options)
    }

    /// Fills `burst` with the next packets; false when there are no more.
    mutating func fill(_ burst: inout Burst) -> Bool {
        burst.count = 0
        burst.segmentCount = 0
        burst.bytes = 0
        burst.needsScreening = false
        while burst.count < Burst.maximum && burst.segmentCount + cursor.mostSlices <= Burst.mostSegments
            && (done < payload || segments == 0)
        { add(to: &burst) }
        return burst.count > 0
    }

    private mutating func add(to burst: inout Burst) {
        let size = min(segmentSize, payload - done)
        let head = scratch[burst.count]
        CPlat_copy(head.start, scratch.template.start, UInt64(prefix))
        let first = burst.segmentCount
        cursor.take(size, into: &burst)
        if network > 0 { rewrite(head, size) }
        if let outer { rewriteOuter(head, outer, size) }
        fillChecksum(head, size, burst, first)
        let packet = burst.packets + burst.count
        packet.pointee.place(head.start, UInt32(prefix + size))
        packet.pointee.dataLength = UInt32(prefix)
        packet.pointee.more = burst.segments + first
        packet.pointee.moreCount = UInt16(truncatingIfNeeded: burst.segmentCount - first)
        burst.count += 1
        burst.bytes += UInt64(packet.pointee.length)
        done += size
        segments += 1
    }

    /// Lengths, identification, sequence number and flags of one segment.
    private func rewrite(_ head: HeaderRoom, _ size: Int) {
        let isTCP = header.gsoKind != NetHeader.gsoUDPL4
        rewriteIP(head, network, isIPv6: isIPv6, end: transport, size)
        if !isTCP {
            head.store16(transport + 4, 8 + size)
            return
        }
        head.store32(transport + 4, head.load32(transport + 4) &+ UInt32(truncatingIfNeeded: done))
        var flags = head[transport + 13]
        let isLast = done + size >= payload
        if !isLast { flags &= ~0x09 }  // FIN and PSH belong to the last segment,
        if segments > 0 { flags &= ~0x80 }  // CWR to the first (RFC 3168).
        head[transport + 13] = flags
    }

    /// Lengths of the outer headers. The outer UDP checksum is 0: none, which tunnels may do over IPv6, too (RFC 6935).
    private func rewriteOuter(_ head: HeaderRoom, _ outer: (network: Int, udp: Int, isIPv6: Bool), _ size: Int) {
        rewriteIP(head, outer.network, isIPv6: outer.isIPv6, end: outer.udp, size)
        head.store16(outer.udp + 4, prefix - outer.udp + size)
        head.store16(outer.udp + 6, 0)
    }

    /// Length, identification and checksum of an IP header.
    private func rewriteIP(_ head: HeaderRoom, _ start: Int, isIPv6: Bool, end: Int, _ size: Int) {
        if isIPv6 {
            head.store16(start + 4, prefix - start - 40 + size)
            return
        }
        head.store16(start + 2, prefix - start + size)
        head.store16(start + 4, head.load16(start + 4) + segments)
        head.store16(start + 10, 0)
        var sum = Checksum()
        head.add(start, end - start, to: &sum)
        head.store(sum, at: start + 10)
    }

    /// The payload is what the burst has of segments from `first` on.
    private func fillChecksum(_ head: HeaderRoom, _ size: Int, _ burst: borrowing Burst, _ first: Int) {
        let field =
            network > 0
            ? transport + (header.gsoKind == NetHeader.gsoUDPL4 ? 6 : 16)
            : transport + Int(header.csumOffset)
        var sum = Checksum()
        if network > 0 {
            head.store16(field, 0)
            head.add(network + (isIPv6 ? 8 : 12), isIPv6 ? 32 : 8, to: &sum)
            sum.add(header.gsoKind == NetHeader.gsoUDPL4 ? 17 : 6)
            sum.add(prefix - transport + size)
        }
        // Without segmentation the field holds the pseudo header's sum already (5.1.6.2).
        head.add(transport, prefix - transport, to: &sum)
        for i in first..<burst.segmentCount { sum.add(burst.segments[i].base, Int(burst.segments[i].length)) }
        head.store(sum, at: field)
    }
}

/// A place in a packet's segments that only moves forward.
struct SegmentCursor {
    private let packet: PacketSlot
    private var index = 0
    private var offset: UInt32 = 0

    init(_ packet: PacketSlot) { self.packet = packet }

    /// Slices that `take` can make of the packet.
    var mostSlices: Int { packet.pieces }

    private var segment: Segment? { packet.piece(index) }

    /// Puts the next `length` bytes, as slices, behind the burst's segments. There is room for `mostSlices`.
    mutating func take(_ length: Int, into burst: inout Burst) {
        var left = UInt32(length)
        while left > 0, let s = segment {
            let n = min(left, s.length - offset)
            if n > 0 {
                assert(burst.segmentCount < Burst.mostSegments)
                burst.segments[burst.segmentCount] = Segment(base: s.base + Int(offset), length: n)
                burst.segmentCount += 1
            }
            left -= n
            offset += n
            if offset == s.length {
                index += 1
                offset = 0
            }
        }
    }

    /// Copies the next `length` bytes.
    mutating func read(_ length: Int, to header: HeaderRoom) {
        assert(length <= OffloadScratch.longestPrefix)
        var left = UInt32(length)
        var target = header.start
        while left > 0, let s = segment {
            let n = min(left, s.length - offset)
            CPlat_copy(target, s.base + Int(offset), UInt64(n))
            target += Int(n)
            left -= n
            offset += n
            if offset == s.length {
                index += 1
                offset = 0
            }
        }
    }
}
