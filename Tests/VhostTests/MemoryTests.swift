import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import VhostUser
import Virtio

/// Memory that changes while the device runs, the dirty log, and IOVA.
extension ControlPlane {
    @Suite("Memory and migration") struct SharedMemoryTests {
        private func region(_ rings: Rings, _ guest: UInt64, offset: UInt64 = 0, size: UInt64 = 4096) -> VhostRegion {
            VhostRegion(
                guestAddress: guest, size: size, userAddress: rings.memory.region.userAddress + offset,
                descriptor: rings.memory.descriptor, offset: offset)
        }

        /// Two rings for `vhost`, whose driver acknowledges `features`.
        private func acknowledged(_ vhost: VhostNet, _ features: Features = [.version1]) throws -> Rings {
            try vhost.acknowledge(features)
            return try Rings(2)
        }

        /// A back-end that wants IOVA.
        private func platform() -> FakePeer {
            let peer = FakePeer()
            peer.state.withLock { _ = $0.features.insert(.accessPlatform) }
            return peer
        }

        @Test(
            """
            migration's order (vhost-user): log, growth before the table, shrinking after it, stop; then RARP on the \
            other side
            """
        )
        func migration() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try peer.vhost()
            let rings = try acknowledged(vhost)
            try vhost.start(rings.all, memory: [rings.region])
            var mark = peer.trace.count
            func added() -> [String] {
                defer { mark = peer.trace.count }
                return Array(peer.trace[mark...])
            }
            try vhost.setLogging(true)
            #expect(
                added() == [
                    "SET_LOG_BASE", "SET_FEATURES", "GET_STATUS", "SET_VRING_ADDR 0 LOG", "SET_VRING_ADDR 1 LOG",
                ])
            let log = try #require(vhost.dirtyLog)
            log.memory.base.storeBytes(of: 1, toByteOffset: 32, as: UInt8.self)
            try vhost.updateMemory([rings.region, rings.more])
            #expect(added() == ["SET_LOG_BASE", "SET_MEM_TABLE"])
            // What was dirty is dirty in the larger log.
            #expect(vhost.dirtyLog !== log && vhost.dirtyLog!.takeDirty() == [32 * 8 * 4096])
            try vhost.updateMemory([rings.region])
            #expect(added() == ["SET_MEM_TABLE", "SET_LOG_BASE"])
            let sizes = peer.state.withLock { $0.logSizes }
            #expect(sizes.count == 3 && sizes[0] == sizes[2] && sizes[1] > sizes[0])
            try vhost.setLogging(false)
            #expect(added() == ["SET_FEATURES", "GET_STATUS", "SET_VRING_ADDR 0", "SET_VRING_ADDR 1"])
            vhost.stop()
            _ = added()
            try vhost.migrationDone(mac: [2, 0, 0, 0, 0, 1])
            #expect(added() == ["SEND_RARP"])
        }

        @Test("a log that was switched on before the start covers that start's memory")
        func early() throws {
            let fake = FakeDevice()
            let vhost = try fake.kernel()
            let rings = try acknowledged(vhost)
            try vhost.setLogging(true)
            #expect(vhost.dirtyLog!.size == 8)
            try vhost.start(rings.all, memory: [rings.region, rings.more])
            #expect(vhost.dirtyLog!.size >= (1 << 32) / 4096 / 8)
            let high = VhostRegion(
                guestAddress: 1 << 46, size: 4096, userAddress: 0, descriptor: rings.memory.descriptor)
            let error = #expect(throws: VhostError.self) { try DirtyLog(covering: [high]) }
            #expect(error?.kind == .argument)
        }

        @Test(
            """
            a log covers the memory that is in use, though it was asked to cover less: the kernel writes wherever its \
            bits would be
            """
        )
        func least() throws {
            let fake = FakeDevice()
            let vhost = try fake.kernel()
            let rings = try acknowledged(vhost)
            try vhost.start(rings.all, memory: [rings.region, rings.more])
            try vhost.setLogging(true, memory: [rings.region])
            #expect(vhost.dirtyLog!.size >= (1 << 32) / 4096 / 8)
        }

        @Test("memory has changed though its log could not shrink: the larger one goes on")
        func unshrunk() throws {
            let fake = FakeDevice()
            let vhost = try fake.kernel()
            let rings = try acknowledged(vhost)
            try vhost.start(rings.all, memory: [rings.region, rings.more])
            try vhost.setLogging(true)
            let log = vhost.dirtyLog
            // VHOST_SET_MEM_TABLE, then VHOST_SET_LOG_BASE.
            fake.failAt = fake.count + 2
            try vhost.updateMemory([rings.region])
            #expect(fake.table.count == 1 && vhost.dirtyLog === log)
        }

        @Test("a back-end cannot cut off the memory that it was given")
        func sealed() throws {
            let memory = try HostMemory(bytes: 8192, name: "ringway-sealed")
            #expect(ftruncate(memory.descriptor.fd, 0) == -1 && errno == EPERM)
        }

        @Test("a back-end that never stops asking for addresses does not hold its front-end")
        func endlessMisses() throws {
            let peer = platform()
            defer { peer.release() }
            let vhost = try peer.vhost()
            let rings = try acknowledged(vhost, [.version1, .accessPlatform])
            peer.state.withLock { $0.misses = 100_000 }
            try vhost.start(rings.all, memory: [rings.region])
            #expect(peer.state.withLock { $0.misses } > 0)
            #expect(vhost.isStarted)
            peer.state.withLock { $0.misses = 0 }
        }

        @Test("memory that nobody else holds stays mapped while a device uses it: a stop reads its rings")
        func held() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try VhostNet(UserBackend(peer.socket, name: "fake", timeout: 150))
            try vhost.acknowledge([.version1])
            /// Starts the device, or gives it other memory, and shows that memory alone.
            func share(_ use: (Rings) throws -> Void) throws -> () -> HostMemory? {
                let rings = try Rings(2)
                (rings.memory.base + 5120 + 2).storeBytes(of: 11, as: UInt16.self)
                try use(rings)
                return { [weak memory = rings.memory] in memory }
            }
            let first = try share { try vhost.start($0.all, memory: [$0.region]) }
            #expect(first() != nil)
            vhost.stop()
            #expect(first() == nil)
            // Of what is added, the device lets go when it is taken away.
            let second = try share { try vhost.start($0.all, memory: [$0.region]) }
            let own = try #require(second()).region
            let added = try share { rings in
                let kept = VhostRegion(
                    guestAddress: 1 << 20, size: own.size, userAddress: own.userAddress,
                    descriptor: second()!.descriptor, owner: second()!)
                try vhost.updateMemory([kept, rings.more])
                try vhost.updateMemory([kept])
            }
            #expect(added() == nil && second() != nil)
            // Where the rings stand is taken from them.
            peer.state.withLock { $0.lies[.getVringBase] = .silence }
            #expect(vhost.stop() == [11, 0])
            #expect(second() == nil)
        }

        @Test("the dirty log covers the highest address, and pages come once")
        func dirty() throws {
            let rings = try Rings(1)
            let region = VhostRegion(
                guestAddress: 1 << 30, size: 8 << 20, userAddress: 0, descriptor: rings.memory.descriptor)
            let log = try DirtyLog(covering: [region])
            #expect(log.size == (1 << 30 + 8 << 20) / 4096 / 8)
            log.memory.base.storeBytes(of: 5, toByteOffset: log.size - 1, as: UInt8.self)
            #expect(log.takeDirty() == [UInt64(log.size - 1) * 8 * 4096, UInt64(log.size - 1) * 8 * 4096 + 2 * 4096])
            #expect(log.takeDirty() == [])
        }

        @Test("more than eight regions go by ADD_MEM_REG, and a change says only what changed; too many are refused")
        func slots() throws {
            let peer = FakePeer()
            defer { peer.release() }
            peer.state.withLock {
                ($0.protocolFeatures, $0.slots) = ($0.protocolFeatures.union(.configureMemSlots), 10)
            }
            let vhost = try peer.vhost()
            let rings = try Rings(2)
            var all = [rings.region]
            for i in 1..<10 { all.append(region(rings, UInt64(i) << 32)) }
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: all)
            #expect(peer.trace.filter { $0 == "ADD_MEM_REG" }.count == 10 && !peer.trace.contains("SET_MEM_TABLE"))
            var mark = peer.trace.count
            try vhost.updateMemory(Array(all.dropLast(3)) + [region(rings, 99 << 32)])
            #expect(Array(peer.trace[mark...]) == ["REM_MEM_REG", "REM_MEM_REG", "REM_MEM_REG", "ADD_MEM_REG"])
            mark = peer.trace.count
            let error = #expect(throws: VhostError.self) { try vhost.updateMemory(all + [region(rings, 98 << 32)]) }
            #expect(error?.kind == .argument && error!.description.contains("10"))
            mark = peer.trace.count
            vhost.stop()
            #expect(peer.trace[mark...].filter { $0 == "REM_MEM_REG" }.count == 8)
            // Without CONFIGURE_MEM_SLOTS eight are the most.
            let old = FakePeer()
            defer { old.release() }
            let other = try old.vhost()
            #expect(throws: VhostError.self) { try other.start(rings.all, memory: all) }
            #expect(!old.trace.contains("SET_MEM_TABLE"))
        }

        @Test("regions that a table told are not told a second time when there come to be more than eight")
        func tableToSlots() throws {
            let peer = FakePeer()
            defer { peer.release() }
            peer.state.withLock { _ = $0.protocolFeatures.insert(.configureMemSlots) }
            let vhost = try peer.vhost()
            let rings = try Rings(2)
            let all = [rings.region] + (1..<10).map { region(rings, UInt64($0) << 32) }
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: Array(all[..<8]))
            var mark = peer.trace.count
            try vhost.updateMemory(Array(all[..<9]))
            #expect(Array(peer.trace[mark...]) == ["ADD_MEM_REG"])
            mark = peer.trace.count
            vhost.stop()
            #expect(peer.trace[mark...].filter { $0 == "REM_MEM_REG" }.count == 9)
            // The back-end keeps a table while the device is stopped.
            try vhost.start(rings.all, memory: Array(all[..<2]))
            vhost.stop()
            mark = peer.trace.count
            try vhost.start(rings.all, memory: [all[0]] + all[2...])
            #expect(
                peer.trace[mark...].filter { $0.hasSuffix("MEM_REG") } == ["REM_MEM_REG"]
                    + [String](repeating: "ADD_MEM_REG", count: 8))
        }

        @Test("more regions than the kernel's vhost takes are refused with the parameter's name")
        func kernelRegions() throws {
            let fake = FakeDevice()
            let vhost = try fake.kernel()
            let rings = try Rings(2)
            let many = [rings.region] + (1..<65).map { region(rings, UInt64($0) << 32) }
            let error = #expect(throws: VhostError.self) { try vhost.start(rings.all, memory: many) }
            #expect(error?.kind == .argument && error!.description.contains("max_mem_regions"))
            try vhost.start(rings.all, memory: many.dropLast())
            #expect(fake.table.count == 64)
        }

        @Test("vDPA: a change of memory unmaps what is gone and maps what is new, in one batch each")
        func vdpaUpdate() throws {
            let fake = FakeDevice()
            let vhost = try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            let rings = try Rings(2)
            try vhost.start(rings.all, memory: [rings.region, rings.more])
            let mark = fake.trace.count
            try vhost.updateMemory([rings.region, region(rings, 7 << 32)])
            let batch = ["IOTLB BATCH_BEGIN asid 0", "IOTLB INVALIDATE asid 0", "IOTLB BATCH_END asid 0"]
            #expect(Array(fake.trace[mark...]) == batch + [batch[0], "IOTLB UPDATE asid 0", batch[2]])
            #expect(fake.state.mapped == 2)
            vhost.stop()
            #expect(fake.state.mapped == 0)
        }

        @Test(
            "memory that is empty or wraps, or does not hold a ring whole, is refused before anything is said",
            arguments: [VhostKind.kernel, .vdpa])
        func wrong(kind: VhostKind) throws {
            let fake = FakeDevice()
            let vhost = try VhostNet(
                kind == .kernel
                    ? KernelBackend(tap: try Tap(name: "tap9", calls: fake), calls: fake)
                    : VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake))
            let rings = try Rings(2)
            let mark = fake.trace.count
            for bad in [
                region(rings, 0, size: 0), region(rings, UInt64.max - 4094), region(rings, 1 << 20, size: 5130),
                region(rings, 1 << 20, offset: 16, size: 8192),
            ] {
                let error = #expect(throws: VhostError.self) { try vhost.start(rings.all, memory: [bad]) }
                #expect(error?.kind == .argument)
            }
            #expect(fake.trace.count == mark && !vhost.isStarted)
            try vhost.start(rings.all, memory: [rings.region])
            #expect(throws: VhostError.self) { try vhost.updateMemory([region(rings, 1 << 20)]) }
        }

        @Test("a control queue of its own group has an address space of its own; regions go where they say")
        func isolated() throws {
            let fake = FakeDevice()
            fake.features |= Features.ctrlVQ.rawValue
            var options = VhostNet.Options()
            options.hasControl = true
            let backend = VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)
            let vhost = try VhostNet(backend, options)
            #expect(backend.isolatedGroup(control: 2) == 1 && backend.isolatedGroup(control: 1) == nil)
            let rings = try Rings(3)
            var (data, control) = (
                region(rings, 1 << 20, size: 16384), region(rings, 2 << 20, offset: 16384, size: 8192)
            )
            (data.addressSpace, control.addressSpace) = (0, 1)
            // Nobody is in space 1 yet.
            #expect(throws: VhostError.self) { try vhost.start(rings.all, memory: [data, control]) }
            try backend.setAddressSpace(group: 1, 1)
            #expect(throws: VhostError.self) { try backend.setAddressSpace(group: 7, 1) }
            let mark = fake.trace.count
            try vhost.start(rings.all, memory: [data, control])
            #expect(
                fake.trace[mark...].filter { $0.hasPrefix("IOTLB UPDATE") } == [
                    "IOTLB UPDATE asid 0", "IOTLB UPDATE asid 1",
                ])
            #expect(fake.trace[mark...].contains("VHOST_VDPA_SET_GROUP_ASID 1 1"))
            vhost.stop()
            #expect(fake.state.mapped == 0)
            // All rings in one group: no isolation.
            let plain = FakeDevice()
            plain.addressSpaces = 1
            let single = VDPABackend(path: "/dev/vhost-vdpa-0", calls: plain)
            _ = try VhostNet(single, options)
            #expect(single.isolatedGroup(control: 2) == nil)
        }

        @Test(
            """
            ACCESS_PLATFORM on the kernel: IOVA as ring addresses, each region in the IOTLB, again after each \
            SET_FEATURES
            """
        )
        func kernelIOTLB() throws {
            let fake = FakeDevice()
            fake.features |= Features.accessPlatform.rawValue
            let vhost = try fake.kernel()
            let rings = try acknowledged(vhost, [.version1, .accessPlatform])
            try vhost.start(rings.all, memory: [rings.region])
            let order = ["VHOST_SET_FEATURES", "VHOST_SET_MEM_TABLE", "IOTLB UPDATE asid 0", "VHOST_SET_VRING_ADDR 0"]
                .map { fake.trace.firstIndex(of: $0) ?? -1 }
            #expect(order == order.sorted() && order[0] >= 0)
            #expect(fake.descriptorAddress == rings.region.guestAddress + 8192)
            let mark = fake.trace.count
            try vhost.setLogging(true)
            #expect(fake.trace[mark...].contains("IOTLB UPDATE asid 0"))
            vhost.stop()
            #expect(fake.trace.last == "IOTLB INVALIDATE asid 0")
        }

        @Test(
            """
            ACCESS_PLATFORM on vhost-user: IOTLB_MSG for each region, and for what the back-end asks for; not without \
            REPLY_ACK
            """
        )
        func userIOTLB() throws {
            let peer = platform()
            defer { peer.release() }
            let vhost = try peer.vhost()
            let rings = try acknowledged(vhost, [.version1, .accessPlatform])
            try vhost.start(rings.all, memory: [rings.region])
            let order = ["SET_FEATURES", "SET_MEM_TABLE", "IOTLB_MSG UPDATE", "SET_VRING_ADDR 0"].map {
                peer.trace.firstIndex(of: $0) ?? -1
            }
            #expect(order == order.sorted() && order[0] >= 0)
            func miss(_ address: UInt64) {
                var p = Payload(address)
                p.add64(0)
                p.add64(0)
                peer.say(Message(1, payload: p.bytes + [1, 1, 0, 0, 0, 0, 0, 0]))
            }
            miss(rings.region.guestAddress + 100)
            // Of no region: nothing can be said.
            miss(5)
            try vhost.serveBackEnd()
            #expect(peer.trace.filter { $0 == "IOTLB_MSG UPDATE" }.count == 2)
            vhost.stop()
            #expect(peer.trace.last == "IOTLB_MSG INVALIDATE")
            let lesser = FakePeer()
            defer { lesser.release() }
            lesser.state.withLock { s in
                s.features.insert(.accessPlatform)
                s.protocolFeatures.remove(.replyAck)
            }
            #expect(!(try lesser.vhost()).backend.offered.contains(.accessPlatform))
        }
    }
}
