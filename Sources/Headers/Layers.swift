/// Where the headers of a frame lie: found once, by one look at its front. Plain numbers, which may be kept; offsets
/// count from the frame's first byte. What is missing is nil, and lengths that lie are told by `defect`: nothing traps,
/// whatever the bytes are, and nothing beyond them is read.
///
/// ```swift
/// let layers = Layers(packet.bytes, frameLength: packet.length)
/// if let at = layers.transportOffset, layers.ipProtocol == .udp, let udp = UDP(packet.bytes, at: at) {
///     isDNS = udp.destinationPort == 53
/// }
/// ```
public struct Layers: Sendable, BitwiseCopyable {
    /// Why the look at a frame ended early, or what is wrong with it.
    public enum Defect: UInt8, Sendable, BitwiseCopyable {
        /// The frame goes on, but the header does not lie in the bytes that there are: a longer front would show it.
        case frontTooShort = 1
        /// The frame ends in its Ethernet header or in a VLAN tag.
        case ethernetTruncated
        /// The frame ends in its IPv4 or IPv6 header.
        case networkTruncated
        /// The EtherType says IPv4 or IPv6, the header has another version.
        case version
        /// IPv4: the header length is below 20 bytes, or more than the total length.
        case headerLength
        /// IPv4: the total length is more than the frame has, or below 20 bytes.
        case totalLength
        /// IPv6: the payload length is more than the frame has.
        case payloadLength
        /// IPv6: the packet ends in an extension header, or has more than eight of them.
        case extensionHeaders
        /// The packet ends in its transport header.
        case transportTruncated
        /// TCP: the data offset is below 20 bytes, or more than the packet has.
        case dataOffset
        /// UDP: the length is below 8 bytes, or more than the packet has. (A jumbogram's 0, RFC 2675, is one.)
        case udpLength
    }

    @usableFromInline struct Flags {
        @inlinable static var ipv4: UInt8 { 1 }
        @inlinable static var ipv6: UInt8 { 2 }
        @inlinable static var fragment: UInt8 { 4 }
        @inlinable static var laterFragment: UInt8 { 8 }
        @inlinable static var hasProtocol: UInt8 { 16 }
    }

    @usableFromInline var end: UInt32 = 0
    @usableFromInline var type: UInt16 = 0
    @usableFromInline var tags: (UInt16, UInt16) = (0, 0)
    // 0: unknown. No header but the Ethernet header starts at 0.
    @usableFromInline var network: UInt16 = 0
    @usableFromInline var transport: UInt16 = 0
    @usableFromInline var payload: UInt16 = 0
    @usableFromInline var proto: UInt8 = 0
    @usableFromInline var flags: UInt8 = 0
    @usableFromInline var tagCount: UInt8 = 0
    @usableFromInline var fault: UInt8 = 0

    @usableFromInline
    init() {}

    /// Looks at the front of a frame of `frameLength` bytes, of which `bytes` are the first, or all of them. Of more
    /// than 65,535 bytes the first so many are looked at.
    @inlinable @inline(__always)
    public init(_ bytes: HeaderBytes, frameLength: Int) {
        // Nearly all packets: IPv4 without tags, options and fragments, TCP or UDP.
        if bytes.count >= 42, frameLength >= 42, bytes.count <= 0xffff {
            let total = Int(bytes.load16(16))
            if bytes.load16(12) == 0x0800, bytes.load8(14) == 0x45, bytes.load16(20) & 0x3fff == 0,
                total &+ 14 <= frameLength
            {
                let proto = bytes.load8(23)
                if proto == 6 && bytes.count >= 54 {
                    let header = Int(bytes.load8(46) &>> 4) &* 4
                    if header >= 20, header &+ 20 <= total, header &+ 34 <= bytes.count {
                        self.init(ipv4: total, proto, payload: UInt16(truncatingIfNeeded: 34 &+ header))
                        return
                    }
                } else if proto == 17 {
                    let length = Int(bytes.load16(38))
                    if length >= 8, length &+ 20 <= total {
                        self.init(ipv4: total, proto, payload: 42)
                        return
                    }
                }
            }
        }
        self = Layers.parse(bytes, frameLength)
    }

    @inlinable @inline(__always)
    init(ipv4 total: Int, _ proto: UInt8, payload: UInt16) {
        end = UInt32(truncatingIfNeeded: total &+ 14)
        type = 0x0800
        network = 14
        transport = 34
        self.payload = payload
        self.proto = proto
        flags = Flags.ipv4 | Flags.hasProtocol
    }

    /// What is wrong with the frame; nil where nothing is. Where there is a defect, what was found before it is there:
    /// with a wrong `totalLength` also what lies behind, as far as the frame goes, as someone may want to count it. A
    /// function that decides by headers drops such frames.
    @inlinable @inline(__always)
    public var defect: Defect? { fault == 0 ? nil : Defect(rawValue: fault) }

    /// VLAN tags in front of `etherType`, 0 to 2. A third is not looked behind: `etherType` is then the third's.
    @inlinable @inline(__always)
    public var vlanCount: Int { Int(tagCount) }
    /// Tag control information of the first (outer) tag, and nil without one: priority in bits 13 to 15, VLAN in bits 0
    /// to 11.
    @inlinable @inline(__always)
    public var outerTag: UInt16? { tagCount > 0 ? tags.0 : nil }
    /// The same of the second (inner) tag.
    @inlinable @inline(__always)
    public var innerTag: UInt16? { tagCount > 1 ? tags.1 : nil }
    /// VLAN of the first tag, 0 to 4095, and nil without one.
    @inlinable @inline(__always)
    public var vlanID: UInt16? { tagCount > 0 ? tags.0 & 0x0fff : nil }

    /// What follows the Ethernet header and the tags; 0 where the frame ends before.
    @inlinable @inline(__always)
    public var etherType: EtherType { EtherType(rawValue: type) }
    /// Where that starts: 14, 18 or 22. Nil where the frame ends before.
    @inlinable @inline(__always)
    public var networkOffset: Int? { network == 0 ? nil : Int(network) }
    /// Whether an IPv4 header is there, all of it, whose own length is right.
    @inlinable @inline(__always)
    public var isIPv4: Bool { flags & Flags.ipv4 != 0 }
    /// Whether an IPv6 header is there, all of it.
    @inlinable @inline(__always)
    public var isIPv6: Bool { flags & Flags.ipv6 != 0 }
    /// Where the IP packet ends by its own length: what follows is padding of the frame. Nil where there is none.
    @inlinable @inline(__always)
    public var packetEnd: Int? { end == 0 ? nil : Int(end) }

    /// What follows the IP header, and the extension headers of IPv6. Nil where that was not found.
    @inlinable @inline(__always)
    public var ipProtocol: IPProtocol? { flags & Flags.hasProtocol == 0 ? nil : IPProtocol(rawValue: proto) }
    /// Where that starts. Nil for a fragment but the first, which has no such header, and where the packet ends there.
    @inlinable @inline(__always)
    public var transportOffset: Int? { transport == 0 ? nil : Int(transport) }
    /// Where data starts, behind TCP with its options, UDP, or the eight bytes of ICMP. Nil for other protocols.
    @inlinable @inline(__always)
    public var payloadOffset: Int? { payload == 0 ? nil : Int(payload) }
    /// Whether the packet is a part of a larger one (IPv4: RFC 791; IPv6: RFC 8200, section 4.5; not an "atomic
    /// fragment", RFC 6946, which is all of it).
    @inlinable @inline(__always)
    public var isFragment: Bool { flags & Flags.fragment != 0 }
    /// Whether it is such a part and not the first, so that it has no transport header.
    @inlinable @inline(__always)
    public var isLaterFragment: Bool { flags & Flags.laterFragment != 0 }
}

/// All that is not the usual packet.
extension Layers {
    /// `bytes` are there of a frame of `length`.
    @inline(never)
    @usableFromInline
    static func parse(_ bytes: HeaderBytes, _ length: Int) -> Layers {
        var layers = Layers()
        // Lengths in 32 bits; no frame is longer.
        let length = min(max(length, 0), Int(UInt32.max))
        layers.parse(bytes, Front(count: min(bytes.count, 0xffff, length), end: length))
        return layers
    }

    /// Bytes that may be read, and where the frame or the packet in it ends.
    private struct Front {
        let count: Int
        let end: Int

        /// Why `size` bytes at `offset` cannot be read: nil if they can, `truncated` if the packet ends before.
        func missing(_ size: Int, at offset: Int, _ truncated: Defect) -> Defect? {
            if offset + size > end { return truncated }
            return offset + size > count ? .frontTooShort : nil
        }
    }

    private mutating func fail(_ defect: Defect) {
        // The first that is found stays.
        if fault == 0 { fault = defect.rawValue }
    }

    private mutating func parse(_ bytes: HeaderBytes, _ front: Front) {
        if let defect = front.missing(14, at: 0, .ethernetTruncated) { return fail(defect) }
        var at = 14
        var next = EtherType(rawValue: bytes.load16(12))
        while next.isVLAN && tagCount < 2 {
            if let defect = front.missing(4, at: at, .ethernetTruncated) { return fail(defect) }
            if tagCount == 0 { tags.0 = bytes.load16(at) } else { tags.1 = bytes.load16(at) }
            tagCount += 1
            next = EtherType(rawValue: bytes.load16(at + 2))
            at += 4
        }
        type = next.rawValue
        network = UInt16(at)
        switch next {
        case .ipv4: parseIPv4(bytes, front)
        case .ipv6: parseIPv6(bytes, front)
        default: break
        }
    }

    private mutating func parseIPv4(_ bytes: HeaderBytes, _ front: Front) {
        let at = Int(network)
        if let defect = front.missing(20, at: at, .networkTruncated) { return fail(defect) }
        let first = bytes.load8(at)
        if first >> 4 != 4 { return fail(.version) }
        let header = Int(first & 15) * 4
        if header < 20 { return fail(.headerLength) }
        if let defect = front.missing(header, at: at, .networkTruncated) { return fail(defect) }
        flags |= Flags.ipv4 | Flags.hasProtocol
        proto = bytes.load8(at + 9)
        let total = Int(bytes.load16(at + 2))
        var front = front
        if total < 20 || at + total > front.end {
            fail(.totalLength)
        } else if total < header {
            return fail(.headerLength)
        } else {
            front = Front(count: min(front.count, at + total), end: at + total)
        }
        end = UInt32(front.end)
        let fragment = bytes.load16(at + 6)
        if fragment & 0x3fff != 0 { flags |= Flags.fragment }
        if fragment & 0x1fff != 0 {
            flags |= Flags.laterFragment
            return
        }
        parseTransport(bytes, at + header, front)
    }

    private mutating func parseIPv6(_ bytes: HeaderBytes, _ front: Front) {
        var at = Int(network)
        if let defect = front.missing(40, at: at, .networkTruncated) { return fail(defect) }
        if bytes.load8(at) >> 4 != 6 { return fail(.version) }
        flags |= Flags.ipv6
        let payload = Int(bytes.load16(at + 4))
        var front = front
        if at + 40 + payload > front.end {
            fail(.payloadLength)
        } else {
            front = Front(count: min(front.count, at + 40 + payload), end: at + 40 + payload)
        }
        end = UInt32(front.end)
        var next = bytes.load8(at + 6)
        at += 40
        // RFC 8200, section 4.1: hop-by-hop, destination options, routing, fragment, authentication, destination
        // options; receivers must take them in any order, and a few more than once.
        for _ in 0...8 {
            let size: Int
            switch IPProtocol(rawValue: next) {
            case .hopByHop, .routing, .destinationOptions:
                if let defect = front.missing(8, at: at, .extensionHeaders) { return fail(defect) }
                size = (Int(bytes.load8(at + 1)) + 1) * 8
            case .ah:
                if let defect = front.missing(8, at: at, .extensionHeaders) { return fail(defect) }
                size = (Int(bytes.load8(at + 1)) + 2) * 4
            case .fragment:
                if let defect = front.missing(8, at: at, .extensionHeaders) { return fail(defect) }
                size = 8
                let fragment = bytes.load16(at + 2)
                if fragment & 0xfff9 != 0 { flags |= Flags.fragment }
                if fragment & 0xfff8 != 0 {
                    flags |= Flags.laterFragment | Flags.hasProtocol
                    proto = bytes.load8(at)
                    return
                }
            default:
                proto = next
                flags |= Flags.hasProtocol
                if next != IPProtocol.none.rawValue { parseTransport(bytes, at, front) }
                return
            }
            if let defect = front.missing(size, at: at, .extensionHeaders) { return fail(defect) }
            next = bytes.load8(at)
            at += size
        }
        fail(.extensionHeaders)
    }

    private mutating func parseTransport(_ bytes: HeaderBytes, _ at: Int, _ front: Front) {
        // Nothing behind the IP header at all, of a protocol without a header that we know, is no defect.
        let needed: Int
        switch IPProtocol(rawValue: proto) {
        case .tcp: needed = 20
        case .udp, .udpLite, .icmp, .icmpV6: needed = 8
        case .dccp, .sctp: needed = 12
        default: needed = 0
        }
        if let defect = front.missing(needed, at: at, .transportTruncated) { return fail(defect) }
        if at >= front.end || at > 0xffff { return }
        transport = UInt16(at)
        switch IPProtocol(rawValue: proto) {
        case .tcp:
            let header = Int(bytes.load8(at + 12) >> 4) * 4
            if header < 20 { return fail(.dataOffset) }
            if let defect = front.missing(header, at: at, .dataOffset) { return fail(defect) }
            payload = UInt16(truncatingIfNeeded: at + header)
        case .udp:
            let length = Int(bytes.load16(at + 4))
            // A first fragment has the length of the whole datagram.
            if length < 8 || (length > front.end - at && !isFragment) { return fail(.udpLength) }
            payload = UInt16(truncatingIfNeeded: at + 8)
        case .udpLite, .icmp, .icmpV6: payload = UInt16(truncatingIfNeeded: at + 8)
        default: break
        }
    }
}
