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
        port.queuePairs = 1
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
        // A disabled pair consumes without effect; enabled it works again.
        try vhost.setEnabled(pair: 0, false)
        #expect(driver.send(frame))
        try vhost.setEnabled(pair: 0, true)
        #expect(driver.send(frame) && driver.receive() == swapped)
        #expect(vhost.stop() == [41, 22])
        let before = openDescriptors()
        for _ in 0..<1000 {
            driver.reset()
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            vhost.stop()
        }
        #expect(eventually { openDescriptors() <= before })
    }
}
}
