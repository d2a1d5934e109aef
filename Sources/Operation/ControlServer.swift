import CPlatform
import Console
import Control
import Foundation
import Memory
import VhostUser

/// A place for a control socket, as `--control` takes it.
package struct SocketPlace: Equatable, Sendable {
    package var path: String
    package var access = SocketAccess(mode: 0o600)
    /// As it was written.
    private(set) var text: String

    package init(_ path: String) { (self.path, text) = (path, path) }
}

/// The control sockets of a running dataplane. They have a thread of their own, which sleeps in poll(2), so
/// nothing that a client does reaches a poll thread or another client.
///
/// What a client can take up is bounded: a line of `longestLine` bytes, one answer beside `mostOutput` bytes that it
/// does not read, and `mostClients` connections of all, of which the one that was silent longest yields.
///
/// What is not constant is the thread's own while there is one.
package final class ControlServer {
    package static let longestLine = 65_536
    package static let mostOutput = 4_194_304
    package static let mostClients = 64

    private final class Client {
        let socket: OwnedDescriptor
        let isReadOnly: Bool
        var input = Data()
        var output = Data()
        /// It has said all that it wants, or must not say more: closed when it has read what is left.
        var isEnding = false
        var lastHeard = 0
        /// What goes with its next answer.
        var gift: OwnedDescriptor?
        /// What is to be done when it has gone.
        var atEnd: (() -> Void)?

        init(_ fd: Int32, isReadOnly: Bool) { (socket, self.isReadOnly) = (OwnedDescriptor(fd), isReadOnly) }
    }

    private let control = ControlThread()
    private var listeners: [(fd: Int32, path: String, isReadOnly: Bool)] = []
    private var clients: [Client] = []
    private var turn = 0
    /// What is done every so many nanoseconds, and when it is due.
    private var repeated: [(period: UInt64, due: UInt64, work: () -> Void)] = []
    /// Whose line is answered, and who gets its connection then.
    var speaker: OwnedDescriptor? { speaking?.socket }
    private var speaking: Client?
    private var heir: ((OwnedDescriptor) -> Void)?
    /// Answers a line; it says whether the client may read only.
    private var answer: (Data, Bool) -> String? = { _, _ in nil }

    package init() {}

    /// Opens the sockets and starts the thread, which calls `answer`.
    package func start(
        _ place: SocketPlace?, reading readPlace: SocketPlace?, taking over: [OwnedDescriptor?] = [nil, nil],
        answer: @escaping (Data, _ isReadOnly: Bool) -> String?
    ) throws {
        self.answer = answer
        do {
            for (i, place) in [place, readPlace].enumerated() {
                guard let place else { continue }
                let fd = try over[i].map { try $0.copy() } ?? Listener.open(place.path, place.access)
                listeners.append((fd, place.path, i == 1))
            }
            try control.start("ringway-control", prepare: { self.prepare(&$0) }, atEnd: { self.end() })
        } catch {
            end()
            throw error
        }
    }

    /// The listening sockets: the one for all, and the one for reading. On the thread.
    func listening() throws -> [OwnedDescriptor?] {
        try [false, true].map { isReadOnly in
            try listeners.first { $0.isReadOnly == isReadOnly }.map { try OwnedDescriptor(copyOf: $0.fd) }
        }
    }

    /// Another process goes on with the sockets: their files stay. On the thread.
    func leave() {
        for listener in listeners { close(listener.fd) }
        listeners = []
    }

    /// Closes the sockets and all connections.
    package func stop() { control.stop() }

    /// Runs `work` on the thread, where no request is carried out meanwhile; here, where there is none.
    package func perform<Answer>(_ work: @escaping () -> Answer) -> Answer { control.run(work) }

    /// Calls `handler` on the thread when `fd`, an eventfd, is written; the handler reads it. Before `start`.
    func watch(_ fd: Int32, _ handler: @escaping () -> Void) -> Bool { control.watch(fd, handler) }

    /// Has the thread call `work` every `period` nanoseconds, but not while it is busy. Before `start`.
    func every(_ period: UInt64, _ work: @escaping () -> Void) { repeated.append((period, 0, work)) }

    /// Has the thread run `work` soon; here, where there is none. Any thread.
    func post(_ work: @escaping () -> Void) { control.post(work) }

    /// On the thread, while a line is answered: `heir` gets the connection, on the thread, when the answer is on its
    /// way.
    func bequeath(to heir: @escaping (OwnedDescriptor) -> Void) { self.heir = heir }

    /// On the thread, while a line is answered: `descriptor` goes with the answer; `atEnd` is called, on the thread,
    /// when the connection has ended. It is none of those that yield to others.
    func lend(_ descriptor: OwnedDescriptor, atEnd: @escaping () -> Void) {
        speaking?.gift = descriptor
        speaking?.atEnd = atEnd
    }

    /// On the thread, while a line is answered: `work` runs when the answer is on its way.
    func afterwards(_ work: @escaping () -> Void) { control.post(work) }

    // MARK: The thread

    private func end() {
        for client in clients { client.atEnd?() }
        clients = []
        for listener in listeners {
            close(listener.fd)
            unlink(listener.path)
        }
        listeners = []
    }

    private func prepare(_ waits: inout ControlThread.Waits) {
        doRepeated(&waits)
        let ended = clients.filter { $0.isEnding && $0.output.isEmpty }
        clients.removeAll { client in ended.contains { $0 === client } }
        for client in ended { client.atEnd?() }
        for listener in listeners { waits.on(listener.fd) { [weak self] _ in self?.accept(listener) } }
        for client in clients {
            // Who does not read is not listened to, but for its end.
            let events = (client.isEnding ? 0 : POLLIN) | (client.output.isEmpty ? 0 : POLLOUT)
            waits.on(client.socket.fd, events) { [weak self] in self?.serve(client, $0) }
        }
    }

    private func doRepeated(_ waits: inout ControlThread.Waits) {
        for place in repeated.indices {
            let now = CPlat_monotonic_ns()
            if now >= repeated[place].due {
                repeated[place].work()
                repeated[place].due = now + repeated[place].period
            }
        }
        waits.deadline = repeated.map(\.due).min()
    }

    private func accept(_ listener: (fd: Int32, path: String, isReadOnly: Bool)) {
        let fd = CPlat_accept(listener.fd)
        if fd < 0 { return }
        if clients.count >= ControlServer.mostClients,
            let silent = clients.indices.filter({ clients[$0].atEnd == nil }).min(by: {
                clients[$0].lastHeard < clients[$1].lastHeard
            })
        {
            clients.remove(at: silent)
        }
        let client = Client(fd, isReadOnly: listener.isReadOnly)
        turn += 1
        client.lastHeard = turn
        clients.append(client)
    }

    private func drop(_ client: Client) {
        client.output = Data()
        client.isEnding = true
    }

    private func serve(_ client: Client, _ events: Int32) {
        // An earlier handler of this round may have let it go.
        if !clients.contains(where: { $0 === client }) { return }
        if events & POLLIN != 0 && !client.isEnding { read(client) }
        if !client.output.isEmpty { write(client) }
        if events & (POLLERR | POLLNVAL) != 0 || events & POLLHUP != 0 && events & POLLIN == 0 { drop(client) }
    }

    private func read(_ client: Client) {
        var room = [UInt8](repeating: 0, count: 16_384)
        let n = recv(client.socket.fd, &room, room.count, Int32(MSG_DONTWAIT))
        if n < 0 {
            if errno != EAGAIN && errno != EINTR { drop(client) }
            return
        }
        if n == 0 {
            client.isEnding = true
            return
        }
        turn += 1
        client.lastHeard = turn
        client.input.append(contentsOf: room[..<n])
        while let end = client.input.firstIndex(of: 10), !client.isEnding {
            let line = client.input[client.input.startIndex..<end]
            client.input = Data(client.input[(end + 1)...])
            if line.count > ControlServer.longestLine { return refuse(client) }
            if line.allSatisfy({ $0 == 13 || $0 == 32 || $0 == 9 }) { continue }
            if client.output.count > ControlServer.mostOutput { return drop(client) }
            speaking = client
            if let text = answer(Data(line), client.isReadOnly) { say(text, to: client) }
            speaking = nil
            if let heir { give(client, to: heir) }
        }
        if client.input.count > ControlServer.longestLine { refuse(client) }
    }

    private func give(_ client: Client, to heir: @escaping (OwnedDescriptor) -> Void) {
        self.heir = nil
        client.isEnding = true
        if !client.output.isEmpty { return drop(client) }
        control.post { heir(client.socket) }
    }

    private func refuse(_ client: Client) {
        let text = "the line is longer than \(ControlServer.longestLine) bytes; the connection ends here"
        client.input = Data()
        client.isEnding = true
        say(RPC.failure(.parse(text)), to: client)
    }

    private func say(_ text: String, to client: Client) {
        let isFirst = client.output.isEmpty
        client.output.append(contentsOf: (text + "\n").utf8)
        // Else it waits until there is room.
        if isFirst { write(client) }
    }

    private func write(_ client: Client) {
        while !client.output.isEmpty {
            let gifts = client.gift.map { [$0.fd] } ?? []
            let n = client.output.withUnsafeBytes {
                CPlat_send_fds(
                    client.socket.fd, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT), gifts, Int32(gifts.count))
            }
            if n < 0 {
                if errno != EAGAIN && errno != EINTR { drop(client) }
                return
            }
            client.gift = nil
            client.output = Data(client.output.dropFirst(n))
        }
    }
}

extension SocketPlace {
    /// `PATH[,mode=660][,user=NAME][,group=NAME]`.
    package init(_ text: String, option: String) throws(RPC.Failure) {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        self.init(parts[0])
        self.text = text
        if path.isEmpty { throw .refused("\(option) \(text): write a path, as in /run/ringway/ctl.sock") }
        for part in parts.dropFirst() {
            let (name, value) = (String(part.prefix { $0 != "=" }), String(part.drop { $0 != "=" }.dropFirst()))
            guard SocketAccess.options.contains(name) else {
                throw .refused("\(option) \(text): '\(part)': mode=660, user=NAME and group=NAME can stand here")
            }
            do throws(VhostUserError) { try access.read(name, value) } catch {
                throw .refused("\(option) \(text): \(error)")
            }
        }
    }
}
