import Ringway
import Testing

/// `AutoBudget` on made-up arrivals and a made-up clock of 1000 ticks a microsecond.
@Suite struct AutoBudgetTests {
    static let tick = UInt64(1000)

    /// What a thread with one queue would have spent.
    struct Run {
        /// Share of the time that it used the CPU.
        var cpu = 0.0
        /// Microseconds at 99 % of the packets.
        var p99 = 0.0
        var sleeps = 0
        var final: UInt64 = 0
    }

    /// A thread that sleeps and wakes up for 10 µs of CPU time and takes its packets 25 µs after a kick.
    /// `arrivals`: microseconds, rising. The first `cold` packets are not judged. `budget` nil: learned.
    static func run(_ arrivals: [Double], budget: Double?, cold: Int = 0) -> Run {
        var auto = AutoBudget(ticksPerMicrosecond: tick)
        var run = Run()
        var (last, cpu, start) = (0.0, 0.0, 0.0)
        var waits: [Double] = []
        var i = 0
        while i < arrivals.count {
            if i <= cold { (cpu, start, run.sleeps) = (0, last, 0) }
            let now = budget ?? Double(auto.ticks) / Double(tick)
            let gap = arrivals[i] - last
            let slept = gap > now
            let taken = slept ? arrivals[i] + 25 : arrivals[i]
            cpu += slept ? now + 10 : gap
            if slept { run.sleeps += 1 }
            let first = i
            while i < arrivals.count && arrivals[i] <= taken {
                if i >= cold { waits.append(taken - arrivals[i] + 0.3) }
                i += 1
            }
            if budget == nil {
                auto.arrived(after: UInt64((taken - last) * Double(tick)), packets: i - first, slept: slept)
            }
            last = taken
        }
        run.cpu = cpu / (last - start)
        run.p99 = waits.sorted()[waits.count * 99 / 100]
        run.final = auto.learned
        return run
    }

    static func steady(_ gap: Double, _ count: Int = 4000) -> [Double] { (1...count).map { Double($0) * gap } }

    /// `count` packets at once, then a pause.
    static func bursts(_ size: Int, every pause: Double, _ count: Int = 8000) -> [Double] {
        (0..<count).map { Double($0 / size + 1) * pause }
    }

    /// `size` packets `gap` apart, then a pause.
    static func onOff(_ size: Int, _ gap: Double, pause: Double, _ count: Int = 8000) -> [Double] {
        (0..<count).map { Double($0 / size + 1) * (pause + Double(size) * gap) + Double($0 % size) * gap }
    }

    /// Gaps from a generator that gives the same ones each time, exponentially distributed.
    static func random(_ mean: Double, _ count: Int = 40000) -> [Double] {
        var (state, time) = (UInt64(88_172_645_463_325_252), 0.0)
        return (0..<count).map { _ in
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            time -= mean * logarithm(Double(state >> 11) / Double(1 << 53))
            return time
        }
    }

    static let fixed: [Double] = [0, 5, 10, 20, 50, 100, 200, .infinity]

    /// The rules of docs/performance.md: p99 near that of `poll` or CPU near that of `0`; no fixed budget is better in
    /// both.
    static func judge(_ name: String, _ arrivals: [Double], isEither: Bool = true) {
        let cold = arrivals.count / 2
        let auto = run(arrivals, budget: nil, cold: cold)
        let (poll, zero) = (run(arrivals, budget: .infinity, cold: cold), run(arrivals, budget: 0, cold: cold))
        if isEither {
            #expect(
                auto.p99 <= poll.p99 * 1.2 || auto.cpu <= zero.cpu * 1.2,
                "\(name): p99 \(auto.p99) against \(poll.p99), CPU \(auto.cpu) against \(zero.cpu)")
        }
        for budget in fixed {
            let f = run(arrivals, budget: budget, cold: cold)
            #expect(
                !(f.p99 * 1.2 < auto.p99 && f.cpu * 1.2 < auto.cpu),
                "\(name): budget \(budget) has p99 \(f.p99) and CPU \(f.cpu), auto \(auto.p99) and \(auto.cpu)")
        }
    }

    @Test(
        "steady loads: like poll or like 0 at every one, and near the threshold too",
        arguments: [0.5, 1, 2, 5, 10, 20, 30, 36, 40, 45, 50, 55, 62, 70, 100, 200, 1000, 5000, 100_000])
    func steadyLoads(gap: Double) { AutoBudgetTests.judge("every \(gap) µs", AutoBudgetTests.steady(gap)) }

    @Test("random arrivals: the same", arguments: [1.0, 5, 20, 30, 40, 50, 60, 80, 100, 300, 1000])
    func randomLoads(mean: Double) { AutoBudgetTests.judge("random, \(mean) µs", AutoBudgetTests.random(mean)) }

    @Test(
        "packets in bursts are one arrival: what counts is the gap between bursts",
        arguments: [10.0, 30, 100, 150, 400, 1000])
    func burstLoads(pause: Double) {
        AutoBudgetTests.judge("32 every \(pause) µs", AutoBudgetTests.bursts(32, every: pause))
    }

    @Test("on and off: polls within a train of packets, sleeps between trains")
    func trains() {
        for (size, gap, pause) in [(100, 2.0, 10_000.0), (50, 5, 2000), (500, 10, 10_000), (20, 1, 500)] {
            let arrivals = AutoBudgetTests.onOff(size, gap, pause: pause)
            AutoBudgetTests.judge("\(size) packets \(gap) µs apart, then \(pause) µs", arrivals, isEither: false)
            let auto = AutoBudgetTests.run(arrivals, budget: nil, cold: 4000)
            // One or two a train.
            #expect(auto.sleeps <= 2 * 4000 / size, "\(auto.sleeps) sleeps in \(4000 / size) trains")
            #expect(auto.cpu < 0.6)
        }
    }

    @Test("the load changes: it follows within a few hundred packets")
    func ramp() {
        let loads: [(gap: Double, polls: Bool)] = [
            (1000, false), (200, false), (20, true), (2, true), (25, true), (150, false), (2000, false), (3, true),
        ]
        var (arrivals, time) = ([Double](), 0.0)
        for load in loads {
            for _ in 0..<1000 {
                time += load.gap
                arrivals.append(time)
            }
            let run = AutoBudgetTests.run(arrivals, budget: nil, cold: arrivals.count - 400)
            #expect(
                load.polls ? run.sleeps < 4 : run.sleeps > 390 || run.cpu < 0.2,
                "gaps of \(load.gap) µs: \(run.sleeps) sleeps in 400 arrivals, CPU \(run.cpu)")
            #expect((run.final > 0) == load.polls)
        }
    }

    @Test("a slow wake-up hides a fast load; listening finds it")
    func listening() {
        // Each wake-up finds 40 packets of a load of one each 3 µs, 120 µs after the last ones.
        var auto = AutoBudget(ticksPerMicrosecond: AutoBudgetTests.tick)
        for _ in 0..<1000 { auto.arrived(after: 10_000 * AutoBudgetTests.tick, packets: 1, slept: true) }
        #expect(auto.learned == 0)
        var arrivals = 0
        while auto.learned == 0 && arrivals < 50_000 {
            let meets = auto.ticks >= 3 * AutoBudgetTests.tick
            auto.arrived(after: (meets ? 3 : 120) * AutoBudgetTests.tick, packets: meets ? 1 : 40, slept: !meets)
            arrivals += 1
        }
        #expect(auto.learned >= 3 * AutoBudgetTests.tick && arrivals < 1000, "\(arrivals) arrivals")
    }
}

/// Natural logarithm, without Foundation.
private func logarithm(_ x: Double) -> Double {
    // x = m · 2^e with m in 0.7 … 1.4; then the series of 2 · artanh.
    var (m, e) = (x.significand, Double(x.exponent))
    if m > 1.4 {
        m /= 2
        e += 1
    }
    let y = (m - 1) / (m + 1)
    var (sum, power) = (0.0, y)
    for k in stride(from: 1.0, to: 40, by: 2) {
        sum += power / k
        power *= y * y
    }
    return 2 * sum + e * 0.6931471805599453
}
