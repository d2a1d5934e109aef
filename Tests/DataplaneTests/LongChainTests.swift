import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing

/// Packets of very many pieces that have to be cut into segments. The cutter once wrote up to 63 slices past its array
/// for a chain of 32,896 pieces, which is all that a burst holds.
@Suite(.serialized) struct LongChainTests {
    /// A driver's transmit ring of 32768 entries, written by hand: header, pieces one by one, and the rest in a table.
    private final class Sender {
        static let size: UInt32 = 32768
        let memory: HostMemory
        let frontEnd: FrontEnd
        let isPacked: Bool
        private let kick = OwnedDescriptor(CPlat_eventfd(0))
        private var sent: UInt16 = 0
        private let (available, used, table, header, frame) = (0x80000, 0xa0000, 0x100000, 0x200000, 0x210000)

        init(_ path: String, isPacked: Bool) throws {
            self.isPacked = isPacked
            memory = try HostMemory(bytes: 4 << 20, wantsHugePages: false, name: "long-chain")
            frontEnd = FrontEnd(try MessageSocket.connect(to: path))
            var features: Features = [.version1, .indirectDesc, .csum, .hostTSO4]
            if isPacked { features.insert(.ringPacked) }
            try frontEnd.negotiate(features, [.mq, .replyAck])
            try frontEnd.share(memory.region, memory.descriptor)
            let at = memory.region.userAddress
            try frontEnd.startRing(
                1, size: Sender.size, base: RingPosition().base(isPacked: isPacked), descriptors: at,
                driverArea: at + UInt64(available), deviceArea: at + UInt64(used), kick: kick,
                call: OwnedDescriptor(CPlat_eventfd(0)))
        }

        private func write(_ at: Int, _ offset: Int, _ length: Int, flags: UInt16, next: Int) {
            let p = memory.base + at
            p.storeBytes(of: memory.region.guestAddress + UInt64(offset), as: UInt64.self)
            (p + 8).storeBytes(of: UInt32(length), as: UInt32.self)
            let last = isPacked ? (0, flags) : (flags, UInt16(truncatingIfNeeded: next))
            (p + 12).storeBytes(of: last.0, as: UInt16.self)
            (p + 14).storeBytes(of: last.1, as: UInt16.self)
        }

        /// A frame in `count` pieces behind its net header: the first `prefix` bytes, bytes one by one, and what is
        /// left. The header and `direct` pieces have descriptors of the ring, the others entries of a table.
        func send(_ bytes: [UInt8], _ netHeader: [UInt8], prefix: Int, count: Int, direct: Int) {
            (memory.base + header).copyMemory(from: netHeader, byteCount: 12)
            (memory.base + frame).copyMemory(from: bytes, byteCount: bytes.count)
            var pieces = [(header, 12), (frame, prefix)]
            pieces += (0..<count - 2).map { (frame + prefix + $0, 1) }
            let done = prefix + count - 2
            pieces.append((frame + done, bytes.count - done))
            let inTable = pieces.dropFirst(isPacked ? 0 : 1 + direct)
            for (i, p) in inTable.enumerated() {
                write(table + 16 * i, p.0, p.1, flags: i + 1 < inTable.count && !isPacked ? 1 : 0, next: i + 1)
            }
            if isPacked {
                // INDIRECT, and available in the first lap.
                write(16 * Int(sent), table, 16 * inTable.count, flags: 4 | 0x80, next: 0)
            } else {
                let first = pieces.dropLast(inTable.count)
                for (i, p) in first.enumerated() {
                    let hasNext = i + 1 < first.count || !inTable.isEmpty
                    write(16 * i, p.0, p.1, flags: hasNext ? 1 : 0, next: i + 1)
                }
                if !inTable.isEmpty { write(16 * first.count, table, 16 * inTable.count, flags: 4, next: 0) }
                (memory.base + available + 4 + 2 * Int(sent)).storeBytes(of: 0, as: UInt16.self)
                CPlat_store16_release(memory.base + available + 2, sent + 1)
            }
            sent += 1
            EventFD.signalOwn(kick.fd)
        }

        /// Whether the device has used all that was sent.
        func settles() -> Bool {
            let end = CPlat_monotonic_ns() + 5_000_000_000
            while CPlat_monotonic_ns() < end {
                if isPacked {
                    let flags = CPlat_load16_acquire(memory.base + 16 * Int(sent - 1) + 14)
                    if flags & 0x8080 == 0x8080 { return true }
                } else if CPlat_load16_acquire(memory.base + used + 2) == sent {
                    return true
                }
                usleep(200)
            }
            return false
        }
    }

    private static let big = OffloadTests.Big(
        payload: (0..<40_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) })

    private func check(_ lab: Lab, _ s: Sender, _ b: EmbeddedDriver, count: Int, direct: Int) throws {
        let big = LongChainTests.big
        let before = lab.drops(0)["frame length", default: 0]
        s.send(big.frame, big.header(size: 400), prefix: big.prefix, count: count, direct: direct)
        if count > 1024 {
            try #require(s.settles(), "\(count) pieces")
            #expect(lab.drops(0)["frame length", default: 0] == before + 1, "\(count) pieces")
        } else {
            let got = b.receive(100)
            try #require(got.count == 100, "\(count) pieces")
            #expect(got.map { Array($0.frame[big.prefix...]) }.reduce([], +) == big.payload, "\(count) pieces")
            #expect(got.allSatisfy { big.isSound($0.frame) }, "\(count) pieces")
            try #require(s.settles(), "\(count) pieces")
        }
    }

    private func parts(_ isPacked: Bool) throws -> (Lab, Sender, EmbeddedDriver) {
        let lab = try Lab(ports: 2, .crossconnect)
        return (lab, try Sender(lab.paths[0], isPacked: isPacked), try lab.driver(1))
    }

    @Test(
        """
        a chain of as many pieces as a burst holds, and of any fewer, is cut right or dropped for its length; the \
        queue goes on
        """)
    func split() throws {
        let (lab, s, b) = try parts(false)
        // All in the ring, all in a table, and both: 127 and 32,768 and the packet's first.
        for (count, direct) in [
            (2, 2), (3, 0), (63, 10), (64, 64), (65, 0), (1023, 1023), (1024, 0), (1024, 1000), (1025, 0), (1025, 1025),
            (4096, 100), (32_767, 32_767), (32_768, 0), (32_833, 65), (32_895, 127), (32_896, 128), (1024, 5), (2, 0),
        ] {
            try check(lab, s, b, count: count, direct: direct)
        }
        #expect(lab.drops(1) == [:])
        // One more is more than a burst holds: the queue stops, and says so.
        s.send(LongChainTests.big.frame, LongChainTests.big.header(size: 400), prefix: 66, count: 32_897, direct: 129)
        let end = CPlat_monotonic_ns() + 5_000_000_000
        while lab.engine.snapshot()[0].stoppedQueues.isEmpty && CPlat_monotonic_ns() < end { usleep(1000) }
        #expect(lab.engine.snapshot()[0].stoppedQueues.map(\.cause) == ["chainTooLong"])
    }

    @Test("the same in a packed ring, whose tables hold all of a chain")
    func packed() throws {
        let (lab, s, b) = try parts(true)
        for count in [2, 64, 65, 1023, 1024, 1025, 4096, 32_767, 1024, 2] {
            try check(lab, s, b, count: count, direct: 0)
        }
        #expect(lab.drops(1) == [:])
    }
}
