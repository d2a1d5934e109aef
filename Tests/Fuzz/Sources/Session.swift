import Glibc
import Ringway

/// One vhost-user connection: messages of any kind in any order, with any payload and descriptors of any kind. After
/// it, nothing may be left: no descriptor, and no ring that runs.
@Sendable func fuzzSession(_ given: Input) -> Int32 {
    var input = given
    let before = FileTable.count
    do {
        let device = FuzzDevice()
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0, &ends) == 0 else {
            return 0
        }
        let socket = MessageSocket(ends[0])
        let peer = MessageSocket(ends[1])
        let session = BackEndSession(device) { _ in }
        // Half of the inputs begin where a front-end has said all that rings, log, region and IOMMU need.
        if input.byte() & 1 == 0 { begin(session, socket, peer, isPacked: input.byte() & 1 == 0) }
        for _ in 0..<64 where !input.isEmpty {
            do throws(VhostUserError) {
                try session.handle(message(&input), socket)
                while try peer.receive() != nil {}
            } catch {
                break
            }
        }
        session.close()
        precondition(device.running.isEmpty, "rings run after the connection's end: \(device.running)")
    }
    precondition(FileTable.count == before, "\(FileTable.count - before) descriptors are left")
    return 0
}

/// Features, memory and a channel.
private func begin(_ session: BackEndSession, _ socket: MessageSocket, _ peer: MessageSocket, isPacked: Bool) {
    var features: Features = [.version1, .accessPlatform, .protocolFeatures, .vhostLogAll]
    if isPacked { features.insert(.ringPacked) }
    var table = Payload()
    for v: UInt32 in [1, 0] { table.add32(v) }
    table.add(RegionDescription(guestAddress: 0, size: 65536, userAddress: 0, offset: 0))
    let messages: [(Request, Payload, UInt8?)] = [
        (.setFeatures, Payload(features.rawValue), nil), (.setProtocolFeatures, Payload(0xf_ffff), nil),
        (.setProtocolFeatures, Payload(0x19b23f), nil), (.setMemTable, table, 0), (.setBackendReqFD, Payload(), 5),
    ]
    for (request, payload, kind) in messages {
        var message = Message(request, payload: payload)
        if let kind, let fd = FileTable.make(kind) { message.descriptors = [fd] }
        try? session.handle(message, socket)
        while (try? peer.receive()) != nil {}
    }
}

/// Bytes for the payload, or one that has the right shape with the fuzzer's values in it.
private func message(_ input: inout Input) -> Message {
    let request = UInt32(input.byte() % 48)
    let flags = Message.version | (input.byte() & 1 == 0 ? Message.needReply : 0)
    var payload = Payload()
    switch input.byte() % 9 {
    case 0: payload.add64(UInt64(input.byte()) | UInt64(input.byte() & 1) << 8)
    case 1: payload = Payload(index: Int(input.byte() % 6), UInt32(input.integer(UInt16.self)))
    case 2: payload.add64(input.integer(UInt64.self))
    case 3:
        // A memory table; QEMU's single region has the same layout.
        payload.add32(1 + UInt32(input.byte() % 3))
        payload.add32(0)
        for i in 0..<1 + Int(input.byte() % 3) {
            let size: UInt64 = input.byte() & 1 == 0 ? 65536 : input.integer(UInt64.self)
            payload.add(
                RegionDescription(
                    guestAddress: UInt64(i) << 20, size: size, userAddress: UInt64(i) << 20,
                    offset: UInt64(input.byte() % 2) * 4096))
        }
    case 4:
        // Ring addresses.
        payload.add32(UInt32(input.byte() % 6))
        payload.add32(UInt32(input.byte() % 3))
        for _ in 0..<3 { payload.add64(UInt64(input.integer(UInt16.self)) & ~15) }
        payload.add64(0)
    case 5:
        // An IOTLB entry.
        for _ in 0..<3 { payload.add64(UInt64(input.integer(UInt16.self)) << UInt64(input.byte() % 48)) }
        payload.add([input.byte() % 4, input.byte() % 5] + [UInt8](repeating: 0, count: 6))
    case 6:
        // A log's size and offset, or an inflight region's with queues and their size.
        payload.add64(input.byte() & 1 == 0 ? 4096 : input.integer(UInt64.self))
        payload.add64(UInt64(input.byte() % 3) * 2048)
        if input.byte() & 1 == 0 { payload.add32(UInt32(input.byte() % 7) | UInt32(input.byte()) << 16) }
    case 7: payload.add64(UInt64(input.byte() % 6) | UInt64(input.byte() & 3) << 7)
    default:
        var bytes: [UInt8] = []
        for _ in 0..<min(300, input.below(300)) { bytes.append(input.byte()) }
        payload.add(bytes)
    }
    var message = Message(request, flags: flags, payload: payload.bytes)
    for _ in 0..<Int(input.byte() % 4) { if let fd = FileTable.make(input.byte()) { message.descriptors.append(fd) } }
    return message
}

enum FileTable {
    /// Open descriptors of this process.
    static var count: Int { (0..<256).reduce(0) { $0 + (fcntl(Int32($1), F_GETFD) >= 0 ? 1 : 0) } }

    /// Memory, an eventfd, or something that does not belong there.
    static func make(_ kind: UInt8) -> OwnedDescriptor? {
        let fd: Int32
        switch kind % 6 {
        case 5:
            // An end of a socketpair, whose other end is gone.
            var ends: [Int32] = [-1, -1]
            guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { return nil }
            close(ends[1])
            fd = ends[0]
        case 0, 1: return memory(kind & 16 == 0 ? 65536 : 4096)
        case 2: fd = makeEventFD(0, 0)
        case 3:
            var ends: [Int32] = [-1, -1]
            guard pipe(&ends) == 0 else { return nil }
            close(ends[1])
            fd = ends[0]
        default: fd = open("/dev/null", O_RDWR)
        }
        return fd >= 0 ? OwnedDescriptor(fd) : nil
    }

    private static func memory(_ bytes: Int) -> OwnedDescriptor? {
        guard let memory = try? HostMemory(bytes: bytes, wantsHugePages: false, name: "fuzz") else { return nil }
        let copy = fcntl(memory.descriptor.fd, F_DUPFD_CLOEXEC, 0)
        return copy >= 0 ? OwnedDescriptor(copy) : nil
    }
}

/// eventfd(2), which Glibc's module lacks.
@_silgen_name("eventfd")
func makeEventFD(_ count: UInt32, _ flags: Int32) -> Int32

/// Notes which rings run.
final class FuzzDevice: BackEndDevice {
    var running: Set<Int> = []
    let features: Features = [
        .version1, .ringPacked, .mrgRxbuf, .mq, .ctrlVQ, .mtu, .eventIdx, .accessPlatform, .indirectDesc,
    ]
    let queuePairs = 2

    func readConfiguration(offset: Int, size: Int) -> [UInt8]? {
        offset + size <= 64 ? [UInt8](repeating: 0, count: size) : nil
    }
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool { false }
    func featuresAcknowledged(_ features: Features) {}
    func change(_ changes: [RingChange]) -> [RingPosition?] {
        precondition(Set(changes.map(\.ring)).count == changes.count, "a ring changes twice at once")
        return changes.map { change in
            switch change.what {
            case .start(let start):
                precondition(running.insert(change.ring).inserted, "ring \(change.ring) started twice")
                use(start.setup)
                return nil
            case .stop:
                precondition(running.remove(change.ring) != nil, "ring \(change.ring) stopped that does not run")
                return RingPosition()
            case .move(let setup):
                precondition(running.contains(change.ring), "ring \(change.ring) moved that does not run")
                use(setup)
                return RingPosition()
            case .update:
                precondition(running.contains(change.ring), "ring \(change.ring) changed that does not run")
                return nil
            }
        }
    }
    private func use(_ setup: RingSetup) {
        if setup.log == nil && setup.inflight == nil {
            serve(DeviceQueue(setup))
        } else {
            serve(RecordedRing(setup))
        }
    }
    private func serve(_ given: consuming some DeviceRing) {
        var queue = given
        let room = Room.shared
        let n = queue.popTransmit(&room.burst, limit: 4, leave: 0, least: 1)
        for i in 0..<n { room.read(room.burst.packets + i) }
        queue.complete(room.burst.packets, n, hold: false)
        _ = queue.needsCall()
        _ = queue.armKicks()
    }
    func memoryChanged(_ map: MemoryMap) {}
    func setMTU(_ mtu: UInt16) -> Bool { mtu >= 68 }
    func sendRARP(mac: [UInt8]) {}
    func statusChanged(_ status: UInt8) {}
    func connected(_ isConnected: Bool) {}
}
