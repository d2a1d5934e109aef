import Virtio

/// What a packet function says of itself (`PacketFunction`), for the thread that it runs on.
struct FunctionTraits: BitwiseCopyable {
    var judgesAgain = false
    var wantsData = true
    /// What is read of each packet before it is judged. Not used for Ringway's own modes: the compiler knows theirs.
    var front = PacketSlot.Front.nothing
    var tickMicroseconds = 0

    /// Counters that it has at most, a power of two.
    static var mostCounters: Int { 64 }
}
