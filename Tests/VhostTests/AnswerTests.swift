import CPlatform
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import Vhost
import VhostUser
import Virtio

/// What a back-end answers is checked as what a guest writes is.
extension ControlPlane {
    @Suite("Answers of a back-end") struct AnswerTests {
        private func open(_ peer: FakePeer, _ set: (inout VhostNet.Options) -> Void = { _ in }, timeout: Int = 5000)
            throws -> VhostNet
        {
            var options = VhostNet.Options()
            set(&options)
            return try VhostNet(UserBackend(peer.socket, name: "fake", timeout: timeout), options)
        }

        private func error(_ body: () throws -> Void) -> VhostError? {
            do { try body() } catch { return error as? VhostError }
            return nil
        }

        @Test(
            "at init each answer has the right request, flags, size, value and no descriptor",
            arguments: [
                (Request.getQueueNum, FakePeer.Lie.bytes([UInt8](repeating: 0, count: 8))),
                (.getQueueNum, .bytes([UInt8](repeating: 0xff, count: 8))),
                (.getQueueNum, .bytes([1])), (.getFeatures, .bytes([])),
                (.getFeatures, .bytes([UInt8](repeating: 1, count: 12))),
                (.getProtocolFeatures, .bytes([1, 2, 3])), (.getProtocolFeatures, .flags(1)), (.getFeatures, .flags(6)),
                (.getFeatures, .flags(13)),
                (.getFeatures, .request(2)), (.getFeatures, .request(0xffff_ffff)), (.getFeatures, .descriptor),
                (.getFeatures, .twice),
                (.getFeatures, .bytes([UInt8](repeating: 0, count: 5000))), (.setOwner, .bytes([0])),
                (.setOwner, .flags(9)), (.setOwner, .twice),
                (.setVringCall, .request(14)), (.getMaxMemSlots, .bytes([UInt8](repeating: 0, count: 8))),
            ])
        func atInit(request: Request, lie: FakePeer.Lie) throws {
            let before = openDescriptors()
            let peer = FakePeer()
            peer.state.withLock {
                $0.protocolFeatures.insert(.configureMemSlots)
                $0.lies[request] = lie
            }
            #expect(error { _ = try open(peer) }?.kind == .answer)
            peer.release()
            #expect(eventually { openDescriptors() <= before })
        }

        @Test(
            "while it runs, too",
            arguments: [
                (Request.getVringBase, FakePeer.Lie.bytes([0, 0, 0, 0, 7, 0, 0, 0])),
                (.getVringBase, .bytes([1, 0, 0, 0, 0, 0, 1, 0])), (.getVringBase, .bytes([1, 0, 0, 0])),
                (.getStatus, .bytes([0, 1, 0, 0, 0, 0, 0, 0])),
                (.getConfig, .bytes([0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9])),
                (.getConfig, .bytes([9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])), (.setLogBase, .bytes([1])),
                (.setVringAddr, .bytes([0, 0])),
            ])
        func running(request: Request, lie: FakePeer.Lie) throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try open(peer)
            let rings = try Rings(2)
            try vhost.acknowledge([.version1, .ringReset])
            if ![.getStatus, .setVringAddr].contains(request) { try vhost.start(rings.all, memory: [rings.region]) }
            peer.state.withLock { $0.lies[request] = lie }
            let found = error {
                switch request {
                case .getVringBase: try vhost.resetQueue(1)
                case .getConfig: _ = try vhost.readConfiguration(offset: 0, size: 4)
                case .setLogBase: try vhost.setLogging(true)
                default: try vhost.start(rings.all, memory: [rings.region])
                }
            }
            #expect(found?.kind == .answer && found!.description.contains(request.name), "\(String(describing: found))")
        }

        @Test("configuration that cannot be read is refused: an empty answer; a log that is refused: a status")
        func refused() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try open(peer)
            peer.state.withLock {
                ($0.lies[.getConfig], $0.lies[.setLogBase]) = (.bytes([]), .bytes([1, 0, 0, 0, 0, 0, 0, 0]))
            }
            #expect(error { _ = try vhost.readConfiguration(offset: 0, size: 4) }?.kind == .refused)
            let rings = try Rings(2)
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            #expect(error { try vhost.setLogging(true) }?.kind == .refused)
            #expect(vhost.dirtyLog == nil && vhost.isStarted)
        }

        @Test("a back-end that is silent is taken for gone after the time-out, and nothing waits for it again")
        func silence() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try open(peer, timeout: 150)
            let rings = try Rings(2)
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            peer.state.withLock { $0.lies[.getVringBase] = .silence }
            (rings.memory.base + 5120 + 2).storeBytes(of: 11, as: UInt16.self)
            #expect(vhost.stop() == [11, 0])
            // Nothing is said to it any more.
            #expect(peer.trace.last == "GET_VRING_BASE 0")
            #expect(vhost.backend.isDisconnected)
            #expect(error { try vhost.setMTU(1500) }?.kind == .disconnected)
            let mute = FakePeer()
            mute.state.withLock { $0.lies[.getQueueNum] = .silence }
            let failed = error { _ = try open(mute, timeout: 150) }
            #expect(
                failed?.kind == .disconnected && failed!.description.contains("GET_QUEUE_NUM")
                    && failed!.description.contains("150 ms"))
            mute.release()
        }

        @Test(
            "in-flight regions that are too small, or of a file that is, are refused",
            arguments: [(4096, UInt64(0)), (32768, 1 << 20), (32768, 100)])
        func inflight(file: Int, size: UInt64) throws {
            let before = openDescriptors()
            let peer = FakePeer()
            peer.state.withLock { ($0.inflightFile, $0.inflightSize) = (file, size) }
            do {
                let vhost = try open(peer) { $0.keepsInflight = true }
                let rings = try Rings(2)
                try vhost.acknowledge([.version1])
                #expect(error { try vhost.start(rings.all, memory: [rings.region]) }?.kind == .answer)
                #expect(!vhost.isStarted && vhost.saved.inflight == nil)
            }
            peer.release()
            #expect(eventually { openDescriptors() <= before })
        }

        @Test(
            """
            a back-end may ask on its own channel before it answers; what is not known there is refused, nonsense \
            ends the channel alone
            """
        )
        func channel() throws {
            let peer = FakePeer()
            defer { peer.release() }
            peer.state.withLock { $0.asksFirst = true }
            let vhost = try open(peer)
            let notifier = OwnedDescriptor(CPlat_eventfd(0))
            try vhost.setConfigurationNotifier(notifier)
            try vhost.setMTU(1400)
            #expect(fired(notifier))
            #expect(peer.state.withLock { $0.channelAnswers } == [[UInt8](repeating: 0, count: 8)])
            // VRING_HOST_NOTIFIER was not negotiated, CONFIG_CHANGE has no payload, IOTLB_MSG needs ACCESS_PLATFORM.
            peer.say(Message(3, payload: [UInt8](repeating: 0, count: 24)))
            peer.say(Message(2, payload: [1]))
            peer.say(Message(1, payload: [UInt8](repeating: 1, count: 32)))
            #expect(eventually { (try? vhost.serveBackEnd()) != nil })
            #expect(!fired(notifier))
            peer.say(Message(2, flags: 2))
            #expect(eventually { (try? vhost.serveBackEnd()) == nil })
            #expect(vhost.backEndDescriptor == nil && !vhost.backend.isDisconnected)
            #expect(try vhost.readConfiguration(offset: 0, size: 2) == [0, 1])
        }

        @Test(
            """
            what hands something over (doorbells, shared objects, windows of memory) is refused with an answer, and \
            without one where none is wanted; a descriptor with it ends the channel alone
            """,
            arguments: [3, 6, 7, 8, 9, 10, 11, 4096] as [UInt32])
        func handsOver(request: UInt32) throws {
            let peer = FakePeer()
            defer { peer.release() }
            // Offered, and not taken.
            peer.state.withLock {
                $0.protocolFeatures.formUnion(ProtocolFeatures(rawValue: 1 << 10 | 1 << 11 | 1 << 18 | 1 << 22))
            }
            let vhost = try open(peer)
            let user = try #require(vhost.backend as? UserBackend)
            #expect(user.protocolFeatures.rawValue & (1 << 10 | 1 << 11 | 1 << 18 | 1 << 22) == 0)
            var message = Message(request, flags: 1, payload: [UInt8](repeating: 0, count: 24))
            peer.say(message)
            message.flags |= Message.needReply
            peer.say(message)
            #expect(eventually { (try? vhost.serveBackEnd()) != nil })
            let answer = try #require(peer.heard())
            #expect(answer.request == request && answer.flags == 5 && answer.payload == Payload(1).bytes)
            #expect(vhost.backEndDescriptor != nil)
            message.descriptors = [OwnedDescriptor(CPlat_memfd("doorbell", 0, false))]
            peer.say(message)
            #expect(eventually { error { try vhost.serveBackEnd() }?.description.contains("descriptor came") == true })
            #expect(vhost.backEndDescriptor == nil && !vhost.backend.isDisconnected)
            #expect(try vhost.readConfiguration(offset: 0, size: 2) == [0, 1])
        }

        @Test(
            """
            a channel that ends while an answer is waited for is looked at once, nor the descriptor that has its \
            number now
            """
        )
        func channelEnds() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try open(peer, timeout: 400)
            peer.state.withLock { ($0.closesChannel, $0.lies[.netSetMTU]) = (true, .silence) }
            #expect(error { try vhost.setMTU(1400) }?.kind == .disconnected)
            #expect(vhost.backEndDescriptor == nil)
            // The same wait, with a descriptor that stays readable and is counted.
            var pair: [Int32] = [0, 0]
            #expect(
                socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0, &pair) == 0)
            let (socket, other) = (MessageSocket(pair[0]), OwnedDescriptor(pair[1]))
            let readable = OwnedDescriptor(CPlat_eventfd(1))
            var looks = 0
            func look() -> Bool {
                looks += 1
                return false
            }
            #expect(throws: VhostUserError.self) {
                try socket.receive(within: 200, meanwhile: (readable.fd, look))
            }
            #expect(looks == 1)
            withExtendedLifetime(other) {}
        }

        @Test("an embedded driver whose start is refused at any message is an error, and nothing is left of it")
        func embedded() throws {
            // Rooms that were never filled are garbage, as they may be.
            let mallopt = unsafeBitCast(dlsym(nil, "mallopt"), to: (@convention(c) (Int32, Int32) -> Int32).self)
            _ = mallopt(-6 /* M_PERTURB */, 0x5a)
            defer { _ = mallopt(-6, 0) }
            let path = "/tmp/ringway-embedded-\(getpid()).sock"
            let before = openDescriptors()
            for n in 8..<24 {
                var (state, options) = (FakePeer.State(), DriverOptions())
                (state.failAt, options.queuePairs) = (n, 2)
                let peer = try FakePeer(listeningAt: path, state)
                #expect(throws: EngineError.self) { _ = try EmbeddedDriver(path: path, options) }
                unlink(path)
                #expect(eventually { peer.isOver && openDescriptors() <= before }, "message \(n)")
            }
            for (pairs, size) in [(0, UInt32(256)), (-1, 256), (129, 256), (1, 100), (1, 0), (1, 65536)] {
                var options = DriverOptions()
                (options.queuePairs, options.ringSize) = (pairs, size)
                #expect(throws: EngineError.self) { _ = try EmbeddedDriver(path: path, options) }
            }
        }

        @Test("memory slots never fall between the queue pairs of a device")
        func slots() throws {
            let peer = FakePeer()
            peer.state.withLock { _ = $0.protocolFeatures.insert(.configureMemSlots) }
            let vhost = try open(peer) { $0.queuePairs = 2 }
            #expect((vhost.backend as? UserBackend)?.memorySlots == 64)
            #expect(
                peer.trace.filter { $0 == "GET_MAX_MEM_SLOTS" }.count == 2
                    && peer.trace.filter { $0 == "GET_QUEUE_NUM" }.count == 1)
            peer.release()
        }

        @Test("vDPA: the device's kind, its IOVA range, its number of pairs and its positions are checked")
        func vdpa() throws {
            func opened(_ set: (FakeDevice) -> Void) throws -> VhostNet {
                let fake = FakeDevice()
                set(fake)
                return try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            }
            #expect(error { _ = try opened { $0.deviceID = 2 } }?.kind == .answer)
            #expect(error { _ = try opened { $0.iova = (9, 8) } }?.kind == .answer)
            #expect(error { _ = try opened { $0.features |= Features.mq.rawValue } }?.kind == .answer)
            let rings = try Rings(2)
            let narrow = try opened { $0.iova = (0, 0xffff) }
            #expect(error { try narrow.start(rings.all, memory: [rings.region]) }?.kind == .argument)
            let fake = FakeDevice()
            let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            try vhost.start(rings.all, memory: [rings.region])
            fake.bases = [0: 0x10000, 1: 5]
            // What cannot be is not taken over: the used index counts.
            #expect(vhost.stop() == [0, 5])
            #expect(error { _ = try (vhost.backend as? VDPABackend)?.maximumRingSize() } == nil)
            fake.maximumRing = 1
            #expect(error { _ = try (vhost.backend as? VDPABackend)?.maximumRingSize() }?.kind == .answer)
        }
    }
}
