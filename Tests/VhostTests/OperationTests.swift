import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import VhostUser
import Virtio

extension ControlPlane {
@Suite("Operations") struct OperationTests {
    private func user(_ peer: FakePeer, _ set: (inout VhostNet.Options) -> Void = { _ in }) throws -> VhostNet {
        var options = VhostNet.Options()
        set(&options)
        return try VhostNet(UserBackend(peer.socket, name: "fake"), options)
    }

    private func kernel(_ fake: FakeDevice) throws -> VhostNet { try VhostNet(KernelBackend(tap: try Tap(name: "tap9", calls: fake), calls: fake)) }

    private func kind(_ body: () throws -> Void) -> VhostError.Kind? {
        do { try body() } catch let e as VhostError { return e.kind } catch {}
        return nil
    }

    @Test("features: listed bits that the back-end lacks are cleared, others stay; what was not offered is refused")
    func features() throws {
        let vhost = try kernel(FakeDevice())
        let model: Features = [.version1, .mac, .csum, .ringPacked, .inOrder, .mrgRxbuf, .guestTSO4]
        #expect(vhost.features(of: model) == [.version1, .mac, .csum, .mrgRxbuf, .guestTSO4])
        try vhost.acknowledge([.version1, .csum, .mac])
        #expect(vhost.acknowledged == [.version1])
        #expect(kind { try vhost.acknowledge([.version1, .ringPacked]) } == .features)
        let peer = FakePeer()
        let other = try user(peer)
        #expect(other.features(of: model) == [.version1, .mac, .mrgRxbuf])
        try other.acknowledge([.version1])
        #expect(other.acknowledged == [.version1, .protocolFeatures])
        peer.release()
    }

    @Test("saved features survive the connection; a back-end that comes back with fewer gets the documented error")
    func saved() throws {
        let peer = FakePeer()
        var vhost: VhostNet? = try user(peer)
        try vhost!.acknowledge([.version1, .mrgRxbuf])
        try vhost!.setEnabled(pair: 0, false)
        let saved = vhost!.saved
        vhost = nil
        peer.release()
        let second = FakePeer()
        let again = try user(second) { $0.saved = saved }
        #expect(again.acknowledged == [.version1, .mrgRxbuf, .protocolFeatures])
        let rings = try Rings(2)
        try again.start(rings.all, memory: [rings.region])
        #expect(second.trace.contains("SET_VRING_ENABLE 0 0"))
        second.release()
        let poorer = FakePeer()
        poorer.state.withLock { $0.features.remove(.mrgRxbuf) }
        let error = #expect(throws: VhostError.self) { try self.user(poorer) { $0.saved = saved } }
        #expect(error?.kind == .features && error!.description.contains("MRG_RXBUF"))
        poorer.release()
    }

    @Test("a busyloop timeout is an error where there is none, at init and later")
    func busyloop() throws {
        let peer = FakePeer()
        #expect(kind { _ = try self.user(peer) { $0.busyloopTimeout = 50 } } == .argument)
        #expect(kind { try self.user(FakePeer()).setBusyloopTimeout(ring: 0, microseconds: 50) } == .unsupported)
        let vdpa = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: FakeDevice()))
        #expect(kind { try vdpa.setBusyloopTimeout(ring: 0, microseconds: 50) } == .unsupported)
        peer.release()
    }

    @Test("what a back-end does not have is an error that says so")
    func unsupported() throws {
        let vhost = try kernel(FakeDevice())
        #expect(kind { _ = try vhost.readConfiguration(offset: 0, size: 6) } == .unsupported)
        #expect(kind { try vhost.writeConfiguration(offset: 0, [1]) } == .unsupported)
        #expect(kind { try vhost.setMTU(1500) } == .unsupported)
        #expect(kind { try vhost.migrationDone(mac: [2, 0, 0, 0, 0, 1]) } == .unsupported)
        #expect(kind { try vhost.resetDevice() } == .unsupported)
        #expect(kind { try vhost.setConfigurationNotifier(OwnedDescriptor(CPlat_eventfd(0))) } == .unsupported)
        #expect(kind { try vhost.maskConfiguration(true) } == .state)
        let vdpa = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: FakeDevice()))
        #expect(kind { try vdpa.setLogging(true) } == .unsupported)
        #expect(kind { try vdpa.migrationDone(mac: [2, 0, 0, 0, 0, 1]) } == .unsupported)
        let peer = FakePeer()
        peer.state.withLock { ($0.features, $0.protocolFeatures) = ([.version1], []) }
        let plain = try user(peer)
        #expect(kind { try plain.setEnabled(pair: 0, true) } == .argument)
        #expect(kind { try plain.setMTU(1500) } == .unsupported)
        #expect(kind { _ = try plain.readConfiguration(offset: 0, size: 6) } == .unsupported)
        #expect(kind { try plain.migrationDone(mac: [2, 0, 0, 0, 0, 1]) } == .unsupported)
        #expect(kind { try plain.setLogging(true) } == .unsupported)
        #expect(kind { try plain.resetDevice() } == .unsupported)
        peer.release()
        #expect(VhostKind.user == (try VhostKind.of(path: "/run/x.sock")))
        #expect(throws: VhostError.self) { try VhostKind.of(path: "/dev/vhost-scsi") }
    }

    @Test("queues are reset only while the device runs, with RING_RESET, and restarted only after that")
    func reset() throws {
        let vhost = try kernel(FakeDevice())
        let rings = try Rings(2)
        #expect(kind { try vhost.resetQueue(0) } == .state)
        #expect(kind { try vhost.restartQueue(0, rings[0]) } == .state)
        try vhost.acknowledge([.version1])
        try vhost.start(rings.all, memory: [rings.region])
        #expect(kind { try vhost.start(rings.all, memory: [rings.region]) } == .state)
        #expect(kind { try vhost.resetQueue(0) } == .unsupported)
        #expect(kind { try vhost.acknowledge([.version1]) } == .state)
        vhost.stop()
        try vhost.acknowledge([.version1, .ringReset])
        try vhost.start(rings.all, memory: [rings.region])
        #expect(kind { try vhost.restartQueue(0, rings[0]) } == .state)
        try vhost.resetQueue(0)
        #expect(kind { try vhost.resetQueue(0) } == .state)
        try vhost.restartQueue(0, rings[0])
        #expect(kind { try vhost.resetQueue(7) } == .argument)
    }

    @Test("a masked queue's calls are pending and delivered when it is unmasked")
    func masks() throws {
        // What is in the place of the call descriptor is read from the back-end's side.
        final class Caller: DeviceCalls {
            let inner = FakeDevice()
            var calls: [UInt32: Int32] = [:]
            func open(_ path: String, isNonblocking: Bool) -> Int32 { inner.open(path, isNonblocking: isNonblocking) }
            func write(_ fd: Int32, _ bytes: UnsafeRawBufferPointer) -> Int { inner.write(fd, bytes) }
            func control(_ fd: Int32, _ r: DeviceRequest, _ a: UnsafeMutableRawPointer?) -> Int32 {
                if r == .setVringCall {
                    let f = a!.loadUnaligned(as: vhost_vring_file.self)
                    calls[f.index] = f.fd
                }
                return inner.control(fd, r, a)
            }
            func call(_ ring: UInt32) {
                var one: UInt64 = 1
                _ = Glibc.write(calls[ring]!, &one, 8)
            }
        }
        func fired(_ fd: OwnedDescriptor) -> Bool {
            var n: UInt64 = 0
            return read(fd.fd, &n, 8) == 8
        }
        let caller = Caller()
        let vhost = try VhostNet(KernelBackend(tap: try Tap(name: "tap9", calls: caller), calls: caller))
        let rings = try Rings(2)
        // Before the start calls go to the masked eventfd.
        caller.call(0)
        #expect(vhost.isPending(ring: 0) && !vhost.isPending(ring: 0))
        try vhost.mask(ring: 1, true)
        try vhost.start(rings.all, memory: [rings.region])
        caller.call(0)
        caller.call(1)
        #expect(fired(rings.calls[0]) && !fired(rings.calls[1]))
        try vhost.mask(ring: 1, false)
        #expect(fired(rings.calls[1]) && !vhost.isPending(ring: 1))
        try vhost.mask(ring: 0, true)
        caller.call(0)
        #expect(vhost.isPending(ring: 0))
        try vhost.mask(ring: 0, false)
        #expect(!fired(rings.calls[0]))
        #expect(!vhost.hasFailed(ring: 0))
    }

    @Test("configuration: read, write, interrupt, mask and pending (vhost-user and vDPA)")
    func configuration() throws {
        func fired(_ fd: OwnedDescriptor) -> Bool {
            var n: UInt64 = 0
            return read(fd.fd, &n, 8) == 8
        }
        let peer = FakePeer()
        let vhost = try user(peer)
        #expect(try vhost.readConfiguration(offset: 2, size: 4) == [0, 1, 2, 3])
        try vhost.writeConfiguration(offset: 0, [1, 2])
        #expect(kind { _ = try vhost.readConfiguration(offset: 255, size: 4) } == .argument)
        let notifier = OwnedDescriptor(CPlat_eventfd(0))
        try vhost.setConfigurationNotifier(notifier)
        try vhost.setMTU(1400)
        #expect(eventually { (try? vhost.serveBackEnd()) != nil && fired(notifier) })
        try vhost.maskConfiguration(true)
        try vhost.setMTU(1401)
        usleep(20_000)
        try vhost.serveBackEnd()
        #expect(!fired(notifier))
        try vhost.maskConfiguration(false)
        #expect(fired(notifier) && !vhost.isConfigurationPending())
        // Lies about lengths are refused.
        peer.state.withLock { $0.lies[.getConfig] = [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9] }
        #expect(kind { _ = try vhost.readConfiguration(offset: 0, size: 4) } == .answer)
        peer.state.withLock { $0.lies[.getConfig] = [] }
        #expect(kind { _ = try vhost.readConfiguration(offset: 0, size: 4) } == .refused)
        peer.release()
        let fake = FakeDevice()
        fake.configuration = [2, 0, 0, 0, 0, 9] + [UInt8](repeating: 0, count: 10)
        let vdpa = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
        #expect(try vdpa.readConfiguration(offset: 0, size: 6) == [2, 0, 0, 0, 0, 9])
        try vdpa.writeConfiguration(offset: 5, [7])
        #expect(fake.configuration[5] == 7)
        let rings = try Rings(2)
        try vdpa.setConfigurationNotifier(notifier)
        try vdpa.start(rings.all, memory: [rings.region])
        let before = fake.trace.count
        try vdpa.maskConfiguration(true)
        try vdpa.maskConfiguration(false)
        #expect(fake.trace[before...] == ["VHOST_VDPA_SET_CONFIG_CALL", "VHOST_VDPA_SET_CONFIG_CALL"])
    }

    @Test("answers of a back-end are checked", arguments: [
        (Request.getQueueNum, [UInt8](repeating: 0, count: 8)), (.getQueueNum, [1]), (.getFeatures, []), (.getProtocolFeatures, [1, 2, 3]),
        (.getQueueNum, [UInt8](repeating: 0xff, count: 8)),
    ])
    func lies(request: Request, answer: [UInt8]) throws {
        let peer = FakePeer()
        peer.state.withLock { $0.lies[request] = answer }
        #expect(kind { _ = try self.user(peer) } == .answer)
        peer.release()
        let fake = FakeDevice()
        fake.deviceID = 2
        #expect(kind { _ = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)) } == .answer)
        let narrow = FakeDevice()
        narrow.iova = (0, 0xffff)
        let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: narrow))
        let rings = try Rings(2)
        #expect(kind { try vhost.start(rings.all, memory: [rings.region]) } == .argument)
    }

    @Test("the in-flight region is asked for once and given to the back-end that comes after")
    func inflight() throws {
        let peer = FakePeer()
        var vhost: VhostNet? = try user(peer) { $0.keepsInflight = true }
        let rings = try Rings(2)
        try vhost!.acknowledge([.version1])
        try vhost!.start(rings.all, memory: [rings.region])
        vhost!.stop()
        try vhost!.start(rings.all, memory: [rings.region])
        #expect(peer.trace.filter { $0 == "GET_INFLIGHT_FD" }.count == 1 && peer.trace.filter { $0 == "SET_INFLIGHT_FD" }.count == 2)
        let saved = vhost!.saved
        vhost = nil
        peer.release()
        let second = FakePeer()
        let again = try user(second) { ($0.keepsInflight, $0.saved) = (true, saved) }
        try again.start(rings.all, memory: [rings.region])
        #expect(!second.trace.contains("GET_INFLIGHT_FD"))
        #expect(second.state.withLock { $0.inflightSeen } == peer.state.withLock { $0.inflightSeen })
        second.release()
    }

    @Test("a back-end that goes away while it runs: stop takes the used index from memory, and nothing hangs")
    func gone() throws {
        let peer = FakePeer()
        let vhost = try user(peer)
        let rings = try Rings(2)
        try vhost.acknowledge([.version1])
        try vhost.start(rings.all, memory: [rings.region])
        (rings.memory.base + 8192 + 5120 + 2).storeBytes(of: 99, as: UInt16.self)
        peer.state.withLock { ($0.failAt, $0.hangsUp) = ($0.count + 1, true) }
        #expect(vhost.stop() == [0, 99])
        #expect(vhost.backend.isDisconnected)
        peer.release()
    }

    @Test("the dirty log covers the highest address, and pages come once")
    func dirty() throws {
        let rings = try Rings(1)
        let region = VhostRegion(guestAddress: 1 << 30, size: 8 << 20, userAddress: 0, descriptor: rings.memory.descriptor)
        let log = try DirtyLog(covering: [region])
        #expect(log.size == (1 << 30 + 8 << 20) / 4096 / 8)
        log.memory.base.storeBytes(of: 5, toByteOffset: log.size - 1, as: UInt8.self)
        #expect(log.takeDirty() == [UInt64(log.size - 1) * 8 * 4096, UInt64(log.size - 1) * 8 * 4096 + 2 * 4096])
        #expect(log.takeDirty() == [])
    }

    @Test("TAP by descriptor: what is no TAP is refused; persistent devices are marked so")
    func tap() throws {
        #expect(kind { _ = try Tap(descriptors: [OwnedDescriptor(CPlat_eventfd(0))]) } == .argument)
        let fake = FakeDevice()
        _ = try Tap(name: "tap9", queues: 2, isPersistent: true, calls: fake)
        #expect(fake.state.persistent)
        #expect(kind { _ = try Tap(name: "a-name-that-is-too-long", calls: fake) } == .argument)
    }
}
}
