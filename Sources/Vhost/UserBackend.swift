import CPlatform
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
        .mq, .logShmFD, .rarp, .replyAck, .mtu, .backendReq, .config, .inflightShmFD, .resetDevice, .configureMemSlots,
        .status,
    ]
    /// Nil once it is closed.
    private var frontEnd: FrontEnd?
    /// With PROTOCOL_FEATURES in it where the back-end has it.
    public private(set) var offered = Features(rawValue: 0)
    public private(set) var maximumPairs = 1
    /// Memory slots that the back-end has (GET_MAX_MEM_SLOTS), 8 without CONFIGURE_MEM_SLOTS.
    public private(set) var memorySlots = 8
    /// The channel on which the back-end sends CONFIG_CHANGE; nil without BACKEND_REQ.
    private(set) var channel: MessageSocket?
    /// Called with each CONFIG_CHANGE, also while an answer is waited for.
    var configurationChanged: (() -> Void)?
    /// What both sides have (SET_PROTOCOL_FEATURES); empty before `open`.
    public private(set) var protocolFeatures = ProtocolFeatures(rawValue: 0)
    /// What `setMemory` has told; those that went out one by one (ADD_MEM_REG), or in a table, which the back-end
    /// keeps.
    private var regions: [VhostRegion] = []
    private var slots: [VhostRegion] = []
    private var table: [VhostRegion] = []
    /// ACCESS_PLATFORM was acknowledged: addresses are IOVA, and the back-end is told of each region as an IOTLB entry.
    private var usesIOTLB = false
    /// IOVAs that the back-end asked for on its channel.
    private var misses: [UInt64] = []
    private static var mostMisses: Int { 1024 }
    /// The in-flight region: kept by whoever keeps the back-end's successor (see `VhostNet.Saved`).
    var inflight: Inflight?

    /// A connected socket, taken over; `name` is its path. Nothing is sent yet. Of descriptors that the back-end hands
    /// over only memory is kept, and any other ends the connection. A back-end that leaves a message without its answer
    /// for `timeout` milliseconds, or until the descriptor `cancel` is readable, is taken for gone.
    public init(_ socket: MessageSocket, name: String, timeout: Int = 5000, cancel: Int32 = -1) {
        self.name = name
        socket.keeps = .ofBackEnd
        frontEnd = FrontEnd(socket, timeout: timeout, cancel: cancel)
    }

    public var ownFeatures: Features { offered.intersection(.protocolFeatures) }
    public var isDisconnected: Bool { frontEnd?.isBroken ?? true }

    // MARK: Messages

    /// Carries out `body` with the connection; afterwards what the back-end has asked for meanwhile.
    private func with<R>(_ body: (FrontEnd) throws(VhostUserError) -> R) throws(VhostError) -> R {
        guard let frontEnd else { throw VhostError(.disconnected, "\(name): the connection is closed") }
        do throws(VhostUserError) {
            let result = try body(frontEnd)
            try answerMisses(frontEnd)
            return result
        } catch {
            throw VhostError(name, error)
        }
    }

    private func tell(_ request: Request, _ payload: Payload = Payload(), _ fds: [OwnedDescriptor] = [])
        throws(VhostError)
    {
        try with { f throws(VhostUserError) in try f.tell(request, payload, fds) }
    }

    private func ask(_ request: Request, _ payload: Payload = Payload(), _ fds: [OwnedDescriptor] = [])
        throws(VhostError) -> Message
    {
        try with { f throws(VhostUserError) in try f.ask(request, payload, fds) }
    }

    private func ask64(_ request: Request) throws(VhostError) -> UInt64 {
        try with { f throws(VhostUserError) in try f.ask64(request) }
    }

    private func need(_ feature: ProtocolFeatures, _ operation: String, _ feature2: String) throws(VhostError) {
        if !protocolFeatures.contains(feature) {
            throw VhostError(.unsupported, "\(name): \(operation): the back-end lacks the protocol feature \(feature2)")
        }
    }

    /// GET_FEATURES; with PROTOCOL_FEATURES GET_/SET_PROTOCOL_FEATURES, for the first object GET_QUEUE_NUM (MQ),
    /// GET_MAX_MEM_SLOTS (CONFIGURE_MEM_SLOTS), and for the first object SET_BACKEND_REQ_FD (BACKEND_REQ); then
    /// SET_OWNER, once, and GET_FEATURES. ACCESS_PLATFORM is not passed on without BACKEND_REQ and REPLY_ACK, which it
    /// needs.
    public func open(_ object: VhostObject) throws(VhostError) {
        // Messages with a descriptor have eight bits for the queue.
        guard object.rings.upperBound <= 256 else {
            throw VhostError(.argument, "\(name): queue \(object.rings.upperBound - 1); vhost-user has 256")
        }
        let features = Features(rawValue: try ask64(.getFeatures))
        if features.contains(.protocolFeatures) {
            let all = ProtocolFeatures(rawValue: try ask64(.getProtocolFeatures))
            try negotiate(all)
            if object.isFirst && protocolFeatures.contains(.mq) { try readQueueNumber() }
            if protocolFeatures.contains(.configureMemSlots) { try readMemorySlots() }
            if object.isFirst && protocolFeatures.contains(.backendReq) { try openChannel() }
        }
        if object.isFirst { try tell(.setOwner) }
        offered = Features(rawValue: try ask64(.getFeatures))
        if offered.contains(.accessPlatform) && !protocolFeatures.isSuperset(of: [.backendReq, .replyAck]) {
            offered.subtract(.accessPlatform)
        }
    }

    private func negotiate(_ all: ProtocolFeatures) throws(VhostError) {
        let chosen = all.intersection(UserBackend.knownProtocolFeatures)
        try with { f throws(VhostUserError) in try f.setProtocolFeatures(chosen) }
        protocolFeatures = chosen
    }

    private func readQueueNumber() throws(VhostError) {
        let pairs = try ask64(.getQueueNum)
        guard ControlCode.pairsRange.contains(Int(clamping: pairs)) else {
            throw VhostError(.answer, "\(name): GET_QUEUE_NUM answered \(pairs) queue pairs")
        }
        maximumPairs = Int(pairs)
    }

    private func readMemorySlots() throws(VhostError) {
        let slots = try ask64(.getMaxMemSlots)
        guard slots >= 1 else { throw VhostError(.answer, "\(name): GET_MAX_MEM_SLOTS answered \(slots)") }
        let bounded = Int(min(slots, 509))
        if hasSlots && bounded < memorySlots {
            throw VhostError(.answer, "\(name): memory slots fell from \(memorySlots) to \(slots)")
        }
        (memorySlots, hasSlots) = (bounded, true)
    }

    /// GET_MAX_MEM_SLOTS has been answered.
    private var hasSlots = false

    private func openChannel() throws(VhostError) {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw .system(name, "socketpair") }
        let ours = MessageSocket(ends[0], keeps: .none)
        try tell(.setBackendReqFD, Payload(), [OwnedDescriptor(ends[1])])
        channel = ours
        frontEnd?.meanwhile = (
            ours.fd,
            { [unowned self] in
                try? readChannel()
                return channel != nil
            }
        )
    }

    /// Carries out what the back-end says on its channel. Errors: `.disconnected` when the channel has ended, `.answer`
    /// for what is no message; it is closed then.
    func serveChannel() throws(VhostError) {
        do throws(VhostUserError) { try readChannel() } catch { throw VhostError(name, error) }
        try with { _ throws(VhostUserError) in }
    }

    /// CONFIG_CHANGE and IOTLB_MSG (a miss); everything else is answered with an error where it wants an answer.
    private func readChannel() throws(VhostUserError) {
        guard let channel else { return }
        do throws(VhostUserError) {
            for _ in 0..<64 {
                guard let message = try channel.receive() else { break }
                let isDone = serve(message)
                if message.needsReply {
                    try channel.send(
                        Message(
                            message.request, flags: Message.version | Message.reply,
                            payload: Payload(isDone ? 0 : 1).bytes))
                }
            }
        } catch {
            self.channel = nil
            frontEnd?.meanwhile = nil
            throw error
        }
    }

    private func serve(_ message: Message) -> Bool {
        switch BackEndRequest(rawValue: message.request) {
        case .configChange where message.payload.isEmpty:
            configurationChanged?()
            return true
        case .iotlbMsg
        where usesIOTLB && [26, 32].contains(message.payload.count) && message.payload[25] == UInt8(VHOST_IOTLB_MISS)
            && misses.count < UserBackend.mostMisses:
            // Answered when the message at hand has its own answer.
            misses.append(message.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
            return true
        default: return false
        }
    }

    public func close() {
        channel = nil
        (regions, slots, table, misses) = ([], [], [], [])
        configurationChanged = nil
        frontEnd?.close()
        frontEnd = nil
    }

    // MARK: Device

    /// SET_FEATURES; with STATUS also FEATURES_OK, once.
    public func setFeatures(_ object: VhostObject, _ features: Features) throws(VhostError) {
        try tell(.setFeatures, Payload(features.rawValue))
        usesIOTLB = features.contains(.accessPlatform)
        if object.isFirst { try addStatus([.acknowledge, .driver, .featuresOK]) }
    }

    private func addStatus(_ bits: DeviceStatus) throws(VhostError) {
        guard protocolFeatures.contains(.status) else { return }
        let now = try readStatus()
        if now.isSuperset(of: bits) { return }
        try tell(.setStatus, Payload(UInt64(now.union(bits).rawValue)))
        if !bits.contains(.featuresOK) { return }
        if try !readStatus().contains(.featuresOK) {
            throw VhostError(.features, "\(name): the back-end does not accept these features (FEATURES_OK)")
        }
    }

    private func readStatus() throws(VhostError) -> DeviceStatus {
        let status = try ask64(.getStatus)
        guard status <= 255 else { throw VhostError(.answer, "\(name): GET_STATUS answered \(status)") }
        return DeviceStatus(rawValue: UInt8(status))
    }

    /// Once for the device: SET_MEM_TABLE; where there are, or were, more than eight regions, REM_MEM_REG for each that
    /// is gone and ADD_MEM_REG for each that is new. With ACCESS_PLATFORM then IOTLB_MSG, an update for each region.
    public func setMemory(_ object: VhostObject, _ new: [VhostRegion]) throws(VhostError) {
        guard object.isFirst else { return }
        guard new.count <= memorySlots else {
            throw VhostError(.argument, "\(name): \(new.count) memory regions; the back-end takes \(memorySlots)")
        }
        if usesIOTLB { for r in regions where !new.contains(where: r.isSame) { try iotlb(VHOST_IOTLB_INVALIDATE, r) } }
        regions = new
        if new.count <= 8 && slots.isEmpty {
            var payload = Payload()
            payload.add32(UInt32(new.count))
            payload.add32(0)
            for r in new { payload.add(r.description) }
            try tell(.setMemTable, payload, new.map(\.descriptor))
            table = new
        } else {
            if slots.isEmpty { (slots, table) = (table, []) }
            for r in slots where !new.contains(where: r.isSame) { try removeSlot(r) }
            for r in new where !slots.contains(where: r.isSame) {
                try slot(.addMemReg, r, [r.descriptor])
                slots.append(r)
            }
        }
        if usesIOTLB { for r in new { try iotlb(VHOST_IOTLB_UPDATE, r) } }
    }

    private func removeSlot(_ region: VhostRegion) throws(VhostError) {
        slots.removeAll(where: region.isSame)
        try slot(.remMemReg, region, [])
    }

    private func slot(_ request: Request, _ region: VhostRegion, _ fds: [OwnedDescriptor]) throws(VhostError) {
        var payload = Payload(0)
        payload.add(region.description)
        try tell(request, payload, fds)
    }

    /// REM_MEM_REG for what ADD_MEM_REG told; a table needs no taking back. With ACCESS_PLATFORM first IOTLB_MSG, an
    /// invalidation for each region.
    public func dropMemory(_ object: VhostObject) throws(VhostError) {
        guard object.isFirst else { return }
        let all = regions
        regions = []
        if usesIOTLB { for r in all { try iotlb(VHOST_IOTLB_INVALIDATE, r) } }
        for r in slots { try removeSlot(r) }
    }

    // MARK: IOTLB

    private func iotlb(_ type: Int32, _ region: VhostRegion) throws(VhostError) {
        try tell(.iotlbMsg, UserBackend.iotlbPayload(type, region))
    }

    /// `struct vhost_iotlb_msg`.
    private static func iotlbPayload(_ type: Int32, _ region: VhostRegion) -> Payload {
        var p = Payload(region.guestAddress)
        p.add64(region.size)
        p.add64(region.userAddress)
        p.add([UInt8(VHOST_ACCESS_RW), UInt8(type), 0, 0, 0, 0, 0, 0])
        return p
    }

    /// A miss is answered with its whole region; what lies in none stays unanswered, as in QEMU. A back-end that goes
    /// on asking has its next answers with the next message.
    private func answerMisses(_ frontEnd: FrontEnd) throws(VhostUserError) {
        for _ in 0..<UserBackend.mostMisses where !misses.isEmpty {
            let address = misses.removeFirst()
            guard let region = regions.first(where: { address &- $0.guestAddress < $0.size }) else { continue }
            try frontEnd.tell(.iotlbMsg, UserBackend.iotlbPayload(VHOST_IOTLB_UPDATE, region))
        }
    }

    public func finishStart(_ object: VhostObject) throws(VhostError) {
        if object.isLast { try addStatus([.acknowledge, .driver, .driverOK]) }
    }

    public func finishStop(_ object: VhostObject) throws(VhostError) {
        if object.isLast && protocolFeatures.contains(.status) {
            try tell(.setStatus, Payload(UInt64(DeviceStatus.reset.rawValue)))
        }
    }

    public func checkReset() throws(VhostError) { try need(.resetDevice, "device reset", "RESET_DEVICE") }

    /// RESET_DEVICE.
    public func resetDevice() throws(VhostError) {
        try checkReset()
        try tell(.resetDevice)
    }

    // MARK: Rings

    public func setVringNum(_ ring: Int, _ size: UInt32) throws(VhostError) {
        try tell(.setVringNum, Payload(index: ring, size))
    }
    public func setVringBase(_ ring: Int, _ base: UInt32) throws(VhostError) {
        try tell(.setVringBase, Payload(index: ring, base))
    }

    public func setVringAddress(_ ring: Int, _ a: VhostRingAddress) throws(VhostError) {
        var payload = Payload(index: ring, a.log == nil ? 0 : 1)
        for v in [a.descriptors, a.deviceArea, a.driverArea, a.log ?? 0] { payload.add64(v) }
        try tell(.setVringAddr, payload)
    }

    private func file(_ request: Request, _ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        // Bit 8: no descriptor comes with it.
        try tell(request, Payload(UInt64(ring) | (fd == nil ? Message.noDescriptor : 0)), fd.map { [$0] } ?? [])
    }

    public func setVringKick(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        try file(.setVringKick, ring, fd)
    }
    public func setVringCall(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        try file(.setVringCall, ring, fd)
    }
    public func setVringErr(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) { try file(.setVringErr, ring, fd) }

    public func getVringBase(_ ring: Int) throws(VhostError) -> UInt32 {
        try with { f throws(VhostUserError) in try f.stopRing(ring) }
    }

    /// SET_VRING_ENABLE for each; returns when it has taken effect: acknowledged, or after a GET_FEATURES as barrier.
    public func setVringEnable(_ rings: Range<Int>, _ isEnabled: Bool) throws(VhostError) {
        guard offered.contains(.protocolFeatures) else {
            throw VhostError(
                .argument,
                """
                \(name): queue enable: the back-end has no PROTOCOL_FEATURES; its rings are enabled when they are \
                started
                """
            )
        }
        for ring in rings { try tell(.setVringEnable, Payload(index: ring, isEnabled ? 1 : 0)) }
        try settle()
    }

    /// Without REPLY_ACK: a GET_FEATURES, for messages are carried out in their order.
    public func settle() throws(VhostError) {
        if !protocolFeatures.contains(.replyAck) { _ = try ask64(.getFeatures) }
    }

    // MARK: The rest

    public func readConfiguration(offset: Int, size: Int) throws(VhostError) -> [UInt8] {
        try need(.config, "configuration read", "CONFIG")
        guard (0...256).contains(offset), (1...256 - offset).contains(size) else {
            throw VhostError(.argument, "\(name): configuration \(offset)+\(size); 256 bytes are the most")
        }
        var payload = Payload()
        for v in [UInt32(offset), UInt32(size), 0] { payload.add32(v) }
        payload.add([UInt8](repeating: 0, count: size))
        let answer = try ask(.getConfig, payload).payload
        if answer.isEmpty {
            throw VhostError(.refused, "\(name): GET_CONFIG: the back-end cannot read \(offset)+\(size)")
        }
        guard answer.prefix(8) == payload.bytes.prefix(8) else {
            throw VhostError(.answer, "\(name): GET_CONFIG: the answer is not about \(offset)+\(size)")
        }
        return Array(answer[12...])
    }

    public func writeConfiguration(offset: Int, _ bytes: [UInt8], forMigration: Bool) throws(VhostError) {
        try need(.config, "configuration write", "CONFIG")
        guard (0...256).contains(offset), !bytes.isEmpty, bytes.count <= 256 - offset else {
            throw VhostError(.argument, "\(name): configuration \(offset)+\(bytes.count); 256 bytes are the most")
        }
        var payload = Payload()
        for v in [UInt32(offset), UInt32(bytes.count), forMigration ? 1 : 0] { payload.add32(v) }
        payload.add(bytes)
        try tell(.setConfig, payload)
    }

    /// Nothing goes out: CONFIG_CHANGE comes on the back-end's channel (`VhostNet.serveBackEnd`).
    public func setConfigurationCall(_ fd: OwnedDescriptor?) throws(VhostError) {
        if channel == nil { try need(.backendReq, "configuration interrupt", "BACKEND_REQ") }
    }

    /// NET_SET_MTU, where there is the protocol feature MTU; the acknowledgement decides.
    public func setMTU(_ mtu: UInt16) throws(VhostError) -> Bool {
        guard protocolFeatures.contains(.mtu) else { return false }
        try tell(.netSetMTU, Payload(UInt64(mtu)))
        return true
    }

    /// SEND_RARP with the MAC in the low six bytes.
    public func sendRARP(_ mac: [UInt8]) throws(VhostError) {
        try need(.rarp, "migration notice", "RARP")
        try tell(
            .sendRARP, Payload(mac.enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }))
    }

    /// SET_LOG_BASE with the log's file, once for the device. It is answered even without NEED_REPLY.
    public func setLogBase(_ object: VhostObject, _ log: DirtyLog) throws(VhostError) {
        guard object.isFirst else { return }
        try need(.logShmFD, "dirty log", "LOG_SHMFD")
        var payload = Payload(UInt64(log.size))
        payload.add64(0)
        let answer = try ask(.setLogBase, payload, [log.memory.descriptor]).payload
        if answer.contains(where: { $0 != 0 }) {
            throw VhostError(.refused, "\(name): SET_LOG_BASE: the back-end refused it")
        }
    }

    /// GET_INFLIGHT_FD where there is no region yet, then SET_INFLIGHT_FD.
    public func shareInflight(ringCount: Int, ringSize: UInt16, isPacked: Bool) throws(VhostError) {
        try need(.inflightShmFD, "in-flight region", "INFLIGHT_SHMFD")
        if inflight == nil { inflight = try askInflight(ringCount, ringSize, isPacked) }
        guard let inflight else { return }
        guard inflight.rings == ringCount, inflight.ringSize == ringSize else {
            throw VhostError(
                .argument,
                """
                \(name): in-flight region for \(inflight.rings) rings of \(inflight.ringSize); \(ringCount) of \
                \(ringSize) are started
                """
            )
        }
        try tell(.setInflightFD, inflight.payload, [inflight.descriptor])
    }

    private func askInflight(_ rings: Int, _ size: UInt16, _ isPacked: Bool) throws(VhostError) -> Inflight {
        let wanted = Inflight(size: 0, offset: 0, rings: rings, ringSize: size, descriptor: OwnedDescriptor(-1))
        let answer = try ask(.getInflightFD, wanted.payload)
        guard let descriptor = answer.descriptors.first else {
            throw VhostError(.refused, "\(name): GET_INFLIGHT_FD: no descriptor came with the answer")
        }
        let (bytes, offset) = answer.payload.withUnsafeBytes {
            ($0.loadUnaligned(as: UInt64.self), $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        }
        let region = Inflight(size: bytes, offset: offset, rings: rings, ringSize: size, descriptor: descriptor)
        let least = Inflight.leastBytes(rings, size, isPacked)
        // Memory: its file system is the kernel's, and answers.
        var file = stat()
        _ = fstat(descriptor.fd, &file)
        guard answer.payload[16..<20] == wanted.payload.bytes[16..<20], bytes >= least, bytes <= 1 << 30,
            offset <= 1 << 40,
            UInt64(file.st_size) >= offset + bytes
        else {
            throw VhostError(
                .answer,
                """
                \(name): GET_INFLIGHT_FD answered \(offset)+\(bytes) of a file of \(file.st_size) bytes; \(rings) \
                rings of \(size) need \(least)
                """
            )
        }
        return region
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

    /// What the specification's structures take ("Inflight I/O tracking"): a head and an entry for each descriptor.
    static func leastBytes(_ rings: Int, _ size: UInt16, _ isPacked: Bool) -> UInt64 {
        UInt64(rings) * (isPacked ? 32 + 32 * UInt64(size) : 16 + 16 * UInt64(size))
    }

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
    var description: RegionDescription {
        RegionDescription(guestAddress: guestAddress, size: size, userAddress: userAddress, offset: offset)
    }

    func isSame(_ other: VhostRegion) -> Bool {
        guestAddress == other.guestAddress && size == other.size && userAddress == other.userAddress
            && offset == other.offset
            && descriptor === other.descriptor && addressSpace == other.addressSpace
    }
}
