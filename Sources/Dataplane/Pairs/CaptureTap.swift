import CPlatform
import Virtio

/// What a poll thread has of a capture: whose packets, and where they go. Its own.
struct CaptureTap: ~Copyable {
    /// The port, and the queue of it; -1: all of them.
    let port: Int
    let queue: Int
    /// Bytes of each packet at most.
    let snap: Int
    /// The packet function may change packets: what they were is kept before it sees them.
    var keepsArrivals = false
    private var ring: CaptureRing

    /// Packets of a burst as they came, `snap` bytes each.
    private let arrivals: OwnedMemory<UInt8>
    /// Where the ring stood before each packet of the burst.
    private let marks = OwnedMemory<CaptureRing.Mark>(count: Burst.maximum + 1)
    /// By pair: so many packets that it pops next were shown when they came for the first time.
    private let shown: OwnedMemory<UInt8>
    /// When the burst under way was seen; 0: nobody has asked yet.
    private var time: UInt64 = 0

    /// Packets of the burst that go to a ring of this thread, and what it has dropped before.
    private let deliveries = OwnedMemory<Delivery>(count: 2 * Burst.maximum)
    private var deliveryCount = 0
    private let receivers = OwnedMemory<PairPointer>(count: 2 * Burst.maximum)
    private let before = OwnedMemory<UInt64>(count: 2 * Burst.maximum * CaptureTap.causes)
    private var receiverCount = 0
    /// Where the ring stood when the burst began.
    private(set) var start = CaptureRing.Mark()
    /// What the first receiver of a parcel had been sent before it.
    private var sentBefore: UInt64 = 0

    /// A packet on its way to a ring.
    private struct Delivery: BitwiseCopyable {
        /// Its place in the burst, and that of its receiver among `receivers`.
        var packet, receiver: Int
        /// Where it was written as received, and as delivered; `nowhere`: it was not.
        var inward, outward: UInt64
        var length: UInt32
        /// Its receiver has dropped it.
        var isLost = false
    }

    static var nowhere: UInt64 { .max }
    /// Causes for which a receiver drops.
    private static var causes: Int { 5 }

    private static func cause(_ i: Int) -> DropCause {
        switch i {
        case 0: return .notReady
        case 1: return .badOffload
        case 2: return .tooLong
        case 3: return .notTaken
        default: return .receiverFull
        }
    }

    /// `places`: how many ports there can be.
    init(_ ring: CaptureRing, port: Int, queue: Int, snap: Int, places: Int) {
        (self.ring, self.port, self.queue, self.snap) = (ring, port, queue, snap)
        arrivals = OwnedMemory(count: Burst.maximum * snap)
        shown = OwnedMemory(count: places * PairTable.pairsPerPort, repeating: 0)
    }

    /// Whether packets of a pair are wanted that it sends, or that are delivered to it.
    @inline(__always)
    func wants(_ port: Int, _ pair: Int, _ direction: QueueDirection) -> Bool {
        port == self.port && (queue < 0 || queue == direction.queue(ofPair: pair))
    }

    /// The number of a cause in `CapturedHeader`.
    static func number(_ cause: DropCause) -> UInt16 { UInt16(truncatingIfNeeded: 1 &+ cause.rawValue) }
    static func number(function cause: Int) -> UInt16 {
        // Behind the last of Ringway's own.
        UInt16(truncatingIfNeeded: 2 &+ DropCause.function.rawValue &+ cause)
    }

    // MARK: A burst

    mutating func begin() {
        (deliveryCount, receiverCount, time) = (0, 0, 0)
        ring.begin()
        start = ring.mark
    }

    /// Before the packet function sees the packets of a burst.
    func keep(_ packets: UnsafeMutablePointer<PacketSlot>, _ n: Int) {
        for i in 0..<n { _ = CaptureTap.copy(packets[i], to: arrivals.start + i &* snap, snap) }
    }

    /// Before the packet at this place of the ring's burst is written.
    func markPacket(_ i: Int) { marks[i] = ring.mark }

    /// Writes a packet as it came by a queue; returns where.
    mutating func writeArrival(_ packet: borrowing PacketSlot, _ i: Int, pair: Int, _ cause: UInt16) -> UInt64 {
        let (length, queue) = (packet.received, QueueDirection.transmit.queue(ofPair: pair))
        guard let (room, position) = header(length, queue, cause) else { return CaptureTap.nowhere }
        if keepsArrivals {
            CPlat_copy(room, arrivals.start + i &* snap, UInt64(truncatingIfNeeded: min(length, snap)))
        } else {
            _ = CaptureTap.copy(packet, to: room, snap)
        }
        return position
    }

    /// Writes a packet as it is to leave by a queue; returns where.
    mutating func writeDeparture(_ packet: borrowing PacketSlot, pair: Int, _ cause: UInt16 = 0) -> UInt64 {
        let queue = QueueDirection.receive.queue(ofPair: pair)
        guard let (room, position) = header(Int(packet.length), queue, cause) else { return CaptureTap.nowhere }
        _ = CaptureTap.copy(packet, to: room, snap)
        return position
    }

    private mutating func header(
        _ length: Int, _ queue: Int, _ cause: UInt16
    ) -> (room: UnsafeMutableRawPointer, position: UInt64)? {
        let taken = min(length, snap)
        guard let (room, position, size) = ring.reserve(taken) else { return nil }
        if time == 0 { time = CPlat_realtime_ns() }
        room.storeBytes(
            of: CapturedHeader(
                size: size, taken: UInt32(truncatingIfNeeded: taken), nanoseconds: time,
                length: UInt32(truncatingIfNeeded: length), queue: UInt16(truncatingIfNeeded: queue), cause: cause),
            as: CapturedHeader.self)
        return (room + MemoryLayout<CapturedHeader>.size, position)
    }

    /// The frame's first bytes: front, then what is left of the sender's. Returns how many.
    private static func copy(_ packet: borrowing PacketSlot, to: UnsafeMutableRawPointer, _ most: Int) -> Int {
        var (n, i) = (0, 0)
        while n < most, let piece = packet.piece(i) {
            let take = min(most &- n, Int(piece.length))
            if take > 0 { CPlat_copy(to + n, piece.base, UInt64(truncatingIfNeeded: take)) }
            n &+= take
            i &+= 1
        }
        return n
    }

    // MARK: What became of it

    /// A packet goes to a ring of this thread.
    mutating func expect(_ packet: Int, _ receiver: PairPointer, inward: UInt64, outward: UInt64, _ length: UInt32) {
        var place = 0
        while place < receiverCount && receivers[place] != receiver { place &+= 1 }
        if place == receiverCount {
            receivers[place] = receiver
            receiverCount &+= 1
            for i in 0..<CaptureTap.causes {
                before[place &* CaptureTap.causes &+ i] = receiver.pointee.counters[CaptureTap.cause(i)]
            }
        }
        deliveries[deliveryCount] = Delivery(
            packet: packet, receiver: place, inward: inward, outward: outward, length: length)
        deliveryCount &+= 1
    }

    /// Before a parcel is delivered.
    mutating func noteSent() { sentBefore = receiverCount > 0 ? receivers[0].pointee.counters[.txPackets] : 0 }

    /// Packets that receivers have dropped or taken since `noteSent`: of the first alone, where there is one only.
    func dealtWith() -> Int {
        if receiverCount == 0 { return 0 }
        var n = receivers[0].pointee.counters[.txPackets] &- sentBefore
        for i in 0..<CaptureTap.causes { n &+= receivers[0].pointee.counters[CaptureTap.cause(i)] &- before[i] }
        return Int(truncatingIfNeeded: n)
    }

    /// The burst was delivered, its first `finished` packets for good: lets the reader see these. What a receiver has
    /// dropped is known by its counters: of the full ones it was the last packets, of other causes the longest.
    mutating func conclude(_ finished: Int, of n: Int) {
        for place in 0..<receiverCount {
            for i in 0..<CaptureTap.causes {
                let cause = CaptureTap.cause(i)
                var lost = receivers[place].pointee.counters[cause] &- before[place &* CaptureTap.causes &+ i]
                while lost > 0, let unlucky = choose(place, finished, isFull: cause == .receiverFull) {
                    deliveries[unlucky].isLost = true
                    setCause(cause, at: deliveries[unlucky].inward)
                    setCause(cause, at: deliveries[unlucky].outward)
                    lost &-= 1
                }
            }
        }
        if finished < n { ring.rewind(to: marks[finished]) }
        ring.publish()
    }

    private func setCause(_ cause: DropCause, at position: UInt64) {
        if position != CaptureTap.nowhere { ring.setCause(CaptureTap.number(cause), at: position) }
    }

    private func choose(_ receiver: Int, _ finished: Int, isFull: Bool) -> Int? {
        var best = -1
        for i in 0..<deliveryCount {
            let delivery = deliveries[i]
            if delivery.isLost || delivery.receiver != receiver { continue }
            if delivery.packet >= finished && delivery.packet < Burst.maximum { continue }
            if best < 0 || isFull || delivery.length > deliveries[best].length { best = i }
        }
        return best < 0 ? nil : best
    }

    /// Whatever was written is as if it had not been.
    mutating func abandon(_ mark: CaptureRing.Mark) { ring.rewind(to: mark) }

    // MARK: Packets that went back into their ring

    /// Of those that a pair pops next, so many were shown before.
    func shown(_ pair: PairPointer) -> Int { Int(shown[CaptureTap.place(pair)]) }

    func setShown(_ pair: PairPointer, _ n: Int) {
        shown[CaptureTap.place(pair)] = UInt8(truncatingIfNeeded: max(0, n))
    }

    private static func place(_ pair: PairPointer) -> Int {
        pair.pointee.port &* PairTable.pairsPerPort &+ pair.pointee.pair
    }
}

typealias CapturePointer = UnsafeMutablePointer<CaptureTap>

/// What a thread captures for. Its own.
struct CaptureTaps: ~Copyable {
    /// Captures that there can be at once.
    static var most: Int { 8 }
    private let all = OwnedMemory<CapturePointer>(count: CaptureTaps.most)
    private(set) var count = 0

    @inline(__always)
    subscript(i: Int) -> CapturePointer { all[i] }

    /// At most `most`, which outlive their use here.
    mutating func set(_ taps: [CapturePointer]) {
        for (i, tap) in taps.enumerated() { (all.start + i).initialize(to: tap) }
        count = taps.count
    }
}
