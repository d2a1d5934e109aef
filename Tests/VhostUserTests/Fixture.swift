import CPlatform
import Control
import Glibc
import Memory
import VhostUser
import Virtio

/// A device that writes down what a session asks of it.
final class RecordingDevice: BackEndDevice, Sendable {
    struct State {
        var events: [String] = []
        var rings: [Int: RingStart] = [:]
        var acknowledged = Features(rawValue: 0)
    }
    let state = Locked(State())
    let features: Features = [.version1, .ringPacked, .mrgRxbuf, .mq, .ctrlVQ, .mtu, .eventIdx]
    let queuePairs = 2

    func note(_ event: String) { state.withLock { $0.events.append(event) } }
    /// A copy that shares no storage: ThreadSanitizer cannot see that an array's last reference is gone.
    var events: [String] { state.withLock { $0.events.map { $0 } } }
    func ring(_ i: Int) -> RingStart? { state.withLock { $0.rings[i] } }
    var running: [Int] { state.withLock { $0.rings.keys.sorted() } }

    func readConfiguration(offset: Int, size: Int) -> [UInt8]? {
        offset + size <= 256 ? (offset..<offset + size).map { UInt8($0) } : nil
    }
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool {
        note("config \(offset) \(bytes)")
        return offset == 0
    }
    func featuresAcknowledged(_ features: Features) { state.withLock { $0.acknowledged = features } }
    func change(_ changes: [RingChange]) -> [RingPosition?] {
        changes.map { change in
            switch change.what {
            case .start(let start): startRing(change.ring, start)
            case .stop: return stopRing(change.ring)
            case .move(let setup): return moveRing(change.ring, setup)
            case .update(let enabled, let kickFD, let callFD, _):
                updateRing(change.ring, enabled: enabled, callFD: callFD, kickFD: kickFD)
            }
            return nil
        }
    }
    private func moveRing(_ index: Int, _ setup: RingSetup) -> RingPosition {
        state.withLock {
            $0.events.append("move \(index)")
            var position = $0.rings[index]?.setup.position ?? RingPosition()
            position.available &+= 3
            position.used &+= 3
            $0.rings[index]?.setup = setup
            $0.rings[index]?.setup.position = position
            return position
        }
    }
    private func startRing(_ index: Int, _ start: RingStart) {
        state.withLock {
            $0.rings[index] = start
            $0.events.append("start \(index)\(start.enabled ? " enabled" : "")")
        }
    }
    private func stopRing(_ index: Int) -> RingPosition {
        state.withLock {
            $0.events.append("stop \(index)")
            return ($0.rings.removeValue(forKey: index)?.setup.position).map { p in
                var p = p
                p.available &+= 3
                p.used &+= 3
                return p
            } ?? RingPosition()
        }
    }
    private func updateRing(_ index: Int, enabled: Bool, callFD: Int32, kickFD: Int32) {
        state.withLock {
            $0.rings[index]?.enabled = enabled
            $0.rings[index]?.callFD = callFD
            $0.rings[index]?.kickFD = kickFD
            $0.events.append("update \(index) \(enabled ? "enabled" : "disabled")")
        }
    }
    func memoryChanged(_ map: MemoryMap) { note("memory \(map.count)") }
    func setMTU(_ mtu: UInt16) -> Bool {
        note("mtu \(mtu)")
        return mtu >= 68
    }
    func sendRARP(mac: [UInt8]) { note("rarp \(mac)") }
    func statusChanged(_ status: UInt8) { note("status \(status)") }
    func connected(_ isConnected: Bool) { note(isConnected ? "connected" : "gone") }
}

/// A back-end server on a socket of its own.
final class Fixture {
    let path: String
    let device = RecordingDevice()
    let server: BackEndServer
    private final class Log: Sendable { let lines = Locked<[String]>([]) }
    private let log = Log()

    init(isClient: Bool = false, start: Bool = true) throws {
        path = "/tmp/ringway-vu-\(getpid())-\(CPlat_monotonic_ns()).sock"
        let log = log
        server = BackEndServer(path: path, isClient: isClient, device: device) { line in
            log.lines.withLock { $0.append(line) }
        }
        if start { try server.start() }
    }

    deinit {
        server.stop()
        unlink(path)
    }

    var lines: [String] { log.lines.withLock { $0.map { $0 } } }

    /// Waits up to twenty seconds: longer than any machine takes.
    func eventually(_ condition: () -> Bool) -> Bool {
        let end = CPlat_monotonic_ns() + 20_000_000_000
        while !condition() {
            if CPlat_monotonic_ns() > end { return false }
            usleep(1000)
        }
        return true
    }

    func logged(_ text: String) -> Bool { eventually { self.lines.contains { $0.contains(text) } } }

    func connect() throws -> FrontEnd { FrontEnd(try MessageSocket.connect(to: path)) }

    /// Negotiated, with a memory of 64 KiB.
    func ready(
        _ protocolFeatures: ProtocolFeatures = [.mq, .config, .status, .configureMemSlots, .mtu, .rarp, .resetDevice],
        packed: Bool = false
    ) throws -> Peer {
        let peer = Peer(try connect())
        try peer.frontEnd.negotiate(packed ? [.version1, .ringPacked] : [.version1], protocolFeatures)
        try peer.frontEnd.share(peer.memory.region, peer.memory.descriptor)
        return peer
    }
}

func eventfd() -> OwnedDescriptor { OwnedDescriptor(CPlat_eventfd(0)) }

/// A front-end with memory in which rings can lie.
final class Peer {
    let frontEnd: FrontEnd
    let memory: HostMemory
    var socket: MessageSocket { frontEnd.socket }
    var base: UInt64 { memory.region.userAddress }

    init(_ frontEnd: FrontEnd) {
        self.frontEnd = frontEnd
        memory = try! HostMemory(bytes: 65536, wantsHugePages: false, name: "ringway-vu")
    }

    /// Ring `i` of 16 entries in its own 4 KiB.
    func start(_ i: Int, base position: UInt32 = 0, size: UInt32 = 16) throws {
        let at = base + UInt64(i) * 4096
        try frontEnd.startRing(
            i, size: size, base: position, descriptors: at, driverArea: at + 1024, deviceArea: at + 2048,
            kick: eventfd(), call: eventfd())
    }

    /// A message as it is, without waiting.
    func send(
        _ request: Request, _ payload: Payload = Payload(), flags: UInt32 = Message.version,
        _ fds: [OwnedDescriptor] = []
    ) throws {
        var m = Message(request, flags: flags, payload: payload)
        m.descriptors = fds
        try socket.send(m)
    }

    /// The other end closed the connection.
    var isClosed: Bool {
        do { while true { _ = try socket.receive(within: 3000) } } catch {
            return "\(error)".contains("closed") || "\(error)".contains("reset")
        }
    }
}

/// Descriptors and threads of this process.
func count(_ folder: String) -> Int {
    guard let d = opendir(folder) else { return -1 }
    defer { closedir(d) }
    var n = 0
    while readdir(d) != nil { n += 1 }
    return n
}
