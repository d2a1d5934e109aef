import RateLimiterFunction
import Ringway
import Testing

@Suite struct RateLimiterTests {
    typealias Limited = Chain<RateLimiter, Wire>

    static func harness(_ limits: [RateLimiter.Limits]) -> FunctionHarness<Limited> {
        let harness = FunctionHarness(Chain(RateLimiter(limits, ticksPerSecond: 1000), Wire()), ports: 2)
        harness.ticks = 0
        return harness
    }

    static func frames(_ n: Int, _ length: Int) -> [[UInt8]] {
        Array(repeating: [UInt8](repeating: 7, count: length), count: n)
    }

    static let generous: UInt64 = 1_000_000_000

    @Test("so many packets at once, then as many as time gives; the other port has no limit")
    func packets() {
        let limits = RateLimiter.Limits(
            packets: 100, packetBurst: 10, bytes: RateLimiterTests.generous, byteBurst: RateLimiterTests.generous)
        let harness = RateLimiterTests.harness([limits])
        let out = harness.process(RateLimiterTests.frames(15, 60), from: 0)
        #expect(out.map(\.ports) == Array(repeating: [1], count: 10) + Array(repeating: [], count: 5))
        #expect(out.map(\.cause) == Array(repeating: nil, count: 10) + Array(repeating: "packet limit", count: 5))
        // 50 ms of 100 a second: five.
        harness.ticks = 50
        #expect(harness.process(RateLimiterTests.frames(15, 60), from: 0).filter { $0.ports == [1] }.count == 5)
        #expect(harness.process(RateLimiterTests.frames(300, 60), from: 1).allSatisfy { $0.ports == [0] })
        #expect(harness.counter("passed packets") == 15 && harness.counter("passed bytes") == 15 * 60)
    }

    @Test("bytes are counted by the frame's length, and a frame longer than the burst never passes")
    func bytes() {
        let limits = RateLimiter.Limits(
            packets: RateLimiterTests.generous, packetBurst: RateLimiterTests.generous, bytes: 10_000, byteBurst: 3000)
        let harness = RateLimiterTests.harness([limits])
        let out = harness.process(RateLimiterTests.frames(4, 1000), from: 0)
        #expect(out.map(\.cause) == [nil, nil, nil, "byte limit"])
        harness.ticks = 10_000
        #expect(harness.process(RateLimiterTests.frames(1, 3001), from: 0)[0].cause == "byte limit")
        #expect(harness.process(RateLimiterTests.frames(1, 3000), from: 0)[0].ports == [1])
        #expect(harness.process(RateLimiterTests.frames(1, 14), from: 0)[0].cause == "byte limit")
    }

    @Test("limits change while packets flow; of a port that is not there the sender is told")
    func change() {
        let none = RateLimiter.Limits(packets: 0, packetBurst: 0, bytes: 0, byteBurst: 0)
        let some = RateLimiter.Limits(packets: 1000, packetBurst: 1000, bytes: 1_000_000, byteBurst: 1_000_000)
        let harness = RateLimiterTests.harness([none])
        #expect(harness.process(RateLimiterTests.frames(1, 60), from: 0)[0].ports == [])
        guard case .first(true) = harness.send(.first(.init(port: 0, limits: some))),
            case .first(false) = harness.send(.first(.init(port: 1, limits: some)))
        else {
            Issue.record("the answers are others")
            return
        }
        harness.ticks = 1000
        #expect(harness.process(RateLimiterTests.frames(1, 60), from: 0)[0].ports == [1])
    }

    @Test("frames without a byte, and of all short lengths: nothing traps")
    func odd() {
        let limits = RateLimiter.Limits(packets: 1000, packetBurst: 1000, bytes: 1_000_000, byteBurst: 1_000_000)
        let frames = (0..<64).map { [UInt8](repeating: 1, count: $0) }
        #expect(RateLimiterTests.harness([limits]).process(frames, from: 0, pieces: [1, 2]).map(\.frame) == frames)
    }
}
