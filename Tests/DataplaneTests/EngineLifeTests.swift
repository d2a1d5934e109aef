import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

/// Engines that nobody stops, and what happens beside a reconnection.
@Suite struct EngineLifeTests {
    @Test(
        "an engine that is dropped without stop() stops: sockets go, connections end, nothing runs on",
        arguments: [ForwardingMode.switch, .macswap])
    func dropped(_ mode: ForwardingMode) throws {
        var template = Array("/tmp/ringway-life-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        defer { rmdir(folder) }
        let path = "\(folder)/0.sock"
        for _ in 0..<3 {
            var options = EngineOptions(ports: [PortOptions(.vhostUser(path: path, isClient: false))], mode: mode)
            options.unpinnedThreads = 2
            var engine: Engine? = try Engine(options, logger: Lab.logger)
            try engine?.start()
            let driver = try EmbeddedDriver(path: path)
            #expect(driver.send(Frame.numbered(100)))
            engine = nil
            #expect(access(path, F_OK) != 0, "its socket is there")
            // The front-end is told: a message has no answer any more.
            #expect(throws: (any Error).self) { _ = try driver.frontEnd.stopRing(1) }
        }
    }

    @Test("another budget for all, beside ports that come and go")
    func budgets() throws {
        let lab = try Lab(ports: 2, .macswap, pairs: [3, 3], unpinned: 3)
        let steady = try lab.driver(0) { $0.queuePairs = 3 }
        let flag = Flag()
        let other = Thread { [engine = lab.engine] in
            let all: [BusyloopBudget] = [.sleep, .microseconds(20), .auto, .poll]
            var n = 0
            while !flag.isSet {
                engine.setBusyloop(all[n % 4])
                n += 1
            }
        }
        for round in 0..<rounds(20, least: 5) {
            let guest = try lab.driver(1) { $0.queuePairs = 3 }
            for pair in 0..<3 {
                for d in [steady, guest] {
                    #expect(d.send(Frame.numbered(5, first: round), pair: pair))
                    #expect(d.receive(5, pair: pair).count == 5)
                }
            }
        }
        flag.set()
        other.join()
    }

    @Test(
        "few requests at a time, more completions than there is room for: no kick and no call is lost",
        arguments: [false, true])
    func fewRequests(isPacked: Bool) throws {
        let count = 24
        let lab = try Lab(ports: count, .drop, busyloop: .sleep, requests: 2)
        let drivers = try lab.paths.map { try SleepingDriver($0, isPacked: isPacked, size: 64) }
        for d in drivers { try d.start() }
        for round in 0..<rounds(300) {
            // All of them at once: each kicks, and waits for its call.
            for d in drivers { d.fill(1 + round % 3) }
            let end = CPlat_monotonic_ns() + 5_000_000_000
            while drivers.contains(where: { $0.queue.outstanding > 0 }) && CPlat_monotonic_ns() < end {
                for d in drivers { d.serveCall() }
            }
            let waiting = drivers.filter { $0.queue.outstanding > 0 }.count
            if waiting > 0 {
                Issue.record("round \(round): \(waiting) drivers wait for ever")
                return
            }
        }
    }

    @Test("kicks and calls are counted for each queue")
    func events() throws {
        let lab = try Lab(ports: 1, .macswap, pairs: [2], busyloop: .sleep)
        let d = try lab.driver(0) { ($0.queuePairs, $0.wantsCalls) = (2, true) }
        for n in 0..<20 {
            #expect(d.send(Frame.numbered(1, first: n), pair: 1))
            #expect(d.receive(1, pair: 1).count == 1)
        }
        lab.engine.stop()
        let queues = lab.engine.snapshot()[0].queues
        #expect(queues.map(\.queue) == [0, 1, 2, 3])
        #expect(queues[3].kicks > 0 && queues[2].calls > 0 && queues[3].calls > 0)
        #expect(queues[0].calls == 0 && queues[1].calls == 0 && queues[0].kicks == 0 && queues[2].kicks == 0)
    }
}

private final class Flag: @unchecked Sendable {
    private let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    init() { word.initialize(to: 0) }
    deinit { word.deallocate() }
    var isSet: Bool { CPlat_load32_acquire(word) != 0 }
    func set() { CPlat_store32_release(word, 1) }
}

/// A thread that can be waited for.
private final class Thread {
    private var thread = pthread_t()

    init(_ body: @escaping () -> Void) {
        final class Box {
            let body: () -> Void
            init(_ b: @escaping () -> Void) { body = b }
        }
        pthread_create(
            &thread, nil,
            {
                Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(Box(body)).toOpaque())
    }

    func join() { pthread_join(thread, nil) }
}
