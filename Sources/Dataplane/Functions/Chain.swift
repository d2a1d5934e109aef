import Virtio

/// Two functions one after the other, as one: what the first passes on (`Verdict.next`) the second judges, what it
/// drops or sends the second never sees. Composed at compile time: no indirect call between them. Packets that the
/// first makes go where it sends them. `Chain(a, Chain(b, c))` makes longer ones.
///
/// ```swift
/// let chain = Chain(Responder(address: address, hardware: hardware), Firewall(rules: rules.reader))
/// ```
public struct Chain<First: PacketFunction & ~Copyable, Second: PacketFunction & ~Copyable>: PacketFunction, ~Copyable {
    /// The one that judges first.
    public var first: First
    /// The one that judges what the first leaves.
    public var second: Second

    /// What the first has of its own.
    @usableFromInline let (causes, counts): (Int, Int)

    /// Takes both over.
    public init(_ first: consuming First, _ second: consuming Second) {
        self.first = first
        self.second = second
        (causes, counts) = (First.dropCauses.count, First.counters.count)
    }

    /// A command for one of the two.
    public enum Command: Sendable {
        /// For the first function.
        case first(First.Command)
        /// For the second.
        case second(Second.Command)
    }

    /// The answer of one of the two.
    public enum Answer: Sendable {
        /// The first function's.
        case first(First.Answer)
        /// The second's.
        case second(Second.Answer)
    }

    @inlinable public static var frontBytes: Int { max(First.frontBytes, Second.frontBytes) }
    @inlinable public static var judgesAgain: Bool { First.judgesAgain && Second.judgesAgain }
    @inlinable public static var wantsData: Bool { First.wantsData || Second.wantsData }
    public static var dropCauses: [String] { First.dropCauses + Second.dropCauses }
    public static var counters: [String] { First.counters + Second.counters }
    public static var tickMicroseconds: Int {
        let both = [First.tickMicroseconds, Second.tickMicroseconds].filter { $0 > 0 }
        return both.min() ?? 0
    }

    public static var mostThreads: Int { min(First.mostThreads, Second.mostThreads) }

    @inlinable @inline(__always)
    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        let decided = first.process(packets)
        if let decided {
            if decided != .next { return decided }
            return second.process(
                PacketBurst(packets, packets.list, count: packets.count, causes: causes, counters: counts))
        }
        return SlotList.withRoom { list in
            let n = packets.listNext(list)
            if n == 0 { return nil }
            let rest = PacketBurst(packets, list, count: n, causes: causes, counters: counts)
            if let verdict = second.process(rest) { rest.decideAll(verdict) }
            return nil
        }
    }

    public mutating func perform(_ command: Command, at time: BurstTime) -> Answer {
        switch command {
        case .first(let command): return .first(first.perform(command, at: time))
        case .second(let command): return .second(second.perform(command, at: time))
        }
    }

    public mutating func tick(_ burst: borrowing PacketBurst) {
        first.tick(burst)
        second.tick(PacketBurst(burst, burst.list, count: 0, causes: causes, counters: counts))
    }

    public mutating func portChanged(_ port: Int, isUp: Bool) {
        first.portChanged(port, isUp: isUp)
        second.portChanged(port, isUp: isUp)
    }
}

extension Chain: Copyable where First: Copyable, Second: Copyable {}
