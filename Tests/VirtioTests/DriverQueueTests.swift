import Testing
import Virtio

/// Driver side against a plain reference device: what the specification says, no more.
@Suite struct DriverQueueTests {
    static let shapes = Shape.all(
        split: [2, 4, 8, 64, 256, 1024], packed: [2, 3, 5, 8, 64, 255, 256, 1000],
        of: [.indirectDesc, .eventIdx, .inOrder])
    static let large = Shape.all(split: [32768], packed: [32767, 32768], of: [.inOrder])

    @Test("random chains come back once, with their bytes", arguments: shapes)
    func randomChains(_ shape: Shape) { exchange(shape, chains: rounds(25_000)) }

    @Test("the largest rings wrap", arguments: large)
    func largeRings(_ shape: Shape) { exchange(shape, chains: rounds(200_000, least: 40_000)) }

    @Test("chains before an IN_ORDER batch that reaches too far come back")
    func batchTooFar() {
        let memory = zeroed(DriverQueue.bytes(size: 8, isPacked: false))
        var queue = DriverQueue(size: 8, isPacked: false, memory: memory, features: [.version1, .inOrder])
        defer { memory.deallocate() }
        let buffers = (0..<8).map { DriverBuffer(base: memory, length: 100, token: UInt32($0)) }
        #expect(queue.addReceive(buffers, 8) == 8)
        queue.publish()
        // Chain 0 is used; then chains up to 5, of which two are shown.
        for (i, id) in [UInt32(0), 5].enumerated() {
            (queue.deviceArea + 4 + 8 * i).storeBytes(of: id, as: UInt32.self)
            (queue.deviceArea + 8 + 8 * i).storeBytes(of: 64, as: UInt32.self)
        }
        (queue.deviceArea + 2).storeBytes(of: 3, as: UInt16.self)
        var completions = [DriverCompletion](repeating: DriverCompletion(token: 9, length: 0), count: 8)
        let n = queue.reclaim(into: &completions, max: 8)
        #expect(queue.defect.kind == .usedIndexJump)
        #expect(n >= 1 && completions[0].token == 0 && completions[0].length == 64)
        // Every other token is still there.
        var tokens = [UInt32](repeating: 0, count: 8)
        let left = queue.abandon(into: &tokens, max: 8)
        #expect(Set(completions[0..<n].map(\.token) + tokens[0..<left]) == Set(0..<8) && queue.outstanding == 0)
    }

    /// One piece of the arena per token, all of which make up a chain's buffers.
    struct Expected {
        var readable = 0
        var total = 0
        var written: UInt32 = 0
        var isUsed = false
    }

    /// Whether the position, or one a whole number of laps later, lies in the range.
    private func comesRound(_ position: Int, _ lap: Int, in range: Range<Int>) -> Bool {
        if position >= range.lowerBound { return position < range.upperBound }
        let behind = range.lowerBound - position
        return range.contains(position + (behind + lap - 1) / lap * lap)
    }

    /// Runs random bursts in both directions until `total` chains have come back.
    func exchange(_ shape: Shape, chains total: Int) {
        var random = Random(seed: shape.seed)
        let area = 64
        let size = Int(shape.size)
        let indirect = shape.features.contains(.indirectDesc) ? min(size, 8) : 0
        let memory = zeroed(DriverQueue.bytes(size: shape.size, isPacked: shape.isPacked, indirectLength: indirect))
        let arena = zeroed(area * size)
        let delta = random.next() & ~0xfff
        var queue = DriverQueue(
            size: shape.size, isPacked: shape.isPacked, memory: memory, features: shape.features, delta: delta,
            indirectLength: indirect)
        defer {
            memory.deallocate()
            arena.deallocate()
        }
        var device = ReferenceDevice(queue.deviceSetup(), delta: delta)
        var expected = [Expected](repeating: Expected(), count: size)
        var tokens = Array(0..<UInt32(size))
        var order: [UInt32] = []  // tokens as they were added
        var popped: [(UInt32, ReferenceDevice.Chain)] = []
        var completions = [DriverCompletion](repeating: DriverCompletion(token: 0, length: 0), count: 64)
        var (back, shownAbsolute, kickedAbsolute) = (0, 0, 0)
        var armed: Int? = nil  // absolute position where the device wants a kick
        device.arm(false)

        while back < total {
            // The driver adds some chains.
            var added = 0
            for _ in 0..<random.below(min(size, 40) + 1) {
                guard let token = tokens.last else { break }
                let base = arena + area * Int(token)
                let length = random.within(1...area)
                let count = random.within(1...min(length, random.chance(50) ? 1 : 9))
                let readable = random.within(0...count)
                var segments: [Segment] = []
                var at = base
                var e = Expected()
                for (i, piece) in random.split(length, into: count).enumerated() {
                    segments.append(Segment(base: at, length: UInt32(piece)))
                    at += piece
                    if i < readable { e.readable += piece }
                }
                e.total = length
                for i in 0..<length {
                    base.storeBytes(
                        of: UInt8(truncatingIfNeeded: Int(token) &* 7 &+ i &+ back), toByteOffset: i, as: UInt8.self)
                }
                let wantsIndirect = random.chance(40)
                let free = queue.free
                let needed = wantsIndirect && count <= indirect ? 1 : count
                let ok = segments.withUnsafeBufferPointer { s in
                    queue.add(
                        readable: s.baseAddress, readable, writable: s.baseAddress! + readable, count - readable,
                        token: token, indirect: wantsIndirect)
                }
                #expect(ok == (needed <= Int(free)), "room: \(needed) of \(free)")
                guard ok else { continue }
                added += shape.isPacked ? needed : 1
                expected[Int(token)] = e
                tokens.removeLast()
                order.append(token)
            }
            if random.chance(70) {
                queue.publish()
                shownAbsolute += added
            } else if added > 0 {
                queue.publish()
                shownAbsolute += added
            }
            let kick = queue.needsKick()
            // A wish that is never renewed comes round again: positions are told modulo two laps or 2^16.
            let lap = shape.isPacked ? 2 * size : 65536
            let wanted = armed.map { comesRound($0, lap, in: kickedAbsolute..<shownAbsolute) } ?? false
            // Without EVENT_IDX the wish is a flag and stays.
            let expectsKick =
                shape.features.contains(.eventIdx) ? wanted : armed != nil && shownAbsolute > kickedAbsolute
            if kick != expectsKick {
                Issue.record(
                    "kick \(kick) after \(kickedAbsolute) at \(shownAbsolute), armed \(String(describing: armed))")
                return
            }
            kickedAbsolute = shownAbsolute

            // The device takes some of them and checks what it can read.
            for _ in 0..<random.below(48) {
                guard let chain = device.pop() else { break }
                guard !order.isEmpty else {
                    Issue.record("more chains than were added")
                    return
                }
                let token = order.removeFirst()
                let e = expected[Int(token)]
                var at = arena + area * Int(token)
                var (sum, readable) = (0, 0)
                for piece in chain.pieces {
                    if piece.base != at {
                        Issue.record("a segment lies elsewhere")
                        return
                    }
                    at += piece.length
                    sum += piece.length
                    if !piece.isWritable { readable += piece.length }
                }
                if sum != e.total || readable != e.readable {
                    Issue.record("lengths differ")
                    return
                }
                popped.append((token, chain))
            }
            if random.chance(20) {
                let wants = random.chance(70)
                device.arm(wants)
                armed = wants ? device.available : nil
            }

            // The driver goes to sleep, or not.
            let sleeps = random.chance(50)
            if sleeps {
                if queue.armCalls() { #expect(queue.hasUsed == true) }
            } else {
                queue.suppressCalls()
            }
            let hadUsed = queue.hasUsed

            // The device returns some.
            let usedBefore = device.used
            while !popped.isEmpty && random.chance(85) {
                var batch: [ReferenceDevice.Chain] = []
                let n = shape.features.contains(.inOrder) ? random.within(1...min(popped.count, 40)) : 1
                var length: UInt32 = 0
                for k in 0..<n {
                    let i = shape.features.contains(.inOrder) ? 0 : random.below(popped.count)
                    let (token, chain) = popped.remove(at: i)
                    let room = expected[Int(token)].total - expected[Int(token)].readable
                    length = k == n - 1 ? UInt32(random.within(0...room)) : UInt32(room)
                    expected[Int(token)].written = length
                    expected[Int(token)].isUsed = true
                    batch.append(chain)
                }
                device.use(batch, length: length)
            }
            let call = device.shouldCall()
            if device.used == usedBefore {
                #expect(!call)
            } else if !sleeps {
                #expect(!call, "a call although they were suppressed")
            } else if !hadUsed {
                #expect(call, "a call was lost")
            }

            // The driver takes them back.
            let most = random.within(1...64)
            let n = completions.withUnsafeMutableBufferPointer { queue.reclaim(into: $0.baseAddress!, max: most) }
            for c in completions[0..<n] {
                let e = expected[Int(c.token)]
                if !e.isUsed || e.written != c.length {
                    Issue.record("token \(c.token): \(e), got \(c.length)")
                    return
                }
                expected[Int(c.token)].isUsed = false
                tokens.append(c.token)
            }
            back += n
            if queue.isStopped {
                Issue.record("\(queue.defect)")
                return
            }
            #expect(Int(queue.outstanding) == size - tokens.count)
            if random.chance(30) && tokens.count > 1 { tokens.swapAt(0, tokens.count - 1) }
        }
    }
}
