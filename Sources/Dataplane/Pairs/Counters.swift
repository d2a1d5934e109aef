import CPlatform
import Virtio

/// Why a packet did not get where it should. The raw value indexes a pair's counters.
enum DropCause: Int, CaseIterable {
    case notReady, receiverFull, tooLong, badLength, badOffload, noDestination, notTaken, function

    var text: String {
        switch self {
        case .notReady: return "receiver not ready"
        case .receiverFull: return "receiver full"
        case .tooLong: return "longer than receiver's buffers"
        case .badLength: return "frame length"
        case .badOffload: return "offload fields"
        case .noDestination: return "no such port"
        case .notTaken: return "not taken by the interface"
        case .function: return "by the packet function"
        }
    }
}

/// Counters in a row: each is written by one thread alone, and read relaxed by anybody. Must not outlive their memory.
@usableFromInline
struct CounterRow: BitwiseCopyable {
    @usableFromInline let words: UnsafeMutablePointer<UInt64>

    @inline(__always)
    init(_ memory: borrowing OwnedMemory<UInt64>) { words = memory.start }

    @inlinable @inline(__always)
    func add(_ place: Int, _ n: UInt64) {
        CPlat_store64_relaxed(words + place, CPlat_load64_relaxed(words + place) &+ n)
    }

    @inlinable @inline(__always)
    subscript(_ place: Int) -> UInt64 { CPlat_load64_relaxed(words + place) }
}

/// Counters of a pair, of its thread.
struct PairCounters: ~Copyable {
    enum Kind: Int {
        case rxPackets, rxBytes, txPackets, txBytes
        /// See `PortSnapshot`.
        case made, flooded, consumed
        case receiveKicks, transmitKicks, receiveCalls, transmitCalls
        /// The first `DropCause`; the others follow, and then those of the packet function.
        case drops
    }

    private static let firstOwn = Kind.drops.rawValue + DropCause.allCases.count
    private static let count = firstOwn + Verdict.mostCauses
    private let words = OwnedMemory<UInt64>(count: PairCounters.count, repeating: 0)

    @inline(__always)
    func add(_ kind: Kind, _ n: Int) { CounterRow(words).add(kind.rawValue, UInt64(truncatingIfNeeded: n)) }

    @inline(__always)
    func drop(_ cause: DropCause, _ n: Int) {
        CounterRow(words).add(Kind.drops.rawValue &+ cause.rawValue, UInt64(truncatingIfNeeded: n))
    }

    /// For a cause of the packet function's, by its place.
    func dropFor(_ cause: Int, _ n: Int) {
        assert(cause >= 0 && cause < Verdict.mostCauses)
        CounterRow(words).add(PairCounters.firstOwn &+ cause, UInt64(truncatingIfNeeded: n))
    }

    func drops(for cause: Int) -> UInt64 { CounterRow(words)[PairCounters.firstOwn + cause] }

    /// All of them, for a process that goes on counting.
    var all: [UInt64] { (0..<PairCounters.count).map { CounterRow(words)[$0] } }

    /// What was counted elsewhere.
    func add(_ other: [UInt64]) {
        for (place, n) in other.prefix(PairCounters.count).enumerated() { CounterRow(words).add(place, n) }
    }

    subscript(_ kind: Kind) -> UInt64 { CounterRow(words)[kind.rawValue] }
    subscript(_ cause: DropCause) -> UInt64 { CounterRow(words)[Kind.drops.rawValue + cause.rawValue] }
}
