import CPlatform
import Virtio

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
    private(set) var functionBudget = UInt64.max

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
        setFunctionBudget(microseconds: traits.budgetMicroseconds)
    }

    /// What the function may take for a burst from now on.
    mutating func setFunctionBudget(microseconds: Int) { functionBudget = clock.ticks(microseconds: microseconds) }

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
