import CPlatform
import Control
import Glibc
import Logging
import Memory
import Synchronization
import Vhost
import VhostUser
import Virtio

/// A port on somebody else's back-end: Ringway is the driver, `VhostNet` its control plane. Its control thread
/// connects, watches the connection, and connects again when a vhost-user back-end went away: with the features of
/// before, or, where the back-end has lost some of them, with an error in the log and another try later.
final class DriverPort: EnginePort {
    let index: Int
    let options: PortOptions
    private let path: String
    private let isServer: Bool
    /// As the kernel has it, once it is open.
    private var tapName: String
    private let kind: VhostKind
    private let core: EngineCore
    private let log: Logger
    private let defectFD: Int32
    /// Readable from `stop` on, so that the control thread waits for no answer of the back-end any more.
    private let cancelFD: Int32
    /// Written when the back-end's configuration has changed.
    private var configuration: OwnedDescriptor?
    /// Whether there is a back-end.
    private let presence = Atomic(PortPresence.never)
    private let control = ControlThread()

    // The control thread's own, while there is one
    private var listener: Int32 = -1
    /// The connection that it was handed, until it is used: there is no other.
    private var handed: MessageSocket?
    private var link: DriverLink?
    /// Queues of a TAP, of the process that had this port before.
    private var adopted: [OwnedDescriptor] = []
    private var saved: VhostNet.Saved?
    private var socket: MessageSocket?
    private var attempts = 0
    /// CLOCK_MONOTONIC: no attempt before; when the connection began.
    private var nextAttempt: UInt64 = 0
    private var connectedAt: UInt64 = 0
    /// Connections in a row that ended within a second.
    private var shortLives = 0
    /// Of a kernel port: its error tells that the interface was deleted.
    private var tapFD: Int32 { (link?.vhost.backend as? KernelBackend)?.tap.queues.first?.fd ?? -1 }
    private var lastError = ""
    /// Of this connection: queues that the back-end reported, and what was logged of its configuration. A back-end that
    /// repeats itself does not fill the log.
    private var brokenQueues = Set<Int>()
    private var lastConfiguration = ""

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) throws(EngineError) {
        guard case .virtioUser(let path, let isServer, let tap) = options.kind else {
            throw EngineError("\(options.name): not a driver's port")
        }
        self.index = index
        self.options = options
        self.path = path
        self.isServer = isServer
        tapName = tap ?? ""
        do throws(VhostError) { kind = try VhostKind.of(path: path) } catch { throw EngineError(error.description) }
        if isServer && kind != .user { throw EngineError("\(path): server=on is for sockets") }
        if tap != nil && kind != .kernel { throw EngineError("\(path): tap= goes with /dev/vhost-net") }
        if options.mac != nil && kind != .vdpa {
            throw EngineError("\(path): mac= can be told to vDPA devices only; leave it out")
        }
        if options.mtu != nil && kind == .kernel {
            throw EngineError("\(path): mtu= is the interface's; use `ip link set NAME mtu N`")
        }
        self.core = core
        log = logger
        defectFD = CPlat_eventfd(0)
        cancelFD = CPlat_eventfd(0)
        if defectFD < 0 || cancelFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
        core.addPairs(port: index, options, defectFD: defectFD)
    }

    var isConnected: Bool { presence.load(ordering: .relaxed) == .now }
    var wasConnected: Bool { presence.load(ordering: .relaxed) != .never }

    /// Kernel and vDPA: opens the device here. Sockets: listens, or begins to connect.
    func start() throws(EngineError) {
        do {
            if let number = options.kind.descriptor {
                let (fd, listens) = try HandedDescriptors.socket(number)
                if listens { listener = fd } else { handed = MessageSocket(fd) }
            } else if kind != .user {
                try connect(nil)
            } else if isServer {
                listener = try Listener.open(path, options.socketAccess)
            } else {
                try MessageSocket.refuseOther(path)
            }
        } catch {
            throw EngineError("\(error)")
        }
        do throws(ThreadError) { try control.start("ringway-ctl", prepare: { self.prepare(&$0) }) } catch {
            throw EngineError("\(options.name): \(error)")
        }
    }

    func perform(_ work: @escaping () -> Void) { control.run(work) }

    var devices: [OwnedDescriptor] {
        var all: [OwnedDescriptor] = []
        // Others have none, and their back-end may keep the thread waiting.
        if kind != .kernel { return handedListener }
        control.run { all = (self.link?.vhost.backend as? KernelBackend)?.tap.queues ?? [] }
        return all
    }

    /// The socket that it was handed, and that listens. (A connection ends with this process's port.)
    private var handedListener: [OwnedDescriptor] {
        if options.kind.descriptor == nil || listener < 0 { return [] }
        return [try? OwnedDescriptor(copyOf: listener)].compactMap(\.self)
    }

    func adopt(_ devices: [OwnedDescriptor]) {
        guard let number = options.kind.descriptor else { return adopted = devices }
        // Of this process the number says nothing.
        if let first = devices.first { HandedDescriptors.adopt(number, first) }
    }

    func stop() {
        EventFD.signalOwn(cancelFD)
        control.stop()
        // Only what the thread waited for was cancelled: the device is stopped in order.
        _ = EventFD.take(cancelFD)
        disconnect("the port is closed")
        if listener >= 0 {
            close(listener)
            if options.kind.descriptor == nil { unlink(path) }
            listener = -1
        }
        // Whoever handed it over holds it, too: the other end would see nothing of this.
        handed?.shutdown()
        handed = nil
    }

    /// It has the connection that it was handed, or had it.
    private var hasOnlyOne: Bool { options.kind.descriptor != nil && listener < 0 }

    /// This side connects, again and again.
    private var connects: Bool { kind != .vdpa && !isServer && options.kind.descriptor == nil }

    func dispose() {
        close(defectFD)
        close(cancelFD)
    }

    // MARK: Control thread

    /// Connects where that is due, and says what to wait for.
    private func prepare(_ waits: inout ControlThread.Waits) {
        if link?.vhost.backend.isDisconnected == true { lose("the back-end does not answer as it should") }
        if link == nil && CPlat_monotonic_ns() >= nextAttempt { tryAgain() }
        waits.on(defectFD) { _ in self.reportDefects() }
        if let link { waitForBackEnd(link, &waits) }
        waits.on(listener) { _ in self.acceptConnection() }
        waits.deadline = link == nil && connects ? nextAttempt : nil
    }

    private func waitForBackEnd(_ link: DriverLink, _ waits: inout ControlThread.Waits) {
        /// What ends the connection leaves the other handlers of this round without it.
        func on(_ fd: Int32, _ events: Int32 = POLLIN, _ handler: @escaping () -> Void) {
            waits.on(fd, events) { [weak link] _ in
                if let link, self.link === link { handler() }
            }
        }
        for (ring, fd) in link.vhost.errorDescriptors.enumerated() { on(fd) { self.reportError(ring) } }
        // Between requests a back-end has nothing to say: it hangs up, or talks nonsense.
        on(socket?.fd ?? -1, POLLIN | 0x2000 /* POLLRDHUP */) { self.lose("the back-end has gone") }
        // Without events: a deleted interface is an error, which poll tells always.
        on(tapFD, 0) {
            self.disconnect("interface \(self.tapName) has gone; the port waits until it is there again")
        }
        on(link.vhost.backEndDescriptor ?? -1) { self.serveChannel() }
        on(configuration?.fd ?? -1) { self.reportConfiguration() }
    }
    /// Opens what this side opens: a socket, or the TAP of a kernel port when it is there again.
    private func tryAgain() {
        if let socket = handed {
            handed = nil
            tryConnect { () throws(VhostUserError) in socket }
            if link == nil { socket.shutdown() }
        } else if kind == .kernel {
            if if_nametoindex(tapName) != 0 { tryConnect { () throws(VhostUserError) in nil } }
        } else if kind == .user && connects {
            tryConnect { () throws(VhostUserError) in try MessageSocket.connect(to: path) }
        }
        let pause: UInt64 = attempts <= 20 ? 100 : 500
        if link == nil { nextAttempt = max(nextAttempt, CPlat_monotonic_ns() + pause * 1_000_000) }
    }

    /// A back-end that accepts and hangs up again and again is asked more and more seldom: the pause doubles to some
    /// seconds.
    private func noteEnd() {
        if !connects || kind != .user { return }
        let now = CPlat_monotonic_ns()
        shortLives = now - connectedAt < 1_000_000_000 ? shortLives + 1 : 0
        if shortLives == 2 {
            log.warning(
                "\(options.name): the back-end accepts and hangs up again and again; the next attempts come more seldom"
            )
        }
        if shortLives > 0 { nextAttempt = now + 100_000_000 << UInt64(min(shortLives - 1, 5)) }
    }

    private func lose(_ reason: String) {
        disconnect(reason)
        noteEnd()
    }

    private func reportError(_ ring: Int) {
        if link?.vhost.hasFailed(ring: ring) == true && brokenQueues.insert(ring).inserted {
            log.error("\(options.name): the back-end reports that queue \(ring) is broken")
        }
    }

    private func serveChannel() {
        do throws(VhostError) { try link?.vhost.serveBackEnd() } catch {
            log.info("\(options.name): the back-end's channel: \(error)")
        }
    }

    /// While there is a back-end any other is turned away at once: in the queue of a connection that waits there could
    /// be the end of the present one, which would never be seen to close.
    private func acceptConnection() {
        let fd = CPlat_accept(listener)
        if fd < 0 { return }
        if link == nil { return tryConnect { () throws(VhostUserError) in MessageSocket(fd) } }
        close(fd)
    }

    private func tryConnect(_ open: () throws(VhostUserError) -> MessageSocket?) {
        connectedAt = 0
        do {
            let socket = try open()
            connectedAt = CPlat_monotonic_ns()
            try connect(socket)
            attempts = 0
            lastError = ""
        } catch {
            socket = nil
            attempts += 1
            if connectedAt != 0 { noteEnd() }
            // Once for each reason, not for each attempt.
            let text = "\(error)"
            if text != lastError {
                log.info("\(options.name): \(hasOnlyOne ? "there will be no" : "waiting for the") back-end (\(text))")
            }
            lastError = text
        }
    }

    private func connect(_ socket: MessageSocket?) throws {
        self.socket = socket
        let link = try DriverLink(options, try backend(socket), saved: saved, node: node) { [log] in log.info("\($0)") }
        self.link = link
        saved = link.vhost.saved
        watchConfiguration(link)
        let ends = (0..<options.queuePairs).map {
            (QueueEnd.driver(link.ends.start + $0), link.incoming[$0].fd, NUMA.node(of: link.memory.base))
        }
        let reasons = core.startOther(
            port: index, ends, offloads: link.receiveOffloads, budget: core.budget(options))
        for (pair, reason) in reasons.enumerated() { log.info("\(options.name): queue pair \(pair) on \(reason)") }
        if let kernel = link.vhost.backend as? KernelBackend { tapName = kernel.tap.name }
        presence.store(.now, ordering: .relaxed)
        // One that cannot say is up.
        if (try? followLink(link.vhost)) == false { lastConfiguration = "the back-end's link is down" }
        log.info(
            """
            \(options.name): connected to \(kind)\(interface); memory: \(link.memory.summary); features: \
            \(link.vhost.acknowledged.bitNames.joined(separator: " "))
            """
        )
        if !lastConfiguration.isEmpty { log.info("\(options.name): \(lastConfiguration)") }
    }

    /// The kernel may have chosen its name.
    private var interface: String {
        (link?.vhost.backend as? KernelBackend).map { " and interface \($0.tap.name)" } ?? ""
    }

    /// Of the first poll thread: its memory shall be near.
    private var node: Int { core.threads[0].cpu >= 0 ? NUMA.node(ofCPU: core.threads[0].cpu) : -1 }

    private func backend(_ socket: MessageSocket?) throws(VhostError) -> any VhostBackend {
        switch kind {
        case .user: return UserBackend(socket!, name: path, cancel: cancelFD)
        case .vdpa: return VDPABackend(path: path)
        case .kernel:
            defer { adopted = [] }
            let tap =
                adopted.isEmpty
                ? try Tap(name: tapName, queues: options.queuePairs) : try Tap(descriptors: adopted)
            return KernelBackend(path: path, tap: tap)
        }
    }

    private func disconnect(_ reason: String) {
        guard let link else { return }
        presence.store(.before, ordering: .relaxed)
        core.stopOther(port: index, pairs: options.queuePairs)
        link.vhost.close()
        // Enable states and the in-flight region of the last moment.
        saved = link.vhost.saved
        self.link = nil
        socket = nil
        configuration = nil
        (brokenQueues, lastConfiguration) = ([], "")
        core.forgetAddresses(port: index)
        log.info("\(options.name): connection ended\(hasOnlyOne ? ", and there will be no other" : ""): \(reason)")
    }

    /// Where the back-end tells of changes. Those that do not cannot be asked to.
    private func watchConfiguration(_ link: DriverLink) {
        guard let notifier = EventFD.make() else { return }
        do throws(VhostError) {
            try link.vhost.setConfigurationNotifier(notifier)
            configuration = notifier
        } catch {
            if error.kind != .unsupported {
                log.warning("\(options.name): changes of the configuration will not be seen: \(error)")
            }
        }
    }

    /// The link's state is all that a switch wants to know; the MTU is negotiated.
    private func reportConfiguration() {
        _ = EventFD.take(configuration?.fd ?? -1)
        guard let vhost = link?.vhost else { return }
        let text = configurationText(vhost)
        if text != lastConfiguration { log.info("\(options.name): \(text)") }
        lastConfiguration = text
    }

    private func configurationText(_ vhost: VhostNet) -> String {
        do throws(VhostError) {
            guard let isUp = try followLink(vhost) else { return "the back-end's configuration has changed" }
            return "the back-end's link is \(isUp ? "up" : "down")"
        } catch {
            return "the changed configuration: \(error)"
        }
    }

    /// A port whose link is down receives nothing. Nil: the back-end's configuration has no link.
    @discardableResult
    private func followLink(_ vhost: VhostNet) throws(VhostError) -> Bool? {
        guard vhost.backend.offered.contains(.status) else { return nil }
        let status = try vhost.readConfiguration(offset: NetConfig.status, size: 2)
        let isUp = UInt16(status[0]) & NetConfig.linkUp != 0
        core.setActivePairs(isUp ? options.queuePairs : 0, port: index)
        return isUp
    }

    private func reportDefects() {
        _ = EventFD.take(defectFD)
        for stopped in core.newDefects(port: index, pairs: options.queuePairs) {
            log.error(
                "\(options.name): queue \(stopped.ring) stopped: \(stopped.defect)",
                metadata: ["queue": "\(stopped.ring)"])
        }
    }
}
