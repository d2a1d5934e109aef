import CPlatform
import Virtio

/// Offload fields of the net header (virtio 1.3, 5.1.6.2): checked at the sender, passed on where the
/// receiver accepted them, resolved in software where it did not.
enum Offload {
    /// Segments that one packet may be cut into. 64 KiB in pieces of 88 bytes of payload, Linux's
    /// least MSS, are 745.
    static var mostSegments: Int { 1024 }

    @inline(__always)
    static func isGoodLength(_ length: UInt32) -> Bool {
        length &- PacketSlot.minimumLength <= PacketSlot.maximumLength &- PacketSlot.minimumLength
    }

    /// Checks lengths and offload fields of all packets, and clears what a driver must not send.
    /// Returns a bit for each packet that has to be dropped.
    @inline(never)
    static func screen(_ burst: inout Burst) -> UInt64 {
        var bad: UInt64 = 0
        var hasOffloads = false
        for i in 0..<burst.count {
            let p = burst.packets + i
            p.pointee.header.flags &= NetHeader.needsCsum
            if !isGoodLength(p.pointee.length) {
                bad |= 1 << UInt64(i)
            } else if !p.pointee.header.isPlain {
                if isValid(p.pointee.header, p.pointee.length) {
                    hasOffloads = true
                    p.pointee.header.hdrLen = UInt16(
                        truncatingIfNeeded: min(UInt32(p.pointee.header.hdrLen), p.pointee.length))
                } else {
                    bad |= 1 << UInt64(i)
                }
            }
        }
        burst.needsScreening = hasOffloads
        return bad
    }

    private static func isValid(_ h: NetHeader, _ length: UInt32) -> Bool {
        // Segmentation needs the checksum offload (5.1.6.2.1).
        if h.flags & NetHeader.needsCsum == 0 { return false }
        let end = Int(h.csumStart) + Int(h.csumOffset) + 2
        if h.csumStart < 14 || end > Int(length) || end > OffloadScratch.longestPrefix { return false }
        switch h.gsoType & ~NetHeader.gsoECN {
        case NetHeader.gsoNone: return h.gsoType == NetHeader.gsoNone
        case NetHeader.gsoTCPv4, NetHeader.gsoTCPv6: break
        case NetHeader.gsoUDPL4: if h.gsoType & NetHeader.gsoECN != 0 { return false }
        default: return false
        }
        return h.gsoSize > 0 && (Int(length) - Int(h.csumStart)) / Int(h.gsoSize) < mostSegments
    }

    /// What a receiver must have accepted to get a packet with this header as it is.
    @inline(__always)
    static func needs(_ h: NetHeader) -> Features {
        if h.isPlain { return [] }
        var f: Features = .guestCsum
        if h.gsoType & NetHeader.gsoECN != 0 { f.formUnion(.guestECN) }
        if h.isTunnel { f.formUnion(neverAccepted) }
        switch h.gsoKind {
        case NetHeader.gsoTCPv4: f.formUnion(.guestTSO4)
        case NetHeader.gsoTCPv6: f.formUnion(.guestTSO6)
        case NetHeader.gsoUDPL4: f.formUnion([.guestUSO4, .guestUSO6])
        default: break
        }
        return f
    }

    /// A bit that no driver has: what needs it is cut for each.
    private static var neverAccepted: Features { Features(rawValue: 1 << 63) }

    /// Whether the receiver accepted what all these packets need.
    static func fits(_ burst: borrowing Burst, _ list: PacketList, _ accepted: Features) -> Bool {
        for i in 0..<list.count where !needs(burst.packets[list[i]].header).isSubset(of: accepted) { return false }
        return true
    }

    /// Delivers a list some of whose packets the receiver cannot take as they are. Keeps their order.
    /// Returns how many were dealt with.
    @inline(never)
    static func deliver(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList
    )
        -> Int
    {
        var start = 0
        for i in 0..<list.count {
            let packet = burst.packets + list[i]
            if needs(packet.pointee.header).isSubset(of: receiver.pointee.receiveOffloads) { continue }
            let done = deliverRun(thread, receiver, burst, list.part(start, i))
            if done < i - start { return start + done }
            if !resolve(thread, receiver, packet.pointee) { return i }
            start = i + 1
        }
        return start + deliverRun(thread, receiver, burst, list.part(start, list.count))
    }

    private static func deliverRun(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList
    ) -> Int {
        list.count == 0 ? 0 : Receiver.put(thread, receiver, burst, list)
    }

    /// Delivers one packet resolved. False if the receiver had no buffer for any of it.
    private static func resolve(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ packet: PacketSlot
    ) -> Bool {
        guard var cutter = Cutter(packet, thread.pointee.scratch.headers) else {
            Receiver.drop(receiver, .badOffload, 1)
            return true
        }
        // The packet is the first of its segments; the others are made here.
        var (isFirst, segments) = (true, 0)
        defer { if segments > 1 { receiver.pointee.counters.add(.made, segments &- 1) } }
        while cutter.fill(&thread.pointee.resolved) {
            let count = thread.pointee.resolved.count
            let done = deliverRun(
                thread, receiver, thread.pointee.resolved, thread.pointee.resolved.first(count))
            if isFirst && done == 0 && count > 0 { return false }
            segments &+= count
            if done < count {
                Receiver.drop(receiver, .receiverFull, count - done)
                return true
            }
            isFirst = false
        }
        if segments == 0 { Receiver.drop(receiver, .badOffload, 1) }
        return true
    }
}
