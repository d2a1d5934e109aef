import CPlatform
import Control
import Glibc
import Logging
import Ringway
import RingwayLab
import Testing

/// The driver's side of what made guests stop for ever: each side of a ring may wait for what the other did before it
/// could be told. Ringway's own back-end is at the other end, and every thread sleeps when it can.
extension ControlPlane {
    @Suite("Whoever waits for what is done already is called, the driver's side", .serialized) struct CalledAgainTests {
        private static var silent: Logger {
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            return logger
        }

        private func engine(_ ports: [PortOptions], _ mode: ForwardingMode) throws -> Engine {
            let engine = try Engine(EngineOptions(ports: ports, mode: mode, busyloop: .sleep), logger: Self.silent)
            try engine.start()
            return engine
        }

        private func open(_ path: String, _ saved: VhostNet.Saved? = nil) throws -> VhostNet {
            var options = VhostNet.Options()
            options.saved = saved
            return try VhostNet(UserBackend(try MessageSocket.connect(to: path), name: path), options)
        }

        private func frame(_ n: UInt8) -> [UInt8] {
            [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: n, count: 50)
        }

        private func swapped(_ n: UInt8) -> [UInt8] { Array(frame(n)[6..<12] + frame(n)[0..<6] + frame(n)[12...]) }

        @Test(
            "VhostNet: at a start, at a restart, with new call descriptors, with other memory, on a new connection",
            arguments: [false, true], [false, true])
        func vhostNet(isPacked: Bool, hasEventIndex: Bool) throws {
            let path = "/tmp/ringway-called-\(getpid()).sock"
            let engine = try engine([PortOptions(.vhostUser(path: path, isClient: false))], .macswap)
            defer { engine.stop() }
            var features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
            if hasEventIndex { features.insert(.eventIdx) }
            let driver = try RealDriver(queues: 2, features: features)
            var vhost = try open(path)
            try vhost.acknowledge(features)
            for _ in 0..<2 {
                driver.reset()
                driver.post(kicks: false)
                try driver.waitThroughStarts(of: vhost, memory: [driver.region], rings: 0..<2) {
                    (frame($0), swapped($0))
                }
                let saved = vhost.saved
                vhost.close()
                vhost = try open(path, saved)
            }
            // Other memory. What is forwarded while the rings stand still may be dropped; its sender is called all the
            // same.
            driver.reset()
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            for n: UInt8 in 0..<50 {
                _ = EventFD.take(driver.calls[1].fd)
                try #require(driver.arm(1..<2) && driver.put(frame(n), kicks: false))
                try vhost.updateMemory([driver.region])
                try #require(driver.sent(), "frame \(n)")
            }
            vhost.stop()
        }

        @Test(
            """
            a driver's port: the first frame after each connection comes through at once, both ways, and each after a \
            sleep
            """,
            arguments: [false, true], [false, true])
        func port(isPacked: Bool, hasEventIndex: Bool) throws {
            let paths = ["near", "far", "relay", "back"].map { "/tmp/ringway-called-\(getpid())-\($0).sock" }
            let (near, far, between, back) = (paths[0], paths[1], paths[2], paths[3])
            func device(_ path: String) -> PortOptions { PortOptions(.vhostUser(path: path, isClient: false)) }
            let other = try engine([device(back), device(far)], .crossconnect)
            defer { other.stop() }
            let relay = try Relay(at: between, to: back, without: hasEventIndex ? [] : .eventIdx)
            defer { relay.stop() }
            var port = PortOptions(.virtioUser(path: between, isServer: false, tap: nil))
            port.wantsPacked = isPacked
            let own = try engine([device(near), port], .crossconnect)
            defer { own.stop() }
            let drivers = try [near, far].map { try EmbeddedDriver(path: $0) }
            func isConnected(_ isIt: Bool) -> Bool {
                own.snapshot()[1].isConnected == isIt && other.snapshot()[0].isConnected == isIt
            }
            var n: UInt8 = 0
            for life in 0..<4 {
                try #require(eventually { isConnected(true) }, "life \(life)")
                for k in 0..<12 {
                    // The first without a pause; later ones find the threads asleep, or just about to be.
                    if k >= 2 { usleep(UInt32(k) * 300) }
                    n &+= 1
                    try #require(drivers[k % 2].send(frame(n)), "life \(life), frame \(k)")
                    try #require(drivers[1 - k % 2].next() == frame(n), "life \(life), frame \(k)")
                }
                relay.cut()
                try #require(eventually { isConnected(false) })
            }
        }
    }
}

extension EmbeddedDriver {
    /// Sends one frame.
    fileprivate func send(_ frame: [UInt8]) -> Bool {
        guard eventually({ pairs[0].prepare(1) == 1 }) else { return false }
        let out = pairs[0].outgoing.start
        out.pointee.length = UInt32(frame.count)
        CPlat_zero(out.pointee.base - 12, 12)
        frame.withUnsafeBytes { out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        pairs[0].send(1)
        return true
    }

    /// The next frame.
    fileprivate func next() -> [UInt8]? {
        var frame: [UInt8]?
        _ = eventually {
            if pairs[0].receiveBurst() > 0 {
                let b = pairs[0].incoming[0]
                frame = Array(UnsafeRawBufferPointer(start: b.base, count: Int(b.length)))
            }
            pairs[0].giveBack()
            return frame != nil
        }
        return frame
    }
}

/// Passes messages on between a front-end and a back-end, which is offered without some features, and ends their
/// connection when it is told to.
final class Relay: @unchecked Sendable {
    private let path, target: String
    private let hidden: Features
    private let listener: Int32
    /// Readable: the connection shall end.
    private let end = OwnedDescriptor(CPlat_eventfd(0))
    private let state = Locked((isStopping: false, isOver: false))

    init(at path: String, to target: String, without hidden: Features) throws {
        (self.path, self.target, self.hidden) = (path, target, hidden)
        listener = try Listener.open(path)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { raw in
                Unmanaged<Relay>.fromOpaque(raw!).takeRetainedValue().loop()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        pthread_detach(thread)
    }

    func cut() { EventFD.signalOwn(end.fd) }

    func stop() {
        state.withLock { $0.isStopping = true }
        cut()
        _ = eventually { state.withLock { $0.isOver } }
        close(listener)
        unlink(path)
    }

    private var isStopping: Bool { state.withLock { $0.isStopping } }

    private func loop() {
        while !isStopping {
            if wait([listener, end.fd])[1] {
                _ = EventFD.take(end.fd)
                continue
            }
            let fd = CPlat_accept(listener)
            guard fd >= 0, let back = try? MessageSocket.connect(to: target) else { continue }
            do { try pass(MessageSocket(fd), back) } catch {}
        }
        state.withLock { $0.isOver = true }
    }

    private func pass(_ front: MessageSocket, _ back: MessageSocket) throws {
        while true {
            let ready = wait([front.fd, back.fd, end.fd])
            if ready[2] {
                if !isStopping { _ = EventFD.take(end.fd) }
                return
            }
            if ready[0] { while let m = try front.receive() { try back.send(m) } }
            if ready[1] { while let m = try back.receive() { try front.send(edited(m)) } }
        }
    }

    /// GET_FEATURES is answered without what is hidden.
    private func edited(_ m: Message) -> Message {
        var m = m
        if m.request == Request.getFeatures.rawValue, m.payload.count == 8 {
            let all = m.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
            m.payload = Payload(all & ~hidden.rawValue).bytes
        }
        return m
    }

    private func wait(_ fds: [Int32]) -> [Bool] {
        var p = fds.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        _ = poll(&p, nfds_t(p.count), -1)
        return p.map { $0.revents != 0 }
    }
}
