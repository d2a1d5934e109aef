import CPlatform
import Glibc
import Testing
import Virtio

/// A ring written by hand, as a hostile driver would.
final class RawRing {
    let size: UInt32
    let isPacked: Bool
    let memory = zeroed(1 << 16)
    /// Guest physical address of `memory`.
    let guest: UInt64 = 0x4000_0000
    let regions = UnsafeMutablePointer<MappedRegion>.allocate(capacity: 1)
    var queue: DeviceQueue
    var burst = Burst()
    private let scratch = DeliveryScratch()
    private let driverArea: UnsafeMutableRawPointer

    init(isPacked: Bool, size: UInt32 = 8, features: Features = []) {
        self.isPacked = isPacked
        self.size = size
        regions.initialize(to: MappedRegion(guestAddress: guest, size: 1 << 16, userAddress: 0, host: memory))
        driverArea = memory + 4096
        let all = features.union(isPacked ? [.version1, .ringPacked] : [.version1])
        queue = DeviceQueue(
            RingSetup(
                size: size, isPacked: isPacked, descriptors: memory, driverArea: driverArea, deviceArea: memory + 8192,
                position: RingPosition(), features: all, map: MemoryMap(regions: regions, count: 1)))
    }

    deinit {
        regions.deallocate()
        memory.deallocate()
    }

    /// Address of buffer `n`.
    func buffer(_ n: Int) -> UInt64 { guest + 16384 + UInt64(n) * 2048 }

    /// A descriptor of the ring, or of a table at `table`; flags 1 NEXT, 2 WRITE, 4 INDIRECT.
    func set(
        _ i: Int, _ address: UInt64, _ length: UInt32, _ flags: UInt16 = 0, next: UInt16 = 0, id: UInt16 = 0,
        table: Int? = nil
    ) {
        let at = memory + (table ?? 0) + 16 * i
        at.storeBytes(of: address, as: UInt64.self)
        (at + 8).storeBytes(of: length, as: UInt32.self)
        // Packed: available in the first lap is AVAIL set, USED clear.
        let packedFlags = flags | (table == nil ? 0x80 : 0)
        (at + 12).storeBytes(of: isPacked ? id : flags, as: UInt16.self)
        (at + 14).storeBytes(of: isPacked ? packedFlags : next, as: UInt16.self)
    }

    /// Split: shows heads. Packed rings show their descriptors themselves.
    func show(_ heads: UInt16..., index: UInt16? = nil) {
        if isPacked { return }
        for (i, head) in heads.enumerated() { (driverArea + 4 + 2 * i).storeBytes(of: head, as: UInt16.self) }
        (driverArea + 2).storeBytes(of: index ?? UInt16(heads.count), as: UInt16.self)
    }

    func transmit() -> RingDefect {
        _ = queue.popTransmit(&burst, limit: 64)
        return queue.defect
    }

    /// Delivers one frame of 64 bytes.
    func receive() -> RingDefect {
        var frame = [UInt8](repeating: 1, count: 64)
        frame.withUnsafeMutableBytes {
            burst.packets[0].place($0.baseAddress!, 64)
            _ = queue.deliver(burst, burst.identity, 1, with: scratch)
        }
        return queue.defect
    }
}

/// Each defect of a descriptor stops its queue with the error that names it.
@Suite struct HostileRingTests {
    static let formats = [false, true]

    @Test("buffers outside guest memory", arguments: formats)
    func addresses(isPacked: Bool) {
        let hostile: [(UInt64, UInt32)] = [
            (0, 64), (0x4000_0000 - 1, 64), (0x4001_0000 - 63, 64), (0x4001_0000, 1), (UInt64.max - 10, 64),
            (0x4000_0000, UInt32.max),
            (UInt64.max, 1), (0x4000_4000, 0x8000_0000),
        ]
        for (address, length) in hostile {
            let tx = RawRing(isPacked: isPacked)
            tx.set(0, address, length)
            tx.show(0)
            let defect = tx.transmit()
            #expect(defect.kind == .address, "\(address) \(length)")
            #expect(defect.value == address && defect.length == length)
            let rx = RawRing(isPacked: isPacked)
            rx.set(0, address, max(length, 128), 2)
            rx.show(0)
            #expect(rx.receive().kind == .address, "\(address) \(length)")
        }
    }

    @Test("wrong direction", arguments: formats)
    func direction(isPacked: Bool) {
        let tx = RawRing(isPacked: isPacked)
        tx.set(0, tx.buffer(0), 100, 2)
        tx.show(0)
        #expect(tx.transmit().kind == .writableInTransmit)
        let rx = RawRing(isPacked: isPacked)
        rx.set(0, rx.buffer(0), 200)
        rx.show(0)
        #expect(rx.receive().kind == .readableInReceive)
    }

    @Test("WRITE in a packed ring's indirect table is ignored where nothing is written: DPDK's driver leaves it there")
    func writeInIndirectTable() {
        let r = RawRing(isPacked: true, features: [.indirectDesc])
        r.set(0, 0x4000_0000 + 12288, 48, 4)
        r.set(0, r.buffer(0), 12, 2, table: 12288)
        r.set(1, r.buffer(1), 64, 2, table: 12288)
        r.set(2, r.buffer(2), 100, table: 12288)
        #expect(r.transmit() == .none)
        #expect(r.burst.count == 1 && r.burst.packets[0].length == 164)
        let split = RawRing(isPacked: false, features: [.indirectDesc])
        split.set(0, 0x4000_0000 + 12288, 16, 4)
        split.set(0, split.buffer(0), 100, 2, table: 12288)
        split.show(0)
        #expect(split.transmit().kind == .writableInTransmit)
    }

    @Test("indirect tables", arguments: formats)
    func indirect(isPacked: Bool) {
        func kind(_ features: Features = [.indirectDesc], _ set: (RawRing) -> Void) -> RingDefect.Kind {
            let r = RawRing(isPacked: isPacked, features: features)
            set(r)
            r.show(0)
            return r.transmit().kind
        }
        let table = 12288
        let at: UInt64 = 0x4000_0000 + 12288
        #expect(kind([]) { r in r.set(0, at, 32, 4) } == .indirectNotNegotiated)
        #expect(kind { r in r.set(0, at, 0, 4) } == .indirectLength)
        #expect(kind { r in r.set(0, at, 24, 4) } == .indirectLength)
        #expect(kind { r in r.set(0, 0x4000_fff8, 32, 4) } == .indirectAddress)
        #expect(kind { r in r.set(0, UInt64.max - 15, 32, 4) } == .indirectAddress)
        #expect(
            kind { r in
                r.set(0, at, 32, 4 | 1, next: 1)
                r.set(1, r.buffer(0), 64)
            } == .indirectWithNext)
        #expect(
            kind { r in
                r.set(0, at, 16, 4)
                r.set(0, at, 16, 4, table: table)
            } == .indirectNested)
        #expect(
            kind { r in
                r.set(0, at, 16, 4)
                r.set(0, 0, 64, table: table)
            } == .address)
        if !isPacked {
            #expect(
                kind { r in
                    r.set(0, at, 32, 4)
                    r.set(0, r.buffer(0), 64, 1, next: 2, table: table)
                } == .descriptorIndex)
            // A loop inside the table.
            #expect(
                kind { r in
                    r.set(0, at, 32, 4)
                    r.set(0, r.buffer(0), 64, 1, next: 1, table: table)
                    r.set(1, r.buffer(1), 64, 1, next: 0, table: table)
                } == .chainTooLong)
        }
    }

    @Test("chains that loop, leave the queue or are never finished")
    func chains() {
        let loop = RawRing(isPacked: false)
        loop.set(0, loop.buffer(0), 64, 1, next: 1)
        loop.set(1, loop.buffer(1), 64, 1, next: 0)
        loop.show(0)
        #expect(loop.transmit().kind == .chainTooLong)
        let beyond = RawRing(isPacked: false)
        beyond.set(0, beyond.buffer(0), 64, 1, next: 8)
        beyond.show(0)
        #expect(beyond.transmit().kind == .descriptorIndex)
        let head = RawRing(isPacked: false)
        head.show(8)
        #expect(head.transmit().kind == .descriptorIndex)
        let receiveHead = RawRing(isPacked: false)
        receiveHead.show(65535)
        #expect(receiveHead.receive().kind == .descriptorIndex)
        let jump = RawRing(isPacked: false)
        jump.show(0, index: 9)
        #expect(jump.transmit().kind == .availableIndexJump)
        let receiveJump = RawRing(isPacked: false)
        receiveJump.show(0, index: 40000)
        #expect(receiveJump.receive().kind == .availableIndexJump)
        let unfinished = RawRing(isPacked: true)
        unfinished.set(0, unfinished.buffer(0), 64, 1)
        #expect(unfinished.transmit().kind == .chainIncomplete)
        let endless = RawRing(isPacked: true)
        for i in 0..<8 { endless.set(i, endless.buffer(i), 64, 1) }
        // The ninth would be the first again, of the next lap: never available.
        #expect([.chainIncomplete, .chainTooLong].contains(endless.transmit().kind))
    }

    @Test("less than the net header", arguments: formats)
    func short(isPacked: Bool) {
        for length: UInt32 in [0, 1, 11] {
            let r = RawRing(isPacked: isPacked)
            r.set(0, r.buffer(0), length)
            r.show(0)
            #expect(r.transmit().kind == .chainTooShort, "\(length)")
        }
    }

    @Test("a buffer id of a packed ring that is beyond the queue is handed back as it came, never used as an index")
    func bufferID() {
        let r = RawRing(isPacked: true)
        r.set(0, r.buffer(0), 100, 0, id: 65535)
        #expect(r.transmit().kind == .none && r.burst.count == 1)
        r.queue.complete(r.burst.packets, 1)
        #expect((r.memory + 12).load(as: UInt16.self) == 65535)
    }

    @Test("descriptors that are made available again before they were used lead nobody out of a packed ring")
    func laps() {
        // Two descriptors, taken lap after lap: a driver on another core can do it within one burst.
        func ring() -> RawRing { RawRing(isPacked: true, size: 2, features: [.inOrder]) }
        func take(_ r: RawRing, laps: Int) -> [PacketSlot] {
            var all: [PacketSlot] = []
            for lap in 0..<laps {
                for i in 0..<2 {
                    r.set(i, r.buffer(i), 76, id: UInt16(i))
                    (r.memory + 16 * i + 14).storeBytes(of: lap % 2 == 0 ? 0x80 : 0x8000, as: UInt16.self)
                }
                _ = r.transmit()
                all += (0..<r.burst.count).map { r.burst.packets[$0] }
            }
            return all
        }
        let completed = ring()
        let five = Array(take(completed, laps: 3).prefix(5))
        completed.queue.complete(five, five.count)
        #expect(five.count == 5)
        // Two whole laps and one slot.
        #expect(completed.queue.position.used == 1 && completed.queue.position.usedWrap)

        let returned = ring()
        let six = take(returned, laps: 3)
        returned.queue.unpop(six, six.count)
        #expect(six.count == 6 && returned.queue.position == RingPosition())
    }

    @Test("a driver that makes a packed ring's descriptors available all the time")
    func racer() {
        let r = RawRing(isPacked: true, size: 2, features: [.inOrder, .indirectDesc])
        let fresh = r.queue
        final class Flag: @unchecked Sendable { let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1) }
        let stop = Flag()
        stop.word.pointee = 0
        // Long tables take time, in which the descriptors change.
        r.set(0, r.buffer(0), 76, table: 32768)
        for i in 0..<2 { r.set(i, r.guest + 32768, 16 * 512) }
        nonisolated(unsafe) let memory = r.memory
        let thread = Thread {
            while CPlat_load32_relaxed(stop.word) == 0 {
                for flags: UInt64 in [0x84, 0x8004] {
                    for i in 0..<2 { CPlat_store64_relaxed(memory + 16 * i + 8, 16 * 512 | flags << 48) }
                }
            }
        }
        var (most, round) = (0, 0)
        // Until it had its effect, which it has at once where there is a second core.
        while round < 100_000 || (round < 30_000_000 && most <= 4) {
            round += 1
            if r.queue.defect.kind != .none { r.queue = fresh }
            let n = r.queue.popTransmit(&r.burst, limit: 64)
            most = max(most, n)
            r.queue.complete(r.burst.packets, n)
            if r.queue.position.used >= 2 {
                Issue.record("used is \(r.queue.position.used) after \(n) packets")
                break
            }
        }
        CPlat_store32_relaxed(stop.word, 1)
        thread.join()
        stop.word.deallocate()
    }

    @Test(
        "chains of empty buffers, as long as the ring, stop the queue before they cost time", arguments: [false, true])
    func empty(isIndirect: Bool) {
        let (size, table, driverArea, frame) = (32768, isIndirect ? 2 << 20 : 0, 1 << 20, 3 << 20)
        let memory = zeroed(4 << 20)
        defer { memory.deallocate() }
        func write(_ at: Int, _ address: Int, _ length: Int, _ flags: Int, _ next: Int) {
            (memory + at).storeBytes(of: UInt64(address), as: UInt64.self)
            (memory + at + 8).storeBytes(of: UInt64(length) | UInt64(flags) << 32 | UInt64(next) << 48, as: UInt64.self)
        }
        var region = MappedRegion(guestAddress: 0, size: 4 << 20, userAddress: 0, host: memory)
        var burst = Burst()
        let scratch = DeliveryScratch()
        defer {
        }
        // A chain of all descriptors of the ring or of a table, named by every entry of the available ring.
        func queue(_ flags: Int, _ region: UnsafePointer<MappedRegion>) -> DeviceQueue {
            for i in 0..<size { write(table + 16 * i, 0, 0, flags | (i + 1 < size ? 1 : 0), (i + 1) % size) }
            if isIndirect { write(0, table, 16 * size, 4, 0) }
            (memory + driverArea + 2).storeBytes(of: UInt16(size), as: UInt16.self)
            return DeviceQueue(
                RingSetup(
                    size: UInt32(size), isPacked: false, descriptors: memory, driverArea: memory + driverArea,
                    deviceArea: memory + driverArea + (1 << 17),
                    position: RingPosition(), features: [.version1, .mrgRxbuf, .indirectDesc],
                    map: MemoryMap(regions: region, count: 1)))
        }
        withUnsafePointer(to: &region) { region in
            var receive = queue(2, region)
            burst.packets[0].place(memory + frame, 64)
            _ = receive.deliver(burst, burst.identity, 1, with: scratch)
            #expect(receive.defect.kind == .chainTooLong)
            var transmit = queue(0, region)
            write(table, frame, 76, 1, 1)
            let taken = transmit.popTransmit(&burst, limit: 64)
            #expect(taken == 0 && transmit.defect.kind == .chainTooLong)
            // Some are harmless.
            var some = queue(0, region)
            write(table, frame, 76, 1, 1)
            write(table + 16 * 1000, 0, 0, 0, 0)
            let all = some.popTransmit(&burst, limit: 64)
            #expect(all == 64 && burst.packets[63].length == 64 && some.defect.kind == .none)
        }
    }

    @Test("receive buffers of zero length cost the packet, not the thread", arguments: formats)
    func emptyReceiveBuffers(isPacked: Bool) {
        let r = RawRing(isPacked: isPacked, features: [.mrgRxbuf])
        for i in 0..<8 { r.set(i, r.buffer(i), 0, 2, id: UInt16(i)) }
        r.show(0, 1, 2, 3, 4, 5, 6, 7)
        #expect(r.receive().kind == .none)
    }

    @Test("a stopped queue stays stopped and does nothing", arguments: formats)
    func stopped(isPacked: Bool) {
        let r = RawRing(isPacked: isPacked)
        r.set(0, 0, 64)
        r.show(0)
        let first = r.transmit()
        r.set(0, r.buffer(0), 64)
        #expect(r.transmit() == first && r.burst.count == 0)
        #expect(!r.queue.hasWork)
        #expect(r.receive() == first)
    }

    @Test("each defect's text names its operand")
    func texts() {
        for kind in RingDefect.Kind.allCases where kind != .none {
            let text = RingDefect(kind, index: 17, value: 0xabcd, length: 4096).description
            #expect(text.contains("17") || text.contains("abcd") || text.contains("43981"), "\(kind): \(text)")
        }
        #expect(
            RingDefect(.address, index: 17, value: 0x1000, length: 4096).description
                == "descriptor 17 points outside guest memory: 0x1000+4096")
    }

    /// Memory that changes under the device's hands: nothing it is given lies outside, nothing crashes.
    @Test(
        "a driver that scribbles over its ring all the time", arguments: formats,
        [Features.indirectDesc, [.mrgRxbuf, .indirectDesc, .eventIdx, .inOrder]])
    func scribbler(isPacked: Bool, features: Features) {
        let r = RawRing(isPacked: isPacked, size: 16, features: features)
        final class Flag: @unchecked Sendable { let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1) }
        let stop = Flag()
        stop.word.pointee = 0
        nonisolated(unsafe) let memory = r.memory
        let thread = Thread {
            var random = Random(seed: 77)
            while CPlat_load32_relaxed(stop.word) == 0 {
                // Plausible nonsense: descriptors that point near the region, indices near the queue.
                let i = random.below(16)
                let at = memory + (random.chance(80) ? 0 : 12288) + 16 * i
                let address = 0x4000_0000 + UInt64(random.below(random.chance(90) ? 60000 : 70000))
                CPlat_store64_relaxed(at, random.chance(95) ? address : random.next())
                let flags = UInt64(random.below(8)) | (random.chance(50) ? 0x80 : 0x8000)
                let length = UInt64(random.below(3000))
                let word =
                    isPacked
                    ? length | UInt64(i) << 32 | flags << 48
                    : length | (flags & 7) << 32 | UInt64(random.below(17)) << 48
                CPlat_store64_relaxed(at + 8, word)
                if !isPacked {
                    CPlat_store16_relaxed(memory + 4096 + 4 + 2 * i, UInt16(random.below(17)))
                    CPlat_store16_relaxed(memory + 4096 + 2, UInt16(truncatingIfNeeded: random.next()))
                }
            }
        }
        var defects = Set<RingDefect.Kind>()
        var popped = 0
        // Until the scribbler had its effect, which it has at once where there is a second core.
        var round = -1
        while round < rounds(300_000) || (round < 30_000_000 && (defects.count < 3 || popped == 0)) {
            round += 1
            // A queue that stopped starts again somewhere.
            if r.queue.defect.kind != .none {
                defects.insert(r.queue.defect.kind)
                var setup = RingSetup(
                    size: 16, isPacked: isPacked, descriptors: r.memory, driverArea: r.memory + 4096,
                    deviceArea: r.memory + 8192,
                    position: RingPosition(
                        available: UInt16(round % 16), used: UInt16(round % 16), availableWrap: round & 16 == 0,
                        usedWrap: round & 16 == 0),
                    features: r.queue.features, map: r.queue.map)
                if !isPacked { setup.position.available = CPlat_load16_relaxed(r.memory + 4098) &- UInt16(round % 18) }
                r.queue = DeviceQueue(setup)
            }
            if round & 1 == 0 {
                let n = r.queue.popTransmit(&r.burst, limit: 64)
                for i in 0..<n {
                    let p = r.burst.packets[i]
                    var (sum, all) = (0, [Segment(base: p.data, length: p.dataLength)])
                    for k in 0..<Int(p.moreCount) { all.append(p.more![k]) }
                    for s in all where s.length > 0 {
                        let offset = s.base - r.memory
                        if offset < 0 || offset + Int(s.length) > 1 << 16 {
                            Issue.record("a segment lies outside")
                            return
                        }
                        sum += Int(s.length)
                    }
                    if sum != Int(p.length) {
                        Issue.record("lengths differ")
                        return
                    }
                }
                popped += n
                r.queue.complete(r.burst.packets, n)
            } else {
                _ = r.receive()
            }
        }
        CPlat_store32_relaxed(stop.word, 1)
        thread.join()
        stop.word.deallocate()
        #expect(defects.count >= 3, "\(defects)")
        #expect(popped > 0)
    }

    @Test("a device that scribbles over its part stops the driver's queue with a typed error", arguments: formats)
    func hostileDevice(isPacked: Bool) {
        var random = Random(seed: 3)
        var kinds = Set<RingDefect.Kind>()
        for _ in 0..<rounds(3000) {
            let pair = RingPair(
                size: 8, isPacked: isPacked, features: isPacked ? [.version1, .ringPacked] : [.version1],
                arenaBytes: 4096, random: &random)
            var buffers = (0..<8).map { DriverBuffer(base: pair.arena + $0 * 128, length: 128, token: UInt32($0)) }
            let added = pair.driver.addReceive(&buffers, 8)
            #expect(added == 8)
            pair.driver.publish()
            var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 8)
            for i in 0..<8 {
                if isPacked {
                    let at = pair.driver.descriptors + 16 * i
                    (at + 8).storeBytes(of: UInt32(random.below(200)), as: UInt32.self)
                    (at + 12).storeBytes(of: UInt16(random.below(10)), as: UInt16.self)
                    (at + 14).storeBytes(of: 0x8082, as: UInt16.self)
                } else {
                    let at = pair.driver.deviceArea + 4 + 8 * i
                    at.storeBytes(of: UInt32(random.below(10)), as: UInt32.self)
                    (at + 4).storeBytes(of: UInt32(random.below(200)), as: UInt32.self)
                    (pair.driver.deviceArea + 2).storeBytes(of: UInt16(random.below(12)), as: UInt16.self)
                }
            }
            let n = pair.driver.reclaim(into: &completions, max: 8)
            for c in completions[0..<n] { #expect(c.token < 8 && c.length <= 128) }
            #expect(Set(completions[0..<n].map(\.token)).count == n, "a chain came back twice")
            if pair.driver.isStopped { kinds.insert(pair.driver.defect.kind) }
        }
        #expect(kinds.contains(.usedLength) && (kinds.contains(.usedID) || kinds.contains(.bufferID)), "\(kinds)")
    }
}

/// A POSIX thread that can be waited for.
final class Thread: @unchecked Sendable {
    private var id = pthread_t()
    private let body: () -> Void

    init(_ body: @escaping () -> Void) {
        self.body = body
        pthread_create(
            &id, nil,
            { raw in
                Unmanaged<Thread>.fromOpaque(raw!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
    }

    func join() { pthread_join(id, nil) }
}
