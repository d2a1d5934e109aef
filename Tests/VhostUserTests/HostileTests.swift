import CPlatform
import Glibc
import Memory
import Testing
import VhostUser
import Virtio

extension BackEndTests {
    /// A message that must end its connection, with what the log must name.
    struct Hostile: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let wanted: String
        let send: @Sendable (Peer) throws -> Void
        init(_ name: String, _ wanted: String, _ send: @escaping @Sendable (Peer) throws -> Void) {
            (testDescription, self.wanted, self.send) = (name, wanted, send)
        }
    }

    private static func pipeEnd() -> OwnedDescriptor {
        var ends: [Int32] = [0, 0]
        pipe(&ends)
        close(ends[1])
        return OwnedDescriptor(ends[0])
    }

    /// Half a message with more descriptors than Ringway itself ever sends; bytes sent. A cmsghdr is its length (64
    /// bits), SOL_SOCKET and SCM_RIGHTS.
    private static func sendMany(_ fds: [OwnedDescriptor], _ socket: Int32) -> Int {
        let length = 16 + 4 * fds.count
        let control = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 8)
        let bytes = UnsafeMutableRawPointer.allocate(byteCount: 4, alignment: 4)
        defer {
            control.deallocate()
            bytes.deallocate()
        }
        bytes.storeBytes(of: 1, as: UInt32.self)
        control.storeBytes(of: UInt64(length), as: UInt64.self)
        control.storeBytes(of: SOL_SOCKET, toByteOffset: 8, as: Int32.self)
        control.storeBytes(of: 1, toByteOffset: 12, as: Int32.self)
        for (i, fd) in fds.enumerated() { control.storeBytes(of: fd.fd, toByteOffset: 16 + 4 * i, as: Int32.self) }
        var part = iovec(iov_base: bytes, iov_len: 4)
        return withUnsafeMutablePointer(to: &part) { part in
            var message = msghdr()
            (message.msg_iov, message.msg_iovlen) = (part, 1)
            (message.msg_control, message.msg_controllen) = (control, length)
            return sendmsg(socket, &message, Int32(MSG_NOSIGNAL))
        }
    }

    private static func words(_ w: UInt32...) -> Payload {
        var p = Payload()
        for v in w { p.add32(v) }
        return p
    }

    private static func table(_ regions: [RegionDescription], count: UInt32? = nil) -> Payload {
        var p = words(count ?? UInt32(regions.count), 0)
        for r in regions { p.add(r) }
        return p
    }

    private static func addresses(_ i: UInt32, _ d: UInt64, _ used: UInt64, _ available: UInt64, flags: UInt32 = 0)
        -> Payload
    {
        var p = words(i, flags)
        for v in [d, used, available, 0] { p.add64(v) }
        return p
    }

    private static func region(_ g: UInt64, _ s: UInt64, _ u: UInt64, _ o: UInt64 = 0) -> RegionDescription {
        RegionDescription(guestAddress: g, size: s, userAddress: u, offset: o)
    }

    static let hostile: [Hostile] = [
        Hostile("version 2", "version 2") { try $0.send(.getFeatures, flags: 2) },
        Hostile("version 0", "version 0") { try $0.send(.getFeatures, flags: 0) },
        Hostile("reply flag", "GET_FEATURES: came with the reply flag") { try $0.send(.getFeatures, flags: 5) },
        Hostile("unknown request", "request 999") { try $0.socket.send(Message(999)) },
        Hostile("request 0", "request 0") { try $0.socket.send(Message(0)) },
        Hostile("oversized payload", "payload of 4294967295 bytes") {
            let bytes: [UInt8] = [1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]
            _ = Glibc.send($0.socket.fd, bytes, 12, Int32(MSG_NOSIGNAL))
        },
        Hostile("nine descriptors", "descriptors with one message") {
            try $0.send(.setMemTable, words(9, 0), (0..<9).map { _ in eventfd() })
        },
        Hostile("two hundred descriptors", "descriptors with one message") { p in
            #expect(sendMany((0..<200).map { _ in eventfd() }, p.socket.fd) == 4)
        },
        Hostile("a header cut short, then another message", "version") { p in
            _ = Glibc.send(p.socket.fd, [1, 0, 0, 0, 1, 0], 6, Int32(MSG_NOSIGNAL))
            try p.send(.getFeatures)
        },
        Hostile("request 255", "request 255") { try $0.socket.send(Message(255)) },
        Hostile("request 2^32 - 1", "request 4294967295") { try $0.socket.send(Message(.max)) },
        Hostile("VRING_KICK without in-band notifications", "VRING_KICK: its protocol feature") {
            try $0.send(.vringKick, words(0, 0))
        },
        Hostile("descriptors where none belong", "SET_VRING_NUM") { p in
            // They are closed; the message fails for its own sake.
            try p.send(.setVringNum, words(0, 0), [eventfd(), eventfd()])
        },
        Hostile("short payload", "SET_FEATURES: payload of 4 bytes") { try $0.send(.setFeatures, words(1)) },
        Hostile("128 bits of features", "SET_FEATURES: payload of 16 bytes") {
            try $0.send(.setFeatures, words(0, 1, 2, 0))
        },
        Hostile("long payload", "SET_VRING_BASE: payload of 12 bytes") { try $0.send(.setVringBase, words(0, 0, 0)) },
        Hostile("feature not offered", "HASH_REPORT not offered") { try $0.send(.setFeatures, Payload(1 << 57)) },
        Hostile("protocol feature not offered", "SET_PROTOCOL_FEATURES: bits 0x8000000000000000") {
            try $0.send(.setProtocolFeatures, Payload(1 << 63))
        },
        Hostile("no regions", "SET_MEM_TABLE") { try $0.send(.setMemTable, table([])) },
        Hostile("nine regions", "SET_MEM_TABLE") { try $0.send(.setMemTable, table([], count: 9)) },
        Hostile("fewer regions than counted", "SET_MEM_TABLE") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)], count: 2), [eventfd(), eventfd()])
        },
        Hostile("fewer descriptors than regions", "SET_MEM_TABLE: 1 descriptors for 2") {
            try $0.send(.setMemTable, table([region(0, 4096, 0), region(8192, 4096, 8192)]), [$0.memory.descriptor])
        },
        Hostile("more descriptors than regions", "SET_MEM_TABLE: 2 descriptors for 1") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)]), [$0.memory.descriptor, $0.memory.descriptor])
        },
        Hostile("overlapping regions", "overlaps 0x0") {
            try $0.send(
                .setMemTable, table([region(0, 8192, 0), region(4096, 4096, 1 << 20)]),
                [$0.memory.descriptor, $0.memory.descriptor])
        },
        Hostile("region that wraps", "beyond the address space") {
            try $0.send(.setMemTable, table([region(UInt64.max - 10, 4096, 0)]), [$0.memory.descriptor])
        },
        Hostile("empty region", "is empty") {
            try $0.send(.setMemTable, table([region(0, 0, 0)]), [$0.memory.descriptor])
        },
        Hostile("file shorter than its region", "beyond the file's") {
            try $0.send(.setMemTable, table([region(0, 1 << 30, 0)]), [$0.memory.descriptor])
        },
        Hostile("offset beyond the file", "beyond the file's") {
            try $0.send(.setMemTable, table([region(0, 4096, 0, 1 << 40)]), [$0.memory.descriptor])
        },
        Hostile("region of a pipe", "not a file") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)]), [pipeEnd()])
        },
        Hostile("region of a directory", "not a file of memfd") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)]), [OwnedDescriptor(open("/", O_RDONLY | O_CLOEXEC))])
        },
        Hostile("region of a socket", "not a file") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)]), [OwnedDescriptor(CPlat_unix_socket())])
        },
        Hostile("region of a device", "not a file of memfd") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)]), [OwnedDescriptor(open("/dev/null", O_RDWR))])
        },
        Hostile("region of a read-only memfd", "mmap") { p in
            let fd = open("/proc/self/fd/\(p.memory.descriptor.fd)", O_RDONLY | O_CLOEXEC)
            try p.send(.setMemTable, table([region(0, 4096, 0)]), [OwnedDescriptor(fd)])
        },
        Hostile("user addresses that wrap", "beyond the address space") {
            try $0.send(.setMemTable, table([region(0, 4096, UInt64.max - 10)]), [$0.memory.descriptor])
        },
        Hostile("user addresses that overlap", "overlap") {
            try $0.send(
                .setMemTable, table([region(0, 4096, 1 << 20), region(8192, 4096, 1 << 20 + 4095)]),
                [$0.memory.descriptor, $0.memory.descriptor])
        },
        Hostile("offset that wraps", "beyond the file's") {
            try $0.send(.setMemTable, table([region(0, 4096, 0, UInt64.max - 4095)]), [$0.memory.descriptor])
        },
        Hostile("region of an eventfd", "not a file") {
            try $0.send(.setMemTable, table([region(0, 4096, 0)]), [eventfd()])
        },
        Hostile("slot without a descriptor", "ADD_MEM_REG: 0 descriptors") {
            var p = Payload(0)
            p.add(region(1 << 40, 4096, 1))
            try $0.send(.addMemReg, p)
        },
        Hostile("slot that is not there", "REM_MEM_REG: no region") {
            var p = Payload(0)
            p.add(region(1 << 40, 4096, 1))
            try $0.send(.remMemReg, p)
        },
        Hostile("ring of no entries", "ring 0: size 0") { try $0.send(.setVringNum, words(0, 0)) },
        Hostile("ring of 65536 entries", "size 65536") { try $0.send(.setVringNum, words(0, 65536)) },
        Hostile("ring beyond those offered", "ring 5; this port has 5") { try $0.send(.setVringNum, words(5, 16)) },
        Hostile("ring 2^32 - 1", "ring 4294967295") { try $0.send(.getVringBase, words(UInt32.max, 0)) },
        Hostile("split ring that is no power of two", "ring 0: size 100 is not one") { try $0.start(0, size: 100) },
        Hostile("descriptors not aligned", "descriptor area 0x") { p in
            try p.send(.setVringNum, words(0, 16))
            try p.send(.setVringAddr, addresses(0, p.base + 8, p.base + 2048, p.base + 1024))
        },
        Hostile("ring outside memory", "outside guest memory") { p in
            try p.send(.setVringNum, words(0, 16))
            try p.send(.setVringAddr, addresses(0, 0x1000, p.base + 2048, p.base + 1024))
        },
        Hostile("ring that ends outside memory", "device area 0x") { p in
            try p.send(.setVringNum, words(0, 16))
            try p.send(.setVringAddr, addresses(0, p.base, p.base + 65536 - 64, p.base + 1024))
        },
        Hostile("address flags", "flags 0x2") {
            try $0.send(.setVringAddr, addresses(0, $0.base, $0.base, $0.base, flags: 2))
        },
        Hostile("kick that is a pipe", "not an eventfd") { try $0.send(.setVringKick, Payload(0), [pipeEnd()]) },
        Hostile("call that is a file", "not an eventfd") {
            try $0.send(.setVringCall, Payload(0), [$0.memory.descriptor])
        },
        Hostile("kick without its descriptor", "SET_VRING_KICK: ring 0: 0 descriptors") {
            try $0.send(.setVringKick, Payload(0))
        },
        Hostile("kick with two", "2 descriptors, 1 is expected") {
            try $0.send(.setVringKick, Payload(0), [eventfd(), eventfd()])
        },
        Hostile("NOFD with a descriptor", "NOFD, but") { try $0.send(.setVringKick, Payload(0x100), [eventfd()]) },
        Hostile("kick of a ring beyond", "ring 200") { try $0.send(.setVringKick, Payload(200), [eventfd()]) },
        Hostile("enable 2", "SET_VRING_ENABLE: ring 0: 2") { try $0.send(.setVringEnable, words(0, 2)) },
        Hostile("base of a running ring", "ring 0 runs") {
            try $0.start(0)
            try $0.send(.setVringBase, words(0, 5))
        },
        Hostile("size of a running ring", "ring 0 runs") {
            try $0.start(0)
            try $0.send(.setVringNum, words(0, 32))
        },
        Hostile("features while rings run", "features change while rings run") {
            try $0.start(0)
            try $0.send(.setFeatures, Payload(Features.version1.union(.mrgRxbuf).union(.protocolFeatures).rawValue))
        },
        Hostile("configuration longer than its message", "GET_CONFIG: payload") {
            try $0.send(.getConfig, words(0, 200, 0))
        },
        Hostile("configuration that cannot be written", "SET_CONFIG: bytes 8+1") {
            var p = words(8, 1, 0)
            p.add([1])
            try $0.send(.setConfig, p)
        },
        Hostile("base of a split ring beyond 16 bits", "base 0x10000 is beyond a ring of 16") {
            try $0.start(0, base: 1 << 16)
        },
        Hostile("status of 9 bits", "status 256") { try $0.send(.setStatus, Payload(256)) },
        Hostile("MTU of 10", "NET_SET_MTU: 10") { try $0.send(.netSetMTU, Payload(10)) },
        Hostile("back-end channel without its feature", "SET_BACKEND_REQ_FD: its protocol feature") {
            try $0.send(.setBackendReqFD, Payload(), [eventfd()])
        },
        Hostile("dirty log without its feature", "SET_LOG_BASE: its protocol feature") {
            try $0.send(.setLogBase, words(0, 0, 0, 0), [$0.memory.descriptor])
        },
        Hostile("eventfd for the log that is none", "SET_LOG_FD: the descriptor is not an eventfd") {
            try $0.send(.setLogFD, Payload(), [$0.memory.descriptor])
        },
        Hostile("inflight region without its feature", "SET_INFLIGHT_FD: its protocol feature") {
            try $0.send(.setInflightFD, words(0, 0, 0, 0, 0), [$0.memory.descriptor])
        },
        Hostile("a crypto session", "CRYPTO_SESSION: is not supported") { try $0.socket.send(Message(26)) },
        Hostile("postcopy", "POSTCOPY_ADVISE: is not supported") { try $0.send(.postcopyAdvise) },
    ]

    @Test(
        """
        a message that is wrong ends its connection with an error that names the operand; the next front-end is served
        """,
        arguments: hostile)
    func hostileMessage(_ h: Hostile) throws {
        let f = try Fixture()
        let before = count("/proc/self/fd")
        do {
            let p = try f.ready()
            // The connection can end while more is being sent.
            try? h.send(p)
            #expect(p.isClosed)
        }
        #expect(f.logged(h.wanted), "\(f.lines)")
        #expect(f.eventually { f.device.running == [] && count("/proc/self/fd") <= before })
        let next = try f.ready()
        try next.start(0)
        #expect(f.eventually { f.device.running == [0] })
    }

    @Test("configuration beyond the space is answered with nothing; ring addresses before memory wait for it")
    func early() throws {
        let f = try Fixture()
        let p = Peer(try f.connect())
        try p.frontEnd.negotiate([.version1], [.mq, .replyAck, .config])
        for (offset, size) in [(UInt32(250), UInt32(20)), (.max, 1), (256, 1)] {
            var ask = BackEndTests.words(offset, size, 0)
            ask.add([UInt8](repeating: 0, count: Int(size)))
            #expect(try p.frontEnd.ask(.getConfig, ask).payload.isEmpty)
        }
        try p.start(0)
        #expect(f.device.running == [])
        try p.frontEnd.share(p.memory.region, p.memory.descriptor)
        #expect(f.device.running == [0])
    }

    @Test("a packed ring's base beyond its size is refused")
    func packedBase() throws {
        let f = try Fixture()
        let p = try f.ready([.mq], packed: true)
        try? p.start(0, base: 16)
        #expect(f.logged("base 0x10 is beyond a ring of 16"))
    }

    @Test("VRING_KICK for a ring whose kicks come by a descriptor, a full one, does not make the control thread wait")
    func fullKick() throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck, .inbandNotifications])
        let kick = eventfd()
        _ = fcntl(kick.fd, F_SETFL, 0)
        var most = UInt64.max - 1
        write(kick.fd, &most, 8)
        // Lets a thread go that waits all the same, so that the test ends.
        defer { read(kick.fd, &most, 8) }
        try p.send(.setVringKick, Payload(0), [kick])
        try p.send(.vringKick, Payload(index: 0, 0))
        #expect(p.isClosed)
        #expect(f.logged("VRING_KICK: ring 0: its kicks come by a descriptor"))
    }

    @Test("IOTLB messages of a front-end without an IOMMU are refused; the connection of others goes on")
    func iotlb() throws {
        let f = try Fixture()
        let p = try f.ready([.backendReq, .replyAck])
        var payload = Payload(0x1000)
        payload.add64(0x1000)
        payload.add64(p.base)
        payload.add([3, 2])
        let error = #expect(throws: VhostUserError.self) { try p.frontEnd.tell(.iotlbMsg, payload) }
        #expect(error?.kind == .refused)
        #expect(f.logged("IOTLB_MSG: ACCESS_PLATFORM and BACKEND_REQ were not both negotiated"))
        #expect(try p.frontEnd.ask64(.getQueueNum) == 2)
    }

    @Test("a back-end channel that takes nothing costs the front-end its calls, and the log one line")
    func deafChannel() throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .inbandNotifications, .backendReq])
        var ends: [Int32] = [0, 0]
        socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends)
        try p.send(.setBackendReqFD, Payload(), [OwnedDescriptor(ends[0])])
        try p.send(.setVringCall, Payload(0x100))
        try p.start(1)
        try p.send(.setVringNum, Payload(index: 0, 16))
        var address = Payload(index: 0, 0)
        for v in [p.base, p.base + 2048, p.base + 1024, 0] { address.add64(v) }
        try p.send(.setVringAddr, address)
        try p.send(.setVringKick, Payload(0x100))
        #expect(f.eventually { f.device.running == [0, 1] })
        let ring = try #require(f.device.ring(0))
        close(ends[1])
        for _ in 0..<50 {
            var one: UInt64 = 1
            write(ring.callFD, &one, 8)
            usleep(1000)
        }
        #expect(f.logged("VRING_CALL of ring 0"))
        #expect(f.lines.filter { $0.contains("VRING_CALL") }.count == 1)
    }

    @Test("random messages with random descriptors neither crash nor leak")
    func fuzz() throws {
        let f = try Fixture()
        let before = count("/proc/self/fd")
        var seed: UInt64 = 1
        func random(_ n: UInt64) -> UInt64 {
            seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (seed >> 33) % n
        }
        var sent = 0
        while sent < 6000 {
            let all: ProtocolFeatures = [
                .mq, .config, .status, .configureMemSlots, .inbandNotifications, .backendReq, .replyAck,
            ]
            let p = try f.ready(all.intersection(ProtocolFeatures(rawValue: random(1 << 17) | 1)))
            for _ in 0..<random(60) {
                var payload = Payload()
                for _ in 0..<random(11) {
                    switch random(5) {
                    case 0: payload.add64(p.base + random(70000))
                    case 1: payload.add64(random(8))
                    case 2: payload.add32(UInt32(random(40)))
                    case 3: payload.add64(UInt64.max - random(10))
                    default: payload.add64(random(1 << 20) << 12)
                    }
                }
                var m = Message(
                    UInt32(random(42)), flags: random(30) == 0 ? UInt32(random(16)) : 1 | UInt32(random(2)) << 3,
                    payload: payload.bytes)
                for _ in 0..<(random(3) == 0 ? random(10) : random(2)) {
                    m.descriptors.append(
                        random(3) == 0 ? p.memory.descriptor : random(4) == 0 ? BackEndTests.pipeEnd() : eventfd())
                }
                sent += 1
                do { try p.socket.send(m) } catch { break }
                // Answers are taken, so that the other end need not wait.
                while (try? p.socket.receive()) != nil {}
            }
        }
        #expect(
            f.eventually { f.device.running == [] && count("/proc/self/fd") <= before },
            "\(before) descriptors became \(count("/proc/self/fd"))")
        let p = try f.ready()
        try p.start(0)
        #expect(f.eventually { f.device.running == [0] })
    }
}
