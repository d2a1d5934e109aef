import CPlatform
import Glibc
import Memory

/// A connected vhost-user socket: whole messages with their descriptors. One thread at a time.
public final class MessageSocket {
    public let fd: Int32
    /// The other end is a front-end that is not trusted. Of what it hands over only eventfds, files and channels are
    /// kept; anything else is closed at once, and a descriptor of -1 stands for it. It could be the other end of this
    /// very connection, or hold it, and its end would never be seen.
    public let isGuarded: Bool
    private var partial: [UInt8] = []
    private var partialDescriptors: [OwnedDescriptor] = []

    /// Takes a connected, non-blocking socket over.
    public init(_ fd: Int32, isGuarded: Bool = false) {
        self.fd = fd
        self.isGuarded = isGuarded
        if isGuarded { CPlat_read_urgent_inline(fd) }
    }

    deinit { close(fd) }

    /// Ends the connection both ways; the descriptor goes with the object.
    public func shutdown() { _ = Glibc.shutdown(fd, Int32(SHUT_RDWR)) }

    /// A connection to a listening socket. Errors: `.socket`, with what to do.
    public static func connect(to path: String, isGuarded: Bool = false) throws(VhostUserError) -> MessageSocket {
        let fd = CPlat_unix_socket()
        guard fd >= 0 else { throw VhostUserError(.socket, "socket: \(String(cString: strerror(errno)))") }
        let socket = MessageSocket(fd, isGuarded: isGuarded)
        if CPlat_unix_connect(fd, path) != 0 { throw explain(path) }
        return socket
    }

    private static func explain(_ path: String) -> VhostUserError {
        let code = errno
        var status = stat()
        let hint: String
        switch code {
        case ENOENT: hint = "; nobody has made this socket yet: start the other end, or check the path"
        case ECONNREFUSED where stat(path, &status) == 0 && status.st_mode & S_IFMT != S_IFSOCK: hint = "; it is not a socket"
        case ECONNREFUSED: hint = "; nobody listens on it any more: start the other end"
        case EACCES, EPERM: hint = "; this user may not write to it"
        case ENAMETOOLONG: hint = "; 107 bytes are the most"
        default: hint = ""
        }
        return VhostUserError(.socket, "\(path): connect: \(String(cString: strerror(code)))\(hint)")
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
            throw VhostUserError(.header, "message \(request): version \(flags & Message.versionMask); 1 is the only one")
        }
        if size > Message.maximumPayload {
            throw VhostUserError(.header, "message \(request): payload of \(size) bytes; \(Message.maximumPayload) are the most")
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
        partialDescriptors += fds[0..<Int(fdCount)].map(isGuarded ? MessageSocket.guarded : OwnedDescriptor.init)
        if n < 0 {
            if errno == EAGAIN || errno == EINTR { return false }
            throw VhostUserError(.socket, "recvmsg: \(String(cString: strerror(errno)))")
        }
        if n == 0 { throw VhostUserError(.socket, "closed by the other end") }
        if isTruncated || partialDescriptors.count > Message.maximumDescriptors {
            throw VhostUserError(.descriptors, "more than \(Message.maximumDescriptors) descriptors with one message")
        }
        partial += bytes[0..<n]
        return true
    }

    private static func guarded(_ fd: Int32) -> OwnedDescriptor {
        if CPlat_is_eventfd(fd) || CPlat_is_file(fd) { return OwnedDescriptor(fd) }
        if CPlat_is_channel(fd) {
            // Its queue could hold descriptors, too.
            CPlat_make_send_only(fd)
            return OwnedDescriptor(fd)
        }
        close(fd)
        return OwnedDescriptor(-1)
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
    public func send(_ message: Message) throws(VhostUserError) {
        var bytes = message.encoded
        var fds = message.descriptors.map(\.fd)
        while !bytes.isEmpty {
            let n = CPlat_send_fds(fd, bytes, bytes.count, Int32(MSG_DONTWAIT), fds, Int32(fds.count))
            if n < 0 && errno == EINTR { continue }
            if n <= 0 { throw VhostUserError(.socket, "sendmsg: \(String(cString: strerror(errno)))") }
            bytes.removeFirst(n)
            fds = []
        }
    }

    /// Waits up to `milliseconds` for the next message. For front-ends. `meanwhile.serve` is called when that descriptor
    /// is readable: a back-end may want an answer on its own channel before it answers here. False: it is closed.
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
