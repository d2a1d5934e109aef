import Dataplane
import Ringway
import Testing

/// `LagState` in a simulation with a clock of its own: a driver that makes bursts available at a rate, and a device
/// side that looks, takes and delivers. So latency against load is a matter of arithmetic here, not of the machine.
@Suite struct LagStateTests {
    /// Microseconds from when an entry could be seen until it was delivered, and entries that were taken at a time.
    struct Outcome {
        var p50 = 0.0
        var p99 = 0.0
        var batch = 0.0
    }

    static let clock = TickClock(ticksPerMicrosecond: 2000)

    /// `entries` of a driver that makes `burst` available at a time, `millions` per second.
    static func run(_ pacing: Pacing, millions: Double, burst: Int, entries: Int = rounds(40_000)) -> Outcome {
        // Nanoseconds of a look in vain, of a burst and of each of its packets.
        let (look, round, packet) = (20.0, 60.0, 8.0)
        var lag = LagState(size: 1024, hold: 256, mayWait: true, pacing: pacing, clock: clock)
        let step = Double(burst) / millions * 1000
        func arrival(_ i: Int) -> Double { 1e7 + Double(i / burst) * step }
        var (now, seen, taken, takes) = (1e7, 0, 0, 0)
        var waits: [Double] = []
        while taken < entries {
            let ticks = UInt64(now * 2)
            if lag.isWaiting(ticks) {
                now += look
                continue
            }
            while arrival(seen) <= now { seen += 1 }
            let n = min(64, seen - taken - lag.leave)
            if n < lag.least || n <= 0 {
                lag.note(0, ticks)
                now += look
                continue
            }
            lag.note(n, ticks)
            lag.judge(ticks)
            now += round + packet * Double(n)
            for k in 0..<n where taken + k > entries / 8 { waits.append((now - arrival(taken + k)) / 1000) }
            taken += n
            if taken > entries / 8 { takes += 1 }
        }
        waits.sort()
        return Outcome(
            p50: waits[waits.count / 2], p99: waits[waits.count * 99 / 100], batch: Double(waits.count) / Double(takes))
    }

    /// Steps of 1.4 from a trickle to more than any driver sends. A trickle is hours of looks in vain where the code is
    /// not optimised, so that it begins at half a million there.
    static let loads: [Double] = {
        #if DEBUG
        let first = 12
        #else
        let first = 0
        #endif
        return (first...27).map { 0.01 * Double.power(1.4, $0) }
    }()

    /// Entries of a run at so many millions per second. A trickle is looks in vain for the most part: fewer do there.
    static func enough(_ millions: Double) -> Int { rounds(min(40_000, max(4000, Int(millions * 80_000)))) }

    @Test("up to eight million entries per second none waits, in bursts of any length", arguments: [1, 4, 32, 64])
    func noCliff(burst: Int) {
        for load in Self.loads where load < 8 {
            // 0.3 s where trials are made (`Headroom`), so that what they cost is in the percentiles.
            let entries = load < 2.5 ? Self.enough(load) : rounds(Int(load * 300_000))
            let (auto, least) = (
                Self.run(.auto, millions: load, burst: burst, entries: entries),
                Self.run(.latency, millions: load, burst: burst, entries: entries)
            )
            #expect(auto.p50 <= least.p50 * 1.01 && auto.p99 <= least.p99 * 1.01, "\(load) million per second")
        }
    }

    @Test("the wait grows smoothly with the load, and is never long", arguments: [1, 4, 32, 64])
    func smooth(burst: Int) {
        // The rest of a round trip, in which the wait is.
        let rest = 0.6
        func wait(_ load: Double) -> Double {
            Self.run(.auto, millions: load, burst: burst, entries: Self.enough(load)).p50
        }
        var before = wait(Self.loads[0] * 0.8)
        for load in Self.loads where load < 20 {
            let p50 = wait(load)
            #expect((p50 + rest) / (before + rest) < 1.5, "\(load) million per second: \(before), then \(p50) us")
            #expect(p50 < 2 + Double(burst) / load, "\(load) million per second")
            before = p50
        }
    }

    @Test("at the highest rates whole bursts are taken, with either goal", arguments: [Pacing.auto, .throughput])
    func wholeBursts(pacing: Pacing) {
        // As many everywhere: at such rates 5000 are over before it has settled.
        let entries = 40_000
        for burst in [1, 4, 32, 64] {
            #expect(Self.run(pacing, millions: 40, burst: burst, entries: entries).batch > 56)
        }
        #expect(Self.run(.throughput, millions: 6, burst: 32, entries: entries).batch > 56)
        #expect(Self.run(.latency, millions: 40, burst: 1, entries: entries).batch < 8)
    }

    @Test("a driver that waits for all that it has sent is waited for ever more rarely")
    func closedLoop() {
        var lag = LagState(size: 1024, hold: 256, mayWait: true, pacing: .auto, clock: Self.clock)
        var (now, waited) = (UInt64(1_000_000), 0)
        // It sends 64 as soon as it has back what it sent, within a microsecond.
        for _ in 0..<10_000 {
            var left = 64
            while left > 0 {
                now += 200
                if lag.isWaiting(now) { continue }
                let n = left - lag.leave
                if n < lag.least || n <= 0 {
                    lag.note(0, now)
                    waited += 1
                    continue
                }
                lag.note(n, now)
                lag.judge(now)
                left -= n
            }
            now += 1000
        }
        #expect(waited < 500)
    }

    /// Windows of one millisecond, in each of which a driver sends `sends(isAlone)` entries; in how many of the last
    /// half it was left alone.
    static func windows(_ count: Int, _ sends: (Bool) -> Int) -> Int {
        var headroom = Headroom(window: 2_000_000, least: 3000)
        var (now, isAlone, alone) = (UInt64(10_000_000), false, 0)
        _ = headroom.note(0, now)
        for window in 0..<count {
            let entries = sends(isAlone)
            for part in 0..<100 {
                now += 20_000
                isAlone = headroom.note(entries * (part + 1) / 100 - entries * part / 100, now)
            }
            if window >= count / 2 && isAlone { alone += 1 }
        }
        return alone
    }

    @Test("a driver that sends more when it is left alone is; one that is paced, or sends little, is not")
    func headroom() {
        var noise = RepeatableRandom(state: 7)
        #expect(Self.windows(20_000) { $0 ? 14_000 : 13_000 } > 9500)
        #expect(Self.windows(20_000) { ($0 ? 14_000 : 13_000) + Int.random(in: -200...200, using: &noise) } > 9000)
        #expect(Self.windows(20_000) { _ in 10_000 } < 50)
        #expect(Self.windows(20_000) { _ in 10_000 + Int.random(in: -100...100, using: &noise) } < 100)
        #expect(Self.windows(20_000) { $0 ? 2900 : 2500 } == 0)
        // One that stands still for most of a window now and then, as in a virtual machine.
        var turn = 0
        let stalled = Self.windows(20_000) { isAlone in
            turn += 1
            return turn % 20 == 0 ? 2000 : isAlone ? 14_000 : 13_000
        }
        #expect(stalled > 9000)
        // One that changes its mind.
        var window = 0
        let alone = Self.windows(20_000) { isAlone in
            window += 1
            return window > 5000 ? 10_000 : isAlone ? 14_000 : 13_000
        }
        #expect(alone < 50)
    }

    @Test("a thread that looks seldom waits by the clock: its second look takes what is there")
    func byTheClock() {
        var lag = LagState(size: 1024, pacing: .auto, clock: Self.clock)
        var now = UInt64(1_000_000)
        for _ in 0..<20 {
            now += 2000
            lag.note(40, now)
            lag.judge(now)
        }
        #expect(lag.leave > 0 && lag.least == 64)
        lag.note(0, now)
        #expect(lag.isWaiting(now + 1))
        now += 200_000
        #expect(!lag.isWaiting(now))
        lag.note(0, now)
        #expect(!lag.isWaiting(now) && lag.leave == 0 && lag.least == 1)
    }

    @Test("completions are held back from a busy driver alone, and told when nothing comes for two microseconds")
    func holding() {
        var lag = LagState(size: 1024, hold: 256, mayWait: true, pacing: .auto, clock: Self.clock)
        var now = UInt64(1_000_000)
        #expect(!lag.mayHold(1))
        for _ in 0..<10 {
            now += 2000
            lag.note(8, now)
            lag.judge(now)
        }
        #expect(lag.mayHold(255) && !lag.mayHold(256))
        #expect(!lag.mustTell(now + 3999) && lag.mustTell(now + 4000))
        for _ in 0..<10 {
            now += 2_000_000
            lag.note(8, now)
            lag.judge(now)
        }
        #expect(!lag.mayHold(1))
        // A ring in `latency` never has any.
        var other = LagState(size: 1024, hold: 256, mayWait: true, pacing: .latency, clock: Self.clock)
        for _ in 0..<10 {
            now += 100
            other.note(64, now)
        }
        #expect(!other.mayHold(1) && other.leave == 0 && other.least == 1)
    }
}

/// Numbers that are the same in each run.
struct RepeatableRandom: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return (state ^ state >> 33) &* 0xff51_afd7_ed55_8ccd
    }
}

extension Double {
    static func power(_ base: Double, _ n: Int) -> Double { (0..<n).reduce(1) { product, _ in product * base } }
}
