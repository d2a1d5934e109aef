import CPlatform
import Foundation
import Ringway
import RingwayLab
import Testing

/// The histograms that a live engine keeps.
@Suite(.serialized) struct QueueTimesTests {
    /// A frame of 60 bytes with a stamp.
    private static func stamped(_ n: Int) -> [UInt8] {
        var frame = Frame.ethernet(
            to: Frame.mac(2), from: Frame.mac(1), [UInt8](repeating: UInt8(truncatingIfNeeded: n), count: 46))
        frame.withUnsafeMutableBytes { Stamp.write(CPlat_cycles(), to: $0.baseAddress!) }
        return frame
    }

    private func counts(_ lab: Lab) -> [QueueTime: UInt64] {
        Dictionary(lab.engine.queueTimes().map { ($0.what, $0.counts.count) }, uniquingKeysWith: +)
    }

    @Test(
        "the ring sojourn counts each stamped frame once, and no other",
        arguments: [(ForwardingMode.drop, false), (.macswap, true), (.macswap, false)])
    func sojourn(_ mode: ForwardingMode, _ isPacked: Bool) throws {
        let lab = try Lab(ports: 1, mode, busyloop: .poll)
        let driver = try lab.driver(0) { $0.isPacked = isPacked }
        let before = CPlat_monotonic_ns()
        for n in 0..<40 {
            // Each by themselves: a burst is looked at where its first frame is stamped.
            #expect(driver.send((0..<5).map { QueueTimesTests.stamped(5 * n + $0) }) && driver.settle())
            #expect(driver.send([Frame.numbered(1)[0]]) && driver.settle())
            if mode == .macswap { _ = driver.receive(6) }
        }
        #expect(driver.settle())
        #expect(counts(lab)[.ringSojourn] == 200)
        let times = try #require(lab.engine.queueTimes().first { $0.what == .ringSojourn })
        #expect(times.queue == 1 && times.latencies.count == 200)
        #expect(times.latencies.percentile(50) > 0 && times.latencies.maximum <= CPlat_monotonic_ns() - before)
        // Nothing slept, and an embedded driver asks for no calls: only the first decision after the start is one.
        #expect(counts(lab)[.wakeToPickup] == nil && counts(lab)[.receiveCallDelay] ?? 0 <= 1)
    }

    @Test("stamps from the future or the distant past are not counted")
    func falseStamps() throws {
        let lab = try Lab(ports: 1, .drop)
        let driver = try lab.driver(0)
        for stamp in [UInt64.max, CPlat_cycles() + 1 << 45, 1] {
            var frame = QueueTimesTests.stamped(1)
            frame.withUnsafeMutableBytes { Stamp.write(stamp, to: $0.baseAddress!) }
            #expect(driver.send([frame]))
        }
        #expect(driver.settle())
        // A machine that has just started may count the last one.
        #expect(counts(lab)[.ringSojourn] ?? 0 <= 1)
    }

    @Test("a kick that wakes the thread is timed to the pickup, once for each wake-up")
    func pickup() throws {
        let lab = try Lab(ports: 1, .macswap, busyloop: .sleep)
        let driver = try lab.driver(0)
        let kicks = 20
        for n in 0..<kicks {
            usleep(3000)
            #expect(driver.send([QueueTimesTests.stamped(n)]))
            #expect(driver.receive(1).count == 1)
        }
        let all = lab.engine.queueTimes()
        for what in [QueueTime.wakeToPickup, .kickToPickup, .ringSojourn] {
            #expect(all.first { $0.what == what }?.counts.count == UInt64(kicks), "\(what)")
        }
        // From the kick it takes longer than from when the kick was seen.
        let fromWake = try #require(all.first { $0.what == .wakeToPickup }).latencies.percentile(50)
        let fromKick = try #require(all.first { $0.what == .kickToPickup }).latencies.percentile(50)
        #expect(fromKick > fromWake, "\(fromKick) ns from the kick, \(fromWake) ns from the wake-up")
    }

    @Test(
        "calls: each has its delay, batched or not; without batching each is a system call", arguments: [true, false])
    func calls(_ batches: Bool) throws {
        let lab = try Lab(ports: 1, .macswap, busyloop: .poll, batchesCalls: batches)
        let driver = try lab.driver(0) { $0.wantsCalls = true }
        let before = lab.engine.threadSnapshots()[0].systemCalls
        for n in 0..<50 {
            #expect(driver.send([QueueTimesTests.stamped(n)]))
            #expect(driver.receive(1).count == 1)
        }
        #expect(driver.settle())
        let delays = lab.engine.queueTimes().filter { $0.what == .receiveCallDelay || $0.what == .transmitCallDelay }
        let calls = delays.reduce(0) { $0 + $1.counts.count }
        // One for the frame that came back, one for the buffer that was used; none where this driver, which polls, has
        // seen it and armed again before the device asked whether to call.
        #expect(calls > 0 && calls <= 100, "\(calls) calls")
        #expect(delays.allSatisfy { $0.latencies.maximum > 0 })
        let systemCalls = lab.engine.threadSnapshots()[0].systemCalls - before
        #expect(
            batches ? systemCalls < calls || calls <= 50 : systemCalls == calls,
            "\(systemCalls) system calls for \(calls) calls")
    }

    @Test(
        "an idle engine makes no system call and its thread is not woken, whatever it learned before",
        arguments: [BusyloopBudget.auto, .sleep, .microseconds(100)])
    func idle(_ budget: BusyloopBudget) throws {
        let lab = try Lab(ports: 1, .macswap, busyloop: budget)
        let driver = try lab.driver(0)
        // Back to back, so that `auto` polls; then silence.
        for n in 0..<1000 {
            #expect(driver.send([QueueTimesTests.stamped(n)]))
            #expect(driver.receive(1).count == 1)
        }
        // It comes to rest, on a machine that may be busy with other tests.
        var before = lab.engine.threadSnapshots()[0]
        for _ in 0..<50 {
            usleep(100_000)
            let now = lab.engine.threadSnapshots()[0]
            if now == before { break }
            before = now
        }
        usleep(1_000_000)
        // Not even nanoseconds: a thread that is woken uses some.
        #expect(lab.engine.threadSnapshots()[0] == before)
        // It is awake at once when there is work.
        #expect(driver.send([QueueTimesTests.stamped(0)]) && driver.receive(1).count == 1)
    }
}
