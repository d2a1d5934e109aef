import CPlatform
import Control
import Glibc
import Logging
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// Drivers that wait for a call of what is done already. Each message is sent by hand.
@Suite(.serialized) struct CallTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var isPacked, hasEventIdx, isReceive: Bool
        var busyloop: BusyloopBudget
        var testDescription: String {
            """
            \(isPacked ? "packed" : "split")\(hasEventIdx ? " EVENT_IDX" : "") \(isReceive ? "receive" : "transmit") \
            \(busyloop)
            """
        }
    }
    static let cases = [false, true].flatMap { packed in
        [false, true].flatMap { event in
            [false, true].flatMap { receive in
                [BusyloopBudget.sleep, .poll].map {
                    Case(isPacked: packed, hasEventIdx: event, isReceive: receive, busyloop: $0)
                }
            }
        }
    }

    @Test(
        "whatever was used before a call descriptor, a restart or a change of memory, the driver is called",
        arguments: cases)
    func called(_ c: Case) throws {
        let lab = try Lab(ports: 1, c.isReceive ? .generate(size: 64) : .drop, busyloop: c.busyloop)
        let d = try WaitingDriver(lab.paths[0], c)
        try d.start()
        for round in 0..<rounds(20, least: 4) {
            // Armed, and then only a call makes this driver look.
            let hasMissed = d.queue.armCalls()
            #expect(!hasMissed)
            d.offer(1 + round % 3)
            #expect(eventually { d.queue.hasUsed }, "round \(round)")
            // QEMU's order: packets came between KICK and CALL.
            try d.newCall()
            #expect(d.isCalled, "round \(round): a new call descriptor")
            // Again, though nothing is new.
            try d.newCall()
            #expect(d.isCalled, "round \(round): another one")
            try d.stop()
            try d.start(withCall: true)
            #expect(d.isCalled, "round \(round): a restart")
            d.reclaimAll()
            // The event is left where it was: the first decision after the start calls.
            d.offer(1)
            #expect(d.isCalled, "round \(round): the first decision")
            #expect(eventually { d.queue.hasUsed })
            // The same memory again at another mapping.
            try d.shareAgain()
            #expect(d.isCalled, "round \(round): a change of memory")
            d.reclaimAll()
            try d.stop()
            try d.start()
        }
    }

    @Test("a stopped queue is counted with its cause, and named in the log however many lines came before")
    func stoppedQueues() throws {
        let lines = Lines()
        let folder = "/tmp/ringway-stops-\(getpid())-\(CPlat_monotonic_ns())"
        mkdir(folder, 0o700)
        let path = folder + "/0.sock"
        let options = EngineOptions(
            ports: [PortOptions(.vhostUser(path: path, isClient: false))], mode: .drop, busyloop: .sleep)
        let engine = try Engine(options, logger: Logger(label: "test") { _ in lines })
        try engine.start()
        defer {
            engine.stop()
            rmdir(folder)
        }
        let c = Case(isPacked: false, hasEventIdx: false, isReceive: false, busyloop: .sleep)
        let d = try WaitingDriver(path, c)
        try d.start(withCall: true)
        for _ in 0..<300 {
            #expect(throws: VhostUserError.self) { try d.frontEnd.tell(.setVringNum, Payload(index: 77, 16)) }
        }
        // The available index is further ahead than the ring is long.
        d.queue.driverArea.storeBytes(of: 1000, toByteOffset: 2, as: UInt16.self)
        d.kickNow()
        #expect(eventually { engine.snapshot()[0].stoppedQueues.map(\.cause) == ["availableIndexJump"] })
        #expect(engine.snapshot()[0].stoppedQueues.map(\.count) == [1])
        #expect(eventually { lines.all.contains { $0.contains("queue 1 stopped: available index") } })
    }
}

/// Takes what an engine logs.
private final class Lines: LogHandler, @unchecked Sendable {
    private let lines = Locked<[String]>([])
    var metadata = Logger.Metadata()
    var logLevel = Logger.Level.info
    var all: [String] { lines.withLock { $0 } }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }
    func log(
        level: Logger.Level, message: Logger.Message, metadata: Logger.Metadata?, source: String, file: String,
        function: String, line: UInt
    ) {
        lines.withLock { $0.append("\(message)") }
    }
}

/// One ring whose driver looks at it only when the test says so.
final class WaitingDriver {
    var queue: DriverQueue
    let frontEnd: FrontEnd
    private let c: CallTests.Case
    private let memory: HostMemory
    private var (kick, call) = (OwnedDescriptor(CPlat_eventfd(0)), OwnedDescriptor(CPlat_eventfd(0)))
    private var base: UInt32
    private let buffers: UnsafeMutablePointer<DriverBuffer>
    private var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
    private var ring: Int { c.isReceive ? 0 : 1 }

    init(_ path: String, _ c: CallTests.Case) throws {
        self.c = c
        frontEnd = FrontEnd(try MessageSocket.connect(to: path))
        var features: Features = c.isPacked ? [.version1, .ringPacked] : [.version1]
        if c.hasEventIdx { features.insert(.eventIdx) }
        try frontEnd.negotiate(features, [.replyAck])
        let bytes = (DriverQueue.bytes(size: 64, isPacked: c.isPacked) + 4095) & ~4095
        memory = try HostMemory(bytes: bytes + 64 * 4096)
        try frontEnd.share(memory.region, memory.descriptor)
        queue = DriverQueue(
            size: 64, isPacked: c.isPacked, memory: memory.base, features: frontEnd.features.intersection(features))
        base = RingPosition().base(isPacked: c.isPacked)
        buffers = .allocate(capacity: 64)
        for i in 0..<64 {
            buffers[i] = DriverBuffer(
                base: memory.base + bytes + 4096 * i, length: c.isReceive ? 4096 : 76, token: UInt32(i))
        }
    }

    deinit { buffers.deallocate() }

    /// NUM BASE ADDR KICK, and CALL if it is wanted.
    func start(withCall: Bool = false) throws {
        func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) }
        try frontEnd.tell(.setVringNum, Payload(index: ring, queue.size))
        try frontEnd.tell(.setVringBase, Payload(index: ring, base))
        var payload = Payload(index: ring, 0)
        for p in [queue.descriptors, queue.deviceArea, queue.driverArea] { payload.add64(address(p)) }
        payload.add64(0)
        try frontEnd.tell(.setVringAddr, payload)
        kick = OwnedDescriptor(CPlat_eventfd(0))
        try frontEnd.tell(.setVringKick, Payload(UInt64(ring)), [kick])
        if withCall { try newCall() }
        try frontEnd.enableRing(ring, true)
    }

    func stop() throws { base = try frontEnd.stopRing(ring) }

    func newCall() throws {
        call = OwnedDescriptor(CPlat_eventfd(0))
        try frontEnd.tell(.setVringCall, Payload(UInt64(ring)), [call])
    }

    func shareAgain() throws { try frontEnd.share(memory.region, memory.descriptor) }

    func offer(_ count: Int) {
        _ = c.isReceive ? queue.addReceive(buffers, count) : queue.addTransmit(buffers, count)
        queue.publish()
        _ = queue.needsKick()
        kickNow()
    }

    func kickNow() {
        var one: UInt64 = 1
        _ = write(kick.fd, &one, 8)
    }

    func reclaimAll() { while queue.reclaim(into: &completions, max: 64) > 0 {} }

    /// A call came, or comes within three seconds; it is taken.
    var isCalled: Bool {
        var p = pollfd(fd: call.fd, events: Int16(POLLIN), revents: 0)
        guard poll(&p, 1, 3000) == 1 else { return false }
        var n: UInt64 = 0
        return read(call.fd, &n, 8) == 8
    }
}
