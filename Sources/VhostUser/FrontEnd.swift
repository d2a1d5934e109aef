import Memory
import Virtio

/// The front-end's end of a vhost-user connection, message by message: negotiation, memory, rings.
/// What the back-end answers is checked: request, flags, size, descriptors. Blocks for its answers; one thread at a
/// time.
public final class FrontEnd {
    /// The connection.
    public let socket: MessageSocket
    /// What the back-end offers.
    public private(set) var offered = Features(rawValue: 0)
    /// What was acknowledged.
    public private(set) var features = Features(rawValue: 0)
    /// What was chosen with `setProtocolFeatures`.
    public private(set) var protocolFeatures = ProtocolFeatures(rawValue: 0)
    /// Queue pairs that the back-end has (GET_QUEUE_NUM), 1 without MQ.
    public private(set) var queuePairs = 1

    /// The socket failed, or was closed here: nothing can be said any more.
    public private(set) var isBroken = false

    /// Milliseconds to wait for an answer.
    private let timeout: Int
    /// The back-end's own channel, served while an answer is waited for: see `MessageSocket.receive`.
    public var meanwhile: (fd: Int32, serve: () -> Bool)?

    /// Ends the wait for an answer when it is readable; -1: none.
    private let cancel: Int32

    /// A back-end that does not answer within `timeout` milliseconds, or before the descriptor `cancel` is readable, is
    /// taken for gone.
    public init(_ socket: MessageSocket, timeout: Int = 5000, cancel: Int32 = -1) {
        self.socket = socket
        self.timeout = timeout
        self.cancel = cancel
    }

    /// Ends the connection.
    public func close() {
        isBroken = true
        socket.shutdown()
    }

    /// SET_PROTOCOL_FEATURES. With REPLY_ACK among them, from now on every message is acknowledged.
    public func setProtocolFeatures(_ chosen: ProtocolFeatures) throws(VhostUserError) {
        try tell(.setProtocolFeatures, Payload(chosen.rawValue))
        protocolFeatures = chosen
    }

    /// Takes what is wanted and offered. Afterwards `features` and `protocolFeatures` say what that is.
    public func negotiate(_ wanted: Features, _ wantedProtocol: ProtocolFeatures) throws(VhostUserError) {
        try tell(.setOwner)
        offered = Features(rawValue: try ask64(.getFeatures))
        if offered.contains(.protocolFeatures) {
            let all = ProtocolFeatures(rawValue: try ask64(.getProtocolFeatures))
            try setProtocolFeatures(all.intersection(wantedProtocol))
        }
        if protocolFeatures.contains(.mq) {
            let pairs = try ask64(.getQueueNum)
            guard ControlCode.pairsRange.contains(Int(clamping: pairs)) else {
                throw VhostUserError(.payload, .getQueueNum, "answered \(pairs) queue pairs")
            }
            queuePairs = Int(pairs)
        }
        features = offered.intersection(wanted.union(.protocolFeatures))
        try tell(.setFeatures, Payload(features.rawValue))
    }

    /// SET_MEM_TABLE with one region.
    public func share(_ region: RegionDescription, _ descriptor: OwnedDescriptor) throws(VhostUserError) {
        var payload = Payload()
        payload.add32(1)
        payload.add32(0)
        payload.add(region)
        try tell(.setMemTable, payload, [descriptor])
    }

    /// Everything that makes ring `index` run, and SET_VRING_ENABLE where the feature is there. Addresses
    /// are user addresses.
    public func startRing(
        _ index: Int, size: UInt32, base: UInt32, descriptors: UInt64, driverArea: UInt64, deviceArea: UInt64,
        kick: OwnedDescriptor, call: OwnedDescriptor
    ) throws(VhostUserError) {
        try tell(.setVringCall, Payload(UInt64(index)), [call])
        try tell(.setVringNum, Payload(index: index, size))
        try tell(.setVringBase, Payload(index: index, base))
        var payload = Payload(index: index, 0)
        payload.add64(descriptors)
        payload.add64(deviceArea)
        payload.add64(driverArea)
        payload.add64(0)
        try tell(.setVringAddr, payload)
        try tell(.setVringKick, Payload(UInt64(index)), [kick])
        try enableRing(index, true)
    }

    /// SET_VRING_ENABLE; nothing where PROTOCOL_FEATURES was not acknowledged, for rings are enabled then.
    public func enableRing(_ index: Int, _ isEnabled: Bool) throws(VhostUserError) {
        if features.contains(.protocolFeatures) { try tell(.setVringEnable, Payload(index: index, isEnabled ? 1 : 0)) }
    }

    /// GET_VRING_BASE: stops the ring; where it stands.
    public func stopRing(_ index: Int) throws(VhostUserError) -> UInt32 {
        var reader = PayloadReader(try ask(.getVringBase, Payload(index: index, 0)).payload)
        guard let i = reader.next32(), let base = reader.next32(), i == UInt32(index) else {
            throw VhostUserError(.payload, .getVringBase, "the answer is not about ring \(index)")
        }
        return base
    }

    // MARK: Messages

    /// Sends a request that has no answer of its own; with REPLY_ACK waits for its acknowledgement. Errors:
    /// `.refused` when the back-end says that it failed.
    public func tell(_ request: Request, _ payload: Payload = Payload(), _ descriptors: [OwnedDescriptor] = [])
        throws(VhostUserError)
    {
        let waits = protocolFeatures.contains(.replyAck)
        var message = Message(
            request, flags: waits ? Message.version | Message.needReply : Message.version, payload: payload)
        message.descriptors = descriptors
        try send(message)
        if !waits { return }
        var reader = PayloadReader(try answer(to: request, sizes: [8]).payload)
        let status = reader.next64() ?? 1
        if status != 0 { throw VhostUserError(.refused, request, "the back-end refused it (\(status))") }
    }

    /// Sends a request and returns its answer.
    public func ask(_ request: Request, _ payload: Payload = Payload(), _ descriptors: [OwnedDescriptor] = [])
        throws(VhostUserError) -> Message
    {
        var message = Message(request, payload: payload)
        message.descriptors = descriptors
        try send(message)
        let answer = try answer(to: request, sizes: FrontEnd.answerSizes(request, sent: payload.bytes.count))
        let most = request == .getInflightFD || request == .setDeviceStateFD ? 1 : 0
        guard answer.descriptors.count <= most else {
            throw VhostUserError(
                .descriptors, request, "answered with \(answer.descriptors.count) descriptors; \(most) can be")
        }
        return answer
    }

    /// Bytes that the payload of an answer may have.
    private static func answerSizes(_ request: Request, sent: Int) -> [Int] {
        switch request {
        // Empty: it failed.
        case .getConfig: return [0, sent]
        // libvhost-user sends a zero, the others nothing.
        case .setLogBase: return [0, 8]
        // With and without the structure's padding.
        case .getInflightFD: return [20, 24]
        default: return [8]
        }
    }

    private func send(_ message: Message) throws(VhostUserError) {
        if isBroken { throw VhostUserError(.socket, "the connection has ended") }
        do throws(VhostUserError) {
            // It would be taken for the answer to this message.
            if let stray = try socket.receive() {
                throw VhostUserError(.header, "message \(stray.request) came without being asked for")
            }
            try socket.send(message)
        } catch {
            isBroken = true
            throw error
        }
    }

    /// Sends a request that is answered with 64 bits.
    public func ask64(_ request: Request) throws(VhostUserError) -> UInt64 {
        var reader = PayloadReader(try ask(request).payload)
        return reader.next64() ?? 0
    }

    private func answer(to request: Request, sizes: [Int]) throws(VhostUserError) -> Message {
        let message: Message
        do throws(VhostUserError) {
            message = try socket.receive(within: timeout, meanwhile: meanwhile, cancel: cancel)
        } catch {
            // Half an answer, or a late one, would be taken for the next.
            isBroken = true
            throw VhostUserError(error.kind, request, error.description)
        }
        // QEMU takes these flags alone, too.
        guard message.request == request.rawValue, message.flags == Message.version | Message.reply else {
            isBroken = true
            throw VhostUserError(.header, request, "answered with message \(message.request), flags \(message.flags)")
        }
        guard sizes.contains(message.payload.count) else {
            let wanted = sizes.map(String.init).joined(separator: " or ")
            throw VhostUserError(.payload, request, "answered with \(message.payload.count) bytes instead of \(wanted)")
        }
        return message
    }
}
