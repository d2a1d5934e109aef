import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import VhostUser
import Virtio

/// The order of calls, as back-ends rely on it.
extension ControlPlane {
    @Suite("Order of calls") struct TraceTests {
        /// What `body` adds to a trace.
        private func added(_ trace: () -> [String], _ body: () throws -> Void) rethrows -> [String] {
            let before = trace().count
            try body()
            return Array(trace()[before...])
        }

        private func ring(_ i: Int, _ prefix: String) -> [String] {
            ["NUM \(i) 256", "BASE \(i) 0", "ADDR \(i)", "KICK \(i)", "CALL \(i)"].map { prefix + "SET_VRING_" + $0 }
        }

        @Test("kernel: init, start, mask, reset, restart, enable, log, stop")
        func kernel() throws {
            let fake = FakeDevice()
            let rings = try Rings(2)
            let tap = try Tap(name: "tap9", calls: fake)
            #expect(
                fake.trace == [
                    "open /dev/net/tun O_NONBLOCK", "TUNGETFEATURES", "TUNSETIFF", "TUNSETVNETHDRSZ", "TUNSETSNDBUF",
                ])
            var options = VhostNet.Options()
            options.busyloopTimeout = 50
            var vhost: VhostNet!
            let v = { fake.trace }
            #expect(
                try added(v) { vhost = try VhostNet(KernelBackend(tap: tap, calls: fake), options) } == [
                    "open /dev/vhost-net O_NONBLOCK", "VHOST_SET_OWNER", "VHOST_GET_FEATURES",
                    "VHOST_GET_FEATURES_ARRAY", "VHOST_SET_VRING_CALL 0", "VHOST_SET_VRING_ERR 0",
                    "VHOST_SET_VRING_CALL 1",
                    "VHOST_SET_VRING_ERR 1",
                    "VHOST_SET_VRING_BUSYLOOP_TIMEOUT 0 50", "VHOST_SET_VRING_BUSYLOOP_TIMEOUT 1 50",
                ])
            #expect(try vhost.busyloopTimeout(ring: 1) == 50)
            try vhost.acknowledge([.version1, .ringReset])
            let start =
                [
                    "VHOST_SET_FEATURES", "VHOST_GET_BACKEND_FEATURES", "VHOST_SET_BACKEND_FEATURES",
                    "VHOST_SET_MEM_TABLE",
                ]
                + ring(0, "VHOST_") + ring(1, "VHOST_") + [
                    "VHOST_NET_SET_BACKEND 0 tap", "VHOST_NET_SET_BACKEND 1 tap",
                ]
            #expect(try added(v) { try vhost.start(rings.all, memory: [rings.region]) } == start)
            #expect(try added(v) { try vhost.mask(ring: 0, true) } == ["VHOST_SET_VRING_CALL 0"])
            #expect(try added(v) { try vhost.mask(ring: 0, false) } == ["VHOST_SET_VRING_CALL 0"])
            #expect(
                try added(v) { try vhost.resetQueue(1) } == ["VHOST_NET_SET_BACKEND 1 -1", "VHOST_GET_VRING_BASE 1"])
            #expect(
                try added(v) { try vhost.restartQueue(1, rings[1]) } == ring(1, "VHOST_") + [
                    "VHOST_NET_SET_BACKEND 1 tap"
                ])
            #expect(
                try added(v) { try vhost.setEnabled(pair: 0, false) } == [
                    "VHOST_NET_SET_BACKEND 0 -1", "VHOST_NET_SET_BACKEND 1 -1",
                ])
            #expect(
                try added(v) { try vhost.setLogging(true) } == [
                    "VHOST_SET_LOG_BASE", "VHOST_SET_FEATURES LOG_ALL", "VHOST_GET_BACKEND_FEATURES",
                    "VHOST_SET_BACKEND_FEATURES",
                    "VHOST_SET_VRING_ADDR 0", "VHOST_SET_VRING_ADDR 1",
                ])
            #expect(
                added(v) { vhost.stop() } == [
                    "VHOST_NET_SET_BACKEND 0 -1", "VHOST_NET_SET_BACKEND 1 -1", "VHOST_GET_VRING_BASE 0",
                    "VHOST_GET_VRING_BASE 1",
                ])
            // What was disabled stays so with the next start; while logging, features and addresses say so from the
            // start.
            let again = try added(v) { try vhost.start(rings.all, memory: [rings.region]) }
            #expect(
                !again.contains { $0.contains("NET_SET_BACKEND") } && again.contains("VHOST_SET_FEATURES LOG_ALL")
                    && again.last == "VHOST_SET_LOG_BASE")
        }

        @Test("kernel with more than 64 features: they are told of, and none above 63 is accepted")
        func kernelArray() throws {
            let fake = FakeDevice()
            fake.moreFeatures = 0b11110
            let rings = try Rings(4)
            var options = VhostNet.Options()
            options.queuePairs = 2
            let kernel = KernelBackend(tap: try Tap(name: "tap9", queues: 2, calls: fake), calls: fake)
            let vhost = try VhostNet(kernel, options)
            #expect(kernel.featuresAbove63 == [65, 66, 67, 68])
            #expect(fake.trace.count { $0 == "VHOST_GET_FEATURES_ARRAY" } == 1)
            try vhost.acknowledge([.version1, .mrgRxbuf])
            let started = try added({ fake.trace }) { try vhost.start(rings.all, memory: [rings.region]) }
            #expect(started.count { $0.hasPrefix("VHOST_SET_FEATURES_ARRAY") } == 2)
            #expect(!started.contains { $0.hasPrefix("VHOST_SET_FEATURES ") || $0 == "VHOST_SET_FEATURES" })
            #expect(fake.acknowledged == [.version1, .mrgRxbuf] && fake.moreAcknowledged == 0)
            vhost.stop()
        }

        @Test("kernel with two pairs: each has a device of its own, started and stopped one after the other")
        func kernelPairs() throws {
            let fake = FakeDevice()
            let rings = try Rings(4)
            var options = VhostNet.Options()
            options.queuePairs = 2
            let v = { fake.trace }
            let vhost = try VhostNet(
                KernelBackend(tap: try Tap(name: "tap9", queues: 2, calls: fake), calls: fake), options)
            try vhost.acknowledge([.version1])
            let one =
                [
                    "VHOST_SET_FEATURES", "VHOST_GET_BACKEND_FEATURES", "VHOST_SET_BACKEND_FEATURES",
                    "VHOST_SET_MEM_TABLE",
                ]
                + ring(0, "VHOST_") + ring(1, "VHOST_") + [
                    "VHOST_NET_SET_BACKEND 0 tap", "VHOST_NET_SET_BACKEND 1 tap",
                ]
            #expect(try added(v) { try vhost.start(rings.all, memory: [rings.region]) } == one + one)
            let stop = [
                "VHOST_NET_SET_BACKEND 0 -1", "VHOST_NET_SET_BACKEND 1 -1", "VHOST_GET_VRING_BASE 0",
                "VHOST_GET_VRING_BASE 1",
            ]
            #expect(added(v) { vhost.stop() } == stop + stop)
        }

        @Test("vhost-user: init, start, enable, reset, restart, MTU, RARP, log, stop")
        func user() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let rings = try Rings(4)
            var options = VhostNet.Options()
            options.queuePairs = 2
            var vhost: VhostNet!
            let v = { peer.trace }
            let head = ["GET_FEATURES", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "GET_QUEUE_NUM"]
            #expect(
                try added(v) { vhost = try VhostNet(UserBackend(peer.socket, name: "fake"), options) } == head + [
                    "SET_BACKEND_REQ_FD", "SET_OWNER", "GET_FEATURES", "SET_VRING_CALL 0", "SET_VRING_ERR 0",
                    "SET_VRING_CALL 1", "SET_VRING_ERR 1",
                ] + head.dropLast() + [
                    "GET_FEATURES", "SET_VRING_CALL 2", "SET_VRING_ERR 2", "SET_VRING_CALL 3", "SET_VRING_ERR 3",
                ])
            try vhost.acknowledge([.version1, .ringReset])
            #expect(try added(v) { try vhost.setMTU(1400) } == ["NET_SET_MTU"])
            #expect(
                try added(v) { try vhost.start(rings.all, memory: [rings.region]) } == [
                    "SET_VRING_ENABLE 0 1", "SET_VRING_ENABLE 1 1", "SET_FEATURES", "GET_STATUS", "SET_STATUS 11",
                    "GET_STATUS", "SET_MEM_TABLE",
                ] + ring(0, "") + ring(1, "") + [
                    "SET_VRING_ENABLE 0 1", "SET_VRING_ENABLE 1 1", "SET_VRING_ENABLE 2 1", "SET_VRING_ENABLE 3 1",
                    "SET_FEATURES",
                ]
                    + ring(2, "") + ring(3, "") + [
                        "SET_VRING_ENABLE 2 1", "SET_VRING_ENABLE 3 1", "GET_STATUS", "SET_STATUS 15",
                    ])
            #expect(throws: VhostError.self) { try vhost.setMTU(1500) }
            // A trap of old: queues are enabled from the pair's first index.
            #expect(
                try added(v) { try vhost.setEnabled(pair: 1, false) } == [
                    "SET_VRING_ENABLE 2 0", "SET_VRING_ENABLE 3 0",
                ])
            #expect(try added(v) { try vhost.resetQueue(2) } == ["GET_VRING_BASE 2"])
            #expect(try added(v) { try vhost.restartQueue(2, rings[2]) } == ring(2, ""))
            #expect(try added(v) { try vhost.migrationDone(mac: [2, 3, 4, 5, 6, 7]) } == ["SEND_RARP"])
            #expect(peer.state.withLock { $0.rarp } == [2, 3, 4, 5, 6, 7])
            let log = try added(v) { try vhost.setLogging(true) }
            #expect(
                log == [
                    "SET_LOG_BASE", "SET_FEATURES", "GET_STATUS", "SET_VRING_ADDR 0 LOG", "SET_VRING_ADDR 1 LOG",
                    "SET_FEATURES", "SET_VRING_ADDR 2 LOG", "SET_VRING_ADDR 3 LOG",
                ])
            #expect(peer.state.withLock { $0.logAll })
            #expect(
                added(v) { vhost.stop() } == [
                    "GET_VRING_BASE 0", "GET_VRING_BASE 1", "GET_VRING_BASE 2", "GET_VRING_BASE 3", "SET_STATUS 0",
                ])
            #expect(try added(v) { try vhost.resetDevice() } == ["RESET_DEVICE"])
        }

        @Test(
            """
            vhost-user without PROTOCOL_FEATURES: no protocol message, no enable; without REPLY_ACK: GET_FEATURES as \
            barrier after a start, an enable and a new call descriptor
            """
        )
        func plainUser() throws {
            let rings = try Rings(2)
            let old = FakePeer()
            old.state.withLock { $0.features.subtract([.protocolFeatures, .vhostLogAll]) }
            var vhost = try old.vhost()
            let opened = [
                "GET_FEATURES", "SET_OWNER", "GET_FEATURES", "SET_VRING_CALL 0", "SET_VRING_ERR 0", "SET_VRING_CALL 1",
                "SET_VRING_ERR 1",
            ]
            // Nothing is acknowledged here: the last messages may still be under way.
            #expect(eventually { old.trace == opened })
            try vhost.acknowledge([.version1])
            #expect(vhost.acknowledged == [.version1])
            let before = opened.count
            try vhost.start(rings.all, memory: [rings.region])
            vhost.stop()
            #expect(
                Array(old.trace[before...]) == ["SET_FEATURES", "SET_MEM_TABLE"] + ring(0, "") + ring(1, "") + [
                    "GET_FEATURES", "GET_VRING_BASE 0", "GET_VRING_BASE 1",
                ])
            old.release()
            let silent = FakePeer()
            silent.state.withLock { $0.protocolFeatures.subtract([.replyAck, .status]) }
            vhost = try silent.vhost()
            let v = { silent.trace }
            let enable = try added(v) { try vhost.setEnabled(pair: 0, true) }
            #expect(Array(enable.suffix(3)) == ["SET_VRING_ENABLE 0 1", "SET_VRING_ENABLE 1 1", "GET_FEATURES"])
            try vhost.start(rings.all, memory: [rings.region])
            try vhost.mask(ring: 0, true)
            let unmasked = try added(v) { try vhost.mask(ring: 0, false) }
            #expect(Array(unmasked.suffix(2)) == ["SET_VRING_CALL 0", "GET_FEATURES"])
            silent.release()
        }

        @Test("vDPA: init, start with a control queue, stop, reset")
        func vdpa() throws {
            let fake = FakeDevice()
            fake.features |= Features([.ctrlVQ, .mq]).rawValue
            fake.configuration[8] = 1
            let rings = try Rings(3)
            var options = VhostNet.Options()
            options.hasControl = true
            var vhost: VhostNet!
            let v = { fake.trace }
            #expect(
                try added(v) { vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options) } == [
                    "open /dev/vhost-vdpa-0 O_NONBLOCK", "VHOST_GET_FEATURES", "VHOST_VDPA_GET_CONFIG",
                    "VHOST_VDPA_GET_IOVA_RANGE",
                    "VHOST_GET_BACKEND_FEATURES", "VHOST_VDPA_GET_VQS_COUNT", "VHOST_VDPA_GET_STATUS",
                    "VHOST_VDPA_SET_STATUS 3",
                    "VHOST_VDPA_GET_STATUS", "VHOST_SET_OWNER", "VHOST_VDPA_GET_AS_NUM", "VHOST_VDPA_GET_VRING_GROUP 0",
                    "VHOST_VDPA_GET_VRING_GROUP 1", "VHOST_VDPA_GET_VRING_GROUP 2", "VHOST_SET_VRING_CALL 0",
                    "VHOST_SET_VRING_CALL 1", "VHOST_VDPA_GET_DEVICE_ID",
                    "VHOST_SET_VRING_CALL 2",
                ])
            try vhost.acknowledge([.version1, .ctrlVQ])
            try vhost.setConfigurationNotifier(rings.calls[0])
            vhost.remember(.mac([2, 0, 0, 0, 0, 1]))
            let start = try added(v) {
                try vhost.start(rings.all, memory: [rings.region]) { command in
                    fake.trace.append("control: \(command)")
                    return 0
                }
            }
            #expect(
                start == [
                    "VHOST_SET_FEATURES", "VHOST_VDPA_GET_STATUS", "VHOST_VDPA_SET_STATUS 11", "VHOST_VDPA_GET_STATUS",
                    "VHOST_SET_BACKEND_FEATURES",
                    "IOTLB BATCH_BEGIN asid 0", "IOTLB UPDATE asid 0", "IOTLB BATCH_END asid 0",
                ] + ring(0, "VHOST_") + ring(1, "VHOST_") + ring(2, "VHOST_") + [
                    "VHOST_VDPA_GET_STATUS", "VHOST_VDPA_SET_STATUS 15", "VHOST_VDPA_GET_STATUS",
                    "VHOST_VDPA_SET_VRING_ENABLE 2 1", "control: the MAC address",
                    "VHOST_VDPA_SET_VRING_ENABLE 0 1", "VHOST_VDPA_SET_VRING_ENABLE 1 1", "VHOST_VDPA_SET_CONFIG_CALL",
                ])
            #expect(try added(v) { try vhost.setEnabled(pair: 0, true) } == [])
            let stop = added(v) { vhost.stop() }
            #expect(
                stop == [
                    "VHOST_VDPA_SET_CONFIG_CALL", "VHOST_VDPA_SUSPEND", "VHOST_GET_VRING_BASE 0",
                    "VHOST_GET_VRING_BASE 1", "VHOST_GET_VRING_BASE 2",
                    "VHOST_VDPA_SET_STATUS 0", "VHOST_VDPA_GET_STATUS", "VHOST_VDPA_SET_STATUS 3",
                    "VHOST_VDPA_GET_STATUS",
                    "IOTLB BATCH_BEGIN asid 0", "IOTLB INVALIDATE asid 0", "IOTLB BATCH_END asid 0",
                ])
            #expect(
                try added(v) { try vhost.resetDevice() } == [
                    "VHOST_VDPA_SET_STATUS 0", "VHOST_VDPA_GET_STATUS", "VHOST_VDPA_SET_STATUS 3",
                    "VHOST_VDPA_GET_STATUS",
                ])
            // What was disabled is not enabled with the next start.
            try vhost.setEnabled(pair: 0, false)
            let quiet = try added(v) { try vhost.start(rings.all, memory: [rings.region]) { _ in 0 } }
            #expect(quiet.filter { $0.contains("VRING_ENABLE") } == ["VHOST_VDPA_SET_VRING_ENABLE 2 1"])
        }

        @Test(
            """
            vDPA: of a device with four pairs two are used, its control queue comes after the four; one pair without \
            MQ has it as third
            """
        )
        func fewerPairs() throws {
            func opened(_ pairs: Int, _ features: Features) throws -> (VhostNet, FakeDevice) {
                let fake = FakeDevice()
                fake.features |= Features([.ctrlVQ, .mq]).rawValue
                (fake.configuration[8], fake.queueCount) = (4, 9)
                var options = VhostNet.Options()
                (options.queuePairs, options.hasControl) = (pairs, true)
                let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options)
                #expect(vhost.maximumPairs == 4)
                try vhost.acknowledge(features)
                return (vhost, fake)
            }
            for (count, features, control) in [
                (2, [.version1, .ctrlVQ, .mq], 8), (1, [.version1, .ctrlVQ], 2),
            ] as [(Int, Features, Int)] {
                let (vhost, fake) = try opened(count, features)
                let rings = try Rings(2 * count + 1)
                #expect(vhost.controlRing == control)
                vhost.remember(.pairs(UInt16(count)))
                let start = try added({ fake.trace }) {
                    try vhost.start(rings.all, memory: [rings.region]) { command in
                        fake.trace.append("control: \(command)")
                        return 0
                    }
                }
                let data = 0..<2 * count
                #expect(
                    start.filter { $0.hasPrefix("VHOST_SET_VRING_KICK") }
                        == (Array(data) + [control]).map { "VHOST_SET_VRING_KICK \($0)" })
                #expect(
                    start.filter { $0.contains("VRING_ENABLE") || $0.hasPrefix("control") }
                        == ["VHOST_VDPA_SET_VRING_ENABLE \(control) 1", "control: \(count) queue pairs"]
                        + data.map { "VHOST_VDPA_SET_VRING_ENABLE \($0) 1" })
                // It is told by its index on the device, too.
                try vhost.mask(ring: control, true)
                #expect(fake.trace.last == "VHOST_SET_VRING_CALL \(control)")
                fake.fire(fake.calls[UInt32(control)])
                #expect(vhost.isPending(ring: control))
                fake.bases[UInt32(control)] = 5
                #expect(vhost.stop().last == 5)
                // While it is stopped, too.
                try vhost.mask(ring: control, false)
            }
        }

        @Test(
            """
            a ring that its driver has not set up is passed over at start and stop, as in QEMU, and can be started \
            later
            """,
            arguments: [VhostKind.kernel, .user, .vdpa])
        func notReady(kind: VhostKind) throws {
            let (fake, peer) = (FakeDevice(), FakePeer())
            defer { peer.release() }
            let rings = try Rings(2)
            let vhost: VhostNet
            switch kind {
            case .kernel: vhost = try fake.kernel()
            case .user: vhost = try peer.vhost()
            case .vdpa: vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            }
            let trace = { kind == .user ? peer.trace : fake.trace }
            try vhost.acknowledge(kind == .vdpa ? [.version1] : [.version1, .ringReset])
            var half = rings.all
            (half[0].descriptors, half[0].driverArea, half[0].deviceArea) = (0, 0, 0)
            func touched(_ body: () throws -> Void) rethrows -> [String] {
                try added(trace, body).filter { $0.contains("VRING") || $0.contains("NET_SET_BACKEND") }
            }
            let started = try touched { try vhost.start(half, memory: [rings.region]) }
            let prefix = kind == .user ? "" : "VHOST_"
            // The driver enables a pair, not a ring.
            let both = ["SET_VRING_ENABLE 0 1", "SET_VRING_ENABLE 1 1"]
            switch kind {
            case .kernel: #expect(started == ring(1, prefix) + ["VHOST_NET_SET_BACKEND 1 tap"])
            case .user: #expect(started == both + ring(1, prefix) + both)
            case .vdpa: #expect(started == ring(1, prefix) + ["VHOST_VDPA_SET_VRING_ENABLE 1 1"])
            }
            // Other operations pass it over, too.
            #expect(try touched { try vhost.updateMemory([rings.region, rings.more]) } == [])
            #expect(try touched { try vhost.mask(ring: 0, true) } == [])
            try vhost.mask(ring: 0, false)
            if kind != .vdpa {
                #expect(
                    try touched { try vhost.restartQueue(0, rings[0]) } == ring(0, prefix)
                        + (kind == .kernel ? ["VHOST_NET_SET_BACKEND 0 tap"] : []))
                vhost.stop()
                try vhost.start(half, memory: [rings.region])
            }
            var bases: [UInt32?] = []
            let stopped = touched { bases = vhost.stop() }
            #expect(bases[0] == nil && bases[1] != nil)
            #expect(stopped == (kind == .kernel ? ["VHOST_NET_SET_BACKEND 1 -1"] : []) + [prefix + "GET_VRING_BASE 1"])
            try vhost.start(rings.all, memory: [rings.region])
            #expect(vhost.stop().allSatisfy { $0 != nil })
            // A control queue that is not there is left away.
            guard kind == .vdpa else { return }
            fake.features |= Features.ctrlVQ.rawValue
            var options = VhostNet.Options()
            options.hasControl = true
            let controlled = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options)
            let three = try Rings(3)
            var without = three.all
            without[2].descriptors = 0
            let error = #expect(throws: VhostError.self) { try controlled.start(without, memory: [three.region]) }
            #expect(error?.kind == .argument && error!.description.contains("start without it"))
            try controlled.start(Array(without[..<2]), memory: [three.region])
        }

        @Test(
            "a start with a ring that was not set up, failing at any call, is undone",
            arguments: [VhostKind.kernel, .vdpa])
        func notReadyUndone(kind: VhostKind) throws {
            let (fake, rings) = (FakeDevice(), try Rings(2))
            let vhost =
                try kind == .kernel ? fake.kernel() : VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            try vhost.acknowledge([.version1])
            var half = rings.all
            half[0].descriptors = 0
            let state = fake.state
            var n = 0
            while true {
                n += 1
                fake.failAt = fake.count + n
                do {
                    try vhost.start(half, memory: [rings.region])
                    if fake.count < fake.failAt { break }
                    // An optional call has failed.
                    vhost.stop()
                } catch {
                    #expect(!vhost.isStarted)
                }
                #expect(fake.state == state, "after a failure of \(fake.trace[fake.failAt - 1])")
            }
            #expect(n > 8)
            fake.failAt = 0
            #expect(vhost.stop()[0] == nil)
        }

        @Test(
            """
            vDPA: suspend and resume by themselves; where rings stand is told between them only, and a stop works in \
            each state
            """
        )
        func suspended() throws {
            let fake = FakeDevice()
            let rings = try Rings(2)
            let backend = VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)
            let vhost = try VhostNet(backend)
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            let v = { fake.trace }
            func kind(_ body: () throws -> Void) -> VhostError.Kind? {
                do { try body() } catch { return (error as? VhostError)?.kind }
                return nil
            }
            // SUSPEND without RESUME, as Linux 6.1 has it.
            #expect(try added(v) { try backend.suspend() } == ["VHOST_VDPA_SUSPEND"])
            var refused: VhostError.Kind?
            #expect(added(v) { refused = kind { try backend.resume() } } == [] && refused == .unsupported)
            #expect(try backend.getVringBase(1) == 0)
            vhost.stop()
            let newer = FakeDevice()
            newer.backendFeatures |= 1 << 5
            let other = VDPABackend(path: "/dev/vhost-vdpa-0", calls: newer)
            let device = try VhostNet(other)
            try device.acknowledge([.version1])
            try device.start(rings.all, memory: [rings.region])
            let w = { newer.trace }
            #expect(added(w) { refused = kind { _ = try other.getVringBase(1) } } == [] && refused == .state)
            try other.suspend()
            #expect(try added(w) { _ = try other.getVringBase(1) } == ["VHOST_GET_VRING_BASE 1"])
            #expect(try added(w) { try other.resume() } == ["VHOST_VDPA_RESUME"])
            // It runs: its rings move.
            #expect(added(w) { refused = kind { _ = try other.getVringBase(1) } } == [] && refused == .state)
            newer.failAt = newer.count + 1
            #expect(kind { try other.suspend() } == .system(EIO))
            #expect(kind { _ = try other.getVringBase(1) } == .state)
            try other.suspend()
            newer.failAt = newer.count + 1
            #expect(kind { try other.resume() } == .system(EIO))
            #expect(try other.getVringBase(1) == 0)
            #expect(device.stop() == [0, 0])
            try device.start(rings.all, memory: [rings.region])
            #expect(kind { _ = try other.getVringBase(0) } == .state)
        }

        @Test(
            """
            vDPA without SUSPEND: rings stand where the used index says; a group in another address space is mapped \
            there
            """
        )
        func withoutSuspend() throws {
            let fake = FakeDevice()
            fake.backendFeatures = 1 << 1 | 1 << 3
            let rings = try Rings(2)
            let backend = VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)
            let vhost = try VhostNet(backend)
            #expect(backend.groups == [0: 0, 1: 0, 2: 1] && backend.addressSpaces == 2)
            try backend.setAddressSpace(group: 1, 1)
            #expect(throws: VhostError.self) { try backend.setAddressSpace(group: 1, 2) }
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            #expect(fake.trace.filter { $0.hasPrefix("IOTLB") } == ["IOTLB UPDATE asid 0", "IOTLB UPDATE asid 1"])
            #expect(fake.state.spaces == [1: 1])
            (rings.memory.base + 5120 + 2).storeBytes(of: 41, as: UInt16.self)
            #expect(vhost.stop() == [41, 0])
            #expect(!fake.trace.contains("VHOST_VDPA_SUSPEND"))
            // A reset forgets the address space: each start sets it again.
            #expect(fake.state.spaces == [:])
            try vhost.start(rings.all, memory: [rings.region])
            #expect(fake.state.spaces == [1: 1])
            vhost.stop()
            #expect(throws: VhostError.self) { try backend.suspend() }
        }
    }
}
