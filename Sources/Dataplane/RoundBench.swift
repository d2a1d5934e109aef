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
        /// Frames that each busy driver adds before a round, 1…64.
        public var burst = 64
        /// Poll threads; each has one busy queue pair of each port (two ports in `crossconnect` and `switch`, else one).
        public var threads = 1
        /// Further queue pairs, on ports of their own, whose drivers do nothing.
        public var idlePairs = 0
        public var busyloop = BusyloopBudget.poll

        public init() {}
    }

    private let shape: Shape
    private let core: EngineCore
    private let functions: Functions
    private var ports: [BenchPort] = []
    private let event: Int32

    /// Starts every ring; idle pairs have come to rest when it returns.
    public init(_ shape: Shape) throws(EngineError) {
        self.shape = shape
        let twoPorts = shape.mode == .crossconnect || shape.mode == .switch
        let each = PairTable.pairsPerPort
        let pairs = [Int](repeating: shape.threads, count: twoPorts ? 2 : 1)
            + (0..<(shape.idlePairs + each - 1) / each).map { min(each, shape.idlePairs - $0 * each) }
        let options = pairs.enumerated().map { i, count in
            var port = PortOptions(.vhostUser(path: "\(i)", isClient: false))
            port.queuePairs = count
            return port
        }
        core = try EngineCore(
            EngineOptions(ports: options, mode: shape.mode, busyloop: shape.busyloop), cpus: [Int](repeating: -1, count: shape.threads))
        functions = Functions(core)
        event = CPlat_eventfd(0)
        if event < 0 { throw EngineError("eventfd: \(String(cString: strerror(errno)))") }
        for thread in core.threads {
            thread.state.pointee.clock = TickClock.standing
            if case .generate(let size) = shape.mode { thread.state.pointee.template = Frames.template(size: size) }
            thread.state.pointee.burst.wantsData = functions.wantsData(shape.mode)
        }
        for (i, port) in options.enumerated() { try start(i, port, isBusy: i < (twoPorts ? 2 : 1)) }
        // Busy rings are taken a whole burst at a time, and the newest entries left alone: a burst more than is taken keeps
        // every round the same.
        for port in ports where port.isBusy { port.drive(shape, sends: !core.generates) }
        rest()
    }

    deinit {
        for (i, port) in ports.enumerated() {
            port.deallocate()
            core.removePairs(port: i, port.count)
        }
        core.table.pairs.deallocate()
        functions.deallocate()
        close(event)
    }

    private func start(_ index: Int, _ options: PortOptions, isBusy: Bool) throws(EngineError) {
        core.addPairs(port: index, options, defectFD: event)
        let port = try BenchPort(index, options.queuePairs, shape, isBusy: isBusy, event: event)
        ports.append(port)
        for k in 0..<options.queuePairs {
            let p = core.table[index, k].unsafelyUnwrapped
            let thread = core.threads[Int(p.pointee.owner)]
            for isReceive in [true, false] {
                var state = QueueState()
                state.queue = DeviceQueue(isReceive ? port.pairs[k].receive.deviceSetup(map: port.map) : port.pairs[k].transmit.deviceSetup(map: port.map))
                state.isEnabled = true
                (state.kickFD, state.callFD) = (event, event)
                thread.startRing(p, isReceive: isReceive, state, watchesKick: shape.busyloop != .poll && !isReceive)
            }
        }
        for thread in core.threads { thread.state.pointee.activePairs[index] = UInt16(options.queuePairs) }
    }

    /// Lets the clock run until idle pairs are where they are after a while, then has it stand.
    private func rest() {
        let end = CPlat_monotonic_ns() &+ 10_000_000_000
        for thread in core.threads { thread.state.pointee.clock = TickClock(ticksPerMicrosecond: 1) }
        while CPlat_monotonic_ns() < end {
            step()
            let polled = core.threads.reduce(0) { $0 + $1.state.pointee.polledCount }
            if polled <= shape.threads * 2 + PollLoop.fewPairs { break }
        }
        for thread in core.threads { thread.state.pointee.clock = TickClock.standing }
    }

    /// Each busy driver takes what it was sent and adds a burst, then each thread runs a round.
    public func step() {
        for port in ports where port.isBusy { port.drive(shape, sends: !core.generates) }
        for thread in core.threads { functions.round(thread, core.mode) }
    }

    /// Packets that the threads have dealt with so far: taken from drivers, in `generate` delivered to them.
    public var packets: UInt64 {
        var sum: UInt64 = 0
        for (i, port) in ports.enumerated() where port.isBusy {
            for k in 0..<port.count {
                let counters = core.table[i, k].unsafelyUnwrapped.pointee.counters
                sum &+= core.generates ? counters.txPackets : counters.rxPackets
            }
        }
        return sum
    }

    /// What is wrong with what the drivers have received, or with a ring; nil if nothing is.
    public var complaint: String? {
        for (i, port) in ports.enumerated() {
            if port.wrong > 0 { return "port \(i): \(port.wrong) frames of a wrong length or destination" }
            for k in 0..<port.count {
                let p = core.table[i, k].unsafelyUnwrapped
                for q in [p.pointee.transmit.queue, p.pointee.receive.queue] where q.defect.kind != .none { return "port \(i), pair \(k): \(q.defect)" }
            }
        }
        let receives = shape.mode != .drop
        let received = ports.reduce(0) { $0 + $1.received }
        return receives == (received > 0) ? nil : "\(received) packets were received in \(shape.mode)"
    }

    /// Where counting tools begin and end: callgrind zeroes its counters at the one and writes them out at the other.
    @inline(never)
    public func beginCounting() { CPlat_fence_full() }
    @inline(never)
    public func endCounting() { CPlat_fence_acquire() }
}

extension TickClock {
    /// A clock on which no time passes: what depends on time stays as it is.
    fileprivate static var standing: TickClock { TickClock(ticksPerMicrosecond: 1 << 40) }
}

/// A port's drivers, with rings and buffers in memory of their own.
private final class BenchPort {
    let isBusy: Bool
    let count: Int
    let pairs: UnsafeMutablePointer<DriverPair>
    let map: MemoryMap
    private let memory: HostMemory
    private let regions: UnsafeMutablePointer<MappedRegion>
    private let frame: [UInt8]
    private(set) var received = 0
    private(set) var wrong = 0

    init(_ index: Int, _ count: Int, _ shape: RoundBench.Shape, isBusy: Bool, event: Int32) throws(EngineError) {
        self.isBusy = isBusy
        self.count = count
        // Frames go from 02:…:01 to 02:…:02, those of the second port back.
        var frame = Frames.udp(size: shape.size)
        if index == 1 { (frame[5], frame[11]) = (frame[11], frame[5]) }
        self.frame = frame
        let ringSize: UInt32 = isBusy ? 1024 : 16
        let room = isBusy ? max(2048, shape.size) : 64
        let each = DriverPair.bytes(size: ringSize, isPacked: shape.isPacked, frameRoom: room)
        do { memory = try HostMemory(bytes: each * count) } catch { throw EngineError("\(error)") }
        regions = .allocate(capacity: 1)
        let address = UInt64(UInt(bitPattern: memory.base))
        regions.initialize(to: MappedRegion(guestAddress: address, size: UInt64(memory.size), userAddress: address, host: memory.base))
        map = MemoryMap(regions: regions, count: 1)
        var features: Features = [.version1, .mrgRxbuf, .indirectDesc, .eventIdx]
        if shape.isPacked { features.insert(.ringPacked) }
        if shape.isInOrder { features.insert(.inOrder) }
        pairs = .allocate(capacity: count)
        for k in 0..<count {
            (pairs + k).initialize(to: DriverPair(
                size: ringSize, isPacked: shape.isPacked, features: features, frameRoom: room, memory: memory.base + k * each,
                transmitKick: event, receiveKick: event))
            pairs[k].suppressCalls()
        }
    }

    func deallocate() {
        for k in 0..<count { pairs[k].deallocate() }
        pairs.deallocate()
        regions.deallocate()
    }

    func drive(_ shape: RoundBench.Shape, sends: Bool) {
        for k in 0..<count {
            let n = pairs[k].receiveBurst()
            for i in 0..<n where !isExpected(pairs[k].incoming[i], shape) { wrong += 1 }
            received += n
            pairs[k].giveBack()
            if !sends { continue }
            let m = pairs[k].prepare(shape.burst)
            for i in 0..<m {
                frame.withUnsafeBytes { pairs[k].outgoing[i].base.copyMemory(from: $0.baseAddress.unsafelyUnwrapped, byteCount: $0.count) }
                pairs[k].outgoing[i].length = UInt32(frame.count)
            }
            pairs[k].send(m)
        }
    }

    /// Every mode but `generate` brings frames to the address that this port's own come from.
    private func isExpected(_ buffer: DriverBuffer, _ shape: RoundBench.Shape) -> Bool {
        if buffer.length != UInt32(shape.size) { return false }
        if case .generate = shape.mode { return true }
        return buffer.base.load(fromByteOffset: 5, as: UInt8.self) == frame[11] && buffer.base.load(fromByteOffset: 11, as: UInt8.self) == frame[5]
    }
}

/// A packet function of each mode, as `Engine` starts its threads with them.
private struct Functions {
    private let drop = UnsafeMutablePointer<DropFunction>.allocate(capacity: 1)
    private let crossconnect = UnsafeMutablePointer<CrossconnectFunction>.allocate(capacity: 1)
    private let macswap = UnsafeMutablePointer<MACSwapFunction>.allocate(capacity: 1)
    private let `switch` = UnsafeMutablePointer<SwitchFunction>.allocate(capacity: 1)

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

    func wantsData(_ mode: ForwardingMode) -> Bool {
        switch mode {
        case .drop, .generate: return DropFunction.wantsData
        case .crossconnect: return CrossconnectFunction.wantsData
        case .macswap: return MACSwapFunction.wantsData
        case .switch: return SwitchFunction.wantsData
        }
    }

    func round(_ thread: PollThread, _ mode: ForwardingMode) {
        switch mode {
        case .drop, .generate: PollLoop.round(thread.state, drop, thread.mailbox)
        case .crossconnect: PollLoop.round(thread.state, crossconnect, thread.mailbox)
        case .macswap: PollLoop.round(thread.state, macswap, thread.mailbox)
        case .switch: PollLoop.round(thread.state, `switch`, thread.mailbox)
        }
    }
}
