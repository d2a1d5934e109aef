import Virtio

/// What a packet function says of itself (`PacketFunction`), for the thread that it runs on.
struct FunctionTraits: BitwiseCopyable {
    var judgesAgain = false
    var wantsData = true
    /// What is read of each packet before it is judged. Not used for Ringway's own modes: the compiler knows theirs.
    var front = PacketSlot.Front.nothing
    var tickMicroseconds = 0
    /// What a burst may take in it.
    var budgetMicroseconds = 100

    /// Behind its own counters: packets that it made in vain; bursts that took longer than the budget, and the longest
    /// of them in ticks.
    static var refusedPlace: Int { FunctionWork.mostCounters }
    static var slowPlace: Int { refusedPlace + 1 }
    static var longestPlace: Int { slowPlace + 1 }
    static var words: Int { longestPlace + 1 }
}
