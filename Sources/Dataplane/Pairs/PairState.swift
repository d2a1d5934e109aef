import Synchronization
import Virtio

/// One direction of a pair: a virtqueue and how its driver is told.
struct QueueState {
    var end = QueueEnd.none
    /// Packets pass: its other side says so, and the port is up.
    var isEnabled = false
    /// Its other side says so.
    var isWanted = false
    var kickFD: Int32 = -1
    var calls = Calls()
    var errFD: Int32 = -1
    /// Tag of the watch on `kickFD` in the thread's io_uring; 0: none.
    var kickTag: UInt64 = 0
    /// `kickFD` is watched from when the pair is left alone until it tells: it would tell of each burst, too.
    var isWatchedAsleep = false
    /// Of such a one: it is watched now.
    var isWatched = false
    /// The defect was signalled to the control thread.
    var isReported = false
    /// The control thread has told.
    var isLogged = false

    @inline(__always)
    var isRunning: Bool { !end.isNone }
}

/// What a poll thread knows of one queue pair of one port. Lives as long as its port;
/// everything but its owner and `counters` is touched by the owning thread alone.
struct PairState: ~Copyable {
    let port: Int
    /// Index of the thread that owns the pair's rings. Not first: its address would be the whole pair's, to which its
    /// thread has exclusive access while others read this.
    private let ownerIndex = Atomic<UInt32>(0)
    let pair: Int
    /// Wakes the port's control thread when a ring had to stop.
    let defectFD: Int32
    /// The control thread's own note that a ring of the pair runs, so that its owner stays.
    var isAnyRunning = false
    /// Its note of the node where the rings' memory lies; -1: not known.
    var node = -1
    /// The driver's transmit queue: where packets come from.
    var transmit: QueueState
    /// The driver's receive queue: where packets go.
    var receive: QueueState
    var receiveRoom = GuestRingRoom()
    var transmitRoom = GuestRingRoom()
    let counters = PairCounters()
    /// What the driver accepted of the receive offloads (GUEST_*), as CTRL_GUEST_OFFLOADS set them.
    var receiveOffloads = Features(rawValue: 0)

    /// Its port is up, as far as whoever runs the engine goes (`Engine.setUp`).
    private(set) var isUp = true

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

    /// How often each queue has been started, by direction.
    private(set) var starts: InlineArray<2, UInt64> = [0, 0]

    mutating func countStart(_ direction: QueueDirection) { starts[direction.rawValue] &+= 1 }

    /// Index of the thread that owns the pair's rings, for any thread. Acquire: who finds that it is the owner finds
    /// the pair as the last one has left it.
    @inline(__always)
    var owner: UInt32 { ownerIndex.load(ordering: .acquiring) }

    /// By the owner, which so lets go of the pair; or before anybody owns it.
    func give(to thread: Int) { ownerIndex.store(UInt32(thread), ordering: .releasing) }

    var isRunning: Bool { transmit.isRunning || receive.isRunning }

    /// What a queue's other side says of it.
    mutating func enable(_ direction: QueueDirection, _ isWanted: Bool) {
        (self[direction].isWanted, self[direction].isEnabled) = (isWanted, isWanted && isUp)
    }

    mutating func setUp(_ isUp: Bool) {
        self.isUp = isUp
        for direction in QueueDirection.allCases { enable(direction, self[direction].isWanted) }
    }

    /// One direction.
    subscript(_ direction: QueueDirection) -> QueueState {
        _read { if direction == .receive { yield receive } else { yield transmit } }
        _modify { if direction == .receive { yield &receive } else { yield &transmit } }
    }

    init(port: Int, pair: Int, defectFD: Int32, pacing: Pacing) {
        self.pacing = pacing
        self.defectFD = defectFD
        self.port = port
        self.pair = pair
        transmit = QueueState()
        receive = QueueState()
    }
}

typealias PairPointer = UnsafeMutablePointer<PairState>

/// A burst whose packets other threads deliver, straight from the sender's memory. Its source pair
/// pops nothing more until every thread has put its part back, so order is kept, memory stays valid
/// and nothing can overflow.
struct Parcel: ~Copyable {
    /// Threads that still read.
    let remaining = Atomic<UInt32>(0)
    /// Packets that nobody delivered, as their destination's rings went to another thread while they were under way:
    /// `LostPackets`.
    let lost = Atomic<UInt64>(0)
    /// Packets that the sender's function made, and that found no buffers.
    let refused = Atomic<UInt32>(0)
    var burst = Burst()
    /// Which thread delivers to which port, as its sender decided.
    var targets: Targets
    /// Where it came from.
    var port = 0
    /// One verdict for all, else `Verdict.none`: each packet's own.
    var verdict = Verdict.none
    /// Of a burst with one destination: packets dealt with; the rest found no buffers.
    var consumed = 0

    init(places: Int) { targets = Targets(places: places) }

    /// Before so many threads read it.
    @inline(__always)
    func prepare(threads: Int) {
        remaining.store(UInt32(truncatingIfNeeded: threads), ordering: .relaxed)
        lost.store(0, ordering: .relaxed)
        refused.store(0, ordering: .relaxed)
    }
}

/// What threads did not deliver of a parcel, as the rings were another thread's meanwhile; one word of it.
struct LostPackets: BitwiseCopyable {
    /// In the lower half, the packets for which nobody else will count; in the upper one the port, and 1. 0: nothing.
    var word: UInt64 = 0
    private static var several: UInt64 { 0xffff_ffff }

    /// Those that their sender counts: copies of a packet that goes to others, too, are none.
    var count: Int { Int(word & 0xffff_ffff) }
    /// The port that they were all for, by its own choice of the pair; nil: more than one, or a pair that was chosen.
    var port: Int? { word >> 32 == 0 || word >> 32 == LostPackets.several ? nil : Int(word >> 32) - 1 }

    /// `port`: nil for packets whose verdict has chosen a pair.
    mutating func add(_ n: Int, port: Int?) {
        let one = port.map { UInt64($0) + 1 } ?? LostPackets.several
        let all = word >> 32 == 0 || word >> 32 == one ? one : LostPackets.several
        word = all << 32 | UInt64(count + n)
    }
}

/// Where packets for a port go: a pair, and the thread that owns its rings; no pair where the port has none that runs.
struct Target: BitwiseCopyable {
    var pair: PairPointer?
    var thread = Target.undecided

    /// The thread of a port that nothing was decided of yet.
    static let undecided = UInt32.max
    /// The thread of a port without a ring that runs.
    static let nobody = UInt32.max - 1
}

/// One for each port, and for each pair of a port that was chosen; decided once by the thread that sends the packets:
/// whatever changes while they are under way, each is delivered or counted by one thread.
struct Targets: ~Copyable {
    private let all: OwnedMemory<Target>
    private let places: Int
    /// Verdicts that chose a pair, and where that is: at most one for each packet.
    private let verdicts = OwnedMemory<Verdict>(count: 2 * Burst.maximum)
    private let chosen = OwnedMemory<Target>(count: 2 * Burst.maximum)
    private var chosenCount = 0

    /// `places`: how many ports there can be.
    init(places: Int) {
        self.places = max(1, places)
        all = OwnedMemory(count: self.places, repeating: Target())
    }

    /// Before a burst for the ports below `count`. Of others nothing was decided ever since `forgetAll`.
    mutating func clear(_ count: Int) {
        all.start.update(repeating: Target(), count: count)
        chosenCount = 0
    }

    mutating func forgetAll() { clear(places) }

    /// Of a port of the engine's.
    subscript(port: Int) -> Target {
        get { all[port] }
        nonmutating set { all[port] = newValue }
    }

    /// Of packets with `verdict` for `port`.
    subscript(verdict: Verdict, port: Int) -> Target {
        get {
            if verdict.pair == nil { return all[port] }
            for i in 0..<chosenCount where verdicts[i] == verdict { return chosen[i] }
            return Target()
        }
        set {
            if verdict.pair == nil {
                all[port] = newValue
            } else if chosenCount < 2 * Burst.maximum {
                (verdicts[chosenCount], chosen[chosenCount]) = (verdict, newValue)
                chosenCount &+= 1
            }
        }
    }
}

typealias ParcelPointer = UnsafeMutablePointer<Parcel>
