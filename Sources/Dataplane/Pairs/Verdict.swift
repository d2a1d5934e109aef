/// Where a packet goes.
public struct Verdict: Sendable, Equatable, BitwiseCopyable {
    /// For `PacketSlot.verdict`.
    public let rawValue: UInt32
    @inlinable init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable public static var drop: Verdict { Verdict(rawValue: 0) }
    /// To every port but the one it came from.
    @inlinable public static var flood: Verdict { Verdict(rawValue: UInt32.max) }
    /// Of a burst: each packet has its own. Never a packet's.
    static var none: Verdict { Verdict(rawValue: UInt32.max &- 1) }
    /// To a port by its place in the engine's options.
    @inlinable public static func port(_ index: Int) -> Verdict {
        Verdict(rawValue: UInt32(truncatingIfNeeded: index &+ 1))
    }
}
