import CPlatform
import Glibc
import Memory
import Virtio

/// The rounds of poll threads, run by hand on the calling thread, with drivers in this process: the very code of an
/// engine's threads, but in an order that repeats, so that instructions and memory accesses can be counted. Packets are
/// forwarded with `Engine`, not with this.
public final class RoundBench {
    public struct Shape: Sendable {
        public var mode = ForwardingMode.drop
        public var isPacked = false
        public var isInOrder = false
        /// Bytes of a frame.
        public var size = 64
        /// Descriptors of the busy pairs' rings.
        public var ringSize: UInt32 = 1024
        /// Frames that each busy driver adds before a round, 1…64.
        public var burst = 64
        /// Poll threads; each has one busy queue pair of each port (two ports in `crossconnect` and `switch`, else
        /// one).
        public var threads = 1
        /// Further queue pairs, on ports of their own, whose drivers do nothing.
        public var idlePairs = 0
        public var busyloop = BusyloopBudget.poll
        /// The second port's pairs belong to the next thread each, so that every packet crosses from one to the other.
        public var crossesThreads = false

        public init() {}
    }

    private let shape: Shape
    private let core: EngineCore
    private var ports: [BenchPort] = []
    /// Kicks of busy drivers, calls, kicks of idle ones: an event on the last would wake a thousand pairs.
    private let events: [Int32]
    /// One for each poll thread, as with real ports none is written by two.
    private let callRings: [CallRing]
    /// What the drivers write, beside `events[0]` and `events[2]`.
    private let kickRings: [CallRing]
    /// One for each poll thread. Different ones may be stepped by different threads at a time.
    public let lanes: [Lane]

    /// Starts every ring; idle pairs have come to rest when it returns.
    public init(_ shape: Shape) throws(EngineError) {
        self.shape = shape
        let busy = shape.mode == .crossconnect || shape.mode == .switch ? 2 : 1
        let each = PairTable.pairsPerPort
        let pairs =
            [Int](repeating: shape.threads, count: busy)
            + stride(from: 0, to: shape.idlePairs, by: each).map { min(each, shape.idlePairs - $0) }
        let options = pairs.enumerated().map { i, count in
            var port = PortOptions(.vhostUser(path: "\(i)", isClient: false))
            port.queuePairs = count
            return port
        }
        core = try EngineCore(
            EngineOptions(ports: options, mode: shape.mode, busyloop: shape.busyloop),
            cpus: [Int](repeating: -1, count: shape.threads))
        events = (0..<3).map { _ in CPlat_eventfd(0) }
        if events.contains(-1) { throw EngineError("eventfd: \(String(cString: strerror(errno)))") }
        var rings: [CallRing] = []
        for _ in core.threads { rings.append(try CallRing(events[1])) }
        callRings = rings
        kickRings = [try CallRing(events[0]), try CallRing(events[2])]
        lanes = core.threads.map { [core] in Lane($0, core, shape) }
        for (i, port) in options.enumerated() { try start(i, port, isBusy: i < busy) }
        try rest()
    }

    deinit {
        for lane in lanes { lane.deallocate() }
        for (i, port) in ports.enumerated() {
            port.deallocate()
            core.removePairs(port: i, port.pairs.count)
        }
        core.table.pairs.deallocate()
        for fd in events { close(fd) }
    }

    private func start(_ index: Int, _ options: PortOptions, isBusy: Bool) throws(EngineError) {
        let kick = events[isBusy ? 0 : 2]
        core.addPairs(port: index, options, defectFD: events[1])
        let port = try BenchPort(options.queuePairs, shape, isBusy: isBusy, kick: kickRings[isBusy ? 0 : 1])
        ports.append(port)
        for k in 0..<options.queuePairs {
            let p = core.table[index, k].unsafelyUnwrapped
            if shape.crossesThreads && index == 1 {
                CPlat_store32_relaxed(PairState.owner(p), UInt32((k + 1) % shape.threads))
            }
            let thread = core.owner(of: p)
            for isReceive in [true, false] {
                var state = QueueState()
                let pair = port.pairs[k]
                let ring = DeviceQueue(
                    isReceive
                        ? pair.pointee.receive.deviceSetup(map: port.map)
                        : pair.pointee.transmit.deviceSetup(map: port.map))
                state.isEnabled = true
                (state.kickFD, state.calls) = (kick, callRings[thread.index].calls)
                thread.startRing(
                    p, isReceive: isReceive, ring, state, watchesKick: shape.busyloop != .poll && !isReceive)
            }
            if isBusy { lanes[k].add(BenchEnd(port.pairs[k], p, Frames.udp(size: shape.size), isBackward: index == 1)) }
        }
        for thread in core.threads { thread.state.pointee.activePairs[index] = UInt16(options.queuePairs) }
    }

    /// Lets the clock run until idle pairs are where they are after a while, then has it stand.
    private func rest() throws(EngineError) {
        let end = CPlat_monotonic_ns() &+ 10_000_000_000
        for lane in lanes { lane.state.pointee.clock = TickClock(ticksPerMicrosecond: 1) }
        let busy = lanes.reduce(0) { $0 + $1.count }
        while lanes.reduce(0, { $0 + $1.state.pointee.polledCount }) > busy {
            step()
            if CPlat_monotonic_ns() > end { throw EngineError("idle pairs do not come to rest") }
        }
        for lane in lanes {
            lane.state.pointee.clock = TickClock.standing
            lane.saturate()
            // Rings at the highest rate are taken a whole burst at a time, and the newest entries left alone: a burst
            // more than is taken keeps every round the same.
            lane.drive()
        }
    }

    /// Steps each lane once.
    public func step() {
        for lane in lanes { lane.step() }
    }

    /// Packets that the threads have dealt with so far: taken from drivers, in `generate` delivered to them.
    public var packets: UInt64 { lanes.reduce(0) { $0 &+ $1.packets } }

    /// What is wrong with what the drivers have received, or with a ring; nil if nothing is.
    public var complaint: String? {
        for (i, port) in ports.enumerated() {
            for k in port.pairs.indices {
                let p = core.table[i, k].unsafelyUnwrapped
                for isReceive in [false, true] {
                    let defect = PollThread.queue(p, isReceive).pointee.end.defect(isReceive: isReceive)
                    if defect.kind != .none { return "port \(i), pair \(k): \(defect)" }
                }
            }
        }
        let (received, wrong) = lanes.reduce((0, 0)) { ($0.0 + $1.received.all, $0.1 + $1.received.wrong) }
        if wrong > 0 { return "\(wrong) frames of a wrong length or destination" }
        return (shape.mode != .drop) == (received > 0) ? nil : "\(received) packets were received in \(shape.mode)"
    }

    /// Where counting tools begin and end: callgrind zeroes its counters at the one and writes them out at the other.
    @inline(never)
    public func beginCounting() { CPlat_fence_full() }
    @inline(never)
    public func endCounting() { CPlat_fence_acquire() }

    /// For tools that see each store: word *k* is written before each round of lane *k* from now on, the one behind the
    /// last lane's after it.
    public func markRounds() -> UnsafeMutablePointer<UInt64> {
        let marks = UnsafeMutablePointer<UInt64>.allocateApart(capacity: lanes.count + 1)
        marks.initialize(repeating: 0, count: lanes.count + 1)
        for (k, lane) in lanes.enumerated() { lane.marks = (marks + k, marks + lanes.count) }
        return marks
    }

    /// A poll thread with its busy drivers.
    public final class Lane: @unchecked Sendable {
        let state: ThreadPointer
        private let mailbox: Mailbox
        private let mode: ForwardingMode
        private let burst: Int
        private let functions: Functions
        private let ends = UnsafeMutablePointer<BenchEnd>.allocateApart(capacity: 2)
        private(set) var count = 0
        fileprivate var marks: (before: UnsafeMutablePointer<UInt64>, after: UnsafeMutablePointer<UInt64>)?

        fileprivate init(_ thread: PollThread, _ core: EngineCore, _ shape: Shape) {
            (state, mailbox, mode, burst, functions) = (
                thread.state, thread.mailbox, shape.mode, shape.burst, Functions(core)
            )
            state.pointee.clock = TickClock.standing
            if case .generate(let size) = mode { state.pointee.template = Frames.template(size: size) }
            let function = functions.kind(mode)
            state.pointee.obey(judgesAgain: function.judgesAgain, wantsData: function.wantsData)
        }

        fileprivate func add(_ end: BenchEnd) {
            (ends + count).initialize(to: end)
            count += 1
        }

        fileprivate func deallocate() {
            for i in 0..<count { ends[i].frame.deallocate() }
            ends.deallocate()
            functions.deallocate()
        }

        private var generates: Bool { if case .generate = mode { return true } else { return false } }

        /// Each busy driver takes what it was sent and adds a burst, then the thread's loop goes round once.
        public func step() {
            drive()
            if let marks { CPlat_store64_relaxed(marks.before, 1) }
            functions.round(state, mailbox, mode)
            if let marks { CPlat_store64_relaxed(marks.after, 1) }
        }

        /// Drivers of whole bursts are taken for as fast as can be.
        fileprivate func saturate() {
            if burst < Burst.maximum / 2 { return }
            for i in 0..<count {
                ends[i].device.pointee.lag.saturate(CPlat_cycles())
                ends[i].device.pointee.receiveLag.saturate(CPlat_cycles())
            }
        }

        fileprivate func drive() {
            for i in 0..<count { (ends + i).pointee.drive(burst: generates ? 0 : burst, checksAddresses: !generates) }
        }

        /// As `RoundBench.packets`, of this lane's drivers.
        public var packets: UInt64 {
            (0..<count).reduce(0) { $0 &+ ends[$1].device.pointee.counters[generates ? .txPackets : .rxPackets] }
        }

        fileprivate var received: (all: Int, wrong: Int) {
            (0..<count).reduce((0, 0)) { ($0.0 + ends[$1].received, $0.1 + ends[$1].wrong) }
        }
    }
}

extension TickClock {
    /// A clock on which no time passes: what depends on time stays as it is.
    fileprivate static var standing: TickClock { TickClock(ticksPerMicrosecond: 1 << 40) }
}

/// A driver that sends one frame over and over, and what it has received.
private struct BenchEnd {
    private let pair: UnsafeMutablePointer<DriverPair>
    let device: PairPointer
    let frame: UnsafeMutableRawBufferPointer
    var received = 0
    var wrong = 0

    /// Frames go from 02:…:01 to 02:…:02, or back.
    init(_ pair: UnsafeMutablePointer<DriverPair>, _ device: PairPointer, _ bytes: [UInt8], isBackward: Bool) {
        (self.pair, self.device) = (pair, device)
        frame = .allocate(byteCount: bytes.count, alignment: CacheLines.pair)
        frame.copyBytes(from: bytes)
        if isBackward { (frame[5], frame[11]) = (frame[11], frame[5]) }
    }

    mutating func drive(burst: Int, checksAddresses: Bool) {
        let n = pair.pointee.receiveBurst()
        for i in 0..<n {
            // Every mode but `generate` brings frames to the address that this driver's own come from.
            let f = pair.pointee.incoming[i]
            let isExpected =
                f.length == UInt32(frame.count)
                && (!checksAddresses
                    || f.base.load(fromByteOffset: 5, as: UInt8.self) == frame[11]
                        && f.base.load(fromByteOffset: 11, as: UInt8.self) == frame[5])
            if !isExpected { wrong += 1 }
        }
        received += n
        pair.pointee.giveBack()
        let m = pair.pointee.prepare(burst)
        for i in 0..<m {
            let out = pair.pointee.outgoing + i
            out.pointee.base.copyMemory(from: frame.baseAddress.unsafelyUnwrapped, byteCount: frame.count)
            out.pointee.length = UInt32(frame.count)
        }
        if m > 0 { pair.pointee.send(m) }
    }
}

/// A port's drivers, with rings and buffers in memory of their own.
private final class BenchPort {
    let pairs: [UnsafeMutablePointer<DriverPair>]
    let map: MemoryMap
    private let memory: HostMemory
    private let regions: UnsafeMutablePointer<MappedRegion>

    init(_ count: Int, _ shape: RoundBench.Shape, isBusy: Bool, kick: CallRing) throws(EngineError) {
        let ringSize: UInt32 = isBusy ? shape.ringSize : 16
        let room = isBusy ? max(2048, shape.size) : 64
        // Busy pairs lie in pages of their own: what a processor prefetches beyond one's buffers is not another's
        // rings.
        let apart = isBusy ? 2 << 20 : 64
        let each =
            (DriverPair.bytes(size: ringSize, isPacked: shape.isPacked, frameRoom: room) + apart - 1) / apart * apart
        do { memory = try HostMemory(bytes: each * count) } catch { throw EngineError("\(error)") }
        regions = .allocate(capacity: 1)
        let address = UInt64(UInt(bitPattern: memory.base))
        regions.initialize(
            to: MappedRegion(guestAddress: address, size: UInt64(memory.size), userAddress: address, host: memory.base))
        map = MemoryMap(regions: regions, count: 1)
        var features: Features = [.version1, .mrgRxbuf, .indirectDesc, .eventIdx]
        if shape.isPacked { features.insert(.ringPacked) }
        if shape.isInOrder { features.insert(.inOrder) }
        pairs = (0..<count).map { [memory] k in
            let pair = UnsafeMutablePointer<DriverPair>.allocateApart(capacity: 1)
            pair.initialize(
                to: DriverPair(
                    size: ringSize, isPacked: shape.isPacked, features: features, frameRoom: room,
                    memory: memory.base + k * each,
                    transmitKick: kick, receiveKick: kick))
            pair.pointee.suppressCalls()
            return pair
        }
    }

    func deallocate() {
        for pair in pairs {
            pair.pointee.deallocate()
            pair.deallocate()
        }
        regions.deallocate()
    }
}

/// A packet function of each mode, as `Engine` starts its threads with them.
private struct Functions {
    private let drop = UnsafeMutablePointer<DropFunction>.allocateApart(capacity: 1)
    private let crossconnect = UnsafeMutablePointer<CrossconnectFunction>.allocateApart(capacity: 1)
    private let macswap = UnsafeMutablePointer<MACSwapFunction>.allocateApart(capacity: 1)
    private let `switch` = UnsafeMutablePointer<SwitchFunction>.allocateApart(capacity: 1)

    init(_ core: EngineCore) {
        drop.initialize(to: DropFunction())
        crossconnect.initialize(to: CrossconnectFunction())
        macswap.initialize(to: MACSwapFunction())
        if let table = core.addresses { `switch`.initialize(to: SwitchFunction(table: table)) }
    }

    func deallocate() {
        drop.deallocate()
        crossconnect.deallocate()
        macswap.deallocate()
        `switch`.deallocate()
    }

    func kind(_ mode: ForwardingMode) -> any PacketFunction.Type {
        switch mode {
        case .drop, .generate: return DropFunction.self
        case .crossconnect: return CrossconnectFunction.self
        case .macswap: return MACSwapFunction.self
        case .switch: return SwitchFunction.self
        }
    }

    func round(_ state: ThreadPointer, _ mailbox: Mailbox, _ mode: ForwardingMode) {
        switch mode {
        case .drop, .generate: PollLoop.round(state, drop, mailbox)
        case .crossconnect: PollLoop.round(state, crossconnect, mailbox)
        case .macswap: PollLoop.round(state, macswap, mailbox)
        case .switch: PollLoop.round(state, `switch`, mailbox)
        }
    }
}
