import CPlatform
import Glibc
import Logging
import Ringway
import Testing

/// The engine's driver-side port with back-ends that do not keep to the rules.
extension ControlPlane {
@Suite("A driver's port") struct DriverPortHostileTests {
    private func engine(_ path: String, _ set: (inout PortOptions) -> Void = { _ in }) throws -> Engine {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        var port = PortOptions(.virtioUser(path: path, isServer: true, tap: nil))
        set(&port)
        let engine = try Engine(EngineOptions(ports: [port], mode: .drop), logger: logger)
        try engine.start()
        return engine
    }

    @Test("a back-end that refuses any message, or hangs up at it, is given up; the next one is served; no descriptor is left", arguments: [false, true])
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

    @Test("a back-end that lies is given up, and the next one is served", arguments: [
        (Request.getFeatures, FakePeer.Lie.bytes([])), (.getFeatures, .bytes([UInt8](repeating: 0, count: 8))), (.getQueueNum, .bytes([1, 0, 0, 0, 0, 0, 0, 0])),
        (.getStatus, .bytes([0, 0, 0, 0, 0, 0, 0, 0])), (.setMemTable, .flags(1)), (.setVringKick, .request(3)), (.setVringAddr, .twice),
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
}
}
