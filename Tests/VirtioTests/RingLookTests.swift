import Testing
import Virtio

/// What a device-side ring shows to who looks after it.
@Suite struct RingLookTests {
    static let shapes = Shape.all(split: [8, 256], packed: [8, 255], of: [.eventIdx])

    @Test("entries that wait, and what the driver wishes", arguments: shapes)
    func looks(_ shape: Shape) {
        var random = Random(seed: shape.seed)
        let pair = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features, arenaBytes: 65_536, random: &random)
        var burst = Burst()
        var completions = [DriverCompletion](repeating: DriverCompletion(token: 0, length: 0), count: 64)
        let hasEvents = shape.features.contains(.eventIdx)
        // Round after round, so that indexes and laps go round, too.
        for round in 0..<1000 {
            let count = 1 + random.below(Int(shape.size))
            let buffers = (0..<count).map { DriverBuffer(base: pair.arena + $0 * 64, length: 64, token: UInt32($0)) }
            #expect(pair.driver.addTransmit(buffers, count) == count)
            #expect(pair.device.look.available == 0, "nothing was shown yet")
            pair.driver.publish()
            #expect(pair.device.look.available == count, "round \(round)")
            _ = pair.driver.armCalls()
            #expect(pair.device.look.wish == (hasEvents ? .ahead : .always))
            var taken = 0
            while taken < count {
                let n = pair.device.popTransmit(&burst, limit: 64)
                guard n > 0 else { break }
                taken += n
                #expect(pair.device.look.available == count - taken)
                pair.device.complete(burst.packets, n)
            }
            #expect(pair.device.look.wish == (hasEvents ? .overdue : .always), "round \(round)")
            var left = count
            while left > 0 { left -= pair.driver.reclaim(into: &completions, max: 64) }
            _ = pair.driver.armCalls()
            #expect(pair.device.look.wish == (hasEvents ? .ahead : .always))
            pair.driver.suppressCalls()
            #expect(pair.device.look.wish == .suppressed)
        }
    }

    @Test("a driver that writes nonsense makes the numbers wrong, and nothing else", arguments: shapes)
    func nonsense(_ shape: Shape) {
        var random = Random(seed: shape.seed)
        let pair = RingPair(
            size: shape.size, isPacked: shape.isPacked, features: shape.features, arenaBytes: 4096, random: &random)
        let bytes = UnsafeMutableRawBufferPointer(start: pair.memory, count: pair.arena - pair.memory)
        for _ in 0..<2000 {
            for _ in 0..<8 { bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next()) }
            let look = pair.device.look
            #expect((0...Int(shape.size)).contains(look.available))
        }
    }
}
