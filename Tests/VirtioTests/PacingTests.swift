import Glibc
import Testing
import Virtio

/// What keeps the device side from disturbing a busy driver: leaving entries alone, holding completions back, reading
/// the available index rarely.
@Suite struct PacingTests {
    static let shapes = Shape.all(split: [64], packed: [64], of: [.inOrder, .eventIdx])

    @Test("completions that are held back are told together, in every format", arguments: shapes)
    func held(_ shape: Shape) {
        var random = Random(seed: shape.seed)
        let pair = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features, arenaBytes: 8192, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
        let canHold = pair.device.bestHold > 0
        for _ in 0..<500 {
            _ = pair.driver.armCalls()
            var sent = 0
            for _ in 0..<random.within(1...4) {
                let n = random.within(1...12)
                var buffers = (0..<n).map { DriverBuffer(base: pair.arena + $0 * 64, length: 60, token: UInt32($0)) }
                let added = pair.driver.addTransmit(&buffers, n)
                #expect(added == n)
                pair.driver.publish()
                let popped = pair.device.popTransmit(&burst, limit: 64)
                #expect(popped == n)
                pair.device.complete(burst.packets, n, hold: canHold)
                sent += n
            }
            if canHold {
                #expect(pair.device.held == sent)
                let early = pair.driver.reclaim(into: &completions, max: 64)
                #expect(early == 0)
            }
            pair.device.publishHeld()
            #expect(pair.device.held == 0)
            let wantsCall = pair.device.needsCall()
            #expect(wantsCall)
            var back = 0
            while true {
                let n = pair.driver.reclaim(into: &completions, max: 64)
                if n == 0 { break }
                back += n
            }
            #expect(back == sent)
            #expect(pair.device.defect.kind == .none && !pair.driver.isStopped)
        }
    }

    @Test(
        "what is held back is counted from the first that is, whatever the driver was called for",
        arguments: [false, true])
    func heldWithoutCalls(isPacked: Bool) {
        var random = Random(seed: 4)
        let features: Features = isPacked ? [.version1, .inOrder, .ringPacked] : [.version1, .inOrder]
        let pair = RingPair(
            size: 24 + (isPacked ? 0 : 8), isPacked: isPacked, features: features, arenaBytes: 8192, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
        // A driver without a call descriptor is never asked whether it wants one.
        for held in [0, 5, 24, 7, 1, 0, 13, 24] {
            for (n, holds) in [(24, false), (held, true)] where n > 0 {
                var buffers = (0..<n).map { DriverBuffer(base: pair.arena + $0 * 64, length: 60, token: UInt32($0)) }
                let added = pair.driver.addTransmit(&buffers, n)
                pair.driver.publish()
                let popped = pair.device.popTransmit(&burst, limit: 64)
                #expect(added == n && popped == n)
                pair.device.complete(burst.packets, n, hold: holds)
                if !holds {
                    let back = pair.driver.reclaim(into: &completions, max: 64)
                    #expect(back == n && pair.device.held == 0)
                }
            }
            #expect(pair.device.held == held)
            pair.device.publishHeld()
            let back = pair.driver.reclaim(into: &completions, max: 64)
            #expect(back == held && pair.device.held == 0)
        }
    }

    static let small = Shape.all(
        split: [2, 4, 8, 16, 32], packed: [2, 3, 5, 8, 13, 24, 33], of: [.inOrder, .eventIdx])

    @Test(
        """
        bursts that are put back in part, held back and told come back once, in order, with a call for a driver that \
        waits
        """,
        arguments: small)
    func mixed(_ shape: Shape) {
        var random = Random(seed: shape.seed)
        let pair = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features.union(.indirectDesc),
            arenaBytes: 16384, indirectLength: 2, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
        let size = Int(shape.size)
        var (sent, taken, back) = (0, 0, 0)
        var (isAsleep, isCalled) = (false, false)
        for step in 0..<rounds(20_000) {
            // The driver: adds chains of one or two descriptors, in place or in a table; looks when it is called, or
            // when it polls.
            for _ in 0..<random.below(size + 1) {
                let length = 20 + sent % 40
                let parts = segments(pair.arena + (sent % 128) * 128, length + 12, into: random.within(1...2), &random)
                if !pair.driver.add(
                    readable: parts, parts.count, writable: nil, 0, token: UInt32(sent & 0xffff),
                    indirect: random.chance(30))
                {
                    break
                }
                (pair.arena + (sent % 128) * 128).initializeMemory(as: UInt8.self, repeating: 0, count: 12)
                sent += 1
            }
            pair.driver.publish()
            if !isAsleep || isCalled {
                isCalled = false
                while true {
                    let n = pair.driver.reclaim(into: &completions, max: random.within(1...64))
                    if n == 0 { break }
                    for i in 0..<n {
                        if completions[i].token != UInt32(back & 0xffff) {
                            Issue.record("step \(step): \(completions[i].token) instead of \(back & 0xffff)")
                            return
                        }
                        back += 1
                    }
                }
                isAsleep = random.chance(50) && !pair.driver.armCalls()
            }
            // The device, as a poll thread uses it.
            let leave = random.chance(50) ? random.below(size) : 0
            let n = pair.device.popTransmit(
                &burst, limit: random.within(1...64), leave: leave, least: random.within(1...max(1, size / 2)))
            let consumed = random.chance(70) ? n : random.below(n + 1)
            for i in 0..<consumed where Int(burst.packets[i].length) != 20 + (taken + i) % 40 {
                Issue.record(
                    "step \(step): a frame of \(burst.packets[i].length) bytes instead of \(20 + (taken + i) % 40)")
                return
            }
            if consumed < n {
                if consumed == 0 { pair.device.publishHeld() }
                pair.device.unpop(burst.packets + consumed, n - consumed)
            }
            let holds = pair.device.bestHold > 0 && consumed == n && random.chance(60)
            pair.device.complete(burst.packets, consumed, hold: holds)
            taken += consumed
            if random.chance(30) { pair.device.publishHeld() }
            if pair.device.held == 0 && pair.device.needsCall() { isCalled = true }
            if pair.device.held > size || pair.device.defect.kind != .none || pair.driver.isStopped {
                Issue.record("step \(step): \(pair.device.held) held, \(pair.device.defect), \(pair.driver.defect)")
                return
            }
            // Nothing is left behind when it comes to rest.
            if step % 100 == 99 {
                while true {
                    let n = pair.device.popTransmit(&burst, limit: 64)
                    if n == 0 { break }
                    pair.device.complete(burst.packets, n)
                    taken += n
                }
                pair.device.publishHeld()
                if pair.device.needsCall() { isCalled = true }
                let isWaiting = isAsleep && pair.driver.hasUsed && !isCalled
                if isWaiting || taken != sent {
                    Issue.record("step \(step): \(sent) sent, \(taken) taken, \(back) back; called: \(isCalled)")
                    return
                }
            }
        }
        #expect(back > rounds(1000))
    }

    @Test("a busy ring is taken by whole bursts, its newest entries left alone", arguments: [false, true])
    func leaves(isPacked: Bool) {
        var random = Random(seed: 3)
        let pair = RingPair(
            size: 256, isPacked: isPacked, features: isPacked ? [.version1, .ringPacked] : [.version1],
            arenaBytes: 32768, random: &random)
        var burst = Burst()
        func add(_ n: Int) {
            var buffers = (0..<n).map { DriverBuffer(base: pair.arena + $0 * 64, length: 60, token: UInt32($0)) }
            let added = pair.driver.addTransmit(&buffers, n)
            #expect(added == n)
            pair.driver.publish()
        }
        add(47)
        let tooFew = pair.device.popTransmit(&burst, limit: 64, leave: 16, least: 32)
        #expect(tooFew == 0)
        add(1)
        let enough = pair.device.popTransmit(&burst, limit: 64, leave: 16, least: 32)
        #expect(enough == 32)
        pair.device.complete(burst.packets, enough)
        let rest = pair.device.popTransmit(&burst, limit: 64)
        #expect(rest == 16)
    }

    @Test("a packet that needs more buffers than the index last told gets those that came since")
    func indexMovedOn() {
        var random = Random(seed: 5)
        let features: Features = [.version1, .mrgRxbuf]
        let pair = RingPair(size: 64, isPacked: false, features: features, arenaBytes: 8192, random: &random)
        let burst = Burst()
        let scratch = DeliveryScratch()
        defer {
        }
        func give(_ n: Int) {
            var buffers = (0..<n).map {
                DriverBuffer(base: pair.arena + 4096 + $0 * 100, length: 100, token: UInt32($0))
            }
            let added = pair.driver.addReceive(&buffers, n)
            #expect(added == n)
            pair.driver.publish()
        }
        func deliver(_ length: UInt32) -> Int {
            burst.packets[0].place(pair.arena, length)
            return pair.device.deliver(burst, burst.identity, 1, with: scratch).delivered
        }
        give(2)
        #expect(deliver(50) == 1)
        // One buffer is known of, two are needed.
        #expect(deliver(150) == 0)
        give(5)
        #expect(deliver(150) == 1)
        #expect(pair.device.defect.kind == .none)
    }

    @Test("a net header that is there already is not written again", arguments: [false, true])
    func headerIsThere(isPacked: Bool) {
        var random = Random(seed: 11)
        let features: Features = isPacked ? [.version1, .mrgRxbuf, .ringPacked] : [.version1, .mrgRxbuf]
        let pair = RingPair(size: 64, isPacked: isPacked, features: features, arenaBytes: 16 * 4096, random: &random)
        // A page in one of the two regions, with the header at its end and the frame on the next one.
        let border = Int(pair.regions[1].size)
        let page = pair.arena + (border > 8 * 4096 ? 0 : (border + 4095) & ~4095)
        let burst = Burst()
        let scratch = DeliveryScratch()
        var done = [DriverCompletion](repeating: .init(token: 0, length: 0), count: 64)
        func deliver(_ header: NetHeader) -> Int {
            var buffer = DriverBuffer(base: page + 4096 - 12, length: 100, token: 0)
            let added = pair.driver.addReceive(&buffer, 1)
            pair.driver.publish()
            burst.packets[0].place(page + 3 * 4096, 60)
            burst.packets[0].header = header
            let delivered = pair.device.deliver(burst, burst.identity, 1, with: scratch).delivered
            let reclaimed = pair.driver.reclaim(into: &done, max: 64)
            return added == 1 && reclaimed == 1 ? delivered : 0
        }
        func stands() -> NetHeader { (page + 4096 - 12).loadUnaligned(as: NetHeader.self) }
        var other = NetHeader()
        other.csumOffset = 6
        for header in [NetHeader(), other] {
            #expect(deliver(header) == 1)
            var expected = header
            expected.numBuffers = 1
            #expect(stands() == expected)
            // Whoever writes it now ends by a signal.
            mprotect(page, 4096, PROT_READ)
            #expect(deliver(header) == 1)
            mprotect(page, 4096, PROT_READ | PROT_WRITE)
        }
        #expect(pair.device.defect.kind == .none)
    }
}
