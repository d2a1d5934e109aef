import MirrorFunction
import Ringway
import Testing

@Suite struct MirrorTests {
    /// Frames of all kinds of lengths, the shortest only an Ethernet header.
    static let frames = [14, 60, 64, 1514, 9000].map { n in (0..<n).map { UInt8(truncatingIfNeeded: $0) } }

    @Test("port 0 to port 1 with a copy to port 2, port 1 to port 0 without")
    func forwards() {
        let harness = FunctionHarness(Mirror(), ports: 3)
        #expect(harness.process(MirrorTests.frames, from: 0) == MirrorTests.frames.map { .init($0, to: [1, 2]) })
        #expect(harness.process(MirrorTests.frames, from: 1) == MirrorTests.frames.map { .init($0, to: [0]) })
        #expect(harness.counter("mirrored") == 5)
    }

    @Test("what the mirror port sends is dropped, with its cause")
    func dropsMirrorPort() {
        let out = FunctionHarness(Mirror(), ports: 3).process(MirrorTests.frames, from: 2)
        #expect(out.allSatisfy { $0.ports.isEmpty && $0.cause == "sent by the mirror port" })
    }

    @Test("more than one burst, frames in pieces, frames that are too short: nothing traps, all are counted")
    func odd() {
        let harness = FunctionHarness(Mirror(), ports: 3)
        let many = (0..<200).map { [UInt8](repeating: 1, count: $0) }
        let out = harness.process(many, from: 0, pieces: [1, 1, 3])
        #expect(out.map(\.frame) == many)
        #expect(out.allSatisfy { $0.ports == ($0.frame.count < 14 ? [] : [1, 2]) })
        #expect(harness.counter("mirrored") == 200)
    }
}
