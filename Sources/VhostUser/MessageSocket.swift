import CPlatform
import Glibc
import Memory

/// A connected vhost-user socket: whole messages with their descriptors. One thread at a time.
public final class MessageSocket {
    /// Descriptors that are kept of what the other end hands over; what is not is closed at once. It could be the other
    /// end of this very connection, or hold it, and its end would never be seen.
    public enum Kept: Sendable {
        /// The other end is trusted.
        case all
        /// Of a front-end: eventfds, files, pipes and channels. A descriptor of -1 stands for anything else.
        case ofFrontEnd
        /// Of a back-end, with its answers: memory (memfd, tmpfs, hugetlbfs). Anything else ends the connection, with
        /// an error of kind `.descriptors`.
        case ofBackEnd
        /// On a back-end's channel: none. Each ends it with that error.
        case none
    }

    /// The socket's descriptor: belongs to this object, which closes it.
    public let fd: Int32
    /// Which descriptors are kept; to be set before the first message is received.
    public var keeps: Kept { didSet { readUrgentInline() } }
    var partial: [UInt8] = []
    var partialDescriptors: [OwnedDescriptor] = []

    /// Takes a connected, non-blocking socket over.
    public init(_ fd: Int32, keeps: Kept = .all) {
        self.fd = fd
        self.keeps = keeps
        readUrgentInline()
    }

    /// Urgent bytes can carry descriptors, too, and would stay in the queue.
    private func readUrgentInline() { if keeps != .all { CPlat_read_urgent_inline(fd) } }

    deinit { close(fd) }

    /// Ends the connection both ways; the descriptor goes with the object.
    public func shutdown() { _ = Glibc.shutdown(fd, Int32(SHUT_RDWR)) }

    /// A connection to a listening socket. Errors: `.socket`, with what to do.
    public static func connect(to path: String, keeps: Kept = .all) throws(VhostUserError) -> MessageSocket {
        let fd = CPlat_unix_socket()
        guard fd >= 0 else { throw VhostUserError(.socket, "socket: \(SystemError.text(errno))") }
        let socket = MessageSocket(fd, keeps: keeps)
        if CPlat_unix_connect(fd, path) != 0 { throw explain(path) }
        return socket
    }

    /// Before waiting for somebody who listens there. Errors: `.socket` where the file that there is cannot be one.
    public static func refuseOther(_ path: String) throws(VhostUserError) {
        var status = stat()
        if stat(path, &status) == 0 && status.st_mode & S_IFMT != S_IFSOCK {
            throw VhostUserError(.socket, "\(path): is not a socket; check the path")
        }
    }

    private static func explain(_ path: String) -> VhostUserError {
        let code = errno
        var status = stat()
        let hint: String
        switch code {
        case ENOENT: hint = "; nobody has made this socket yet: start the other end, or check the path"
        case ECONNREFUSED where stat(path, &status) == 0 && status.st_mode & S_IFMT != S_IFSOCK:
            hint = "; it is not a socket"
        case ECONNREFUSED: hint = "; nobody listens on it any more: start the other end"
        case EACCES, EPERM: hint = "; this user may not write to it"
        case ENAMETOOLONG: hint = "; 107 bytes are the most"
        default: hint = ""
        }
        return VhostUserError(.socket, "\(path): connect: \(SystemError.text(code))\(hint)")
    }

    /// The next message if it is there, nil if it is not complete yet. Errors: `.socket` when the
    /// other end has closed, `.header` and `.descriptors` for what cannot be a message.
    public func receive() throws(VhostUserError) -> Message? {
        while true {
            let wanted = try wantedBytes()
            if partial.count == wanted { return take() }
            guard try fill(wanted - partial.count) else { return nil }
        }
    }

    /// Bytes of the message at hand, as far as known: the header's, then the whole.
    private func wantedBytes() throws(VhostUserError) -> Int {
        if partial.count < Message.headerSize { return Message.headerSize }
        var reader = PayloadReader(partial)
        let (request, flags, size) = (reader.next32()!, reader.next32()!, reader.next32()!)
        if flags & Message.versionMask != Message.version {
            throw VhostUserError(
                .header, "message \(request): version \(flags & Message.versionMask); 1 is the only one")
        }
        if size > Message.maximumPayload {
            throw VhostUserError(
                .header, "message \(request): payload of \(size) bytes; \(Message.maximumPayload) are the most")
        }
        return Message.headerSize + Int(size)
    }

    /// Reads up to `count` bytes; false when there is nothing now.
    private func fill(_ count: Int) throws(VhostUserError) -> Bool {
        var fds = [Int32](repeating: -1, count: 64)
        var (fdCount, isTruncated): (Int32, Bool) = (0, false)
        var bytes = [UInt8](repeating: 0, count: count)
        let n = CPlat_receive_fds(fd, &bytes, count, Int32(MSG_DONTWAIT), &fds, 64, &fdCount, &isTruncated)
        // Owned at once, whatever happens next.
        let handedOver = fds[0..<Int(fdCount)].map(OwnedDescriptor.init)
        partialDescriptors += try handedOver.map { fd throws(VhostUserError) in try keep(fd) }
        if n < 0 {
            if errno == EAGAIN || errno == EINTR { return false }
            throw VhostUserError(.socket, "recvmsg: \(SystemError.text(errno))")
        }
        if n == 0 { throw VhostUserError(.socket, "closed by the other end") }
        if isTruncated || partialDescriptors.count > Message.maximumDescriptors {
            throw VhostUserError(.descriptors, "more than \(Message.maximumDescriptors) descriptors with one message")
        }
        partial += bytes[0..<n]
        return true
    }

    /// What stands for a descriptor that was handed over; see `Kept`. No file system is asked: it might not answer.
    private func keep(_ descriptor: OwnedDescriptor) throws(VhostUserError) -> OwnedDescriptor {
        let fd = descriptor.fd
        switch keeps {
        case .all: return descriptor
        case .ofFrontEnd:
            if CPlat_is_eventfd(fd) || CPlat_is_file(fd) || CPlat_is_pipe(fd) { return descriptor }
            if !CPlat_is_channel(fd) { return OwnedDescriptor(-1) }
            // Its queue could hold descriptors, too.
            CPlat_make_send_only(fd)
            return descriptor
        case .ofBackEnd where CPlat_is_shared_memory(fd): return descriptor
        case .ofBackEnd:
            throw VhostUserError(.descriptors, "a descriptor came that is not of memfd, tmpfs or hugetlbfs")
        case .none: throw VhostUserError(.descriptors, "a descriptor came where there can be none")
        }
    }

    private func take() -> Message {
        var reader = PayloadReader(partial)
        var message = Message(reader.next32()!, flags: reader.next32()!, payload: Array(partial[Message.headerSize...]))
        message.descriptors = partialDescriptors
        partial = []
        partialDescriptors = []
        return message
    }

    /// Sends a whole message. A peer that does not read (its buffer is full) is an error of kind `.socket`.
    public func send(_ message: Message) throws(VhostUserError) { _ = try send(message, isNeeded: true) }

    /// The same. One that is not needed is left out, whole, where the other end does not read: false.
    func send(_ message: Message, isNeeded: Bool) throws(VhostUserError) -> Bool {
        var bytes = message.encoded
        var fds = message.descriptors.map(\.fd)
        let whole = bytes.count
        while !bytes.isEmpty {
            let n = CPlat_send_fds(fd, bytes, bytes.count, Int32(MSG_DONTWAIT), fds, Int32(fds.count))
            if n < 0 && errno == EINTR { continue }
            if n < 0 && errno == EAGAIN && !isNeeded && bytes.count == whole { return false }
            if n <= 0 { throw VhostUserError(.socket, "sendmsg: \(SystemError.text(errno))") }
            bytes.removeFirst(n)
            fds = []
        }
        return true
    }

    /// Waits up to `milliseconds` for the next message. For front-ends. `meanwhile.serve` is called when that
    /// descriptor is readable: a back-end may want an answer on its own channel before it answers here. False: it is
    /// closed.
    /// `cancel`, a descriptor, ends the wait when it is readable.
    public func receive(
        within milliseconds: Int, meanwhile: (fd: Int32, serve: () -> Bool)? = nil, cancel: Int32 = -1
    ) throws(VhostUserError) -> Message {
        let milliseconds = min(max(milliseconds, 0), Int(Int32.max) - 1)
        var meanwhile = meanwhile
        let end = CPlat_monotonic_ns() + UInt64(milliseconds) * 1_000_000
        while true {
            if let message = try receive() { return message }
            let now = CPlat_monotonic_ns()
            if now >= end { throw VhostUserError(.socket, "no answer within \(milliseconds) ms") }
            var p = [fd, meanwhile?.fd ?? -1, cancel].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            _ = poll(&p, 3, Int32((end - now) / 1_000_000 + 1))
            if p[2].revents != 0 { throw VhostUserError(.socket, "the wait for an answer was cancelled") }
            if p[1].revents != 0 && meanwhile?.serve() == false { meanwhile = nil }
        }
    }
}
