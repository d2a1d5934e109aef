import Console
import Foundation
import Glibc
import Logging
import Memory
import Ringway

/// A running engine under the control of whoever may write to its sockets: carries out what they ask for. All of it
/// runs on the server's thread, the program's own calls (`perform`), too.
///
/// Unchecked: see above.
package final class Operator: @unchecked Sendable {
    private let engine: Engine
    private let settings: Settings
    /// What it was started from.
    private let file: String?
    private let manager: ServiceManager?
    private let log = Logger(label: "ringway")
    private let server = ControlServer()
    private let clock: () -> Double
    /// When it began to count.
    private let begin: Double
    /// Ports by name, as they were written.
    private var texts: [String: String]
    private var isEnding = false

    /// `engine` runs, with these settings, which stand in `file`. `manager` is told how it is.
    package init(
        _ engine: Engine, _ settings: Settings, file: String? = nil, manager: ServiceManager? = nil,
        clock: @escaping () -> Double
    ) {
        self.engine = engine
        self.settings = settings
        self.file = file
        self.manager = manager
        self.clock = clock
        begin = clock()
        texts = settings.textsByName
    }

    /// Opens the sockets of the settings. With a file SIGHUP has it read again.
    package func start() throws {
        try startServer()
        manager?.ready(status)
    }

    private func startServer() throws {
        let (place, readPlace) = (settings.control, settings.controlRead)
        if place == nil && readPlace == nil && file == nil && manager?.watchPeriod == nil { return }
        if file != nil {
            Hangup.watch()
            _ = server.watch(Hangup.bell) { [unowned self] in
                _ = EventFD.take(Hangup.bell)
                // Both ways it is in the log.
                _ = try? reload()
            }
        }
        if let manager, let period = manager.watchPeriod { server.every(period) { manager.alive() } }
        try server.start(place, reading: readPlace) { self.answer($0, isReadOnly: $1) }
        for place in [place, readPlace] { if let place { Leftovers.add(socket: place.path) } }
    }

    /// Closes the sockets; the engine goes on, but not for long.
    package func stop() {
        manager?.stopping()
        server.stop()
    }

    /// For the service manager.
    private var status: String { "\(settings.engine.mode.name), \(engine.portOptions.count) ports" }

    /// For the program's own calls of the engine.
    package func perform<Answer>(_ work: @escaping (Engine) -> Answer) -> Answer {
        server.perform { work(self.engine) }
    }

    private func answer(_ line: Data, isReadOnly: Bool) -> String? {
        let text = RPC.answer(line) { name, params throws(RPC.Failure) in
            guard let method = self.methods.first(where: { $0.name == name }) else {
                throw .method(
                    "\(name): there is no such method; "
                        + self.methods.map(\.name).joined(separator: ", ") + " are")
            }
            if isReadOnly && !method.isReading {
                throw .readOnly("\(name): this socket is for reading; use the one of --control")
            }
            return try method.run(params)
        }
        // When the answer is on its way: as a signal from outside would end the program.
        if isEnding { server.afterwards { kill(getpid(), SIGTERM) } }
        return text
    }

    private lazy var methods: [MethodEntry] = [
        MethodEntry(Methods.Version.self) { _ in .init(version: Version.text, api: 1, pid: Int(getpid())) },
        MethodEntry(Methods.ListPorts.self) { [unowned self] _ in .init(ports: ports) },
        MethodEntry(Methods.AddPort.self) { [unowned self] params throws(RPC.Failure) in try add(params.port) },
        MethodEntry(Methods.RemovePort.self) { [unowned self] params throws(RPC.Failure) in try remove(params.name) },
        MethodEntry(Methods.SetPort.self) { [unowned self] params throws(RPC.Failure) in try set(params) },
        MethodEntry(Methods.Stats.self) { [unowned self] _ in record },
        MethodEntry(Methods.ListAddresses.self) { [unowned self] _ throws(RPC.Failure) in try addresses() },
        MethodEntry(Methods.ClearAddresses.self) { [unowned self] params throws(RPC.Failure) in try clear(params) },
        MethodEntry(Methods.LogLevel.self) { params throws(RPC.Failure) in try Operator.setLevel(params.level) },
        MethodEntry(Methods.Reload.self) { [unowned self] _ throws(RPC.Failure) in try reload() },
        MethodEntry(Methods.Export.self) { [unowned self] _ in
            .init(config: settings.file(ports: ports.map(\.port)))
        },
        MethodEntry(Methods.Shutdown.self) { [unowned self] _ in
            isEnding = true
            return Nothing()
        },
    ]

    // MARK: Ports

    private var ports: [Methods.Port] {
        let options = Dictionary(uniqueKeysWithValues: engine.portOptions.map { ($0.place, $0.options) })
        return engine.snapshot().compactMap { port in
            options[port.place].map { o in
                Methods.Port(
                    name: port.name, port: texts[port.name] ?? port.name, place: port.place, up: port.isUp,
                    connected: port.isConnected, queues: o.queuePairs, mtu: o.mtu.map(Int.init),
                    mac: o.address?.description)
            }
        }
    }

    private func port(_ name: String) throws(RPC.Failure) -> Methods.Port {
        if let port = ports.first(where: { $0.name == name }) { return port }
        throw .refused(
            "\(name): there is no such port; "
                + (ports.isEmpty ? "there is none" : "there are \(ports.map(\.name).joined(separator: ", "))"))
    }

    private func add(_ text: String) throws(RPC.Failure) -> Methods.Port {
        let options: PortOptions
        do throws(EngineError) { options = try PortSyntax.port(text) } catch { throw .refused("\(error)") }
        do throws(EngineError) { try engine.open(options) } catch {
            throw .refused(Sandbox.explain("\(error)", [options]))
        }
        texts[options.name] = text
        manager?.status(status)
        return try port(options.name)
    }

    private func remove(_ name: String) throws(RPC.Failure) -> PeriodRecord.Port {
        do throws(EngineError) {
            let last = try engine.close(name)
            texts[name] = nil
            manager?.status(status)
            return PeriodRecord.Port(last, max(clock() - begin, 1e-9))
        } catch {
            throw .refused("\(error)")
        }
    }

    /// One after the other, up to the first that is refused.
    private func set(_ params: Methods.SetPort.Params) throws(RPC.Failure) -> Methods.Port {
        let name = params.name
        if params.up == nil && params.busyloop == nil && params.mtu == nil && params.announce == nil {
            throw .parameters("port.set: nothing is to be set; give up, busyloop, mtu or announce")
        }
        if params.announce == false { throw .parameters("port.set: announce: write true, or leave it out") }
        do throws(EngineError) {
            if let busyloop = params.busyloop { try engine.setBusyloop(try PortSyntax.busyloop(busyloop), port: name) }
            if let mtu = params.mtu { try setMTU(mtu, name) }
            if let up = params.up { try engine.setUp(up, port: name) }
            if params.announce == true { try engine.requestAnnouncement(port: name) }
        } catch {
            throw .refused("\(error)")
        }
        return try port(name)
    }

    /// What is exported has the MTU of now.
    private func setMTU(_ mtu: Int, _ name: String) throws(EngineError) {
        guard let bytes = UInt16(exactly: mtu) else { throw EngineError("\(name): mtu=\(mtu); 68 to 65535 bytes") }
        if try !engine.setMTU(bytes, port: name) {
            log.notice("\(name): mtu=\(mtu) is for a driver that begins; the one that runs has accepted another")
        }
        guard let text = texts[name] else { return }
        let others = text.split(separator: ",").filter { !$0.hasPrefix("mtu=") }
        texts[name] = (others + ["mtu=\(mtu)"]).joined(separator: ",")
    }

    // MARK: The file

    /// Reads the file again, and makes its ports those of the engine: all or nothing.
    private func reload() throws(RPC.Failure) -> Methods.Reload.Answer {
        manager?.reloading()
        do {
            guard let file else {
                throw RPC.Failure.refused("it was not started from a file; start it with `ringway run --config FILE`")
            }
            let read = try SettingsFile(file)
            try checkSame(read)
            var change = PortChange(engine, texts, to: read.settings)
            do throws(EngineError) { try change.apply() } catch {
                throw read.explain(Sandbox.explain("\(error)", read.settings.engine.ports))
            }
            texts = read.settings.textsByName
            LogLevel.current = read.settings.logLevel
            log.notice(
                """
                \(file): read again; ports added: \(change.added), removed: \(change.removed), \
                changed: \(change.changed)
                """
            )
            manager?.ready(status)
            return .init(added: change.added, removed: change.removed, changed: change.changed)
        } catch {
            manager?.ready("\(status); nothing has changed: \(error)")
            log.error("nothing has changed: \(error)")
            throw error as? RPC.Failure ?? .refused("\(error)")
        }
    }

    /// Only ports and the log's level change while it runs.
    private func checkSame(_ read: SettingsFile) throws(FileError) {
        let (a, b) = (settings, read.settings)
        let keys: [(String, Bool)] = [
            ("mode", a.engine.mode == b.engine.mode), ("cpus", a.engine.cpus == b.engine.cpus),
            ("threads", a.engine.unpinnedThreads == b.engine.unpinnedThreads),
            ("busyloop", a.engine.busyloop == b.engine.busyloop), ("pacing", a.engine.pacing == b.engine.pacing),
            ("mac_ageing", a.engine.macAgeing == b.engine.macAgeing),
            ("max_ports", a.engine.mostPorts == b.engine.mostPorts), ("control", a.control == b.control),
            ("control_read", a.controlRead == b.controlRead), ("sandbox", a.isConfined == b.isConfined),
            ("allow", a.allowed == b.allowed),
        ]
        if let key = keys.first(where: { !$0.1 })?.0 {
            throw read.refusal(
                of: key,
                "it cannot change while ringway runs; ports and log_level can. Restart ringway, or undo the change")
        }
    }

    private var record: PeriodRecord {
        PeriodRecord(engine.snapshot(), engine.queueTimes(), engine.threadSnapshots(), seconds: clock() - begin)
    }

    // MARK: The switch

    private func checkSwitch() throws(RPC.Failure) {
        if engine.options.mode != .switch {
            throw .refused("the mode is not switch, which alone knows addresses; start ringway with --mode switch")
        }
    }

    private func addresses() throws(RPC.Failure) -> Methods.ListAddresses.Answer {
        try checkSwitch()
        let names = Dictionary(uniqueKeysWithValues: engine.portOptions.map { ($0.place, $0.options.name) })
        return .init(
            addresses: engine.macTable().compactMap { a in
                names[a.port].map {
                    .init(
                        mac: a.mac.description, vlan: a.vlan.map(Int.init), port: $0, kind: a.kind.rawValue, age: a.age)
                }
            })
    }

    private func clear(_ params: Methods.ClearAddresses.Params) throws(RPC.Failure) -> Methods.ClearAddresses.Answer {
        try checkSwitch()
        let place = try params.port.map { name throws(RPC.Failure) in try port(name).place }
        if let vlan = params.vlan, !(0...4094).contains(vlan) {
            throw .parameters("switch.clear: vlan: \(vlan): write 0 to 4094")
        }
        return .init(cleared: engine.clearAddresses(port: place, vlan: params.vlan.map { UInt16($0) }))
    }

    private static func setLevel(_ name: String?) throws(RPC.Failure) -> Methods.LogLevel.Answer {
        if let name {
            guard let level = Logger.Level(rawValue: name) else {
                throw .parameters("log.level: level: \(name): write \(LogLevel.names)")
            }
            LogLevel.current = level
        }
        return .init(level: LogLevel.current.rawValue)
    }
}
