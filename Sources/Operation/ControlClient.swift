import CPlatform
import Console
import Foundation
import Memory

/// The other end of a control socket: asks, and waits for the answer. One thread at a time.
package final class ControlClient {
    private let path: String
    private var socket: OwnedDescriptor
    private var input: [UInt8] = []
    /// What came with answers.
    private var descriptors: [OwnedDescriptor] = []
    private var turn: Int64 = 0

    /// Connects. Errors say what to do next.
    package init(_ path: String) throws(RPC.Failure) {
        self.path = path
        socket = OwnedDescriptor(CPlat_unix_socket())
        if CPlat_unix_connect(socket.fd, path) == 0 { return }
        let code = errno
        let advice: String
        switch code {
        case ENOENT, ECONNREFUSED:
            advice = "start `ringway forward --control \(path)`, or name its socket with --control"
        case EACCES: advice = "this user may not write to it; see its owner and mode with `ls -l \(path)`"
        default: advice = "name the socket of a ringway that runs with --control"
        }
        throw .refused("\(path): \(SystemError.text(code)); \(advice)")
    }

    /// Calls a method and returns its answer, or throws what the dataplane said.
    package func call<M: ControlMethod>(_ method: M.Type, _ params: M.Params) throws(RPC.Failure) -> M.Answer {
        turn += 1
        let line = Console.JSON.text(Question(id: turn, method: M.name, params: params))
        let answer = Data(try exchange(line).utf8)
        do {
            let reply = try Console.JSON.read(Reply<M.Answer>.self, answer)
            if let error = reply.error { throw error }
            if let result = reply.result { return result }
            throw RPC.Failure.refused("\(path): the answer has no result; is it a ringway of this version?")
        } catch let failure as RPC.Failure {
            throw failure
        } catch {
            throw .refused("\(path): the answer cannot be read; is it a ringway of this version? (\(error))")
        }
    }

    private struct Question<Params: Encodable>: Encodable {
        var jsonrpc = "2.0"
        var id: Int64
        var method: String
        var params: Params
    }

    private struct Reply<Answer: Decodable>: Decodable {
        var result: Answer?
        var error: RPC.Failure?
    }

    /// Sends a line, and returns the next one that comes.
    package func exchange(_ text: String) throws(RPC.Failure) -> String {
        if !write(Array((text + "\n").utf8)) { throw gone }
        return try line()
    }

    private var gone: RPC.Failure { .refused("\(path): the connection has ended; does ringway still run?") }

    /// All of it is on its way; false: the other side has closed.
    package func write(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let n = bytes[sent...].withUnsafeBytes {
                send(socket.fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if n < 0 {
                if errno != EAGAIN && errno != EINTR { return false }
                wait(POLLOUT)
            } else {
                sent += n
            }
        }
        return true
    }

    /// The next line that comes.
    package func line() throws(RPC.Failure) -> String {
        while true {
            if let end = input.firstIndex(of: 10) {
                let line = String(decoding: input[..<end], as: UTF8.self)
                input.removeFirst(end + 1)
                return line
            }
            var room = [UInt8](repeating: 0, count: 65_536)
            var fds: [Int32] = [-1, -1]
            var (came, isCut): (Int32, Bool) = (0, false)
            let n = CPlat_receive_fds(socket.fd, &room, room.count, 0, &fds, Int32(fds.count), &came, &isCut)
            if n == 0 || n < 0 && errno != EAGAIN && errno != EINTR { throw gone }
            descriptors += fds.prefix(Int(came)).map(OwnedDescriptor.init)
            if n < 0 { wait(POLLIN) } else { input += room[..<n] }
        }
    }

    private func wait(_ events: Int32) {
        var waiting = pollfd(fd: socket.fd, events: Int16(events), revents: 0)
        _ = poll(&waiting, 1, -1)
    }

    /// The descriptors that came with answers so far, once.
    func takeDescriptors() -> [OwnedDescriptor] {
        defer { descriptors = [] }
        return descriptors
    }

    /// The other side has not closed.
    var isOpen: Bool {
        var byte: UInt8 = 0
        let n = recv(socket.fd, &byte, 1, Int32(MSG_PEEK | MSG_DONTWAIT))
        return n > 0 || n < 0 && (errno == EAGAIN || errno == EINTR)
    }

    /// Waits so long, or until the other side says something or closes.
    func wait(milliseconds: Int32) {
        var waiting = pollfd(fd: socket.fd, events: Int16(POLLIN), revents: 0)
        _ = poll(&waiting, 1, milliseconds)
    }

    /// Nothing more is to be said.
    package func finish() { shutdown(socket.fd, Int32(SHUT_WR)) }

    /// The connection, for another protocol; nothing more can be said here.
    func give() -> OwnedDescriptor {
        defer { socket = OwnedDescriptor(-1) }
        return socket
    }

    /// Ends the connection.
    package func close() { socket = OwnedDescriptor(-1) }
}
