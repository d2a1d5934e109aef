import CPlatform
import Control
import Glibc
import Logging
import Ringway
import Testing

/// The engine's driver-side port with back-ends that do not keep to the rules.
extension ControlPlane {
    @Suite("A driver's port") struct DriverPortHostileTests {
        private static var silent: Logger {
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            return logger
        }

        private func engine(
            _ path: String, _ mode: ForwardingMode = .drop, logger: Logger = silent,
            _ set: (inout PortOptions) -> Void = { _ in }
        ) throws -> Engine {
            var port = PortOptions(.virtioUser(path: path, isServer: true, tap: nil))
            set(&port)
            let engine = try Engine(EngineOptions(ports: [port], mode: mode, busyloop: .sleep), logger: logger)
            try engine.start()
            return engine
        }

        @Test(
            """
            a back-end that refuses any message, or hangs up at it, is given up; the next one is served; no \
            descriptor is left
            """,
            arguments: [false, true])
        func everyMessage(hangsUp: Bool) throws {
            let path = "/tmp/ringway-hostile-\(getpid()).sock"
            let engine = try engine(path) { $0.queuePairs = 2 }
            defer { engine.stop() }
            func isConnected() -> Bool { engine.snapshot()[0].isConnected }
            let before = openDescriptors()
            var n = 0
            while true {
                n += 1
                var state = FakePeer.State()
                (state.failAt, state.hangsUp) = (n, hangsUp)
                let peer = FakePeer(connectingTo: path, state)
                try #require(eventually { peer.isOver || isConnected() })
                if peer.state.withLock({ $0.count < n }) { break }
                // SET_PROTOCOL_FEATURES has no answer: nobody notices that it failed.
                if !peer.isOver {
                    #expect(peer.trace[n - 1] == "SET_PROTOCOL_FEATURES")
                    peer.hangUp()
                }
                try #require(eventually { peer.isOver && !isConnected() })
                #expect(eventually { openDescriptors() <= before }, "message \(n), \(peer.trace.last ?? "")")
            }
            #expect(n > 40 && isConnected())
        }

        @Test(
            "a back-end that lies is given up, and the next one is served",
            arguments: [
                (Request.getFeatures, FakePeer.Lie.bytes([])), (.getFeatures, .bytes([UInt8](repeating: 0, count: 8))),
                (.getQueueNum, .bytes([1, 0, 0, 0, 0, 0, 0, 0])),
                (.getStatus, .bytes([0, 0, 0, 0, 0, 0, 0, 0])), (.setMemTable, .flags(1)), (.setVringKick, .request(3)),
                (.setVringAddr, .twice),
            ])
        func lies(request: Request, lie: FakePeer.Lie) throws {
            let path = "/tmp/ringway-hostile2-\(getpid()).sock"
            let engine = try engine(path) { $0.queuePairs = 2 }
            defer { engine.stop() }
            func isConnected() -> Bool { engine.snapshot()[0].isConnected }
            let before = openDescriptors()
            var state = FakePeer.State()
            state.lies[request] = lie
            let liar = FakePeer(connectingTo: path, state)
            #expect(eventually { liar.isOver } && !isConnected())
            #expect(eventually { openDescriptors() <= before })
            let honest = FakePeer(connectingTo: path, FakePeer.State())
            #expect(eventually { isConnected() } && !honest.isOver)
        }

        @Test("a ring size for packed rings does for a back-end without them")
        func ringSize() throws {
            let path = "/tmp/ringway-hostile3-\(getpid()).sock"
            let engine = try engine(path) { ($0.wantsPacked, $0.ringSize) = (true, 100) }
            defer { engine.stop() }
            let peer = FakePeer(connectingTo: path, FakePeer.State())
            #expect(eventually { engine.snapshot()[0].isConnected } && peer.trace.contains("SET_VRING_NUM 0 64"))
        }

        @Test("a back-end that tells of changes and broken queues again and again does not fill the log")
        func chatter() throws {
            let path = "/tmp/ringway-hostile7-\(getpid()).sock"
            let lines = Locked<[String]>([])
            let engine = try engine(path, logger: Logger(label: "test") { _ in LineLog(lines: lines) })
            defer { engine.stop() }
            let peer = FakePeer(connectingTo: path, FakePeer.State())
            try #require(eventually { engine.snapshot()[0].isConnected })
            for _ in 0..<50 {
                peer.say(Message(2))
                peer.fail(1)
                usleep(2000)
            }
            #expect(
                eventually {
                    lines.withLock {
                        $0.contains { $0.contains("configuration has changed") }
                            && $0.contains { $0.contains("queue 1 is broken") }
                    }
                })
            usleep(20_000)
            #expect(lines.withLock { $0.filter { $0.contains("has changed") || $0.contains("is broken") }.count } == 2)
        }

        @Test(
            "an engine stops at once though a back-end takes its time for an answer",
            arguments: [Request.getFeatures, .setVringKick])
        func slow(request: Request) throws {
            let path = "/tmp/ringway-hostile5-\(getpid()).sock"
            let lines = Locked<[String]>([])
            let engine = try engine(path, logger: Logger(label: "test") { _ in LineLog(lines: lines) })
            var state = FakePeer.State()
            state.lies[request] = .silence
            let peer = FakePeer(connectingTo: path, state)
            try #require(eventually { peer.trace.contains { $0.hasPrefix(request.name) } })
            engine.stop()
            // Not after the time-out for an answer.
            #expect(
                lines.withLock { $0.contains { $0.contains("the wait for an answer was cancelled") } },
                "\(lines.withLock { $0 })")
            #expect(eventually { peer.isOver })
        }

        @Test("a connection that is there is ended in order by a stop: rings are asked where they stand")
        func orderlyStop() throws {
            let path = "/tmp/ringway-hostile6-\(getpid()).sock"
            let engine = try engine(path)
            let peer = FakePeer(connectingTo: path, FakePeer.State())
            try #require(eventually { engine.snapshot()[0].isConnected })
            engine.stop()
            #expect(
                eventually { peer.isOver }
                    && peer.trace.suffix(3) == ["GET_VRING_BASE 0", "GET_VRING_BASE 1", "SET_STATUS 0"])
        }

        /// An engine with a port of 16 descriptors a ring, and the rings as its back-end has them.
        private func connected(
            _ mode: ForwardingMode = .drop,
            _ body: (Engine, _ receive: BackEndRing, _ transmit: BackEndRing) throws -> Void
        ) throws {
            let path = "/tmp/ringway-hostile4-\(getpid()).sock"
            let engine = try engine(path, mode) { $0.ringSize = 16 }
            defer { engine.stop() }
            let peer = FakePeer(connectingTo: path, FakePeer.State())
            try #require(eventually { engine.snapshot()[0].isConnected })
            try body(engine, BackEndRing(peer, 0), BackEndRing(peer, 1))
        }

        /// Whether the poll threads come to rest: for a while they take no CPU time and make no system call.
        private func sleeps(_ engine: Engine) -> Bool {
            eventually {
                let before = engine.threadSnapshots()
                usleep(100_000)
                return engine.threadSnapshots() == before
            }
        }

        @Test("num_buffers beyond the ring costs that packet alone", arguments: [17, 64, 65, 0xffff, 0] as [UInt16])
        func manyBuffers(count: UInt16) throws {
            try connected { engine, receive, _ in
                receive.put(frame: 64, buffers: count)
                receive.put(frame: 64)
                for n in 0..<40 {
                    try #require(eventually { engine.snapshot()[0].rx.packets == n + 2 }, "packet \(n)")
                    receive.put(frame: 64)
                }
                #expect(engine.snapshot()[0].drops.map(\.cause) == ["frame length", "by the packet function"])
            }
        }

        @Test("a packet whose other buffers do not come lets the thread sleep, and is whole when they come")
        func unfinished() throws {
            try connected { engine, receive, _ in
                receive.put(frame: 64, buffers: 2)
                #expect(sleeps(engine))
                #expect(engine.snapshot()[0].rx.packets == 0)
                receive.put(frame: 64)
                #expect(eventually { engine.snapshot()[0].rx.packets == 1 && engine.snapshot()[0].rx.bytes == 64 + 76 })
            }
        }

        @Test("a ring that had to stop lets the thread sleep", arguments: [(UInt32(99), UInt32(76)), (0, 70_000)])
        func stopped(id: UInt32, length: UInt32) throws {
            try connected { engine, receive, _ in
                receive.use(id, length)
                #expect(sleeps(engine))
            }
        }

        @Test("nothing counts as sent that went into a ring that had stopped")
        func stoppedTransmit() throws {
            try connected(.macswap) { engine, receive, transmit in
                for n in 1...14 {
                    receive.put(frame: 64)
                    try #require(eventually { engine.snapshot()[0].tx.packets == n })
                }
                transmit.use(99, 0)
                for n in 15...30 {
                    receive.put(frame: 64)
                    try #require(eventually { engine.snapshot()[0].rx.packets == n })
                }
                #expect(engine.snapshot()[0].tx.packets == transmit.available)
            }
        }
    }
}

/// Keeps what is logged.
struct LineLog: LogHandler {
    let lines: Locked<[String]>
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info
    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }
    func log(event: LogEvent) { lines.withLock { $0.append("\(event.message)") } }
}

/// A split ring of the driver's, in this process, as the back-end sees it.
private final class BackEndRing {
    private let peer: FakePeer
    private let index: UInt32
    private let descriptors, driverArea, deviceArea: UnsafeMutableRawPointer
    private var used = 0
    private let size = 16

    init(_ peer: FakePeer, _ index: UInt32) {
        (self.peer, self.index) = (peer, index)
        let at = peer.state.withLock { $0.addresses[index]! }
        func pointer(_ a: UInt64) -> UnsafeMutableRawPointer { UnsafeMutableRawPointer(bitPattern: UInt(a))! }
        (descriptors, driverArea, deviceArea) = (pointer(at.0), pointer(at.1), pointer(at.2))
    }

    /// Chains that the driver has shown.
    var available: UInt64 { UInt64(CPlat_load16_acquire(driverArea + 2)) }

    /// The next used entry.
    func use(_ id: UInt32, _ length: UInt32) {
        let entry = deviceArea + 4 + 8 * (used % size)
        entry.storeBytes(of: id, as: UInt32.self)
        (entry + 4).storeBytes(of: length, as: UInt32.self)
        used += 1
        CPlat_store16_release(deviceArea + 2, UInt16(used))
        peer.call(index)
    }

    /// A frame with its header into the next buffer.
    func put(frame: UInt32, buffers: UInt16 = 1) {
        let id = (driverArea + 4 + 2 * (used % size)).load(as: UInt16.self)
        let buffer = UnsafeMutableRawPointer(bitPattern: UInt((descriptors + 16 * Int(id)).load(as: UInt64.self)))!
        CPlat_zero(buffer, UInt64(frame + 12))
        (buffer + 10).storeBytes(of: buffers, as: UInt16.self)
        use(UInt32(id), frame + 12)
    }
}
