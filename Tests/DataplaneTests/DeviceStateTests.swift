import CPlatform
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// What a device has beside its rings goes from one Ringway to another by the front-end (DEVICE_STATE).
@Suite(.serialized) struct DeviceStateTests {
    private static let (save, load): (UInt32, UInt32) = (0, 1)
    private static let protocolFeatures: ProtocolFeatures = [
        .mq, .replyAck, .mtu, .config, .resetDevice, .deviceState,
    ]

    /// Both ends block, as a front-end makes them. Whoever has them closes them.
    private static func pipe() -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        #expect(CPlat_pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFL, 0) }
        return (ends[0], ends[1])
    }

    private static func payload(_ direction: UInt32, _ phase: UInt32 = 0) -> Payload {
        var p = Payload()
        p.add32(direction)
        p.add32(phase)
        return p
    }

    private static func value(_ message: Message) -> UInt64 {
        message.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
    }

    /// All until the end, which is then closed; nil: it does not come.
    private static func readAll(_ end: Int32) -> [UInt8]? {
        defer { close(end) }
        var (all, room) = ([UInt8](), [UInt8](repeating: 0, count: 65536))
        while true {
            var p = pollfd(fd: end, events: Int16(POLLIN), revents: 0)
            if poll(&p, 1, 5000) != 1 { return nil }
            let n = read(end, &room, room.count)
            if n <= 0 { return n == 0 ? all : nil }
            all += room[..<n]
        }
    }

    /// SET_DEVICE_STATE_FD with an end that is then the device's alone; what it answers.
    private static func hand(_ end: Int32, _ direction: UInt32, _ frontEnd: FrontEnd) throws -> UInt64 {
        let answer = try frontEnd.ask(.setDeviceStateFD, payload(direction), [OwnedDescriptor(end)])
        #expect(answer.descriptors.isEmpty)
        return value(answer)
    }

    /// What `frontEnd`'s device saves, by a pipe of the front-end's.
    private static func saved(_ frontEnd: FrontEnd) throws -> [UInt8] {
        let ends = pipe()
        #expect(try hand(ends.write, save, frontEnd) == 1 << 8)
        let bytes = try #require(readAll(ends.read))
        #expect(try frontEnd.ask64(.checkDeviceState) == 0)
        return bytes
    }

    /// Whether `frontEnd`'s device loads it.
    private static func loads(_ bytes: [UInt8], _ frontEnd: FrontEnd) throws -> Bool {
        let ends = pipe()
        #expect(try hand(ends.read, load, frontEnd) == 1 << 8)
        return try loads(bytes, frontEnd, ends.write)
    }

    private static func loads(_ bytes: [UInt8], _ frontEnd: FrontEnd, _ into: Int32) throws -> Bool {
        #expect(bytes.isEmpty || write(into, bytes, bytes.count) == bytes.count)
        close(into)
        return try frontEnd.ask64(.checkDeviceState) == 0
    }

    /// A front-end with memory in which rings can lie; nothing runs.
    private final class Peer {
        let frontEnd: FrontEnd
        let memory: HostMemory

        init(_ path: String, _ features: Features) throws {
            frontEnd = FrontEnd(try MessageSocket.connect(to: path))
            try frontEnd.negotiate(features, DeviceStateTests.protocolFeatures)
            memory = try HostMemory(bytes: 65536, wantsHugePages: false, name: "state")
            try frontEnd.share(memory.region, memory.descriptor)
        }

        func start(_ ring: Int) throws {
            let at = memory.region.userAddress + UInt64(ring) * 4096
            try frontEnd.startRing(
                ring, size: 16, base: 0, descriptors: at, driverArea: at + 1024, deviceArea: at + 2048,
                kick: OwnedDescriptor(CPlat_eventfd(0)), call: OwnedDescriptor(CPlat_eventfd(0)))
        }

        var mac: [UInt8] {
            get throws {
                var payload = Payload()
                for value in [UInt32(0), 6, 0] { payload.add32(value) }
                payload.add([UInt8](repeating: 0, count: 6))
                return Array(try frontEnd.ask(.getConfig, payload).payload[12...])
            }
        }

        func begin() throws { try frontEnd.tell(.setFeatures, Payload(frontEnd.features.rawValue)) }
    }

    /// A driver with two pairs has set all that can be set, and its rings have stopped.
    private func source(_ lab: Lab) throws -> (driver: EmbeddedDriver, state: [UInt8]) {
        let driver = try lab.driver(0) {
            ($0.queuePairs, $0.hasControl) = (2, true)
            $0.offloads = [.guestCsum, .guestTSO4, .guestTSO6]
        }
        try driver.frontEnd.setProtocolFeatures(DeviceStateTests.protocolFeatures)
        #expect(driver.command(1, 1, [2, 0, 0, 0, 77, 1]) == 0)
        #expect(driver.command(5, 0, [1 << 1, 0, 0, 0, 0, 0, 0, 0]) == 0)
        #expect(driver.command(4, 0, [2, 0]) == 0)
        try driver.stop()
        _ = try driver.frontEnd.stopRing(4)
        return (driver, try DeviceStateTests.saved(driver.frontEnd))
    }

    private func lab() throws -> Lab { try Lab(ports: 2, .crossconnect, pairs: [2, 2]) }

    @Test("what a driver has set goes along; features before or after; it lasts until a driver begins")
    func moves() throws {
        let (first, second) = (try lab(), try lab())
        let (driver, state) = try source(first)
        #expect(state.count == 48)
        for isAfter in [false, true] {
            let peer = try Peer(second.paths[0], driver.frontEnd.features)
            let fresh = try DeviceStateTests.saved(peer.frontEnd)
            #expect(try fresh != state && peer.mac == [2, 0, 0, 0, 9, 0])
            if isAfter {
                // Those of another driver, for a moment.
                try peer.frontEnd.tell(.setFeatures, Payload(Features([.version1, .protocolFeatures]).rawValue))
            }
            #expect(try DeviceStateTests.loads(state, peer.frontEnd))
            // As QEMU does, once for each pair.
            for _ in 0..<2 { try peer.begin() }
            #expect(try DeviceStateTests.saved(peer.frontEnd) == state)
            #expect(try peer.mac == [2, 0, 0, 0, 77, 1])
            for ring in 0..<2 { try peer.start(ring) }
            for ring in 0..<2 { _ = try peer.frontEnd.stopRing(ring) }
            #expect(try DeviceStateTests.saved(peer.frontEnd) == state)
            if isAfter {
                try peer.frontEnd.tell(.resetDevice)
                #expect(try peer.mac == [2, 0, 0, 0, 9, 0])
            }
            try peer.begin()
            #expect(try DeviceStateTests.saved(peer.frontEnd) != state)
        }
        // The next front-end has nothing of it.
        let next = try Peer(second.paths[0], driver.frontEnd.features)
        #expect(try next.mac == [2, 0, 0, 0, 9, 0])
    }

    @Test("a port with other features, or fewer pairs, refuses it; a front-end of other features begins afresh")
    func otherPorts() throws {
        let (driver, state) = try source(try lab())
        let small = try Lab(ports: 2, .crossconnect)
        let peer = try Peer(small.paths[0], driver.frontEnd.features)
        #expect(try !DeviceStateTests.loads(state, peer.frontEnd))
        let second = try lab()
        let plain = try Peer(second.paths[0], [.version1])
        #expect(try DeviceStateTests.loads(state, plain.frontEnd))
        try plain.begin()
        #expect(try plain.mac == [2, 0, 0, 0, 9, 0])
    }

    @Test("state that is cut off, too long, of another version or any bytes is refused, or says what can be")
    func hostileState() throws {
        let (first, second) = (try lab(), try lab())
        let (driver, state) = try source(first)
        let peer = try Peer(second.paths[0], driver.frontEnd.features)
        func loads(_ bytes: [UInt8]) throws -> Bool { try DeviceStateTests.loads(bytes, peer.frontEnd) }
        for count in 0..<state.count { #expect(try !loads(Array(state[..<count])), "\(count) bytes") }
        #expect(try !loads(state + [0]))
        #expect(try !loads([UInt8](repeating: 0, count: 4096)))
        #expect(try !loads([UInt8](repeating: 0xff, count: 48)))
        for (place, byte) in [
            (0, 0), (8, 2), (12, 49), (16, 4), (20, 0), (20, 3), (23, 1), (31, 2), (32, 4), (40, 3), (46, 1),
        ] {
            var wrong = state
            wrong[place] = UInt8(byte)
            #expect(try !loads(wrong), "byte \(place)")
        }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<rounds(500, least: 50) {
            var any = state
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                any[Int.random(in: 0..<48, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            if try loads(any) { #expect(try DeviceStateTests.saved(peer.frontEnd).count == 48) }
        }
        #expect(try loads(state))
        try peer.begin()
        #expect(try DeviceStateTests.saved(peer.frontEnd) == state)
    }

    @Test("a pipe that never ends, one that is full, the wrong end: an answer at once")
    func hostilePipes() throws {
        let second = try lab()
        let peer = try Peer(second.paths[0], [.version1, .mrgRxbuf])
        let f = peer.frontEnd
        func begin(_ direction: UInt32, _ end: Int32) throws -> UInt64 {
            try DeviceStateTests.hand(dup(end), direction, f)
        }
        #expect(try f.ask64(.checkDeviceState) != 0)
        let good = try DeviceStateTests.saved(f)
        // The test keeps its end open.
        let open = DeviceStateTests.pipe()
        #expect(try begin(1, open.read) == 1 << 8)
        #expect(write(open.write, good, good.count) == good.count)
        #expect(try f.ask64(.checkDeviceState) != 0)
        #expect(try f.ask64(.checkDeviceState) != 0)
        // Full, and the test does not read.
        let full = DeviceStateTests.pipe()
        let chunk = [UInt8](repeating: 7, count: 4096)
        _ = fcntl(full.write, F_SETFL, O_NONBLOCK)
        while write(full.write, chunk, chunk.count) > 0 {}
        _ = fcntl(full.write, F_SETFL, 0)
        #expect(try begin(0, full.write) & 0xff != 0)
        // The wrong end; nobody at the other.
        let wrong = DeviceStateTests.pipe()
        #expect(try begin(0, wrong.read) & 0xff != 0)
        #expect(try begin(1, wrong.write) == 1 << 8)
        #expect(try f.ask64(.checkDeviceState) != 0)
        close(wrong.read)
        #expect(try begin(0, wrong.write) & 0xff != 0)
        #expect(try DeviceStateTests.saved(f) == good)
        for end in [open.read, open.write, full.read, full.write, wrong.write] { close(end) }
    }

    @Test("the writer of too much sees the pipe closed, and does not wait for ever")
    func tooMuch() throws {
        let second = try lab()
        let peer = try Peer(second.paths[0], [.version1])
        let ends = DeviceStateTests.pipe()
        #expect(try DeviceStateTests.hand(ends.read, 1, peer.frontEnd) == 1 << 8)
        _ = fcntl(ends.write, F_SETFL, O_NONBLOCK)
        let before = signal(SIGPIPE, SIG_IGN)
        defer { signal(SIGPIPE, before) }
        let chunk = [UInt8](repeating: 1, count: 1 << 16)
        let isClosed = eventually { write(ends.write, chunk, chunk.count) < 0 && errno == EPIPE }
        #expect(isClosed)
        #expect(try peer.frontEnd.ask64(.checkDeviceState) != 0)
        close(ends.write)
    }

    @Test("what is no pipe: a pipe of the device's goes back, both ways", arguments: [0, 1, 2])
    func otherChannel(kind: Int) throws {
        let second = try lab()
        let peer = try Peer(second.paths[0], [.version1, .mrgRxbuf])
        /// The end that came back.
        func hand(_ direction: UInt32) throws -> Int32 {
            let own: Int32
            switch kind {
            case 0: own = CPlat_eventfd(0)
            case 1: own = CPlat_memfd("state", 0, false)
            default: own = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            }
            let answer = try peer.frontEnd.ask(
                .setDeviceStateFD, DeviceStateTests.payload(direction), [OwnedDescriptor(own)])
            #expect(DeviceStateTests.value(answer) == 0)
            let end = try #require(answer.descriptors.first)
            return try withExtendedLifetime(answer) { try end.copy() }
        }
        let bytes = try #require(DeviceStateTests.readAll(try hand(0)))
        #expect(try bytes == DeviceStateTests.saved(peer.frontEnd))
        #expect(try DeviceStateTests.loads(bytes, peer.frontEnd, try hand(1)))
    }

    @Test("messages that cannot be are refused, also while rings run; nothing is left of a transfer that is given up")
    func refused() throws {
        let second = try lab()
        let ends = DeviceStateTests.pipe()
        do {
            let peer = try Peer(second.paths[0], [.version1])
            let f = peer.frontEnd
            func refuses(_ payload: Payload, _ count: Int) throws -> Bool {
                let ends = DeviceStateTests.pipe()
                defer { for end in [ends.read, ends.write] { close(end) } }
                let own = (0..<count).map { _ in OwnedDescriptor(dup(ends.write)) }
                let answer = try f.ask(.setDeviceStateFD, payload, own)
                return DeviceStateTests.value(answer) == 0x101 && answer.descriptors.isEmpty
            }
            #expect(try refuses(DeviceStateTests.payload(2), 1) && refuses(DeviceStateTests.payload(0, 1), 1))
            #expect(try refuses(DeviceStateTests.payload(0), 0) && refuses(DeviceStateTests.payload(0), 2))
            #expect(try refuses(Payload(), 1))
            try peer.start(0)
            #expect(try refuses(DeviceStateTests.payload(0), 1) && refuses(DeviceStateTests.payload(1), 1))
            _ = try f.stopRing(0)
            // One that is begun, and rings that start before it is asked for.
            #expect(try DeviceStateTests.hand(dup(ends.read), 1, f) == 1 << 8)
            try peer.start(0)
            #expect(try f.ask64(.checkDeviceState) != 0)
            _ = try f.stopRing(0)
            #expect(try DeviceStateTests.hand(dup(ends.read), 1, f) == 1 << 8)
        }
        // Nobody reads it any more.
        close(ends.read)
        let before = signal(SIGPIPE, SIG_IGN)
        defer { signal(SIGPIPE, before) }
        #expect(eventually { write(ends.write, [0], 1) < 0 && errno == EPIPE })
        close(ends.write)
        // Without the feature both end the connection.
        for request in [Request.setDeviceStateFD, .checkDeviceState] {
            let f = FrontEnd(try MessageSocket.connect(to: second.paths[0]))
            try f.negotiate([.version1], [.mq, .replyAck])
            #expect(throws: VhostUserError.self) { try f.ask(request, DeviceStateTests.payload(0)) }
        }
    }
}
