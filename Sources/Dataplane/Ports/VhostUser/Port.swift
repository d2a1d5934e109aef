import CPlatform
import Glibc
import Logging
import Memory
import VhostUser
import Virtio

/// A device-side port: what a vhost-user session drives. Every method of `BackEndDevice` comes from
/// the port's control thread; rings are started and stopped by messages to their poll threads.
final class Port: EnginePort, BackEndDevice, @unchecked Sendable {
    let index: Int
    let options: PortOptions
    let features: Features
    private let core: EngineCore
    private let log: Logger
    /// Written by poll threads when a ring had to stop.
    let defectFD: Int32
    private(set) var server: BackEndServer!
    /// Read by snapshots: 1 while there is a front-end, 2 when there was one.
    private let connectedFlag: UnsafeMutablePointer<UInt32>

    // The control thread's own
    private var configuration: ConfigurationSpace
    private var acknowledged = Features(rawValue: 0)
    private var control: ControlState
    private var controlQueue: ControlQueue?
    private var controlKickFD: Int32 = -1
    /// Of the control queue that runs.
    private var controlCalls: (fd: Int32, ring: CallRing)?
    /// Receive rings by pair that run and are enabled.
    private var ready: [Bool]
    private var (logLimit, errorLimit) = (LogLimit(), LogLimit(most: 2 * PairTable.pairsPerPort + 1))
    /// Of running rings by number: their call eventfds, and how those are written.
    private var callRings: [Int: (fd: Int32, ring: CallRing)] = [:]

    var queuePairs: Int { options.queuePairs }
    var isConnected: Bool { CPlat_load32_relaxed(connectedFlag) == 1 }
    var wasConnected: Bool { CPlat_load32_relaxed(connectedFlag) != 0 }

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) throws(EngineError) {
        self.index = index
        self.options = options
        self.core = core
        log = logger
        features = PortFeatures.offered(options)
        configuration = ConfigurationSpace(options)
        control = ControlState(mac: options.mac ?? [UInt8](repeating: 0, count: 6))
        ready = [Bool](repeating: false, count: options.queuePairs)
        connectedFlag = .allocate(capacity: 1)
        connectedFlag.initialize(to: 0)
        defectFD = CPlat_eventfd(0)
        if defectFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
        core.addPairs(port: index, options, defectFD: defectFD)
    }

    /// Opens the socket; returns when it listens (or, as a client, has begun to connect).
    func start() throws(EngineError) {
        guard case .vhostUser(let path, let isClient) = options.kind else {
            throw EngineError("\(options.name): not a port on the device side")
        }
        server = BackEndServer(path: path, isClient: isClient, device: self) { [unowned self] in say(.info, $0) }
        do { try server.start() } catch { throw EngineError("\(error)") }
        let (server, fd) = (self.server!, defectFD)
        server.perform { [weak self] in
            server.addDescriptor(fd) {
                _ = EventFD.take(fd)
                self?.reportDefects()
            }
        }
    }

    /// Closes the connection and the socket; its rings are stopped afterwards.
    func stop() { server?.stop() }

    /// After the threads have ended.
    func deallocate() {
        // It keeps this port.
        server = nil
        close(defectFD)
        connectedFlag.deallocate()
        core.removePairs(port: index, options.queuePairs)
    }

    /// Logs, on the control thread. A front-end can cause lines as fast as it sends messages: only so many a second are
    /// written.
    private func say(_ level: Logger.Level, _ text: String) {
        // Errors, which name stopped queues, have lines of their own: those that only inform cannot use them up.
        let second = CPlat_monotonic_ns() / 1_000_000_000
        let (isTaken, missing) = level >= .error ? errorLimit.next(second) : logLimit.next(second)
        if missing > 0 { log.warning("\(options.name): \(missing) more lines were left out") }
        if isTaken { log.log(level: level, "\(text)") }
    }

    // MARK: Rings

    private var controlIndex: Int { acknowledged.contains(.mq) ? 2 * queuePairs : 2 }

    private func isControl(_ ring: Int) -> Bool { acknowledged.contains(.ctrlVQ) && ring == controlIndex }

    private func pair(of ring: Int) -> PairPointer? { ring / 2 < queuePairs ? core.table[index, ring / 2] : nil }

    func startRing(_ ring: Int, _ start: RingStart) {
        if isControl(ring) { return startControl(start) }
        guard let p = pair(of: ring) else { return }
        let isReceive = ring % 2 == 0
        if !p.pointee.isAnyRunning { place(p, start.setup) }
        var state = QueueState()
        let queue = DeviceQueue(start.setup)
        state.isEnabled = start.enabled
        state.kickFD = start.kickFD
        callRings[ring] = callRing(ring, start.callFD)
        state.calls = callRings[ring]?.ring.calls ?? Calls()
        state.errFD = start.errFD
        p.pointee.isAnyRunning = true
        let thread = core.owner(of: p)
        let offloads = receiveOffloads
        let watches = watchesKick(isReceive)
        thread.mailbox.run {
            p.pointee.receiveOffloads = offloads
            thread.startRing(p, isReceive: isReceive, queue, state, watchesKick: watches)
        }
        if isReceive { setReady(ring / 2, start.enabled) }
    }

    /// In `poll` nothing sleeps, so no kick is waited for; receive rings matter to `generate` alone.
    private func watchesKick(_ isReceive: Bool) -> Bool {
        if (options.busyloop ?? core.busyloop) == .poll { return false }
        return isReceive ? core.generates : true
    }

    private func place(_ p: PairPointer, _ setup: RingSetup) {
        let choice = Placement.choose(pair: p.pointee.pair, cpus: core.threads.map(\.cpu), memory: setup.descriptors)
        core.give(p, to: choice.thread)
        say(.info, "\(options.name): queue pair \(p.pointee.pair) on \(choice.reason)")
    }

    func stopRing(_ ring: Int) -> RingPosition {
        if isControl(ring) || (controlQueue != nil && ring / 2 >= queuePairs) { return stopControl() }
        guard let p = pair(of: ring) else { return RingPosition() }
        let isReceive = ring % 2 == 0
        if isReceive { setReady(ring / 2, false) }
        // A defect that its thread has told of a moment ago is not forgotten with the ring.
        reportDefects(of: ring / 2..<ring / 2 + 1)
        let thread = core.owner(of: p)
        var position = RingPosition()
        var isAnyRunning = false
        thread.mailbox.run {
            position = thread.stopRing(p, isReceive: isReceive)
            isAnyRunning = p.pointee.transmit.isRunning || p.pointee.receive.isRunning
        }
        p.pointee.isAnyRunning = isAnyRunning
        callRings[ring] = nil
        return position
    }

    private func callRing(_ ring: Int, _ fd: Int32) -> (fd: Int32, ring: CallRing)? {
        if fd < 0 { return nil }
        do throws(EngineError) { return (fd, try CallRing(fd)) } catch {
            say(.error, "\(options.name): queue \(ring) cannot call its driver: \(error)")
            return nil
        }
    }

    func updateRing(_ ring: Int, enabled: Bool, callFD: Int32, kickFD: Int32, errFD: Int32) {
        if isControl(ring) {
            updateControl(kickFD: kickFD, callFD: callFD, errFD: errFD)
            return
        }
        guard let p = pair(of: ring) else { return }
        let isReceive = ring % 2 == 0
        let thread = core.owner(of: p)
        let watches = watchesKick(isReceive)
        let new = callRings[ring]?.fd == callFD ? callRings[ring] : callRing(ring, callFD)
        let calls = new?.ring.calls ?? Calls()
        thread.mailbox.run {
            thread.updateRing(
                p, isReceive: isReceive, enabled: enabled, calls: calls, kickFD: kickFD, errFD: errFD,
                watchesKick: watches)
        }
        // The thread has let go of the old one.
        callRings[ring] = new
        if isReceive { setReady(ring / 2, enabled) }
    }

    /// Publishes how many pairs, counted from 0, can receive: other ports spread their packets over them.
    private func setReady(_ pair: Int, _ isReady: Bool) {
        ready[pair] = isReady
        var active = ready.firstIndex(of: false) ?? ready.count
        if acknowledged.contains([.ctrlVQ, .mq]) && controlQueue != nil { active = min(active, control.pairs) }
        core.setActivePairs(UInt16(active), port: index)
    }

    func memoryChanged(_ map: MemoryMap) {
        for thread in core.threads {
            let pairs = myPairs(of: thread)
            thread.mailbox.run {
                for p in pairs {
                    // Packets under way point into the old memory.
                    thread.drain(p)
                    for end in [p.pointee.transmit.end, p.pointee.receive.end] {
                        end.use(map)
                    }
                }
            }
        }
        controlQueue?.use(map)
    }

    private func myPairs(of thread: PollThread) -> [PairPointer] {
        (0..<queuePairs).compactMap { core.table[index, $0] }.filter { core.owner(of: $0) === thread }
    }

    // MARK: Control queue

    private func startControl(_ start: RingStart) {
        controlQueue = ControlQueue(start.setup, errFD: start.errFD)
        updateControl(kickFD: start.kickFD, callFD: start.callFD, errFD: start.errFD)
        setReady(0, ready[0])
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

    private func serveControl() {
        // A copy: what a command changes looks at the queue, too.
        guard var queue = controlQueue else { return }
        let result = queue.serve(carryOut)
        controlQueue = queue
        if result.needsCall { callControl() }
        if let defect = result.defect {
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
    private func carryOut(_ kind: UInt8, _ command: UInt8, _ data: UnsafeRawBufferPointer) -> Bool {
        let before = control
        let isDone = control.handle(kind, command, data, features: acknowledged, maximumPairs: queuePairs) {
            configuration.status &= ~NetConfig.announce
        }
        if control.mac != before.mac { configuration.mac = control.mac }
        if control.pairs != before.pairs { setReady(0, ready[0]) }
        if control.guestOffloads != before.guestOffloads { applyOffloads() }
        return isDone
    }

    private var receiveOffloads: Features {
        acknowledged.intersection(PortFeatures.guestOffloads).intersection(
            control.guestOffloads ?? PortFeatures.guestOffloads)
    }

    private func applyOffloads() {
        let offloads = receiveOffloads
        for thread in core.threads {
            let pairs = myPairs(of: thread)
            thread.mailbox.run { for p in pairs { p.pointee.receiveOffloads = offloads } }
        }
    }

    // MARK: The rest of the device

    func readConfiguration(offset: Int, size: Int) -> [UInt8]? { configuration.read(offset: offset, size: size) }

    /// Nothing in a VERSION_1 net device's configuration space can be written (5.1.4.2).
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool { false }

    func featuresAcknowledged(_ features: Features) {
        acknowledged = features
        // A driver begins. One whose rings run says the same again; what it set stays, and over a change of memory,
        // too.
        if controlQueue == nil { control = ControlState(mac: configuration.mac) }
        applyOffloads()
    }

    func setMTU(_ mtu: UInt16) -> Bool {
        guard mtu >= 68 else { return false }
        configuration.mtu = mtu
        return true
    }

    func sendRARP(mac: [UInt8]) { core.announce(mac: mac, from: index) }

    func statusChanged(_ status: UInt8) {
        if status != 0 { return }
        // What the driver has set goes; the MTU is the front-end's.
        let mtu = configuration.mtu
        configuration = ConfigurationSpace(options)
        configuration.mtu = mtu
        control = ControlState(mac: configuration.mac)
        applyOffloads()
    }

    func connected(_ isConnected: Bool) {
        CPlat_store32_relaxed(connectedFlag, isConnected ? 1 : 2)
        if !isConnected {
            configuration = ConfigurationSpace(options)
            control = ControlState(mac: configuration.mac)
            acknowledged = []
            core.forgetAddresses(port: index)
        }
        say(.info, "\(options.name): front-end \(isConnected ? "connected" : "gone")")
    }

    /// A poll thread stopped a ring: says which and why.
    private func reportDefects() { reportDefects(of: 0..<queuePairs) }

    private func reportDefects(of pairs: Range<Int>) {
        for (ring, defect, errFD) in core.newDefects(port: index, pairs: pairs) {
            tellError(of: "queue \(ring)", errFD)
            say(.error, "\(options.name): queue \(ring) stopped: \(defect)")
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
