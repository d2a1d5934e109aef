/// Finds out by trial whether a ring's driver sends more when it is left alone (see `LagState`): then it sends all it
/// can, and packets per second count; one that is paced by anything else sends as much either way, and only waits.
///
/// Time is cut into windows; after a change of the way a quarter of one is not counted, in which entries that were
/// left alone are made up for. Now and then one window is spent the other way than now, the next the usual way: a
/// pair. Three pairs in a row in which the other way was the better one change the way; one that says no ends the
/// trial: as a rule the first or second. While nothing waits, trials are made the more rarely, the more often they
/// changed nothing, and most of all for a driver that sends as much either way: the first after 48 windows, then down
/// to one in 4096, so that fewer than one packet in a thousand waits for their sake. A window in which little came is
/// a stall of the driver and counts for nothing; a few of them in a row begin anew. Shorter windows would cost less
/// still, but entries are counted as they are taken, and while the driver is left alone that is some microseconds
/// sooner or later.
///
/// A plain value that belongs to one thread. Times are ticks of one `TickClock`.
package struct Headroom: BitwiseCopyable {
    /// Windows until the first trial, at most until the next; and while the driver is left alone.
    static var firstPause: Int { 48 }
    static var longestPause: Int { 4096 }
    static var rulePause: Int { 32 }
    /// Pairs that change the way.
    static var pairs: Int { 3 }
    /// Windows in a row with too few entries that begin anew.
    static var fewest: Int { 4 }

    /// The length of a window, and what is not counted where the way has changed before it, in ticks.
    private let window: UInt64
    private let settling: UInt64
    /// Entries in a window from which on there is anything to gain.
    private let least: Int
    /// The window under way: when it began, entries since.
    private var since: UInt64 = 0
    private var entries = 0
    /// The way has changed at `since`, and no window has begun yet. One begins when entries are taken. They are not its
    /// own: it would gain what had come before.
    private var isSettling = false
    /// Whether the driver is left alone: as a rule, and now.
    private var isRule = false
    private var isNow = false
    /// Windows of this trial that are over; and entries per 1024 ticks of the last one spent the other way.
    private var step = 0
    private var other = 0
    /// Windows until the next trial, and after it.
    private var left = Headroom.firstPause
    private var pause = Headroom.firstPause
    /// Windows in a row with too few entries.
    private var few = 0

    package init(window: UInt64, least: Int) {
        self.window = window
        settling = window / 4
        self.least = least
    }

    /// `n` more entries came until `now`; returns whether to leave the driver alone.
    package mutating func note(_ n: Int, _ now: UInt64) -> Bool {
        let time = now &- since
        if isSettling {
            if time >= settling { (since, entries, isSettling) = (now, 0, false) }
            return isNow
        }
        entries &+= n
        if time >= window {
            let before = isNow
            // What the thread slept or stood still for is no window.
            if time < window &* 2 { end(entries &* Int(window) / Int(time)) }
            (since, entries, isSettling) = (now, 0, isNow != before)
        }
        return isNow
    }

    private mutating func rest() {
        (isRule, isNow, step, few) = (false, false, 0, 0)
        (left, pause) = (Headroom.firstPause, Headroom.firstPause)
    }

    /// A window of so many entries is over.
    private mutating func end(_ count: Int) {
        if count < least {
            few &+= 1
            if few == Headroom.fewest { rest() }
            return
        }
        few = 0
        if step == 0 {
            left &-= 1
            if left > 0 { return }
            step = 1
            isNow = !isRule
        } else if step % 2 == 1 {
            other = count
            step &+= 1
            isNow = isRule
        } else {
            compare(count)
        }
    }

    /// A pair is over: `count` entries the usual way, `other` the other way. To leave the driver alone must gain one in
    /// 64; afterwards it must not lose.
    private mutating func compare(_ count: Int) {
        let gains = isRule ? count > other : other &- count > count / 64
        if gains == isRule {
            // A driver that is paced sends the same in both windows; of another one chance may have been against it.
            let isPaced = abs(other &- count) <= count / 64
            pause = isRule ? Headroom.rulePause : min(Headroom.longestPause, pause &* (isPaced ? 4 : 2))
            (step, left) = (0, pause)
        } else if step == 2 &* Headroom.pairs {
            isRule = !isRule
            pause = isRule ? Headroom.rulePause : Headroom.firstPause
            (step, left) = (0, pause)
        } else {
            step &+= 1
        }
        isNow = step == 0 ? isRule : !isRule
    }
}
