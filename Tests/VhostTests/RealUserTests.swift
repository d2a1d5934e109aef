import CPlatform
import Glibc
import Logging
import Ringway
import RingwayLab
import Testing

/// `VhostNet` on Ringway's own vhost-user back-end.
extension ControlPlane {
    @Suite("A real vhost-user back-end") struct RealUser {
        @Test("frames are taken; a queue is reset and restarted under traffic; stop and start, a thousand times")
        func lifecycle() throws {
            let path = "/tmp/ringway-real-\(getpid()).sock"
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            var port = PortOptions(.vhostUser(path: path, isClient: false))
            (port.queuePairs, port.offersRingReset) = (1, true)
            let engine = try Engine(EngineOptions(ports: [port], mode: .macswap), logger: logger)
            try engine.start()
            defer { engine.stop() }
            let vhost = try VhostNet(UserBackend(try MessageSocket.connect(to: path), name: path))
            try vhost.acknowledge([.version1, .ringReset])
            let driver = try RealDriver(queues: 2, features: [.version1])
            let frame = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
            let swapped = Array(frame[6..<12] + frame[0..<6] + frame[12...])
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            for _ in 0..<20 {
                #expect(driver.send(frame))
                #expect(driver.receive() == swapped)
            }
            #expect(try vhost.resetQueue(1) == 20)
            driver.queues[1].reset()
            try vhost.restartQueue(1, driver.rings[1])
            for _ in 0..<20 {
                #expect(driver.send(frame))
                #expect(driver.receive() == swapped)
            }
            // Masked calls are pending; unmasked they come.
            try vhost.mask(ring: 0, true)
            _ = fired(driver.calls[0])
            _ = driver.queues[0].armCalls()
            #expect(driver.send(frame) && driver.receive() == swapped)
            #expect(eventually { vhost.isPending(ring: 0) } && !fired(driver.calls[0]))
            try vhost.mask(ring: 0, false)
            _ = driver.queues[0].armCalls()
            #expect(driver.send(frame) && driver.receive() == swapped)
            #expect(eventually { fired(driver.calls[0]) })
            // A disabled pair consumes without effect; enabled it works again.
            try vhost.setEnabled(pair: 0, false)
            #expect(driver.send(frame))
            try vhost.setEnabled(pair: 0, true)
            #expect(driver.send(frame) && driver.receive() == swapped)
            #expect(vhost.stop() == [43, 24])
            // After RESET_DEVICE, as after init.
            try vhost.resetDevice()
            driver.reset()
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            #expect(driver.send(frame) && driver.receive() == swapped)
            vhost.stop()
            let before = openDescriptors()
            for _ in 0..<1000 {
                driver.reset()
                driver.post()
                try vhost.start(driver.rings, memory: [driver.region])
                vhost.stop()
            }
            #expect(eventually { openDescriptors() <= before })
        }

        private func engine(_ paths: [String], _ mode: ForwardingMode, _ set: (inout PortOptions) -> Void = { _ in })
            throws -> Engine
        {
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            let ports = paths.map { path in
                var port = PortOptions(.vhostUser(path: path, isClient: false))
                port.queuePairs = 1
                set(&port)
                return port
            }
            let engine = try Engine(EngineOptions(ports: ports, mode: mode), logger: logger)
            try engine.start()
            return engine
        }

        private func open(_ path: String) throws -> VhostNet {
            try VhostNet(UserBackend(try MessageSocket.connect(to: path), name: path))
        }

        /// As the next frames come to a driver that polls.
        private func receive(_ driver: EmbeddedDriver, _ count: Int) -> [[UInt8]] {
            var all: [[UInt8]] = []
            _ = eventually {
                let n = driver.pairs[0].receiveBurst()
                for k in 0..<n {
                    let b = driver.pairs[0].incoming[k]
                    all.append(Array(UnsafeRawBufferPointer(start: b.base, count: Int(b.length))))
                }
                driver.pairs[0].giveBack()
                return all.count >= count
            }
            return all
        }

        @Test(
            """
            after a migration the RARP frame of RFC 903 comes to the other ports of a switch, whose table has the \
            address; a guest that announces itself is left to it
            """
        )
        func migrated() throws {
            let paths = (0..<3).map { "/tmp/ringway-real4-\(getpid())-\($0).sock" }
            let engine = try engine(paths, .switch)
            defer { engine.stop() }
            let vhost = try open(paths[0])
            let others = try (1..<3).map { try EmbeddedDriver(path: paths[$0]) }
            let driver = try RealDriver(queues: 2, features: [.version1])
            func start(_ features: Features) throws {
                try vhost.acknowledge(features)
                #expect(vhost.acknowledged.isSuperset(of: features))
                driver.reset()
                driver.post()
                try vhost.start(driver.rings, memory: [driver.region])
            }
            // This one announces itself: what comes first below is not of this.
            try start([.version1, .guestAnnounce])
            try vhost.migrationDone(mac: [2, 0, 0, 0, 1, 1])
            vhost.stop()
            let mac: [UInt8] = [2, 0, 0, 0, 1, 2]
            try start([.version1])
            try vhost.migrationDone(mac: mac)
            let arp: [UInt8] = [0, 1, 8, 0, 6, 4, 0, 3] + mac + [0, 0, 0, 0] + mac + [0, 0, 0, 0]
            let rarp = [UInt8](repeating: 0xff, count: 6) + mac + [0x80, 0x35] + arp + [UInt8](repeating: 0, count: 18)
            for other in others { #expect(receive(other, 1) == [rarp]) }
            // The switch knows now where the address is: a frame to it comes there, and to nobody else.
            let frame = mac + [2, 0, 0, 0, 1, 9, 0x88, 0xb5] + [UInt8](repeating: 5, count: 46)
            let broadcast = [UInt8](repeating: 0xff, count: 6) + frame[6...]
            for f in [frame, Array(broadcast)] {
                try #require(others[0].pairs[0].prepare(1) == 1)
                let out = others[0].pairs[0].outgoing.start
                out.pointee.length = UInt32(f.count)
                CPlat_zero(out.pointee.base - 12, 12)
                f.withUnsafeBytes { out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
                others[0].pairs[0].send(1)
            }
            #expect(driver.receive() == frame && driver.receive() == Array(broadcast))
            #expect(receive(others[1], 1) == [Array(broadcast)])
            vhost.stop()
        }

        @Test(
            """
            memory is changed while it runs: the next frame comes from the new memory, and the one after it from the \
            old again
            """
        )
        func memory() throws {
            let path = "/tmp/ringway-real5-\(getpid()).sock"
            let engine = try engine([path], .macswap)
            defer { engine.stop() }
            let vhost = try open(path)
            try vhost.acknowledge([.version1])
            let driver = try RealDriver(queues: 2, features: [.version1], guestAddress: 1 << 24)
            func frame(_ n: UInt8) -> [UInt8] {
                [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: n, count: 50)
            }
            func swapped(_ n: UInt8) -> [UInt8] { Array(frame(n)[6..<12] + frame(n)[0..<6] + frame(n)[12...]) }
            let other = try RealDriver.other(frame(99))
            driver.post()
            try vhost.start(driver.rings, memory: driver.parts())
            for n: UInt8 in 0..<5 {
                #expect(driver.send(frame(n)) && driver.receive() == swapped(n))
                try vhost.updateMemory(driver.parts(transmit: other))
                #expect(driver.send(frame(n)) && driver.receive() == swapped(99))
                try vhost.updateMemory(driver.parts())
            }
            #expect(driver.send(frame(6)) && driver.receive() == swapped(6))
            #expect(vhost.stop()[1] == 11)
        }

        @Test(
            """
            a ring that is not set up is passed over; a bit that is not offered is left out; set up later, all of it \
            works
            """
        )
        func notReady() throws {
            let path = "/tmp/ringway-real6-\(getpid()).sock"
            let engine = try engine([path], .macswap) { $0.offersRingReset = true }
            defer { engine.stop() }
            let vhost = try open(path)
            try vhost.acknowledge([.version1, .ringReset, .rss])
            #expect(vhost.acknowledged == [.version1, .ringReset, .protocolFeatures])
            let driver = try RealDriver(queues: 2, features: [.version1])
            let frame = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
            var half = driver.rings
            (half[0].descriptors, half[0].driverArea, half[0].deviceArea) = (0, 0, 0)
            try vhost.start(half, memory: [driver.region])
            // There is no room for what it would send back.
            for _ in 0..<3 { #expect(driver.send(frame)) }
            driver.post()
            try vhost.restartQueue(0, driver.rings[0])
            #expect(driver.send(frame) && driver.receive() == Array(frame[6..<12] + frame[0..<6] + frame[12...]))
            #expect(vhost.stop() == [1, 4])
            driver.reset()
            try vhost.start(half, memory: [driver.region])
            #expect(driver.send(frame))
            #expect(vhost.stop() == [nil, 1])
        }

        @Test("close leaves no descriptor, no mapping and no thread, here or in the back-end")
        func cleanup() throws {
            let path = "/tmp/ringway-real7-\(getpid()).sock"
            let engine = try engine([path], .macswap)
            defer { engine.stop() }
            let driver = try RealDriver(queues: 2, features: [.version1])
            func life() throws {
                let vhost = try open(path)
                try vhost.acknowledge([.version1])
                try vhost.setConfigurationNotifier(OwnedDescriptor(CPlat_eventfd(0)))
                driver.reset()
                driver.post()
                try vhost.start(driver.rings, memory: [driver.region])
                try vhost.mask(ring: 0, true)
                vhost.close()
                withExtendedLifetime(vhost) {}
            }
            // What a port keeps from its first connection on.
            try life()
            #expect(eventually { !engine.snapshot()[0].isConnected })
            let before = Traces()
            for _ in 0..<5 {
                try life()
                #expect(eventually { Traces() == before }, "\(before), then \(Traces())")
            }
        }

        @Test("configuration and MTU on Ringway's own back-end; what it refuses")
        func device() throws {
            let path = "/tmp/ringway-real2-\(getpid()).sock"
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            var port = PortOptions(.vhostUser(path: path, isClient: false))
            (port.queuePairs, port.mtu, port.mac) = (2, 1400, [2, 0, 0, 0, 0, 9])
            let engine = try Engine(EngineOptions(ports: [port], mode: .drop), logger: logger)
            try engine.start()
            defer { engine.stop() }
            var options = VhostNet.Options()
            options.queuePairs = 2
            let vhost = try VhostNet(UserBackend(try MessageSocket.connect(to: path), name: path), options)
            #expect(vhost.maximumPairs == 2)
            // QEMU would pass it on to its driver, and the driver's resets to nobody.
            #expect(!vhost.backend.offered.contains(.ringReset))
            #expect(try vhost.readConfiguration(offset: 0, size: 6) == [2, 0, 0, 0, 0, 9])
            #expect(try vhost.readConfiguration(offset: 8, size: 4) == [2, 0, 0x78, 5])
            try vhost.setMTU(1300)
            let error = #expect(throws: VhostError.self) { try vhost.setMTU(10) }
            #expect(error?.kind == .refused && error!.description.contains("NET_SET_MTU"))
            // Its configuration is its own; the driver's address comes by the control queue.
            for isMigration in [false, true] {
                let error = #expect(throws: VhostError.self) {
                    try vhost.writeConfiguration(offset: 0, [2, 0, 0, 0, 0, 8], forMigration: isMigration)
                }
                #expect(error?.kind == .refused && error!.description.contains("SET_CONFIG"))
            }
            #expect(try vhost.readConfiguration(offset: 0, size: 6) == [2, 0, 0, 0, 0, 9])
            try vhost.acknowledge([.version1, .mq])
            // It has a dirty log.
            try vhost.setLogging(true)
            try vhost.setLogging(false)
            vhost.close()
        }
    }
}
