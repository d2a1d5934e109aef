import CPlatform
import Glibc
import Logging
import Memory
import Synchronization
import VhostUser
import Virtio

/// A device-side port: what a vhost-user session drives. Every method of `BackEndDevice` comes from
/// the port's control thread; rings are started and stopped by messages to their poll threads.
final class Port: EnginePort, BackEndDevice {
    let index: Int
    let options: PortOptions
    var features: Features
    let core: EngineCore
    private let log: Logger
    /// Written by poll threads when a ring had to stop.
    let defectFD: Int32
    var server: BackEndServer!
    /// Whether there is a front-end.
    let presence = Atomic(PortPresence.never)

    // The control thread's own
    var configuration: ConfigurationSpace
    /// Whoever runs the engine lets its packets pass.
    var isUp = true
    /// Nil: drivers are not told of one.
    var mtu: UInt16?
    /// Waits for a driver that begins: the one that runs has accepted another.
    var nextMTU: UInt16?
    var acknowledged = Features(rawValue: 0)
    var control: ControlState
    /// What another port has saved of this driver, until its first ring starts: it goes on with that.
    var loaded: DriverState?
    /// What running pairs were told that the driver takes.
    private var appliedOffloads = Features()
    private var controlQueue: ControlQueue?
    private var controlKickFD: Int32 = -1
    /// Of the control queue that runs.
    var controlCalls: (fd: Int32, ring: CallRing)?
    /// Receive rings by pair that run and are enabled.
    private var ready: [Bool]
    private var (logLimit, errorLimit) = (LogLimit(), LogLimit(most: 2 * PairTable.pairsPerPort + 1))
    /// The process that had this port before may still go on with it: commands of its driver wait.
    var isTakenOver = false
    /// Another process is about to have it: rings that stop may start again here, and keep how their drivers are
    /// called, which takes long to make and to give up.
    var isHandingOver = false
    /// Of running rings by number: their call eventfds, and how those are written.
    var callRings: [Int: (fd: Int32, ring: CallRing)] = [:]

    var queuePairs: Int { options.queuePairs }
    var isConnected: Bool { presence.load(ordering: .relaxed) == .now }
    var wasConnected: Bool { presence.load(ordering: .relaxed) != .never }

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) throws(EngineError) {
        self.index = index
        self.options = options
        self.core = core
        log = logger
        features = PortFeatures.offered(options, hasMTU: options.mtu != nil)
        mtu = options.mtu
        configuration = ConfigurationSpace(options)
        control = ControlState(mac: options.mac ?? [UInt8](repeating: 0, count: 6))
        ready = [Bool](repeating: false, count: options.queuePairs)
        defectFD = CPlat_eventfd(0)
        if defectFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
        core.addPairs(port: index, options, defectFD: defectFD)
    }

    /// Opens the socket; returns when it listens (or, as a client, has begun to connect).
    func start() throws(EngineError) {
        server = try makeServer()
        do { try server.start() } catch { throw EngineError("\(error)") }
        server.perform { self.watchDefects() }
    }

    func makeServer() throws(EngineError) -> BackEndServer {
        guard case .vhostUser(let path, let isClient) = options.kind else {
            throw EngineError("\(options.name): not a port on the device side")
        }
        return BackEndServer(path: path, isClient: isClient, access: options.socketAccess, device: self) {
            [unowned self] in say(.info, $0)
        }
    }

    /// On the control thread, or while that waits.
    func watchDefects() {
        server.addDescriptor(defectFD) { [weak self] in
            guard let self else { return }
            _ = EventFD.take(defectFD)
            reportDefects()
        }
    }

    func perform(_ work: @escaping () -> Void) { server?.perform(work) }

    /// Closes the connection and the socket; its rings are stopped afterwards.
    func stop() {
        if isTakenOver { leave() }
        server?.stop()
    }

    /// Another process has, or keeps, the connection and the socket. Rings have stopped.
    func leave() {
        server?.leave()
        server?.release()
    }

    /// After the threads have ended.
    func dispose() {
        // It keeps this port.
        server = nil
        close(defectFD)
    }

    /// Logs, on the control thread. A front-end can cause lines as fast as it sends messages: only so many a second are
    /// written.
    private func say(_ level: Logger.Level, _ text: String, queue: Int? = nil) {
        // Errors, which name stopped queues, have lines of their own: those that only inform cannot use them up.
        let second = CPlat_monotonic_ns() / 1_000_000_000
        let (isTaken, missing) = level >= .error ? errorLimit.next(second) : logLimit.next(second)
        if missing > 0 { log.warning("\(options.name): \(missing) more lines were left out") }
        if isTaken { log.log(level: level, "\(text)", metadata: queue.map { ["queue": "\($0)"] }) }
    }

    // MARK: Rings

    private var controlIndex: Int { acknowledged.contains(.mq) ? 2 * queuePairs : 2 }
    /// The control queue's number; nil: the driver has none.
    var controlRing: Int? { acknowledged.contains(.ctrlVQ) ? controlIndex : nil }

    private func isControl(_ change: RingChange) -> Bool {
        // One that runs stops as what it was, whatever features are said meanwhile.
        change.ring == controlRing
            || controlQueue != nil && change.ring / 2 >= queuePairs
    }

    private func changeControl(_ what: RingChange.What) -> RingPosition? {
        switch what {
        case .start(let start):
            startControl(start)
            return nil
        case .stop: return stopControl()
        case .move(var setup):
            guard let queue = controlQueue else { return nil }
            let (kickFD, callFD) = (controlKickFD, controlCalls?.fd ?? -1)
            setup.position = stopControl()
            startControl(
                RingStart(setup: setup, enabled: true, kickFD: kickFD, callFD: callFD, errFD: queue.errFD))
            return setup.position
        case .update(_, let kickFD, let callFD, let errFD):
            updateControl(kickFD: kickFD, callFD: callFD, errFD: errFD)
            return nil
        }
    }

    private func pair(of ring: Int) -> PairPointer? { ring / 2 < queuePairs ? core.table[index, ring / 2] : nil }

    /// In one trip to each thread that owns one of the rings. Other ports learn before it of a ring that no longer
    /// receives, and after it of one that now does: see `PairTable.activePairs`.
    func change(_ changes: [RingChange]) -> [RingPosition?] {
        var work = ThreadWork()
        let conclude = begin(changes, &work)
        core.run(work)
        return conclude()
    }

    /// Adds what threads have to do for these changes; when they have, the caller calls what this returns.
    /// `tellsLater`: other ports learn only then of rings that no longer receive. No guest sends to them; what others
    /// send is dropped at the ring.
    func begin(
        _ changes: [RingChange], _ work: inout ThreadWork, tellsLater: Bool = false
    ) -> () -> [RingPosition?] {
        if !tellsLater { setReady(changes, where: false) }
        if changes.contains(where: \.isStart) { loaded = nil }
        // Of a port that is taken over it was done for all ports at once.
        if !isTakenOver {
            let places = self.places(for: changes)
            tell(places)
            core.give(places)
        }
        let jobs = changes.map { isControl($0) ? nil : prepare($0, &work) }
        return { [self] in
            let positions = zip(changes, jobs).map { change, job -> RingPosition? in
                guard let job else { return isControl(change) ? changeControl(change.what) : nil }
                return conclude(change, job)
            }
            if tellsLater { setReady(changes, where: false) }
            setReady(changes, where: true)
            return positions
        }
    }

    /// A change on its way: written by the ring's thread, read after its trip.
    private final class Job {
        let pair: PairPointer
        let calls: (fd: Int32, ring: CallRing)?
        var position: RingPosition?
        var isAnyRunning = true
        var stopped: StoppedRing?
        init(_ pair: PairPointer, _ calls: (fd: Int32, ring: CallRing)?) {
            (self.pair, self.calls) = (pair, calls)
        }
    }

    /// Adds what the ring's thread has to do; nil: there is no such ring.
    private func prepare(_ change: RingChange, _ work: inout ThreadWork) -> Job? {
        let (ring, direction) = (change.ring, QueueDirection(queue: change.ring))
        guard let p = pair(of: ring) else { return nil }
        let watches = watchesKick(direction)
        let job: Job
        switch change.what {
        case .start(let start):
            p.pointee.isAnyRunning = true
            job = Job(p, callRings[ring]?.fd == start.callFD ? callRings[ring] : callRing(ring, start.callFD))
            var state = QueueState()
            (state.isEnabled, state.kickFD, state.errFD) = (start.enabled, start.kickFD, start.errFD)
            state.calls = job.calls?.ring.calls ?? Calls()
            let (queue, offloads) = (GuestRing(start.setup.of(direction)), receiveOffloads)
            appliedOffloads = offloads
            work.add(core.owner(of: p).index) { thread in
                p.pointee.receiveOffloads = offloads
                thread.startRing(p, direction, queue, state, watchesKick: watches)
            }
        case .stop:
            job = Job(p, nil)
            work.add(core.owner(of: p).index) { thread in
                // A defect of a moment ago is not forgotten with the ring.
                job.stopped = thread.takeDefect(p, direction)
                job.position = thread.stopRing(p, direction)
                job.isAnyRunning = p.pointee.transmit.isRunning || p.pointee.receive.isRunning
            }
        case .move(let setup):
            job = Job(p, callRings[ring])
            work.add(core.owner(of: p).index) { thread in
                job.stopped = thread.takeDefect(p, direction)
                job.position = thread.moveRing(p, direction, to: setup.of(direction), watchesKick: watches)
            }
        case .update(let enabled, let kickFD, let callFD, let errFD):
            job = Job(p, callRings[ring]?.fd == callFD ? callRings[ring] : callRing(ring, callFD))
            let calls = job.calls?.ring.calls ?? Calls()
            work.add(core.owner(of: p).index) { thread in
                thread.updateRing(
                    p, direction, enabled: enabled, calls: calls, kickFD: kickFD, errFD: errFD,
                    watchesKick: watches)
            }
        }
        return job
    }

    /// Its thread has made the change, and has let go of what was before.
    private func conclude(_ change: RingChange, _ job: Job) -> RingPosition? {
        job.pair.pointee.isAnyRunning = job.isAnyRunning
        if case .stop = change.what, isHandingOver {} else { callRings[change.ring] = job.calls }
        if let stopped = job.stopped, !stopped.defect.isMiss {
            core.stops[index].note(stopped.defect)
            report(stopped)
        }
        return job.position
    }

    /// In `poll` nothing sleeps, so no kick is waited for; receive rings matter to `generate` alone.
    private func watchesKick(_ direction: QueueDirection) -> Bool {
        if (options.busyloop ?? core.busyloop) == .poll { return false }
        return direction == .receive ? core.generates : true
    }

    /// The threads, by `Placement`'s choice, of pairs whose first ring starts.
    func places(for changes: [RingChange]) -> [PairPlace] {
        var places: [PairPlace] = []
        for change in changes {
            guard case .start(let start) = change.what, !isControl(change), let p = pair(of: change.ring),
                !p.pointee.isAnyRunning, !places.contains(where: { $0.pair == p })
            else { continue }
            let node = NUMA.node(of: start.setup.descriptors)
            if let place = core.choosePlace(port: index, pair: change.ring / 2, node: node) { places.append(place) }
        }
        return places
    }

    func tell(_ places: [PairPlace]) {
        for place in places {
            say(.info, "\(options.name): queue pair \(place.pair.pointee.pair) on \(place.reason)")
        }
    }

    func callRing(_ ring: Int, _ fd: Int32) -> (fd: Int32, ring: CallRing)? {
        if fd < 0 { return nil }
        do throws(EngineError) { return (fd, try CallRing(fd)) } catch {
            say(.error, "\(options.name): queue \(ring) cannot call its driver: \(error)")
            return nil
        }
    }

    /// Notes the receive rings that now can be delivered into, or no longer.
    func setReady(_ changes: [RingChange], where isReady: Bool) {
        for c in changes where QueueDirection(queue: c.ring) == .receive && !isControl(c) && c.what.receives == isReady
        {
            if c.ring / 2 < ready.count { ready[c.ring / 2] = isReady }
        }
        publishReady()
    }

    /// Publishes how many pairs, counted from 0, can receive: other ports spread their packets over them.
    private func publishReady() {
        var active = ready.firstIndex(of: false) ?? ready.count
        if acknowledged.contains([.ctrlVQ, .mq]) && controlQueue != nil { active = min(active, control.pairs) }
        core.table.setOffloads(receiveOffloads, index)
        core.setActivePairs(active, port: index)
    }

    func memoryChanged(_ map: MemoryMap) {
        onRunningPairs { thread, p in thread.use(map, p) }
        if controlQueue?.use(map) == true { serveControl() }
    }

    /// For each pair with a ring that runs.
    private func onRunningPairs(_ body: @escaping (PollThread, PairPointer) -> Void) {
        core.onPairs(of: index, queuePairs, where: { $0.pointee.isAnyRunning }, body)
    }

    // MARK: Control queue

    private func startControl(_ start: RingStart) {
        controlQueue = ControlQueue(start.setup, errFD: start.errFD)
        updateControl(kickFD: start.kickFD, callFD: start.callFD, errFD: start.errFD)
        publishReady()
    }

    private func updateControl(kickFD: Int32, callFD: Int32, errFD: Int32) {
        controlQueue?.errFD = errFD
        if controlCalls?.fd ?? -1 != callFD {
            controlCalls = callRing(controlIndex, callFD)
            controlQueue?.forgetCalls()
            // The driver may wait for an answer that it was not told of.
            callControl()
        }
        if controlKickFD >= 0 { server.removeDescriptor(controlKickFD) }
        controlKickFD = kickFD
        if kickFD >= 0 {
            server.addDescriptor(kickFD) { [weak self] in
                // Served whether or not there was something to take: a look at the ring costs little.
                _ = EventFD.take(kickFD)
                self?.serveControl()
            }
        }
        serveControl()
    }

    private func stopControl() -> RingPosition {
        if controlKickFD >= 0 { server.removeDescriptor(controlKickFD) }
        controlKickFD = -1
        let position = controlQueue?.stop() ?? RingPosition()
        controlQueue = nil
        controlCalls = nil
        return position
    }

    /// On the control thread, or while that waits.
    func serveControl() {
        // The process that had this port before would carry the same commands out again if it went on.
        if isTakenOver { return }
        // A copy: what a command changes looks at the queue, too.
        guard var queue = controlQueue else { return }
        let result = queue.serve(carryOut)
        controlQueue = queue
        if result.needsCall { callControl() }
        if let defect = result.defect, defect.isMiss {
            server.missed([defect])
        } else if let defect = result.defect {
            tellError(of: "control queue", queue.errFD)
            core.stops[index].note(defect)
            say(.error, "\(options.name): control queue: \(defect)")
        }
    }

    private func callControl() {
        if let calls = controlCalls, !calls.ring.signal() {
            say(.error, "\(options.name): control queue: its driver was not called: io_uring takes no requests")
        }
    }

    /// Writes a ring's err descriptor.
    private func tellError(of ring: String, _ errFD: Int32) {
        if CallRing.signal(errFD) { return }
        say(.error, "\(options.name): \(ring): its err descriptor was not written: io_uring takes no requests")
    }

    /// Carries out one command. It is in force before it is answered: the driver relies on it from then on.
    private func carryOut(_ kind: UInt8, _ command: UInt8, _ data: Span<UInt8>) -> Bool {
        let before = control
        let isDone = control.handle(kind, command, data, features: acknowledged, maximumPairs: queuePairs) {
            configuration.status &= ~NetConfig.announce
        }
        if control.mac != before.mac { configuration.mac = control.mac }
        if control.pairs != before.pairs { publishReady() }
        if control.guestOffloads != before.guestOffloads { applyOffloads() }
        return isDone
    }

    private var receiveOffloads: Features {
        acknowledged.intersection(PortFeatures.guestOffloads).intersection(
            control.guestOffloads ?? PortFeatures.guestOffloads)
    }

    private func applyOffloads() {
        // Pairs that start are told with their start.
        let offloads = receiveOffloads
        core.table.setOffloads(offloads, index)
        if offloads == appliedOffloads { return }
        appliedOffloads = offloads
        onRunningPairs { $1.pointee.receiveOffloads = offloads }
    }

    // MARK: The rest of the device

    func readConfiguration(offset: Int, size: Int) -> [UInt8]? { configuration.read(offset: offset, size: size) }

    /// Nothing in a VERSION_1 net device's configuration space can be written (5.1.4.2).
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool { false }

    func featuresAcknowledged(_ features: Features) {
        acknowledged = features
        // A driver begins. One whose rings run says the same again; what it set stays, and over a change of memory,
        // too.
        if controlQueue == nil {
            control = ControlState(mac: configuration.mac)
            if let loaded, loaded.features == features { goOn(with: loaded) }
            if let nextMTU { use(mtu: nextMTU) }
        }
        applyOffloads()
    }

    /// The driver goes on with what it has set elsewhere.
    func goOn(with state: DriverState) {
        control = state.control
        if control.mac.contains(where: { $0 != 0 }) { configuration.mac = control.mac }
        if state.isToAnnounce { configuration.status |= NetConfig.announce }
        applyOffloads()
    }

    /// NET_SET_MTU.
    func setMTU(_ mtu: UInt16) -> Bool {
        guard mtu >= 68 else { return false }
        use(mtu: mtu)
        return true
    }

    /// What drivers are told, and packet functions.
    private func use(mtu: UInt16) {
        nextMTU = nil
        configuration.mtu = mtu
        core.table.setAddress(options.mac, mtu: mtu, index)
    }

    func sendRARP(mac: [UInt8]) { core.announce(mac: mac, from: index) }

    /// As it is for a driver that begins.
    private func resetConfiguration() {
        configuration = ConfigurationSpace(options)
        if let mtu { configuration.mtu = mtu }
        if !isUp { configuration.status &= ~NetConfig.linkUp }
        control = ControlState(mac: configuration.mac)
        loaded = nil
    }

    func statusChanged(_ status: UInt8) {
        if status != 0 { return }
        // What the driver has set goes; the MTU is the front-end's.
        let mtu = nextMTU ?? configuration.mtu
        resetConfiguration()
        use(mtu: mtu)
        applyOffloads()
    }

    func connected(_ isConnected: Bool) {
        presence.store(isConnected ? .now : .before, ordering: .relaxed)
        if !isConnected {
            resetConfiguration()
            nextMTU = nil
            core.table.setAddress(options.mac, mtu: mtu, index)
            acknowledged = []
            core.forgetAddresses(port: index)
        }
        say(.info, "\(options.name): front-end \(isConnected ? "connected" : "gone")")
    }

    // MARK: What is changed while it runs. On the control thread.

    func linkChanged(isUp: Bool) {
        self.isUp = isUp
        let before = configuration.status
        configuration.status = isUp ? before | NetConfig.linkUp : before & ~NetConfig.linkUp
        if configuration.status != before { _ = server?.configurationChanged() }
    }

    /// An MTU that has been negotiated stays as it is until the driver begins again (5.1.4.1). Returns whether it is in
    /// force.
    func changeMTU(to new: UInt16) -> Bool {
        mtu = new
        features = PortFeatures.offered(options, hasMTU: true)
        if acknowledged.contains(.mtu) {
            nextMTU = new
            return false
        }
        use(mtu: new)
        _ = server?.configurationChanged()
        return true
    }

    /// Asks the driver to send announcements (5.1.6.5.4). Nil, or why it cannot be asked.
    func requestAnnouncement() -> String? {
        if !isConnected { return "there is no front-end" }
        if !acknowledged.contains(.guestAnnounce) { return "its driver has not accepted GUEST_ANNOUNCE" }
        configuration.status |= NetConfig.announce
        return server?.configurationChanged() == true
            ? nil : "its front-end cannot be told (it has not negotiated CONFIG and BACKEND_REQ)"
    }

    /// A poll thread stopped a ring: says which and why.
    private func reportDefects() {
        for stopped in core.newDefects(port: index, pairs: queuePairs) {
            if stopped.defect.isMiss { server.missed(stopped.misses) } else { report(stopped) }
        }
    }

    private func report(_ stopped: StoppedRing) {
        tellError(of: "queue \(stopped.ring)", stopped.errFD)
        say(.error, "\(options.name): queue \(stopped.ring) stopped: \(stopped.defect)", queue: stopped.ring)
    }
}

extension RingChange {
    fileprivate var isStart: Bool { if case .start = what { true } else { false } }
}

extension RingChange.What {
    /// Whether a receive ring can be delivered into afterwards; nil: as before.
    fileprivate var receives: Bool? {
        switch self {
        case .start(let start): return start.enabled
        case .stop: return false
        case .move: return nil
        case .update(let enabled, _, _, _): return enabled
        }
    }
}

/// The first lines of each second.
struct LogLimit {
    private let most: Int
    private var second: UInt64 = 0
    private var count = 0

    init(most: Int = 100) { self.most = most }

    /// Whether the next line is written, and how many were not since the last one.
    mutating func next(_ now: UInt64) -> (isTaken: Bool, missing: Int) {
        var missing = 0
        if now != second {
            missing = max(0, count - most)
            (second, count) = (now, 0)
        }
        count += 1
        return (count <= most, missing)
    }
}
