import CPlatform
import Glibc
import Testing
import Virtio

/// What one burst, one packet or one chain may touch, and how much of it.
@Suite struct BoundsTests {
    static let formats = [false, true]

    @Test(
        "two threads deliver one burst into two drivers' buffers: each frame is whole, in its own memory",
        arguments: formats, formats)
    func sharedBurst(isPacked: Bool, isMergeable: Bool) {
        var features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
        if isMergeable { features.insert(.mrgRxbuf) }
        var random = Random(seed: 11)
        let (count, length) = (64, 300)
        // Mergeable: each frame takes several buffers, the slow path.
        let room = isMergeable ? 128 : 512
        let need = isMergeable ? 3 : 1
        let source = zeroed(count * length)
        defer { source.deallocate() }
        var burst = Burst()
        for i in 0..<count {
            for k in 0..<length {
                source.storeBytes(
                    of: UInt8(truncatingIfNeeded: i &* 31 &+ k), toByteOffset: i * length + k, as: UInt8.self)
            }
            burst.packets[i].place(source + i * length, UInt32(length))
        }
        burst.count = count
        final class Receiver: @unchecked Sendable {
            let pair: RingPair
            let scratch = DeliveryScratch()
            var wrong = 0
            init(_ pair: RingPair) { self.pair = pair }
        }
        let receivers = (0..<2).map { _ in
            Receiver(
                RingPair(size: 256, isPacked: isPacked, features: features, arenaBytes: 256 * 512, random: &random))
        }
        nonisolated(unsafe) let shared = burst
        let threads = receivers.map { r in
            Thread {
                var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 256)
                for _ in 0..<1000 {
                    var buffers = (0..<need * count).map {
                        DriverBuffer(base: r.pair.arena + $0 * 512, length: UInt32(room), token: UInt32($0))
                    }
                    if r.pair.driver.addReceive(&buffers, buffers.count) != buffers.count { r.wrong += 1 }
                    r.pair.driver.publish()
                    let result = r.pair.device.deliver(shared, shared.identity, count, with: r.scratch)
                    if result.delivered != count { r.wrong += 1 }
                    let n = r.pair.driver.reclaim(into: &completions, max: 256)
                    if n != need * count {
                        r.wrong += 1
                        return
                    }
                    for i in 0..<count {
                        var at = 0
                        for k in 0..<need {
                            let c = completions[i * need + k]
                            let skip = k == 0 ? 12 : 0
                            let got = r.pair.arena + Int(c.token) * 512 + skip
                            let n = Int(c.length) - skip
                            if at + n > length || memcmp(got, source + i * length + at, n) != 0 { r.wrong += 1 }
                            at += n
                        }
                        if at != length { r.wrong += 1 }
                    }
                }
            }
        }
        for t in threads { t.join() }
        for r in receivers { #expect(r.wrong == 0 && r.pair.device.defect == .none) }
    }

    /// A split ring of 32768 whose chain 0 has `direct` descriptors and then, if `indirect` is not 0, a table.
    private func long(
        direct: Int, indirect: Int, flags: Int,
        _ body: (inout DeviceQueue, inout Burst, UnsafeMutableRawPointer) -> Void
    ) {
        let memory = zeroed(4 << 20)
        defer { memory.deallocate() }
        func write(_ at: Int, _ address: Int, _ length: Int, _ flags: Int, _ next: Int) {
            (memory + at).storeBytes(of: UInt64(address), as: UInt64.self)
            (memory + at + 8).storeBytes(
                of: UInt64(length) | UInt64(flags) << 32 | UInt64(next & 0xffff) << 48, as: UInt64.self)
        }
        let (driverArea, table, data) = (1 << 20, 2 << 20, 3 << 20)
        for i in 0..<direct {
            let isLast = i == direct - 1 && indirect == 0
            write(16 * i, data + i, i == 0 ? 13 : 1, flags | (isLast ? 0 : 1), i + 1)
        }
        if indirect > 0 { write(16 * direct, table, 16 * indirect, 4, 0) }
        for i in 0..<indirect {
            write(table + 16 * i, data + direct + i, 1, flags | (i == indirect - 1 ? 0 : 1), i + 1)
        }
        (memory + driverArea + 2).storeBytes(of: UInt16(1), as: UInt16.self)
        var region = MappedRegion(guestAddress: 0, size: 4 << 20, userAddress: 0, host: memory)
        withUnsafePointer(to: &region) { region in
            var queue = DeviceQueue(
                RingSetup(
                    size: 32768, isPacked: false, descriptors: memory, driverArea: memory + driverArea,
                    deviceArea: memory + driverArea + (1 << 17), position: RingPosition(),
                    features: [.version1, .indirectDesc], map: MemoryMap(regions: region, count: 1)))
            var burst = Burst()
            body(&queue, &burst, memory + data)
        }
    }

    @Test(
        """
        a chain of more pieces than a packet may have is a packet of no length, which screening drops; the queue goes \
        on
        """
    )
    func longChain() {
        // As many as a burst has room for: 32,896 (the review's input), and the least that is too many.
        for (direct, indirect) in [(32767, 129), (1025, 0)] {
            long(direct: direct, indirect: indirect, flags: 0) { queue, burst, _ in
                let n = queue.popTransmit(&burst, limit: 64)
                #expect(n == 1 && queue.defect == .none)
                #expect(burst.packets[0].length == 0 && burst.packets[0].moreCount == 0 && burst.needsScreening)
                queue.complete(burst.packets, n)
                #expect(queue.position.used == 1)
            }
        }
        long(direct: 1024, indirect: 0, flags: 0) { queue, burst, _ in
            _ = queue.popTransmit(&burst, limit: 64)
            #expect(burst.packets[0].length == 1024 && burst.packets[0].moreCount == 1023 && !burst.needsScreening)
        }
        long(direct: 32767, indirect: 131, flags: 0) { queue, burst, _ in
            _ = queue.popTransmit(&burst, limit: 64)
            #expect(queue.defect.kind == .chainTooLong)
        }
    }

    @Test("a receive chain of 32,767 one-byte buffers stops its queue after a bounded part of it")
    func tinyBuffers() {
        long(direct: 32767, indirect: 0, flags: 2) { queue, burst, data in
            let scratch = DeliveryScratch()
            for i in 0..<64 { burst.packets[i].place(data, 9000) }
            let result = queue.deliver(burst, burst.identity, 64, with: scratch)
            #expect(result.consumed == 0 && queue.defect.kind == .chainTooLong && queue.defect.value == 2048)
        }
    }

    @Test("a chain that is too small drops what does not fit, and takes what does", arguments: formats)
    func tooSmall(isPacked: Bool) {
        var random = Random(seed: 1)
        let pair = RingPair(
            size: 64, isPacked: isPacked, features: isPacked ? [.version1, .ringPacked] : [.version1], arenaBytes: 8192,
            random: &random)
        let burst = Burst()
        let scratch = DeliveryScratch()
        defer {
        }
        var pieces = (0..<4).map { Segment(base: pair.arena + $0 * 100, length: 100) }
        for token in 0..<2 {
            #expect(pair.driver.add(readable: nil, 0, writable: &pieces, 4, token: UInt32(token)))
        }
        pair.driver.publish()
        for (i, length) in [500, 400, 388, 389, 1000, 60, 60].enumerated() {
            burst.packets[i].place(pair.arena + 4096, UInt32(length))
        }
        let result = pair.device.deliver(burst, burst.identity, 7, with: scratch)
        #expect(result.consumed == 6 && result.delivered == 2 && pair.device.defect == .none)
    }

    @Test(
        "one call of deliver goes through a bounded number of pieces and leaves the rest to the next",
        arguments: formats)
    func boundedWork(isPacked: Bool) {
        var random = Random(seed: 2)
        let features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
        let pair = RingPair(size: 32768, isPacked: isPacked, features: features, arenaBytes: 8192, random: &random)
        let burst = Burst()
        let scratch = DeliveryScratch()
        defer {
        }
        var pieces = (0..<1500).map { Segment(base: pair.arena + $0, length: 1) }
        for token in 0..<20 {
            #expect(pair.driver.add(readable: nil, 0, writable: &pieces, 1500, token: UInt32(token)))
        }
        pair.driver.publish()
        for i in 0..<20 { burst.packets[i].place(pair.arena + 4096, 1488) }
        var total = 0
        var calls = 0
        while total < 20 && calls < 20 {
            let result = pair.device.deliver(burst, burst.identity, 20 - total, with: scratch)
            #expect(result.consumed > 0 && result.consumed <= 11, "16384 pieces and one packet more")
            total += result.consumed
            calls += 1
        }
        #expect(total == 20 && calls == 2 && pair.device.defect == .none)
    }

    @Test("addresses in any of 509 sorted regions are found, and those between them are not")
    func manyRegions() {
        let memory = zeroed(509 * 64)
        let count = 509
        let regions = UnsafeMutablePointer<MappedRegion>.allocate(capacity: count)
        defer {
            regions.deallocate()
            memory.deallocate()
        }
        for i in 0..<count {
            (regions + i).initialize(
                to: MappedRegion(
                    guestAddress: UInt64(i) * 128 + 64, size: 64, userAddress: 0, host: memory + 64 * i))
        }
        let burst = Burst()
        let scratch = DeliveryScratch()
        defer {
        }
        let ring = zeroed(1 << 14)
        let frame = zeroed(64)
        defer {
            ring.deallocate()
            frame.deallocate()
        }
        frame.storeBytes(of: 0xa5, as: UInt8.self)
        func deliver(_ address: UInt64, _ length: UInt32) -> RingDefect.Kind {
            memset(ring, 0, 1 << 14)
            ring.storeBytes(of: address, as: UInt64.self)
            (ring + 8).storeBytes(of: UInt64(length) | 2 << 32, as: UInt64.self)
            (ring + 4096 + 2).storeBytes(of: 1, as: UInt16.self)
            var queue = DeviceQueue(
                RingSetup(
                    size: 8, isPacked: false, descriptors: ring, driverArea: ring + 4096, deviceArea: ring + 8192,
                    position: RingPosition(), features: [.version1], map: MemoryMap(sorted: regions, count: count)))
            burst.packets[0].place(frame, 14)
            _ = queue.deliver(burst, burst.identity, 1, with: scratch)
            return queue.defect.kind
        }
        for i in 0..<count {
            let at = UInt64(i) * 128 + 64
            #expect(deliver(at, 64) == .none && (memory + 64 * i + 12).load(as: UInt8.self) == 0xa5)
            #expect(deliver(at - 1, 64) == .address && deliver(at, 65) == .address && deliver(at + 64, 64) == .address)
        }
        #expect(deliver(0, 64) == .address && deliver(UInt64.max, 64) == .address)
    }

    @Test("an indirect table at an odd address")
    func oddTable() {
        let r = RawRing(isPacked: false, features: [.indirectDesc])
        r.set(0, r.guest + 12289, 32, 4)
        for (i, length) in [UInt64(12), 64].enumerated() {
            let at = r.memory + 12289 + 16 * i
            at.storeBytes(of: r.buffer(i), as: UInt64.self)
            (at + 8).storeBytes(of: length | (i == 0 ? 1 << 32 | 1 << 48 : 0), as: UInt64.self)
        }
        r.show(0)
        #expect(r.transmit() == .none && r.burst.count == 1 && r.burst.packets[0].length == 64)
    }
}
