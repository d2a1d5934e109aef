import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import VhostUser
import Virtio

extension ControlPlane {
    @Suite("Operations") struct OperationTests {
        private func kind(_ body: () throws -> Void) -> VhostError.Kind? {
            do { try body() } catch let e as VhostError { return e.kind } catch {}
            return nil
        }

        @Test(
            "the lists are those of QEMU's vhost-net layer",
            arguments: [
                (VhostKind.kernel, [24, 28, 29, 15, 32, 3, 33, 34, 40, 35, 38, 61, 57]),
                (
                    .user,
                    [
                        24, 38, 28, 29, 27, 32, 0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 3, 33, 34, 40, 35, 60, 61, 57,
                        54, 55, 56, 21, 22,
                    ]
                ),
                (
                    .vdpa,
                    [
                        27, 33, 24, 34, 40, 32, 35, 38, 29, 28, 0, 2, 23, 18, 20, 19, 17, 6, 1, 9, 7, 8, 10, 54, 55, 57,
                        13, 11, 12, 14, 56, 22, 15, 3, 61, 60, 16,
                    ]
                ),
            ])
        func lists(kind: VhostKind, bits: [Int]) {
            #expect(
                kind.listedFeatures == bits.reduce(Features()) { $0.union(Features(bit: $1)) }
                    && Set(bits).count == bits.count)
        }

        @Test(
            """
            features: listed bits that the back-end lacks are cleared, others stay; what was not offered is not \
            acknowledged, as in QEMU
            """
        )
        func features() throws {
            let vhost = try FakeDevice().kernel()
            let model: Features = [.version1, .mac, .csum, .ringPacked, .inOrder, .mrgRxbuf, .guestTSO4]
            #expect(vhost.features(of: model) == [.version1, .mac, .csum, .mrgRxbuf, .guestTSO4])
            try vhost.acknowledge([.version1, .csum, .mac])
            #expect(vhost.acknowledged == [.version1])
            try vhost.acknowledge([.version1, .ringPacked])
            #expect(vhost.acknowledged == [.version1] && vhost.saved.features == [.version1])
            let peer = FakePeer()
            let other = try peer.vhost()
            #expect(other.features(of: model) == [.version1, .mac, .mrgRxbuf])
            try other.acknowledge([.version1])
            #expect(other.acknowledged == [.version1, .protocolFeatures])
            peer.release()
            let fake = FakeDevice()
            fake.features |= Features([.ctrlVQ, .ctrlMACAddr, .mq, .accessPlatform]).rawValue
            fake.configuration[8] = 1
            let vdpa = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            // CTRL_VLAN is in the list of vDPA, MAC in none.
            #expect(vdpa.features(of: [.version1, .mac, .ctrlVQ, .ctrlVLAN]) == [.version1, .mac, .ctrlVQ])
            try vdpa.acknowledge([.version1, .ctrlVQ, .mac])
            #expect(vdpa.acknowledged == [.version1, .ctrlVQ])
            try vdpa.acknowledge([.version1, .ctrlVLAN])
            #expect(vdpa.acknowledged == [.version1])
        }

        @Test("saved features survive the connection; a back-end that comes back with fewer gets the documented error")
        func saved() throws {
            let peer = FakePeer()
            var vhost: VhostNet? = try peer.vhost()
            try vhost!.acknowledge([.version1, .mrgRxbuf])
            try vhost!.setEnabled(pair: 0, false)
            let saved = vhost!.saved
            vhost = nil
            peer.release()
            let second = FakePeer()
            let again = try second.vhost { $0.saved = saved }
            #expect(again.acknowledged == [.version1, .mrgRxbuf, .protocolFeatures])
            let rings = try Rings(2)
            try again.start(rings.all, memory: [rings.region])
            #expect(second.trace.contains("SET_VRING_ENABLE 0 0"))
            second.release()
            let poorer = FakePeer()
            poorer.state.withLock { _ = $0.features.remove(.mrgRxbuf) }
            let error = #expect(throws: VhostError.self) { try poorer.vhost { $0.saved = saved } }
            #expect(
                error?.kind == .features && error!.description.contains("MRG_RXBUF")
                    && error!.description.contains("mask 0x8000"))
            poorer.release()
        }

        @Test("what was acknowledged is saved at once, at stop and at close, and never replaced by nothing")
        func saving() throws {
            let vhost = try FakeDevice().kernel()
            let rings = try Rings(2)
            try vhost.acknowledge([.version1, .mrgRxbuf])
            #expect(vhost.saved.features == [.version1, .mrgRxbuf])
            try vhost.start(rings.all, memory: [rings.region])
            try vhost.setEnabled(pair: 0, false)
            vhost.stop()
            try vhost.acknowledge([])
            #expect(
                vhost.acknowledged == [] && vhost.saved.features == [.version1, .mrgRxbuf]
                    && vhost.saved.enabled == [false])
            vhost.close()
            #expect(vhost.saved.features == [.version1, .mrgRxbuf])
        }

        @Test("close leaves no descriptor, though the object lives on", arguments: [VhostKind.kernel, .user, .vdpa])
        func close(of kind: VhostKind) throws {
            let rings = try Rings(2)
            let peer = FakePeer()
            let notifier = OwnedDescriptor(CPlat_eventfd(0))
            let fake = FakeDevice()
            var tap: Tap? = try Tap(name: "tap9", calls: fake)
            let before = openDescriptors()
            var backend: (any VhostBackend)?
            switch kind {
            case .kernel: backend = KernelBackend(tap: tap!, calls: fake)
            case .user: backend = UserBackend(peer.socket, name: "fake")
            case .vdpa: backend = VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)
            }
            let vhost = try VhostNet(backend!)
            backend = nil
            try vhost.acknowledge([.version1])
            if kind != .kernel {
                try vhost.setConfigurationNotifier(notifier)
                try vhost.maskConfiguration(true)
            }
            try vhost.start(rings.all, memory: [rings.region])
            vhost.close()
            peer.release()
            #expect(eventually { openDescriptors() <= before - 1 })
            #expect(!vhost.isStarted && vhost.backEndDescriptor == nil)
            #expect(self.kind { try vhost.start(rings.all, memory: [rings.region]) } != nil)
            withExtendedLifetime(tap) {}
            tap = nil
        }

        @Test("a queue that does not run has no mask and no calls, whatever its number")
        func noSuchQueue() throws {
            let fake = FakeDevice()
            fake.features |= Features.ctrlVQ.rawValue
            var options = VhostNet.Options()
            options.hasControl = true
            let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options)
            let rings = try Rings(3)
            try vhost.start(rings.all, memory: [rings.region])
            try vhost.mask(ring: 2, true)
            let mark = fake.trace.count
            for ring in [-1, 3, 4, Int.max] { #expect(kind { try vhost.mask(ring: ring, false) } == .argument) }
            #expect(fake.trace.count == mark)
            fake.fire(fake.calls[2])
            #expect(!vhost.isPending(ring: 3) && !vhost.hasFailed(ring: 3) && !vhost.isPending(ring: -1))
            #expect(vhost.isPending(ring: 2))
        }

        @Test("numbers that no device has are errors: pairs, a time-out")
        func numbers() throws {
            for pairs in [Int.min, -1, 0, 0x8001, Int.max] {
                #expect(kind { _ = try FakePeer().vhost { $0.queuePairs = pairs } } == .argument)
            }
            // A peer that answers may do so before the first look.
            let mute = FakePeer()
            defer { mute.release() }
            mute.state.withLock { $0.lies[.getFeatures] = .silence }
            for timeout in [Int.min, -1] {
                #expect(
                    kind { _ = try VhostNet(UserBackend(mute.socket, name: "fake", timeout: timeout)) }
                        == .disconnected)
            }
            _ = try VhostNet(UserBackend(FakePeer().socket, name: "fake", timeout: Int.max))
        }

        @Test("vhost-user has 256 queues: messages tell them by eight bits, the ninth says that no descriptor comes")
        func queueNumbers() throws {
            let peer = FakePeer()
            defer { peer.release() }
            peer.state.withLock { $0.pairs = 300 }
            #expect(kind { _ = try peer.vhost { $0.queuePairs = 129 } } == .argument)
            #expect(!peer.trace.contains("SET_VRING_CALL 256"))
            let other = FakePeer()
            defer { other.release() }
            other.state.withLock { $0.pairs = 300 }
            #expect(kind { _ = try other.vhost { ($0.queuePairs, $0.hasControl) = (128, true) } } == .argument)
        }

        @Test(
            "a reset that the back-end does not have leaves the device running", arguments: [VhostKind.kernel, .user])
        func noReset(of kind: VhostKind) throws {
            let peer = FakePeer()
            defer { peer.release() }
            peer.state.withLock { _ = $0.protocolFeatures.remove(.resetDevice) }
            let vhost = try kind == .kernel ? FakeDevice().kernel() : peer.vhost()
            let rings = try Rings(2)
            try vhost.start(rings.all, memory: [rings.region])
            #expect(self.kind { try vhost.resetDevice() } == .unsupported && vhost.isStarted)
        }

        @Test("after a migration a driver that announces itself is left to it; else RARP goes out")
        func announce() throws {
            let peer = FakePeer()
            peer.state.withLock { _ = $0.features.insert(.guestAnnounce) }
            let vhost = try peer.vhost()
            try vhost.acknowledge([.version1, .guestAnnounce])
            try vhost.migrationDone(mac: [2, 3, 4, 5, 6, 7])
            #expect(!peer.trace.contains("SEND_RARP"))
            try vhost.acknowledge([.version1])
            try vhost.migrationDone(mac: [2, 3, 4, 5, 6, 7])
            #expect(peer.state.withLock { $0.rarp } == [2, 3, 4, 5, 6, 7])
            #expect(kind { try vhost.migrationDone(mac: [2, 3]) } == .argument)
            peer.release()
        }

        @Test("a busyloop timeout is an error where there is none, at init and later")
        func busyloop() throws {
            let peer = FakePeer()
            #expect(kind { _ = try peer.vhost { $0.busyloopTimeout = 50 } } == .argument)
            #expect(kind { try FakePeer().vhost().setBusyloopTimeout(ring: 0, microseconds: 50) } == .unsupported)
            let vdpa = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: FakeDevice()))
            #expect(kind { try vdpa.setBusyloopTimeout(ring: 0, microseconds: 50) } == .unsupported)
            peer.release()
        }

        @Test("what a back-end does not have is an error that says so")
        func unsupported() throws {
            let vhost = try FakeDevice().kernel()
            #expect(kind { _ = try vhost.readConfiguration(offset: 0, size: 6) } == .unsupported)
            #expect(kind { try vhost.writeConfiguration(offset: 0, [1]) } == .unsupported)
            #expect(kind { try vhost.migrationDone(mac: [2, 0, 0, 0, 0, 1]) } == .unsupported)
            #expect(kind { try vhost.resetDevice() } == .unsupported)
            #expect(kind { try vhost.setConfigurationNotifier(OwnedDescriptor(CPlat_eventfd(0))) } == .unsupported)
            #expect(kind { try vhost.maskConfiguration(true) } == .state)
            let vdpa = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: FakeDevice()))
            #expect(kind { try vdpa.setLogging(true) } == .unsupported)
            let rings = try Rings(2)
            try vdpa.start(rings.all, memory: [rings.region])
            #expect(kind { try vdpa.resetQueue(0) } == .unsupported)
            #expect(kind { try vdpa.migrationDone(mac: [2, 0, 0, 0, 0, 1]) } == .unsupported)
            let peer = FakePeer()
            peer.state.withLock { ($0.features, $0.protocolFeatures) = ([.version1], []) }
            let plain = try peer.vhost()
            #expect(kind { try plain.setEnabled(pair: 0, true) } == .argument)
            #expect(kind { _ = try plain.readConfiguration(offset: 0, size: 6) } == .unsupported)
            #expect(kind { try plain.migrationDone(mac: [2, 0, 0, 0, 0, 1]) } == .unsupported)
            #expect(kind { try plain.setLogging(true) } == .unsupported)
            #expect(kind { try plain.resetDevice() } == .unsupported)
            peer.release()
            #expect(VhostKind.user == (try VhostKind.of(path: "/run/x.sock")))
            #expect(throws: VhostError.self) { try VhostKind.of(path: "/dev/vhost-scsi") }
        }

        @Test(
            "an MTU that nobody can be told is no error, as in QEMU; told once the device runs it is one",
            arguments: [VhostKind.kernel, .user, .vdpa])
        func mtu(of kind: VhostKind) throws {
            let (fake, peer) = (FakeDevice(), FakePeer())
            defer { peer.release() }
            peer.state.withLock { _ = $0.protocolFeatures.remove(.mtu) }
            let vhost: VhostNet
            switch kind {
            case .kernel: vhost = try fake.kernel()
            case .user: vhost = try peer.vhost()
            case .vdpa: vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            }
            let mark = fake.trace.count
            #expect(try !vhost.setMTU(1400))
            #expect(fake.trace.count == mark && !peer.trace.contains("NET_SET_MTU"))
            let rings = try Rings(2)
            try vhost.start(rings.all, memory: [rings.region])
            #expect(self.kind { try vhost.setMTU(1400) } == .state)
            guard kind == .user else { return }
            let other = FakePeer()
            defer { other.release() }
            #expect(try other.vhost().setMTU(1400) && other.trace.last == "NET_SET_MTU")
        }

        @Test("queues are reset only while the device runs, with RING_RESET, and restarted only after that")
        func reset() throws {
            let vhost = try FakeDevice().kernel()
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

        @Test("configuration: read, write, interrupt, mask and pending (vhost-user and vDPA)")
        func configuration() throws {
            let peer = FakePeer()
            let vhost = try peer.vhost()
            #expect(try vhost.readConfiguration(offset: 2, size: 4) == [0, 1, 2, 3])
            try vhost.writeConfiguration(offset: 0, [1, 2])
            #expect(kind { _ = try vhost.readConfiguration(offset: 255, size: 4) } == .argument)
            let notifier = OwnedDescriptor(CPlat_eventfd(0))
            try vhost.setConfigurationNotifier(notifier)
            try vhost.setMTU(1400)
            #expect(eventually { (try? vhost.serveBackEnd()) != nil && fired(notifier) })
            try vhost.maskConfiguration(true)
            // The change comes before the acknowledgement.
            try vhost.setMTU(1401)
            try vhost.serveBackEnd()
            #expect(!fired(notifier))
            try vhost.maskConfiguration(false)
            #expect(fired(notifier) && !vhost.isConfigurationPending())
            // For the destination of a migration the flag says so.
            #expect(peer.state.withLock { $0.configFlags } == 0)
            try vhost.writeConfiguration(offset: 0, [1, 2], forMigration: true)
            #expect(peer.state.withLock { $0.configFlags } == 1)
            for (offset, size) in [(Int.max, 1), (0, Int.max), (-1, 4), (0, 0)] {
                #expect(kind { _ = try vhost.readConfiguration(offset: offset, size: size) } == .argument)
            }
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
            fake.fire(fake.configurationCall)
            #expect(fired(notifier))
            let before = fake.trace.count
            try vdpa.maskConfiguration(true)
            fake.fire(fake.configurationCall)
            #expect(!fired(notifier) && vdpa.isConfigurationPending() && !vdpa.isConfigurationPending())
            fake.fire(fake.configurationCall)
            try vdpa.maskConfiguration(false)
            #expect(fired(notifier) && !vdpa.isConfigurationPending())
            #expect(fake.trace[before...] == ["VHOST_VDPA_SET_CONFIG_CALL", "VHOST_VDPA_SET_CONFIG_CALL"])
            for (offset, size) in [(Int.max, 1), (0, Int.max), (-1, 4), (0, 0)] {
                #expect(kind { _ = try vdpa.readConfiguration(offset: offset, size: size) } == .argument)
            }
        }

        @Test("the in-flight region is asked for once and given to the back-end that comes after")
        func inflight() throws {
            let peer = FakePeer()
            var vhost: VhostNet? = try peer.vhost { $0.keepsInflight = true }
            let rings = try Rings(2)
            try vhost!.acknowledge([.version1])
            try vhost!.start(rings.all, memory: [rings.region])
            // Its format depends on the features, so it comes after them and before the rings.
            let order = ["SET_FEATURES", "GET_INFLIGHT_FD", "SET_INFLIGHT_FD", "SET_VRING_KICK 0"].map {
                peer.trace.firstIndex(of: $0) ?? -1
            }
            #expect(order == order.sorted() && order[0] >= 0)
            vhost!.stop()
            try vhost!.start(rings.all, memory: [rings.region])
            #expect(
                peer.trace.filter { $0 == "GET_INFLIGHT_FD" }.count == 1
                    && peer.trace.filter { $0 == "SET_INFLIGHT_FD" }.count == 2)
            let saved = vhost!.saved
            vhost = nil
            peer.release()
            let second = FakePeer()
            let again = try second.vhost { ($0.keepsInflight, $0.saved) = (true, saved) }
            try again.start(rings.all, memory: [rings.region])
            #expect(!second.trace.contains("GET_INFLIGHT_FD"))
            #expect(second.state.withLock { $0.inflightSeen } == peer.state.withLock { $0.inflightSeen })
            second.release()
        }

        @Test("a back-end that goes away while it runs: stop takes the used index from memory, and nothing hangs")
        func gone() throws {
            let peer = FakePeer()
            let vhost = try peer.vhost()
            let rings = try Rings(2)
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            (rings.memory.base + 8192 + 5120 + 2).storeBytes(of: 99, as: UInt16.self)
            peer.state.withLock { ($0.failAt, $0.hangsUp) = ($0.count + 1, true) }
            #expect(vhost.stop() == [0, 99])
            #expect(vhost.backend.isDisconnected)
            peer.release()
        }
    }
}
