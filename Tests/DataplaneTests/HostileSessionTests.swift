import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// Messages in masses and in mid-traffic, on a port beside two healthy ones of the same poll thread.
@Suite(.serialized) struct HostileSessionTests {
    private struct Room {
        let lab: Lab
        let healthy: HealthyPorts
        var path: String { lab.paths[0] }

        init(isPacked: Bool = false) throws {
            lab = try Lab(ports: 4) { _ in Neighbours() }
            healthy = try HealthyPorts(lab, 2, isPacked: isPacked)
        }

        func frontEnd(_ features: ProtocolFeatures = [.mq, .replyAck]) throws -> FrontEnd {
            let f = FrontEnd(try MessageSocket.connect(to: path))
            try f.negotiate([.version1], features)
            return f
        }

        func expectHealth() { #expect(healthy.goOn(), "\(healthy.failure ?? "no round for ten seconds")") }

        /// `last`: the connection that the next one waits for.
        func finish(after last: FrontEnd? = nil) throws {
            expectHealth()
            last?.close()
            healthy.end()
            #expect(healthy.failure == nil)
            for port in 2...3 { #expect(lab.drops(port) == [:]) }
            // And the port itself serves the next.
            let end = CPlat_monotonic_ns() + 10_000_000_000
            var isServed = false
            while !isServed && CPlat_monotonic_ns() < end { isServed = (try? frontEnd()) != nil }
            #expect(isServed)
        }
    }

    @Test("SET_VRING_NUM a hundred thousand times")
    func oneMessage() throws {
        let room = try Room()
        let f = try room.frontEnd([.mq])
        let message = Message(.setVringNum, payload: Payload(index: 0, 256)).encoded
        let many = [UInt8]((0..<100).flatMap { _ in message })
        for _ in 0..<rounds(1000) { try sendAll(f.socket.fd, many) }
        // There is room for the question only when some of them were read.
        waitForRoom(f.socket.fd)
        #expect(try f.ask64(.getQueueNum) == 1)
        try room.finish(after: f)
    }

    private func waitForRoom(_ fd: Int32) {
        var p = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
        while poll(&p, 1, 1000) == 0 {}
    }

    private func sendAll(_ fd: Int32, _ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let n = bytes.withUnsafeBytes { send(fd, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL)) }
            if n < 0 && errno == EAGAIN {
                waitForRoom(fd)
                continue
            }
            guard n > 0 else { throw VhostUserError(.socket, "send: \(errno)") }
            sent += n
        }
    }

    @Test("ten thousand requests at once whose answers nobody reads end their connection alone")
    func unreadAnswers() throws {
        let room = try Room()
        let f = try room.frontEnd([.mq])
        let message = Message(.getFeatures).encoded
        let many = [UInt8]((0..<10_000).flatMap { _ in message })
        try? sendAll(f.socket.fd, many)
        room.expectHealth()
        try room.finish(after: f)
    }

    @Test("two hundred connections one after another, and 64 that stay idle")
    func connections() throws {
        let room = try Room()
        let before = sockets(boundTo: room.path)
        for i in 0..<200 {
            let fd = OwnedDescriptor(CPlat_unix_socket())
            // Its queue of waiting connections may be full for a moment.
            let end = CPlat_monotonic_ns() + 10_000_000_000
            while CPlat_unix_connect(fd.fd, room.path) != 0 && CPlat_monotonic_ns() < end { usleep(1000) }
            if i % 3 == 0 { _ = write(fd.fd, [UInt8](repeating: 1, count: 5), 5) }
        }
        // 16 wait in the port, and as many as listen(2) lets in the kernel; the others are not let in.
        var idle: [OwnedDescriptor] = []
        for _ in 0..<64 {
            idle.append(OwnedDescriptor(CPlat_unix_socket()))
            _ = CPlat_unix_connect(idle.last!.fd, room.path)
        }
        room.expectHealth()
        // Its place comes when the oldest that is silent yields.
        try room.finish()
        idle = []
        #expect(eventually { sockets(boundTo: room.path) <= before })
    }

    @Test("the same request for memory again and again keeps nothing", arguments: [false, true])
    func repeated(isPacked: Bool) throws {
        let room = try Room()
        let f = FrontEnd(try MessageSocket.connect(to: room.path))
        try f.negotiate(
            isPacked ? [.version1, .ringPacked] : [.version1],
            [.mq, .replyAck, .logShmFD, .inflightShmFD, .configureMemSlots, .backendReq])
        var description = Payload(UInt64(1 << 18))
        description.add64(0)
        description.add32(2 | 128 << 16)
        var log = Payload(UInt64(1 << 16))
        log.add64(0)
        func once(_ mark: (OwnedDescriptor) -> OwnedDescriptor) throws {
            func event() -> OwnedDescriptor { mark(OwnedDescriptor(CPlat_eventfd(0))) }
            let answer = try f.ask(.getInflightFD, description)
            #expect(answer.descriptors.count == 1)
            var region = Payload(answer.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
            region.add64(0)
            region.add32(2 | 128 << 16)
            let (inflight, dirty) = (mark(answer.descriptors[0]), mark(try SharedFile(1 << 16).descriptor))
            try f.tell(.setInflightFD, region, [inflight])
            _ = try f.ask(.setLogBase, log, [dirty])
            let table = try SharedFile(1 << 20)
            try f.share(table.region(at: 0), mark(table.descriptor))
            for request: Request in [.setVringKick, .setVringCall, .setVringErr] {
                try f.tell(request, Payload(UInt64(0)), [event()])
            }
            try f.tell(.setLogFD, Payload(), [event()])
            var ends: [Int32] = [0, 0]
            socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends)
            let (far, near) = (OwnedDescriptor(ends[1]), mark(OwnedDescriptor(ends[0])))
            try f.tell(.setBackendReqFD, Payload(), [near])
            withExtendedLifetime(far) {}
            // Where none belongs it is closed.
            try f.tell(.setOwner, Payload(), [event(), dirty])
        }
        let marked = MarkedFiles()
        for _ in 0..<16 { try once(marked.mark) }
        // The last of them are in use.
        #expect(eventually { marked.othersOpen > 0 && marked.mappings > 0 })
        for _ in 0..<rounds(1000) { try once { $0 } }
        #expect(
            eventually { marked.othersOpen == 0 && marked.mappings == 0 },
            "\(marked.othersOpen) descriptors and \(marked.mappings) mappings of earlier rounds are left")
        try room.finish(after: f)
    }

    @Test("any message of a running ring's, in any order, in mid-traffic", arguments: [false, true])
    func midTraffic(isPacked: Bool) throws {
        let room = try Room(isPacked: isPacked)
        let peer = try room.lab.driver(1) { $0.isPacked = isPacked }
        let guest = try room.lab.driver(0) { $0.isPacked = isPacked }
        let all: ProtocolFeatures = [.mq, .replyAck, .mtu, .status, .resetDevice, .config, .configureMemSlots, .rarp]
        try guest.frontEnd.setProtocolFeatures(all)
        var random = SystemRandomNumberGenerator()
        func message() throws {
            let f = guest.frontEnd
            let ring = Int.random(in: 0...2, using: &random)
            func event() -> [OwnedDescriptor] { [OwnedDescriptor(CPlat_eventfd(0))] }
            switch Int.random(in: 0..<16, using: &random) {
            case 0: try f.tell(.setVringCall, Payload(UInt64(ring)), event())
            case 1: try f.tell(.setVringKick, Payload(UInt64(ring)), event())
            case 2: try f.tell(.setVringErr, Payload(UInt64(ring)), event())
            case 3: try f.tell(.setVringNum, Payload(index: ring, 256))
            case 4: try f.tell(.setVringBase, Payload(index: ring, UInt32.random(in: 0...UInt32.max, using: &random)))
            case 5: _ = try f.stopRing(ring)
            case 6: try f.enableRing(ring, Bool.random(using: &random))
            case 7: try f.share(guest.memory.region, guest.memory.descriptor)
            case 8: try f.tell(.resetOwner)
            case 9: try f.tell(.resetDevice)
            case 10: try f.tell(.setStatus, Payload(UInt64.random(in: 0...15, using: &random)))
            case 11: try f.tell(.sendRARP, Payload(random.next()))
            case 12: try f.tell(.setFeatures, Payload(f.features.rawValue))
            case 13: try f.tell(.netSetMTU, Payload(UInt64.random(in: 0...70_000, using: &random)))
            case 14:
                let s = guest.pairs[0].transmit.deviceSetup().addresses
                var payload = Payload(index: ring, 0)
                for v in [s.descriptors, s.deviceArea, s.driverArea, 0] { payload.add64(v) }
                try f.tell(.setVringAddr, payload)
            default:
                // Its rings as they should be.
                try guest.begin { try $0.tell(.resetOwner) }
            }
        }
        for n in 0..<rounds(3000, least: 300) {
            do { try message() } catch let error as VhostUserError {
                #expect(error.kind == .refused, "\(error)")
            } catch {}
            guest.pairs[0].send(guest.pairs[0].prepare(8))
            if n % 8 == 0 { _ = peer.send(Frame.numbered(4)) }
            peer.drain()
        }
        // After all of it a guest begins as any other.
        try guest.begin { try $0.tell(.resetOwner) }
        peer.drain()
        let frames = Frame.numbered(50)
        #expect(guest.send(frames))
        #expect(peer.receive(50).map(\.frame).suffix(50) == frames.suffix(50))
        try room.finish(after: guest.frontEnd)
    }
}
