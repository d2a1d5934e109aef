import CPlatform
import Glibc
import Memory
import Vhost
import VhostUser
import Virtio

/// A value behind a lock, for what is not Sendable.
final class Locked<Value>: @unchecked Sendable {
    private var value: Value
    private var mutex = pthread_mutex_t()
    init(_ value: Value) {
        self.value = value
        pthread_mutex_init(&mutex, nil)
    }
    func withLock<R>(_ body: (inout Value) throws -> R) rethrows -> R {
        pthread_mutex_lock(&mutex)
        defer { pthread_mutex_unlock(&mutex) }
        return try body(&value)
    }
}

/// A vhost-user back-end on one end of a socket pair, in a thread of its own: writes down the messages, answers them,
/// and refuses the one it is told to, or hangs up at it.
final class FakePeer: Sendable {
    struct State {
        var trace: [String] = []
        var count = 0
        /// The message (counted from 1) that goes wrong; 0: none.
        var failAt = 0
        /// Hangs up instead of refusing.
        var hangsUp = false
        var features: Features = [.version1, .mrgRxbuf, .eventIdx, .ringReset, .vhostLogAll, .protocolFeatures, .mtu, .mq]
        var protocolFeatures: ProtocolFeatures = [.mq, .replyAck, .status, .mtu, .rarp, .config, .backendReq, .logShmFD, .inflightShmFD, .resetDevice]
        var pairs: UInt64 = 2
        var status: UInt64 = 0
        /// Rings with a kick, and those that are enabled.
        var running: Set<UInt32> = []
        var enabled: Set<UInt32> = []
        /// Answers of this request are replaced by these bytes.
        var lies: [Request: [UInt8]] = [:]
        var inflightSeen: [UInt8]?
        var rarp: [UInt8]?
        var logAll = false
    }
    let state = Locked(State())
    private let ends: (Int32, Int32)
    /// The front-end's end.
    var socket: MessageSocket { MessageSocket(dup(ends.0)) }

    init() {
        var pair: [Int32] = [0, 0]
        _ = socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0, &pair)
        ends = (pair[0], pair[1])
        var thread = pthread_t()
        pthread_create(&thread, nil, { raw in
            Unmanaged<FakePeer>.fromOpaque(raw!).takeRetainedValue().loop()
            return nil
        }, Unmanaged.passRetained(self).toOpaque())
        pthread_detach(thread)
    }

    /// Closes our copy of the front-end's end: the thread ends when the other is closed, too.
    func release() { close(ends.0) }

    var trace: [String] { state.withLock { $0.trace } }

    private final class Channel { var socket: MessageSocket? }

    private func loop() {
        let socket = MessageSocket(ends.1)
        let channel = Channel()
        while true {
            do throws(VhostUserError) {
                let m = try socket.receive(within: 20_000)
                guard let answer = handle(m, channel) else { return }
                for a in answer { try socket.send(a) }
            } catch {
                return
            }
        }
    }

    /// Nil: hangs up.
    private func handle(_ m: Message, _ channel: Channel) -> [Message]? {
        state.withLock { s in
            let request = Request(rawValue: m.request)!
            s.count += 1
            s.trace.append(describe(request, m))
            let words = m.payload.withUnsafeBytes { p in (0..<p.count / 4).map { p.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self) } }
            let isFailing = s.count == s.failAt
            if isFailing && s.hangsUp { return nil }
            func reply(_ bytes: [UInt8], _ fds: [OwnedDescriptor] = []) -> [Message] {
                var r = Message(m.request, flags: 5, payload: s.lies[request] ?? bytes)
                r.descriptors = fds
                // Two bytes are an answer to nothing.
                if isFailing { r.payload = [1, 2] }
                return [r]
            }
            switch request {
            case .getFeatures: return reply(Payload(s.features.rawValue).bytes)
            case .getProtocolFeatures: return reply(Payload(s.protocolFeatures.rawValue).bytes)
            case .getQueueNum: return reply(Payload(s.pairs).bytes)
            case .getMaxMemSlots: return reply(Payload(64).bytes)
            case .getStatus: return reply(Payload(s.status).bytes)
            case .getVringBase:
                if !isFailing { s.running.remove(words[0]) }
                return reply(Payload(index: Int(words[0]), 7).bytes)
            case .getConfig: return reply(m.payload.enumerated().map { $0 < 12 ? $1 : UInt8($0 - 12) })
            case .setLogBase: return reply([])
            case .getInflightFD:
                let region = try! HostMemory(bytes: 4096, wantsHugePages: false, name: "inflight")
                var p = Payload(4096)
                p.add64(0)
                return reply(p.bytes + m.payload[16...], [region.descriptor])
            default: break
            }
            if !isFailing {
                switch request {
                case .setStatus: s.status = UInt64(words[0])
                case .setVringKick: s.running.insert(words[0])
                case .setVringEnable: if words[1] == 1 { s.enabled.insert(words[0]) } else { s.enabled.remove(words[0]) }
                case .setInflightFD: s.inflightSeen = m.payload
                case .sendRARP: s.rarp = Array(m.payload.prefix(6))
                case .setFeatures: s.logAll = Features(rawValue: UInt64(words[0]) | UInt64(words[1]) << 32).contains(.vhostLogAll)
                case .setBackendReqFD: channel.socket = m.descriptors.first.map { MessageSocket(dup($0.fd)) }
                case .netSetMTU:
                    // A configuration change comes with it.
                    if let c = channel.socket { _ = try? c.send(Message(2)) }
                default: break
                }
            }
            return m.needsReply ? [Message(m.request, flags: 5, payload: Payload(isFailing ? 1 : 0).bytes)] : []
        }
    }

    private func describe(_ r: Request, _ m: Message) -> String {
        func word(_ i: Int) -> UInt32 { m.payload.withUnsafeBytes { $0.count >= 4 * i + 4 ? $0.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self) : 0 } }
        switch r {
        case .setVringNum, .setVringBase, .setVringEnable: return "\(r.name) \(word(0)) \(word(1))"
        case .getVringBase, .setVringKick, .setVringCall, .setVringErr, .setStatus: return "\(r.name) \(word(0))"
        case .setVringAddr: return "\(r.name) \(word(0))\(word(1) == 1 ? " LOG" : "")"
        default: return r.name
        }
    }
}
