import CPlatform
import Control
import Foundation
import Glibc
import Logging
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// What a front-end must not do to the engine beyond its own port's rings.
@Suite(.serialized) struct HostileFrontEndTests {
    private final class Lines: Sendable {
        let all = Locked<[String]>([])
        func count(_ text: String) -> Int { all.withLock { $0.filter { $0.contains(text) }.count } }
    }

    private struct Recorder: LogHandler {
        let lines: Lines
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.info
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { nil }
            set {}
        }
        func log(event: LogEvent) { lines.all.withLock { $0.append("\(event.message)") } }
    }

    /// An engine with one port, and a front-end on it whose control queue is ring 2.
    private final class Bench {
        let lines = Lines()
        let engine: Engine
        let frontEnd: FrontEnd
        let memory: HostMemory
        let (kick, call, err) = (
            OwnedDescriptor(CPlat_eventfd(0)), OwnedDescriptor(CPlat_eventfd(0)), OwnedDescriptor(CPlat_eventfd(0))
        )

        init(_ name: String) throws {
            let path = "/tmp/ringway-\(name)-\(getpid()).sock"
            let lines = lines
            engine = try Engine(
                EngineOptions(ports: [PortOptions(.vhostUser(path: path, isClient: false))], mode: .drop),
                logger: Logger(label: "test") { _ in Recorder(lines: lines) })
            try engine.start()
            frontEnd = FrontEnd(try MessageSocket.connect(to: path), timeout: 2000)
            try frontEnd.negotiate([.version1, .ctrlVQ, .ctrlRX], [.mq])
            memory = try HostMemory(bytes: 65536, wantsHugePages: false)
            try frontEnd.share(memory.region, memory.descriptor)
        }

        deinit { engine.stop() }

        /// A chain of a command of `length` bytes at `address`, and its answer.
        func startControl(_ address: UInt64, _ length: UInt32) throws {
            func descriptor(_ i: Int, _ address: UInt64, _ length: UInt32, _ flags: UInt64) {
                (memory.base + 16 * i).storeBytes(of: address, as: UInt64.self)
                (memory.base + 16 * i + 8).storeBytes(of: UInt64(length) | flags << 32 | 1 << 48, as: UInt64.self)
            }
            descriptor(0, address, length, 1)
            descriptor(1, memory.region.guestAddress + 8192, 1, 2)
            (memory.base + 1024 + 2).storeBytes(of: 1, as: UInt16.self)
            let at = memory.region.userAddress
            try frontEnd.tell(.setVringErr, Payload(2), [err])
            try frontEnd.startRing(
                2, size: 16, base: 0, descriptors: at, driverArea: at + 1024, deviceArea: at + 2048, kick: kick,
                call: call)
        }
    }

    @Test("a control queue whose call is full does not make the control thread wait")
    func fullCall() throws {
        let b = try Bench("full-call")
        _ = fcntl(b.call.fd, F_SETFL, 0)
        var most = UInt64.max - 1
        write(b.call.fd, &most, 8)
        // Lets a thread go that waits all the same, so that the test ends.
        defer { read(b.call.fd, &most, 8) }
        // CTRL_RX, promiscuous on.
        b.memory.base.storeBytes(of: 0x01_00_00, toByteOffset: 4096, as: UInt32.self)
        try b.startControl(b.memory.region.guestAddress + 4096, 3)
        #expect(try b.frontEnd.ask64(.getQueueNum) == 1)
        #expect((b.memory.base + 2048 + 2).load(as: UInt16.self) == 1, "the command was carried out")
    }

    @Test("a control queue that had to stop is told of once, by log and err, however often it is kicked")
    func defectOnce() throws {
        let b = try Bench("control-defect")
        try b.startControl(1, 3)
        for _ in 0..<100 {
            var one: UInt64 = 1
            write(b.kick.fd, &one, 8)
            usleep(500)
        }
        _ = try b.frontEnd.ask64(.getQueueNum)
        #expect(b.lines.count("control queue: descriptor 0 points outside guest memory") == 1)
        var count: UInt64 = 0
        #expect(read(b.err.fd, &count, 8) == 8 && count == 1)
    }

    @Test("messages that are refused, however many, do not flood the log")
    func logFlood() throws {
        let b = try Bench("log-flood")
        try b.frontEnd.setProtocolFeatures([.mq, .replyAck])
        let start = CPlat_monotonic_ns()
        for _ in 0..<rounds(20_000) {
            #expect(throws: VhostUserError.self) { try b.frontEnd.tell(.setVringNum, Payload(index: 0, 0)) }
        }
        let seconds = Int((CPlat_monotonic_ns() - start) / 1_000_000_000) + 2
        #expect(b.lines.count("SET_VRING_NUM: ring 0: size 0") <= 100 * seconds)
        // What comes later is told again, and that there was more.
        sleep(1)
        #expect(throws: VhostUserError.self) { try b.frontEnd.tell(.setVringNum, Payload(index: 77, 16)) }
        #expect(b.lines.count("more lines were left out") > 0 && b.lines.count("SET_VRING_NUM: ring 77") == 1)
    }

    @Test("a call whose counter is full and whose O_NONBLOCK changes all the time does not make the poll thread wait")
    func changingCall() throws {
        let lab = try Lab(ports: 2, .macswap, busyloop: .poll)
        let memory = try HostMemory(bytes: 65536, wantsHugePages: false)
        let (kick, call) = (OwnedDescriptor(CPlat_eventfd(0)), OwnedDescriptor(CPlat_eventfd(0)))
        final class Flag: @unchecked Sendable { let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1) }
        let stop = Flag()
        stop.word.initialize(to: 0)
        var most = UInt64.max - 1
        write(call.fd, &most, 8)
        let fd = call.fd
        let toggling = try NamedThread("toggle") {
            while CPlat_load32_relaxed(stop.word) == 0 {
                _ = fcntl(fd, F_SETFL, 0)
                _ = fcntl(fd, F_SETFL, O_NONBLOCK)
            }
        }
        defer {
            CPlat_store32_relaxed(stop.word, 1)
            toggling.join()
            stop.word.deallocate()
            // Lets a thread go that waits all the same, so that the test ends.
            read(fd, &most, 8)
        }
        let frontEnd = FrontEnd(try MessageSocket.connect(to: lab.paths[0]))
        try frontEnd.negotiate([.version1], [.mq])
        try frontEnd.share(memory.region, memory.descriptor)
        for i in 0..<16 {
            (memory.base + 16 * i).storeBytes(of: memory.region.guestAddress + 8192, as: UInt64.self)
            (memory.base + 16 * i + 8).storeBytes(of: 76, as: UInt64.self)
            (memory.base + 1024 + 4 + 2 * i).storeBytes(of: UInt16(i), as: UInt16.self)
        }
        let at = memory.region.userAddress
        try frontEnd.startRing(
            1, size: 16, base: 0, descriptors: at, driverArea: at + 1024, deviceArea: at + 2048, kick: kick, call: call)
        let other = try lab.driver(1)
        // Each packet is used, and called for, before the next is shown.
        for n in 1...UInt16(rounds(20_000)) {
            CPlat_store16_release(memory.base + 1026, n)
            let end = CPlat_monotonic_ns() + 1_000_000_000
            while CPlat_load16_acquire(memory.base + 2050) != n && CPlat_monotonic_ns() < end { sched_yield() }
            try #require(CPlat_load16_acquire(memory.base + 2050) == n, "packet \(n)")
        }
        #expect(other.send(Frame.numbered(3)))
        #expect(other.receive(3).count == 3)
    }

    private final class Token {}
    private struct Holder: PacketFunction {
        let token: Token
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            .drop
        }
    }

    @Test("an embedder's packet function goes with its engine")
    func functionGoes() throws {
        weak var token: Token?
        do {
            let made = Token()
            token = made
            nonisolated(unsafe) let held = made
            let lab = try Lab(ports: 1) { _ in Holder(token: held) }
            #expect(token != nil)
            lab.engine.stop()
        }
        #expect(token == nil)
    }

    /// AddressSanitizer (tools/test checked) keeps what was freed for a while, so resident pages tell nothing there.
    @Test("generate's frames go with their engine", .enabled(if: getenv("ASAN_OPTIONS") == nil))
    func templateGoes() throws {
        func once() throws { withExtendedLifetime(try Lab(ports: 1, .generate(size: 9216))) {} }
        func residentPages() throws -> Int {
            try #require(Int(String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ")[1]))
        }
        try once()
        let before = try residentPages()
        // 590 kB each.
        for _ in 0..<60 { try once() }
        #expect(try residentPages() < before + 4096)
    }
}
