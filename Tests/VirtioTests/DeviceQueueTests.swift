import Testing
import Virtio

/// Device side against driver side: frames go from one driver's transmit queue into another's
/// receive queue and are compared byte by byte.
@Suite struct DeviceQueueTests {
    static let shapes = Shape.all(
        split: [2, 4, 64, 256], packed: [2, 3, 7, 64, 250, 256], of: [.indirectDesc, .eventIdx, .inOrder, .mrgRxbuf])
    static let large = Shape.all(split: [32768], packed: [32767, 32768], of: [.inOrder])

    @Test("frames of random shapes cross unchanged and in order", arguments: shapes)
    func cross(_ shape: Shape) throws { try Crossing(shape).run(frames: rounds(12_000)) }

    @Test("the largest rings wrap", arguments: large)
    func largest(_ shape: Shape) throws { try Crossing(shape).run(frames: rounds(150_000, least: 40_000)) }

    @Test("a position that was saved goes on in a new queue", arguments: [false, true])
    func restart(isPacked: Bool) throws {
        var shape = Shape(
            size: 16, isPacked: isPacked, features: isPacked ? [.version1, .ringPacked] : [.version1], seed: 5)
        shape.features.insert(.mrgRxbuf)
        let crossing = try Crossing(shape)
        for _ in 0..<50 {
            try crossing.run(frames: 37)
            crossing.restart()
        }
    }

    @Test(
        "the first decision of a queue calls, wherever the driver's event was left behind", arguments: [false, true],
        [false, true])
    func firstCall(isPacked: Bool, hasEventIdx: Bool) {
        var features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
        if hasEventIdx { features.insert(.eventIdx) }
        for before in 1...20 {
            var random = Random(seed: UInt64(before))
            let pair = RingPair(size: 16, isPacked: isPacked, features: features, arenaBytes: 4096, random: &random)
            var burst = Burst()
            var done = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 16)
            func use() {
                var buffer = DriverBuffer(base: pair.arena + 2048, length: 64, token: 0)
                let added = pair.driver.addTransmit(&buffer, 1)
                pair.driver.publish()
                let taken = pair.device.popTransmit(&burst, limit: 1)
                #expect(added == 1 && taken == 1)
                pair.device.complete(burst.packets, 1)
            }
            // Its event lies here, and stays.
            let hasMissed = pair.driver.armCalls()
            #expect(!hasMissed)
            for _ in 0..<before {
                use()
                // What was used in the earlier life, nobody was called for.
                if pair.driver.outstanding == 16 { _ = pair.driver.reclaim(into: &done, max: 16) }
            }
            var setup = pair.driver.deviceSetup(map: pair.map)
            setup.position = pair.device.position
            pair.device = DeviceQueue(setup)
            _ = pair.driver.reclaim(into: &done, max: 16)
            use()
            let first = pair.device.needsCall()
            #expect(first, "\(before) before the start")
            // A new call descriptor calls again.
            pair.device.forgetCalls()
            let again = pair.device.needsCall()
            #expect(again)
        }
    }

    @Test("RingPosition survives GET_VRING_BASE and SET_VRING_BASE")
    func positions() {
        for base: UInt32 in [0x8000_8000, 0x0005_8007, 0x7fff_ffff, 0x8001_0000 | 3] {
            #expect(RingPosition(base: base, isPacked: true).base(isPacked: true) == base)
        }
        // DPDK sends the low half alone.
        #expect(RingPosition(base: 0x8005, isPacked: true) == RingPosition(available: 5, used: 5))
        #expect(RingPosition(base: 65535, isPacked: false).base(isPacked: false) == 65535)
    }

    /// A driver offers some buffers, and a device takes some: the first of the burst, as many as this returns, are to
    /// be given back. The others are taken and not used, as by a back-end that crashed: they are to be taken again.
    private func takeSome(_ pair: RingPair, _ burst: inout Burst, _ random: inout Random) -> Int {
        for _ in 0..<random.within(0...Int(min(pair.device.size, 64))) where pair.driver.free > 0 {
            let s = [Segment(base: pair.arena, length: 64)]
            guard pair.driver.add(readable: s, 1, writable: nil, 0, token: 0, indirect: false) else { break }
        }
        pair.driver.publish()
        let n = pair.device.popTransmit(&burst, limit: random.within(1...64))
        let done = random.within(0...n)
        pair.device.unpop(burst.packets + done, n - done)
        return done
    }

    @Test(
        "where a packed ring stands is seen in the ring, wherever it is, unless chains took several slots",
        arguments: [2, 7, 256])
    func packedPosition(size: UInt32) throws {
        var random = Random(seed: UInt64(size))
        let pair = RingPair(
            size: size, isPacked: true, features: [.version1, .ringPacked], arenaBytes: 4096, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: Int(size))
        // What QEMU says to every new back-end.
        let beginning: UInt32 = 0x8000_8000
        var wraps: Set<Bool> = []
        for _ in 0..<rounds(2000) {
            let done = takeSome(pair, &burst, &random)
            pair.device.complete(burst.packets, done)
            #expect(pair.driver.deviceSetup(map: pair.map).packedPosition(base: beginning) == pair.device.position)
            wraps.insert(pair.device.position.usedWrap)
            if random.chance(50) { _ = pair.driver.reclaim(into: &completions, max: Int(size)) }
        }
        #expect(wraps.count == 2)
    }

    /// Found by killing Ringway under load: the driver waited for that descriptor for ever.
    @Test("a batch that was used all but its first descriptor is made visible", arguments: [3, 7, 256])
    func packedUnpublished(size: UInt32) throws {
        var random = Random(seed: UInt64(size))
        let pair = RingPair(
            size: size, isPacked: true, features: [.version1, .ringPacked], arenaBytes: 4096, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: Int(size))
        var batches = 0
        for round in 0..<rounds(2000) {
            let done = takeSome(pair, &burst, &random)
            let setup = pair.driver.deviceSetup(map: pair.map)
            let first = setup.descriptors + 16 * Int(pair.device.position.used) + 8
            let word = first.load(as: UInt64.self)
            pair.device.complete(burst.packets, done)
            let used = first.load(as: UInt64.self)
            // The last write of the batch is undone. (Of a full transmit ring nothing tells it from a chain.)
            let isFull = pair.driver.free == 0
            if done > 1 && !isFull { first.storeBytes(of: word, as: UInt64.self) }
            #expect(setup.packedPosition(base: 0x8000_8000) == pair.device.position, "round \(round)")
            if done > 1 && !isFull {
                batches += 1
                #expect(first.load(as: UInt64.self) == used, "round \(round)")
            }
            if random.chance(50) { _ = pair.driver.reclaim(into: &completions, max: Int(size)) }
        }
        #expect(batches > 0)
        #expect(pair.driver.isStopped == false)
    }

    @Test(
        """
        a packed ring in order goes on where the driver waits, whatever base it is given: the beginning, where it \
        started, where the driver stands, its own
        """, arguments: [2, 7, 64, 256], 1...3)
    func packedInOrder(size: UInt32, longest: Int) throws {
        var random = Random(seed: UInt64(size) << 8 | UInt64(longest))
        let pair = RingPair(
            size: size, isPacked: true, features: [.version1, .ringPacked, .inOrder], arenaBytes: 4096, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: Int(size))
        // What the driver was told last, and where the driver stands.
        var (told, shown, stale) = (RingPosition(), RingPosition(), RingPosition())
        for round in 0..<rounds(4000) {
            for _ in 0..<random.within(0...Int(min(size, 64))) {
                let n = min(random.within(1...longest), Int(size))
                let s = (0..<n).map { Segment(base: pair.arena + 100 * $0, length: 64) }
                guard pair.driver.add(readable: s, n, writable: nil, 0, token: 0, indirect: false) else { break }
                shown.available += UInt16(n)
                if shown.available >= UInt16(size) {
                    shown.available -= UInt16(size)
                    shown.availableWrap.toggle()
                }
            }
            pair.driver.publish()
            // Where the ring stood a moment ago; not laps ago, when the same numbers meant another place.
            stale = told
            let n = pair.device.popTransmit(&burst, limit: random.within(1...64))
            let done = random.within(0...n)
            pair.device.unpop(burst.packets + done, n - done)
            let hold = random.chance(40) && pair.device.held < Int(size) / 2
            pair.device.complete(burst.packets, done, hold: hold)
            if !hold {
                pair.device.publishHeld()
                told = pair.device.position
            }
            let driver = RingPosition(
                available: shown.available, used: shown.available, availableWrap: shown.availableWrap,
                usedWrap: shown.availableWrap)
            let setup = pair.driver.deviceSetup(map: pair.map)
            for base in [RingPosition(), stale, driver, told] {
                #expect(setup.packedPosition(base: base.base(isPacked: true)) == told, "round \(round), base \(base)")
            }
            if random.chance(50) { _ = pair.driver.reclaim(into: &completions, max: Int(size)) }
        }
        #expect(pair.driver.isStopped == false)
    }

    @Test("a base that a packed ring's chains of several descriptors allow is the front-end's", arguments: [7, 256])
    func packedChains(size: UInt32) throws {
        var random = Random(seed: UInt64(size))
        let pair = RingPair(
            size: size, isPacked: true, features: [.version1, .ringPacked], arenaBytes: 4096, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: Int(size))
        for round in 0..<rounds(4000) {
            for _ in 0..<random.within(0...64) {
                let n = random.within(1...3)
                let s = (0..<n).map { Segment(base: pair.arena + 100 * $0, length: 64) }
                guard pair.driver.add(readable: s, n, writable: nil, 0, token: 0, indirect: false) else { break }
            }
            pair.driver.publish()
            let n = pair.device.popTransmit(&burst, limit: random.within(1...64))
            let done = random.within(0...n)
            pair.device.unpop(burst.packets + done, n - done)
            pair.device.complete(burst.packets, done)
            let base = pair.device.position.base(isPacked: true)
            #expect(
                pair.driver.deviceSetup(map: pair.map).packedPosition(base: base) == pair.device.position,
                "round \(round)")
            if random.chance(50) { _ = pair.driver.reclaim(into: &completions, max: Int(size)) }
        }
    }

    @Test("unpop gives chains back as they were", arguments: [false, true])
    func unpop(isPacked: Bool) {
        var random = Random(seed: 9)
        let features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
        let pair = RingPair(size: 8, isPacked: isPacked, features: features, arenaBytes: 8192, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 8)
        for round in 0..<100 {
            for token in 0..<UInt32(3) {
                let s = segments(pair.arena + Int(token) * 256, 80, into: 1 + Int(token % 2), &random)
                let isAdded = pair.driver.add(readable: s, s.count, writable: nil, 0, token: token)
                #expect(isAdded)
            }
            pair.driver.publish()
            let first = pair.device.popTransmit(&burst, limit: 64)
            #expect(first == 3)
            let back = round % 3 + 1
            pair.device.unpop(burst.packets + (3 - back), back)
            if back < 3 { pair.device.complete(burst.packets, 3 - back) }
            let again = pair.device.popTransmit(&burst, limit: 64)
            #expect(again == back)
            pair.device.complete(burst.packets, back)
            let reclaimed = pair.driver.reclaim(into: &completions, max: 8)
            #expect(reclaimed == 3)
            #expect(pair.device.defect.kind == .none && !pair.driver.isStopped)
        }
    }

    @Test(
        "a kick is never lost: after armKicks either there is work or the driver kicks",
        arguments: shapes.filter { $0.size == 64 })
    func kicks(_ shape: Shape) {
        var random = Random(seed: shape.seed)
        let pair = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features, arenaBytes: 4096, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
        for _ in 0..<rounds(3000) {
            let sleeps = random.chance(50)
            if sleeps {
                let hasWork = pair.device.armKicks()
                #expect(!hasWork)
            } else {
                pair.device.suppressKicks()
            }
            let n = random.within(1...20)
            var buffers = (0..<n).map { DriverBuffer(base: pair.arena + $0 * 64, length: 60, token: UInt32($0)) }
            let added = pair.driver.addTransmit(&buffers, n)
            #expect(added == n)
            pair.driver.publish()
            let kick = pair.driver.needsKick()
            if sleeps { #expect(kick) }
            #expect(pair.device.hasWork)
            while pair.device.popTransmit(&burst, limit: 64) > 0 { pair.device.complete(burst.packets, burst.count) }
            var back = 0
            while back < n { back += pair.driver.reclaim(into: &completions, max: 64) }
            pair.device.suppressKicks()
        }
    }
}

/// Two rings with the same features: frames from the first's driver into the second's.
final class Crossing {
    let shape: Shape
    var random: Random
    let from: RingPair
    let to: RingPair
    var sending: Slots
    var receiving: Slots
    var burst = Burst()
    private let scratch = DeliveryScratch()
    /// Contents of frames under way, oldest first.
    private var expected: [[UInt8]] = []
    private var received = 0
    private var pending: [(token: UInt32, length: Int)] = []
    private let header: Int
    private let isMergeable: Bool
    private static let largestFrame = 1600

    init(_ shape: Shape) throws {
        self.shape = shape
        random = Random(seed: shape.seed)
        let n = min(Int(shape.size), 512)
        isMergeable = shape.features.contains(.mrgRxbuf)
        header = shape.features.netHeaderLength
        let room = isMergeable ? 256 : Crossing.largestFrame + 12
        from = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features, arenaBytes: n * 2048,
            indirectLength: 16, random: &random)
        to = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features, arenaBytes: n * room,
            indirectLength: 16, random: &random)
        sending = Slots(from.arena, bytes: 2048, count: n)
        receiving = Slots(to.arena, bytes: room, count: n)
    }

    deinit {
    }

    /// Both device sides anew from their positions.
    func restart() {
        for pair in [from, to] {
            var setup = pair.driver.deviceSetup(map: pair.map)
            setup.position = RingPosition(
                base: pair.device.position.base(isPacked: shape.isPacked), isPacked: shape.isPacked)
            pair.device = DeviceQueue(setup)
        }
    }

    func run(frames: Int) throws {
        let end = received + frames
        var idle = 0
        while received < end || !expected.isEmpty {
            let before = received
            if received + expected.count < end { send() }
            refill()
            try move()
            try take()
            idle = received == before ? idle + 1 : 0
            try #require(
                idle < 2000,
                "nothing moves: \(from.device.defect) \(to.device.defect) \(from.driver.defect) \(to.driver.defect)")
        }
    }

    /// The first driver sends some frames of random length and shape.
    private func send() {
        for _ in 0..<random.below(40) {
            guard let token = sending.free.last, from.driver.free > 0 else { break }
            // One chain can take a small ring alone: then a frame must fit one buffer.
            let most = isMergeable && shape.size < 64 ? 180 : Crossing.largestFrame
            let length = random.chance(70) ? 14 + random.below(100) : 14 + random.below(most - 13)
            let p = sending[token]
            for i in 0..<header { p.storeBytes(of: 0, toByteOffset: i, as: UInt8.self) }
            let seed = UInt8(truncatingIfNeeded: random.next())
            for i in 0..<length {
                p.storeBytes(
                    of: UInt8(truncatingIfNeeded: Int(seed) &+ i &* 7), toByteOffset: header + i, as: UInt8.self)
            }
            let s = segments(p, header + length, into: random.chance(60) ? 1 : random.within(1...5), &random)
            guard from.driver.add(readable: s, s.count, writable: nil, 0, token: token, indirect: random.chance(50))
            else { break }
            sending.free.removeLast()
            expected.append(Array(UnsafeRawBufferPointer(start: p + header, count: length)))
        }
        from.driver.publish()
    }

    /// The second driver gives buffers of one or several segments.
    private func refill() {
        for _ in 0..<random.below(40) {
            guard let token = receiving.free.last, to.driver.free > 0 else { break }
            let length = isMergeable ? random.within(200...256) : receiving.bytes
            let s = segments(receiving[token], length, into: random.chance(70) ? 1 : random.within(1...4), &random)
            guard to.driver.add(readable: nil, 0, writable: s, s.count, token: token, indirect: random.chance(50))
            else { break }
            receiving.free.removeLast()
        }
        to.driver.publish()
    }

    /// The device: pops a burst, delivers what fits, takes the rest back.
    private func move() throws {
        let limit = random.within(1...64)
        let n = from.device.popTransmit(&burst, limit: limit, leave: random.chance(20) ? random.below(4) : 0)
        try #require(from.device.defect.kind == .none)
        if n == 0 { return }
        let result = to.device.deliver(burst, burst.identity, n, with: scratch)
        try #require(to.device.defect.kind == .none)
        #expect(result.delivered == result.consumed, "a frame that fits was dropped")
        if result.consumed < n { from.device.unpop(burst.packets + result.consumed, n - result.consumed) }
        from.device.complete(burst.packets, result.consumed)
    }

    /// Both drivers take back; the second puts frames together from their buffers.
    private func take() throws {
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
        var n = from.driver.reclaim(into: &completions, max: random.within(1...64))
        for c in completions[0..<n] { sending.free.append(c.token) }
        n = to.driver.reclaim(into: &completions, max: random.within(1...64))
        try #require(!from.driver.isStopped && !to.driver.isStopped)
        for c in completions[0..<n] { pending.append((c.token, Int(c.length))) }
        while let first = pending.first {
            let p = receiving[first.token]
            let buffers = header == 12 ? Int((p + 10).loadUnaligned(as: UInt16.self)) : 1
            try #require(buffers >= 1 && (isMergeable || buffers == 1))
            if pending.count < buffers { return }
            var frame: [UInt8] = []
            for (i, b) in pending[0..<buffers].enumerated() {
                let skip = i == 0 ? header : 0
                try #require(
                    b.length >= skip, "buffer of \(b.length) bytes, frame \(received), in flight \(expected.count)")
                frame += UnsafeRawBufferPointer(start: receiving[b.token] + skip, count: b.length - skip)
                receiving.free.append(b.token)
            }
            pending.removeFirst(buffers)
            try #require(frame == expected.removeFirst(), "frame \(received) differs")
            received += 1
        }
    }
}
