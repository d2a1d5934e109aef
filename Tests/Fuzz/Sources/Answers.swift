import Glibc
import Ringway

/// A back-end that answers whatever the fuzzer says to a front-end that does everything a front-end does. Nothing may
/// trap or be left open, and no call may return what its checks do not allow.
@Sendable func fuzzAnswers(_ given: Input) -> Int32 {
    let before = FileTable.count
    do {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0, &ends) == 0 else {
            return 0
        }
        let peer = LyingPeer(MessageSocket(ends[1]), given)
        let frontEnd = FrontEnd(MessageSocket(ends[0]), timeout: 2)
        // Readable all the time: the peer answers while the front-end waits, on this thread.
        let ready = OwnedDescriptor(makeEventFD(1, 0))
        frontEnd.meanwhile = (ready.fd, { peer.answer() })
        drive(frontEnd)
    }
    precondition(FileTable.count == before, "\(FileTable.count - before) descriptors are left")
    return 0
}

private func drive(_ f: FrontEnd) {
    let memory = FileTable.make(0)
    let region = RegionDescription(guestAddress: 0, size: 65536, userAddress: 0, offset: 0)
    let event = OwnedDescriptor(makeEventFD(0, 0))
    var configuration = Payload()
    for v: UInt32 in [0, 8, 0] { configuration.add32(v) }
    configuration.add([UInt8](repeating: 0, count: 8))
    for _ in 0..<2 {
        try? f.negotiate([.version1, .ringPacked, .mrgRxbuf], ProtocolFeatures(rawValue: 0xfffff))
        precondition(ControlCode.pairsRange.contains(f.queuePairs), "\(f.queuePairs) queue pairs")
        precondition(f.features.isSubset(of: f.offered), "features that were not offered")
        if let memory { try? f.share(region, memory) }
        for ring in 0..<3 {
            try? f.startRing(
                ring, size: 16, base: 0, descriptors: 0, driverArea: 4096, deviceArea: 8192, kick: event, call: event)
        }
        _ = try? f.ask(.getConfig, configuration)
        if let answer = try? f.ask(.getInflightFD, Payload(UInt64(0))) {
            precondition(answer.descriptors.count <= 1 && [20, 24].contains(answer.payload.count))
        }
        if let memory { _ = try? f.ask(.setLogBase, Payload(UInt64(0)), [memory]) }
        _ = try? f.ask64(.getStatus)
        for ring in 0..<3 { _ = try? f.stopRing(ring) }
    }
}

/// Answers each message with what the input says: mostly of the right form, with other values.
private final class LyingPeer {
    private let socket: MessageSocket
    private var input: Input

    init(_ socket: MessageSocket, _ input: Input) { (self.socket, self.input) = (socket, input) }

    /// False: it has nothing more to say.
    func answer() -> Bool {
        if input.isEmpty { return false }
        while let message = try? socket.receive() { say(message) }
        return true
    }

    private func say(_ m: Message) {
        let how = input.byte()
        if how & 15 == 15 { return }
        let hasOwn: [Request] = [
            .getFeatures, .getProtocolFeatures, .getQueueNum, .getVringBase, .getConfig, .getStatus, .getInflightFD,
            .setLogBase,
        ]
        let isOwn = Request(rawValue: m.request).map { hasOwn.contains($0) } ?? false
        guard isOwn || m.needsReply || how & 16 != 0 else { return }
        var bytes: [UInt8] = []
        let isConfig = m.request == Request.getConfig.rawValue
        let size = isConfig ? m.payload.count : m.request == Request.getInflightFD.rawValue ? 20 : 8
        if how & 32 != 0 || (m.needsReply && !isOwn) {
            bytes = [UInt8](repeating: how & 1 == 0 ? 0 : 0xff, count: size)
        } else {
            for _ in 0..<size { bytes.append(input.byte()) }
        }
        if how & 15 == 14 { for _ in 0..<Int(input.byte()) { bytes.append(input.byte()) } }
        var answer = Message(m.request, flags: Message.version | Message.reply, payload: bytes)
        switch how & 15 {
        case 1: answer.request = UInt32(input.byte())
        case 2: answer.flags = input.integer(UInt32.self)
        case 3:
            for _ in 0..<1 + Int(input.byte() % 10) {
                if let fd = FileTable.make(input.byte()) { answer.descriptors.append(fd) }
            }
        case 4: if let fd = FileTable.make(0) { answer.descriptors = [fd] }
        default: break
        }
        _ = try? socket.send(answer)
        if how & 15 == 5 { _ = try? socket.send(answer) }
        if how & 15 == 6 { shutdown(socket.fd, Int32(SHUT_RDWR)) }
    }
}
