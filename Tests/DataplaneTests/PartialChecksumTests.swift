import Ringway
import RingwayLab
import Testing

/// What a NAT and a tunnel's end do with checksums that are still to be filled in, and packets that a function uses up.
@Suite struct PartialChecksumTests {
    /// Gives IPv4 packets another source address and TCP or UDP port, and keeps their checksums right.
    struct Translator: PacketFunction {
        static let to = IPv4Address(192, 0, 2, 77)

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                let packet = packets[i]
                let layers = Layers(packet.bytes, frameLength: packet.length)
                guard let at = layers.transportOffset, let network = layers.networkOffset,
                    let ip = IPv4(packet.bytes, at: network), let udp = UDP(packet.bytes, at: at)
                else { continue }
                let (from, port) = (ip.sourceAddress, udp.sourcePort)
                ip.sourceAddress = Translator.to
                ip.updateChecksum()
                // TCP and UDP begin with the same two ports.
                udp.sourcePort = 777
                func changed(_ sum: UInt16) -> UInt16 {
                    if packets[i].hasPartialChecksum(at: at) {
                        return Checksum.updatePartial(sum, from: from, to: Translator.to)
                    }
                    return Checksum.update(
                        Checksum.update(sum, from: from, to: Translator.to), from: port, to: UInt16(777))
                }
                if let tcp = TCP(packet.bytes, at: at), ip.protocol == .tcp {
                    tcp.checksum = changed(tcp.checksum)
                } else {
                    udp.checksum = Checksum.forUDP(changed(udp.checksum), old: udp.checksum)
                }
                packet.verdict = .port(1)
            }
            return nil
        }
    }

    @Test("addresses and ports are changed, and what the receiver gets has right checksums: whole, partial, to be cut")
    func translated() throws {
        let lab = try Lab(ports: 2) { _ in Translator() }
        let a = try lab.driver(0) { ($0.offloads, $0.frameRoom) = (OffloadTests.all, 66_000) }
        let b = try lab.driver(1) { ($0.offloads, $0.frameRoom) = ([], 4096) }
        for isTCP in [true, false] {
            let big = OffloadTests.Big(isTCP: isTCP)
            var small = OffloadTests.Big(isTCP: isTCP, payload: [1, 2, 3])
            small.flags = 0x10
            // The sum of the pseudo header, and then a whole checksum.
            var (partial, whole) = (small.frame, small.frame)
            let (network, field) = (small.network, small.transport + (isTCP ? 16 : 6))
            let length = small.frame.count - small.transport
            let pseudo = Frame.sum(Array(partial[(network + 12)..<(network + 20)]), (isTCP ? 6 : 17) + length)
            partial.replaceSubrange(field..<field + 2, with: Frame.big(Int(pseudo)))
            whole.replaceSubrange(field..<field + 2, with: [0, 0])
            let sum = Frame.sum(Array(whole[small.transport...]), pseudo) ^ 0xffff
            whole.replaceSubrange(field..<field + 2, with: Frame.big(Int(sum)))
            let header = Frame.header(flags: 1, start: small.transport, offset: isTCP ? 16 : 6)
            #expect(
                a.send([big.frame, partial, whole], headers: [big.header(), header, [UInt8](repeating: 0, count: 12)]))
            let got = b.receive(7).map(\.frame)
            try #require(got.count == 7)
            for f in got {
                #expect((f.count > 200 ? big : small).isSound(f) && Array(f[26..<30]) == [192, 0, 2, 77])
                #expect(Array(f[34..<36]) == [3, 9])
            }
        }
        #expect(lab.drops(0) == [:] && lab.drops(1) == [:])
    }

    /// Takes the first 20 bytes off, with the checksum that was to be filled in there.
    struct Opener: PacketFunction {
        static let dropCauses = ["still to be cut"]

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                let packet = packets[i]
                if packet.removeFirst(20) || (packet.forgetChecksum() && packet.removeFirst(20)) {
                    packet.verdict = .port(1)
                } else {
                    packets.drop(i, because: 0)
                }
            }
            return nil
        }
    }

    @Test("a header goes off with its partial checksum when the function says so, but not of a packet to be cut")
    func forgotten() {
        let frame = FunctionHarnessTests.frame(100)
        let harness = FunctionHarness(Opener(), ports: 2)
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset) = (NetHeader.needsCsum, 14, 6)
        let opened = harness.process([frame], from: 0, header: header)
        #expect(opened == [.init(Array(frame[20...]), to: [1])] && opened[0].header.isPlain)
        header.csumStart = 34
        #expect(harness.process([frame], from: 0, header: header)[0].header.csumStart == 14)
        (header.csumStart, header.gsoType, header.gsoSize) = (14, NetHeader.gsoUDPL4, 10)
        #expect(harness.process([frame], from: 0, header: header)[0].cause == "still to be cut")
    }

    /// Uses up packets whose first byte of payload is odd; the others go on.
    struct Consumer: PacketFunction {
        static var mostThreads: Int { 2 }

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count { packets.decide(i, packets[i].bytes[14] & 1 == 1 ? .consumed : .next) }
            return nil
        }
    }

    @Test("what a function uses up is consumed: no drop, not seen by the next in a chain", arguments: [1, 2])
    func consumed(_ threads: Int) throws {
        let lab = try Lab(ports: 2, unpinned: threads) { _ in Chain(Consumer(), Pass()) }
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        let frames = (0..<10).map { n in
            Frame.ethernet(to: Frame.mac(2), from: Frame.mac(1), [UInt8(n)] + [UInt8](repeating: 5, count: 46))
        }
        // Some of a burst, and all of one.
        #expect(a.send(frames) && b.receive(5).count == 5)
        #expect(a.send([frames[1], frames[3]]) && a.settle())
        lab.engine.stop()
        let end = lab.engine.snapshot()
        #expect(end[0].consumed == 7 && end[0].drops.isEmpty && end[1].consumed == 0)
        ConservationTests.expectBalance(end, "\(threads) threads")
        let out = FunctionHarness(Consumer(), ports: 2).process(Array(frames[..<2]), from: 0)
        #expect(out == [.init(frames[0], to: []), .init(frames[1], to: [], isConsumed: true)])
    }

    @Test("an engine with more threads than its function can do with does not start")
    func mostThreads() {
        let error = #expect(throws: EngineError.self) {
            _ = try Lab(ports: 2, unpinned: 3) { _ in Chain(Pass(), Consumer()) }
        }
        #expect(error?.description.contains("3 poll threads; it works on 2 at most") == true)
    }
}
