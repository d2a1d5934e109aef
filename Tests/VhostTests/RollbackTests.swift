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
    private func everyCall(_ body: (FakeDevice) throws -> Void) throws {
        let before = openDescriptors()
        let whole = FakeDevice()
        try body(whole)
        let total = whole.count
        #expect(total > 10)
        var reported = 0
        for n in 1...total {
            let fake = FakeDevice()
            fake.failAt = n
            do {
                try body(fake)
            } catch {
                reported += 1
                let call = fake.trace[n - 1].split(separator: " ")[0]
                #expect("\(error)".contains(call == "open" ? "open" : String(call)), "call \(n), \(fake.trace[n - 1]), gave: \(error)")
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
        let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake), options)
        try everyStep(fake, vhost, try Rings(3))
    }

    private func everyStep(_ fake: FakeDevice, _ vhost: VhostNet, _ rings: Rings) throws {
        try vhost.acknowledge([.version1, .mrgRxbuf])
        let (state, descriptors) = (fake.state, openDescriptors())
        var n = 0
        while true {
            n += 1
            fake.failAt = fake.count + n
            do {
                try vhost.start(rings.all, memory: [rings.region])
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
            #expect(didFail || peer.trace[n - 1].hasPrefix("SET_PROTOCOL_FEATURES") || peer.trace[n - 1].hasPrefix("SET_BACKEND_REQ_FD"))
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
            let vhost = try VhostNet(UserBackend(peer.socket, name: "fake"), quiet())
            try vhost.acknowledge([.version1, .mrgRxbuf])
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
                peer.state.withLock { s in #expect(s.running.isEmpty && s.enabled.isEmpty && s.status == 0, "after a failure of \(name)") }
            }
            #expect(eventually { openDescriptors() <= descriptors })
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
            let vhost = try VhostNet(KernelBackend(tap: try Tap(name: "tap9", calls: fake), calls: fake))
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

/// Waits up to three seconds.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = CPlat_monotonic_ns() + 3_000_000_000
    while !condition() {
        if CPlat_monotonic_ns() > end { return false }
        usleep(1000)
    }
    return true
}
