import Virtio

/// Staying behind a busy driver: taking entries that it has only just written makes both cores fight over the same cache
/// lines, and so does looking all the time whether there are more.
///
/// While whole bursts come, the newest entries are left alone, only whole bursts are taken, the ring is looked at every
/// other microsecond when there is none, and the driver is told of many completions at a time. It lasts as long as it pays: a
/// trickle ends it at once. So does a driver that sends no whole burst while it is waited for (it may wait for us); the
/// next attempts are made the more rarely, the more often they failed.
struct LagState: BitwiseCopyable {
    /// Microseconds of looking in vain after which what is there is taken.
    static var patience: UInt64 { 18 }
    /// Microseconds from one look to the next.
    static var spacing: UInt64 { 2 }
    /// Bursts without an attempt, at most.
    static var longestPause: Int { 1024 }

    /// Newest entries that are left alone.
    private let entries: Int
    /// What is taken at least.
    private let whole: Int
    /// Completions that are held back at most; 0: none.
    private let holds: Int

    private(set) var isBusy = false
    /// When it was looked in vain for the first time, in ticks; 0: not yet. By the clock: on a thread with much to do
    /// one look may come long after the other.
    private var waitingSince: UInt64 = 0
    /// When to look again, in ticks.
    private var nextLook: UInt64 = 0
    /// Bursts until the next attempt, and after the next failure.
    private var pause = 0
    private var nextPause = 1
    /// Entries taken since the last failure, and how many show that the driver does not wait for us: more than the ring
    /// holds. Few enough on a long one that a pause of the driver now and then does not end it all.
    private var streak = 0
    private let enough: Int

    /// For a ring of `size` entries: short ones are never left with less than half of them.
    /// `hold`: completions that may be held back on a long one. `mayWait`: a driver may wait for what it gave us.
    init(size: UInt32 = 0, hold: Int = 0, mayWait: Bool = false) {
        let size = Int(size)
        enough = mayWait ? min(size, 4096) : 0
        entries = min(32, size / 16)
        whole = max(1, min(Burst.maximum, size / 8))
        holds = min(hold, size / 4)
    }

    /// How many of the newest entries to leave this time, and how many to take at least.
    @inline(__always)
    var leave: Int { isBusy ? entries : 0 }
    @inline(__always)
    var least: Int { isBusy ? whole : 1 }

    /// It is too early to look again.
    @inline(__always)
    func isWaiting(_ now: UInt64) -> Bool { nextLook > now }

    /// Whether `n` completions may be held back.
    @inline(__always)
    func mayHold(_ n: Int) -> Bool { isBusy && n < holds }

    /// What came of a look: `took` entries.
    @inline(__always)
    mutating func note(_ took: Int, _ now: UInt64, _ clock: TickClock) {
        if took == 0 {
            if isBusy { wait(now, clock) }
            return
        }
        if isBusy {
            streak &+= took
            if streak > enough { nextPause = 1 }
        }
        isBusy = false
        if took >= whole / 2 {
            if pause > 0 { pause &-= 1 } else { isBusy = whole > 1 }
        }
        waitingSince = 0
        nextLook = 0
    }

    private mutating func wait(_ now: UInt64, _ clock: TickClock) {
        if waitingSince == 0 { waitingSince = max(1, now) }
        if now &- waitingSince < clock.ticksPerMicrosecond &* LagState.patience {
            nextLook = now &+ clock.ticksPerMicrosecond &* LagState.spacing
            return
        }
        isBusy = false
        waitingSince = 0
        nextLook = 0
        streak = 0
        pause = nextPause
        nextPause = min(LagState.longestPause, nextPause &* 2)
    }
}
