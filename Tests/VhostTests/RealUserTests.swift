import CPlatform
import Glibc
import Logging
import Ringway
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

    @Test("configuration, MTU and RARP on Ringway's own back-end; a refused MTU")
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
        try vhost.acknowledge([.version1, .mq])
        try vhost.migrationDone(mac: [2, 0, 0, 0, 0, 9])
        #expect(throws: VhostError.self) { try vhost.setLogging(true) }
        vhost.close()
    }
}
}
