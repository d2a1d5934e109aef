import CPlatform
import Virtio

/// The memory of a `PairTable` and of its pairs, freed with its owner.
struct PairTableMemory: ~Copyable {
    /// How many ports there can be.
    let places: Int
    private let portCount: Int
    private var rooms: [PairPointer: PairRoom] = [:]
    private let pairs: OwnedMemory<PairPointer?>
    private let active: OwnedMemory<UInt32>
    private let facts: OwnedMemory<UInt64>

    /// For the ports 0 to `portCount` - 1, and for others that come later: `places` in all.
    init(portCount: Int, places: Int) {
        self.portCount = portCount
        self.places = max(1, places)
        pairs = OwnedMemory(count: self.places * PairTable.pairsPerPort, repeating: nil)
        active = OwnedMemory(count: self.places, repeating: 0)
        facts = OwnedMemory(count: self.places * PairTable.factsPerPort, repeating: 0)
    }

    /// Of the ports at the start. Must not outlive this.
    var table: PairTable {
        PairTable(portCount: portCount, pairs: pairs.start, active: active.start, facts: facts.start)
    }

    /// Takes a pair over and puts it into the table. Its place there is free.
    mutating func add(_ pair: consuming PairState) -> PairPointer {
        let room = PairRoom(pair)
        let pointer = room.pointer
        rooms[pointer] = room
        assert(table[pointer.pointee.port, pointer.pointee.pair] == nil)
        table[pointer.pointee.port, pointer.pointee.pair] = pointer
        return pointer
    }

    /// Takes a port's pairs out of the table: who looks from now on finds none. They live until `free`.
    func takeOut(port: Int) -> [PairPointer] {
        (0..<PairTable.pairsPerPort).compactMap { pair in
            let pointer = table[port, pair]
            table[port, pair] = nil
            return pointer
        }
    }

    /// Frees pairs that were taken out, after every thread has let go of them.
    mutating func free(_ pairs: [PairPointer]) { for pair in pairs { rooms[pair] = nil } }
}

/// A pair, on cache lines of its own: another thread may own its neighbour.
private final class PairRoom {
    private let room: OwnedValues<PairState>
    /// Must not outlive this.
    var pointer: PairPointer { room.start }

    init(_ pair: consuming PairState) { room = OwnedValues(pair) }
}

/// All pairs of an engine by port and pair, as one thread sees it. There is room for ports that come later.
struct PairTable: BitwiseCopyable {
    static let pairsPerPort = 128
    /// Behind the last port. Each poll thread has it of its own, and learns of a change between two bursts: a port
    /// receives packets when all threads know it, and no longer before the first of them forgets it.
    fileprivate(set) var portCount: Int
    fileprivate let pairs: UnsafeMutablePointer<PairPointer?>
    /// Receive-ready pairs of each port, counted from pair 0: written by its control thread, read by all poll threads.
    /// One that reads an old number sends packets to a ring that has stopped; its owner drops and counts them.
    fileprivate let active: UnsafeMutablePointer<UInt32>
    /// What packet functions can ask of each port: its address and MTU, and the offloads that its driver takes.
    fileprivate let facts: UnsafeMutablePointer<UInt64>
    fileprivate static var factsPerPort: Int { 2 }

    @inline(__always)
    subscript(port: Int, pair: Int) -> PairPointer? {
        get { self[place: port &* PairTable.pairsPerPort &+ pair] }
        nonmutating set {
            CPlat_store64_release(
                pairs + (port &* PairTable.pairsPerPort &+ pair), UInt64(UInt(bitPattern: newValue)))
        }
    }

    /// By the number that kicks carry: 128 times the port, and the pair. A port that comes is made before it is seen.
    @inline(__always)
    subscript(place place: Int) -> PairPointer? {
        PairPointer(bitPattern: UInt(truncatingIfNeeded: CPlat_load64_acquire(pairs + place)))
    }

    @inline(__always)
    func activePairs(_ port: Int) -> Int { Int(CPlat_load32_relaxed(active + port)) }

    /// As they stand in the port's options; `mac` has six bytes. Before threads look.
    func setAddress(_ mac: [UInt8]?, mtu: UInt16?, _ port: Int) {
        let address = (mac ?? []).prefix(6).enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
        CPlat_store64_relaxed(facts + port * PairTable.factsPerPort, address | UInt64(mtu ?? 0) << 48)
    }

    /// By the port's control thread.
    func setOffloads(_ offloads: Features, _ port: Int) {
        CPlat_store64_relaxed(facts + (port * PairTable.factsPerPort + 1), offloads.rawValue)
    }

    /// By any thread.
    func facts(_ port: Int) -> (address: UInt64, mtu: UInt16, offloads: Features) {
        let word = CPlat_load64_relaxed(facts + port * PairTable.factsPerPort)
        let offloads = CPlat_load64_relaxed(facts + (port * PairTable.factsPerPort + 1))
        return (word & 0xffff_ffff_ffff, UInt16(word >> 48), Features(rawValue: offloads))
    }

    func setActivePairs(_ count: Int, _ port: Int) { CPlat_store32_release(active + port, UInt32(count)) }
}

/// What a poll thread works with: plain memory, its own.
struct ThreadState: ~Copyable {
    let index: Int
    private(set) var table: PairTable
    var clock = TickClock.shared
    var notifier: Notifier
    /// Cycle counter at the start of this round.
    var now: UInt64 = 0
    /// The same in whole seconds, brought up to date a few times a second.
    var seconds: UInt32 = 0
    var secondsDue: UInt64 = 0

    /// Ticks of rounds in which packets moved; read relaxed by anybody.
    var busyTicks: CounterRow { CounterRow(busyWord) }
    private let busyWord = OwnedMemory<UInt64>(count: 1, repeating: 0)
    /// What the packet function says of itself.
    private(set) var traits = FunctionTraits()
    /// When it keeps house the next time; `.max`: never.
    var tickDue = UInt64.max
    /// Its counters, read relaxed by anybody.
    @inline(__always) var functionCounters: CounterRow { CounterRow(functionWords) }
    private let functionWords = OwnedMemory<UInt64>(count: FunctionTraits.words, repeating: 0)

    /// Ticks that the function may take for a burst before it is slow.
    var functionBudget = UInt64.max

    /// The function took so many ticks for a burst: more than its budget.
    @inline(never)
    func noteSlow(_ ticks: UInt64) {
        functionCounters.add(FunctionTraits.slowPlace, 1)
        let longest = functionCounters[FunctionTraits.longestPlace]
        if ticks > longest { functionCounters.add(FunctionTraits.longestPlace, ticks &- longest) }
    }

    /// Packets that the function made and that found no buffers: behind its own counters.
    func countRefused(_ n: Int) {
        functionCounters.add(FunctionTraits.refusedPlace, UInt64(truncatingIfNeeded: n))
    }
    /// Packets that arrived with the visit that has just ended; those that went back into their ring are none.
    var arrived = 0
    /// Packets have moved in this round: waiting for a receiver is no work.
    var didWork = false

    /// Pairs that are looked at each round.
    let polled: OwnedMemory<PairPointer>
    var polledCount = 0
    /// `poll` pairs without work for a while: visited a few each round.
    let quiet: OwnedMemory<PairPointer>
    var quietCount = 0
    var quietNext = 0

    var burst = Burst()
    var resolved = Burst()
    /// Room that this thread's deliveries work in, whosever the burst is.
    let delivery = DeliveryScratch()
    let scratch = OffloadScratch()
    /// Room for the packets of a burst that go to one destination.
    let list = OwnedMemory<UInt16>(count: Burst.maximum)
    /// Of a burst that goes to other threads, too: who delivers to which port.
    var targets: Targets
    /// Packets of `generate`, all alike.
    var template: FrameTemplate?

    /// Bursts handed over to other threads and back.
    var exchange: Exchange

    /// Of a thread whose function is `CapturedFunction`; none on others, which do not look.
    var taps = CaptureTaps()

    /// `places`: how many ports there can be.
    init(index: Int, table: PairTable, places: Int, notifier: consuming Notifier, exchange: consuming Exchange) {
        self.index = index
        self.table = table
        self.notifier = notifier
        self.exchange = exchange
        let room = max(1, places * PairTable.pairsPerPort)
        polled = OwnedMemory(count: room)
        quiet = OwnedMemory(count: room)
        targets = Targets(places: places)
    }

    /// Ports come or go. No parcel of this thread is under way: what they say of other ports is left by none.
    mutating func setPortCount(_ count: Int) {
        table.portCount = count
        targets.forgetAll()
        exchange.forEachFree { $0.pointee.targets.forgetAll() }
    }

    mutating func obey(_ traits: FunctionTraits) {
        self.traits = traits
        let wantsData = traits.wantsData
        burst.wantsData = wantsData
        exchange.forEachFree { $0.pointee.burst.wantsData = wantsData }
        tickDue = traits.tickMicroseconds > 0 ? 0 : .max
        functionBudget = clock.ticks(microseconds: traits.budgetMicroseconds)
    }

    /// Where a thread's burst lies: it stays there.
    @inline(__always)
    static func burst(_ thread: ThreadPointer) -> UnsafeMutablePointer<Burst> {
        withUnsafeMutablePointer(to: &thread.pointee.burst) { $0 }
    }

    /// A pair of this thread of which nothing is under way; nil: none.
    func freePair() -> PairPointer? {
        if exchange.threadCount > 1 && exchange.freeCount == 0 { return nil }
        for place in 0..<(table.portCount &* PairTable.pairsPerPort) {
            // Whose it is comes first: all else is its owner's.
            guard let pair = table[place: place],
                pair.pointee.owner == UInt32(truncatingIfNeeded: index),
                pair.pointee.parcel == nil
            else { continue }
            return pair
        }
        return nil
    }

    /// Nothing to poll: the thread may sleep.
    @inline(__always)
    var isIdle: Bool { polledCount == 0 && quietCount == 0 && !exchange.hasUnderWay }

    @inline(never)
    mutating func bringUpToDate() {
        now = CPlat_cycles()
        secondsDue = min(now &+ clock.ticks(microseconds: 250_000), tickDue)
        seconds = clock.seconds(now)
    }

    /// A kick: polls the pair.
    mutating func wake(_ pair: PairPointer) {
        if pair.pointee.isPolled { return }
        pair.pointee.kickedAt = max(1, CPlat_cycles())
        if pair.pointee.quietSince == 0 { pair.pointee.quietSince = max(1, pair.pointee.lastWork) }
        poll(pair)
    }

    /// Puts a pair among those that are looked at.
    mutating func poll(_ pair: PairPointer) {
        if pair.pointee.isPolled { return }
        pair.pointee.lastWork = now
        (pair.pointee.isPolled, pair.pointee.isQuiet, pair.pointee.place) = (true, false, polledCount)
        polled[polledCount] = pair
        polledCount &+= 1
    }

    /// Puts a polled pair among the quiet ones.
    mutating func quieten(_ pair: PairPointer) {
        forget(pair)
        (pair.pointee.isPolled, pair.pointee.isQuiet, pair.pointee.place) = (true, true, quietCount)
        quiet[quietCount] = pair
        quietCount &+= 1
    }

    /// Takes a pair off its list; the list's last takes its place.
    mutating func forget(_ pair: PairPointer) {
        if !pair.pointee.isPolled { return }
        pair.pointee.isPolled = false
        let list = pair.pointee.isQuiet ? quiet.start : polled.start
        let count = (pair.pointee.isQuiet ? quietCount : polledCount) &- 1
        if pair.pointee.isQuiet { quietCount = count } else { polledCount = count }
        list[pair.pointee.place] = list[count]
        list[pair.pointee.place].pointee.place = pair.pointee.place
    }
}

typealias ThreadPointer = UnsafeMutablePointer<ThreadState>
