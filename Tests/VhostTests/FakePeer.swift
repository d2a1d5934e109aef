import CPlatform
import Control
import Glibc
import Memory
import Vhost
import VhostUser
import Virtio

/// A vhost-user back-end on one end of a socket pair, in a thread of its own: writes down the messages, answers them,
/// and refuses the one it is told to, or hangs up at it, or lies.
final class FakePeer: Sendable {
    /// How an answer goes wrong.
    enum Lie {
        /// Other bytes in the payload.
        case bytes([UInt8])
        case flags(UInt32)
        /// The answer to another request.
        case request(UInt32)
        /// A descriptor that nobody asked for.
        case descriptor
        /// Its own end of the connection, beside the answer's first byte; then it goes.
        case ownEnd
        case twice
        case silence
    }

    struct State {
        var trace: [String] = []
        var count = 0
        /// The message (counted from 1) that goes wrong; 0: none.
        var failAt = 0
        /// Hangs up instead of refusing.
        var hangsUp = false
        var features: Features = [
            .version1, .mrgRxbuf, .eventIdx, .ringReset, .vhostLogAll, .protocolFeatures, .mtu, .mq,
        ]
        var protocolFeatures: ProtocolFeatures = [
            .mq, .replyAck, .status, .mtu, .rarp, .config, .backendReq, .logShmFD, .inflightShmFD, .resetDevice,
        ]
        var pairs: UInt64 = 2
        var slots: UInt64 = 64
        var status: UInt64 = 0
        /// What rings answer to GET_VRING_BASE.
        var base: UInt32 = 7
        /// Rings with a kick, those that are enabled, and where their calls go.
        var running: Set<UInt32> = []
        var enabled: Set<UInt32> = []
        var calls: [UInt32: OwnedDescriptor] = [:]
        var errors: [UInt32: OwnedDescriptor] = [:]
        /// Descriptors, driver and device area of each ring, as user addresses.
        var addresses: [UInt32: (UInt64, UInt64, UInt64)] = [:]
        /// IOTLB misses that it asks for before it acknowledges an IOTLB message; it closes its channel at NET_SET_MTU.
        var misses = 0
        var closesChannel = false
        var lies: [Request: Lie] = [:]
        /// Bytes of the in-flight region's file, and its size in the answer (0: the file's).
        var inflightFile = 32768
        var inflightSize: UInt64 = 0
        /// Something else in the place of that file.
        var inflightDescriptor: OwnedDescriptor?
        var inflightSeen: [UInt8]?
        var rarp: [UInt8]?
        var logSizes: [UInt64] = []
        var configFlags: UInt32?
        var logAll = false
        /// Wants an answer on its own channel before it acknowledges NET_SET_MTU, and what that was.
        var asksFirst = false
        var channelAnswers: [[UInt8]] = []
        var isOver = false
    }
    let state: Locked<State>
    private let ends: (Int32, Int32)
    /// The front-end's end.
    var socket: MessageSocket { MessageSocket(dup(ends.0)) }

    convenience init() {
        var pair: [Int32] = [0, 0]
        _ = socketpair(
            AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0,
            &pair)
        self.init((pair[0], pair[1]), State())
    }

    /// Connects to a socket that the front-end serves.
    convenience init(connectingTo path: String, _ state: State) {
        let fd = CPlat_unix_socket()
        _ = CPlat_unix_connect(fd, path)
        self.init((-1, fd), state)
    }

    /// Serves the first front-end that connects to `path`.
    convenience init(listeningAt path: String, _ state: State) throws {
        self.init((-1, try Listener.open(path)), state, isListening: true)
    }

    private let isListening: Bool

    private init(_ ends: (Int32, Int32), _ state: State, isListening: Bool = false) {
        self.ends = ends
        self.isListening = isListening
        self.state = Locked(state)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { raw in
                Unmanaged<FakePeer>.fromOpaque(raw!).takeRetainedValue().loop()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        pthread_detach(thread)
    }

    /// Closes our copy of the front-end's end: the thread ends when the other is closed, too.
    func release() { if ends.0 >= 0 { close(ends.0) } }

    /// Ends the connection from its side.
    func hangUp() { shutdown(ends.1, Int32(SHUT_RDWR)) }

    /// Closes its descriptors of the connection and no more, as the end of a process does.
    func leave() { _ = leaving.withLock { $0.map { EventFD.signalOwn($0.fd) } } }

    /// Nil when the connection has ended.
    private let leaving = Locked<OwnedDescriptor?>(OwnedDescriptor(CPlat_eventfd(0)))

    /// How a back-end hands over its own end of the connection, so that it outlives the back-end.
    enum Handover: CaseIterable, Sendable {
        case besideStrayByte, besideUrgentByte, besideWholeMessage, insideSocketpair
    }

    /// Hands it over on its channel, or on the connection itself.
    func handOver(_ how: Handover, onChannel: Bool) {
        let own = OwnedDescriptor(dup(ends.1))
        var pair: [Int32] = [0, 0]
        socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)
        let (near, far) = (OwnedDescriptor(pair[0]), OwnedDescriptor(pair[1]))
        if how == .insideSocketpair { _ = CPlat_send_fds(far.fd, [7], 1, 0, [own.fd], 1) }
        let bytes = how == .besideWholeMessage ? Message(2).encoded : [7]
        channel.withLock { channel in
            // EOPNOTSUPP where the kernel has no urgent bytes: nothing is handed over then.
            _ = CPlat_send_fds(
                onChannel ? channel!.fd : ends.1, bytes, bytes.count, how == .besideUrgentByte ? Int32(MSG_OOB) : 0,
                [how == .insideSocketpair ? near.fd : own.fd], 1)
        }
    }

    /// Hands it over on another connection.
    func handOver(on fd: Int32) {
        let own = OwnedDescriptor(dup(ends.1))
        _ = CPlat_send_fds(fd, [7], 1, 0, [own.fd], 1)
    }

    /// The connection has ended.
    var isOver: Bool { state.withLock { $0.isOver } }

    var trace: [String] { state.withLock { $0.trace } }

    /// The back-end's side of a call.
    func call(_ ring: UInt32) {
        state.withLock { s in
            var one: UInt64 = 1
            _ = write(s.calls[ring]!.fd, &one, 8)
        }
    }

    /// The back-end's report of a broken ring.
    func fail(_ ring: UInt32) {
        state.withLock { s in
            var one: UInt64 = 1
            _ = write(s.errors[ring]!.fd, &one, 8)
        }
    }

    /// A message of the back-end on its own channel.
    func say(_ message: Message) {
        let socket = channel.withLock { $0 }
        _ = try? socket?.send(message)
    }

    /// The next answer on its own channel.
    func heard() -> Message? {
        let socket = channel.withLock { $0 }
        return try? socket?.receive(within: 20_000)
    }

    private let channel = Locked<MessageSocket?>(nil)

    private func accept() -> Int32 {
        var p = pollfd(fd: ends.1, events: Int16(POLLIN), revents: 0)
        _ = poll(&p, 1, 20_000)
        defer { close(ends.1) }
        return CPlat_accept(ends.1)
    }

    private func loop() {
        let socket = MessageSocket(isListening ? accept() : ends.1)
        let leaving = self.leaving.withLock { $0!.fd }
        // Its descriptors go before the front-end hears of the end.
        defer {
            self.leaving.withLock { $0 = nil }
            state.withLock { ($0.calls, $0.errors, $0.isOver) = ([:], [:], true) }
            channel.withLock { $0 = nil }
        }
        while true {
            do throws(VhostUserError) {
                let m = try socket.receive(within: 60_000, cancel: leaving)
                guard let answer = handle(m) else { return }
                for a in answer { try socket.send(a) }
            } catch {
                return
            }
        }
    }

    /// Nil: hangs up.
    private func handle(_ m: Message) -> [Message]? {
        let request = Request(rawValue: m.request)!
        if request == .netSetMTU { speak() }
        if request == .iotlbMsg,
            state.withLock({
                $0.misses -= 1
                return $0.misses >= 0
            })
        {
            let socket = channel.withLock { $0 }
            _ = try? socket?.send(Message(1, flags: 9, payload: Array(m.payload[..<24]) + [1, 1, 0, 0, 0, 0, 0, 0]))
            _ = try? socket?.receive(within: 20_000)
        }
        return state.withLock { s in
            s.count += 1
            s.trace.append(describe(request, m))
            let isFailing = s.count == s.failAt
            if isFailing && s.hangsUp { return nil }
            if !isFailing { apply(request, m, &s) }
            var answer =
                own(request, m, s)
                ?? (m.needsReply ? Message(m.request, flags: 5, payload: Payload(isFailing ? 1 : 0).bytes) : nil)
            // Two bytes are an answer to nothing.
            if isFailing, own(request, m, s) != nil { answer?.payload = [1, 2] }
            guard let answer else { return [] }
            return s.lies[request].map { lie($0, answer) } ?? [answer]
        }
    }

    private func lie(_ lie: Lie, _ answer: Message) -> [Message] {
        var a = answer
        switch lie {
        case .bytes(let bytes): a.payload = bytes
        case .flags(let flags): a.flags = flags
        case .request(let n): a.request = n
        case .descriptor: a.descriptors = [OwnedDescriptor(CPlat_eventfd(0))]
        case .ownEnd:
            _ = CPlat_send_fds(ends.1, a.encoded, 1, 0, [ends.1], 1)
            leave()
            return []
        case .twice: return [a, a]
        case .silence: return []
        }
        return [a]
    }

    /// Answers of their own, as the specification has them.
    private func own(_ request: Request, _ m: Message, _ s: State) -> Message? {
        func reply(_ bytes: [UInt8], _ fds: [OwnedDescriptor] = []) -> Message {
            var r = Message(m.request, flags: 5, payload: bytes)
            r.descriptors = fds
            return r
        }
        switch request {
        case .getFeatures: return reply(Payload(s.features.rawValue).bytes)
        case .getProtocolFeatures: return reply(Payload(s.protocolFeatures.rawValue).bytes)
        case .getQueueNum: return reply(Payload(s.pairs).bytes)
        case .getMaxMemSlots: return reply(Payload(s.slots).bytes)
        case .getStatus: return reply(Payload(s.status).bytes)
        case .getVringBase: return reply(Payload(index: Int(word(m, 0)), s.base).bytes)
        case .getConfig: return reply(m.payload.enumerated().map { $0 < 12 ? $1 : UInt8($0 - 12) })
        case .setLogBase: return reply([])
        case .getInflightFD:
            let region = try! HostMemory(bytes: s.inflightFile, wantsHugePages: false, name: "inflight")
            var p = Payload(s.inflightSize == 0 ? UInt64(s.inflightFile) : s.inflightSize)
            p.add64(0)
            return reply(p.bytes + m.payload[16...], [s.inflightDescriptor ?? region.descriptor])
        default: return nil
        }
    }

    private func apply(_ request: Request, _ m: Message, _ s: inout State) {
        let (first, second) = (word(m, 0), word(m, 1))
        switch request {
        case .getVringBase: s.running.remove(first)
        case .setStatus: s.status = UInt64(first)
        case .setVringAddr:
            func long(_ i: Int) -> UInt64 { UInt64(word(m, 2 * i)) | UInt64(word(m, 2 * i + 1)) << 32 }
            s.addresses[first] = (long(1), long(3), long(2))
        case .setVringKick: s.running.insert(first & 0xff)
        case .setVringCall:
            s.calls[first & 0xff] = m.descriptors.first.map { OwnedDescriptor(fcntl($0.fd, F_DUPFD_CLOEXEC, 0)) }
        case .setVringErr:
            s.errors[first & 0xff] = m.descriptors.first.map { OwnedDescriptor(fcntl($0.fd, F_DUPFD_CLOEXEC, 0)) }
        case .setVringEnable: if second == 1 { s.enabled.insert(first) } else { s.enabled.remove(first) }
        case .setInflightFD: s.inflightSeen = m.payload
        case .sendRARP: s.rarp = Array(m.payload.prefix(6))
        case .setLogBase: s.logSizes.append(UInt64(first) | UInt64(second) << 32)
        case .setConfig: s.configFlags = word(m, 2)
        case .setFeatures: s.logAll = Features(rawValue: UInt64(first) | UInt64(second) << 32).contains(.vhostLogAll)
        case .setBackendReqFD:
            channel.withLock { $0 = m.descriptors.first.map { MessageSocket(fcntl($0.fd, F_DUPFD_CLOEXEC, 0)) } }
        default: break
        }
    }

    /// A configuration change comes with the MTU.
    private func speak() {
        guard let socket = channel.withLock({ $0 }) else { return }
        if state.withLock({ $0.closesChannel }) { return channel.withLock { $0 = nil } }
        let asks = state.withLock { $0.asksFirst }
        _ = try? socket.send(Message(2, flags: asks ? 9 : 1))
        guard asks, let answer = try? socket.receive(within: 20_000) else { return }
        state.withLock { $0.channelAnswers.append(answer.payload) }
    }

    private func word(_ m: Message, _ i: Int) -> UInt32 {
        m.payload.withUnsafeBytes {
            $0.count >= 4 * i + 4 ? $0.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self) : 0
        }
    }

    private func describe(_ r: Request, _ m: Message) -> String {
        switch r {
        case .setVringNum, .setVringBase, .setVringEnable: return "\(r.name) \(word(m, 0)) \(word(m, 1))"
        case .getVringBase, .setVringKick, .setVringCall, .setVringErr, .setStatus: return "\(r.name) \(word(m, 0))"
        case .setVringAddr: return "\(r.name) \(word(m, 0))\(word(m, 1) == 1 ? " LOG" : "")"
        case .iotlbMsg: return "\(r.name) \(m.payload[25] == 2 ? "UPDATE" : "INVALIDATE")"
        default: return r.name
        }
    }
}

extension FakePeer {
    /// A `VhostNet` on it.
    func vhost(_ set: (inout VhostNet.Options) -> Void = { _ in }) throws -> VhostNet {
        var options = VhostNet.Options()
        set(&options)
        return try VhostNet(UserBackend(socket, name: "fake"), options)
    }
}
