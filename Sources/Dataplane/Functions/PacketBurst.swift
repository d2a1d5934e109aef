import CPlatform
import Virtio

/// The packets of one burst, as a `PacketFunction` gets them: all from one queue pair of one port. Valid during the
/// call alone: neither it nor a packet of it can be kept, which the compiler sees to. Belongs to the poll thread.
///
/// ```swift
/// let others = packets.verdict(for: PortSet([2, 3]))
/// for i in 0..<packets.count {
///     if packets[i].length > 1514 {
///         packets.drop(i, because: 0)
///     } else {
///         packets.decide(i, others)
///     }
/// }
/// return nil
/// ```
public struct PacketBurst: ~Copyable, ~Escapable {
    @usableFromInline let burst: UnsafeMutablePointer<Burst>
    @usableFromInline let packets: UnsafeMutablePointer<PacketSlot>
    /// Where they lie.
    @usableFromInline let list: SlotList
    @usableFromInline let counters: CounterRow
    /// Where the causes and counters of this function begin among those of a chain.
    @usableFromInline let firstCause: Int
    @usableFromInline let firstCounter: Int
    let table: PairTable

    /// Packets.
    public let count: Int
    /// Place, in the engine's options, of the port that they came from.
    public let port: Int
    /// Queue pair that they came from.
    public let pair: Int
    /// Whole seconds of a clock that only goes forward.
    public let seconds: UInt32
    /// The time-stamp counter at the start of the round; see `TickClock`.
    public let ticks: UInt64

    /// Ports of the engine.
    public var portCount: Int { table.portCount }

    @inline(__always) @_lifetime(immortal)
    init(
        _ burst: UnsafeMutablePointer<Burst>, count: Int, port: Int, pair: Int, seconds: UInt32,
        ticks: UInt64, counters: CounterRow, table: PairTable
    ) {
        self.burst = burst
        packets = burst.pointee.packets
        list = burst.pointee.places
        self.counters = counters
        (firstCause, firstCounter) = (0, 0)
        self.table = table
        self.count = count
        self.port = port
        self.pair = pair
        self.seconds = seconds
        self.ticks = ticks
    }

    /// The packets of `all` that `list` names, for the function behind one that has so many
    /// `causes` and `counters` of its own.
    @usableFromInline @_lifetime(copy all)
    init(
        _ all: borrowing PacketBurst, _ list: SlotList, count: Int, causes: Int, counters: Int
    ) {
        burst = all.burst
        packets = all.packets
        self.list = list
        self.counters = all.counters
        firstCause = all.firstCause &+ causes
        firstCounter = all.firstCounter &+ counters
        table = all.table
        self.count = count
        port = all.port
        pair = all.pair
        seconds = all.seconds
        ticks = all.ticks
    }

    /// Lists the packets that the next function is to judge; returns how many they are.
    @inlinable @inline(__always)
    func listNext(_ to: SlotList) -> Int {
        var n = 0
        var i = 0
        while i < count {
            to[n] = list[i]
            n &+= list[i].pointee.verdict == Verdict.next.rawValue ? 1 : 0
            i &+= 1
        }
        return n
    }

    /// One verdict for all.
    @inlinable @inline(__always)
    func decideAll(_ verdict: Verdict) {
        var i = 0
        while i < count {
            decide(i, verdict)
            i &+= 1
        }
    }

    @inlinable @inline(__always)
    func slot(_ i: Int) -> UnsafeMutablePointer<PacketSlot> {
        assert(i >= 0 && i < count)
        return list[i]
    }

    /// A packet. `i` must be below `count`: checked in builds without optimisation alone.
    @inlinable @inline(__always)
    public subscript(i: Int) -> Packet {
        @_lifetime(borrow self)
        get { Packet(slot(i), of: self) }
    }

    /// A packet of a whole burst, its front read now: for Ringway's own modes, whose fronts are not read beforehand.
    @inline(__always) @_lifetime(borrow self)
    func look(_ i: Int, _ wanted: PacketSlot.Front) -> Packet {
        (packets + i).pointee.loadFront(wanted)
        return Packet(packets + i, of: self)
    }

    /// The same where the front may have been read already: modes of Ringway's that are tried in a harness, too.
    @inline(__always) @_lifetime(borrow self)
    func lookOnce(_ i: Int, _ wanted: PacketSlot.Front) -> Packet {
        if slot(i).pointee.front == .nothing { slot(i).pointee.loadFront(wanted) }
        return Packet(slot(i), of: self)
    }

    /// The verdict of a packet, without a look at it.
    @inlinable @inline(__always)
    public func decide(_ i: Int, _ verdict: Verdict) { slot(i).pointee.verdict = verdict.rawValue }

    /// Drops a packet for a cause by its place in the function's `dropCauses`.
    @inlinable @inline(__always)
    public func drop(_ i: Int, because cause: Int) {
        slot(i).pointee.verdict = Verdict.dropCause(firstCause &+ cause).rawValue
    }

    /// The verdict that drops for a cause by its place in the function's `dropCauses`: for packets of its own.
    @inlinable @inline(__always)
    public func verdict(because cause: Int) -> Verdict { Verdict.dropCause(firstCause &+ cause) }

    /// The verdict for several ports: each gets the packet, but for the port that it came from (as with `flood`). In
    /// one burst there can be 128 different sets; further ones drop.
    public func verdict(for ports: PortSet) -> Verdict {
        let n = Int(burst.pointee.work.sets)
        for i in 0..<n where burst.pointee.sets[i] == ports { return .set(i) }
        if n == Verdict.mostSets { return .drop }
        burst.pointee.sets[n] = ports
        burst.pointee.work.sets = UInt16(truncatingIfNeeded: n &+ 1)
        return .set(n)
    }

    /// Adds to a counter by its place in the function's `counters`.
    @inlinable @inline(__always)
    public func count(_ counter: Int, _ n: Int = 1) {
        counters.add((firstCounter &+ counter) & (FunctionWork.mostCounters &- 1), UInt64(truncatingIfNeeded: n))
    }

    // MARK: By name

    /// `drop` by a case of an enumeration whose numbers are the causes' places.
    ///
    /// ```swift
    /// enum Cause: Int, CaseIterable { case noRule, tooShort }
    /// static var dropCauses: [String] { Cause.allCases.map { "\($0)" } }
    ///
    /// mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
    ///     for i in 0..<packets.count { packets.drop(i, because: Cause.noRule) }
    ///     return nil
    /// }
    /// ```
    @inlinable @inline(__always)
    public func drop<Name: RawRepresentable<Int>>(_ i: Int, because cause: Name) { drop(i, because: cause.rawValue) }

    /// `verdict(because:)` the same way.
    @inlinable @inline(__always)
    public func verdict<Name: RawRepresentable<Int>>(because cause: Name) -> Verdict {
        verdict(because: cause.rawValue)
    }

    /// `count` the same way, by an enumeration of the function's counters.
    @inlinable @inline(__always)
    public func count<Name: RawRepresentable<Int>>(_ counter: Name, _ n: Int = 1) { count(counter.rawValue, n) }

    /// Whether a port has a queue pair that takes packets.
    public func isUp(_ port: Int) -> Bool { port >= 0 && port < table.portCount && table.activePairs(port) > 0 }

    /// What is known of a port now; nil where there is no such port.
    public func info(of port: Int) -> PortInfo? {
        port >= 0 && port < table.portCount ? PortInfo(table, port) : nil
    }

    // MARK: Packets of the function's own

    /// The same packet once more, with headers and a verdict (`drop` at first) of its own; its payload is the sender's,
    /// and is copied once by each receiver. Nil when 64 were made in this burst already, or its pieces have no room.
    @_lifetime(borrow self)
    public func copy(_ i: Int) -> Packet? {
        let original = slot(i)
        guard let slot = make() else { return nil }
        if !slot.pointee.take(original.pointee, &burst.pointee) {
            burst.pointee.work.made &-= 1
            return nil
        }
        return Packet(slot, of: self)
    }

    /// A packet of `length` bytes (14 to 1728), all zero, for the function to fill in; its verdict is `drop` at first.
    /// Nil when 64 were made in this burst already, or the length cannot be.
    @_lifetime(borrow self)
    public func originate(_ length: Int) -> Packet? {
        guard PacketSlot.madeLengths.contains(length), let slot = make() else { return nil }
        slot.pointee.make(length)
        return Packet(slot, of: self)
    }

    /// Packets that functions of this thread have made so far and for which their receivers had no buffers: whoever
    /// sends of its own accord slows down when this grows. What another thread delivers counts when that is done.
    public var refused: UInt64 { counters[FunctionTraits.refusedPlace] }

    private func make() -> UnsafeMutablePointer<PacketSlot>? {
        let n = Int(burst.pointee.work.made)
        if n == Burst.maximum { return nil }
        burst.pointee.work.made = UInt16(truncatingIfNeeded: n &+ 1)
        burst.pointee.work.isReviewed = 1
        return packets + (Burst.maximum &+ n)
    }
}

extension Packet {
    @inlinable @inline(__always) @_lifetime(borrow packets)
    init(_ slot: UnsafeMutablePointer<PacketSlot>, of packets: borrowing PacketBurst) {
        self = _overrideLifetime(Packet(slot, in: packets.burst), borrowing: packets)
    }
}
