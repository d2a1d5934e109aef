/// Ports that come, change and go while packets flow. Other ports go on: poll threads learn of it between two bursts.
extension Engine {
    /// The ports of now, by their places: the numbers by which packet functions know them. Those of the options come
    /// first; one that was removed leaves its place free. Empty where the engine does not run.
    public var portOptions: [(place: Int, options: PortOptions)] {
        ports.compactMap { port in port.map { ($0.port.index, $0.options) } }
    }

    /// Adds a port and returns its place, the first that is free. A server's socket listens when this returns. Throws,
    /// and nothing has changed, where the port cannot be or another one has its name.
    ///
    /// ```swift
    /// try engine.add(PortOptions(.null(name: "sink", emit: nil)))
    /// let last = try engine.remove("null:sink")
    /// print(last.tx.packets)
    /// ```
    @discardableResult
    public func add(_ options: PortOptions) throws(EngineError) -> Int {
        guard let core else {
            throw EngineError("\(options.name): the engine does not run; a port is added to one that does")
        }
        let place = try freePlace(for: options, core)
        let port = PlacedPort(try makePort(place, options, core), serial: serial)
        serial += 1
        if place == ports.count {
            ports.append(port)
            core.setPortCount(ports.count)
        } else {
            ports[place] = port
        }
        tellSwitch(core)
        do throws(EngineError) { try port.port.start() } catch {
            _ = takeOut(port, core)
            throw error
        }
        return place
    }

    /// Removes a port by its name (`PortOptions.name`): its connection ends, its socket goes, its descriptors and
    /// mappings are closed. Packets that are on their way to it are delivered or dropped; returns its counters of then.
    /// Throws, and nothing has changed, where there is no such port or others' options name it.
    @discardableResult
    public func remove(_ name: String) throws(EngineError) -> PortSnapshot {
        let (core, port) = try find(name)
        if let other = portOptions.first(where: {
            [$0.options.switching.mirrorIn, $0.options.switching.mirrorOut].contains(name)
        }) {
            throw EngineError("\(name): \(other.options.name) sends its copies there (mirror=); remove that port first")
        }
        return takeOut(port, core)
    }

    /// Lets packets of a port pass, or none: it receives nothing, and what its driver sends is dropped ("receiver not
    /// ready"). Its connection stays. The driver of a vhost-user port sees its link go down and come up (`status` of
    /// the configuration space, 5.1.4; CONFIG_CHANGE where the front-end has negotiated CONFIG and BACKEND_REQ). A port
    /// is up when it is added.
    public func setUp(_ isUp: Bool, port name: String) throws(EngineError) {
        let (core, port) = try find(name)
        ports[port.port.index]?.isUp = isUp
        port.port.perform {
            core.setUp(isUp, port: port.port.index, pairs: port.port.queuePairs)
            port.port.linkChanged(isUp: isUp)
        }
    }

    /// Gives a vhost-user port another MTU, in bytes. A driver that has accepted one (VIRTIO_NET_F_MTU) keeps it until
    /// it begins again, as the specification has it (5.1.4.1); returns false then. A front-end that knew of none
    /// before learns that there is one when it connects. Throws for other kinds of port and for less than 68 bytes.
    @discardableResult
    public func setMTU(_ mtu: UInt16, port name: String) throws(EngineError) -> Bool {
        let device = try deviceTaking(mtu, name)
        ports[device.index]?.setMTU(mtu)
        var isInForce = false
        device.perform { isInForce = device.changeMTU(to: mtu) }
        return isInForce
    }

    /// Throws what `setMTU` would.
    package func checkMTU(_ mtu: UInt16, port name: String) throws(EngineError) { _ = try deviceTaking(mtu, name) }

    private func deviceTaking(_ mtu: UInt16, _ name: String) throws(EngineError) -> Port {
        guard let device = try find(name).1.port as? Port else {
            throw EngineError("\(name): only a vhost-user port's MTU can be changed while it runs")
        }
        if mtu < 68 { throw EngineError("\(name): mtu=\(mtu); at least 68 bytes") }
        return device
    }

    /// Has a null port send frames of so many bytes from now on, 14 to 9216 without CRC; nil: none. Packets that it has
    /// sent reach whom they were for first. Throws, and nothing has changed, for another size and another kind of port.
    ///
    /// ```swift
    /// try engine.setEmit(1500, port: "null:source")
    /// ```
    public func setEmit(_ size: Int?, port name: String) throws(EngineError) {
        let (_, port) = try find(name)
        guard let null = port.port as? NullPort else {
            throw EngineError("\(name): emit= goes with a null port, which alone makes frames of its own")
        }
        try null.emit(size)
        ports[null.index]?.setEmit(size)
    }

    /// Asks the driver of a vhost-user port to tell the network where it is (VIRTIO_NET_S_ANNOUNCE, 5.1.6.5.4). Throws
    /// where it cannot be asked.
    public func requestAnnouncement(port name: String) throws(EngineError) {
        let (_, port) = try find(name)
        guard let device = port.port as? Port else {
            throw EngineError("\(name): only the driver of a vhost-user port can be asked for announcements")
        }
        var reason: String?
        device.perform { reason = device.requestAnnouncement() }
        if let reason { throw EngineError("\(name): no announcement: \(reason)") }
    }

    /// Gives a port's queues another busyloop budget; nil: the engine's. Throws for one that was started with `poll`,
    /// which watches no kicks, and for the kernel's, whose budget is set when it starts.
    public func setBusyloop(_ budget: BusyloopBudget?, port name: String) throws(EngineError) {
        try checkBusyloop(budget, port: name)
        let (core, port) = try find(name)
        ports[port.port.index]?.setBusyloop(budget)
        setBusyloop(budget ?? core.busyloop, of: port.port, core)
    }

    /// Throws what `setBusyloop` would.
    package func checkBusyloop(_ budget: BusyloopBudget?, port name: String) throws(EngineError) {
        let (core, port) = try find(name)
        try Engine.check(budget, name)
        // As it was started, whatever it was given since.
        if core.budget(port.port.options) == .poll && budget ?? core.busyloop != .poll {
            throw EngineError("\(name): it was started with busyloop=poll, and watches no kicks; remove and add it")
        }
        if port.options.kind.isKernel {
            throw EngineError("\(name): vhost's own budget is set when it starts; remove and add it")
        }
    }

    /// Has other poll threads serve a port's queue pairs: pair k the k-th of these numbers, counted round
    /// (`PortOptions.threads`); none: as the engine chooses by itself. Each thread lets go of its pairs between two
    /// bursts; the order of packets stays, and none is lost. (A burst with packets for several pairs that change their
    /// threads in the same microseconds may lose these, as "receiver not ready".) Other ports go on. Throws, and
    /// nothing has changed, where there is no such port or thread.
    ///
    /// ```swift
    /// try engine.setThreads([0], port: ports[0].name)
    /// print(engine.pairThreads(port: ports[0].name))
    /// ```
    public func setThreads(_ threads: [Int], port name: String) throws(EngineError) {
        let (core, port) = try find(name)
        try Engine.check(threads: threads, of: core.threads.count, name)
        let place = port.port.index
        ports[place]?.setThreads(threads)
        port.port.perform {
            core.assign(threads, port: place)
            core.moveToAssigned(port: place, pairs: port.port.queuePairs)
        }
    }

    /// The poll thread that serves each queue pair of a port now; empty where there is no such port.
    public func pairThreads(port name: String) -> [Int] {
        guard let (core, port) = try? find(name) else { return [] }
        return core.pairs(of: port.port).map { Int($0.pointee.owner) }
    }

    func find(_ name: String) throws(EngineError) -> (EngineCore, PlacedPort) {
        guard let core else { throw EngineError("\(name): the engine does not run, and has no ports") }
        if let port = ports.compactMap(\.self).first(where: { $0.options.name == name }) { return (core, port) }
        let names = portOptions.map(\.options.name)
        throw EngineError(
            "\(name): there is no such port; "
                + (names.isEmpty ? "there is none" : "there are \(names.joined(separator: ", "))"))
    }

    /// Whether these could be added beside all ports of now.
    package func hasRoom(for new: [PortOptions]) -> Bool {
        guard let core else { return false }
        let all = portOptions.map(\.options) + new
        return all.count <= core.places && (try? Engine.checkSwitch(all, options.mode)) != nil
    }

    /// Checks a port that is to be added.
    private func freePlace(for new: PortOptions, _ core: EngineCore) throws(EngineError) -> Int {
        try Engine.check(new)
        try Engine.check(threads: new.threads, of: core.threads.count, new.name)
        let all = portOptions.map(\.options)
        if all.contains(where: { $0.name == new.name }) {
            throw EngineError("\(new.name): there is such a port already; each needs a path or name of its own")
        }
        try Engine.checkSwitch(all + [new], options.mode)
        let place = ports.firstIndex { $0 == nil } ?? ports.count
        if place >= core.places {
            throw EngineError(
                "\(new.name): there are \(all.count) ports, and there is room for no more (EngineOptions.mostPorts)")
        }
        return place
    }

    /// Of a port that came, is about to go, or has other options.
    func tellSwitch(_ core: EngineCore) {
        if options.mode != .switch { return }
        let judgesAgain = !ports.contains { $0?.options.countsPackets == true }
        core.setMembers(ports.map { $0?.options.member }, ageing: macAgeing, judgesAgain: judgesAgain)
    }

    private func takeOut(_ port: PlacedPort, _ core: EngineCore) -> PortSnapshot {
        let place = port.port.index
        endCaptures(core, .portRemoved) { $0.port == place }
        let isConnected = port.port.isConnected
        let pairs = core.pairs(of: port.port)
        port.port.stop()
        ports[place] = nil
        tellSwitch(core)
        var last = snapshot(port, pairs: [])
        core.takeOut(port: place) { last = snapshot(port, pairs: pairs) }
        port.port.dispose()
        core.clearPlace(place)
        last.isConnected = isConnected
        let count = (ports.lastIndex { $0 != nil } ?? -1) + 1
        if count < ports.count {
            ports.removeLast(ports.count - count)
            core.setPortCount(count)
        }
        return last
    }
}
