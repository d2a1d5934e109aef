import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import Virtio

private func exists(_ path: String) -> Bool { access(path, R_OK | W_OK) == 0 }

/// Runs a line of shell.
@discardableResult
private func shell(_ line: String) -> Int32 {
    var pid = pid_t()
    var arguments: [UnsafeMutablePointer<CChar>?] = ["sh", "-c", line].map { (s: String) in strdup(s) } + [nil]
    // The test threads block signals; ping waits for one.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    guard posix_spawn(&pid, "/bin/sh", nil, &attributes, &arguments, environ) == 0 else { return -1 }
    var status: Int32 = 0
    waitpid(pid, &status, 0)
    return status
}

/// On kernels that have the devices: the testbed's guest runs these (IntegrationTests, KernelTests).
extension ControlPlane {
    @Suite("A real /dev/vhost-net", .enabled(if: exists("/dev/vhost-net")), .serialized) struct RealVhostNet {
        private func open(_ tap: Tap, _ set: (inout VhostNet.Options) -> Void = { _ in }) throws -> VhostNet {
            var options = VhostNet.Options()
            set(&options)
            return try VhostNet(KernelBackend(tap: tap), options)
        }

        @Test("the busyloop timeout is set and read back on each queue of two pairs; features are the kernel's")
        func busyloop() throws {
            let tap = try Tap(name: "rwreal0", queues: 2)
            #expect(tap.headerLength == 12 && tap.name == "rwreal0")
            let vhost = try open(tap) { ($0.queuePairs, $0.busyloopTimeout) = (2, 50) }
            #expect(vhost.maximumPairs == 2)
            for ring in 0..<4 { #expect(try vhost.busyloopTimeout(ring: ring) == 50) }
            try vhost.setBusyloopTimeout(ring: 3, microseconds: 7)
            #expect(try vhost.busyloopTimeout(ring: 3) == 7)
            #expect(vhost.backend.offered.isSuperset(of: [.version1, .mrgRxbuf, .eventIdx, .indirectDesc]))
            #expect(!vhost.features(of: [.version1, .ringPacked, .csum]).contains(.ringPacked))
        }

        @Test("frames go out of the TAP; a queue is reset and restarted under traffic, or refused with the reason")
        func traffic() throws {
            let tap = try Tap(name: "rwreal1")
            #expect(shell("ip link set rwreal1 up") == 0)
            let vhost = try open(tap)
            let hasReset = vhost.backend.offered.contains(.ringReset)
            try vhost.acknowledge(hasReset ? [.version1, .ringReset] : [.version1])
            let driver = try RealDriver(queues: 2, features: [.version1])
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            driver.kick(0)
            let frame =
                [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
            for _ in 0..<50 { #expect(driver.send(frame)) }
            if hasReset {
                let base = try vhost.resetQueue(1)
                #expect(base == 50)
                driver.queues[1].reset()
                try vhost.restartQueue(1, driver.rings[1])
            } else {
                let error = #expect(throws: VhostError.self) { try vhost.resetQueue(1) }
                #expect(error?.kind == .unsupported && error!.description.contains("RING_RESET"))
            }
            for _ in 0..<50 { #expect(driver.send(frame)) }
            #expect(!vhost.hasFailed(ring: 1))
            // Masked calls are pending, unmasked they come.
            try vhost.mask(ring: 1, true)
            _ = driver.queues[1].armCalls()
            #expect(driver.send(frame))
            #expect(eventually { vhost.isPending(ring: 1) })
            _ = fired(driver.calls[1])
            _ = driver.queues[1].armCalls()
            #expect(driver.send(frame) && eventually { poll(vhost, 1) } && !fired(driver.calls[1]))
            try vhost.mask(ring: 1, false)
            #expect(fired(driver.calls[1]) && !vhost.isPending(ring: 1))
            let bases = vhost.stop()
            #expect(bases[1] == (hasReset ? 52 : 102))
        }

        /// Whether the masked eventfd has fired, without taking it.
        private func poll(_ vhost: VhostNet, _ ring: Int) -> Bool {
            var p = pollfd(fd: vhost.maskedDescriptors[ring], events: Int16(POLLIN), revents: 0)
            return Glibc.poll(&p, 1, 0) == 1
        }

        @Test(
            """
            with ACCESS_PLATFORM the kernel takes IOVA: rings and frames are found through its IOTLB, before and \
            after the log is on
            """
        )
        func iotlb() throws {
            let tap = try Tap(name: "rwreal6")
            #expect(shell("ip link set rwreal6 up") == 0)
            let vhost = try open(tap)
            try #require(vhost.backend.offered.contains(.accessPlatform))
            try vhost.acknowledge([.version1, .accessPlatform])
            // Not an address of this process: without the IOTLB nothing would be found.
            let driver = try RealDriver(queues: 2, features: [.version1], guestAddress: 1 << 24)
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            let frame =
                [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
            for _ in 0..<10 { #expect(driver.send(frame)) }
            try vhost.setLogging(true)
            for _ in 0..<10 { #expect(driver.send(frame)) }
            #expect(!vhost.hasFailed(ring: 1) && vhost.stop()[1] == 20)
        }

        @Test("memory is added and taken away under traffic, and the log grows and shrinks with it")
        func memory() throws {
            let tap = try Tap(name: "rwreal7")
            #expect(shell("ip link set rwreal7 up") == 0)
            let vhost = try open(tap)
            try vhost.acknowledge([.version1])
            let driver = try RealDriver(queues: 2, features: [.version1], guestAddress: 1 << 20)
            let more = try HostMemory(bytes: 1 << 20, wantsHugePages: false, name: "more")
            var region = VhostRegion(more)
            region.guestAddress = 1 << 30
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            try vhost.setLogging(true)
            let size = vhost.dirtyLog!.size
            let frame =
                [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
            for round in 0..<10 {
                try vhost.updateMemory(round % 2 == 0 ? [driver.region, region] : [driver.region])
                #expect(round % 2 == 0 ? vhost.dirtyLog!.size > size : vhost.dirtyLog!.size == size)
                #expect(driver.send(frame))
            }
            #expect(vhost.stop()[1] == 10)
        }

        @Test("a thousand starts and stops leave no descriptor")
        func thousand() throws {
            let tap = try Tap(name: "rwreal2")
            let vhost = try open(tap)
            try vhost.acknowledge([.version1, .mrgRxbuf])
            let driver = try RealDriver(queues: 2, features: [.version1])
            let before = openDescriptors()
            for _ in 0..<1000 {
                driver.reset()
                driver.post()
                try vhost.start(driver.rings, memory: [driver.region])
                #expect(vhost.stop().count == 2)
            }
            #expect(openDescriptors() == before)
            for _ in 0..<50 { _ = try open(try Tap(name: "rwreal3")) }
            #expect(openDescriptors() == before)
        }

        @Test("close leaves no descriptor, no mapping, no thread of vhost")
        func cleanup() throws {
            let tap = try Tap(name: "rwreal8")
            let driver = try RealDriver(queues: 2, features: [.version1], guestAddress: 1 << 20)
            let before = Traces()
            let vhost = try open(tap)
            try vhost.acknowledge([.version1])
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            try vhost.setLogging(true)
            try vhost.mask(ring: 0, true)
            let running = Traces()
            #expect(
                running.descriptors > before.descriptors && running.mappings > before.mappings
                    && running.workers == before.workers + 1)
            vhost.close()
            #expect(eventually { Traces() == before }, "\(before), then \(Traces())")
            withExtendedLifetime(vhost) {}
        }

        @Test(
            """
            a disabled pair takes nothing until it is enabled; a ring that is not set up is passed over; what \
            vhost-net does not have
            """
        )
        func pairs() throws {
            let tap = try Tap(name: "rwreal9")
            #expect(shell("ip link set rwreal9 up") == 0)
            let vhost = try open(tap)
            // A bit that it does not offer.
            try vhost.acknowledge([.version1, .ringPacked])
            #expect(vhost.acknowledged == [.version1])
            #expect(try !vhost.setMTU(1400))
            func isUnsupported(_ body: () throws -> Void) -> Bool {
                do { try body() } catch { return (error as? VhostError)?.kind == .unsupported }
                return false
            }
            #expect(isUnsupported { _ = try vhost.readConfiguration(offset: 0, size: 6) })
            #expect(isUnsupported { try vhost.writeConfiguration(offset: 0, [2]) })
            #expect(isUnsupported { try vhost.migrationDone(mac: [2, 0, 0, 0, 0, 1]) })
            #expect(isUnsupported { try vhost.resetDevice() })
            let driver = try RealDriver(queues: 2, features: [.version1])
            let frame =
                [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            #expect(driver.send(frame))
            try vhost.setEnabled(pair: 0, false)
            #expect(driver.put(frame) && !driver.wasTaken(within: 0.3))
            try vhost.setEnabled(pair: 0, true)
            driver.kick(1)
            #expect(driver.wasTaken())
            #expect(vhost.stop()[1] == 2)
            // Transmit alone.
            driver.reset()
            var half = driver.rings
            (half[0].descriptors, half[0].driverArea, half[0].deviceArea) = (0, 0, 0)
            try vhost.start(half, memory: [driver.region])
            for _ in 0..<3 { #expect(driver.send(frame)) }
            #expect(vhost.stop() == [nil, 3])
        }

        @Test(
            """
            a driver that waits is called for what was shown before a start without a kick, used before a stop, used \
            while the calls were masked
            """,
            arguments: [false, true])
        func calledAgain(hasEventIndex: Bool) throws {
            let tap = try Tap(name: "rwreal10")
            #expect(shell("ip link set rwreal10 up") == 0)
            let vhost = try open(tap)
            let features: Features = hasEventIndex ? [.version1, .eventIdx] : [.version1]
            try vhost.acknowledge(features)
            let driver = try RealDriver(queues: 2, features: features)
            driver.post(kicks: false)
            try driver.waitThroughStarts(of: vhost, memory: [driver.region], rings: 1..<2) { n in
                (
                    [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, n, 0x88, 0xb5]
                        + [UInt8](repeating: n, count: 50), nil
                )
            }
        }

        @Test("the kernel's refusals come through, and the device starts afterwards")
        func refusals() throws {
            let tap = try Tap(name: "rwreal4")
            let vhost = try open(tap)
            try vhost.acknowledge([.version1])
            let driver = try RealDriver(queues: 2, features: [.version1])
            var rings = driver.rings
            rings[1].size = 0
            let error = #expect(throws: VhostError.self) { try vhost.start(rings, memory: [driver.region]) }
            #expect(error?.kind == .system(EINVAL) && error!.description.contains("VHOST_SET_VRING_NUM"))
            #expect(!vhost.isStarted)
            try vhost.start(driver.rings, memory: [driver.region])
            #expect(throws: VhostError.self) { try vhost.setBusyloopTimeout(ring: 9, microseconds: 1) }
            #expect(throws: VhostError.self) { _ = try Tap(name: "rwreal4") }
        }

        @Test("the dirty log names the pages that vhost has written")
        func dirty() throws {
            let tap = try Tap(name: "rwreal5")
            #expect(shell("ip link set rwreal5 up; ip addr add 10.77.0.1/24 dev rwreal5") == 0)
            let vhost = try open(tap)
            try #require(vhost.backend.offered.contains(.vhostLogAll))
            try vhost.acknowledge([.version1])
            // A guest's memory begins low: a log covers everything below its end.
            let driver = try RealDriver(queues: 2, features: [.version1], guestAddress: 1 << 20)
            driver.post()
            let region = driver.region
            try vhost.start(driver.rings, memory: [region])
            try vhost.setLogging(true)
            driver.kick(0)
            // A broadcast of the kernel's own.
            shell("ping -c 1 -W 1 10.77.0.2 >/dev/null")
            #expect(eventually { driver.queues[0].hasUsed })
            let pages = try #require(vhost.dirtyLog).takeDirty()
            #expect(!pages.isEmpty && pages.allSatisfy { $0 >= 1 << 20 && $0 < (1 << 20) + region.size })
            try vhost.setLogging(false)
            #expect(vhost.dirtyLog == nil)
        }
    }

    @Suite("A real /dev/vhost-vdpa-0", .enabled(if: exists("/dev/vhost-vdpa-0")), .serialized) struct RealVDPA {
        private static let wanted: Features = [.version1, .accessPlatform, .ctrlVQ, .ctrlMACAddr, .mtu]

        private func open() throws -> VhostNet {
            var options = VhostNet.Options()
            options.hasControl = true
            let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0"), options)
            try vhost.acknowledge(Self.wanted.intersection(vhost.backend.offered))
            return vhost
        }

        @Test("configuration, MAC through the control queue, frames looped back byte by byte, stop, start, reset")
        func loop() throws {
            let vhost = try open()
            let backend = try #require(vhost.backend as? VDPABackend)
            #expect(backend.queueCount == 3 && backend.offered.isSuperset(of: Self.wanted))
            let mtu = try vhost.readConfiguration(offset: 10, size: 2)
            #expect(Int(mtu[0]) | Int(mtu[1]) << 8 == 1500)
            let driver = try RealDriver(queues: 3, features: [.version1])
            let notifier = OwnedDescriptor(CPlat_eventfd(0))
            try vhost.setConfigurationNotifier(notifier)
            for round in 0..<3 {
                driver.reset()
                driver.post()
                let mac: [UInt8] = [2, 0, 0, 0, 7, UInt8(round)]
                var answer: UInt8?
                vhost.remember(.mac(mac))
                try vhost.start(driver.rings, memory: [driver.region]) { c in
                    answer = driver.command(c.kind, c.command, c.data)
                    return answer
                }
                #expect(answer == 0)
                #expect(try vhost.readConfiguration(offset: 0, size: 6) == mac)
                driver.kick(0)
                for n in 0..<50 {
                    let frame =
                        mac + [2, 0, 0, 0, 9, 9, 0x88, 0xb5]
                        + (0..<46 + n * 20).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ n) }
                    #expect(driver.send(frame))
                    #expect(driver.receive() == frame)
                }
                let bases = vhost.stop()
                #expect(bases.count == 3)
                if backend.hasSuspend { #expect(bases[1] == 50) }
                if round == 1 { try vhost.resetDevice() }
            }
        }

        @Test(
            """
            the control queue in an address space of its own; calls are masked, pending and delivered; addresses are \
            IOVA
            """
        )
        func isolated() throws {
            let vhost = try open()
            let backend = try #require(vhost.backend as? VDPABackend)
            let group = try #require(backend.isolatedGroup(control: 2))
            try backend.setAddressSpace(group: group, 1)
            let mac: [UInt8] = [2, 0, 0, 0, 8, 1]
            vhost.remember(.mac(mac))
            let driver = try RealDriver(queues: 3, features: [.version1], guestAddress: 1 << 24)
            // Each start sets the group's space anew, for the reset of a stop forgets it.
            for _ in 0..<2 {
                driver.reset()
                driver.post()
                try vhost.start(driver.rings, memory: driver.isolated) { driver.command($0.kind, $0.command, $0.data) }
                #expect(try vhost.readConfiguration(offset: 0, size: 6) == mac)
                let frame = mac + [2, 0, 0, 0, 9, 9, 0x88, 0xb5] + [UInt8](repeating: 5, count: 46)
                #expect(driver.send(frame) && driver.receive() == frame)
                try vhost.mask(ring: 0, true)
                _ = fired(driver.calls[0])
                _ = driver.queues[0].armCalls()
                #expect(driver.send(frame) && driver.receive() == frame)
                #expect(!fired(driver.calls[0]))
                try vhost.mask(ring: 0, false)
                #expect(fired(driver.calls[0]) && !vhost.isPending(ring: 0))
                vhost.stop()
            }
            // Mapped where the control queue is not, its memory does not answer.
            driver.reset()
            driver.post()
            var wrong = driver.isolated
            for i in wrong.indices { wrong[i].addressSpace = 0 }
            let error = #expect(throws: VhostError.self) {
                try vhost.start(driver.rings, memory: wrong) {
                    driver.command($0.kind, $0.command, $0.data, seconds: 0.5)
                }
            }
            #expect(error?.kind == .disconnected && !vhost.isStarted)
        }

        private static let mac: [UInt8] = [2, 0, 0, 0, 0, 7]

        private func frame(_ n: UInt8) -> [UInt8] {
            Self.mac + [2, 0, 0, 0, 9, 9, 0x88, 0xb5] + [UInt8](repeating: n, count: 46)
        }

        private func kind(_ body: () throws -> Void) -> VhostError.Kind? {
            do { try body() } catch { return (error as? VhostError)?.kind }
            return nil
        }

        @Test(
            """
            configuration is written, and the device goes by it; one pair is the most; an MTU is nobody's; a bit that \
            is not offered is left out
            """
        )
        func device() throws {
            let vhost = try open()
            #expect(vhost.maximumPairs == 1)
            try vhost.acknowledge(Self.wanted.union(.ringPacked))
            #expect(vhost.acknowledged == Self.wanted)
            #expect(try !vhost.setMTU(1400))
            try vhost.writeConfiguration(offset: 0, Self.mac)
            #expect(try vhost.readConfiguration(offset: 0, size: 6) == Self.mac)
            #expect(kind { _ = try vhost.readConfiguration(offset: 0, size: 4096) } == .system(EINVAL))
            let driver = try RealDriver(queues: 3, features: [.version1])
            // Disabled, it takes nothing: on vDPA that counts from the next start.
            try vhost.setEnabled(pair: 0, false)
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            #expect(driver.put(frame(1)) && !driver.wasTaken(within: 0.3))
            vhost.stop()
            try vhost.setEnabled(pair: 0, true)
            driver.reset()
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            // Its filter has the address that was written.
            #expect(driver.send(frame(2)) && driver.receive() == frame(2))
            vhost.close()
            var options = VhostNet.Options()
            options.queuePairs = 2
            let error = #expect(throws: VhostError.self) {
                try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0"), options)
            }
            #expect(error?.kind == .argument && error!.description.contains("2 queue pairs; it has 1"))
        }

        @Test(
            """
            suspended it takes nothing and tells where rings stand; started there it goes on with what waited; Linux \
            6.1 has no RESUME
            """
        )
        func suspend() throws {
            let vhost = try open()
            let backend = try #require(vhost.backend as? VDPABackend)
            try #require(backend.hasSuspend)
            try vhost.writeConfiguration(offset: 0, Self.mac)
            let driver = try RealDriver(queues: 3, features: [.version1])
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            for n: UInt8 in 0..<5 { #expect(driver.send(frame(n)) && driver.receive() == frame(n)) }
            // It runs: its positions move.
            #expect(kind { _ = try backend.getVringBase(1) } == .state)
            try backend.suspend()
            #expect(driver.put(frame(5)) && !driver.wasTaken(within: 0.3))
            #expect(try backend.getVringBase(0) == 5 && backend.getVringBase(1) == 5)
            if backend.backendFeatureNames.contains("RESUME") {
                try backend.resume()
            } else {
                #expect(kind { try backend.resume() } == .unsupported)
                let bases = vhost.stop()
                #expect(bases == [5, 5, 0])
                var rings = driver.rings
                for i in rings.indices { rings[i].base = bases[i]! }
                try vhost.start(rings, memory: [driver.region])
            }
            driver.kick(1)
            #expect(driver.wasTaken() && driver.receive() == frame(5))
            #expect(driver.send(frame(6)) && driver.receive() == frame(6))
            #expect(vhost.stop() == [7, 7, 0])
        }

        @Test(
            """
            memory is changed while it runs: the next frame comes from the new memory, and the one after it from the \
            old again
            """
        )
        func memory() throws {
            let vhost = try open()
            try vhost.writeConfiguration(offset: 0, Self.mac)
            let driver = try RealDriver(queues: 3, features: [.version1], guestAddress: 1 << 24)
            let other = try RealDriver.other(frame(99))
            driver.post()
            try vhost.start(driver.rings, memory: driver.parts())
            for n: UInt8 in 0..<5 {
                #expect(driver.send(frame(n)) && driver.receive() == frame(n))
                try vhost.updateMemory(driver.parts(transmit: other))
                #expect(driver.send(frame(n)) && driver.receive() == frame(99))
                try vhost.updateMemory(driver.parts())
            }
            #expect(driver.send(frame(6)) && driver.receive() == frame(6))
            #expect(vhost.stop()[1] == 11)
        }

        @Test(
            """
            vDPA: a driver that waits is called for what was shown before a start without a kick, used before a stop, \
            used while the calls were masked
            """,
            arguments: [false, true])
        func calledAgain(hasEventIndex: Bool) throws {
            let vhost = try open()
            try vhost.acknowledge(
                Self.wanted.union(hasEventIndex ? .eventIdx : []).intersection(vhost.backend.offered))
            try vhost.writeConfiguration(offset: 0, Self.mac)
            let driver = try RealDriver(queues: 3, features: vhost.acknowledged)
            driver.post(kicks: false)
            try driver.waitThroughStarts(of: vhost, memory: [driver.region], rings: 0..<2) { (frame($0), frame($0)) }
        }

        @Test("a ring that is not set up is passed over; set up later, all of it works")
        func notReady() throws {
            let vhost = try open()
            try vhost.writeConfiguration(offset: 0, Self.mac)
            let driver = try RealDriver(queues: 3, features: [.version1])
            var half = driver.rings
            (half[0].descriptors, half[0].driverArea, half[0].deviceArea) = (0, 0, 0)
            try vhost.start(half, memory: [driver.region])
            #expect(vhost.stop() == [nil, 0, 0])
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            #expect(driver.send(frame(1)) && driver.receive() == frame(1))
        }

        @Test("close leaves no descriptor, no mapping and no thread, and the device as it was")
        func cleanup() throws {
            let driver = try RealDriver(queues: 3, features: [.version1])
            let before = Traces()
            for _ in 0..<2 {
                let vhost = try open()
                try vhost.setConfigurationNotifier(OwnedDescriptor(CPlat_eventfd(0)))
                driver.reset()
                driver.post()
                try vhost.start(driver.rings, memory: [driver.region])
                try vhost.mask(ring: 0, true)
                #expect(Traces().descriptors > before.descriptors)
                vhost.close()
                #expect(eventually { Traces() == before }, "\(before), then \(Traces())")
                withExtendedLifetime(vhost) {}
            }
        }

        @Test("the kernel's refusals come through with errno and call, and the device starts afterwards")
        func refusals() throws {
            let calls = Meddler()
            var options = VhostNet.Options()
            options.hasControl = true
            let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: calls), options)
            try vhost.acknowledge(Self.wanted)
            let driver = try RealDriver(queues: 3, features: [.version1])
            func refused(_ code: Int32, _ call: String, _ rings: [VhostRing]? = nil, _ memory: [VhostRegion]? = nil) {
                let error = #expect(throws: VhostError.self) {
                    try vhost.start(rings ?? driver.rings, memory: memory ?? [driver.region])
                }
                #expect(
                    error?.kind == .system(code) && error!.description.contains(call),
                    "\(call): \(String(describing: error))")
                #expect(!vhost.isStarted)
            }
            // Somebody has said FEATURES_OK before.
            calls.before = { fd, request, _ in
                var status: UInt8 = 11
                if request == .setFeatures { #expect(SystemCalls().control(fd, .vdpaSetStatus, &status) == 0) }
            }
            refused(EBUSY, "VHOST_SET_FEATURES")
            // Bits of the status that are there are left out.
            calls.before = { _, request, argument in
                if request == .vdpaSetStatus, argument!.load(as: UInt8.self) == 11 {
                    argument!.storeBytes(of: 8, as: UInt8.self)
                }
            }
            refused(EINVAL, "VHOST_VDPA_SET_STATUS")
            calls.before = nil
            // The simulator insists on ACCESS_PLATFORM.
            try vhost.acknowledge([.version1])
            refused(EINVAL, "VHOST_SET_FEATURES")
            try vhost.acknowledge(Self.wanted)
            var rings = driver.rings
            rings[1].size = 0
            refused(EINVAL, "VHOST_SET_VRING_NUM", rings)
            // Mapped twice.
            refused(EFAULT, "IOTLB update", nil, [driver.region, driver.region])
            #expect(kind { try vhost.backend.setVringNum(9, 64) } == .system(ENOBUFS))
            driver.post()
            try vhost.start(driver.rings, memory: [driver.region])
            #expect(driver.send([UInt8](repeating: 0xff, count: 6) + frame(1)[6...]) && driver.receive() != nil)
        }

        @Test("a hundred openings leave no descriptor; a second one at a time is refused")
        func openings() throws {
            _ = try open()
            let before = openDescriptors()
            for _ in 0..<100 { _ = try open() }
            #expect(openDescriptors() == before)
            let first = try open()
            let error = #expect(throws: VhostError.self) { try open() }
            #expect(error?.kind == .system(EBUSY))
            first.close()
            _ = try open()
        }
    }
}

/// The real calls, after something else.
private final class Meddler: DeviceCalls {
    var before: ((Int32, DeviceRequest, UnsafeMutableRawPointer?) -> Void)?
    private let real = SystemCalls()

    func open(_ path: String, isNonblocking: Bool) -> Int32 { real.open(path, isNonblocking: isNonblocking) }
    func write(_ fd: Int32, _ bytes: RawSpan) -> Int { real.write(fd, bytes) }

    func control(_ fd: Int32, _ request: DeviceRequest, number: UInt) -> Int32 {
        real.control(fd, request, number: number)
    }

    func control(_ fd: Int32, _ request: DeviceRequest, _ argument: UnsafeMutableRawPointer?) -> Int32 {
        before?(fd, request, argument)
        return real.control(fd, request, argument)
    }
}
