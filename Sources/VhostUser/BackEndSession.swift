import CPlatform
import Glibc
import Memory
import Virtio

/// The device side of one vhost-user connection: keeps what the front-end has set, checks it, and
/// starts and stops the device's rings. One thread, the port's control thread.
public final class BackEndSession {
    let device: any BackEndDevice
    let log: (String) -> Void
    var features = Features(rawValue: 0)
    /// SET_FEATURES has come.
    var isNegotiated = false
    var protocolFeatures = ProtocolFeatures(rawValue: 0)
    var memory = GuestMemory()
    /// What the driver's addresses mean, with ACCESS_PLATFORM.
    var iotlb = IOTLB()
    /// Pages that the front-end was asked for and has not told of.
    var askedFor: Set<UInt64> = []
    var rings: [SessionRing]
    var status: UInt8 = 0
    /// The dirty log of a guest that migrates (SET_LOG_BASE).
    var dirtyLog: SharedRegion?
    /// What is in flight (SET_INFLIGHT_FD).
    var inflight: InflightRegion?
    /// Channel to the front-end (SET_BACKEND_REQ_FD).
    var channel: MessageSocket?
    /// Eventfd that is written when a region's file is truncated.
    let lossFD: Int32
    /// Descriptors that the control thread must watch for in-band calls, by ring.
    public var inbandCallsChanged: (() -> Void)?
    /// The device's state that comes or has come (SET_DEVICE_STATE_FD).
    var transfer: StateTransfer?
    /// The descriptor of a transfer that the control thread must watch, and no longer: `serveTransfer` is for it.
    var transferChanged: ((_ old: Int32, _ new: Int32) -> Void)?

    static let offeredProtocolFeatures: ProtocolFeatures = [
        .mq, .logShmFD, .rarp, .replyAck, .mtu, .backendReq, .config, .inflightShmFD, .resetDevice,
        .inbandNotifications, .configureMemSlots, .status, .deviceState, .getVringBaseInflight,
    ]

    /// `lossFD` stays the caller's.
    public init(_ device: any BackEndDevice, lossFD: Int32 = -1, log: @escaping (String) -> Void) {
        self.device = device
        self.lossFD = lossFD
        self.log = log
        // Data rings and the control queue.
        rings = Array(repeating: SessionRing(), count: 2 * device.queuePairs + 1)
    }

    var isPacked: Bool { features.contains(.ringPacked) }
    var offered: Features { device.features.union([.protocolFeatures, .vhostLogAll]) }
    /// Bits between front-end and back-end, of which the driver knows nothing.
    static let ownFeatures: Features = [.protocolFeatures, .vhostLogAll]

    /// Carries one message out and answers it. Throws what the connection cannot go on after: the
    /// caller closes it.
    public func handle(_ message: Message, _ socket: MessageSocket) throws(VhostUserError) {
        guard let request = Request(rawValue: message.request) else {
            let error = VhostUserError(.header, "request \(message.request) is not one of the specification")
            // A front-end of a later specification asks whether it was done.
            guard wantsAck(message), message.flags & Message.reply == 0 else { throw error }
            log("refused: \(error)")
            return try socket.send(
                Message(message.request, flags: Message.version | Message.reply, payload: Payload(1).bytes))
        }
        if message.flags & Message.reply != 0 { throw VhostUserError(.header, request, "came with the reply flag") }
        do throws(VhostUserError) {
            if let answer = try carryOut(request, message) {
                try socket.send(answer)
            } else if wantsAck(message) {
                try socket.send(reply(request, Payload(0)))
            }
        } catch {
            // With REPLY_ACK the front-end learns of it and decides; without, it must not believe that it worked.
            guard error.kind != .socket, wantsAck(message), !hasOwnReply(request) else { throw error }
            log("refused: \(error)")
            try socket.send(reply(request, Payload(1)))
        }
    }

    private func wantsAck(_ message: Message) -> Bool { message.needsReply && protocolFeatures.contains(.replyAck) }

    private func hasOwnReply(_ request: Request) -> Bool {
        switch request {
        case .getFeatures, .getProtocolFeatures, .getQueueNum, .getVringBase, .getConfig, .getMaxMemSlots, .getStatus,
            .setLogBase, .getInflightFD, .setDeviceStateFD, .checkDeviceState:
            return true
        default: return false
        }
    }

    func reply(_ request: Request, _ payload: Payload) -> Message {
        Message(request, flags: Message.version | Message.reply, payload: payload)
    }

    /// The answer, for requests that have one of their own.
    private func carryOut(_ request: Request, _ m: Message) throws(VhostUserError) -> Message? {
        switch request {
        case .getFeatures: return reply(request, Payload(offered.rawValue))
        case .setFeatures: try setFeatures(m)
        case .setOwner: break
        case .resetOwner: resetDevice()
        case .getProtocolFeatures: return reply(request, Payload(BackEndSession.offeredProtocolFeatures.rawValue))
        case .setProtocolFeatures: try setProtocolFeatures(m)
        case .getQueueNum: return reply(request, Payload(UInt64(device.queuePairs)))
        case .setMemTable: try setMemTable(m)
        case .getMaxMemSlots: return reply(request, Payload(UInt64(GuestMemory.maximumRegions)))
        case .addMemReg: try addMemReg(m)
        case .remMemReg: try remMemReg(m)
        case .setVringNum: try setVringNum(m)
        case .setVringAddr: try setVringAddr(m)
        case .setVringBase: try setVringBase(m)
        case .getVringBase: return try getVringBase(m)
        case .setVringKick: try setVringKick(m)
        case .setVringCall: try setVringCall(m)
        case .setVringErr: try setVringErr(m)
        case .setVringEnable: try setVringEnable(m)
        case .vringKick: try vringKick(m)
        case .iotlbMsg: try iotlbMessage(m)
        case .setLogBase: return try setLogBase(m)
        case .setLogFD: try setLogFD(m)
        case .getInflightFD: return try getInflightFD(m)
        case .setInflightFD: try setInflightFD(m)
        case .setDeviceStateFD: return try setDeviceStateFD(m)
        case .checkDeviceState: return try checkDeviceState(m)
        case .netSetMTU: try setMTU(m)
        case .sendRARP: try sendRARP(m)
        case .setBackendReqFD: try setBackendReqFD(m)
        case .getConfig: return try getConfig(m)
        case .setConfig: try setConfig(m)
        case .resetDevice:
            try need(.resetDevice, request)
            resetDevice()
        case .setStatus: try setStatus(m)
        case .getStatus: return reply(request, Payload(UInt64(status)))
        default: throw VhostUserError(.features, request, "is not supported")
        }
        return nil
    }

    /// The connection ends: stops every ring and gives everything back.
    public func close() {
        pauseAll()
        rings = Array(repeating: SessionRing(), count: rings.count)
        (memory, iotlb, askedFor) = (GuestMemory(), IOTLB(), [])
        (dirtyLog, inflight) = (nil, nil)
        channel = nil
        endTransfer()
        inbandCallsChanged?()
    }

    // MARK: Operands

    func need(_ feature: ProtocolFeatures, _ request: Request) throws(VhostUserError) {
        if !protocolFeatures.contains(feature) {
            throw VhostUserError(.features, request, "its protocol feature was not negotiated")
        }
    }

    func value64(_ m: Message, _ request: Request) throws(VhostUserError) -> UInt64 {
        var r = PayloadReader(m.payload)
        guard m.payload.count == 8, let v = r.next64() else {
            throw VhostUserError(.payload, request, "payload of \(m.payload.count) bytes, 8 are expected")
        }
        return v
    }

    func state(_ m: Message, _ request: Request) throws(VhostUserError) -> (Int, UInt32) {
        var r = PayloadReader(m.payload)
        guard m.payload.count == 8, let index = r.next32(), let number = r.next32() else {
            throw VhostUserError(.payload, request, "payload of \(m.payload.count) bytes, 8 are expected")
        }
        return (try ring(Int(index), request), number)
    }

    func ring(_ index: Int, _ request: Request) throws(VhostUserError) -> Int {
        guard index < rings.count else {
            throw VhostUserError(
                .ring, request, "ring \(index); this port has \(rings.count) (queues=\(device.queuePairs))")
        }
        return index
    }

    // MARK: Features and status

    private func setFeatures(_ m: Message) throws(VhostUserError) {
        let wanted = Features(rawValue: try value64(m, .setFeatures))
        guard wanted.isSubset(of: offered) else {
            throw VhostUserError(
                .features, .setFeatures, "\(wanted.subtracting(offered).bitNames.joined(separator: ", ")) not offered")
        }
        let set = wanted.subtracting(BackEndSession.ownFeatures)
        let isChanged = set != features.subtracting(BackEndSession.ownFeatures)
        if rings.contains(where: \.isStarted) && isChanged {
            throw VhostUserError(
                .features, .setFeatures, "features change while rings run; stop them first (GET_VRING_BASE)")
        }
        let wasLogging = isLogging
        features = wanted
        isNegotiated = true
        // A migration begins or ends: rings that run go on, and the driver is not to notice.
        if isLogging != wasLogging { moveAll() }
        if isChanged || !rings.contains(where: \.isStarted) { device.featuresAcknowledged(set) }
        // Without PROTOCOL_FEATURES rings start enabled ("Ring states").
        var updates: [RingChange] = []
        if !wanted.contains(.protocolFeatures) {
            for i in rings.indices { rings[i].isEnabled = true }
            updates = rings.indices.compactMap { update(of: $0) }
        }
        apply(updates + readyStarts())
    }

    private func setProtocolFeatures(_ m: Message) throws(VhostUserError) {
        let wanted = ProtocolFeatures(rawValue: try value64(m, .setProtocolFeatures))
        guard wanted.isSubset(of: BackEndSession.offeredProtocolFeatures) else {
            let extra = wanted.subtracting(BackEndSession.offeredProtocolFeatures).rawValue
            throw VhostUserError(.features, .setProtocolFeatures, "bits 0x\(String(extra, radix: 16)) not offered")
        }
        guard !wanted.contains(.getVringBaseInflight) || wanted.contains(.inflightShmFD) else {
            throw VhostUserError(.features, .setProtocolFeatures, "GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD")
        }
        protocolFeatures = wanted
    }

    private func setStatus(_ m: Message) throws(VhostUserError) {
        try need(.status, .setStatus)
        let value = try value64(m, .setStatus)
        guard value <= 255 else { throw VhostUserError(.payload, .setStatus, "status \(value) has more than 8 bits") }
        status = UInt8(value)
        if status == 0 { resetDevice(answersBases: true) } else { device.statusChanged(status) }
    }

    /// RESET_DEVICE and a status of 0: all rings stop, are disabled and forget what they were told.
    private func resetDevice(answersBases: Bool = false) {
        let wereRunning = rings.map(\.isStarted)
        pauseAll()
        for i in rings.indices {
            endInflight(i, isReset: true)
            let restsAt = wereRunning[i] ? rings[i].base : rings[i].restsAt
            let err = rings[i].err
            rings[i] = SessionRing()
            rings[i].err = err
            if answersBases { rings[i].restsAt = restsAt }
            rings[i].isEnabled = !features.contains(.protocolFeatures)
        }
        inbandCallsChanged?()
        status = 0
        forgetIOTLBAtRest()
        device.statusChanged(0)
    }

    // MARK: Net device

    private func setMTU(_ m: Message) throws(VhostUserError) {
        let mtu = try value64(m, .netSetMTU)
        guard mtu <= 65535, device.setMTU(UInt16(mtu)) else {
            throw VhostUserError(.refused, .netSetMTU, "\(mtu) bytes; 68 to 65535 are possible")
        }
    }

    private func sendRARP(_ m: Message) throws(VhostUserError) {
        let mac = try value64(m, .sendRARP)
        device.sendRARP(mac: (0..<6).map { UInt8(truncatingIfNeeded: mac >> UInt64(8 * $0)) })
    }

    private func setBackendReqFD(_ m: Message) throws(VhostUserError) {
        try need(.backendReq, .setBackendReqFD)
        guard m.descriptors.count == 1 else {
            throw VhostUserError(.descriptors, .setBackendReqFD, "\(m.descriptors.count) descriptors, 1 is expected")
        }
        guard CPlat_is_channel(m.descriptors[0].fd) else {
            throw VhostUserError(
                .descriptors, .setBackendReqFD,
                "the descriptor is not an end of a socketpair (Unix stream, without names)")
        }
        let copy = fcntl(m.descriptors[0].fd, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw VhostUserError(.descriptors, .setBackendReqFD, SystemError.text(errno)) }
        channel = MessageSocket(copy)
    }

    private func configOperands(_ m: Message, _ request: Request) throws(VhostUserError) -> (Int, Int) {
        try need(.config, request)
        var r = PayloadReader(m.payload)
        guard let offset = r.next32(), let size = r.next32(), r.next32() != nil, size <= 256,
            m.payload.count == 12 + Int(size)
        else {
            throw VhostUserError(
                .payload, request, "payload of \(m.payload.count) bytes does not hold what its header says")
        }
        return (Int(offset), Int(size))
    }

    private func getConfig(_ m: Message) throws(VhostUserError) -> Message {
        let (offset, size) = try configOperands(m, .getConfig)
        // A payload of size zero says that it failed.
        guard let bytes = device.readConfiguration(offset: offset, size: size) else {
            return reply(.getConfig, Payload())
        }
        var p = Payload()
        p.add(Array(m.payload[0..<12]))
        p.add(bytes)
        return reply(.getConfig, p)
    }

    private func setConfig(_ m: Message) throws(VhostUserError) {
        let (offset, size) = try configOperands(m, .setConfig)
        guard device.writeConfiguration(offset: offset, bytes: Array(m.payload[12...])) else {
            throw VhostUserError(.refused, .setConfig, "bytes \(offset)+\(size) cannot be written")
        }
    }

    // MARK: In-band calls

    /// Rings whose calls go to the front-end as VRING_CALL, with the eventfd that stands for them.
    public var inbandCalls: [(ring: Int, fd: Int32)] {
        rings.indices.filter { rings[$0].callIsInBand }.map { ($0, rings[$0].callFD) }
    }

    /// The device wrote the ring's own call eventfd: tells the front-end.
    public func forwardCall(_ ring: Int) {
        tellFrontEnd(.vringCall, Payload(index: ring, 0), isNeeded: true, "VRING_CALL of ring \(ring)")
    }

    /// The configuration space has changed: tells the front-end (CONFIG_CHANGE). False: it cannot be told, for want of
    /// CONFIG or of a channel.
    public func configurationChanged() -> Bool {
        protocolFeatures.contains(.config)
            && tellFrontEnd(.configChange, Payload(), isNeeded: true, "CONFIG_CHANGE")
    }

    /// Sends a request that wants no answer on the front-end's channel, where there is one. One that is not needed is
    /// left out where the front-end does not read (false).
    @discardableResult
    func tellFrontEnd(
        _ request: BackEndRequest, _ payload: Payload, isNeeded: Bool, _ what: @autoclosure () -> String
    ) -> Bool {
        guard let channel else { return false }
        let message = Message(request.rawValue, payload: payload.bytes)
        do throws(VhostUserError) {
            return try channel.send(message, isNeeded: isNeeded)
        } catch {
            // A front-end that does not read: no more requests, and no line for each of them.
            self.channel = nil
            log("\(what()): \(error); its channel is closed")
            return false
        }
    }
}
