import CPlatform
import Headers
import Virtio

/// A packet in the hands of a `PacketFunction`: its first bytes in private memory, where they can be read and changed
/// (`bytes`), the rest where its sender put it. Valid while its burst is; on the poll thread alone.
///
/// What the function reads here is what every receiver gets: the sender cannot change it any more. All changes keep the
/// net header's offsets right (virtio 1.3, 5.1.6.2).
///
/// ```swift
/// let packet = packets[i]
/// if let tag = packet.popVLAN() {
///     packet.verdict = .port(Int(tag & 0xfff))
/// } else if packet.pushVLAN(UInt16(packets.port)) {
///     packet.verdict = .port(0)
/// }
/// ```
public struct Packet: ~Escapable {
    @usableFromInline let slot: UnsafeMutablePointer<PacketSlot>
    @usableFromInline let burst: UnsafeMutablePointer<Burst>

    /// Of a burst on which its lifetime is to depend.
    @inlinable @inline(__always) @_lifetime(immortal)
    init(_ slot: UnsafeMutablePointer<PacketSlot>, in burst: UnsafeMutablePointer<Burst>) {
        (self.slot, self.burst) = (slot, burst)
    }

    /// Bytes of the frame, without CRC.
    @inlinable @inline(__always)
    public var length: Int { Int(slot.pointee.length) }

    /// The frame's first bytes: as many as `PacketFunction.frontBytes` wants and the frame has, more after `extend`.
    @inlinable @inline(__always)
    public var bytes: HeaderBytes {
        @_lifetime(copy self)
        get {
            let start = slot.pointee.frontBytes
            return _overrideLifetime(HeaderBytes(start, count: slot.pointee.frontLength), copying: self)
        }
    }

    /// Where the packet goes.
    @inlinable @inline(__always)
    public var verdict: Verdict {
        get { Verdict(rawValue: slot.pointee.verdict) }
        nonmutating set { slot.pointee.verdict = newValue.rawValue }
    }

    /// Reads more of the frame's front, up to `n` bytes in all (256 at most, less where headers were put on). False
    /// when the frame, or the room, is shorter; then `bytes` is as long as it can be.
    @discardableResult
    public func extend(to n: Int) -> Bool { slot.pointee.frontLength >= n || slot.pointee.extendFront(to: n) }

    // MARK: Longer and shorter

    /// Puts `n` bytes of zero before the frame: in `bytes`, they come first. 128 can be put on, and as many again as
    /// were taken off. False, and nothing is changed, where there is no room.
    @inlinable @inline(__always)
    public func prepend(_ n: Int) -> Bool { slot.pointee.prepend(n) }

    /// The same with the bytes of a template.
    ///
    /// ```swift
    /// if packet.removeFirst(Ethernet.size), packet.prepend(template) { packet.verdict = .port(1) }
    /// ```
    @inlinable @inline(__always)
    public func prepend(_ template: borrowing HeaderTemplate) -> Bool {
        if !slot.pointee.open(template.count) { return false }
        template.copy(to: bytes)
        return true
    }

    /// Puts the headers of a UDP tunnel (Ethernet, IP, UDP, VXLAN or Geneve) before the frame. The same as `prepend`,
    /// but that a packet which is still to be cut into segments is cut by Ringway, each with these headers and lengths
    /// of its own: receivers do not know such packets. Lengths and checksums of a packet that is one are the
    /// function's.
    public func encapsulate(_ template: borrowing HeaderTemplate) -> Bool {
        if slot.pointee.header.isTunnel { return false }
        if !prepend(template) { return false }
        if segmentSize > 0, let outer = Ethernet(bytes) {
            let isIPv6 = outer.etherType == .ipv6
            slot.pointee.header.gsoType |= isIPv6 ? NetHeader.gsoTunnelIPv6 : NetHeader.gsoTunnelIPv4
        }
        return true
    }

    /// Takes the first `n` bytes off; no more than `bytes` has. False, and nothing is changed, where it has fewer, or
    /// where the header whose checksum is still to be filled in would go.
    @inlinable @inline(__always)
    public func removeFirst(_ n: Int) -> Bool {
        burst.pointee.work.isReviewed = 1
        return slot.pointee.removeFirst(n)
    }

    /// Appends `n` bytes of zero (1 to 64) and gives them to be filled in. Nil, and nothing is changed, where there is
    /// no room, bytes were appended before, or the packet is still to be cut into segments.
    @_lifetime(copy self)
    public func append(_ n: Int) -> HeaderBytes? {
        guard let tail = slot.pointee.append(n, &burst.pointee) else { return nil }
        return _overrideLifetime(HeaderBytes(tail, count: n), copying: self)
    }

    /// Cuts the end off: `n` bytes stay. False, and nothing is changed, where the frame is shorter, is still to be cut
    /// into segments, or a checksum is to be filled in behind.
    public func truncate(to n: Int) -> Bool {
        burst.pointee.work.isReviewed = 1
        return slot.pointee.truncate(to: n)
    }

    // MARK: Ethernet

    /// The frame has a destination and a source address, and they were read.
    @inlinable @inline(__always)
    public var hasAddresses: Bool { slot.pointee.frontLength >= 12 }

    /// Destination address as a little-endian load of its six bytes; `MACAddress` holds the same. Meaningless, as the
    /// source, where there are none (`hasAddresses`).
    @inlinable @inline(__always)
    public var destinationMAC: UInt64 { slot.pointee.destinationMAC }

    /// Source address, the same way.
    @inlinable @inline(__always)
    public var sourceMAC: UInt64 { slot.pointee.sourceMAC }

    /// Exchanges source and destination address, where the frame has them.
    @inlinable @inline(__always)
    public func swapMACs() { slot.pointee.swapMACs() }

    /// Puts a VLAN tag behind the addresses (IEEE 802.1Q; `type` 0x88a8: a service tag). False, and nothing is changed,
    /// where there is no room, or the frame has no 14 bytes.
    @inlinable @inline(__always)
    public func pushVLAN(_ tag: UInt16, type: UInt16 = 0x8100) -> Bool { slot.pointee.pushTag(tag, type) }

    /// Takes the outermost VLAN tag off and returns it; nil where the frame has none.
    @inlinable @inline(__always)
    public func popVLAN() -> UInt16? { slot.pointee.popTag() }

    // MARK: Offloads

    /// The transport checksum is still to be filled in, by the receiver or, where it has not negotiated that, by
    /// Ringway.
    public var hasPartialChecksum: Bool { slot.pointee.header.flags & NetHeader.needsCsum != 0 }

    /// Whether it is the checksum of the transport header at `offset` that is still to be filled in. Then its field
    /// holds the pseudo header's sum (virtio 1.3, 5.1.6.2): other addresses change that (`Checksum.updatePartial`),
    /// other ports do not.
    public func hasPartialChecksum(at offset: Int) -> Bool {
        hasPartialChecksum && Int(slot.pointee.header.csumStart) == offset
    }

    /// The checksum that was still to be filled in is no more: for a header that is about to be taken off. False, and
    /// nothing is changed, where the packet is still to be cut into segments.
    public func forgetChecksum() -> Bool {
        if slot.pointee.header.gsoType != NetHeader.gsoNone { return false }
        slot.pointee.header.flags &= ~NetHeader.needsCsum
        return true
    }

    /// Bytes of payload of each segment that the packet is to be cut into; 0: it is one.
    public var segmentSize: Int {
        slot.pointee.header.gsoType == NetHeader.gsoNone ? 0 : Int(slot.pointee.header.gsoSize)
    }
}
