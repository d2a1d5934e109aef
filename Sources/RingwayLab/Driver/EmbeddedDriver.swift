import CPlatform
import Glibc
import Memory
import Ringway
import VhostUser
import Virtio

/// What an `EmbeddedDriver` asks for.
public struct DriverOptions: Sendable {
    public var queuePairs = 1
    /// Descriptors of each ring.
    public var ringSize: UInt32 = 1024
    public var isPacked = false
    public var isInOrder = false
    /// EVENT_IDX.
    public var hasEventIndex = true
    /// Offload features to accept (CSUM, HOST_TSO4, GUEST_CSUM, …).
    public var offloads = Features(rawValue: 0)
    /// A control queue.
    public var hasControl = false
    /// Longest frame in bytes.
    public var frameRoom = 2048
    /// NUMA node for rings and buffers, -1: any.
    public var node = -1
    /// Asks for a call for each batch of used buffers, as a guest does that sleeps between them. The calls are not
    /// waited for.
    public var wantsCalls = false
    /// Keeps an inflight region for a back-end that crashes (`reconnect`).
    public var keepsInflight = false
    /// It is behind an IOMMU: descriptors and rings have addresses of its own, which are those of this process. What
    /// they mean, whoever made this driver tells the back-end (`EmbeddedDriver.channel`).
    public var hasIOMMU = false
    /// Is told when the configuration space changes (`EmbeddedDriver.channel`).
    public var followsConfiguration = false

    var hasChannel: Bool { hasIOMMU || followsConfiguration }

    public init() {}
}

/// A virtio-net driver in this process on a vhost-user back-end's socket: the embedded guest of tests,
/// demo and benchmarks. Its rings lie in `HostMemory`, in huge pages where there are any.
public final class EmbeddedDriver {
    public let memory: HostMemory
    public private(set) var frontEnd: FrontEnd
    /// Where the back-end asks what addresses mean, or says that the configuration has changed. Whoever made this
    /// driver reads it.
    public private(set) var channel: MessageSocket?
    public let pairCount: Int
    /// Queue pairs, each for one thread.
    public var pairs: DriverPairs { DriverPairs(room) }
    private var room: OwnedValues<DriverPair>
    private let options: DriverOptions
    private let path: String
    /// The inflight region and how it is described.
    private var inflight: (payload: Payload, descriptor: OwnedDescriptor)?
    /// What each ring was started with.
    private var started: [(ring: Int, setup: RingSetup, kick: OwnedDescriptor, call: OwnedDescriptor)] = []
    private var control: ControlDriver?

    /// Connects to `path` (trying for two seconds), negotiates and starts all rings. Errors: one line
    /// with the path.
    public init(path: String, _ options: DriverOptions = DriverOptions()) throws(EngineError) {
        guard (1...PortOptions.maximumQueuePairs).contains(options.queuePairs),
            (1...1 << 20).contains(options.frameRoom),
            RingLayout.isValid(size: options.ringSize, isPacked: options.isPacked)
        else {
            throw EngineError(
                """
                \(path): \(options.queuePairs) queue pairs of \(options.ringSize) buffers of \(options.frameRoom) \
                bytes cannot be
                """
            )
        }
        self.options = options
        self.path = path
        pairCount = options.queuePairs
        // Its errors name the path.
        do { frontEnd = FrontEnd(try EmbeddedDriver.connect(path)) } catch { throw EngineError("\(error)") }
        do {
            try frontEnd.negotiate(EmbeddedDriver.wanted(options), EmbeddedDriver.wantedProtocol(options))
            let wanted = EmbeddedDriver.wanted(options)
            if options.isPacked && !frontEnd.features.contains(.ringPacked) {
                throw EngineError("the back-end has no packed rings")
            }
            if frontEnd.queuePairs < options.queuePairs && options.queuePairs > 1 {
                throw EngineError("the back-end has \(frontEnd.queuePairs) queue pairs, not \(options.queuePairs)")
            }
            let features = frontEnd.features.intersection(wanted)
            let each = DriverPair.bytes(
                size: options.ringSize, isPacked: options.isPacked, frameRoom: options.frameRoom)
            let controlBytes = options.hasControl ? ControlDriver.memoryBytes(isPacked: options.isPacked) : 0
            memory = try HostMemory(bytes: each * options.queuePairs + controlBytes, node: options.node)
            try frontEnd.share(EmbeddedDriver.region(memory, options), memory.descriptor)
            room = OwnedValues(capacity: options.queuePairs)
            if options.keepsInflight { try getInflight() }
            if options.hasChannel { try openChannel() }
            try startRings(features)
        } catch {
            throw EngineError("\(path): \(error)")
        }
    }

    private static func connect(_ path: String) throws(VhostUserError) -> MessageSocket {
        let end = CPlat_monotonic_ns() + 2_000_000_000
        while true {
            do throws(VhostUserError) {
                return try MessageSocket.connect(to: path)
            } catch {
                if CPlat_monotonic_ns() > end { throw error }
                usleep(10_000)
            }
        }
    }

    /// Behind an IOMMU guest physical addresses are others than the driver's.
    private static func region(_ memory: HostMemory, _ options: DriverOptions) -> RegionDescription {
        var region = memory.region
        if options.hasIOMMU { region.guestAddress -= guestDistance }
        return region
    }

    /// How far guest physical addresses lie below the driver's, behind an IOMMU.
    public static let guestDistance: UInt64 = 1 << 40

    private func openChannel() throws {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
            throw EngineError("socketpair: \(SystemError.text(errno))")
        }
        channel = MessageSocket(ends[0])
        try frontEnd.tell(.setBackendReqFD, Payload(), [OwnedDescriptor(ends[1])])
    }

    private static func wanted(_ o: DriverOptions) -> Features {
        var f = o.offloads.union([.version1, .mrgRxbuf, .indirectDesc])
        if o.isPacked { f.insert(.ringPacked) }
        if o.hasIOMMU { f.insert(.accessPlatform) }
        if o.isInOrder { f.insert(.inOrder) }
        if o.hasEventIndex { f.insert(.eventIdx) }
        if o.hasControl {
            f.formUnion([.ctrlVQ, .ctrlRX, .ctrlMACAddr, .ctrlVLAN, .ctrlGuestOffloads, .guestAnnounce, .status])
        }
        if o.queuePairs > 1 { f.formUnion([.mq, .ctrlVQ]) }
        return f
    }

    private static func wantedProtocol(_ o: DriverOptions) -> ProtocolFeatures {
        var chosen: ProtocolFeatures = [.mq, .replyAck, .mtu]
        if o.keepsInflight { chosen.insert(.inflightShmFD) }
        if o.hasChannel { chosen.insert(.backendReq) }
        if o.followsConfiguration { chosen.insert(.config) }
        return chosen
    }

    private func describe(_ size: UInt64) -> Payload {
        var payload = Payload(size)
        payload.add64(0)
        payload.add32(UInt32(2 * options.queuePairs) | options.ringSize << 16)
        return payload
    }

    private func getInflight() throws {
        let answer = try frontEnd.ask(.getInflightFD, describe(0))
        guard answer.descriptors.count == 1 else { throw EngineError("GET_INFLIGHT_FD: the answer has no descriptor") }
        let size = answer.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        inflight = (describe(size), answer.descriptors[0])
        try setInflight()
    }

    private func setInflight() throws {
        if let inflight { try frontEnd.tell(.setInflightFD, inflight.payload, [inflight.descriptor]) }
    }

    /// After a back-end that crashed: connects to the next one (trying for two seconds), which goes on with the rings
    /// as they are. No control queue. Errors: one line with the path.
    public func reconnect() throws(EngineError) {
        do {
            frontEnd = FrontEnd(try EmbeddedDriver.connect(path))
            try frontEnd.negotiate(EmbeddedDriver.wanted(options), EmbeddedDriver.wantedProtocol(options))
            try frontEnd.share(memory.region, memory.descriptor)
            try setInflight()
            for ring in 0..<2 * pairCount { try frontEnd.enableRing(ring, true) }
            for r in started { try start(r.ring, r.setup, r.kick, r.call) }
        } catch {
            throw EngineError("\(path): \(error)")
        }
    }

    private static func eventfd() throws(EngineError) -> OwnedDescriptor {
        guard let fd = EventFD.make() else { throw EngineError("eventfd: \(SystemError.text(errno))") }
        return fd
    }

    /// How the pairs' kicks are written: a back-end may make them block, and full.
    private var kickRings: [CallRing] = []

    private func startPair(_ i: Int, at place: Int, _ features: Features) throws {
        let kicks = [try EmbeddedDriver.eventfd(), try EmbeddedDriver.eventfd()]
        let rings = [try CallRing(kicks[0].fd), try CallRing(kicks[1].fd)]
        kickRings += rings
        room.add(
            DriverPair(
                size: options.ringSize, isPacked: options.isPacked, features: features, frameRoom: options.frameRoom,
                memory: memory, at: place,
                transmitKick: rings[1], receiveKick: rings[0]))
        if options.wantsCalls { pairs[i].wantCalls() } else { pairs[i].suppressCalls() }
        try start(2 * i, pairs[i].receive.deviceSetup(), kicks[0])
        try start(2 * i + 1, pairs[i].transmit.deviceSetup(), kicks[1])
    }

    private func startRings(_ features: Features) throws {
        let each = DriverPair.bytes(
            size: options.ringSize, isPacked: options.isPacked, frameRoom: options.frameRoom)
        for i in 0..<options.queuePairs { try startPair(i, at: i * each, features) }
        if options.hasControl { try startControl(at: each * options.queuePairs, features) }
    }

    /// Ends this driver by `end`, which resets the device, and begins as a new one would: memory of zeroes, the
    /// features again, all rings from their beginning. What was under way is lost.
    public func begin(after end: (FrontEnd) throws -> Void) throws(EngineError) {
        do {
            try end(frontEnd)
            control = nil
            room.removeAll()
            (started, kickRings) = ([], [])
            CPlat_zero(memory.base, UInt64(memory.size))
            try frontEnd.tell(.setFeatures, Payload(frontEnd.features.rawValue))
            try startRings(frontEnd.features.intersection(EmbeddedDriver.wanted(options)))
        } catch {
            throw EngineError("\(error)")
        }
    }

    /// The ring's calls are never waited for.
    private func start(_ ring: Int, _ setup: RingSetup, _ kick: OwnedDescriptor) throws {
        let call = try EmbeddedDriver.eventfd()
        started.append((ring, setup, kick, call))
        try start(ring, setup, kick, call)
    }

    private func start(
        _ ring: Int, _ setup: RingSetup, _ kick: OwnedDescriptor, _ call: OwnedDescriptor
    ) throws {
        let addresses = setup.addresses
        try frontEnd.startRing(
            ring, size: setup.size, base: RingPosition().base(isPacked: setup.isPacked),
            descriptors: addresses.descriptors,
            driverArea: addresses.driverArea, deviceArea: addresses.deviceArea, kick: kick, call: call)
    }

    private func startControl(at place: Int, _ features: Features) throws {
        let kick = try EmbeddedDriver.eventfd()
        let driver = ControlDriver(
            isPacked: options.isPacked, features: features, memory: memory, at: place, kick: kick.fd)
        control = driver
        try start(features.contains(.mq) ? 2 * frontEnd.queuePairs : 2, driver.queue.deviceSetup(), kick)
    }

    /// Sends a command of the control queue (5.1.6.5) and waits up to two seconds for its answer: 0 is OK,
    /// 1 an error; nil without a control queue or an answer.
    public func command(_ kind: UInt8, _ command: UInt8, _ data: [UInt8]) -> UInt8? {
        control?.send(kind, command, data)
    }

    /// Stops every ring in order; the connection ends with the object.
    public func stop() throws(EngineError) {
        do {
            for ring in 0..<2 * pairCount {
                try frontEnd.enableRing(ring, false)
                _ = try frontEnd.stopRing(ring)
            }
        } catch {
            throw EngineError("\(error)")
        }
    }
}
