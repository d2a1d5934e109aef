import CPlatform
import Headers
import VhostUser
import Virtio

/// A running engine on its way to another process, which goes on in its place (docs/upgrade.md). Everything is there
/// twice for a while: descriptors, mappings, positions. Rings run in one place at a time.
///
/// The order is `init`, `stop`, then `leave` or `resume`; or `resume` at once. From `init` on all control threads wait,
/// and the engine's other methods must not be called. One thread, the engine's.
package final class EngineHandover {
    private let engine: Engine
    private let ports: [PlacedPort]
    /// Where the switch's addresses were when `state` was made.
    private let addresses: [AddressState.Key: Int]

    /// What the other process needs; what has changed when rings have stopped is in `stop`'s answer.
    package let state: EngineState

    /// Holds the control threads of ports on the device side. Throws, and nothing has changed, where a port cannot be
    /// handed over.
    package init(_ engine: Engine) throws(EngineError) {
        if engine.core == nil { throw EngineError("the engine does not run; there is nothing to hand over") }
        let ports = engine.ports.compactMap(\.self)
        (self.engine, self.ports) = (engine, ports)
        let guests = ports.compactMap { $0.port as? Port }
        for port in guests {
            port.server.park()
            // A guest cannot refuse its host the upgrade.
            port.server.endIfTruncated()
        }
        // Commands of the driver change what is told here.
        engine.hold(guests, [{ $1 == $0.controlRing }])
        for port in guests { port.isHandingOver = true }
        do {
            let state = EngineState(
                ports: try ports.map {
                    .init(
                        name: $0.options.name, isUp: $0.isUp, guest: try ($0.port as? Port)?.state,
                        devices: $0.port.devices)
                },
                addresses: engine.addressStates(ports))
            addresses = Dictionary(state.addresses.map { ($0.key, $0.port) }, uniquingKeysWith: { $1 })
            self.state = state
        } catch {
            engine.goOn(guests)
            throw EngineError("the state cannot be handed over: \(error)")
        }
    }

    private var guests: [Port] { ports.compactMap { $0.port as? Port } }

    /// Stops all rings at the end of a burst: those that packets come from first, so that none is left without its
    /// receiver. Says where they stand.
    package func stop() -> EnginePlaces {
        engine.hold(guests, [{ $1 % 2 == 1 }, { $1 % 2 == 0 }])
        return EnginePlaces(
            rings: ports.map { ($0.port as? Port)?.server.session?.heldPlaces ?? [:] },
            addresses: engine.addressStates(ports).filter { addresses[$0.key] != $0.port })
    }

    /// What was counted; after `stop`.
    package var counters: EngineCounters {
        EngineCounters(
            ports: ports.map { port in
                .init(
                    pairs: engine.core?.pairs(of: port.port).map { $0.pointee.counters.all } ?? [],
                    stopped: engine.core?.stops[port.port.index].byCause ?? [:])
            })
    }

    /// The other process does not go on: rings start where they stand, and control threads go on.
    package func resume() { engine.goOn(guests) }

    /// The same after `stop` where the other process has died with the rings running there: each goes on where it says
    /// itself, as after a crash.
    package func resumeAfterCrash() {
        for (port, known) in zip(ports, state.ports) {
            guard let guest = port.port as? Port, let ran = known.guest?.server.session?.running else { continue }
            guest.server.session?.forgetPlaces(of: ran)
        }
        engine.goOn(guests)
    }

    /// The other process runs all rings of guests: closes the other ports, which it opens when it has been told what
    /// was counted.
    package func closeOthers() {
        for port in ports where !(port.port is Port) { port.port.stop() }
    }

    /// The other process goes on. Nothing of the ports' sockets is touched; what is left is `Engine.stop`.
    package func leave() {
        for port in guests { port.leave() }
    }
}

/// The other side: an engine that goes on in the place of one of another process. The order is `init`, `check`, then
/// `go`, `count` and `openOthers`, or `leave`; or `leave` at once.
package final class EngineTakeover {
    private let engine: Engine
    private let state: EngineState
    private var places: EnginePlaces?
    /// Of pairs whose rings run there.
    private var threads: [(port: Port, places: [PairPlace])] = []
    /// What `check` has found out.
    private var starts: PortChanges = []

    /// Makes ports and threads of `engine`, which was not started, and maps what they need; no ring starts. All is done
    /// that takes long of their start.
    /// Throws, and nothing is left, where one cannot be taken over.
    package init(_ engine: Engine, _ state: EngineState) throws(EngineError) {
        (self.engine, self.state) = (engine, state)
        let names = engine.options.ports.map(\.name)
        guard state.ports.map(\.name) == names else {
            throw EngineError("the ports \(state.ports.map(\.name)) are handed over; \(names) are expected")
        }
        try engine.start { port throws(EngineError) in
            guard let guest = port as? Port else { return port.adopt(state.ports[port.index].devices) }
            guard let known = state.ports[port.index].guest else {
                throw EngineError("\(port.options.name): nothing of it was handed over")
            }
            do { try guest.adopt(known) } catch { throw EngineError("\(port.options.name): \(error)") }
        }
        for (place, port) in state.ports.enumerated() where !port.isUp { engine.takeDown(place) }
        engine.learn(state.addresses)
        for port in guests {
            guard let session = port.server.session else { continue }
            let changes = session.readyStarts(of: running(of: port))
            session.showPages(of: changes)
            threads.append((port, port.places(for: changes)))
        }
        engine.core?.give(threads.flatMap(\.places))
    }

    /// Rings that ran there.
    private func running(of port: Port) -> [Int] { state.ports[port.index].guest?.server.session?.running ?? [] }

    private var guests: [Port] { engine.ports.compactMap { $0?.port as? Port } }

    /// Throws where a ring that ran there would not start here.
    package func check(_ places: EnginePlaces) throws(EngineError) {
        guard places.rings.count == state.ports.count else {
            throw EngineError("the places of \(places.rings.count) ports were told, of \(state.ports.count)")
        }
        for port in guests {
            guard let session = port.server.session else { continue }
            do throws(VhostUserError) { try session.adopt(places.rings[port.index]) } catch {
                throw EngineError("\(port.options.name): \(error)")
            }
            let changes = session.readyStarts()
            let starting = Set(changes.map(\.ring))
            if let ring = running(of: port).first(where: {
                !starting.contains($0) || places.rings[port.index][$0] == nil
            }) {
                throw EngineError("\(port.options.name): queue \(ring) cannot start")
            }
            starts.append((port, changes))
        }
        self.places = places
    }

    /// The other process has let go of the rings: they start here, those that packets go to first. `tell` is called
    /// when all run, with the nanosecond of CLOCK_MONOTONIC at which they did; what follows has time. Drivers' commands
    /// are carried out after it: until the other process has been told it may go on itself, and knows of none.
    package func go(_ tell: (UInt64) -> Void = { _ in }) {
        engine.learn(places?.addresses ?? [])
        tell(engine.start(starts))
        for port in guests {
            port.isTakenOver = false
            // Commands that came meanwhile.
            port.serveControl()
        }
        for (port, places) in threads { port.tell(places) }
        for port in guests { port.server.release() }
    }

    /// Opens the ports that are not on the device side, after the other process has closed them. One that cannot be
    /// opened is told of in the log, and has to be removed and added again; guests do not wait for it.
    package func openOthers() {
        for port in engine.ports.compactMap({ $0?.port }) where !(port is Port) {
            do throws(EngineError) { try port.start() } catch {
                engine.logger.error("\(port.options.name): could not be opened after the upgrade: \(error)")
            }
        }
    }

    /// What was counted there.
    package func count(_ counters: EngineCounters) {
        guard let core = engine.core else { return }
        for (port, counts) in zip(engine.ports.compactMap(\.self), counters.ports) {
            for (p, words) in zip(core.pairs(of: port.port), counts.pairs) {
                core.onOwner(of: p) { _ in p.pointee.counters.add(words) }
            }
            core.stops[port.port.index].add(counts.stopped)
        }
    }

    /// The other process goes on itself. Ends the engine without touching the ports' sockets.
    package func leave() { engine.stop() }
}

private typealias PortChanges = [(port: Port, changes: [RingChange])]

extension Engine {
    /// Changes of rings of many ports in several steps: one trip to each thread for each step, the next when all
    /// threads have done the one before (`EngineCore.run`). Returns when the last was done.
    @discardableResult
    private func change(
        _ steps: [PortChanges], afterFirst: @escaping () -> Void = {},
        _ note: (BackEndSession, [RingChange], [RingPosition?]) -> Void
    ) -> UInt64 {
        var work = steps.map { _ in ThreadWork() }
        let begun = steps.enumerated().map { step, list in
            // Guests send to what a later step stops until the one before has run.
            list.map { port, changes in (port, changes, port.begin(changes, &work[step], tellsLater: step > 0)) }
        }
        let end = core?.run(work, afterFirst: afterFirst) ?? CPlat_monotonic_ns()
        for (port, changes, conclude) in begun.joined() {
            let positions = conclude()
            if let session = port.server.session { note(session, changes, positions) }
        }
        return end
    }

    /// Stops what runs of these rings, one sort after the other.
    fileprivate func hold(_ guests: [Port], _ sorts: [(Port, Int) -> Bool]) {
        let steps = sorts.map { isWanted in
            guests.map { port in (port: port, changes: port.server.session?.stops { isWanted(port, $0) } ?? []) }
        }
        change(steps) { $0.noteHeld($1, $2) }
    }

    /// Starts rings: control queues, since their drivers have said which pairs they use; then those that packets go to;
    /// when these are known to receive, those that packets come from. Returns when these ran.
    @discardableResult
    fileprivate func start(_ lists: PortChanges) -> UInt64 {
        change([lists.map { port, changes in (port, changes.filter { $0.ring == port.controlRing }) }]) {
            $0.note($1, $2)
        }
        let steps = [0, 1].map { direction in
            lists.map { port, changes in
                (port, changes.filter { $0.ring != port.controlRing && $0.ring % 2 == direction })
            }
        }
        return change(
            steps, afterFirst: { for (port, changes) in steps[0] { port.setReady(changes, where: true) } }
        ) { $0.note($1, $2) }
    }

    /// Starts all rings that can; then control threads go on.
    fileprivate func goOn(_ guests: [Port]) {
        start(guests.map { ($0, $0.server.session?.readyStarts() ?? []) })
        for port in guests {
            port.isHandingOver = false
            port.server.release()
        }
    }

    /// Before rings start, and while control threads wait.
    fileprivate func takeDown(_ place: Int) {
        guard let core, let port = ports[place] else { return }
        ports[place]?.isUp = false
        core.setUp(false, port: place, pairs: port.port.queuePairs)
    }

    // MARK: The switch

    fileprivate func addressStates(_ ports: [PlacedPort]) -> [AddressState] {
        let numbers = Dictionary(uniqueKeysWithValues: ports.enumerated().map { ($1.port.index, $0) })
        return knownAddresses.compactMap { a in
            guard a.kind != .permanent, let port = numbers[a.port] else { return nil }
            return AddressState(
                mac: a.mac.rawValue, vlan: a.vlan, port: port, isSticky: a.kind == .sticky, age: a.age)
        }
    }

    /// Those that were heard of last come first: there may be no room for all.
    fileprivate func learn(_ addresses: [AddressState]) {
        guard let core else { return }
        let now = TickClock.shared.seconds(CPlat_cycles())
        for a in addresses.sorted(by: { $0.age < $1.age }) where a.port < ports.count {
            let heard = now - min(now, UInt32(clamping: a.age))
            core.addresses?.learn(a.mac, port: a.port, seconds: heard)
            core.guarded?.addresses.restore(a.mac, a.vlan, port: a.port, isSticky: a.isSticky, heard: heard)
        }
    }
}

extension AddressState {
    fileprivate struct Key: Hashable {
        var mac: UInt64
        var vlan: UInt16?
    }
    fileprivate var key: Key { Key(mac: mac, vlan: vlan) }
}
