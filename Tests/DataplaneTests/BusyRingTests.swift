import CPlatform
import Glibc
import Ringway
import Testing

/// What the pacing of busy rings must not do to drivers that wait.
@Suite(.serialized) struct BusyRingTests {
    @Test("completions that were held back when a ring stops are called for", arguments: [false, true])
    func stops(isPacked: Bool) throws {
        let lab = try Lab(ports: 1, .drop, busyloop: .poll)
        let driver = try SleepingDriver(lab.paths[0], isPacked: isPacked)
        for round in 0..<rounds(60, least: 20) {
            try driver.start()
            driver.fill()
            // A little later each time, so that it stops at any point of the burst.
            let begin = CPlat_monotonic_ns()
            while CPlat_monotonic_ns() < begin + UInt64(round) * 5000 { driver.serveCall() }
            try driver.stop()
            let end = CPlat_monotonic_ns() + 3_000_000
            while CPlat_monotonic_ns() < end { driver.serveCall() }
            if driver.queue.hasUsed {
                Issue.record(
                    "round \(round): \(driver.queue.outstanding) chains are outstanding, some were used without a call")
                return
            }
        }
    }

    @Test(
        """
        drivers that wait for all they have sent get it back soon, whatever the size of their rings and what they \
        have outstanding
        """,
        arguments: [(false, false), (false, true), (true, false), (true, true)])
    func windows(isPacked: Bool, isInOrder: Bool) throws {
        let lab = try Lab(ports: 1, .macswap)
        let sizes: [UInt32] = isPacked ? [2, 3, 5, 16, 24, 33, 100, 256] : [2, 4, 8, 16, 32, 64, 256]
        for size in sizes {
            let driver = try lab.driver(0) { ($0.ringSize, $0.isPacked, $0.isInOrder) = (size, isPacked, isInOrder) }
            for window in [1, 2, 3, 7, 15, 16, 17, 31, 47, 48, 49, 64, 100, 255, 256] where window <= Int(size) {
                let frames = Frame.numbered(window)
                for round in 0..<rounds(40) {
                    let begin = CPlat_monotonic_ns()
                    #expect(driver.send(frames))
                    let isBack = driver.settle()
                    let microseconds = (CPlat_monotonic_ns() - begin) / 1000
                    if !isBack {
                        Issue.record(
                            "ring of \(size), \(window) outstanding, round \(round): not back after \(microseconds) µs")
                        return
                    }
                    _ = driver.receive(window)
                }
            }
            try driver.stop()
        }
    }

    @Test(
        "a driver that waits for all it has sent is waited for ever more rarely, however many whole bursts that is",
        arguments: [128, 256])
    func stopAndWait(window: Int) throws {
        let notes = Notes()
        let lab = try Lab(ports: 1) { _ in SizesFunction(notes: notes) }
        let driver = try SleepingDriver(lab.paths[0], isPacked: false, size: 256)
        try driver.start()
        for _ in 0..<rounds(1000, least: 200) {
            driver.fill(window)
            let end = CPlat_monotonic_ns() + 2_000_000_000
            while driver.queue.outstanding > 0 && CPlat_monotonic_ns() < end { driver.reclaim() }
            if driver.queue.outstanding > 0 {
                Issue.record("\(driver.queue.outstanding) chains do not come back")
                return
            }
        }
        // What was left alone is taken after a wait.
        let (all, left) = (notes[Notes.bursts], notes[Notes.taken])
        #expect(left < 50, "\(left) of \(all) bursts were the rest that had been waited with")
    }

    @Test("a thread sleeps again when the budget was poll for a while")
    func budgets() throws {
        let lab = try Lab(ports: 1, .macswap, pairs: [4])
        let driver = try lab.driver(0) { $0.queuePairs = 4 }
        lab.engine.setBusyloop(.poll)
        usleep(30_000)
        lab.engine.setBusyloop(.sleep)
        // For a while it takes no CPU time and makes no system call.
        func isAtRest() -> Bool {
            let before = lab.engine.threadSnapshots()
            usleep(100_000)
            return lab.engine.threadSnapshots() == before
        }
        let end = CPlat_monotonic_ns() + 20_000_000_000
        while !isAtRest() { try #require(CPlat_monotonic_ns() < end, "it goes on") }
        for pair in 0..<4 {
            #expect(driver.send(Frame.numbered(3), pair: pair))
            #expect(driver.receive(3, pair: pair).count == 3)
        }
    }

    @Test("another budget for all leaves ports alone that poll by their own options")
    func ownBudget() throws {
        let lab = try Lab(ports: 1, .macswap, portBusyloop: .poll)
        let driver = try lab.driver(0)
        for _ in 0..<2 {
            #expect(driver.send(Frame.numbered(3)))
            #expect(driver.receive(3).count == 3)
            lab.engine.setBusyloop(.sleep)
            usleep(5_000)
        }
    }

    @Test("what a driver set through its control queue outlives a change of memory")
    func memoryChange() throws {
        let lab = try Lab(ports: 2, .crossconnect, pairs: [2, 2])
        let (one, other) = (
            try lab.driver(0) { ($0.queuePairs, $0.hasControl) = (2, true) }, try lab.driver(1) { $0.queuePairs = 2 }
        )
        #expect(one.command(4, 0, [2, 0]) == 0)
        // Rings stop for a moment: the same memory at another mapping.
        try one.frontEnd.share(one.memory.region, one.memory.descriptor)
        for pair in 0..<2 {
            #expect(other.send(Frame.numbered(3), pair: pair))
            #expect(one.receive(3, pair: pair, within: 500).count == 3, "pair \(pair)")
        }
    }
}

/// One transmit ring whose driver reclaims only when it is called, as a guest with interrupts does.
final class SleepingDriver {
    var queue: DriverQueue
    private let frontEnd: FrontEnd
    private let memory: HostMemory
    private let (kick, call) = (OwnedDescriptor(CPlat_eventfd(0)), OwnedDescriptor(CPlat_eventfd(0)))
    private var base: UInt32
    private let buffers: UnsafeMutablePointer<DriverBuffer>
    private var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)

    init(_ path: String, isPacked: Bool, size: UInt32 = 8192) throws {
        frontEnd = FrontEnd(try MessageSocket.connect(to: path))
        let features: Features = isPacked ? [.version1, .eventIdx, .ringPacked, .inOrder] : [.version1, .eventIdx]
        try frontEnd.negotiate(features, [])
        let ring = (DriverQueue.bytes(size: size, isPacked: isPacked) + 4095) & ~4095
        memory = try HostMemory(bytes: ring + 4096)
        try frontEnd.share(memory.region, memory.descriptor)
        queue = DriverQueue(
            size: size, isPacked: isPacked, memory: memory.base, features: frontEnd.features.intersection(features))
        base = RingPosition().base(isPacked: isPacked)
        buffers = .allocate(capacity: Int(size))
        for i in 0..<Int(size) { buffers[i] = DriverBuffer(base: memory.base + ring, length: 76, token: UInt32(i)) }
        _ = fcntl(call.fd, F_SETFL, O_NONBLOCK)
        _ = queue.armCalls()
    }

    deinit { buffers.deallocate() }

    func start() throws {
        func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) }
        try frontEnd.startRing(
            1, size: queue.size, base: base, descriptors: address(queue.descriptors),
            driverArea: address(queue.driverArea),
            deviceArea: address(queue.deviceArea), kick: kick, call: call)
    }

    /// Sends so many chains at once, or as many as there is room for.
    func fill(_ count: Int = Int.max) {
        _ = queue.addTransmit(buffers, min(count, Int(queue.free)))
        queue.publish()
        var one: UInt64 = 1
        if queue.needsKick() { _ = write(kick.fd, &one, 8) }
    }

    func reclaim() { while queue.reclaim(into: &completions, max: 64) > 0 {} }

    func serveCall() {
        var n: UInt64 = 0
        if read(call.fd, &n, 8) != 8 { return }
        repeat {
            reclaim()
        } while queue.armCalls() && !queue.isStopped
    }

    /// GET_VRING_BASE, serving calls until it is answered.
    func stop() throws {
        try frontEnd.socket.send(Message(.getVringBase, payload: Payload(index: 1, 0)))
        while true {
            serveCall()
            guard let answer = try frontEnd.socket.receive() else { continue }
            base = answer.payload[4..<8].reversed().reduce(0) { $0 << 8 | UInt32($1) }
            return
        }
    }
}

/// Words that a packet function and its test share.
private struct Notes: @unchecked Sendable {
    private let words = UnsafeMutablePointer<UInt32>.allocate(capacity: 2)
    static let (bursts, taken) = (0, 1)
    init() { words.initialize(repeating: 0, count: 2) }

    subscript(_ i: Int) -> UInt32 {
        get { CPlat_load32_acquire(words + i) }
        nonmutating set { CPlat_store32_release(words + i, newValue) }
    }
}

/// Counts bursts, and those that are no whole ones.
private struct SizesFunction: PacketFunction {
    let notes: Notes

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        notes[Notes.bursts] += 1
        if packets.count < 64 { notes[Notes.taken] += 1 }
        return .drop
    }
}
