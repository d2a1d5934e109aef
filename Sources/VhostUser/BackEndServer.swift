import CPlatform
import Glibc
import Memory

/// The socket of a device-side port and its control thread, which accepts (or makes) connections,
/// carries out the front-end's messages and watches descriptors for the device. It sleeps in
/// poll(2) and wakes for events only.
///
/// The first connection that sends a complete message is the front-end; others wait (at most 16)
/// until it goes away. A client that finds nobody tries again after 100, later 500 ms.
public final class BackEndServer: @unchecked Sendable {
    let path: String
    let isClient: Bool
    unowned let device: any BackEndDevice
    let log: (String) -> Void

    private var thread: NamedThread?
    private var mutex = pthread_mutex_t()
    private var condition = pthread_cond_t()
    private var commands: [() -> Void] = []
    private var posted = 0
    private var done = 0
    private let wakeFD: Int32
    private let lossFD: Int32

    // The control thread's own
    private var listener: Int32 = -1
    private var pending: [MessageSocket] = []
    private var active: MessageSocket?
    private var session: BackEndSession?
    private var handlers: [Int32: () -> Void] = [:]
    private var inband: [Int32] = []
    private var isStopping = false
    private var attempts = 0

    static let mostPending = 16

    /// `log` is called on the control thread with one line.
    public init(path: String, isClient: Bool, device: any BackEndDevice, log: @escaping (String) -> Void) {
        self.path = path
        self.isClient = isClient
        self.device = device
        self.log = log
        wakeFD = CPlat_eventfd(0)
        lossFD = CPlat_eventfd(0)
        pthread_mutex_init(&mutex, nil)
        pthread_cond_init(&condition, nil)
    }

    deinit {
        close(wakeFD)
        close(lossFD)
        pthread_mutex_destroy(&mutex)
        pthread_cond_destroy(&condition)
    }

    /// Opens the socket and starts the control thread. A server listens when this returns. Errors:
    /// `.socket`, with what to do.
    public func start() throws(VhostUserError) {
        if wakeFD < 0 || lossFD < 0 { throw VhostUserError(.socket, "eventfd: \(String(cString: strerror(errno)))") }
        if !isClient { listener = try Listener.open(path) }
        do {
            thread = try NamedThread("ringway-ctl") { self.loop() }
        } catch {
            closeListener()
            throw VhostUserError(.socket, "\(path): \(error)")
        }
    }

    /// Closes everything, stops the device's rings, removes the socket. Safe to call twice; not from
    /// the control thread.
    public func stop() {
        guard let thread else { return }
        perform { self.isStopping = true }
        thread.join()
        self.thread = nil
    }

    /// Runs `work` on the control thread, which the caller is not, and returns when it has run.
    public func perform(_ work: @escaping () -> Void) {
        if thread == nil { return work() }
        pthread_mutex_lock(&mutex)
        commands.append(work)
        posted += 1
        let ticket = posted
        pthread_mutex_unlock(&mutex)
        var one: UInt64 = 1
        _ = write(wakeFD, &one, 8)
        pthread_mutex_lock(&mutex)
        while done < ticket { pthread_cond_wait(&condition, &mutex) }
        pthread_mutex_unlock(&mutex)
    }

    /// Calls `handler` on the control thread when `fd` is readable; the handler reads it. Control thread only.
    public func addDescriptor(_ fd: Int32, _ handler: @escaping () -> Void) { handlers[fd] = handler }

    /// Control thread only.
    public func removeDescriptor(_ fd: Int32) { handlers[fd] = nil }

    // MARK: Control thread

    private func loop() {
        while true {
            runCommands()
            if isStopping { break }
            if isClient && active == nil { connect() }
            waitAndServe()
        }
        disconnect("the port is closed")
        pending = []
        closeListener()
        runCommands()
    }

    private func closeListener() {
        if listener >= 0 {
            close(listener)
            unlink(path)
            listener = -1
        }
    }

    private func runCommands() {
        pthread_mutex_lock(&mutex)
        let work = commands
        commands = []
        pthread_mutex_unlock(&mutex)
        for body in work { body() }
        pthread_mutex_lock(&mutex)
        done += work.count
        pthread_cond_broadcast(&condition)
        pthread_mutex_unlock(&mutex)
    }

    private func connect() {
        do throws(VhostUserError) {
            activate(try MessageSocket.connect(to: path))
            attempts = 0
        } catch {
            if attempts == 0 { log("\(path): waiting for the front-end (\(error))") }
            attempts += 1
        }
    }

    /// Milliseconds; -1: for ever.
    private var timeout: Int32 { isClient && active == nil ? (attempts <= 20 ? 100 : 500) : -1 }

    private func waitAndServe() {
        var fds = [pollfd(fd: wakeFD, events: Int16(POLLIN), revents: 0), pollfd(fd: lossFD, events: Int16(POLLIN), revents: 0)]
        fds.append(pollfd(fd: pending.count < BackEndServer.mostPending ? listener : -1, events: Int16(POLLIN), revents: 0))
        fds.append(pollfd(fd: active?.fd ?? -1, events: Int16(POLLIN), revents: 0))
        let waiting = pending
        // While there is a front-end the others are only watched for going away.
        for socket in waiting { fds.append(pollfd(fd: socket.fd, events: active == nil ? Int16(POLLIN) : 0, revents: 0)) }
        let watched = Array(handlers)
        for (fd, _) in watched { fds.append(pollfd(fd: fd, events: Int16(POLLIN), revents: 0)) }
        if poll(&fds, nfds_t(fds.count), timeout) <= 0 { return }
        if fds[0].revents != 0 { BackEndServer.empty(wakeFD) }
        if fds[1].revents != 0 { memoryLost() }
        for (i, (fd, handler)) in watched.enumerated() where fds[4 + waiting.count + i].revents != 0 {
            if handlers[fd] != nil { handler() }
        }
        if fds[3].revents != 0 { serveActive() }
        for (i, socket) in waiting.enumerated() where fds[4 + i].revents != 0 { servePending(socket, fds[4 + i].revents) }
        if fds[2].revents != 0 { acceptConnection() }
    }

    private static func empty(_ fd: Int32) {
        var count: UInt64 = 0
        _ = read(fd, &count, 8)
    }

    private func acceptConnection() {
        let fd = CPlat_accept(listener)
        guard fd >= 0 else { return }
        pending.append(MessageSocket(fd))
        if active != nil { log("\(path): another front-end waits until the present one goes away") }
    }

    private func servePending(_ socket: MessageSocket, _ events: Int16) {
        if active != nil {
            if events & Int16(POLLHUP | POLLERR) != 0 { pending.removeAll { $0 === socket } }
            return
        }
        do throws(VhostUserError) {
            guard let message = try socket.receive() else { return }
            pending.removeAll { $0 === socket }
            activate(socket)
            serve(message)
            serveActive()
        } catch {
            pending.removeAll { $0 === socket }
            if error.kind != .socket { log("\(path): \(error)") }
        }
    }

    private func activate(_ socket: MessageSocket) {
        active = socket
        let session = BackEndSession(device, lossFD: lossFD, log: { [path, log] in log("\(path): \($0)") })
        session.inbandCallsChanged = { [unowned self] in self.watchInbandCalls() }
        self.session = session
        device.connected(true)
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
        active = nil
        device.connected(false)
        log("\(path): connection ended: \(reason)")
        attempts = 0
    }

    private func memoryLost() {
        BackEndServer.empty(lossFD)
        disconnect("the front-end has truncated a file behind guest memory")
    }

    private func watchInbandCalls() {
        for fd in inband { removeDescriptor(fd) }
        inband = []
        guard let session else { return }
        for (ring, fd) in session.inbandCalls {
            inband.append(fd)
            addDescriptor(fd) { [unowned self] in
                BackEndServer.empty(fd)
                self.session?.forwardCall(ring)
            }
        }
    }
}

/// A listening socket, with the file that a crash left behind taken over.
public enum Listener {
    /// Binds and listens; non-blocking. Errors: `.socket`, with what to do.
    public static func open(_ path: String) throws(VhostUserError) -> Int32 {
        let fd = CPlat_unix_socket()
        guard fd >= 0 else { throw VhostUserError(.socket, "socket: \(String(cString: strerror(errno)))") }
        if CPlat_unix_bind(fd, path) != 0 {
            guard errno == EADDRINUSE else { throw failure(fd, path, "bind") }
            try takeOver(fd, path)
        }
        guard listen(fd, 16) == 0 else { throw failure(fd, path, "listen") }
        return fd
    }

    private static func failure(_ fd: Int32, _ path: String, _ call: String) -> VhostUserError {
        let code = errno
        close(fd)
        let hint = code == ENOENT ? "; create its directory first" : code == ENAMETOOLONG ? "; 107 bytes are the most" : code == EACCES ? "; choose a directory that this user may write to" : ""
        return VhostUserError(.socket, "\(path): \(call): \(String(cString: strerror(code)))\(hint)")
    }

    private static func takeOver(_ fd: Int32, _ path: String) throws(VhostUserError) {
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
        if CPlat_unix_bind(fd, path) != 0 { throw failure(fd, path, "bind") }
    }
}
