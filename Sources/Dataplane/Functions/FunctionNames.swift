import Virtio

/// Names that a packet function gives to what it counts.
struct FunctionNames {
    var dropCauses: [String] = []
    var counters: [String] = []

    init() {}

    init<F: PacketFunction & ~Copyable>(_ function: F.Type) throws(EngineError) {
        (dropCauses, counters) = (F.dropCauses, F.counters)
        if dropCauses.count > Verdict.mostCauses || counters.count > FunctionTraits.mostCounters {
            throw EngineError(
                "\(F.self): \(dropCauses.count) causes and \(counters.count) counters; at most "
                    + "\(Verdict.mostCauses) and \(FunctionTraits.mostCounters) are possible")
        }
        if !(0...PacketSlot.longestFront).contains(F.frontBytes) {
            throw EngineError(
                "\(F.self): a front of \(F.frontBytes) bytes; 0 to \(PacketSlot.longestFront) are possible")
        }
    }
}
