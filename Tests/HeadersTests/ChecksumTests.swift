import Headers
import Testing

@Suite struct ChecksumTests {
    /// RFC 1071 word by word: the plain sum of big-endian words, carries added back one at a time.
    static func reference(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for i in stride(from: 0, to: bytes.count, by: 2) {
            sum += UInt32(bytes[i]) << 8 | (i + 1 < bytes.count ? UInt32(bytes[i + 1]) : 0)
            if sum > 0xffff { sum = sum - 0x10000 + 1 }
        }
        return ~UInt16(sum)
    }

    static func sum(_ bytes: [UInt8]) -> UInt16 {
        var sum = Checksum()
        bytes.withUnsafeBytes { if let p = $0.baseAddress { sum.add(p, $0.count) } }
        return sum.value
    }

    @Test("the example of RFC 1071, section 3, and IPv4 headers whose checksums are known")
    func known() {
        // 0001 f203 f4f5 f6f7 sum up to ddf2.
        #expect(ChecksumTests.sum(hex("0001 f203 f4f5 f6f7")) == ~0xddf2)
        #expect(ChecksumTests.sum(hex("4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7")) == 0xb861)
        #expect(ChecksumTests.sum(hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7")) == 0)
        #expect(ChecksumTests.sum([]) == 0xffff)
        #expect(ChecksumTests.sum([0x12]) == ~0x1200)
    }

    @Test("any bytes in any pieces, odd ones too, give what word by word gives")
    func pieces() {
        var random = Random(seed: 1)
        for length in 0..<200 {
            for _ in 0..<rounds(40) {
                let bytes = random.below(4) == 0 ? [UInt8](repeating: 0xff, count: length) : random.bytes(length)
                var sum = Checksum()
                bytes.withUnsafeBytes { all in
                    var at = 0
                    while at < length {
                        let take = min(length - at, 1 + random.below(random.below(3) == 0 ? 3 : 70))
                        sum.add(all.baseAddress! + at, take)
                        at += take
                    }
                }
                #expect(sum.value == ChecksumTests.reference(bytes))
            }
        }
    }

    @Test("a UDP datagram of which the checksums are known, over both pseudo headers")
    func pseudoHeaders() {
        // IPv4, UDP: 198.18.0.1:1024 to 198.18.0.2:1025, "Ringway!". By hand: pseudo header c612+0001+c612+0002+0011+
        // 0010 = 18c48, the UDP header 0400+0401+0010 = 0811, the text 5269+6e67+7761+7921 = 1b152: in all 345ab,
        // folded 45ae.
        let datagram = hex("0400 0401 0010 0000 52696e67 77617921")
        var sum = Checksum()
        sum.addPseudoHeader(
            source: IPv4Address(198, 18, 0, 1), destination: IPv4Address(198, 18, 0, 2), protocol: .udp, length: 16)
        // What the field holds while the rest is still to be added.
        #expect(sum.partial == 0x8c49)
        datagram.withUnsafeBytes { sum.add($0.baseAddress!, $0.count) }
        #expect(sum.value == ~0x45ae)
        // IPv6: 2001:db8::1 to 2001:db8::2 instead: 2001+0db8+0001 + 2001+0db8+0002 + 0010 + 0011 = 5b96; with header
        // and text 214f9, folded 14fb.
        sum = Checksum()
        sum.addPseudoHeader(
            source: IPv6Address("2001:db8::1")!, destination: IPv6Address("2001:db8::2")!, protocol: .udp, length: 16)
        datagram.withUnsafeBytes { sum.add($0.baseAddress!, $0.count) }
        #expect(sum.value == ~0x14fb)
        // A length beyond 16 bits: its upper half counts.
        sum = Checksum()
        sum.addPseudoHeader(source: IPv6Address.any, destination: .any, protocol: .tcp, length: 0x3_0001)
        #expect(sum.value == ~UInt16(3 + 1 + 6))
    }

    @Test("UDP: 0 is written as 0xffff; no checksum stays none")
    func zero() {
        var sum = Checksum()
        sum.add(0xffff)
        #expect(sum.value == 0 && sum.valueForUDP == 0xffff)
        sum.add(1)
        #expect(sum.value == 0xfffe && sum.valueForUDP == 0xfffe)
        #expect(Checksum.forUDP(0x1234, old: 0) == 0)
        #expect(Checksum.forUDP(0, old: 0x1234) == 0xffff)
        #expect(Checksum.forUDP(0x4321, old: 0x1234) == 0x4321)
    }

    @Test("the example of RFC 1624, section 4: 0xdd2f, 0x5555 becomes 0x3285; the result is 0 and not 0xffff")
    func example() {
        #expect(Checksum.update(0xdd2f, from: UInt16(0x5555), to: UInt16(0x3285)) == 0)
        // And back.
        #expect(Checksum.update(0, from: UInt16(0x3285), to: UInt16(0x5555)) == 0xdd2f)
    }

    /// Words of which sums come to 0x0000 and 0xffff often.
    private static func word(_ random: inout Random) -> UInt16 {
        switch random.below(6) {
        case 0: 0
        case 1: 0xffff
        case 2: 0xfffe
        case 3: 1
        default: UInt16(truncatingIfNeeded: random.next())
        }
    }

    @Test("an update gives what a computation over all bytes gives: 16 and 32 bits, IPv4 and IPv6 addresses")
    func updates() {
        var random = Random(seed: 2)
        var zeroes = 0
        for _ in 0..<rounds(400_000) {
            var words = (0..<10).map { _ in ChecksumTests.word(&random) }
            // One word that no update changes is never 0: as in every IP header.
            words[0] |= 1
            func bytes() -> [UInt8] { words.flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] } }
            func set(_ at: Int, _ value: UInt64, _ count: Int) {
                for i in 0..<count { words[at + i] = UInt16(value >> UInt64(16 * (count - 1 - i)) & 0xffff) }
            }
            func get(_ at: Int, _ count: Int) -> UInt64 { words[at..<at + count].reduce(0) { $0 << 16 | UInt64($1) } }
            if random.below(8) == 0 {
                // The new bytes sum up to 0xffff: then the checksum is 0.
                let rest = ChecksumTests.reference(bytes())
                words[9] = words[9] == 0 ? rest : words[9]
            }
            let old = ChecksumTests.reference(bytes())
            let updated: UInt16
            switch random.below(4) {
            case 0:
                let from = UInt16(get(1, 1))
                set(1, UInt64(ChecksumTests.word(&random)), 1)
                updated = Checksum.update(old, from: from, to: UInt16(get(1, 1)))
            case 1:
                let from = UInt32(get(1, 2))
                for i in 1..<3 { words[i] = ChecksumTests.word(&random) }
                updated = Checksum.update(old, from: from, to: UInt32(get(1, 2)))
            case 2:
                let from = IPv4Address(rawValue: UInt32(get(1, 2)))
                for i in 1..<3 { words[i] = ChecksumTests.word(&random) }
                updated = Checksum.update(old, from: from, to: IPv4Address(rawValue: UInt32(get(1, 2))))
            default:
                let from = IPv6Address(high: get(1, 4), low: get(5, 4))
                for i in 1..<9 { words[i] = ChecksumTests.word(&random) }
                updated = Checksum.update(old, from: from, to: IPv6Address(high: get(1, 4), low: get(5, 4)))
            }
            let expected = ChecksumTests.reference(bytes())
            if expected == 0 { zeroes += 1 }
            #expect(updated == expected)
        }
        #expect(zeroes > 0)
    }

    @Test("the sum of a pseudo header follows a change of an address")
    func partial() {
        var random = Random(seed: 5)
        func sum(_ a: IPv4Address, _ b: IPv6Address) -> (UInt16, UInt16) {
            var (v4, v6) = (Checksum(), Checksum())
            v4.addPseudoHeader(source: a, destination: IPv4Address(10, 0, 0, 1), protocol: .tcp, length: 1000)
            let to = IPv6Address(high: 1, low: 2)
            v6.addPseudoHeader(source: b, destination: to, protocol: .udp, length: 9)
            return (~v4.value, ~v6.value)
        }
        for _ in 0..<1000 {
            let word = random.next()
            let old = IPv4Address(rawValue: UInt32(truncatingIfNeeded: word))
            let new = IPv4Address(rawValue: UInt32(truncatingIfNeeded: word >> 32))
            let old6 = IPv6Address(high: random.next(), low: random.next())
            let new6 = IPv6Address(high: random.next(), low: random.next())
            let (before, after) = (sum(old, old6), sum(new, new6))
            #expect(Checksum.updatePartial(before.0, from: old, to: new) == after.0)
            #expect(Checksum.updatePartial(before.1, from: old6, to: new6) == after.1)
        }
    }

    @Test("every old and new word next to a fixed one: corners 0x0000 and 0xffff")
    func corners() {
        let corners: [UInt16] = [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff]
        for fixed in corners where fixed != 0 {
            for from in corners {
                for to in corners {
                    func all(_ w: UInt16) -> UInt16 {
                        ChecksumTests.reference([UInt8(fixed >> 8), UInt8(fixed & 255), UInt8(w >> 8), UInt8(w & 255)])
                    }
                    #expect(Checksum.update(all(from), from: from, to: to) == all(to))
                }
            }
        }
    }
}
