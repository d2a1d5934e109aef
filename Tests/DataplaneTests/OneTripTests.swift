import CPlatform
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing

/// A message changes all that it changes in one trip to each poll thread.
@Suite struct OneTripTests {
    /// Trips to each thread while `body` runs.
    private static func trips(_ lab: Lab, _ body: () throws -> Void) rethrows -> [UInt64] {
        let before = lab.engine.trips
        try body()
        return zip(lab.engine.trips, before).map { $0 - $1 }
    }

    /// Frames go through each pair and come back.
    private static func exchange(_ d: EmbeddedDriver, _ round: Int) {
        for pair in 0..<8 {
            let frames = Frame.numbered(20, first: 100 * round + pair)
            #expect(d.send(frames, pair: pair))
            #expect(d.receive(20, pair: pair).count == 20, "round \(round), pair \(pair)")
        }
    }

    @Test("SET_MEM_TABLE, stop and start of 8 queue pairs on 4 threads: one trip a thread", arguments: [false, true])
    func eightPairs(isPacked: Bool) throws {
        let lab = try Lab(ports: 1, .macswap, pairs: [8], unpinned: 4)
        let d = try lab.driver(0) {
            $0.queuePairs = 8
            $0.hasControl = true
            $0.isPacked = isPacked
        }
        #expect(d.command(4, 0, [8, 0]) == 0)
        Self.exchange(d, 1)
        let (frontEnd, memory) = (d.frontEnd, d.memory)
        // The same table again: other mappings, in which the rings go on.
        #expect(try Self.trips(lab) { try frontEnd.share(memory.region, memory.descriptor) } == [1, 1, 1, 1])
        Self.exchange(d, 2)
        // One in which no ring lies: all stop. And back: all start.
        let other = try HostMemory(bytes: 65536, wantsHugePages: false, name: "ringway-other")
        #expect(try Self.trips(lab) { try frontEnd.share(other.region, other.descriptor) } == [1, 1, 1, 1])
        #expect(try Self.trips(lab) { try frontEnd.share(memory.region, memory.descriptor) } == [1, 1, 1, 1])
        Self.exchange(d, 3)
        // Messages about one ring: to its thread alone.
        #expect(try Self.trips(lab) { try frontEnd.enableRing(2, false) } == [0, 1, 0, 0])
        #expect(try Self.trips(lab) { try frontEnd.enableRing(2, true) } == [0, 1, 0, 0])
        Self.exchange(d, 4)
        #expect(try Self.trips(lab) { _ = try frontEnd.stopRing(5) } == [0, 0, 1, 0])
        // The end of the connection.
        let trips = Self.trips(lab) {
            frontEnd.close()
            #expect(eventually { !lab.engine.snapshot()[0].isConnected })
        }
        #expect(trips == [1, 1, 1, 1])
        ConservationTests.expectBalance(lab.engine.snapshot(), "eight pairs")
    }

    @Test("the engine's own ports: a null port of 8 pairs starts and stops in one trip a thread")
    func ownPorts() throws {
        var port = PortOptions(.null(name: "a", emit: nil))
        port.queuePairs = 8
        var options = EngineOptions(ports: [port], mode: .macswap)
        options.unpinnedThreads = 4
        let engine = try Engine(options, logger: Lab.logger)
        try engine.start()
        #expect(engine.trips == [1, 1, 1, 1])
        engine.stop()
    }
}
