import CPlatform
import Headers
import Virtio

/// Packets that a function keeps until it knows where they go, such as until a neighbour has answered: copies, as a
/// packet itself is its sender's and cannot leave the call. Memory is taken once; one thread.
///
/// Who holds a packet gives it a verdict, mostly `consumed`. What is sent later is a packet of the function's own.
///
/// ```swift
/// if let place = held.hold(packets[i]) {
///     packets.decide(i, .consumed)
///     waiting = place
/// }
/// // In a later call, or in `tick`:
/// if let packet = held.send(waiting, in: packets) { packet.verdict = .port(1) }
/// ```
public struct HeldPackets: ~Copyable {
    /// Bytes of a packet that can be held: those of one that can be originated, 14 to 1728.
    public static var lengths: ClosedRange<Int> { PacketSlot.madeLengths }

    /// Packets that can be held.
    public let capacity: Int
    /// Packets that are held.
    public private(set) var count = 0
    private let room: OwnedMemory<UInt8>
    /// By place; 0: nothing is held there.
    private let lengths: OwnedMemory<UInt16>
    /// Places; from `count` on those that are free.
    private let places: OwnedMemory<UInt16>

    private static var stride: Int { (lengths.upperBound + 63) & ~63 }

    /// Room for `capacity` packets (1 to 4096).
    public init(capacity: Int) {
        precondition((1...4096).contains(capacity), "1 to 4096 packets can be held")
        self.capacity = capacity
        room = OwnedMemory(count: capacity * HeldPackets.stride)
        lengths = OwnedMemory(count: capacity, repeating: 0)
        places = OwnedMemory((0..<capacity).map { UInt16($0) })
    }

    /// Copies a packet as it is now, and returns its place here. A checksum that was still to be filled in is filled
    /// in. Nil where there is no room, its length is none of `lengths`, or it is still to be cut into segments.
    ///
    /// The part behind `bytes` is read from the sender's memory here: a sender that changes it now changes what is
    /// held, and nothing else.
    public mutating func hold(_ packet: borrowing Packet) -> Int? {
        let (slot, header) = (packet.slot, packet.slot.pointee.header)
        let (length, start) = (packet.length, Int(header.csumStart))
        let field = start + Int(header.csumOffset)
        let isPartial = packet.hasPartialChecksum
        guard count < capacity, HeldPackets.lengths.contains(length), header.gsoType == NetHeader.gsoNone,
            !isPartial || field + 2 <= length
        else { return nil }
        let place = Int(places[count])
        let bytes = UnsafeMutableRawPointer(room.start + place * HeldPackets.stride)
        var (end, i) = (0, 0)
        while let piece = slot.pointee.piece(i) {
            let n = min(Int(piece.length), length - end)
            CPlat_copy(bytes + end, piece.base, UInt64(n))
            end += n
            i += 1
        }
        if isPartial {
            var sum = Checksum()
            sum.add(bytes + start, length - start)
            (bytes + field).storeBytes(of: sum.result, as: UInt16.self)
        }
        count += 1
        lengths[place] = UInt16(length)
        return place
    }

    /// Makes a packet of what is held at `place`, which is free then; all of it is `bytes`, and its verdict is `drop`
    /// at first. Nil where nothing is held there, or 64 packets were made in this burst already: then it is still held.
    @_lifetime(borrow packets)
    public mutating func send(_ place: Int, in packets: borrowing PacketBurst) -> Packet? {
        guard isHeld(place), let packet = packets.originate(Int(lengths[place])) else { return nil }
        CPlat_copy(
            packet.slot.pointee.frontBytes, room.start + place * HeldPackets.stride, UInt64(lengths[place]))
        forget(place)
        return packet
    }

    /// Lets go of what is held at `place`, if anything is.
    public mutating func forget(_ place: Int) {
        if !isHeld(place) { return }
        lengths[place] = 0
        count -= 1
        places[count] = UInt16(place)
    }

    private func isHeld(_ place: Int) -> Bool { place >= 0 && place < capacity && lengths[place] > 0 }
}
