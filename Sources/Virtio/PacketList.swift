/// Some packets of a burst, in their order, by their places in it. The numbers belong to whoever made the list, and
/// stay as long as it is used.
public struct PacketList: BitwiseCopyable {
    /// For `DeviceRing.deliver`.
    public let places: UnsafePointer<UInt16>
    /// How many packets the list has.
    public let count: Int

    /// `count` places; not copied.
    @inlinable @inline(__always)
    public init(_ places: UnsafePointer<UInt16>, count: Int) { (self.places, self.count) = (places, count) }

    /// A packet's place in the burst; `i` below `count`, which only debug builds check.
    @inlinable @inline(__always)
    public subscript(_ i: Int) -> Int {
        assert(i >= 0 && i < count)
        return Int(places[i])
    }

    /// Those from `start` on, without what lies from `end` on.
    @inlinable @inline(__always)
    public func part(_ start: Int, _ end: Int) -> PacketList {
        assert(start >= 0 && start <= end && end <= count)
        return PacketList(places + start, count: end &- start)
    }
}

extension Burst {
    /// The first `n` packets.
    @inlinable @inline(__always)
    public func first(_ n: Int) -> PacketList { PacketList(identity, count: n) }
}
