import CPlatform
import Control
import Foundation
import Glibc
import Logging
import Memory
import Operation
import Ringway
import RingwayLab
import Synchronization
import TestSupport
import Testing

/// One Ringway follows another by the control socket, both in this process; each step fails once.
@Suite(.serialized) struct UpgradeTests {
    /// A ringway with two guests, and what comes after it.
    private final class Bench {
        let folder: String
        let drivers: [EmbeddedDriver]
        /// The one that runs, and its control.
        private(set) var engine: Engine
        private(set) var op: Operator
        private var ended = Flag()
        private var next: UInt8 = 0
        var control: String { folder + "/ctl" }

        final class Flag: Sendable { let isSet = Atomic(false) }

        init() throws {
            var template = Array("/tmp/ringway-upgrade-XXXXXX".utf8CString)
            let folder = String(cString: mkdtemp(&template))
            self.folder = folder
            let texts = ["a", "b"].map { "vhost-user:\(folder)/\($0)" }
            var options = EngineOptions(ports: try texts.map { try PortSyntax.port($0) }, mode: .switch)
            options.mostPorts = 8
            engine = try Engine(options, logger: Bench.logger)
            try engine.start()
            var settings = Settings(options, texts: texts)
            (settings.control, settings.controlRead) = (SocketPlace(folder + "/ctl"), SocketPlace(folder + "/read"))
            op = Operator(engine, settings, end: { [ended] in ended.isSet.store(true, ordering: .releasing) }) { 0 }
            try op.start()
            drivers = try ["a", "b"].map { try EmbeddedDriver(path: "\(folder)/\($0)") }
        }

        deinit {
            op.stop()
            engine.stop()
            rmdir(folder)
        }

        private static var logger: Logger {
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            return logger
        }

        /// A frame each way.
        func exchange() throws {
            next = next &+ 1
            for (from, to) in [(0, 1), (1, 0)] {
                try drivers[from].send(60 + Int(next))
                #expect(try drivers[to].receive() == 60 + Int(next))
            }
        }

        /// What `ringway forward --upgrade-from` does.
        func follow(by path: String? = nil) throws {
            let successor = try Successor(path ?? control)
            let new = try Engine(successor.settings.engine, logger: Bench.logger)
            try successor.takeOver(new)
            let old = (engine, op, ended)
            #expect(eventually { old.2.isSet.load(ordering: .acquiring) })
            #expect(old.1.hasLeft)
            old.1.stop()
            old.0.stop()
            let ended = Flag()
            (engine, self.ended) = (new, ended)
            op = Operator(
                new, successor.settings, after: successor, end: { ended.isSet.store(true, ordering: .releasing) }
            ) {
                0
            }
            try op.start()
        }
    }

    @Test("one follows another: guests stay, sockets and counters go on, the control socket answers")
    func follows() throws {
        let b = try Bench()
        for _ in 0..<5 {
            try b.exchange()
            try b.follow()
            try b.exchange()
        }
        let client = try ControlClient(b.control)
        let stats = try client.call(Methods.Stats.self, .init())
        #expect(stats.ports.map(\.rx.packets) == [10, 10] && stats.ports.map(\.tx.packets) == [10, 10])
        // Broadcasts all.
        #expect(stats.ports.allSatisfy { $0.connected && $0.drops.isEmpty })
        // What comes later goes to the one that runs now, and it can be followed again.
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(b.folder)/c"))
        try b.follow()
        #expect(try ControlClient(b.control).call(Methods.ListPorts.self, .init()).ports.map(\.name).count == 3)
        #expect(try ControlClient(b.folder + "/read").call(Methods.ListPorts.self, .init()).ports.count == 3)
        try b.exchange()
    }

    /// Documents that pass before something fails: until the sixth, `go`, is sent the old one goes on as it was, and
    /// before the new one has it, as after a crash.
    @Test(
        "where a step fails the old one goes on, and can be followed", arguments: 0...5,
        [UpgradeRelay.Fault.cut, .nonsense])
    func fails(_ documents: Int, _ fault: UpgradeRelay.Fault) throws {
        let b = try Bench()
        try b.exchange()
        for _ in 0..<3 {
            let relay = try UpgradeRelay(b.folder + "/relay", to: b.control, passing: documents, then: fault)
            #expect(throws: (any Error).self) { try b.follow(by: b.folder + "/relay") }
            relay.wait()
            #expect(relay.passed == documents)
            // The old one answers when it has noticed.
            let ports = try ControlClient(b.control).call(Methods.ListPorts.self, .init()).ports
            #expect(ports.map(\.connected) == [true, true])
            try b.exchange()
        }
        try b.follow()
        try b.exchange()
        #expect(b.engine.snapshot().map(\.rx.packets) == [5, 5])
    }

    @Test("without the last document the new one goes on nevertheless; it has counted nothing")
    func noCounters() throws {
        let b = try Bench()
        try b.exchange()
        let relay = try UpgradeRelay(b.folder + "/relay", to: b.control, passing: 7)
        try b.follow(by: b.folder + "/relay")
        relay.wait()
        try b.exchange()
        #expect(b.engine.snapshot().map(\.rx.packets) == [1, 1])
    }

    @Test("who cannot follow is told why, and nothing has changed: the socket for reading, no socket")
    func refused() throws {
        let b = try Bench()
        func refusal(_ path: String) -> String {
            do {
                _ = try Successor(path)
                return ""
            } catch {
                return "\(error)"
            }
        }
        #expect(refusal(b.folder + "/read").contains("for reading"))
        #expect(refusal(b.folder + "/nothing").contains("/nothing: "))
        try b.exchange()
        try b.follow()
        try b.exchange()
    }
}

private func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<10_000 {
        if condition() { return true }
        usleep(1000)
    }
    return false
}
