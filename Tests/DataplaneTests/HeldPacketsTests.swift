import Headers
import Ringway
import RingwayLab
import Testing

/// Holds what comes from port 0; of a packet from port 1 the first byte is a place to send, of one from port 2 a place
/// to forget.
private struct Keeper: PacketFunction, ~Copyable {
    static var counters: [String] { ["held", "refused", "sent"] }

    var held = HeldPackets(capacity: 3)

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            if packets.port == 0 {
                let place = held.hold(packet)
                packets.count(place == nil ? 1 : 0)
                packet.verdict = place == nil ? .drop : .consumed
            } else if packets.port == 2 {
                held.forget(Int(packet.bytes[0]) - 1)
            } else if let late = held.send(Int(packet.bytes[0]) - 1, in: packets) {
                packets.count(2)
                late.verdict = .port(2)
            }
        }
        return nil
    }
}

@Suite struct HeldPacketsTests {
    private static func frame(_ length: Int, _ seed: UInt8) -> [UInt8] {
        (0..<length).map { UInt8(truncatingIfNeeded: $0) &* 3 &+ seed }
    }

    private static func order(_ place: Int) -> [UInt8] { [UInt8(place + 1)] + [UInt8](repeating: 0, count: 59) }

    @Test("what is held is sent byte for byte, once; places are used again", arguments: [[], [1, 20, 3], [13, 600]])
    func bytes(_ pieces: [Int]) {
        let harness = FunctionHarness(Keeper(), ports: 3)
        let frames = [14, 60, 1728].map { HeldPacketsTests.frame($0, UInt8($0 & 63)) }
        #expect(harness.process(frames, from: 0, pieces: pieces).allSatisfy { $0.isConsumed })
        // No room, and lengths that cannot be.
        #expect(harness.process([frames[1]], from: 0)[0].isConsumed == false)
        var out = harness.process([2, 0, 1, 1].map(HeldPacketsTests.order), from: 1)
        #expect(out.dropFirst(4).map(\.frame) == [frames[2], frames[0], frames[1]])
        #expect(out.dropFirst(4).allSatisfy { $0.isMade && $0.ports == [2] })
        for length in [13, 1729] {
            #expect(
                harness.process([HeldPacketsTests.frame(length, 1)], from: 0, pieces: pieces)[0].isConsumed == false)
        }
        #expect(harness.counter("held") == 3 && harness.counter("refused") == 3 && harness.counter("sent") == 3)

        let others = [100, 200, 300].map { HeldPacketsTests.frame($0, 9) }
        _ = harness.process(others, from: 0, pieces: pieces)
        // Forgotten, forgotten again, and none.
        _ = harness.process([1, 1, 7].map(HeldPacketsTests.order), from: 2)
        #expect(harness.function.held.count == 2)
        out = harness.process([0, 1, 2].map(HeldPacketsTests.order), from: 1)
        #expect(Set(out.dropFirst(3).map(\.frame.count)).count == 2 && harness.function.held.count == 0)
    }

    @Test(
        "a checksum that was still to be filled in is filled in; one beyond the end, and segments to cut, are refused")
    func checksums() {
        let harness = FunctionHarness(Keeper(), ports: 3)
        var frame = HeldPacketsTests.frame(75, 5)
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset) = (NetHeader.needsCsum, 34, 6)
        (frame[40], frame[41]) = (0x12, 0x34)
        #expect(harness.process([frame], from: 0, pieces: [50], header: header)[0].isConsumed)
        let sent = harness.process([HeldPacketsTests.order(0)], from: 1)[1]
        var sum = Checksum()
        frame.withUnsafeBytes { sum.add($0.baseAddress! + 34, 41) }
        var wanted = frame
        (wanted[40], wanted[41]) = (UInt8(sum.value >> 8), UInt8(sum.value & 255))
        #expect(sent.frame == wanted && sent.header == NetHeader())
        header.csumOffset = 40
        #expect(harness.process([frame], from: 0, header: header)[0].isConsumed == false)
        header.csumOffset = 39
        #expect(harness.process([frame], from: 0, header: header)[0].isConsumed)
        (header.gsoType, header.gsoSize) = (NetHeader.gsoTCPv4, 100)
        #expect(harness.process([frame], from: 0, header: header)[0].isConsumed == false)
    }

    @Test("where 64 packets were made in a burst, what is held stays held")
    func full() {
        let harness = FunctionHarness(Flooder(), ports: 2)
        _ = harness.process([HeldPacketsTests.frame(60, 1)], from: 0)
        let out = harness.process([HeldPacketsTests.order(0)], from: 1)
        #expect(out.count == 65 && harness.function.held.count == 1)
        #expect(harness.tick().map(\.frame) == [HeldPacketsTests.frame(60, 1)] && harness.function.held.count == 0)
    }

    private struct Flooder: PacketFunction, ~Copyable {
        var held = HeldPackets(capacity: 1)

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            if packets.port == 0 { return held.hold(packets[0]) == nil ? .drop : .consumed }
            while packets.originate(60) != nil {}
            if held.send(0, in: packets) != nil { Issue.record("65 packets were made") }
            return .drop
        }

        mutating func tick(_ burst: borrowing PacketBurst) {
            if let packet = held.send(0, in: burst) { packet.verdict = .port(1) }
        }
    }
}
