import Virtio

/// Names that a packet function gives to what it counts.
struct FunctionNames {
    var dropCauses: [String] = []
    var counters: [String] = []
    /// Its own name; nil: one of Ringway's own modes.
    var function: String?

    init() {}

    init<F: PacketFunction & ~Copyable>(_ function: F.Type) throws(EngineError) {
        let wishes = FunctionWishes(frontBytes: F.frontBytes, dropCauses: F.dropCauses, counters: F.counters)
        try self.init(wishes, "\(F.self)")
    }

    /// `name`: what errors call the function.
    init(_ wishes: FunctionWishes, _ name: String) throws(EngineError) {
        (dropCauses, counters, function) = (wishes.dropCauses, wishes.counters, name)
        if dropCauses.count > Verdict.mostCauses || counters.count > FunctionTraits.mostCounters {
            throw EngineError(
                "\(name): \(dropCauses.count) causes and \(counters.count) counters; at most "
                    + "\(Verdict.mostCauses) and \(FunctionTraits.mostCounters) are possible")
        }
        if !(0...PacketSlot.longestFront).contains(wishes.frontBytes) {
            throw EngineError(
                "\(name): a front of \(wishes.frontBytes) bytes; 0 to \(PacketSlot.longestFront) are possible")
        }
    }
}
