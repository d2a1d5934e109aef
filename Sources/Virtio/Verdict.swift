/// Where a packet goes.
///
/// ```swift
/// return packets.isUp(1) ? .port(1) : .flood
/// ```
public struct Verdict: Sendable, Equatable, BitwiseCopyable {
    /// For `PacketSlot.verdict`. 0: drop. Then a port's place and 1; from `pairs` on that with one of the port's pairs
    /// above it; from `causes` on a cause of the function's own; from `sets` on the place of a set among the burst's;
    /// at the end the four below.
    public let rawValue: UInt32
    /// From `PacketSlot.verdict`.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// To nobody.
    @inlinable public static var drop: Verdict { Verdict(rawValue: 0) }
    /// To every port but the one it came from.
    @inlinable public static var flood: Verdict { Verdict(rawValue: UInt32.max) }
    /// Of a burst: each packet has its own. Never a packet's.
    @inlinable public static var none: Verdict { Verdict(rawValue: UInt32.max &- 1) }
    /// In a chain: the next function decides. At its end: drop.
    @inlinable public static var next: Verdict { Verdict(rawValue: UInt32.max &- 2) }
    /// The function has used the packet up, such as an answer that it had asked for: it goes no further, and counts as
    /// consumed (`PortSnapshot`), not as dropped.
    @inlinable public static var consumed: Verdict { Verdict(rawValue: UInt32.max &- 3) }
    /// To a port by its place in the engine's options, by the pair of the number of that which it came by (modulo those
    /// that the port uses).
    @inlinable public static func port(_ index: Int) -> Verdict {
        Verdict(rawValue: UInt32(truncatingIfNeeded: index &+ 1) & (pairs &- 1))
    }
    /// To a port by a pair of the function's choice, modulo those that the port uses: its thread delivers the packet.
    /// With a hash of the flow (`FlowKey.symmetricHash`) for `pair`, each flow's packets leave by one pair, whatever
    /// pairs they came by. `index`: below 2^20.
    @inlinable public static func port(_ index: Int, pair: Int) -> Verdict {
        if index < 0 || index >= 0xfffff { return .port(index) }
        let chosen = UInt32(truncatingIfNeeded: pair) & 0x3ff
        return Verdict(rawValue: pairs | chosen &<< 20 | UInt32(truncatingIfNeeded: index &+ 1))
    }

    @inlinable static var pairs: UInt32 { 0x4000_0000 }
    @inlinable static var causes: UInt32 { 0x8000_0000 }
    @inlinable static var sets: UInt32 { 0xc000_0000 }
    /// Sets that a burst has at most, a power of two: two for each packet.
    @inlinable public static var mostSets: Int { 128 }
    /// Causes that functions have at most.
    @inlinable public static var mostCauses: Int { 64 }

    /// Drops, for a cause by its place among all of the engine's function.
    @inlinable package static func dropCause(_ index: Int) -> Verdict {
        Verdict(rawValue: causes | UInt32(truncatingIfNeeded: index) & 63)
    }
    /// To the ports of a set by its place in `Burst.sets`.
    @inlinable package static func set(_ index: Int) -> Verdict {
        Verdict(rawValue: sets | UInt32(truncatingIfNeeded: index & (mostSets &- 1)))
    }

    /// The port, if it goes to one.
    @inlinable public var port: Int? {
        if rawValue > 0 && rawValue < Verdict.pairs { return Int(rawValue) &- 1 }
        return pair == nil ? nil : Int(rawValue & 0xfffff) &- 1
    }
    /// The pair of its port, modulo those that the port uses, if it was chosen.
    @inlinable public var pair: Int? {
        rawValue >= Verdict.pairs && rawValue < Verdict.causes ? Int(rawValue &>> 20 & 0x3ff) : nil
    }
    /// The cause, if it is dropped for one.
    @inlinable package var cause: Int? {
        rawValue >= Verdict.causes && rawValue < Verdict.sets ? Int(rawValue & 63) : nil
    }
    /// The set, if it goes to one.
    @inlinable package var set: Int? {
        rawValue >= Verdict.sets && rawValue < Verdict.consumed.rawValue ? Int(rawValue) & (Verdict.mostSets &- 1) : nil
    }
    /// To several ports.
    @inlinable package var isSeveral: Bool { self == .flood || set != nil }
    /// To one port, by the pair of the same number, or to none: decided without looking further.
    @inlinable package var isSingle: Bool { rawValue < Verdict.pairs }
}

/// A set of ports by their places in the engine's options, of the first 256.
///
/// ```swift
/// var ports = PortSet([1, 2, 3])
/// ports.remove(packets.port)
/// return packets.verdict(for: ports)
/// ```
public struct PortSet: Sendable, Equatable, BitwiseCopyable {
    @usableFromInline var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    /// Ports that a set can hold: places 0…255.
    @inlinable public static var most: Int { 256 }

    /// No port.
    @inlinable public init() {}

    /// These ports; places beyond the first 256 are left out.
    @inlinable public init(_ ports: some Sequence<Int>) {
        for port in ports { insert(port) }
    }

    /// Adds a port; one that is no place of the first 256 is left out.
    @inlinable public mutating func insert(_ port: Int) { update(port, true) }
    /// Takes a port out, if it is in.
    @inlinable public mutating func remove(_ port: Int) { update(port, false) }

    @inlinable mutating func update(_ port: Int, _ isIn: Bool) {
        if port < 0 || port >= PortSet.most { return }
        let bit = UInt64(1) &<< UInt64(truncatingIfNeeded: port & 63)
        switch port &>> 6 {
        case 0: words.0 = isIn ? words.0 | bit : words.0 & ~bit
        case 1: words.1 = isIn ? words.1 | bit : words.1 & ~bit
        case 2: words.2 = isIn ? words.2 | bit : words.2 & ~bit
        default: words.3 = isIn ? words.3 | bit : words.3 & ~bit
        }
    }

    /// Whether a port is in.
    @inlinable public func contains(_ port: Int) -> Bool {
        if port < 0 || port >= PortSet.most { return false }
        let word = port < 128 ? (port < 64 ? words.0 : words.1) : (port < 192 ? words.2 : words.3)
        return word &>> UInt64(truncatingIfNeeded: port & 63) & 1 != 0
    }

    /// Adds the ports of another.
    @inlinable @inline(__always)
    public mutating func formUnion(_ other: PortSet) {
        words.0 |= other.words.0
        words.1 |= other.words.1
        words.2 |= other.words.2
        words.3 |= other.words.3
    }

    /// Removes the ports of another.
    @inlinable @inline(__always)
    public mutating func subtract(_ other: PortSet) {
        words.0 &= ~other.words.0
        words.1 &= ~other.words.1
        words.2 &= ~other.words.2
        words.3 &= ~other.words.3
    }

    /// The ports that both have.
    @inlinable @inline(__always)
    public func intersection(_ other: PortSet) -> PortSet {
        var both = self
        both.words.0 &= other.words.0
        both.words.1 &= other.words.1
        both.words.2 &= other.words.2
        both.words.3 &= other.words.3
        return both
    }

    /// Ports in it.
    @inlinable public var count: Int {
        words.0.nonzeroBitCount &+ words.1.nonzeroBitCount &+ words.2.nonzeroBitCount &+ words.3.nonzeroBitCount
    }

    /// The lowest port; nil: it is empty.
    @inlinable public var first: Int? {
        if words.0 != 0 { return words.0.trailingZeroBitCount }
        if words.1 != 0 { return words.1.trailingZeroBitCount &+ 64 }
        if words.2 != 0 { return words.2.trailingZeroBitCount &+ 128 }
        return words.3 != 0 ? words.3.trailingZeroBitCount &+ 192 : nil
    }

    /// Removes the lowest port and returns it; nil: it is empty.
    @inlinable public mutating func popFirst() -> Int? {
        guard let port = first else { return nil }
        remove(port)
        return port
    }

    /// No port is in.
    @inlinable public var isEmpty: Bool { words.0 | words.1 | words.2 | words.3 == 0 }

    @inlinable public static func == (a: PortSet, b: PortSet) -> Bool {
        a.words.0 == b.words.0 && a.words.1 == b.words.1 && a.words.2 == b.words.2 && a.words.3 == b.words.3
    }
}
