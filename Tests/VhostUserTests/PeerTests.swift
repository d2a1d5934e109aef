import CPlatform
import Glibc
import Memory
import Testing
import VhostUser
import Virtio

/// What a front-end can do to the port that it is connected to, beside sending messages that are wrong.
extension BackEndTests {
    /// The next front-end is served.
    private func isServed(_ f: Fixture) throws -> Bool {
        let next = try f.connect()
        try next.socket.send(Message(.getFeatures))
        return (try? next.socket.receive(within: 3000))?.request == Request.getFeatures.rawValue
    }

    private static func pair() -> (OwnedDescriptor, OwnedDescriptor) {
        var ends: [Int32] = [0, 0]
        socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends)
        return (OwnedDescriptor(ends[0]), OwnedDescriptor(ends[1]))
    }

    /// How a front-end hands over its own end of the connection, so that it outlives the front-end.
    enum Handover: String, CaseIterable, Sendable {
        case channel, besideStrayByte, besideUrgentByte, besideWholeMessage, insideSocketpair,
            insideSocketpairWithStrayByte
    }

    @Test(
        "a front-end that hands over its own end of the connection and closes is seen to be gone",
        arguments: Handover.allCases)
    func ownEnd(_ how: Handover) throws {
        let f = try Fixture()
        do {
            let p = try f.ready([.mq, .backendReq])
            let own = OwnedDescriptor(dup(p.socket.fd))
            let (near, far) = BackEndTests.pair()
            var fds = [own.fd]
            if how == .insideSocketpair || how == .insideSocketpairWithStrayByte {
                #expect(CPlat_send_fds(far.fd, [7], 1, 0, fds, 1) == 1)
                fds = [near.fd]
            }
            switch how {
            case .channel, .insideSocketpair:
                try p.send(.setBackendReqFD, Payload(), [how == .channel ? own : near])
            case .besideWholeMessage:
                try p.send(.setOwner, Payload(), [own])
            case .besideUrgentByte:
                // EOPNOTSUPP where the kernel has no urgent bytes: nothing is handed over then.
                _ = CPlat_send_fds(p.socket.fd, [7], 1, Int32(MSG_OOB), fds, 1)
            default:
                #expect(CPlat_send_fds(p.socket.fd, [7], 1, 0, fds, 1) == 1)
            }
        }
        #expect(f.eventually { f.device.events.last == "gone" }, "\(f.lines)")
        #expect(try isServed(f))
    }

    @Test("a connection to another port is no channel: two could keep each other alive")
    func otherPortsEnd() throws {
        let (f, g) = (try Fixture(), try Fixture())
        do {
            let (p, q) = (try f.ready([.mq, .backendReq]), try g.ready([.mq, .backendReq]))
            try? p.send(.setBackendReqFD, Payload(), [OwnedDescriptor(dup(q.socket.fd))])
            try? q.send(.setBackendReqFD, Payload(), [OwnedDescriptor(dup(p.socket.fd))])
        }
        for x in [f, g] {
            #expect(x.eventually { x.device.events.last == "gone" })
            #expect(x.logged("SET_BACKEND_REQ_FD: the descriptor is not an end of a socketpair"))
        }
    }

    @Test("silent connections that take every place yield them, without a front-end and with one")
    func silent() throws {
        let f = try Fixture()
        var idle = try (0..<16).map { _ in try MessageSocket.connect(to: f.path) }
        // Half a message is silence, too.
        for s in idle.prefix(8) { write(s.fd, [UInt8](repeating: 1, count: 6), 6) }
        #expect(try isServed(f))
        idle = []
        var first: FrontEnd? = try f.connect()
        try first!.negotiate([.version1], [.mq])
        idle = try (0..<16).map { _ in try MessageSocket.connect(to: f.path) }
        let second = try f.connect()
        try second.socket.send(Message(.getFeatures))
        // The oldest yields, no other, and the front-end stays.
        #expect(throws: VhostUserError.self) { try idle[0].receive(within: 3000) }
        #expect(try idle[1].receive() == nil)
        _ = try first!.ask(.getFeatures)
        first = nil
        #expect(try second.socket.receive(within: 3000).request == Request.getFeatures.rawValue)
        withExtendedLifetime(idle) {}
    }

    @Test("a semaphore eventfd with a huge count is told once for each write, not for ever")
    func semaphore() throws {
        let f = try Fixture()
        // eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC): Glibc's header is not one that Swift imports.
        let make = unsafeBitCast(
            try #require(dlsym(nil, "eventfd")), to: (@convention(c) (UInt32, Int32) -> Int32).self)
        let fd = OwnedDescriptor(make(0, 1 | 0o4000 | 0o2000000))
        let device = f.device
        f.server.perform {
            f.server.addDescriptor(fd.fd) {
                _ = EventFD.take(fd.fd)
                device.note("kick")
            }
        }
        func kicks() -> Int { device.events.filter { $0 == "kick" }.count }
        var huge: UInt64 = 1 << 40
        write(fd.fd, &huge, 8)
        #expect(f.eventually { kicks() == 1 })
        for _ in 0..<100 { f.server.perform {} }
        #expect(kicks() == 1)
        var one: UInt64 = 1
        write(fd.fd, &one, 8)
        #expect(f.eventually { kicks() == 2 })
        f.server.perform { f.server.removeDescriptor(fd.fd) }
    }

    @Test("a server that accepts and closes is asked less and less often, and named in one line")
    func acceptsAndCloses() throws {
        let f = try Fixture(isClient: true, start: false)
        let listener = OwnedDescriptor(CPlat_unix_socket())
        CPlat_unix_bind(listener.fd, f.path)
        listen(listener.fd, 4)
        try f.server.start()
        var times: [UInt64] = []
        for _ in 0..<5 {
            var p = pollfd(fd: listener.fd, events: Int16(POLLIN), revents: 0)
            #expect(poll(&p, 1, 5000) == 1)
            close(CPlat_accept(listener.fd))
            times.append(CPlat_monotonic_ns())
        }
        // 100 + 200 + 400 + 800 ms at least: it waits, however slow this machine is.
        #expect(times[4] - times[0] >= 1_400_000_000)
        #expect(
            f.lines.count == 1 && f.lines.first?.contains("connected, but closed by the other end") == true,
            "\(f.lines)")
        // Nobody was a front-end.
        #expect(f.device.events.isEmpty)
    }

    @Test("memory in a file of any other file system is refused before it is mapped, by the name of its type")
    func wrongFileSystem() throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck, .configureMemSlots])
        let fd = OwnedDescriptor(open("/proc/self/maps", O_RDONLY))
        var add = Payload(0)
        add.add(RegionDescription(guestAddress: 1 << 40, size: 4096, userAddress: 1 << 40, offset: 0))
        #expect(throws: VhostUserError.self) { try p.frontEnd.tell(.addMemReg, add, [fd]) }
        #expect(f.logged("is not a file of memfd, tmpfs or hugetlbfs (its file system: proc)"))
    }
}
