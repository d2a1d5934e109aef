import Virtio

/// Names that a packet function gives to what it counts.
struct FunctionNames {
    var dropCauses: [String] = []
    var counters: [String] = []
    /// Its own name; nil: one of Ringway's own modes.
    var function: String?

    init() {}

    /// Throws where there are too many, or the front cannot be, or the function cannot do with so many threads.
    init(_ wishes: FunctionWishes, threads: Int) throws(EngineError) {
        let name = wishes.name
        (dropCauses, counters, function) = (wishes.dropCauses, wishes.counters, name)
        if dropCauses.count > Verdict.mostCauses || counters.count > FunctionWork.mostCounters {
            throw EngineError(
                "\(name): \(dropCauses.count) causes and \(counters.count) counters; at most "
                    + "\(Verdict.mostCauses) and \(FunctionWork.mostCounters) are possible")
        }
        if !(0...PacketSlot.longestFront).contains(wishes.frontBytes) {
            throw EngineError(
                "\(name): a front of \(wishes.frontBytes) bytes; 0 to \(PacketSlot.longestFront) are possible")
        }
        if threads > wishes.mostThreads {
            throw EngineError(
                "\(name): \(threads) poll threads; it works on \(wishes.mostThreads) at most, as threads do not "
                    + "know of each other's packets")
        }
    }
}
