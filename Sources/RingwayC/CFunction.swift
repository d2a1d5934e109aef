import CRingway
import Dataplane
import Virtio

/// A C function, and what it said of itself when its engine was made.
struct CFunctionWishes {
    let function: ringway_function
    let wishes: FunctionWishes
    /// Causes of its own, and the first place of those that the program has registered.
    let causes, firstRegistered: Int
}

/// A thread's part of a C function. Its address is what C knows as `ringway_burst`.
struct CContext {
    let function: ringway_function
    let state: UnsafeMutableRawPointer?
    let thread: Int
    /// As in `CFunctionWishes`.
    private let causes, firstRegistered: Int
    let (counters, ports): (Int, Int)
    /// Of the call that is under way.
    private(set) var parts: BurstParts!
    private(set) var isTick = false

    @inline(__always) var count: Int { parts.unsafelyUnwrapped.count }
    @inline(__always) var burst: UnsafeMutablePointer<Burst> { parts.unsafelyUnwrapped.burst }
    @inline(__always) var packets: UnsafeMutablePointer<PacketSlot> { parts.unsafelyUnwrapped.packets }

    init(_ wishes: CFunctionWishes, _ state: UnsafeMutableRawPointer?, thread: Int, ports: Int) {
        function = wishes.function
        self.state = state
        self.thread = thread
        (causes, firstRegistered) = (wishes.causes, wishes.firstRegistered)
        (counters, self.ports) = (wishes.wishes.counters.count, ports)
    }

    /// The number of the next packet that is made.
    @inline(__always) var made: UInt32 { UInt32(truncatingIfNeeded: Burst.maximum &+ Int(burst.pointee.work.made)) }

    /// A call begins.
    @inline(__always)
    mutating func open(_ burst: BurstParts, isTick: Bool) {
        parts = burst
        self.isTick = isTick
    }

    /// It is a packet's verdict, and what it names is there.
    @inline(__always)
    func isVerdict(_ word: UInt32) -> Bool {
        if word <= UInt32(truncatingIfNeeded: ports) || word == Verdict.flood.rawValue { return true }
        let verdict = Verdict(rawValue: word)
        if verdict == .consumed { return true }
        if verdict.pair != nil, let port = verdict.port { return port < Int(ports) }
        if let cause = verdict.cause {
            return (cause < causes || cause >= firstRegistered) && verdict == .dropCause(cause)
        }
        if let set = verdict.set { return set < Int(burst.pointee.work.sets) && verdict == .set(set) }
        return false
    }
}

/// A call on a thread of the engine's.
///
/// Unchecked: what it points at is C's business.
struct CCommand: @unchecked Sendable {
    let call: @convention(c) (UnsafeMutableRawPointer?, UInt32, UnsafeMutableRawPointer?) -> Void
    let argument: UnsafeMutableRawPointer?
}

/// A packet function that is written in C: its wishes are `FunctionWishes`.
struct CFunction: PacketFunction {
    let context: UnsafeMutablePointer<CContext>

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        guard let process = context.pointee.function.process else { return .drop }
        context.pointee.open(packets.parts, isTick: false)
        CRingway_enter(context)
        let word = process(context.pointee.state, OpaquePointer(context))
        CRingway_leave()
        if word == Verdict.none.rawValue { return nil }
        return context.pointee.isVerdict(word) ? Verdict(rawValue: word) : .drop
    }

    mutating func tick(_ burst: borrowing PacketBurst) {
        guard let tick = context.pointee.function.tick else { return }
        context.pointee.open(burst.parts, isTick: true)
        CRingway_enter(context)
        tick(context.pointee.state, OpaquePointer(context))
        CRingway_leave()
    }

    mutating func portChanged(_ port: Int, isUp: Bool) {
        guard let changed = context.pointee.function.port_changed else { return }
        CRingway_enter(nil)
        changed(context.pointee.state, UInt32(truncatingIfNeeded: port), isUp ? 1 : 0)
        CRingway_leave()
    }

    mutating func perform(_ command: CCommand, at time: BurstTime) {
        CRingway_enter(nil)
        command.call(context.pointee.state, UInt32(context.pointee.thread), command.argument)
        CRingway_leave()
    }
}
