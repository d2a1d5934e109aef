import CPlatform
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// Crash recovery with an inflight region: what a back-end had taken and not given back, the next one gives back.
/// The crash is a copy of region and rings from one engine's life to the next.
@Suite(.serialized) struct InflightTests {
    /// A ring of 16 descriptors in memory of its own, driven by hand, and a region.
    private final class Bench {
        let lab: Lab
        let receiver: EmbeddedDriver
        let frontEnd: FrontEnd
        let memory: HostMemory
        let isPacked: Bool
        let size: UInt32 = 16
        private(set) var region: OwnedDescriptor!
        private var regionBytes: UInt64 = 0
        private(set) var bits: UnsafeMutableRawPointer!
        private let (kick, call) = (OwnedDescriptor(CPlat_eventfd(0)), OwnedDescriptor(CPlat_eventfd(0)))

        init(isPacked: Bool, leavesInflight: Bool = false) throws {
            self.isPacked = isPacked
            lab = try Lab(ports: 2, .crossconnect)
            receiver = try lab.driver(1)
            frontEnd = FrontEnd(try MessageSocket.connect(to: lab.paths[0]), timeout: 2000)
            try frontEnd.negotiate(
                isPacked ? [.version1, .ringPacked] : [.version1],
                ProtocolFeatures([.mq, .replyAck, .inflightShmFD]).union(leavesInflight ? .getVringBaseInflight : []))
            memory = try HostMemory(bytes: 1 << 20, wantsHugePages: false)
            try frontEnd.share(memory.region, memory.descriptor)
        }

        deinit { lab.engine.stop() }

        private func description(_ size: UInt32? = nil) -> Payload {
            var payload = Payload(regionBytes)
            payload.add64(0)
            payload.add32(2 | (size ?? self.size) << 16)
            return payload
        }

        /// GET_INFLIGHT_FD; the region as this process sees it.
        func getRegion() throws {
            let answer = try frontEnd.ask(.getInflightFD, description())
            #expect(answer.payload.count == 20 && answer.descriptors.count == 1)
            regionBytes = answer.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
            region = answer.descriptors[0]
            let p = mmap(nil, Int(regionBytes), PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0)
            bits = try #require(p != MAP_FAILED ? p : nil)
        }

        /// `size`: descriptors of its queues, if not those of the ring.
        func setRegion(_ size: UInt32? = nil) throws { try frontEnd.tell(.setInflightFD, description(size), [region]) }

        /// The transmit ring's part.
        var part: UnsafeMutableRawPointer { bits + InflightQueue.bytes(size: size, isPacked: isPacked) }
        func entry(_ i: Int) -> UnsafeMutableRawPointer { isPacked ? part + 32 + 32 * i : part + 16 + 16 * i }
        var inflight: [Int] { (0..<Int(size)).filter { entry($0).load(as: UInt8.self) == 1 } }

        // Split: descriptors at 0, available ring at 4096, used ring at 8192. Packed: ring at 0, events at 4096, 8192.
        func frame(_ i: Int) -> [UInt8] { Frame.numbered(1, first: i)[0] }
        /// A buffer with frame `i`, headed by its net header.
        func buffer(_ i: Int) -> (address: UInt64, length: UInt32) {
            let place = 65536 + 4096 * i
            CPlat_zero(memory.base + place, 12)
            let bytes = frame(i)
            bytes.withUnsafeBytes { (memory.base + place + 12).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            return (memory.region.guestAddress + UInt64(place), UInt32(12 + bytes.count))
        }

        func startTransmit(base: UInt32) throws {
            let at = memory.region.userAddress
            // Packets of a ring that starts disabled are dropped ("Ring states").
            try frontEnd.enableRing(1, true)
            try frontEnd.startRing(
                1, size: size, base: base, descriptors: at, driverArea: at + 4096, deviceArea: at + 8192, kick: kick,
                call: call)
        }

        // MARK: Split
        func setDescriptor(_ i: Int, frame: Int) {
            let (address, length) = buffer(frame)
            (memory.base + 16 * i).storeBytes(of: address, as: UInt64.self)
            (memory.base + 16 * i + 8).storeBytes(of: UInt64(length), as: UInt64.self)
        }
        func setAvailable(_ slot: Int, head: Int) {
            (memory.base + 4096 + 4 + 2 * slot).storeBytes(of: UInt16(head), as: UInt16.self)
        }
        func setIndices(available: UInt16, used: UInt16) {
            (memory.base + 4096 + 2).storeBytes(of: available, as: UInt16.self)
            (memory.base + 8192 + 2).storeBytes(of: used, as: UInt16.self)
        }
        var used: UInt16 { CPlat_load16_acquire(memory.base + 8192 + 2) }
        func usedID(_ slot: Int) -> UInt32 { (memory.base + 8192 + 4 + 8 * slot).load(as: UInt32.self) }

        // MARK: Packed
        func setPacked(_ slot: Int, frame: Int, id: UInt16, flags: UInt64) {
            let (address, length) = buffer(frame)
            (memory.base + 16 * slot).storeBytes(of: address, as: UInt64.self)
            (memory.base + 16 * slot + 8).storeBytes(
                of: UInt64(length) | UInt64(id) << 32 | flags << 48, as: UInt64.self)
        }
        func packedFlags(_ slot: Int) -> UInt16 { CPlat_load16_acquire(memory.base + 16 * slot + 14) }
        func packedID(_ slot: Int) -> UInt16 { CPlat_load16_relaxed(memory.base + 16 * slot + 12) }
    }

    @Test("a new region is all zero, of the size that its layout says, and given back", arguments: [false, true])
    func region(isPacked: Bool) throws {
        let b = try Bench(isPacked: isPacked)
        try b.getRegion()
        let bytes = 2 * InflightQueue.bytes(size: 16, isPacked: isPacked)
        #expect((0..<bytes).allSatisfy { b.bits.load(fromByteOffset: $0, as: UInt8.self) == 0 })
        try b.setRegion()
        try b.startTransmit(base: isPacked ? 0x8000_8000 : 0)
        // Version 1, and the ring's size.
        #expect(eventually { b.part.load(fromByteOffset: 8, as: UInt16.self) == 1 })
        #expect(b.part.load(fromByteOffset: 10, as: UInt16.self) == 16)
        _ = try b.frontEnd.stopRing(1)
        #expect(b.part.load(fromByteOffset: 8, as: UInt16.self) == 0)
    }

    @Test("split: what a back-end took and did not give back is sent first, in the order in which it was taken")
    func splitResumes() throws {
        let b = try Bench(isPacked: false)
        try b.getRegion()
        // It had taken heads 5, 3, 9 and 7 (in this order), and given 3 back, out of order: slot 0 of the used ring.
        for i in 0..<16 { b.setDescriptor(i, frame: i) }
        for (slot, head) in [5, 3, 9, 7, 2, 11].enumerated() { b.setAvailable(slot, head: head) }
        b.setIndices(available: 6, used: 1)
        (b.memory.base + 8192 + 4).storeBytes(of: UInt32(3), as: UInt32.self)
        b.part.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
        b.part.storeBytes(of: 16, toByteOffset: 10, as: UInt16.self)
        for (counter, head) in [5, 3, 9, 7].enumerated() {
            b.entry(head).storeBytes(of: 1, as: UInt8.self)
            b.entry(head).storeBytes(of: UInt64(counter + 10), toByteOffset: 8, as: UInt64.self)
        }
        // The driver was told of 3, but its mark still stands: `used_idx` says 0, `last_batch_head` 3.
        b.part.storeBytes(of: 3, toByteOffset: 12, as: UInt16.self)
        b.part.storeBytes(of: 0, toByteOffset: 14, as: UInt16.self)
        try b.setRegion()
        try b.startTransmit(base: 0)
        #expect(b.receiver.receive(5).map(\.frame) == [5, 9, 7, 2, 11].map { b.frame($0) })
        #expect(eventually { b.used == 6 })
        #expect((0..<6).map { b.usedID($0) } == [3, 5, 9, 7, 2, 11])
        #expect(eventually { b.inflight.isEmpty })
        #expect(eventually { b.part.load(fromByteOffset: 14, as: UInt16.self) == 6 })
    }

    @Test("packed: the same, with chains, after slots were written over")
    func packedResumes() throws {
        let b = try Bench(isPacked: true)
        try b.getRegion()
        let (available, used): (UInt64, UInt64) = (1 << 7, 1 << 7 | 1 << 15)
        // Made available: id 4 in slot 0, id 6 in slots 1 and 2, id 8 in slot 3; then id 1 in slot 4. The first three
        // were taken. Id 8 was given back first: slot 0 is written over. The driver was told of it, but the marks
        // were not yet brought in order.
        b.setPacked(0, frame: 0, id: 8, flags: used)
        b.setPacked(3, frame: 8, id: 8, flags: available)
        b.setPacked(4, frame: 1, id: 1, flags: available)
        func save(_ i: Int, frame: Int, id: UInt16, flags: UInt16, length: UInt32? = nil) {
            let (address, bytes) = b.buffer(frame)
            b.entry(i).storeBytes(of: id, toByteOffset: 16, as: UInt16.self)
            b.entry(i).storeBytes(of: flags, toByteOffset: 18, as: UInt16.self)
            b.entry(i).storeBytes(of: length ?? bytes, toByteOffset: 20, as: UInt32.self)
            b.entry(i).storeBytes(of: address, toByteOffset: 24, as: UInt64.self)
        }
        func head(_ i: Int, last: UInt16, num: UInt16, counter: UInt64) {
            b.entry(i).storeBytes(of: 1, as: UInt8.self)
            b.entry(i).storeBytes(of: last, toByteOffset: 4, as: UInt16.self)
            b.entry(i).storeBytes(of: num, toByteOffset: 6, as: UInt16.self)
            b.entry(i).storeBytes(of: counter, toByteOffset: 8, as: UInt64.self)
        }
        for i in 0..<16 { b.entry(i).storeBytes(of: UInt16((i + 1) % 16), toByteOffset: 2, as: UInt16.self) }
        save(0, frame: 4, id: 4, flags: UInt16(available))
        head(0, last: 0, num: 1, counter: 1)
        // A header of its own, then the frame.
        save(1, frame: 6, id: 6, flags: UInt16(available) | 1, length: 12)
        save(2, frame: 6, id: 6, flags: UInt16(available))
        b.entry(2).storeBytes(of: b.buffer(6).address + 12, toByteOffset: 24, as: UInt64.self)
        b.entry(2).storeBytes(of: b.buffer(6).length - 12, toByteOffset: 20, as: UInt32.self)
        head(1, last: 2, num: 2, counter: 2)
        save(3, frame: 8, id: 8, flags: UInt16(available))
        head(3, last: 3, num: 1, counter: 3)
        // Freed: entry 3 is put before the old head of free entries, 4.
        b.entry(3).storeBytes(of: 4, toByteOffset: 2, as: UInt16.self)
        for (offset, value) in [(8, 1), (10, 16), (12, 3), (14, 4), (16, 1), (18, 0)] {
            b.part.storeBytes(of: UInt16(value), toByteOffset: offset, as: UInt16.self)
        }
        b.part.storeBytes(of: 0x0101, toByteOffset: 20, as: UInt16.self)
        try b.setRegion()
        try b.startTransmit(base: 0x8000_8000)
        #expect(b.receiver.receive(3).map(\.frame) == [4, 6, 1].map { b.frame($0) })
        // Slot 1: id 4; slot 2: id 6, which skips slot 3; slot 4: id 1.
        #expect(eventually { b.packedFlags(4) == UInt16(used) })
        #expect(b.packedID(1) == 4 && b.packedID(2) == 6 && b.packedID(4) == 1)
        #expect(eventually { b.inflight.isEmpty })
        #expect(eventually { b.part.load(fromByteOffset: 16, as: UInt16.self) == 5 })
    }

    @Test(
        """
        GET_VRING_BASE with GET_VRING_BASE_INFLIGHT: where the ring stands is beyond what the region still holds; both \
        together lose nothing, whenever it comes
        """,
        arguments: [false, true])
    func leftInRegion(leavesInflight: Bool) throws {
        for round in 0..<rounds(40, least: 10) {
            let b = try Bench(isPacked: false, leavesInflight: leavesInflight)
            try b.getRegion()
            // Another back-end had taken all six, in this order, and given none back.
            let heads = [5, 3, 9, 7, 2, 11]
            for i in 0..<16 { b.setDescriptor(i, frame: i) }
            for (slot, head) in heads.enumerated() {
                b.setAvailable(slot, head: head)
                b.entry(head).storeBytes(of: 1, as: UInt8.self)
                b.entry(head).storeBytes(of: UInt64(slot + 1), toByteOffset: 8, as: UInt64.self)
            }
            b.setIndices(available: 6, used: 0)
            b.part.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
            b.part.storeBytes(of: 16, toByteOffset: 10, as: UInt16.self)
            try b.setRegion()
            try b.startTransmit(base: 6)
            usleep(UInt32(round % 4) * 20)
            let base = try b.frontEnd.stopRing(1)
            let (left, used) = (b.inflight.count, Int(b.used))
            #expect(left + used == 6)
            #expect(leavesInflight ? base == 6 : left == 0 || Int(base) == used)
            // Whoever comes next has the region, and what was answered.
            try b.setRegion()
            try b.startTransmit(base: base)
            #expect(b.receiver.receive(6).map(\.frame) == heads.map { b.frame($0) })
            #expect(eventually { b.used == 6 && b.inflight.isEmpty })
            #expect(try b.frontEnd.stopRing(1) == 6)
        }
    }

    @Test("GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD is refused")
    func leftNowhere() throws {
        let lab = try Lab(ports: 1, .drop)
        let f = FrontEnd(try MessageSocket.connect(to: lab.paths[0]))
        try f.negotiate([.version1], [.mq, .replyAck])
        #expect(throws: VhostUserError.self) { try f.setProtocolFeatures([.replyAck, .getVringBaseInflight]) }
        try f.setProtocolFeatures([.replyAck, .inflightShmFD, .getVringBaseInflight])
        #expect(try f.ask64(.getQueueNum) == 1)
    }

    @Test("a region of any bytes neither crashes nor harms the other port", arguments: [false, true])
    func hostileRegion(isPacked: Bool) throws {
        var random = SystemRandomNumberGenerator()
        for round in 0..<rounds(60, least: 10) {
            let b = try Bench(isPacked: isPacked)
            try b.getRegion()
            let bytes = 2 * InflightQueue.bytes(size: 16, isPacked: isPacked)
            for i in 0..<bytes {
                b.bits.storeBytes(
                    of: UInt8.random(in: 0...(round % 2 == 0 ? 255 : 17), using: &random), toByteOffset: i,
                    as: UInt8.self)
            }
            b.part.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
            b.part.storeBytes(of: 16, toByteOffset: 10, as: UInt16.self)
            for i in 0..<16 { b.setDescriptor(i, frame: i) }
            b.setIndices(available: 4, used: 0)
            try b.setRegion()
            try? b.startTransmit(base: isPacked ? 0x8000_8000 : 0)
            b.receiver.send(Frame.numbered(10))
            #expect(b.receiver.settle())
            _ = try? b.frontEnd.stopRing(1)
        }
    }

    @Test("a region of smaller rings than the one that starts is left alone; the ring runs", arguments: [false, true])
    func smallerRings(isPacked: Bool) throws {
        let b = try Bench(isPacked: isPacked)
        try b.getRegion()
        try b.setRegion(8)
        for i in 0..<4 {
            if isPacked { b.setPacked(i, frame: i, id: UInt16(i), flags: 0x80) } else { b.setDescriptor(i, frame: i) }
            if !isPacked { b.setAvailable(i, head: i) }
        }
        if !isPacked { b.setIndices(available: 4, used: 0) }
        try b.startTransmit(base: isPacked ? 0x8000_8000 : 0)
        #expect(b.receiver.receive(4).map(\.frame) == (0..<4).map { b.frame($0) })
        let bytes = 2 * InflightQueue.bytes(size: 16, isPacked: isPacked)
        #expect((0..<bytes).allSatisfy { b.bits.load(fromByteOffset: $0, as: UInt8.self) == 0 })
    }

    @Test("descriptions of a region that cannot be are refused, and change nothing")
    func refused() throws {
        let b = try Bench(isPacked: false)
        try b.getRegion()
        func description(_ size: UInt64, _ offset: UInt64, _ queues: UInt32, _ queueSize: UInt32) -> Payload {
            var payload = Payload(size)
            payload.add64(offset)
            payload.add32(queues | queueSize << 16)
            return payload
        }
        let bad = [
            description(64, 0, 2, 16), description(1 << 50, 0, 2, 16), description(4096, 4, 2, 16),
            description(4096, 0, 0, 16), description(4096, 0, 9, 16), description(4096, 0, 2, 1), Payload(4096),
        ]
        for payload in bad {
            #expect(throws: VhostUserError.self) { try b.frontEnd.tell(.setInflightFD, payload, [b.region]) }
        }
        #expect(throws: VhostUserError.self) {
            try b.frontEnd.tell(.setInflightFD, description(1152, 0, 2, 16), [OwnedDescriptor(CPlat_eventfd(0))])
        }
        try b.setRegion()
        try b.startTransmit(base: 0)
        // Not while a ring runs.
        #expect(throws: VhostUserError.self) { try b.setRegion() }
    }

    @Test(
        "traffic with a region: everything arrives once, and nothing is in flight at the end", arguments: [false, true])
    func traffic(isPacked: Bool) throws {
        let lab = try Lab(ports: 2, .crossconnect)
        defer { lab.engine.stop() }
        let (a, b) = (try lab.driver(0) { $0.isPacked = isPacked }, try lab.driver(1) { $0.isPacked = isPacked })
        for ring in 0..<2 { _ = try a.frontEnd.stopRing(ring) }
        try a.frontEnd.setProtocolFeatures([.mq, .replyAck, .mtu, .inflightShmFD])
        var payload = Payload(0)
        payload.add64(0)
        payload.add32(2 | 256 << 16)
        let answer = try a.frontEnd.ask(.getInflightFD, payload)
        let size = answer.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        payload = Payload(size)
        payload.add64(0)
        payload.add32(2 | 256 << 16)
        try a.frontEnd.tell(.setInflightFD, payload, answer.descriptors)
        try a.begin { try $0.tell(.resetOwner) }
        for round in 0..<rounds(50, least: 8) {
            let frames = Frame.numbered(100, first: 100 * round)
            #expect(a.send(frames))
            let isWhole = b.receive(100).map(\.frame) == frames
            #expect(isWhole, "round \(round)")
            #expect(b.send(frames))
            let isWholeBack = a.receive(100).map(\.frame) == frames
            #expect(isWholeBack, "round \(round)")
        }
        #expect(a.settle())
        let bits = mmap(nil, Int(size), PROT_READ, MAP_SHARED, answer.descriptors[0].fd, 0)!
        for ring in 0..<2 {
            let part = bits + ring * InflightQueue.bytes(size: 256, isPacked: isPacked)
            let (first, each) = isPacked ? (32, 32) : (16, 16)
            #expect(part.load(fromByteOffset: 8, as: UInt16.self) == 1)
            #expect(
                eventually {
                    (0..<256).allSatisfy { part.load(fromByteOffset: first + each * $0, as: UInt8.self) == 0 }
                })
        }
        munmap(bits, Int(size))
    }
}
