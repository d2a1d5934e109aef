/// Finds out by trial whether a ring's driver sends more when it is left alone (see `LagState`): then it sends all it
/// can, and packets per second count; one that is paced by anything else sends as much either way, and only waits.
///
/// Time is cut into windows. Now and then one window is spent the other way than now, the next the usual way: a pair.
/// Three pairs in a row in which the other way was the better one change the way; one that says no ends the trial.
/// While nothing waits, trials are made the more rarely, the more often they changed nothing, so that a small part of a
/// percent of all packets waits for their sake.
///
/// A plain value that belongs to one thread. Times are ticks of one `TickClock`.
package struct Headroom: BitwiseCopyable {
    /// Windows until the first trial, at most until the next.
    static var firstPause: Int { 16 }
    static var longestPause: Int { 512 }
    /// Pairs that change the way.
    static var pairs: Int { 3 }

    /// The length of a window, in ticks.
    private let window: UInt64
    /// Entries in a window from which on there is anything to gain.
    private let least: Int
    /// The window under way: when it began, entries since.
    private var since: UInt64 = 0
    private var entries = 0
    /// Whether the driver is left alone: as a rule, and now.
    private var isRule = false
    private var isNow = false
    /// Windows of this trial that are over; and entries per 1024 ticks of the last one spent the other way.
    private var step = 0
    private var other = 0
    /// Windows until the next trial, and after it.
    private var left = Headroom.firstPause
    private var pause = Headroom.firstPause

    package init(window: UInt64, least: Int) {
        self.window = window
        self.least = least
    }

    /// `n` more entries came until `now`; returns whether to leave the driver alone.
    package mutating func note(_ n: Int, _ now: UInt64) -> Bool {
        entries &+= n
        let time = now &- since
        if time >= window {
            // What the thread slept or stood still for is no window.
            if time < window &* 2 { end(entries &* Int(window) / Int(time)) }
            since = now
            entries = 0
        }
        return isNow
    }

    private mutating func rest() {
        (isRule, isNow, step) = (false, false, 0)
        (left, pause) = (Headroom.firstPause, Headroom.firstPause)
    }

    /// A window of so many entries is over.
    private mutating func end(_ count: Int) {
        if count < least { return rest() }
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
            (step, left) = (0, pause)
            pause = isRule ? 2 &* Headroom.firstPause : min(Headroom.longestPause, pause &* 2)
        } else if step == 2 &* Headroom.pairs {
            isRule = !isRule
            (step, left, pause) = (0, Headroom.firstPause, Headroom.firstPause)
        } else {
            step &+= 1
        }
        isNow = step == 0 ? isRule : !isRule
    }
}
