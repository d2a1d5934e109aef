import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import VhostUser
import Virtio

/// For each call of init, of start and of restart: a failure there leaves the state and the descriptors of before, and
/// the error that is reported is that call's.
extension ControlPlane {
    @Suite("Roll-back") struct RollbackTests {
        private func quiet() -> VhostNet.Options {
            var o = VhostNet.Options()
            o.queuePairs = 2
            return o
        }

        private func tap(_ fake: FakeDevice) throws -> Tap { try Tap(name: "tap9", queues: 2, calls: fake) }

        @Test("init on the kernel: every call fails once")
        func kernelInit() throws {
            var options = quiet()
            options.busyloopTimeout = 50
            try everyCall { fake in _ = try VhostNet(KernelBackend(tap: try self.tap(fake), calls: fake), options) }
        }

        @Test("init on vDPA: every call fails once")
        func vdpaInit() throws {
            var options = VhostNet.Options()
            options.hasControl = true
            try everyCall { fake in _ = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options) }
        }

        /// Runs `body` with the first, second, … call failing until it succeeds; what is optional may fail quietly.
        private func everyCall(least: Int = 11, _ body: (FakeDevice) throws -> Void) throws {
            let before = openDescriptors()
            let whole = FakeDevice()
            try body(whole)
            let total = whole.count
            #expect(total >= least)
            var reported = 0
            for n in 1...total {
                let fake = FakeDevice()
                fake.failAt = n
                do {
                    try body(fake)
                } catch {
                    reported += 1
                    let call = fake.trace[n - 1].split(separator: " ")[0]
                    #expect(
                        "\(error)".contains(call == "open" ? "open" : String(call)),
                        "call \(n), \(fake.trace[n - 1]), gave: \(error)")
                    #expect(!fake.state.persistent)
                }
                #expect(fake.state.bound.isEmpty && fake.state.mapped == 0)
                #expect(openDescriptors() == before, "descriptors after a failure of call \(n), \(fake.trace[n - 1])")
            }
            #expect(reported > total / 2)
        }

        @Test("start on the kernel: every call fails once, and the device starts afterwards")
        func kernelStart() throws {
            let rings = try Rings(4)
            let first = FakeDevice()
            var vhost = try VhostNet(KernelBackend(tap: try tap(first), calls: first), quiet())
            try everyStep(first, vhost, rings)
            vhost.close()
            // And the bound state of a start that failed at its last binding.
            let fake = FakeDevice()
            vhost = try VhostNet(KernelBackend(tap: try tap(fake), calls: fake), quiet())
            try vhost.start(rings.all, memory: [rings.region])
            #expect(fake.state.bound.count == 4)
            #expect(vhost.stop() == [0, 0, 0, 0])
            #expect(fake.state.bound.isEmpty)
        }

        @Test("start on vDPA: every call fails once, and the device starts afterwards")
        func vdpaStart() throws {
            let fake = FakeDevice()
            fake.features |= Features([.ctrlVQ, .accessPlatform]).rawValue
            var options = VhostNet.Options()
            options.hasControl = true
            let backend = VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)
            let vhost = try VhostNet(backend, options)
            try backend.setAddressSpace(group: try #require(backend.isolatedGroup(control: 2)), 1)
            try vhost.setConfigurationNotifier(OwnedDescriptor(CPlat_eventfd(0)))
            vhost.remember(.mac([2, 0, 0, 0, 0, 1]))
            try everyStep(fake, vhost, try Rings(3))
        }

        @Test("a control queue that refuses what it held before ends the start; without a sender there is none")
        func replay() throws {
            let fake = FakeDevice()
            fake.features |= Features([.ctrlVQ]).rawValue
            var options = VhostNet.Options()
            options.hasControl = true
            let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options)
            let rings = try Rings(3)
            try vhost.acknowledge([.version1, .ctrlVQ])
            vhost.remember(.mac([2, 0, 0, 0, 0, 1]))
            let before = fake.state
            for (answer, kind) in [(UInt8(1), VhostError.Kind.refused), (nil, .disconnected)] {
                let error = #expect(throws: VhostError.self) {
                    try vhost.start(rings.all, memory: [rings.region]) { _ in answer }
                }
                #expect(error?.kind == kind && error!.description.contains("MAC"))
                #expect(fake.state == before)
            }
            let error = #expect(throws: VhostError.self) { try vhost.start(rings.all, memory: [rings.region]) }
            #expect(error?.kind == .argument && fake.state == before)
            try vhost.start(rings.all, memory: [rings.region]) { _ in 0 }
        }

        @Test("a TAP that fails at any call leaves no persistent interface")
        func persistentTap() throws {
            try everyCall(least: 8) { fake in _ = try Tap(name: "tap9", queues: 2, isPersistent: true, calls: fake) }
        }

        @Test("kernel: enable, reset and dirty log that fail at any call leave the queues as they were")
        func kernelOperations() throws {
            let rings = try Rings(2)
            let operations: [(String, (VhostNet) throws(VhostError) -> Void)] = [
                ("disable", { v throws(VhostError) in try v.setEnabled(pair: 0, false) }),
                ("reset", { v throws(VhostError) in try v.resetQueue(1) }),
                ("log", { v throws(VhostError) in try v.setLogging(true) }),
                ("memory", { v throws(VhostError) in try v.updateMemory([rings.region, rings.more]) }),
            ]
            for (name, operation) in operations {
                let fake = FakeDevice()
                let vhost = try fake.kernel()
                try vhost.acknowledge([.version1, .ringReset])
                try vhost.start(rings.all, memory: [rings.region])
                let (state, features) = (fake.state, fake.acknowledged)
                var n = 0
                while true {
                    n += 1
                    fake.failAt = fake.count + n
                    do {
                        try operation(vhost)
                        if fake.count < fake.failAt { break }
                        // IOTLB_MSG_V2 may fail.
                        #expect(fake.trace[fake.failAt - 1].contains("BACKEND_FEATURES"), "\(name)")
                        try vhost.setLogging(false)
                    } catch {
                        let call = fake.trace[fake.failAt - 1].split(separator: " ")[0]
                        #expect("\(error)".contains(String(call)), "\(name), call \(n), \(call), gave: \(error)")
                    }
                    #expect(
                        fake.state == state && fake.acknowledged == features && fake.table.count == 1 && vhost.isStarted
                            && vhost.dirtyLog == nil, "\(name), call \(n)")
                }
                #expect(n > 1)
            }
        }

        @Test("vDPA: a change of memory that fails at any call leaves the old memory mapped")
        func vdpaMemory() throws {
            let rings = try Rings(2)
            func region(_ guest: UInt64) -> VhostRegion {
                VhostRegion(
                    guestAddress: guest, size: 4096, userAddress: rings.memory.region.userAddress,
                    descriptor: rings.memory.descriptor)
            }
            let (old, new) = ([rings.region, region(1 << 32)], [rings.region, region(2 << 32), region(3 << 32)])
            var n = 0
            while true {
                n += 1
                let fake = FakeDevice()
                let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
                try vhost.start(rings.all, memory: old)
                let state = fake.state
                fake.failAt = fake.count + n
                let error = { () -> VhostError? in
                    do throws(VhostError) { try vhost.updateMemory(new) } catch { return error }
                    return nil
                }()
                if fake.count < fake.failAt {
                    #expect(error == nil && fake.state.mapped == 3)
                    break
                }
                #expect(error != nil && fake.state == state, "after a failure of \(fake.trace[fake.failAt - 1])")
                vhost.stop()
                #expect(fake.state.mapped == 0)
            }
            #expect(n > 6)
        }

        @Test("vhost-user: enable, reset and dirty log that are refused at any message leave the queues as they were")
        func userOperations() throws {
            let rings = try Rings(4)
            let operations: [(String, (VhostNet) throws(VhostError) -> Void)] = [
                ("disable", { v throws(VhostError) in try v.setEnabled(pair: 1, false) }),
                ("reset", { v throws(VhostError) in try v.resetQueue(2) }),
                ("log", { v throws(VhostError) in try v.setLogging(true) }),
                (
                    "MTU",
                    { v throws(VhostError) in
                        v.stop()
                        try v.setMTU(1400)
                        try v.start(rings.all, memory: [rings.region])
                    }
                ),
            ]
            for (name, operation) in operations {
                var n = 0
                while true {
                    n += 1
                    let peer = FakePeer()
                    defer { peer.release() }
                    let vhost = try VhostNet(UserBackend(peer.socket, name: "fake"), quiet())
                    try vhost.acknowledge([.version1, .ringReset])
                    try vhost.start(rings.all, memory: [rings.region])
                    if name == "MTU" {
                        // A refusal ends the start: it is the caller's `try`.
                        vhost.stop()
                        peer.state.withLock { $0.failAt = $0.count + 1 }
                        let error = #expect(throws: VhostError.self) { try operation(vhost) }
                        #expect(
                            error?.kind == .refused && error!.description.contains("NET_SET_MTU") && !vhost.isStarted)
                        break
                    }
                    let (enabled, goal) = peer.state.withLock { s in
                        s.failAt = s.count + n
                        return (s.enabled, s.failAt)
                    }
                    let failed = { () -> VhostError? in
                        do throws(VhostError) { try operation(vhost) } catch { return error }
                        return nil
                    }()
                    if peer.state.withLock({ $0.count < goal }) {
                        #expect(failed == nil && n > 1)
                        break
                    }
                    #expect(
                        failed != nil && "\(failed!)".contains(peer.trace[goal - 1].split(separator: " ")[0]),
                        "\(name), message \(n): \(String(describing: failed))")
                    peer.state.withLock { s in #expect(s.enabled == enabled && !s.logAll, "\(name), message \(n)") }
                    #expect(vhost.isStarted && vhost.dirtyLog == nil)
                }
            }
        }

        private func everyStep(_ fake: FakeDevice, _ vhost: VhostNet, _ rings: Rings) throws {
            try vhost.acknowledge([.version1, .mrgRxbuf])
            let (state, descriptors) = (fake.state, openDescriptors())
            var n = 0
            while true {
                n += 1
                fake.failAt = fake.count + n
                do {
                    try vhost.start(rings.all, memory: [rings.region]) { _ in 0 }
                    if fake.count < fake.failAt { break }
                    // An optional call has failed: the start goes on without.
                    #expect(fake.trace[fake.failAt - 1].contains("BACKEND_FEATURES"))
                    vhost.stop()
                } catch {
                    let call = fake.trace[fake.failAt - 1].split(separator: " ")[0]
                    #expect("\(error)".contains(String(call)), "call \(n), \(call), gave: \(error)")
                    #expect(!vhost.isStarted)
                }
                #expect(fake.state == state, "after a failure of \(fake.trace[fake.failAt - 1])")
                #expect(openDescriptors() == descriptors)
            }
            #expect(n > 20)
            fake.failAt = 0
            #expect(vhost.isStarted)
            vhost.stop()
            #expect(fake.state == state && openDescriptors() == descriptors)
        }

        @Test("init on vhost-user: every message is refused, or the peer hangs up", arguments: [false, true])
        func userInit(hangsUp: Bool) throws {
            let before = openDescriptors()
            var n = 0
            while true {
                n += 1
                let peer = FakePeer()
                peer.state.withLock { ($0.failAt, $0.hangsUp) = (n, hangsUp) }
                var didFail = false
                do { _ = try VhostNet(UserBackend(peer.socket, name: "fake"), quiet()) } catch {
                    didFail = true
                    // A hang-up is noticed with that message or with the next.
                    let names = peer.trace.suffix(2).map { String($0.split(separator: " ")[0]) }
                    #expect(hangsUp || "\(error)".contains(names.last!), "message \(n), \(names), gave: \(error)")
                }
                peer.release()
                let count = peer.state.withLock { $0.count }
                #expect(eventually { openDescriptors() == before }, "descriptors after a failure of message \(n)")
                if count < n { break }
                #expect(
                    didFail || peer.trace[n - 1].hasPrefix("SET_PROTOCOL_FEATURES")
                        || peer.trace[n - 1].hasPrefix("SET_BACKEND_REQ_FD"))
            }
            #expect(n > 15)
        }

        @Test("start on vhost-user: every message is refused, or the peer hangs up", arguments: [false, true])
        func userStart(hangsUp: Bool) throws {
            let rings = try Rings(4)
            let before = openDescriptors()
            var n = 0
            while true {
                n += 1
                let peer = FakePeer()
                var options = quiet()
                options.keepsInflight = true
                let vhost = try VhostNet(UserBackend(peer.socket, name: "fake"), options)
                try vhost.acknowledge([.version1, .mrgRxbuf])
                try vhost.setLogging(true, memory: [rings.region])
                let descriptors = openDescriptors()
                let goal = peer.state.withLock { s in
                    (s.failAt, s.hangsUp) = (s.count + n, hangsUp)
                    return s.failAt
                }
                let error = { () -> VhostError? in
                    do throws(VhostError) {
                        try vhost.start(rings.all, memory: [rings.region])
                        return nil
                    } catch { return error }
                }()
                if peer.state.withLock({ $0.count }) < goal {
                    #expect(error == nil && vhost.isStarted)
                    vhost.close()
                    peer.release()
                    break
                }
                let name = String(peer.trace[goal - 1].split(separator: " ")[0])
                #expect(error != nil && !vhost.isStarted, "message \(n), \(name)")
                #expect(hangsUp || "\(error!)".contains(name), "message \(n), \(name), gave: \(error!)")
                if error?.kind == .refused {
                    peer.state.withLock { s in
                        #expect(s.running.isEmpty && s.enabled.isEmpty && s.status == 0, "after a failure of \(name)")
                    }
                }
                // The in-flight region is kept from the moment it is there.
                #expect(eventually { openDescriptors() <= descriptors + 1 })
                vhost.close()
                peer.release()
            }
            #expect(n > 30)
            #expect(eventually { openDescriptors() == before })
        }

        @Test("a restart of one queue that fails at any call unbinds it and stops the device")
        func restart() throws {
            for n in 1...6 {
                let fake = FakeDevice()
                let rings = try Rings(2)
                let vhost = try fake.kernel()
                try vhost.acknowledge([.version1, .ringReset])
                try vhost.start(rings.all, memory: [rings.region])
                #expect(try vhost.resetQueue(1) == 0)
                #expect(fake.state.bound.count == 1)
                fake.failAt = fake.count + n
                #expect(throws: VhostError.self) { try vhost.restartQueue(1, rings[1]) }
                #expect(!vhost.isStarted && fake.state.bound.isEmpty)
            }
        }
    }
}

/// Waits up to twenty seconds: longer than any machine takes.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = CPlat_monotonic_ns() + 20_000_000_000
    while !condition() {
        if CPlat_monotonic_ns() > end { return false }
        usleep(1000)
    }
    return true
}
