import CPlatform
import Foundation
import Glibc
import Logging
import Operation
import Ringway
import RingwayLab
import TestSupport
import Testing

/// Captures of an engine in this process, as `ringway capture` has them.
@Suite(.serialized) struct CaptureTests {
    /// A packet of a capture.
    private struct Seen: Equatable {
        var queue: Int
        var length: Int
        var cause: String?
        /// Its first bytes.
        var head: [UInt8] = []
    }

    /// All that has come.
    private static func take(_ reading: CaptureReading) -> [Seen] {
        var all: [Seen] = []
        _ = reading.take { packet in
            all.append(
                Seen(
                    queue: packet.queue, length: packet.length, cause: packet.cause,
                    head: Array(packet.bytes.prefix(20)))
            )
            return true
        }
        return all
    }

    /// Waits until so many have come.
    private static func take(_ n: Int, _ reading: CaptureReading) -> [Seen] {
        var all: [Seen] = []
        _ = eventually {
            all += take(reading)
            return all.count >= n
        }
        return all
    }

    private static func text(_ all: [Seen]) -> [String] {
        all.map { "\($0.queue) \($0.length)" + ($0.cause.map { " \($0)" } ?? "") }
    }

    /// A lab with guests; each has its driver.
    private static func start(
        _ mode: ForwardingMode = .switch, threads: Int = 1, ports: [String] = ["a", "b"],
        _ options: DriverOptions = DriverOptions()
    ) throws -> (lab: ControlLab, drivers: [EmbeddedDriver]) {
        let lab = try ControlLab(mode, threads: threads)
        let client = try ControlClient(lab.path)
        let drivers = try ports.map { port in
            let name = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/\(port)")).name
            return try EmbeddedDriver(path: name, options)
        }
        return (lab, drivers)
    }

    private static func read(_ lab: ControlLab, _ port: String, queue: Int? = nil, snap: Int = 64) throws
        -> CaptureReading
    {
        try CaptureReading(lab.path, .init(port: lab.folder + "/" + port, queue: queue, snap: snap))
    }

    private static func refusal(_ lab: ControlLab, _ port: String, queue: Int? = nil, snap: Int = 64) -> String {
        do {
            _ = try read(lab, port, queue: queue, snap: snap)
            return "none"
        } catch {
            return "\(error)"
        }
    }

    @Test("both directions of a port: queue, length, bytes; one queue alone", arguments: [false, true])
    func directions(isPacked: Bool) throws {
        var options = DriverOptions()
        options.isPacked = isPacked
        let (lab, drivers) = try CaptureTests.start(.switch, options)
        do {
            let reading = try CaptureTests.read(lab, "a", snap: 32)
            try drivers[0].send(64)
            _ = try drivers[1].receive()
            try drivers[1].send(900)
            _ = try drivers[0].receive()
            let seen = CaptureTests.take(2, reading)
            #expect(CaptureTests.text(seen) == ["1 64", "0 900"] && reading.lost == 0)
            let heads = seen.map { Array($0.head.prefix(7)) }
            #expect(heads == [[UInt8]](repeating: [255, 255, 255, 255, 255, 255, 2], count: 2))
        }
        // The connection has ended with it: another one can begin.
        let one = try eventually { try CaptureTests.read(lab, "b", queue: 0) }
        try drivers[1].send(70)
        _ = try drivers[0].receive()
        try drivers[0].send(80)
        _ = try drivers[1].receive()
        #expect(CaptureTests.text(CaptureTests.take(1, one)) == ["0 80"])
        // A driver that goes takes with it what it has sent.
        withExtendedLifetime(drivers) {}
    }

    @Test("what a packet was dropped for: by the function, for want of a receiver, for want of buffers")
    func causes() throws {
        let (dropping, some) = try CaptureTests.start(.drop, ports: ["a"])
        let reading = try CaptureTests.read(dropping, "a")
        try some[0].send(64)
        #expect(CaptureTests.text(CaptureTests.take(1, reading)) == ["1 64 by the packet function"])

        let (lab, drivers) = try CaptureTests.start(.crossconnect, ports: ["a"])
        _ = try ControlClient(lab.path).call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/b"))
        let other = try CaptureTests.read(lab, "a")
        try drivers[0].send(64)
        #expect(CaptureTests.text(CaptureTests.take(1, other)) == ["1 64 receiver not ready"])
        withExtendedLifetime((some, drivers)) {}
    }

    /// Packets that go back into their sender's ring for want of buffers come again, and are shown once.
    @Test("each packet is shown once, with what became of it, where a receiver is full", arguments: [1, 2])
    func full(threads: Int) throws {
        var options = DriverOptions()
        options.ringSize = 64
        options.queuePairs = threads
        let lab = try ControlLab(.crossconnect, threads: threads)
        let client = try ControlClient(lab.path)
        let a = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/a,queues=\(threads)"))
        let b = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/b"))
        let from = try EmbeddedDriver(path: a.name, options)
        options.queuePairs = 1
        let to = try EmbeddedDriver(path: b.name, options)
        // The last pair of a is on the last thread, and b's only pair on the first.
        let queue = 2 * threads - 1
        for (port, wanted) in [("a", queue), ("b", 0)] {
            let reading = try eventually { try CaptureTests.read(lab, port) }
            let before = try client.call(Methods.Stats.self, .init())
            for length in 100..<400 { CaptureTests.send(from, pair: threads - 1, length) }
            let all = CaptureTests.take(300, reading)
            // Two threads' are in the order of their times as far as they are read at once.
            let lengths = threads == 1 ? all.map(\.length) : all.map(\.length).sorted()
            #expect(lengths == Array(100..<400) && reading.lost == 0)
            let queues = Set(all.map(\.queue))
            #expect(queues == [wanted])
            let after = try client.call(Methods.Stats.self, .init())
            let delivered = all.filter { $0.cause == nil }.count
            let dropped = all.filter { $0.cause == "receiver full" }.count
            let sum = zip(before.ports, after.ports).reduce(0) {
                $0 + Int($1.1.drops["receiver full", default: 0] - $1.0.drops["receiver full", default: 0])
            }
            #expect(delivered + dropped == 300)
            // Another thread tells what became of what it was handed to nobody but its own port.
            if threads == 1 || port == "b" {
                #expect(delivered == Int(after.ports[1].tx.packets - before.ports[1].tx.packets) && dropped == sum)
            }
            while to.pairs[0].receiveBurst() > 0 { to.pairs[0].giveBack() }
        }
        withExtendedLifetime((from, to)) {}
    }

    private static func send(_ driver: EmbeddedDriver, pair: Int, _ length: Int) {
        while driver.pairs[pair].prepare(1) == 0 { sched_yield() }
        let frame = driver.pairs[pair].outgoing.start
        frame.pointee.length = UInt32(length)
        memset(frame.pointee.base - 12, 0, 12 + length)
        driver.pairs[pair].send(1)
    }

    @Test("a packet is shown as it came, and as it went: macswap, a VLAN tag; the switch may change meanwhile")
    func changes() throws {
        let (swapping, some) = try CaptureTests.start(.macswap, ports: ["a"])
        let both = try CaptureTests.read(swapping, "a")
        try some[0].send(64)
        _ = try some[0].receive()
        let broadcast = [UInt8](repeating: 255, count: 6)
        let own: [UInt8] = [2, 0, 0, 0, 0, 0]
        let swapped = CaptureTests.take(2, both).map { Array($0.head.prefix(12)) }
        #expect(swapped == [broadcast + own, own + broadcast])

        let (lab, drivers) = try CaptureTests.start(.switch, ports: ["a"])
        let client = try ControlClient(lab.path)
        let reading = try CaptureTests.read(lab, "a")
        try drivers[0].send(64)
        #expect(CaptureTests.text(CaptureTests.take(1, reading)) == ["1 64"])
        // Now it is the switch whose ports have options: the capture goes on, where it was in its ring.
        let trunk = try client.call(
            Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/t,trunk=7"))
        let access = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/v,access=7"))
        let (tagged, plain) = (try EmbeddedDriver(path: trunk.name), try EmbeddedDriver(path: access.name))
        try drivers[0].send(65)
        #expect(CaptureTests.take(1, reading).map(\.length) == [65])
        _ = try client.call(Methods.RemovePort.self, .init(name: lab.folder + "/a"))
        #expect(reading.end == "the port was removed")
        for (port, lengths) in [("v", ["1 100"]), ("t", ["0 104"])] {
            let one = try eventually { try CaptureTests.read(lab, port) }
            try plain.send(100)
            #expect(try tagged.receive() == 104)
            #expect(CaptureTests.text(CaptureTests.take(1, one)) == lengths)
        }
        withExtendedLifetime((some, drivers, tagged, plain)) {}
    }

    private struct Odd: PacketFunction {
        static var dropCauses: [String] { ["odd"] }
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                if packets[i].length % 2 == 1 { packets.drop(i, because: 0) } else { packets.decide(i, .port(0)) }
            }
            return nil
        }
    }

    @Test("an embedder's function, its own causes; what found no room is counted; garbage harms its writer")
    func embedded() throws {
        var template = Array("/tmp/ringway-capture-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        defer { rmdir(folder) }
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let options = EngineOptions(ports: [try PortSyntax.port("vhost-user:\(folder)/a")], mode: .drop)
        let engine = try Engine(options, logger: logger) { _ in Odd() }
        try engine.start()
        defer { engine.stop() }
        let driver = try EmbeddedDriver(path: folder + "/a")
        let capture = try engine.startCapture(port: folder + "/a", snap: 64, ringBytes: 1 << 16)
        let memory = capture.memory
        #expect(ftruncate(memory.descriptor.fd, 0) != 0)
        try driver.send(65)
        #expect(eventually { memory.written(0).bytes.count > 0 })
        let header = memory.written(0).bytes.load(as: CapturedHeader.self)
        #expect(header.length == 65 && header.queue == 1 && capture.causes[Int(header.cause) - 1] == "odd")
        func received() -> UInt64 { engine.snapshot()[0].rx.packets }
        for _ in 0..<2000 { try driver.send(65) }
        #expect(eventually { received() == 2001 })
        #expect(memory.lost(0) == 2001 - (1 << 16) / UInt64(header.size))
        var random = Random(seed: 5)
        for n in 1...200 {
            memory.release(0, to: n % 3 == 0 ? random.next() : UInt64(random.below(1 << 20)))
            memset(UnsafeMutableRawPointer(mutating: memory.written(0).bytes.baseAddress!), Int32(n & 255), 4096)
            try driver.send(64)
            #expect(try driver.receive() == 64)
        }
        #expect(received() == 2201)
        engine.endCapture(memory)
        #expect(memory.end == .stopped)
        try driver.send(64)
        #expect(try driver.receive() == 64)
    }

    @Test("several at once, of different ports and queues: each shows what it would alone", arguments: [1, 2])
    func several(threads: Int) throws {
        let lab = try ControlLab(.switch, threads: threads)
        let client = try ControlClient(lab.path)
        var options = DriverOptions()
        options.queuePairs = 2
        let drivers = try ["a", "b", "c"].map { port in
            let text = "vhost-user:\(lab.folder)/\(port),queues=2"
            return try EmbeddedDriver(path: try client.call(Methods.AddPort.self, .init(port: text)).name, options)
        }
        func read(_ port: String, _ queue: Int? = nil) throws -> CaptureReading {
            try CaptureTests.read(lab, port, queue: queue)
        }
        let (a, b) = (try read("a"), try read("b"))
        // To all: pair 0's and, on the other thread, pair 1's.
        for (pair, length) in [(0, 100), (1, 101)] { CaptureTests.flood(drivers[0], pair: pair, length) }
        #expect(Set(CaptureTests.text(CaptureTests.take(2, a))) == ["1 100", "3 101"])
        #expect(Set(CaptureTests.text(CaptureTests.take(2, b))) == ["0 100", "2 101"])
        do {
            // One that comes later, and goes before the others; of a port that has one, too.
            let (one, c) = (try read("a", 3), try read("c"))
            for (pair, length) in [(0, 102), (1, 103)] { CaptureTests.flood(drivers[1], pair: pair, length) }
            CaptureTests.flood(drivers[0], pair: 1, 104)
            #expect(Set(CaptureTests.text(CaptureTests.take(3, a))) == ["0 102", "2 103", "3 104"])
            #expect(Set(CaptureTests.text(CaptureTests.take(3, b))) == ["1 102", "3 103", "2 104"])
            #expect(Set(CaptureTests.text(CaptureTests.take(3, c))) == ["0 102", "2 103", "2 104"])
            #expect(CaptureTests.text(CaptureTests.take(1, one)) == ["3 104"])
        }
        // While pairs change their threads.
        for round in 0..<60 {
            let name = lab.folder + "/" + ["a", "b", "c"][round % 3]
            let wanted = [Int.random(in: 0..<threads), Int.random(in: 0..<threads)]
            _ = try client.call(Methods.SetPort.self, .init(name: name, threads: wanted))
            CaptureTests.flood(drivers[0], pair: round % 2, 200 + round)
        }
        #expect(CaptureTests.take(60, a).map(\.length).sorted() == Array(200..<260))
        #expect(Set(CaptureTests.take(b).map(\.length)).isSubset(of: 200..<260))
        // A port that goes ends its own.
        _ = try client.call(Methods.RemovePort.self, .init(name: lab.folder + "/b"))
        #expect(b.end == "the port was removed" && a.end == nil)
        CaptureTests.flood(drivers[0], pair: 0, 300)
        #expect(CaptureTests.text(CaptureTests.take(1, a)) == ["1 300"] && a.lost == 0 && b.lost == 0)
        withExtendedLifetime(drivers) {}
    }

    /// To all, from an address of the driver's own.
    private static func flood(_ driver: EmbeddedDriver, pair: Int, _ length: Int) {
        while driver.pairs[pair].prepare(1) == 0 { sched_yield() }
        let frame = driver.pairs[pair].outgoing.start
        frame.pointee.length = UInt32(length)
        memset(frame.pointee.base - 12, 0, 12 + length)
        memset(frame.pointee.base, 0xff, 6)
        frame.pointee.base.storeBytes(of: 2, toByteOffset: 6, as: UInt8.self)
        driver.pairs[pair].send(1)
    }

    @Test("who may not, what cannot be, and more than there can be at once: refused, with what to do")
    func refusals() throws {
        let (lab, drivers) = try CaptureTests.start()
        #expect(throws: RPC.Failure.self) { try CaptureReading(lab.readPath, .init(port: lab.folder + "/a")) }
        #expect(CaptureTests.refusal(lab, "x").contains("there is no such port"))
        #expect(CaptureTests.refusal(lab, "a", queue: 2).contains("queue 2: there is no such queue; 0 to 1 are"))
        #expect(CaptureTests.refusal(lab, "a", snap: 5).contains("14 to 65600 are possible"))
        let first = try CaptureTests.read(lab, "a")
        do {
            let others = try (1..<Engine.mostCaptures).map { _ in try CaptureTests.read(lab, "b") }
            #expect(
                CaptureTests.refusal(lab, "b")
                    == "\(lab.folder)/b: 8 captures run, and there can be no more; end one first")
            withExtendedLifetime(others) {}
        }
        _ = try eventually { try CaptureTests.read(lab, "b") }
        try drivers[0].send(64)
        _ = try drivers[1].receive()
        #expect(CaptureTests.take(1, first).count == 1 && first.end == nil)
        lab.op.stop()
        #expect(eventually { first.end != nil })
        withExtendedLifetime(drivers) {}
    }

    @Test("many other connections do not end a capture")
    func crowd() throws {
        let (lab, drivers) = try CaptureTests.start()
        let reading = try CaptureTests.read(lab, "a")
        let others = try (0..<80).map { _ in
            let client = try ControlClient(lab.path)
            _ = try? client.call(Methods.Version.self, .init())
            return client
        }
        try drivers[0].send(64)
        #expect(CaptureTests.take(1, reading).count == 1 && reading.end == nil)
        withExtendedLifetime((others, drivers)) {}
    }

    @Test("filters: as libpcap has them; an error names the expression")
    func filters() throws {
        let bytes = Frames.udp(size: 100)
        let (udp, tcp) = (try PacketFilter("udp dst port 1025 and greater 900"), try PacketFilter("tcp"))
        bytes.withUnsafeBytes { bytes in
            let packet = SeenPacket(nanoseconds: 0, length: 1000, bytes: bytes, queue: 1, cause: nil)
            #expect(udp.matches(packet) && !tcp.matches(packet))
        }
        #expect(throws: PacketFilter.Problem.self) { try PacketFilter("udp prot 5") }
    }
}

private func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
    for _ in 0..<10_000 {
        if try condition() { return true }
        usleep(1000)
    }
    return false
}

/// Until it can be done.
private func eventually<Value>(_ body: () throws -> Value) throws -> Value {
    for _ in 0..<10_000 {
        if let value = try? body() { return value }
        usleep(1000)
    }
    return try body()
}
