/// What a packet function says of itself (`PacketFunction`), for the thread that it runs on.
struct FunctionTraits: BitwiseCopyable {
    var judgesAgain = false
    var wantsData = true
    /// Not used for Ringway's own modes: the compiler knows theirs.
    var frontBytes = 0
    var tickMicroseconds = 0

    /// Counters that it has at most, a power of two.
    static var mostCounters: Int { 64 }
}
