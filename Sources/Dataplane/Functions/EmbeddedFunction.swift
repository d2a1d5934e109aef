import Virtio

/// An embedder's function behind one call a burst. What it says of itself goes to the thread as values: see
/// `PollThread.judge`.
struct EmbeddedFunction: PacketFunction {
    let box: Unmanaged<FunctionBox>

    @inline(__always)
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        box._withUnsafeGuaranteedRef { $0.process(packets) }
    }

    mutating func tick(_ burst: borrowing PacketBurst) { box._withUnsafeGuaranteedRef { $0.tick(burst) } }

    mutating func portChanged(_ port: Int, isUp: Bool) {
        box._withUnsafeGuaranteedRef { $0.portChanged(port, isUp: isUp) }
    }
}

/// Hides the type of an embedder's function; `process` is the one indirect call of a burst.
class FunctionBox {
    func process(_ packets: borrowing PacketBurst) -> Verdict? { .drop }
    func tick(_ burst: borrowing PacketBurst) {}
    func portChanged(_ port: Int, isUp: Bool) {}
}

final class TypedFunctionBox<F: PacketFunction & ~Copyable>: FunctionBox {
    /// Touched by its thread alone once that runs.
    private let room: OwnedValues<F>

    init(_ function: consuming F) { room = OwnedValues(function) }

    override func process(_ packets: borrowing PacketBurst) -> Verdict? { room.start.pointee.process(packets) }

    override func tick(_ burst: borrowing PacketBurst) { room.start.pointee.tick(burst) }

    override func portChanged(_ port: Int, isUp: Bool) { room.start.pointee.portChanged(port, isUp: isUp) }

    func perform(_ command: F.Command, at time: BurstTime) -> F.Answer {
        room.start.pointee.perform(command, at: time)
    }
}

/// What a packet function says of itself, as values.
package struct FunctionWishes: Sendable {
    package var frontBytes: Int
    package var judgesAgain: Bool
    package var wantsData = true
    package var mostThreads = Int.max
    package var dropCauses: [String]
    package var counters: [String]
    package var tickMicroseconds: Int
    /// What errors and statistics call it.
    package var name: String

    /// Of a function whose type does not tell.
    package init(
        frontBytes: Int, judgesAgain: Bool = false, dropCauses: [String] = [], counters: [String] = [],
        tickMicroseconds: Int = 0, name: String = "the function"
    ) {
        self.frontBytes = frontBytes
        self.judgesAgain = judgesAgain
        self.dropCauses = dropCauses
        self.counters = counters
        self.tickMicroseconds = tickMicroseconds
        self.name = name
    }

    init<F: PacketFunction & ~Copyable>(_ function: F.Type) {
        self.init(
            frontBytes: F.frontBytes, judgesAgain: F.judgesAgain, dropCauses: F.dropCauses, counters: F.counters,
            tickMicroseconds: F.tickMicroseconds, name: "\(F.self)")
        wantsData = F.wantsData
        mostThreads = F.mostThreads
    }
}

extension FunctionTraits {
    init(_ wishes: FunctionWishes) {
        judgesAgain = wishes.judgesAgain
        wantsData = wishes.wantsData
        front = .wanted(wishes.frontBytes)
        tickMicroseconds = max(0, wishes.tickMicroseconds)
    }

    init<F: PacketFunction & ~Copyable>(_ function: F.Type) { self.init(FunctionWishes(function)) }
}
