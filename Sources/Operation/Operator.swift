import Console
import Foundation
import Glibc
import Logging
import Memory
import Ringway

/// A running engine under the control of whoever may write to its sockets: carries out what they ask for. All of it
/// runs on the server's thread, the program's own calls (`perform`), too.
///
/// Unchecked: all of it is the server's thread's. Who asks for metrics, on a thread of the HTTP server's, has no more
/// of it than a way to have that thread run something (`ControlServer.post`).
package final class Operator: @unchecked Sendable {
    private let engine: Engine
    private var settings: Settings
    /// What it was started from.
    private let file: String?
    private let manager: ServiceManager?
    /// What was there before, of the ringway in whose place this one goes on.
    private let inheritance: Upgrade.Handed?
    /// Ends the program in order.
    private let end: () -> Void
    private let log = Logger(label: "ringway")
    private let server = ControlServer()
    private let watchdog: Watchdog
    private let metricsFD: Int32?
    private var metrics: MetricsServer?
    private var lastMetrics: (time: Double, isOpenMetrics: Bool, text: String)?
    private let clock: () -> Double
    /// When it began to count.
    private let begin: Double
    /// Ports by name, as they were written.
    private var texts: [String: String]
    private var isEnding = false
    /// Another process goes on in this one's place.
    package private(set) var hasLeft = false

    /// `engine` runs, with these settings, which stand in `file`. `manager` is told how it is; `end` ends the program
    /// in order, as a signal from outside would. After a successor took over, it says what it found. `metrics`: what
    /// listens at the settings' place for them; nil: it is opened by `start`.
    package init(
        _ engine: Engine, _ settings: Settings, file: String? = nil, manager: ServiceManager? = nil,
        after successor: Successor? = nil, metrics: Int32? = nil,
        end: @escaping () -> Void = { kill(getpid(), SIGTERM) }, clock: @escaping () -> Double
    ) {
        inheritance = successor?.inherit()
        self.end = end
        self.engine = engine
        self.settings = settings
        self.file = file
        self.manager = manager
        metricsFD = metrics
        self.clock = clock
        begin = inheritance?.begin ?? clock()
        texts = settings.textsByName
        watchdog = Watchdog(engine, log)
    }

    /// Opens the sockets of the settings. With a file SIGHUP has it read again.
    package func start() throws {
        try startServer()
        // The file may have changed since the other one read it; how that went is in the log.
        if inheritance != nil && file != nil { _ = server.perform { try? self.reload() } }
        manager?.ready(status)
    }

    private func startServer() throws {
        let (place, readPlace) = (settings.control, settings.controlRead)
        if place == nil && readPlace == nil && settings.metrics == nil && file == nil && manager?.watchPeriod == nil {
            return
        }
        if file != nil {
            Hangup.watch()
            _ = server.watch(Hangup.bell) { [unowned self] in
                _ = EventFD.take(Hangup.bell)
                // Both ways it is in the log.
                _ = try? reload()
            }
        }
        if let manager, let period = manager.watchPeriod {
            // A thread that is late once has another chance before the manager loses its patience.
            let often = max(1, period / 2)
            server.every(often) { [unowned self] in
                if watchdog.threadsComeRound(within: often) { manager.alive() }
            }
        }
        server.every(Watchdog.period) { [unowned self] in watchdog.look() }
        let over = [inheritance?.control, inheritance?.controlRead]
        try server.start(place, reading: readPlace, taking: over) { self.answer($0, isReadOnly: $1) }
        for place in [place, readPlace] { if let place { Leftovers.add(socket: place.path) } }
        do { try startMetrics() } catch {
            server.stop()
            throw error
        }
    }

    private func startMetrics() throws {
        guard let place = settings.metrics else { return }
        let listener = try inheritance?.metrics?.copy() ?? metricsFD ?? place.open()
        metrics = try MetricsServer(place, listener) { [weak self] isOpenMetrics, give in
            self?.server.post { [weak self] in give(self?.metricsText(isOpenMetrics) ?? "") }
        }
        if case .socket(let place) = place { Leftovers.add(socket: place.path) }
        if !place.isLocal { log.warning("metrics: whoever reaches \(place.text) can read them") }
    }

    /// On the server's thread. It is made anew when the last one is old: who asks often does not keep the thread busy.
    private func metricsText(_ isOpenMetrics: Bool) -> String {
        if let last = lastMetrics, last.isOpenMetrics == isOpenMetrics, clock() - last.time < 0.2 { return last.text }
        watchdog.look()
        let text = EngineMetrics(
            counts: EngineCounts(engine), reports: watchdog.reports, busyShares: watchdog.busyShares
        ).text(isOpenMetrics: isOpenMetrics)
        lastMetrics = (clock(), isOpenMetrics, text)
        return text
    }

    /// Closes the sockets; the engine goes on, but not for long.
    package func stop() {
        if !hasLeft { manager?.stopping() }
        // What was asked for is answered first.
        let metrics = self.metrics.take()
        metrics?.stop(removesFile: !hasLeft) { server.perform {} }
        server.stop()
    }

    /// For the service manager.
    private var status: String { "\(settings.engine.mode.name), \(engine.portOptions.count) ports" }

    /// For the program's own calls of the engine.
    package func perform<Answer>(_ work: @escaping (Engine) -> Answer) -> Answer {
        server.perform { work(self.engine) }
    }

    /// Answers a line of a client; nil: nothing is to be said. On the server's thread.
    package func answer(_ line: Data, isReadOnly: Bool) -> String? {
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
        // When the answer is on its way.
        if isEnding { server.afterwards(end) }
        return text
    }

    private lazy var methods: [MethodEntry] = [
        MethodEntry(Methods.Version.self) { _ in .init(version: Version.text, api: 1, pid: Int(getpid())) },
        MethodEntry(Methods.ListPorts.self) { [unowned self] _ in .init(ports: ports) },
        MethodEntry(Methods.AddPort.self) { [unowned self] params throws(RPC.Failure) in try add(params.port) },
        MethodEntry(Methods.RemovePort.self) { [unowned self] params throws(RPC.Failure) in try remove(params.name) },
        MethodEntry(Methods.SetPort.self) { [unowned self] params throws(RPC.Failure) in try set(params) },
        MethodEntry(Methods.Stats.self) { [unowned self] params in
            PeriodRecord(EngineCounts(engine), withCounts: params.counts == true, seconds: clock() - begin)
        },
        MethodEntry(Methods.Why.self) { [unowned self] params throws(RPC.Failure) in try why(params) },
        MethodEntry(Methods.Trace.self) { [unowned self] params throws(RPC.Failure) in try trace(params) },
        MethodEntry(Methods.Capture.self) { [unowned self] params throws(RPC.Failure) in try capture(params) },
        MethodEntry(Methods.ListAddresses.self) { [unowned self] _ throws(RPC.Failure) in try addresses() },
        MethodEntry(Methods.ClearAddresses.self) { [unowned self] params throws(RPC.Failure) in try clear(params) },
        MethodEntry(Methods.SetMode.self) { [unowned self] params throws(RPC.Failure) in try setMode(params) },
        MethodEntry(Methods.LogLevel.self) { params throws(RPC.Failure) in try Operator.setLevel(params.level) },
        MethodEntry(Methods.Reload.self) { [unowned self] _ throws(RPC.Failure) in try reload() },
        MethodEntry(Methods.Export.self) { [unowned self] _ in
            .init(config: settings.file(ports: ports.map(\.port)))
        },
        MethodEntry(Methods.Upgrade.self) { [unowned self] _ throws(RPC.Failure) in try offer() },
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
                    mac: o.address?.description, threads: engine.pairThreads(port: port.name))
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

    /// All of it; nothing where a part is refused.
    private func set(_ params: Methods.SetPort.Params) throws(RPC.Failure) -> Methods.Port {
        if params.isEmpty {
            throw .parameters(
                "port.set: nothing is to be set; give up, busyloop, mtu, announce, threads, cpus or options")
        }
        if params.announce == false { throw .parameters("port.set: announce: write true, or leave it out") }
        if params.threads != nil && params.cpus != nil {
            throw .parameters("port.set: threads or cpus: they say the same in two ways")
        }
        _ = try port(params.name)
        do throws(EngineError) { try change(params.name, params) } catch { throw .refused("\(error)") }
        return try port(params.name)
    }

    private func change(_ name: String, _ params: Methods.SetPort.Params) throws(EngineError) {
        guard let old = texts[name], let before = engine.portOptions.first(where: { $0.options.name == name })?.options
        else { return }
        // What can be refused comes first.
        let mtu = try params.mtu.map { bytes throws(EngineError) in try checkedMTU(bytes, name) }
        let text = try changed(old, name, by: try changes(params))
        if text != old { try engine.retune(name, to: try PortSyntax.port(text)) }
        if params.announce == true {
            do throws(EngineError) { try engine.requestAnnouncement(port: name) } catch {
                try engine.retune(name, to: before)
                throw error
            }
        }
        texts[name] = text
        if let mtu { try setMTU(mtu, name) }
        if let up = params.up { try engine.setUp(up, port: name) }
    }

    /// What options are to be, as `--port` takes them.
    private func changes(_ params: Methods.SetPort.Params) throws(EngineError) -> [Substring] {
        var changes: [Substring] = []
        if let busyloop = params.busyloop {
            _ = try PortSyntax.busyloop(busyloop)
            changes.append("busyloop=\(busyloop)")
        }
        var threads = params.threads
        if let cpus = params.cpus { threads = try self.threads(cpus) }
        if let threads {
            changes.append("threads=\(threads.map(String.init).joined(separator: "+"))")
        }
        return changes + (params.options?.split(separator: ",", omittingEmptySubsequences: false) ?? [])
    }

    /// The poll threads that are pinned to these CPUs.
    private func threads(_ cpus: [Int]) throws(EngineError) -> [Int] {
        let all = engine.options.cpus
        var threads: [Int] = []
        for cpu in cpus {
            guard let thread = all.firstIndex(of: cpu) else {
                throw EngineError(
                    "CPU \(cpu): no poll thread is pinned to it; "
                        + (all.isEmpty
                            ? "none is pinned to any, so give threads"
                            : "some are to \(all.map(String.init).joined(separator: ", "))"))
            }
            threads.append(thread)
        }
        return threads
    }

    /// A port's text with options in place of those of the same names. What is exported has them, too.
    private func changed(_ text: String, _ name: String, by changes: [Substring]) throws(EngineError) -> String {
        var text = text
        for change in changes {
            let option = String(change.prefix { $0 != "=" })
            if option.count == change.count {
                throw EngineError("\(name): '\(change)': options are written name=value; name= takes one away")
            }
            if !PortSyntax.changeable.contains(option) {
                throw EngineError(
                    "\(name): '\(option)' cannot change while the port runs; "
                        + "\(PortSyntax.changeable.joined(separator: ", ")) can")
            }
            text = Operator.text(text, with: change)
        }
        return text
    }

    /// A port's text with an option, `name=value`, behind the others and in place of the one of its name; without a
    /// value: without it.
    private static func text(_ text: String, with option: Substring) -> String {
        let name = option.prefix { $0 != "=" } + "="
        let others = text.split(separator: ",", omittingEmptySubsequences: false).filter { !$0.hasPrefix(name) }
        return (name == option ? others : others + [option]).joined(separator: ",")
    }

    private func setMode(_ params: Methods.SetMode.Params) throws(RPC.Failure) -> Methods.SetMode.Answer {
        if params.macAgeing != nil && params.size != nil {
            throw .parameters("mode.set: mac_ageing is of mode switch, size of generate: no mode has both")
        }
        do throws(EngineError) {
            if let seconds = params.macAgeing { try engine.setMACAgeing(seconds) }
            if let size = params.size { try engine.setGeneratedSize(size) }
        } catch {
            throw .refused("\(error)")
        }
        noteMode()
        let mode = settings.engine.mode
        return .init(
            mode: mode.name, macAgeing: mode == .switch ? engine.macAgeing : nil, size: engine.generatedSize)
    }

    /// What is exported has what was changed of the mode.
    private func noteMode() {
        settings.engine.macAgeing = engine.macAgeing
        if let size = engine.generatedSize { settings.engine.mode = .generate(size: size) }
    }

    private func checkedMTU(_ mtu: Int, _ name: String) throws(EngineError) -> UInt16 {
        guard let bytes = UInt16(exactly: mtu) else { throw EngineError("\(name): mtu=\(mtu); 68 to 65535 bytes") }
        try engine.checkMTU(bytes, port: name)
        return bytes
    }

    /// What is exported has the MTU of now.
    private func setMTU(_ mtu: UInt16, _ name: String) throws(EngineError) {
        if try !engine.setMTU(mtu, port: name) {
            log.notice("\(name): mtu=\(mtu) is for a driver that begins; the one that runs has accepted another")
        }
        texts[name] = texts[name].map { Operator.text($0, with: "mtu=\(mtu)") }
    }

    /// What queues wait for: all, those of a port, or one.
    private func why(_ params: Methods.Why.Params) throws(RPC.Failure) -> Methods.Why.Answer {
        if let name = params.port { _ = try port(name) }
        watchdog.look()
        let all = watchdog.reports.filter { params.port == nil || $0.port == params.port }
        guard let queue = params.queue else { return .init(queues: all) }
        guard let name = params.port else { throw .parameters("queue.why: queue: give the port, too") }
        let one = all.filter { $0.queue == queue }
        if one.isEmpty && !all.isEmpty {
            throw .refused("\(name): queue \(queue): there is no such queue; 0 to \(all.count - 1) are")
        }
        return .init(queues: one)
    }

    /// What has happened to a port's queues, or to one of them.
    private func trace(_ params: Methods.Trace.Params) throws(RPC.Failure) -> Methods.Trace.Answer {
        _ = try port(params.port)
        watchdog.look()
        let serial = engine.snapshot().first { $0.name == params.port }?.serial
        let all = serial.map(watchdog.events) ?? []
        let wanted = all.filter { params.queue == nil || $0.queue == params.queue }
        if wanted.isEmpty && !all.isEmpty {
            throw .refused(
                "\(params.port): queue \(params.queue ?? 0): there is no such queue; 0 to \(all.count - 1) are")
        }
        return .init(queues: wanted.map { .init(queue: $0.queue, events: $0.events) })
    }

    /// As long as the connection is there that asks for it.
    private func capture(_ params: Methods.Capture.Params) throws(RPC.Failure) -> Methods.Capture.Answer {
        let snap = params.snap ?? 256
        let capture: EngineCapture
        do throws(EngineError) {
            capture = try engine.startCapture(port: params.port, queue: params.queue, snap: snap)
        } catch {
            throw .refused("\(error)")
        }
        let memory = capture.memory
        server.lend(memory.descriptor) { [unowned self] in engine.endCapture(memory) }
        return .init(
            layout: CaptureMemory.version, threads: memory.threads, ringBytes: memory.ringBytes, snap: snap,
            causes: capture.causes)
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
            try read.checkSame(settings)
            var change = PortChange(engine, texts, to: read.settings)
            do throws(EngineError) { try change.apply() } catch {
                throw read.explain(Sandbox.explain("\(error)", read.settings.engine.ports))
            }
            // Their modes are the same, and the reader has checked the values.
            if settings.engine.mode == .switch { try engine.setMACAgeing(read.settings.engine.macAgeing) }
            if case .generate(let size) = read.settings.engine.mode { try engine.setGeneratedSize(size) }
            noteMode()
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

    // MARK: Upgrade

    /// Says what runs; what follows is between this program and the one that asks.
    private func offer() throws(RPC.Failure) -> Methods.Upgrade.Answer {
        guard let user = server.speaker.flatMap({ UpgradeChannel.peer(of: $0) })?.user, [0, geteuid()].contains(user)
        else { throw .refused("upgrade: this user may not have guests' memory; root and the user of ringway may") }
        server.bequeath { [unowned self] in handOver(to: $0) }
        return .init(
            upgrade: Upgrade.version, version: Version.text, config: settings.file(ports: ports.map(\.port)),
            manager: manager?.variables ?? [:])
    }

    private func handOver(to socket: OwnedDescriptor) {
        let channel = UpgradeChannel(socket)
        log.notice("process \(channel.peer?.process ?? 0) asks to go on in this one's place")
        let predecessor = Predecessor(engine: engine, channel: channel, manager: manager) { isOurs in
            for path in self.paths { if isOurs { Leftovers.add(socket: path) } else { Leftovers.forget(socket: path) } }
        }
        do {
            let pause = try predecessor.handOver { state in
                let listening = try self.server.listening()
                return Upgrade.Handed(
                    engine: state, control: listening[0], controlRead: listening[1],
                    metrics: try self.metrics.map { try OwnedDescriptor(copyOf: $0.listener) }, begin: self.begin)
            }
            hasLeft = true
            server.leave()
            log.notice("another process goes on in this one's place; packets stood still for \(pause)")
            end()
        } catch {
            log.error("the upgrade has failed, and this process goes on: \(error)")
        }
    }

    /// Of all sockets that listen.
    private var paths: [String] {
        engine.portOptions.compactMap(\.options.kind.listeningPath)
            + [settings.control, settings.controlRead, settings.metrics?.socketPlace].compactMap { $0?.path }
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
