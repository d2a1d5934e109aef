import CPlatform
import Control
import Glibc
import Memory
import Virtio

/// The socket of a device-side port and its control thread, which accepts (or makes) connections,
/// carries out the front-end's messages and watches descriptors for the device.
///
/// Its path may be `fd=N` (`HandedDescriptors`): a socket that listens already, or one connection, with which all ends.
///
/// The first connection that sends a complete message is the front-end; others wait (at most 16)
/// until it goes away. When all 16 places are taken, the oldest that has been silent for a second yields its own.
/// A client that finds nobody tries again after 100, later 500 ms. With a server that ends its connections at once
/// the pause grows from 100 ms to 5 s, until a connection lasts.
public final class BackEndServer {
    let path: String
    let isClient: Bool
    /// The descriptor that stands in place of a path.
    let handed: Int32?
    let access: SocketAccess
    /// Kept: the control thread calls it until it ends. A device that keeps its server lets go of it when it has
    /// stopped it.
    let device: any BackEndDevice
    let log: (String) -> Void

    let control = ControlThread()
    /// Written when memory of the front-end is lost; nil: no descriptors were left.
    private let loss = EventFD.make()

    // The control thread's own
    var listener: Int32 = -1
    var pending: [(socket: MessageSocket, since: UInt64)] = []
    var active: MessageSocket?
    package internal(set) var session: BackEndSession?
    var activeSince: UInt64 = 0
    private var inband: [Int32] = []
    /// A client's failed attempts, and connections that ended at once, one after another.
    private var (attempts, shortLives) = (0, 0)
    private var retryAt: UInt64 = 0
    private var lastLine = ""

    static let mostPending = 16
    /// Nanoseconds. A connection that has said nothing for so long yields; one that lasted so long was one.
    static let patience: UInt64 = 1_000_000_000

    /// `log` is called on the control thread with one line. `access`: of a server's socket.
    public init(
        path: String, isClient: Bool, access: SocketAccess = SocketAccess(), device: any BackEndDevice,
        log: @escaping (String) -> Void
    ) {
        self.path = path
        handed = HandedDescriptors.number(path)
        self.isClient = isClient
        self.access = access
        self.device = device
        self.log = log
    }

    /// Opens the socket and starts the control thread. A server listens when this returns. Errors:
    /// `.socket`, with what to do.
    public func start() throws(VhostUserError) {
        if let handed {
            try take(handed)
        } else if isClient {
            try MessageSocket.refuseOther(path)
        } else {
            listener = try Listener.open(path, access)
        }
        do throws(VhostUserError) { try run() } catch {
            closeListener()
            throw error
        }
    }

    private func take(_ number: Int32) throws(VhostUserError) {
        let (fd, listens) = try HandedDescriptors.socket(number)
        if listens {
            listener = fd
        } else {
            pending = [(MessageSocket(fd, keeps: .ofFrontEnd), CPlat_monotonic_ns())]
        }
    }

    /// It has one connection, that it was handed, and will have no other.
    private var hasOnlyOne: Bool { handed != nil && listener < 0 }

    /// Starts the control thread alone. `isParked`: it waits for `release`. Errors: as `start`.
    func run(isParked: Bool = false) throws(VhostUserError) {
        guard let loss else { throw VhostUserError(.socket, "eventfd: \(SystemError.text(errno))") }
        addDescriptor(loss.fd) { [unowned self] in memoryLost() }
        do throws(ThreadError) {
            try control.start(
                "ringway-ctl", isParked: isParked, prepare: { self.prepare(&$0) }, atEnd: { self.end() })
        } catch {
            throw VhostUserError(.socket, "\(path): \(error)")
        }
    }

    /// Closes everything, stops the device's rings, removes the socket. Safe to call twice. On the control thread it
    /// returns before that is done.
    public func stop() { control.stop() }

    /// Runs `work` on the control thread and returns when it has run; here, when there is no such thread.
    public func perform(_ work: @escaping () -> Void) { control.run(work) }

    /// Calls `handler` on the control thread when `fd` is written; the handler reads it. Once for each time, whether or
    /// not it is empty afterwards: an eventfd of a front-end may be a semaphore with a huge count. Control thread only.
    public func addDescriptor(_ fd: Int32, _ handler: @escaping () -> Void) {
        if !control.watch(fd, handler) { log("\(path): epoll_ctl: \(SystemError.text(errno))") }
    }

    /// Before `fd` is closed. Control thread only.
    public func removeDescriptor(_ fd: Int32) { control.unwatch(fd) }

    // MARK: Control thread

    private func end() {
        disconnect("the port is closed")
        // Whoever handed it over holds it, too: the other end would see nothing of this.
        if hasOnlyOne { for (socket, _) in pending { socket.shutdown() } }
        pending = []
        closeListener()
    }

    private func closeListener() {
        if listener >= 0 {
            close(listener)
            if handed == nil { unlink(path) }
            listener = -1
        }
    }

    private var wantsConnection: Bool { isClient && active == nil && pending.isEmpty }

    private func connect() {
        do throws(VhostUserError) {
            pending.append((try MessageSocket.connect(to: path, keeps: .ofFrontEnd), CPlat_monotonic_ns()))
            attempts = 0
        } catch {
            logOnce("\(path): waiting for the front-end (\(error))")
            attempts += 1
            retryAt = CPlat_monotonic_ns() + (attempts <= 20 ? 100_000_000 : 500_000_000)
        }
    }

    /// Of a client: the server has ended a connection at once.
    private func pause() {
        retryAt = CPlat_monotonic_ns() + min(5_000_000_000, 100_000_000 << UInt64(min(shortLives, 6)))
        shortLives += 1
    }

    /// What a client meets again and again is one line until it changes.
    private func logOnce(_ line: String) {
        if line != lastLine { log(line) }
        lastLine = line
    }

    /// The place among `pending` that a new connection may have: of the oldest that waits in silence. Those that have
    /// sent something while there is a front-end are not silent.
    private func yielding(_ now: UInt64) -> Int? {
        pending.firstIndex { waiting in
            guard now - waiting.since >= BackEndServer.patience else { return false }
            var p = pollfd(fd: waiting.socket.fd, events: Int16(POLLIN), revents: 0)
            return active == nil || poll(&p, 1, 0) == 0
        }
    }

    /// When something is due; nil: nothing is.
    private func nextDue(_ now: UInt64) -> UInt64? {
        if wantsConnection { return retryAt }
        guard listener >= 0, pending.count >= BackEndServer.mostPending else { return nil }
        return pending.map { $0.since + BackEndServer.patience }.filter { $0 > now }.min()
    }

    /// Does what is due, and says what to wait for.
    private func prepare(_ waits: inout ControlThread.Waits) {
        if wantsConnection && CPlat_monotonic_ns() >= retryAt { connect() }
        let now = CPlat_monotonic_ns()
        if let active { waits.on(active.fd) { _ in self.serveActive() } }
        for (socket, _) in pending {
            // While there is a front-end the others are only watched for going away.
            waits.on(socket.fd, active == nil ? POLLIN : 0) { self.servePending(socket, $0) }
        }
        if pending.count < BackEndServer.mostPending || yielding(now) != nil {
            waits.on(listener) { _ in self.acceptConnection() }
        }
        waits.deadline = nextDue(now)
    }

    private func acceptConnection() {
        let now = CPlat_monotonic_ns()
        if pending.count >= BackEndServer.mostPending {
            // It may have spoken since; then who waits goes on waiting in the kernel's queue.
            guard let i = yielding(now) else { return }
            pending.remove(at: i)
        }
        let fd = CPlat_accept(listener)
        guard fd >= 0 else { return }
        pending.append((MessageSocket(fd, keeps: .ofFrontEnd), now))
        if active != nil { log("\(path): another front-end waits until the present one goes away") }
    }

    private func servePending(_ socket: MessageSocket, _ events: Int32) {
        guard let i = pending.firstIndex(where: { $0.socket === socket }) else { return }
        if active != nil {
            if events & (POLLHUP | POLLERR) != 0 { pending.remove(at: i) }
            return
        }
        do throws(VhostUserError) {
            guard let message = try socket.receive() else { return }
            pending.remove(at: i)
            activate(socket)
            serve(message)
            serveActive()
        } catch {
            pending.remove(at: i)
            if isClient {
                logOnce("\(path): waiting for the front-end (connected, but \(error))")
                pause()
            } else if hasOnlyOne {
                socket.shutdown()
                log("\(path): the connection has ended, and there will be no other: \(error)")
            } else if error.kind != .socket {
                log("\(path): \(error)")
            }
        }
    }

    private func activate(_ socket: MessageSocket) {
        active = socket
        activeSince = CPlat_monotonic_ns()
        session = makeSession()
        device.connected(true)
    }

    func makeSession() -> BackEndSession {
        let session = BackEndSession(device, lossFD: loss?.fd ?? -1, log: { [path, log] in log("\(path): \($0)") })
        session.inbandCallsChanged = { [unowned self] in self.watchInbandCalls() }
        session.transferChanged = { [unowned self] old, new in
            if old >= 0 { removeDescriptor(old) }
            if new >= 0 { addDescriptor(new) { self.session?.serveTransfer() } }
        }
        return session
    }

    private func serve(_ message: Message) {
        guard let active, let session else { return }
        do throws(VhostUserError) {
            try session.handle(message, active)
        } catch {
            disconnect("\(error)")
        }
    }

    /// Serves what has arrived; bounded, so that a talkative front-end cannot keep commands waiting.
    private func serveActive() {
        for _ in 0..<64 {
            guard let active else { return }
            do throws(VhostUserError) {
                guard let message = try active.receive() else { return }
                serve(message)
            } catch {
                disconnect("\(error)")
            }
        }
    }

    private func disconnect(_ reason: String) {
        guard active != nil else { return }
        session?.close()
        session = nil
        if hasOnlyOne { active?.shutdown() }
        active = nil
        // What was lost with this front-end's memory is nothing to the next.
        if let loss { _ = EventFD.take(loss.fd) }
        device.connected(false)
        log("\(path): connection ended\(hasOnlyOne ? ", and there will be no other" : ""): \(reason)")
        lastLine = ""
        guard isClient else { return }
        if CPlat_monotonic_ns() - activeSince < BackEndServer.patience {
            pause()
        } else {
            (shortLives, retryAt) = (0, 0)
        }
    }

    /// A ring of the device waits for these addresses of its IOTLB (`RingDefect.isMiss`). On the control thread.
    public func missed(_ misses: [RingDefect]) { session?.missed(misses) }

    /// The device's configuration space has changed. False: there is no front-end that can be told. On the control
    /// thread.
    public func configurationChanged() -> Bool { session?.configurationChanged() ?? false }

    private func memoryLost() {
        if let loss, !EventFD.take(loss.fd) { return }
        endTruncated()
    }

    func endTruncated() { disconnect("the front-end has truncated a file behind guest memory") }

    func watchInbandCalls() {
        for fd in inband { removeDescriptor(fd) }
        inband = []
        guard let session else { return }
        for (ring, fd) in session.inbandCalls {
            inband.append(fd)
            addDescriptor(fd) { [unowned self] in
                _ = EventFD.take(fd)
                self.session?.forwardCall(ring)
            }
        }
    }
}

/// A listening socket, with the file that a crash left behind taken over.
public enum Listener {
    /// Binds and listens; non-blocking. Nobody but those of `access` can connect at any moment: the file is made with
    /// its permissions, and is given away before the socket listens. Errors: `.socket`, with what to do.
    public static func open(_ path: String, _ access: SocketAccess = SocketAccess()) throws(VhostUserError) -> Int32 {
        let fd = CPlat_unix_socket()
        guard fd >= 0 else { throw VhostUserError(.socket, "socket: \(SystemError.text(errno))") }
        if bind(fd, path, access) != 0 {
            guard errno == EADDRINUSE else { throw failure(fd, path, "bind") }
            try takeOver(fd, path, access)
        }
        if access.user ?? access.group != nil,
            CPlat_unix_give(path, access.user ?? .max, access.group ?? .max) != 0
        {
            unlinkBound(path)
            throw failure(fd, path, "chown")
        }
        guard listen(fd, 16) == 0 else { throw failure(fd, path, "listen") }
        return fd
    }

    private static func bind(_ fd: Int32, _ path: String, _ access: SocketAccess) -> Int32 {
        access.mode.map { CPlat_unix_bind_mode(fd, path, $0) } ?? CPlat_unix_bind(fd, path)
    }

    private static func unlinkBound(_ path: String) {
        let code = errno
        unlink(path)
        errno = code
    }

    private static func failure(_ fd: Int32, _ path: String, _ call: String) -> VhostUserError {
        let code = errno
        close(fd)
        let hint: String
        switch code {
        case ENOENT: hint = "; create its directory first"
        case ENAMETOOLONG: hint = "; 107 bytes are the most"
        case EACCES: hint = "; choose a directory that this user may write to"
        case EPERM where call == "chown":
            hint = "; user= and group= take CAP_CHOWN, but for groups that this process's user is in"
        default: hint = ""
        }
        return VhostUserError(.socket, "\(path): \(call): \(SystemError.text(code))\(hint)")
    }

    private static func takeOver(_ fd: Int32, _ path: String, _ access: SocketAccess) throws(VhostUserError) {
        var status = stat()
        if lstat(path, &status) == 0 && status.st_mode & S_IFMT != S_IFSOCK {
            close(fd)
            throw VhostUserError(.socket, "\(path): exists and is not a socket; remove it or choose another path")
        }
        let probe = CPlat_unix_socket()
        let answer = CPlat_unix_connect(probe, path)
        let code = errno
        close(probe)
        // EAGAIN: its queue is full, so somebody listens.
        if answer == 0 || code != ECONNREFUSED {
            close(fd)
            throw VhostUserError(.socket, "\(path): a live process serves this socket; stop it or choose another path")
        }
        unlink(path)
        if bind(fd, path, access) != 0 { throw failure(fd, path, "bind") }
    }
}
