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

/// A counter: written by one thread alone, read relaxed by anybody.
struct Counter: BitwiseCopyable {
    let word: UnsafeMutablePointer<UInt64>

    init(_ word: UnsafeMutablePointer<UInt64>) { self.word = word }

    @inline(__always)
    func add(_ n: UInt64) { CPlat_store64_relaxed(word, CPlat_load64_relaxed(word) &+ n) }

    var value: UInt64 { CPlat_load64_relaxed(word) }
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
    private let words = OwnedMemory<UInt64>(count: firstOwn + Verdict.mostCauses, repeating: 0)

    @inline(__always)
    func add(_ kind: Kind, _ n: Int) { Counter(words.start + kind.rawValue).add(UInt64(truncatingIfNeeded: n)) }

    @inline(__always)
    func drop(_ cause: DropCause, _ n: Int) {
        Counter(words.start + (Kind.drops.rawValue &+ cause.rawValue)).add(UInt64(truncatingIfNeeded: n))
    }

    /// For a cause of the packet function's, by its place.
    func dropFor(_ cause: Int, _ n: Int) {
        assert(cause >= 0 && cause < Verdict.mostCauses)
        Counter(words.start + (PairCounters.firstOwn &+ cause)).add(UInt64(truncatingIfNeeded: n))
    }

    func drops(for cause: Int) -> UInt64 { Counter(words.start + PairCounters.firstOwn + cause).value }

    subscript(_ kind: Kind) -> UInt64 { Counter(words.start + kind.rawValue).value }
    subscript(_ cause: DropCause) -> UInt64 { Counter(words.start + Kind.drops.rawValue + cause.rawValue).value }
}
