import Foundation
import Operation
import Ringway
import RingwayLab
import Testing
import Virtio

/// What is said of queues that stand still, and of others.
@Suite struct WatchdogTests {
    /// Asks until a queue is in a condition; what is said of it then.
    @discardableResult
    private static func wait(
        _ client: ControlClient, _ port: String, _ queue: Int, for condition: QueueCondition,
        meanwhile work: () throws -> Void = {}
    ) throws -> QueueReport {
        let end = Date(timeIntervalSinceNow: 60)
        while true {
            let all = try client.call(Methods.Why.self, .init(port: port, queue: queue)).queues
            if let report = all.first, report.condition == condition { return report }
            if Date() > end { throw Unexpected("not \(condition) in a minute: \(all)") }
            try work()
            usleep(50_000)
        }
    }

    private struct Unexpected: Error {
        let text: String
        init(_ text: String) { self.text = text }
    }

    @Test("nobody there, nothing to do, packets that move, a port that is down")
    func usual() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        let path = lab.folder + "/a"
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(path),queues=2"))
        let report = try WatchdogTests.wait(client, path, 3, for: .notConnected)
        #expect(!report.standsStill && report.direction == "transmit" && report.advice.contains(path))
        let driver = try EmbeddedDriver(path: path)
        try WatchdogTests.wait(client, path, 0, for: .idle)
        try WatchdogTests.wait(client, path, 1, for: .idle)
        // The driver has one pair.
        try WatchdogTests.wait(client, path, 2, for: .notStarted)
        try WatchdogTests.wait(client, path, 1, for: .flows) { try driver.send(64) }
        _ = try client.call(Methods.SetPort.self, .init(name: path, up: false))
        #expect(try client.call(Methods.Why.self, .init(port: path)).queues.allSatisfy { $0.condition == .portDown })
        #expect(throws: RPC.Failure.self) { try client.call(Methods.Why.self, .init(port: "x")) }
        #expect(throws: RPC.Failure.self) { try client.call(Methods.Why.self, .init(port: path, queue: 4)) }
        #expect(throws: RPC.Failure.self) { try client.call(Methods.Why.self, .init(queue: 0)) }
        withExtendedLifetime(driver) {}
    }

    /// How a driver comes to stand still that gets more than it has buffers for.
    enum Silence: CaseIterable { case wantsNoCalls, wasCalled, givesNothingBack }

    @Test(
        "a receiver that wants no calls, one that was called, and one that gives no buffers back",
        arguments: Silence.allCases, [false, true])
    func receivers(_ silence: Silence, isPacked: Bool) throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        let path = lab.folder + "/a"
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(path)"))
        var options = DriverOptions()
        (options.isPacked, options.ringSize, options.wantsCalls) = (isPacked, 64, silence != .wantsNoCalls)
        let driver = try EmbeddedDriver(path: path, options)
        _ = try client.call(Methods.AddPort.self, .init(port: "null:source,emit=60"))
        if silence == .givesNothingBack {
            try WatchdogTests.wait(client, path, 0, for: .notLooking)
            #expect(driver.pairs[0].receiveBurst() == 64)
        }
        let expected: QueueCondition
        switch silence {
        case .wantsNoCalls: expected = .callSuppressed
        case .wasCalled: expected = .notLooking
        case .givesNothingBack: expected = .noBuffers
        }
        let report = try WatchdogTests.wait(client, path, 0, for: expected)
        #expect(report.standsStill && report.available == 0 && report.text.contains("its driver"))
        // Once it has taken what is there and given it back, packets move.
        driver.pairs[0].giveBack()
        try WatchdogTests.wait(client, path, 0, for: .flows) {
            _ = driver.pairs[0].receiveBurst()
            driver.pairs[0].giveBack()
        }
        withExtendedLifetime(driver) {}
    }

    @Test("a kick that got lost", arguments: [false, true])
    func kick(isPacked: Bool) throws {
        let lab = try ControlLab(.drop)
        let client = try ControlClient(lab.path)
        let path = lab.folder + "/a"
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(path),busyloop=0"))
        var options = DriverOptions()
        options.isPacked = isPacked
        let driver = try EmbeddedDriver(path: path, options)
        var last: UInt64 = 0
        let report = try WatchdogTests.wait(client, path, 1, for: .kickLost) {
            // As long as the thread was awake and has taken the last one.
            let taken = lab.op.perform { $0.snapshot()[0].rx.packets }
            if taken < last { return }
            last = taken + 1
            _ = driver.pairs[0].prepare(1)
            driver.pairs[0].outgoing[0].length = 64
            driver.pairs[0].show(1)
        }
        #expect(report.available == 1 && report.text.hasPrefix("1 entry waits"))
        // What it says helps.
        #expect(report.advice.contains("--busyloop poll"))
        _ = try client.call(Methods.SetPort.self, .init(name: path, busyloop: "poll"))
        try WatchdogTests.wait(client, path, 1, for: .idle)
        #expect(lab.op.perform { $0.snapshot()[0].rx.packets } == last)
        withExtendedLifetime(driver) {}
    }

    @Test("a ring that had to stop, with its error")
    func defect() throws {
        let lab = try ControlLab(.drop)
        let client = try ControlClient(lab.path)
        let path = lab.folder + "/a"
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(path),busyloop=poll"))
        let driver = try EmbeddedDriver(path: path)
        try WatchdogTests.wait(client, path, 1, for: .idle)
        (driver.pairs[0].transmit.driverArea + 2).storeBytes(of: 9999, as: UInt16.self)
        let report = try WatchdogTests.wait(client, path, 1, for: .defect)
        #expect(report.standsStill && report.text.contains("available index 9999"))
        withExtendedLifetime(driver) {}
    }

    @Test("what two looks say that no test can bring about at will")
    func looks() throws {
        let lab = try ControlLab(.drop)
        let client = try ControlClient(lab.path)
        let path = lab.folder + "/a"
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(path),queues=2"))
        let driver = try EmbeddedDriver(path: path)
        try WatchdogTests.wait(client, path, 1, for: .idle)
        let look = try #require(lab.op.perform { $0.look() })
        #expect(look.queues.map(\.queue) == [0, 1, 2, 3] && look.ports.map(\.name) == [path])
        #expect(look.queues[0].ring.available == 1024 && look.queues[1].ring.available == 0)
        func condition(
            _ queue: Int, _ change: (inout EngineLook, inout EngineLook) -> Void
        ) -> QueueCondition {
            var (before, now) = (look, look)
            now.nanoseconds += 1_000_000_000
            change(&before, &now)
            return Comparison(before, now).condition(now.queues[queue])
        }
        func both(_ a: inout EngineLook, _ b: inout EngineLook, _ change: (inout QueueLook) -> Void) {
            change(&a.queues[1])
            change(&b.queues[1])
        }
        #expect(condition(1) { _, _ in } == .idle)
        // What came a moment ago is none's fault; what lay there all the time is.
        #expect(condition(1) { $1.queues[1].ring.available = 5 } == .idle)
        #expect(condition(1) { both(&$0, &$1) { ($0.ring.available, $0.isPolled) = (5, true) } } == .threadOverloaded)
        #expect(condition(1) { both(&$0, &$1) { ($0.ring.available, $0.isPolled) = (5, false) } } == .kickLost)
        #expect(
            condition(1) {
                both(&$0, &$1) { ($0.ring.available, $0.isPolled) = (5, false) }
                $1.queues[1].kicks += 1
            } == .threadOverloaded)
        // Many packets move, and yet the ring stays full.
        let clock = TickClock.shared.ticksPerMicrosecond
        func full(busy: UInt64) -> QueueCondition {
            condition(1) {
                both(&$0, &$1) { $0.ring.available = 800 }
                $1.queues[1].packets += 1000
                $1.threads[0].busyCycles += busy * clock
            }
        }
        #expect(full(busy: 990_000) == .overloaded && full(busy: 500_000) == .flows)
        // The drop is counted at the sender's, where another thread could not deliver.
        #expect(
            condition(0) {
                both(&$0, &$1) { _ in }
                ($0.queues[0].ring.available, $1.queues[0].ring.available) = (0, 0)
                ($0.queues[0].packets, $1.queues[0].packets) = (9, 9)
                ($0.queues[0].ring.wish, $1.queues[0].ring.wish) = (.overdue, .overdue)
                $1.queues[2].ring.available = 7
                $1.queues[2].refused += 3
            } == .notLooking)
        #expect(condition(1) { $1.queues[1].isWanted = false } == .disabled)
        #expect(condition(1) { $1.queues[1].defect = RingDefect(.readMiss, index: 0, value: 1) } == .addressMiss)
        // A port that came in the place of another one begins anew.
        #expect(
            condition(1) {
                both(&$0, &$1) { ($0.ring.available, $0.isPolled) = (5, false) }
                $1.ports[0].serial += 1
            } == .idle)
        withExtendedLifetime(driver) {}
    }
}
