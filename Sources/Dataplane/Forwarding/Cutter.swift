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
    /// Payload bytes of a segment, of the packet, and those cut so far.
    private let segmentSize: Int
    private let payload: Int
    private var done = 0
    private var segments = 0
    private var cursor: SegmentCursor

    /// Nil: the headers are not what the offload fields say.
    init?(_ packet: UnsafeMutablePointer<PacketSlot>, _ scratch: HeaderRooms) {
        self.scratch = scratch
        header = packet.pointee.header
        transport = Int(header.csumStart)
        cursor = SegmentCursor(packet)
        let length = Int(packet.pointee.length)
        let template = scratch.template
        if header.gsoType == NetHeader.gsoNone {
            prefix = transport + Int(header.csumOffset) + 2
            cursor.read(prefix, to: template)
            payload = length - prefix
            segmentSize = max(1, payload)
            assert(prefix <= OffloadScratch.longestPrefix && prefix <= length)
            return
        }
        let isTCP = header.gsoType & ~NetHeader.gsoECN != NetHeader.gsoUDPL4
        let least = transport + (isTCP ? 20 : 8)
        if least > length || least > OffloadScratch.longestPrefix { return nil }
        var ahead = cursor
        ahead.read(least, to: template)
        let transportLength = isTCP ? Int(template.load(fromByteOffset: transport + 12, as: UInt8.self) >> 4) * 4 : 8
        prefix = transport + transportLength
        if transportLength < (isTCP ? 20 : 8) || prefix > length || prefix > OffloadScratch.longestPrefix { return nil }
        // The header's length comes from the first reading; the second only adds the options after it.
        let dataOffset = template.load(fromByteOffset: transport + (isTCP ? 12 : 0), as: UInt8.self)
        cursor.read(prefix, to: template)
        if isTCP { template.storeBytes(of: dataOffset, toByteOffset: transport + 12, as: UInt8.self) }
        payload = length - prefix
        segmentSize = Int(header.gsoSize)
        guard let found = Cutter.networkHeader(template, transport) else { return nil }
        (network, isIPv6) = found
        let wants6 = header.gsoType & ~NetHeader.gsoECN == NetHeader.gsoTCPv6
        let wants4 = header.gsoType & ~NetHeader.gsoECN == NetHeader.gsoTCPv4
        if (wants6 && !isIPv6) || (wants4 && isIPv6) { return nil }
        // What the IP header's length field cannot say: in IPv6 it leaves out the first 40 bytes.
        if prefix - network - (isIPv6 ? 40 : 0) + min(segmentSize, payload) > 65535 { return nil }
    }

    /// Offset of the IP header behind at most two VLAN tags, and whether it is IPv6.
    private static func networkHeader(_ p: UnsafeMutableRawPointer, _ transport: Int) -> (Int, Bool)? {
        var offset = 12
        var type = UInt16(bigEndian: p.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        while (type == 0x8100 || type == 0x88a8) && offset < 20 {
            offset += 4
            type = UInt16(bigEndian: p.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        }
        let network = offset + 2
        if type == 0x0800 {
            let first = p.load(fromByteOffset: network, as: UInt8.self)
            return first >> 4 == 4 && network + Int(first & 15) * 4 == transport && first & 15 >= 5
                ? (network, false) : nil
        }
        return type == 0x86dd && network + 40 <= transport ? (network, true) : nil
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
        let head = scratch.header(burst.count)
        CPlat_copy(head, scratch.template, UInt64(prefix))
        let slices = burst.segments + burst.segmentCount
        let count = cursor.take(size, slices)
        if network > 0 { rewrite(head, size) }
        fillChecksum(head, size, slices, count)
        let packet = burst.packets + burst.count
        packet.pointee.place(head, UInt32(prefix + size))
        packet.pointee.dataLength = UInt32(prefix)
        packet.pointee.more = slices
        packet.pointee.moreCount = UInt16(truncatingIfNeeded: count)
        burst.count += 1
        burst.segmentCount += count
        assert(burst.segmentCount <= Burst.mostSegments)
        burst.bytes += UInt64(packet.pointee.length)
        done += size
        segments += 1
    }

    /// Lengths, identification, sequence number and flags of one segment.
    private func rewrite(_ head: UnsafeMutableRawPointer, _ size: Int) {
        let isTCP = header.gsoType & ~NetHeader.gsoECN != NetHeader.gsoUDPL4
        if isIPv6 {
            store16(head, network + 4, prefix - network - 40 + size)
        } else {
            store16(head, network + 2, prefix - network + size)
            store16(head, network + 4, load16(head, network + 4) + segments)
            store16(head, network + 10, 0)
            var sum = Checksum()
            sum.add(head + network, transport - network)
            head.storeBytes(of: sum.result, toByteOffset: network + 10, as: UInt16.self)
        }
        if !isTCP {
            store16(head, transport + 4, 8 + size)
            return
        }
        let sequence = UInt32(bigEndian: head.loadUnaligned(fromByteOffset: transport + 4, as: UInt32.self))
        head.storeBytes(
            of: (sequence &+ UInt32(truncatingIfNeeded: done)).bigEndian, toByteOffset: transport + 4, as: UInt32.self)
        var flags = head.load(fromByteOffset: transport + 13, as: UInt8.self)
        let isLast = done + size >= payload
        if !isLast { flags &= ~0x09 }  // FIN and PSH belong to the last segment,
        if segments > 0 { flags &= ~0x80 }  // CWR to the first (RFC 3168).
        head.storeBytes(of: flags, toByteOffset: transport + 13, as: UInt8.self)
    }

    private func fillChecksum(
        _ head: UnsafeMutableRawPointer, _ size: Int, _ slices: UnsafeMutablePointer<Segment>, _ count: Int
    ) {
        let field =
            network > 0
            ? transport + (header.gsoType & ~NetHeader.gsoECN == NetHeader.gsoUDPL4 ? 6 : 16)
            : transport + Int(header.csumOffset)
        var sum = Checksum()
        if network > 0 {
            store16(head, field, 0)
            sum.add(head + network + (isIPv6 ? 8 : 12), isIPv6 ? 32 : 8)
            sum.add(header.gsoType & ~NetHeader.gsoECN == NetHeader.gsoUDPL4 ? 17 : 6)
            sum.add(prefix - transport + size)
        }
        // Without segmentation the field holds the pseudo header's sum already (5.1.6.2).
        sum.add(head + transport, prefix - transport)
        for i in 0..<count { sum.add(slices[i].base, Int(slices[i].length)) }
        head.storeBytes(of: sum.result, toByteOffset: field, as: UInt16.self)
    }

    private func load16(_ p: UnsafeMutableRawPointer, _ offset: Int) -> Int {
        Int(UInt16(bigEndian: p.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
    }

    private func store16(_ p: UnsafeMutableRawPointer, _ offset: Int, _ value: Int) {
        p.storeBytes(of: UInt16(truncatingIfNeeded: value).bigEndian, toByteOffset: offset, as: UInt16.self)
    }
}

/// A place in a packet's segments that only moves forward.
struct SegmentCursor {
    private let packet: UnsafeMutablePointer<PacketSlot>
    private var index = 0
    private var offset: UInt32 = 0

    init(_ packet: UnsafeMutablePointer<PacketSlot>) { self.packet = packet }

    /// Slices that `take` can make of the packet.
    var mostSlices: Int { packet.pointee.pieces }

    private var segment: Segment? { packet.pointee.piece(index) }

    /// The next `length` bytes as slices; returns how many slices.
    mutating func take(_ length: Int, _ slices: UnsafeMutablePointer<Segment>) -> Int {
        var left = UInt32(length)
        var count = 0
        while left > 0, let s = segment {
            let n = min(left, s.length - offset)
            if n > 0 {
                slices[count] = Segment(base: s.base + Int(offset), length: n)
                count += 1
            }
            left -= n
            offset += n
            if offset == s.length {
                index += 1
                offset = 0
            }
        }
        return count
    }

    /// Copies the next `length` bytes.
    mutating func read(_ length: Int, to: UnsafeMutableRawPointer) {
        var left = UInt32(length)
        var target = to
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
