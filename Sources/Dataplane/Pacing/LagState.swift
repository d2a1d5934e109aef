import Glibc
import Virtio

/// What a busy ring is tuned for: how long its newest entries may be left alone for the sake of throughput.
public enum Pacing: String, Sendable, Equatable, CaseIterable {
    /// Not at all up to some ten million entries per second; from there on a growing part of a microsecond or two, in
    /// which many come. As in `throughput` from a driver that sends more when it is left alone.
    case auto
    /// Whole bursts are waited for from some three million entries per second on, for up to thirty microseconds.
    case throughput
    /// Each entry is taken as soon as it is seen, and completions are told at once.
    case latency

    /// The time whose entries are counted, in microseconds.
    var microseconds: Int {
        switch self {
        case .auto: return 1
        case .throughput: return 10
        case .latency: return 0
        }
    }
}

/// Staying behind a busy driver: taking entries that it has only just written makes both cores fight over the same
/// cache lines, and so does looking all the time whether there are more.
///
/// The rate of a ring is measured over some microseconds, as entries that come in the time of its `Pacing`. The more
/// come, the more are taken at a time, up to a whole burst; half as many of the newest are left alone, and the ring is
/// looked at a few times while so many come. So an entry waits for a time that grows smoothly with the rate, from
/// nothing. It lasts as long as it pays: a driver that sends no more while it is waited for (it may wait for us) ends
/// it at once, and the next attempts are made the more rarely, the more often they failed. A busy driver is told of
/// many completions at a time, as no packet waits for them.
///
/// A plain value that belongs to one thread. Times are ticks of one `TickClock`.
package struct LagState: BitwiseCopyable {
    /// Entries taken at a time from which on leaving some alone gains anything.
    static var worthwhile: Int { 2 }
    /// Entries in the time of the pacing from which on completions are held back.
    static var holding: Int { 2 }
    /// Measurements of the rate without an attempt, at most.
    static var longestPause: Int { 1024 }

    /// The time of the pacing, in ticks; 0: nothing waits.
    private let unit: UInt64
    /// Whether the driver sends more when it is left alone.
    private var headroom: Headroom
    /// Newest entries that are left alone, and entries that are taken at least, at most.
    private let mostLeft: Int
    private let whole: Int
    /// Completions that are held back at most; 0: none.
    private let holds: Int

    private var isBusy = false
    private var holdsBack = false
    /// How many of the newest entries to leave this time.
    package private(set) var leave = 0
    /// How many entries to take at least.
    package private(set) var least = 1
    /// Ticks of looking in vain after which what is there is taken.
    private var patience: UInt64 = 0
    /// When it was looked in vain for the first time, in ticks; 0: not yet. By the clock: on a thread with much to do
    /// one look may come long after the other.
    private var waitingSince: UInt64 = 0
    /// When to look again, in ticks.
    private var nextLook: UInt64 = 0
    /// When entries were taken last.
    private var tookAt: UInt64 = 0
    /// The measurement of the rate under way: when it began, and entries taken since.
    private var measuringSince: UInt64 = 0
    private var measured = 0
    /// Measurements until the next attempt, and after the next failure.
    private var pause = 0
    private var nextPause = 1
    /// Entries taken since the last failure, and how many show that the driver does not wait for us: more than the ring
    /// holds, and no more than come between two pauses of a driver that does not.
    private var streak = 0
    private let enough: Int

    /// For a ring of `size` entries: short ones are never left with less than half of them.
    /// `hold`: completions that may be held back on a long one. `mayWait`: a driver may wait for what it gave us.
    package init(
        size: UInt32 = 0, hold: Int = 0, mayWait: Bool = false, pacing: Pacing = .latency, clock: TickClock = .shared
    ) {
        let size = Int(size)
        enough = mayWait ? min(size, 4096) : 0
        mostLeft = min(32, size / 16)
        whole = max(1, min(Burst.maximum, size / 8))
        holds = min(hold, size / 4)
        unit = clock.ticks(microseconds: pacing.microseconds)
        headroom = Headroom(window: clock.ticks(microseconds: 1000), least: 3000)
    }

    /// The state at the highest rate, from `now` until the next measurement. For `RoundBench`, whose clock stands.
    mutating func saturate(_ now: UInt64) {
        (isBusy, holdsBack, least, leave) = (true, true, whole, mostLeft)
        (measuringSince, measured, tookAt, patience) = (now, 0, now, unit)
    }

    /// It is too early to look again.
    @inline(__always)
    package func isWaiting(_ now: UInt64) -> Bool { nextLook > now }

    /// Whether `n` completions may be held back.
    @inline(__always)
    package func mayHold(_ n: Int) -> Bool { holdsBack && n < holds }

    /// Nothing came for so long that the driver is to be told of the completions that are held back.
    @inline(__always)
    package func mustTell(_ now: UInt64) -> Bool { now &- tookAt >= unit &* 2 }

    /// What came of a look: `took` entries.
    @inline(__always)
    package mutating func note(_ took: Int, _ now: UInt64) {
        if took == 0 {
            if isBusy { wait(now) }
            return
        }
        tookAt = now
        waitingSince = 0
        nextLook = 0
        measured &+= took
    }

    /// Measures the rate, if it is time to. To be called when what was taken has been delivered: it costs divisions,
    /// which a packet that comes alone would wait for.
    @inline(__always)
    package mutating func judge(_ now: UInt64) {
        if unit != 0 && now &- measuringSince >= unit &* 4 { measure(now) }
    }

    /// A measurement of the rate is complete.
    @inline(never)
    private mutating func measure(_ now: UInt64) {
        if isBusy {
            streak &+= measured
            if streak > enough { nextPause = 1 }
        }
        let time = Int(truncatingIfNeeded: max(1, now &- measuringSince))
        let n = min(256, measured &* Int(truncatingIfNeeded: unit) / time)
        let isFar = headroom.note(measured, now)
        measuringSince = now
        measured = 0
        holdsBack = n >= LagState.holding
        // The cube, so that it is two entries for 11 in the time of the pacing, and 64 for 35.
        let some = isFar ? whole : min(whole, (3 &* n &* n &* n &+ 1024) >> 11)
        isBusy = false
        if some >= LagState.worthwhile {
            if pause > 0 { pause &-= 1 } else { isBusy = true }
        }
        least = isBusy ? some : 1
        leave = isBusy ? min(some / 2, mostLeft) : 0
        // Twice the time in which so many come.
        if isBusy { patience = UInt64(2 &* (least &+ leave)) &* unit / UInt64(max(1, n)) }
    }

    private mutating func wait(_ now: UInt64) {
        if waitingSince == 0 { waitingSince = max(1, now) }
        if now &- waitingSince < patience {
            nextLook = now &+ patience / 6
            return
        }
        (isBusy, leave, least) = (false, 0, 1)
        (waitingSince, nextLook) = (0, 0)
        (measuringSince, measured) = (now, 0)
        streak = 0
        pause = nextPause
        nextPause = min(LagState.longestPause, nextPause &* 2)
    }
}
