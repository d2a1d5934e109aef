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
        case made, flooded
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

/// One direction of a pair: a virtqueue and how its driver is told.
struct QueueState {
    var end = QueueEnd.none
    var isEnabled = false
    var kickFD: Int32 = -1
    var calls = Calls()
    var errFD: Int32 = -1
    /// Tag of the watch on `kickFD` in the thread's io_uring; 0: none.
    var kickTag: UInt64 = 0
    /// The defect was signalled to the control thread.
    var isReported = false
    /// The control thread has told.
    var isLogged = false

    @inline(__always)
    var isRunning: Bool { !end.isNone }
}

/// What a poll thread knows of one queue pair of one port. Lives from the engine's start to its
/// stop; everything but its owner and `counters` is touched by the owning thread alone.
struct PairState: ~Copyable {
    private var head: Head
    var port: Int { head.port }
    let pair: Int
    /// Wakes the port's control thread when a ring had to stop.
    let defectFD: Int32
    /// The control thread's own note that a ring of the pair runs, so that its owner stays.
    var isAnyRunning = false
    /// The driver's transmit queue: where packets come from.
    var transmit: QueueState
    /// The driver's receive queue: where packets go.
    var receive: QueueState
    var receiveRoom = GuestRingRoom()
    var transmitRoom = GuestRingRoom()
    let counters = PairCounters()
    /// What the driver accepted of the receive offloads (GUEST_*), as CTRL_GUEST_OFFLOADS set them.
    var receiveOffloads = Features(rawValue: 0)

    // Busyloop
    var budget = BudgetState()
    var lastWork: UInt64 = 0
    /// Its last work before it was woken, until something arrives; 0: it has not slept since its last work.
    var quietSince: UInt64 = 0
    /// It is on one of the thread's lists, at this place: the quiet ones' or that of those looked at each round.
    var isPolled = false
    var isQuiet = false
    var place = 0
    /// When its kick was seen, until packets are taken or there are none; 0: not kicked.
    var kickedAt: UInt64 = 0
    let times = QueueTimes()

    // Backpressure
    /// When the destination had no buffers for the first time, 0: it has.
    var stalledAt: UInt64 = 0
    /// The stall was too long: drop until the destination takes packets again.
    var gaveUp = false

    // Staying behind the driver
    let pacing: Pacing
    var lag = LagState()
    /// The same for receive buffers, which `generate` uses up as fast as they come.
    var receiveLag = LagState()

    /// Turns spent stalled.
    var retries = 0
    /// Packets to take at most: falls while the destination is short of buffers.
    var window = Burst.maximum

    /// A burst of this pair that other threads still read from; nothing is popped until it is back.
    var parcel: ParcelPointer?

    /// Where the index of the thread that owns the pair's rings stands. Read relaxed by any thread; written relaxed by
    /// the owner, which so lets go of the pair.
    @inline(__always)
    static func owner(_ p: PairPointer) -> UnsafeMutableRawPointer {
        assert(MemoryLayout<Head>.offset(of: \.ownerIndex) == MemoryLayout<Int>.size)
        return UnsafeMutableRawPointer(p) + MemoryLayout<Int>.size
    }

    /// Stands first in a pair, so that its places are known.
    private struct Head {
        let port: Int
        /// Index of the thread that owns the pair's rings: see `owner(_:)`, which knows that it stands second. Not
        /// first: its address would be the whole pair's, to which its thread has exclusive access while others read
        /// this.
        var ownerIndex: UInt32 = 0
    }

    var isRunning: Bool { transmit.isRunning || receive.isRunning }

    init(port: Int, pair: Int, defectFD: Int32, pacing: Pacing) {
        self.pacing = pacing
        self.defectFD = defectFD
        head = Head(port: port)
        self.pair = pair
        transmit = QueueState()
        receive = QueueState()
    }
}

typealias PairPointer = UnsafeMutablePointer<PairState>
