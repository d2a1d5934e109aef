import CPlatform
import Glibc
import Memory
import Ringway
import Virtio

/// The rounds of poll threads, run by hand on the calling thread, with drivers in this process: the very code of an
/// engine's threads, but in an order that repeats, so that instructions and memory accesses can be counted. Packets are
/// forwarded with `Engine`, not with this.
package final class RoundBench {
    package struct Shape: Sendable {
        package var mode = ForwardingMode.drop
        /// An embedder's function, in place of `macswap`.
        package var function: BenchFunction?
        /// Options of the switch's two ports.
        package var switching: BenchSwitch?
        package var isPacked = false
        package var isInOrder = false
        /// Bytes of a frame.
        package var size = 64
        /// Descriptors of the busy pairs' rings.
        package var ringSize: UInt32 = 1024
        /// Frames that each busy driver adds before a round, 1…64.
        package var burst = 64
        /// Poll threads; each has one busy queue pair of each port (two ports in `crossconnect` and `switch`, else
        /// one).
        package var threads = 1
        /// Further queue pairs, on ports of their own, whose drivers do nothing.
        package var idlePairs = 0
        package var busyloop = BusyloopBudget.poll
        /// The second port's pairs belong to the next thread each, so that every packet crosses from one to the other.
        package var crossesThreads = false

        package init() {}
    }

    private let shape: Shape
    private let marks: OwnedMemory<UInt64>
    private let engine: SteppedEngine
    private var ports: [BenchPort] = []
    /// Kicks of busy drivers, calls, kicks of idle ones: an event on the last would wake a thousand pairs.
    private let events: [Int32]
    /// One for each poll thread, as with real ports none is written by two.
    private let callRings: [CallRing]
    /// What the drivers write, beside `events[0]` and `events[2]`.
    private let kickRings: [CallRing]
    /// One for each poll thread. Different ones may be stepped by different threads at a time.
    package let lanes: [Lane]

    /// Starts every ring; idle pairs have come to rest when it returns.
    package init(_ shape: Shape) throws(EngineError) {
        self.shape = shape
        let busy = shape.mode == .crossconnect || shape.mode == .switch ? 2 : 1
        let each = PortOptions.maximumQueuePairs
        let pairs =
            [Int](repeating: shape.threads, count: busy)
            + stride(from: 0, to: shape.idlePairs, by: each).map { min(each, shape.idlePairs - $0) }
        let options = pairs.enumerated().map { i, count in
            var port = PortOptions(.vhostUser(path: "\(i)", isClient: false))
            port.queuePairs = count
            if let switching = shape.switching, i < busy { port.switching = switching.port(i) }
            return port
        }
        events = (0..<3).map { _ in CPlat_eventfd(0) }
        if events.contains(-1) { throw EngineError("eventfd: \(SystemError.text(errno))") }
        engine = try SteppedEngine(
            EngineOptions(ports: options, mode: shape.mode, busyloop: shape.busyloop), threads: shape.threads,
            defectFD: events[1], function: shape.function?.stepped)
        var rings: [CallRing] = []
        for _ in engine.threads { rings.append(try CallRing(events[1])) }
        callRings = rings
        kickRings = [try CallRing(events[0]), try CallRing(events[2])]
        lanes = engine.threads.map { Lane($0, shape) }
        marks = OwnedMemory(count: shape.threads + 1, repeating: 0)
        for (i, port) in options.enumerated() { try start(i, port, isBusy: i < busy) }
        try rest()
    }

    deinit {
        for fd in events { close(fd) }
    }

    private func start(_ index: Int, _ options: PortOptions, isBusy: Bool) throws(EngineError) {
        let kick = events[isBusy ? 0 : 2]
        let port = try BenchPort(options.queuePairs, shape, isBusy: isBusy, kick: kickRings[isBusy ? 0 : 1])
        ports.append(port)
        for k in 0..<port.pairs.count {
            let driver = DriverPairs(port.pairs) + k
            let pair = engine.pair(index, k)
            if shape.crossesThreads && index == 1 { engine.give(pair, to: (k + 1) % shape.threads) }
            engine.start(
                pair, receive: driver.pair.receive.deviceSetup(map: port.map),
                transmit: driver.pair.transmit.deviceSetup(map: port.map), kick: kick, callRings: callRings)
            if isBusy {
                let growth = shape.function?.growth ?? 0
                let frame = shape.switching?.frame(shape.size, index) ?? Frames.udp(size: shape.size)
                lanes[k].add(BenchEnd(driver, pair, frame, isBackward: index == 1, growth: growth))
            }
        }
    }

    /// Lets the clock run until idle pairs are where they are after a while, then has it stand.
    private func rest() throws(EngineError) {
        let end = CPlat_monotonic_ns() &+ 10_000_000_000
        for lane in lanes { lane.thread.isClockRunning = true }
        let busy = lanes.reduce(0) { $0 + $1.count }
        while lanes.reduce(0, { $0 + $1.thread.polledCount }) > busy {
            step()
            if CPlat_monotonic_ns() > end { throw EngineError("idle pairs do not come to rest") }
        }
        for lane in lanes {
            lane.thread.isClockRunning = false
            lane.saturate()
            // Rings at the highest rate are taken a whole burst at a time, and the newest entries left alone: a burst
            // more than is taken keeps every round the same.
            lane.drive()
        }
    }

    /// Steps each lane once.
    package func step() {
        for lane in lanes { lane.step() }
    }

    /// Packets that the threads have dealt with so far: taken from drivers, in `generate` delivered to them.
    package var packets: UInt64 { lanes.reduce(0) { $0 &+ $1.packets } }

    /// What is wrong with what the drivers have received, or with a ring; nil if nothing is.
    package var complaint: String? {
        for (i, port) in ports.enumerated() {
            for k in 0..<port.pairs.count {
                if let defect = engine.pair(i, k).defect { return "port \(i), pair \(k): \(defect)" }
            }
        }
        let (received, wrong) = lanes.reduce((0, 0)) { ($0.0 + $1.received.all, $0.1 + $1.received.wrong) }
        if wrong > 0 { return "\(wrong) frames of a wrong length or destination" }
        return (shape.mode != .drop) == (received > 0) ? nil : "\(received) packets were received in \(shape.mode)"
    }

    /// Where counting tools begin and end: callgrind zeroes its counters at the one and writes them out at the other.
    @inline(never)
    package func beginCounting() { CPlat_fence_full() }
    @inline(never)
    package func endCounting() { CPlat_fence_acquire() }

    /// For tools that see each store: word *k* is written before each round of lane *k* from now on, the one behind the
    /// last lane's after it.
    ///
    /// - Returns: where the words lie.
    package func markRounds() -> [UInt] {
        for (k, lane) in lanes.enumerated() { lane.marks = (marks.start + k, marks.start + lanes.count) }
        engine.stopSeconds()
        return (0...lanes.count).map { UInt(bitPattern: marks.start + $0) }
    }

    /// A poll thread with its busy drivers.
    ///
    /// Unchecked: `ThreadsCommand` makes it on one thread, and one other steps it; its memory has no locks.
    package final class Lane: @unchecked Sendable {
        let thread: SteppedThread
        private let mode: ForwardingMode
        private let burst: Int
        private var ends = OwnedValues<BenchEnd>(capacity: 2)
        var count: Int { ends.count }
        fileprivate var marks: (before: UnsafeMutablePointer<UInt64>, after: UnsafeMutablePointer<UInt64>)?

        fileprivate init(_ thread: SteppedThread, _ shape: Shape) {
            (self.thread, mode, burst) = (thread, shape.mode, shape.burst)
            thread.isClockRunning = false
        }

        fileprivate func add(_ end: consuming BenchEnd) { ends.add(end) }

        private var generates: Bool { if case .generate = mode { return true } else { return false } }

        /// Each busy driver takes what it was sent and adds a burst, then the thread's loop goes round once.
        package func step() {
            drive()
            if let marks { CPlat_store64_relaxed(marks.before, 1) }
            thread.step()
            if let marks { CPlat_store64_relaxed(marks.after, 1) }
        }

        /// Drivers of whole bursts are taken for as fast as can be.
        fileprivate func saturate() {
            if burst < Burst.maximum / 2 { return }
            for i in 0..<count { ends[i].device.saturate() }
        }

        fileprivate func drive() {
            for i in 0..<count { ends[i].drive(burst: generates ? 0 : burst, checksAddresses: !generates) }
        }

        /// As `RoundBench.packets`, of this lane's drivers.
        package var packets: UInt64 {
            (0..<count).reduce(0) { $0 &+ (generates ? ends[$1].device.delivered : ends[$1].device.taken) }
        }

        fileprivate var received: (all: Int, wrong: Int) {
            (0..<count).reduce((0, 0)) { ($0.0 + ends[$1].received, $0.1 + ends[$1].wrong) }
        }
    }
}

/// A driver that sends one frame over and over, and what it has received.
private struct BenchEnd: ~Copyable {
    private let end: DriverPairs
    let device: SteppedPair
    private let frame: OwnedMemory<UInt8>
    private let length: Int
    private let growth: Int
    var received = 0
    var wrong = 0

    /// Frames go from 02:…:01 to 02:…:02, or back.
    /// What comes back is longer by `growth` bytes.
    init(
        _ end: DriverPairs, _ device: SteppedPair, _ bytes: [UInt8], isBackward: Bool, growth: Int
    ) {
        (self.end, self.device, self.growth) = (end, device, growth)
        length = bytes.count
        frame = OwnedMemory(bytes)
        if isBackward { (frame[5], frame[11]) = (frame[11], frame[5]) }
    }

    mutating func drive(burst: Int, checksAddresses: Bool) {
        let n = end.pair.receiveBurst()
        for i in 0..<n {
            // Every mode but `generate` brings frames to the address that this driver's own come from.
            let f = end.pair.incoming[i]
            let isExpected =
                f.length == UInt32(length + growth)
                && (!checksAddresses
                    || f.base.load(fromByteOffset: 5, as: UInt8.self) == frame[11]
                        && f.base.load(fromByteOffset: 11, as: UInt8.self) == frame[5])
            if !isExpected { wrong += 1 }
        }
        received += n
        end.pair.giveBack()
        let m = end.pair.prepare(burst)
        for i in 0..<m {
            CPlat_copy(end.pair.outgoing[i].base, frame.start, UInt64(length))
            end.pair.outgoing[i].length = UInt32(length)
        }
        if m > 0 { end.pair.send(m) }
    }
}

/// A port's drivers, with rings and buffers in memory of their own.
private final class BenchPort {
    private(set) var pairs: OwnedValues<DriverPair>
    let map: MemoryMap
    private let memory: HostMemory
    private let regions = OwnedMemory<MappedRegion>(count: 1)

    init(_ count: Int, _ shape: RoundBench.Shape, isBusy: Bool, kick: CallRing) throws(EngineError) {
        let ringSize: UInt32 = isBusy ? shape.ringSize : 16
        let room = isBusy ? max(2048, shape.size) : 64
        // Busy pairs lie in pages of their own: what a processor prefetches beyond one's buffers is not another's
        // rings.
        let apart = isBusy ? 2 << 20 : 64
        let each =
            (DriverPair.bytes(size: ringSize, isPacked: shape.isPacked, frameRoom: room) + apart - 1) / apart * apart
        do { memory = try HostMemory(bytes: each * count) } catch { throw EngineError("\(error)") }
        let address = UInt64(UInt(bitPattern: memory.base))
        regions[0] = MappedRegion(
            guestAddress: address, size: UInt64(memory.size), userAddress: address, host: memory.base)
        map = MemoryMap(regions: regions.start, count: 1)
        var features: Features = [.version1, .mrgRxbuf, .indirectDesc, .eventIdx]
        if shape.isPacked { features.insert(.ringPacked) }
        if shape.isInOrder { features.insert(.inOrder) }
        pairs = OwnedValues(capacity: count)
        for k in 0..<count {
            pairs.add(
                DriverPair(
                    size: ringSize, isPacked: shape.isPacked, features: features, frameRoom: room,
                    memory: memory, at: k * each, transmitKick: kick, receiveKick: kick))
            pairs[k].suppressCalls()
        }
    }
}
