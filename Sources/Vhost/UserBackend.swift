import Glibc
import Memory
import VhostUser
import Virtio

/// A vhost-user socket, seen from the front-end. Messages go one by one; with REPLY_ACK each is waited for, so
/// that an error belongs to the call that made it.
public final class UserBackend: VhostBackend {
    public let kind = VhostKind.user
    public let name: String
    /// What the front-end can do; the back-end's answer decides. In-band notifications are left out: they cost a
    /// message for each kick.
    public static let knownProtocolFeatures: ProtocolFeatures = [
        .mq, .logShmFD, .rarp, .replyAck, .mtu, .backendReq, .config, .inflightShmFD, .resetDevice, .configureMemSlots, .status,
    ]
    let frontEnd: FrontEnd
    /// With PROTOCOL_FEATURES in it where the back-end has it.
    public private(set) var offered = Features(rawValue: 0)
    public private(set) var maximumPairs = 1
    /// Memory slots that the back-end has (GET_MAX_MEM_SLOTS), 8 without CONFIGURE_MEM_SLOTS.
    public private(set) var memorySlots = 8
    /// The channel on which the back-end sends CONFIG_CHANGE; nil without BACKEND_REQ.
    private(set) var channel: MessageSocket?
    private var regions: [VhostRegion] = []
    /// The in-flight region: kept by whoever keeps the back-end's successor (see `VhostNet.Saved`).
    var inflight: Inflight?

    /// A connected socket; `name` is its path. Nothing is sent yet.
    public init(_ socket: MessageSocket, name: String) {
        self.name = name
        frontEnd = FrontEnd(socket)
    }

    public var protocolFeatures: ProtocolFeatures { frontEnd.protocolFeatures }
    public var ownFeatures: Features { offered.intersection(.protocolFeatures) }
    public var isDisconnected: Bool { frontEnd.isBroken }

    // MARK: Messages

    private func tell(_ request: Request, _ payload: Payload = Payload(), _ fds: [OwnedDescriptor] = []) throws(VhostError) {
        do throws(VhostUserError) { try frontEnd.tell(request, payload, fds) } catch { throw VhostError(name, error) }
    }

    private func ask64(_ request: Request) throws(VhostError) -> UInt64 {
        do throws(VhostUserError) { return try frontEnd.ask64(request) } catch { throw VhostError(name, error) }
    }

    private func need(_ feature: ProtocolFeatures, _ operation: String, _ feature2: String) throws(VhostError) {
        if !protocolFeatures.contains(feature) {
            throw VhostError(.unsupported, "\(name): \(operation): the back-end lacks the protocol feature \(feature2)")
        }
    }

    /// GET_FEATURES; with PROTOCOL_FEATURES GET_/SET_PROTOCOL_FEATURES, GET_QUEUE_NUM (MQ), GET_MAX_MEM_SLOTS
    /// (CONFIGURE_MEM_SLOTS), and for the first object SET_BACKEND_REQ_FD (BACKEND_REQ); then SET_OWNER, once,
    /// and GET_FEATURES.
    public func open(_ object: VhostObject) throws(VhostError) {
        let features = Features(rawValue: try ask64(.getFeatures))
        if features.contains(.protocolFeatures) {
            let all = ProtocolFeatures(rawValue: try ask64(.getProtocolFeatures))
            try negotiate(all)
            if protocolFeatures.contains(.mq) { try readQueueNumber() }
            if protocolFeatures.contains(.configureMemSlots) { try readMemorySlots() }
            if object.isFirst && protocolFeatures.contains(.backendReq) { try openChannel() }
        }
        if object.isFirst { try tell(.setOwner) }
        offered = Features(rawValue: try ask64(.getFeatures))
        if offered.contains(.accessPlatform) && !protocolFeatures.isSuperset(of: [.backendReq, .replyAck]) { offered.subtract(.accessPlatform) }
    }

    private func negotiate(_ all: ProtocolFeatures) throws(VhostError) {
        do throws(VhostUserError) { try frontEnd.setProtocolFeatures(all.intersection(UserBackend.knownProtocolFeatures)) } catch {
            throw VhostError(name, error)
        }
    }

    private func readQueueNumber() throws(VhostError) {
        let pairs = try ask64(.getQueueNum)
        guard (1...0x8000).contains(pairs) else { throw VhostError(.answer, "\(name): GET_QUEUE_NUM answered \(pairs) queue pairs") }
        maximumPairs = Int(pairs)
    }

    private func readMemorySlots() throws(VhostError) {
        let slots = try ask64(.getMaxMemSlots)
        guard slots >= 1 else { throw VhostError(.answer, "\(name): GET_MAX_MEM_SLOTS answered \(slots)") }
        let bounded = Int(min(slots, 509))
        if bounded < memorySlots && memorySlots != 8 { throw VhostError(.answer, "\(name): memory slots fell from \(memorySlots) to \(slots)") }
        memorySlots = bounded
    }

    private func openChannel() throws(VhostError) {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw .system(name, "socketpair") }
        let ours = MessageSocket(ends[0])
        try tell(.setBackendReqFD, Payload(), [OwnedDescriptor(ends[1])])
        channel = ours
    }

    /// What the back-end says on its channel; true for a CONFIG_CHANGE. Everything else is answered with an
    /// error where it wants an answer. Errors: `.disconnected` when the channel has ended; it is closed then.
    func serveChannel() throws(VhostError) -> Bool {
        guard let channel else { return false }
        var hasChanged = false
        do throws(VhostUserError) {
            for _ in 0..<64 {
                guard let message = try channel.receive() else { break }
                let isChange = message.request == BackEndRequest.configChange.rawValue
                hasChanged = hasChanged || isChange
                if message.needsReply {
                    try channel.send(Message(message.request, flags: Message.version | Message.reply, payload: Payload(isChange ? 0 : 1).bytes))
                }
            }
        } catch {
            self.channel = nil
            throw VhostError(name, error)
        }
        return hasChanged
    }

    public func close() {
        channel = nil
        regions = []
        frontEnd.close()
    }

    // MARK: Device

    /// SET_FEATURES; with STATUS also FEATURES_OK, once.
    public func setFeatures(_ object: VhostObject, _ features: Features) throws(VhostError) {
        try tell(.setFeatures, Payload(features.rawValue))
        if object.isFirst { try addStatus(1 | 2 | 8) }
    }

    private func addStatus(_ bits: UInt8) throws(VhostError) {
        guard protocolFeatures.contains(.status) else { return }
        let now = UInt8(truncatingIfNeeded: try ask64(.getStatus))
        if now & bits == bits { return }
        try tell(.setStatus, Payload(UInt64(now | bits)))
        if bits & 8 == 0 { return }
        if UInt8(truncatingIfNeeded: try ask64(.getStatus)) & 8 == 0 {
            throw VhostError(.features, "\(name): the back-end does not accept these features (FEATURES_OK)")
        }
    }

    /// Once for the device: SET_MEM_TABLE, or ADD_MEM_REG for each where there are more than eight regions.
    public func setMemory(_ object: VhostObject, _ regions: [VhostRegion]) throws(VhostError) {
        guard object.isFirst else { return }
        guard regions.count <= memorySlots else {
            throw VhostError(.argument, "\(name): \(regions.count) memory regions; the back-end takes \(memorySlots)")
        }
        if regions.count <= 8 {
            var payload = Payload()
            payload.add32(UInt32(regions.count))
            payload.add32(0)
            for r in regions { payload.add(r.description) }
            try tell(.setMemTable, payload, regions.map(\.descriptor))
        } else {
            for r in regions { try slot(.addMemReg, r, [r.descriptor]) }
            self.regions = regions
        }
    }

    private func slot(_ request: Request, _ region: VhostRegion, _ fds: [OwnedDescriptor]) throws(VhostError) {
        var payload = Payload(0)
        payload.add(region.description)
        try tell(request, payload, fds)
    }

    /// REM_MEM_REG for what ADD_MEM_REG told; a table needs no taking back.
    public func dropMemory(_ object: VhostObject) throws(VhostError) {
        guard object.isFirst else { return }
        let all = regions
        regions = []
        for r in all { try slot(.remMemReg, r, []) }
    }

    public func finishStart(_ object: VhostObject) throws(VhostError) { if object.isLast { try addStatus(1 | 2 | 4) } }

    public func finishStop(_ object: VhostObject) throws(VhostError) {
        if object.isLast && protocolFeatures.contains(.status) { try tell(.setStatus, Payload(0)) }
    }

    /// RESET_DEVICE.
    public func resetDevice() throws(VhostError) {
        try need(.resetDevice, "device reset", "RESET_DEVICE")
        try tell(.resetDevice)
    }

    // MARK: Rings

    public func setVringNum(_ ring: Int, _ size: UInt32) throws(VhostError) { try tell(.setVringNum, Payload(index: ring, size)) }
    public func setVringBase(_ ring: Int, _ base: UInt32) throws(VhostError) { try tell(.setVringBase, Payload(index: ring, base)) }

    public func setVringAddress(_ ring: Int, _ a: VhostRingAddress) throws(VhostError) {
        var payload = Payload(index: ring, a.log == nil ? 0 : 1)
        for v in [a.descriptors, a.deviceArea, a.driverArea, a.log ?? 0] { payload.add64(v) }
        try tell(.setVringAddr, payload)
    }

    private func file(_ request: Request, _ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        // Bit 8: no descriptor comes with it.
        try tell(request, Payload(UInt64(ring) | (fd == nil ? 0x100 : 0)), fd.map { [$0] } ?? [])
    }

    public func setVringKick(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) { try file(.setVringKick, ring, fd) }
    public func setVringCall(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) { try file(.setVringCall, ring, fd) }
    public func setVringErr(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) { try file(.setVringErr, ring, fd) }

    public func getVringBase(_ ring: Int) throws(VhostError) -> UInt32 {
        do throws(VhostUserError) { return try frontEnd.stopRing(ring) } catch { throw VhostError(name, error) }
    }

    /// SET_VRING_ENABLE for each; returns when it has taken effect: acknowledged, or after a GET_FEATURES as barrier.
    public func setVringEnable(_ rings: Range<Int>, _ isEnabled: Bool) throws(VhostError) {
        guard offered.contains(.protocolFeatures) else {
            throw VhostError(.argument, "\(name): queue enable: the back-end has no PROTOCOL_FEATURES; its rings are enabled when they are started")
        }
        for ring in rings { try tell(.setVringEnable, Payload(index: ring, isEnabled ? 1 : 0)) }
        if !protocolFeatures.contains(.replyAck) { _ = try ask64(.getFeatures) }
    }

    // MARK: The rest

    public func readConfiguration(offset: Int, size: Int) throws(VhostError) -> [UInt8] {
        try need(.config, "configuration read", "CONFIG")
        guard offset >= 0, size > 0, offset + size <= 256 else { throw VhostError(.argument, "\(name): configuration \(offset)+\(size); 256 bytes are the most") }
        var payload = Payload()
        for v in [UInt32(offset), UInt32(size), 0] { payload.add32(v) }
        payload.add([UInt8](repeating: 0, count: size))
        let answer: [UInt8]
        do throws(VhostUserError) { answer = try frontEnd.ask(.getConfig, payload).payload } catch { throw VhostError(name, error) }
        if answer.isEmpty { throw VhostError(.refused, "\(name): GET_CONFIG: the back-end cannot read \(offset)+\(size)") }
        guard answer.count == 12 + size else { throw VhostError(.answer, "\(name): GET_CONFIG answered \(answer.count) bytes instead of \(12 + size)") }
        return Array(answer[12...])
    }

    public func writeConfiguration(offset: Int, _ bytes: [UInt8]) throws(VhostError) {
        try need(.config, "configuration write", "CONFIG")
        guard offset >= 0, !bytes.isEmpty, offset + bytes.count <= 256 else {
            throw VhostError(.argument, "\(name): configuration \(offset)+\(bytes.count); 256 bytes are the most")
        }
        var payload = Payload()
        for v in [UInt32(offset), UInt32(bytes.count), 0] { payload.add32(v) }
        payload.add(bytes)
        try tell(.setConfig, payload)
    }

    /// Nothing goes out: CONFIG_CHANGE comes on the back-end's channel (`VhostNet.serveBackEnd`).
    public func setConfigurationCall(_ fd: OwnedDescriptor?) throws(VhostError) {
        if channel == nil { try need(.backendReq, "configuration interrupt", "BACKEND_REQ") }
    }

    /// NET_SET_MTU; the acknowledgement decides.
    public func setMTU(_ mtu: UInt16) throws(VhostError) {
        try need(.mtu, "set MTU", "MTU")
        try tell(.netSetMTU, Payload(UInt64(mtu)))
    }

    /// SEND_RARP with the MAC in the low six bytes.
    public func sendRARP(_ mac: [UInt8]) throws(VhostError) {
        try need(.rarp, "migration notice", "RARP")
        try tell(.sendRARP, Payload(mac.enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }))
    }

    /// SET_LOG_BASE with the log's file, once for the device. It is answered even without NEED_REPLY.
    public func setLogBase(_ object: VhostObject, _ log: DirtyLog) throws(VhostError) {
        guard object.isFirst else { return }
        try need(.logShmFD, "dirty log", "LOG_SHMFD")
        var payload = Payload(UInt64(log.size))
        payload.add64(0)
        do throws(VhostUserError) { _ = try frontEnd.ask(.setLogBase, payload, [log.memory.descriptor]) } catch { throw VhostError(name, error) }
    }

    public func shareInflight(ringCount: Int, ringSize: UInt16) throws(VhostError) {
        try need(.inflightShmFD, "in-flight region", "INFLIGHT_SHMFD")
        if inflight == nil { inflight = try askInflight(ringCount, ringSize) }
        guard let inflight else { return }
        guard inflight.rings == ringCount, inflight.ringSize == ringSize else {
            throw VhostError(.argument, "\(name): in-flight region for \(inflight.rings) rings of \(inflight.ringSize); \(ringCount) of \(ringSize) are started")
        }
        try tell(.setInflightFD, inflight.payload, [inflight.descriptor])
    }

    private func askInflight(_ rings: Int, _ size: UInt16) throws(VhostError) -> Inflight {
        let answer: Message
        let wanted = Inflight(size: 0, offset: 0, rings: rings, ringSize: size, descriptor: OwnedDescriptor(-1))
        do throws(VhostUserError) { answer = try frontEnd.ask(.getInflightFD, wanted.payload) } catch { throw VhostError(name, error) }
        guard answer.payload.count >= 20, answer.descriptors.count == 1 else {
            throw VhostError(.answer, "\(name): GET_INFLIGHT_FD answered \(answer.payload.count) bytes, \(answer.descriptors.count) descriptors")
        }
        let (bytes, offset) = answer.payload.withUnsafeBytes { ($0.loadUnaligned(as: UInt64.self), $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self)) }
        guard bytes > 0, bytes <= 1 << 30, offset <= 1 << 40 else { throw VhostError(.answer, "\(name): GET_INFLIGHT_FD answered a region of \(offset)+\(bytes)") }
        return Inflight(size: bytes, offset: offset, rings: rings, ringSize: size, descriptor: answer.descriptors[0])
    }
}

/// The in-flight region of a vhost-user back-end ("Inflight I/O tracking"): made by the back-end, kept by the
/// front-end, handed to the back-end that comes after.
public struct Inflight: Sendable {
    let size: UInt64
    let offset: UInt64
    let rings: Int
    let ringSize: UInt16
    let descriptor: OwnedDescriptor

    var payload: Payload {
        var p = Payload(size)
        p.add64(offset)
        p.add32(UInt32(rings) | UInt32(ringSize) << 16)
        // The specification's structure ends in padding.
        p.add32(0)
        return p
    }
}

extension VhostRegion {
    var description: RegionDescription { RegionDescription(guestAddress: guestAddress, size: size, userAddress: userAddress, offset: offset) }
}
