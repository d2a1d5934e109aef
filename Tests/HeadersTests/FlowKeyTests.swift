import Headers
import Testing

@Suite struct FlowKeyTests {
    static func key(_ text: String) -> FlowKey? {
        Frame(text).look { FlowKey($0, Layers($0, frameLength: $0.count)) }
    }

    @Test("keys of known frames")
    func frames() {
        let tcp = FlowKeyTests.key(Frames.tcp)
        #expect(tcp?.description == "192.0.2.1:49320 > 198.51.100.7:443 protocol 6")
        #expect(
            tcp
                == FlowKey(
                    source: IPv4Address(192, 0, 2, 1), destination: IPv4Address(198, 51, 100, 7), protocol: .tcp,
                    sourcePort: 49320, destinationPort: 443))
        #expect(tcp?.isIPv4 == true && tcp?.isIPv6 == false && tcp?.sourceIPv6 == nil)
        #expect(tcp?.sourceIPv4 == IPv4Address(192, 0, 2, 1) && tcp?.destinationIPv4 == IPv4Address(198, 51, 100, 7))
        let tcp6 = FlowKeyTests.key(Frames.tcp6)
        #expect(tcp6?.description == "[2001:db8::1]:8080 > [2001:db8:0:1::2]:80 protocol 6")
        #expect(tcp6?.destinationIPv6 == IPv6Address("2001:db8:0:1::2") && tcp6?.destinationIPv4 == nil)
        #expect(tcp6?.sourcePort == 8080 && tcp6?.destinationPort == 80 && tcp6?.protocol == .tcp)
        #expect(FlowKeyTests.key(Frames.chained)?.description == "[fe80::1]:546 > [ff02::2]:547 protocol 17")
        // An echo's identifier; a later fragment has none.
        #expect(FlowKeyTests.key(Frames.taggedEcho)?.description == "10.0.0.1:48879 > 10.0.0.2:48879 protocol 1")
        #expect(FlowKeyTests.key(Frames.laterFragment)?.description == "192.0.2.1:0 > 198.51.100.7:0 protocol 6")
        #expect(FlowKeyTests.key(Frames.firstFragment6)?.sourcePort == 0x1234)
        #expect(FlowKeyTests.key(Frames.firstFragment6)?.withoutPorts == FlowKeyTests.key(Frames.laterFragment6))
        #expect(FlowKeyTests.key(Frames.arp) == nil)
    }

    @Test("layers of another frame do not make a key read beyond the bytes")
    func otherLayers() {
        let layers = Frame(Frames.chained).look { Layers($0, frameLength: $0.count) }
        for size in 0...126 {
            let key = Frame(hex(Frames.chained).prefix(size)).look { FlowKey($0, layers) }
            #expect((key == nil) == (size < 54))
            #expect(key == nil || (key?.sourcePort == 546) == (size >= 118))
        }
    }

    static func random(_ random: inout Random) -> FlowKey {
        let ports = UInt32(truncatingIfNeeded: random.next())
        let proto = IPProtocol(rawValue: UInt8(truncatingIfNeeded: random.next()))
        let (a, b, c, d) = (random.next(), random.next(), random.next(), random.next())
        // Few values, so that ends are often alike.
        let mask: UInt64 = random.below(2) == 0 ? .max : 1
        let (from, to) = (UInt16(ports >> 16 & UInt32(mask & 0xffff)), UInt16(ports & UInt32(mask & 0xffff)))
        if random.below(2) == 0 {
            return FlowKey(
                source: IPv4Address(rawValue: UInt32(truncatingIfNeeded: a & mask)),
                destination: IPv4Address(rawValue: UInt32(truncatingIfNeeded: b & mask)), protocol: proto,
                sourcePort: from, destinationPort: to)
        }
        return FlowKey(
            source: IPv6Address(high: a & mask, low: b & mask), destination: IPv6Address(high: c & mask, low: d & mask),
            protocol: proto, sourcePort: from, destinationPort: to)
    }

    @Test("both directions: reversed twice is the same, one is canonical, hashes agree")
    func directions() {
        var random = Random(seed: 1)
        let seed = HashSeed()
        for _ in 0..<rounds(20_000) {
            let key = FlowKeyTests.random(&random)
            let back = key.reversed
            #expect(back.reversed == key)
            #expect(back.sourcePort == key.destinationPort && back.destinationPort == key.sourcePort)
            #expect(back.sourceIPv4 == key.destinationIPv4 && back.destinationIPv6 == key.sourceIPv6)
            #expect(back.protocol == key.protocol)
            #expect(key.canonical == back.canonical)
            #expect(key == back || key.isCanonical != back.isCanonical)
            #expect(key.symmetricHash(seed) == back.symmetricHash(seed))
            #expect(key == back || key.hash(seed) != back.hash(seed) || key.hash(HashSeed(1)) != back.hash(HashSeed(1)))
        }
    }

    @Test("each bit of a key counts: for equality and for the hash")
    func bits() {
        let base: [UInt64] = [0x2001_0db8_0000_0000, 1, 0x2001_0db8_0000_0001, 2]
        let seeds = (0..<8).map { HashSeed(UInt64($0)) }
        func key(_ w: [UInt64], _ ports: UInt32, _ proto: UInt8) -> FlowKey {
            FlowKey(
                source: IPv6Address(high: w[0], low: w[1]), destination: IPv6Address(high: w[2], low: w[3]),
                protocol: IPProtocol(rawValue: proto), sourcePort: UInt16(ports >> 16),
                destinationPort: UInt16(ports & 0xffff))
        }
        let one = key(base, 0, 0)
        var others: [FlowKey] = []
        for word in 0..<4 {
            for bit in 0..<64 {
                var w = base
                w[word] ^= 1 << UInt64(bit)
                others.append(key(w, 0, 0))
            }
        }
        for bit in 0..<32 { others.append(key(base, 1 << UInt32(bit), 0)) }
        for bit in 0..<8 { others.append(key(base, 0, 1 << UInt8(bit))) }
        for other in others {
            #expect(other != one)
            #expect(seeds.contains { other.hash($0) != one.hash($0) })
        }
        #expect(Set(others).count == others.count)
        // An IPv4 key is not the IPv6 key with the same numbers.
        let v4 = FlowKey(source: IPv4Address(rawValue: 1), destination: IPv4Address(rawValue: 2), protocol: .tcp)
        let v6 = FlowKey(
            source: IPv6Address(high: 0, low: 1), destination: IPv6Address(high: 0, low: 2), protocol: .tcp)
        #expect(v4 != v6)
    }

    @Test("keys that follow each other fill places evenly, whatever the seed: no place of 4,096 has many of 65,536")
    func spread() {
        let patterns: [(UInt32) -> FlowKey] = [
            // Ports in turn, addresses in turn, both ends, and every 256th address.
            {
                FlowKey(
                    source: IPv4Address(10, 0, 0, 1), destination: IPv4Address(10, 0, 0, 2), protocol: .udp,
                    sourcePort: UInt16($0), destinationPort: 53)
            },
            {
                FlowKey(
                    source: IPv4Address(rawValue: 0x0a00_0000 + $0), destination: IPv4Address(10, 0, 0, 2),
                    protocol: .tcp,
                    sourcePort: 1024, destinationPort: 80)
            },
            {
                FlowKey(
                    source: IPv4Address(rawValue: 0x0a00_0000 + $0 << 8),
                    destination: IPv4Address(rawValue: 0x0b00_0000 + $0), protocol: .tcp, sourcePort: UInt16($0),
                    destinationPort: UInt16($0))
            },
            {
                FlowKey(
                    source: IPv6Address(high: 0x2001_0db8_0000_0000 + UInt64($0), low: 1),
                    destination: IPv6Address(high: 0x2001_0db8 << 32, low: UInt64($0) << 32), protocol: .tcp)
            },
        ]
        for number in 0..<8 {
            let seed = HashSeed(UInt64(number))
            for pattern in patterns {
                var upper = [Int](repeating: 0, count: 4096)
                var lower = upper
                for i in 0..<UInt32(65_536) {
                    let h = pattern(i).hash(seed)
                    upper[Int(h >> 20)] += 1
                    lower[Int(h & 4095)] += 1
                }
                // 16 on average; 60 by chance once in 10^15.
                #expect(upper.max()! < 60 && lower.max()! < 60)
            }
        }
    }

    @Test("other keys with a seed: addresses and numbers")
    func others() {
        let (a, b) = (HashSeed(1), HashSeed(2))
        #expect(UInt32(5).hash(a) == UInt64(5).hash(a) && UInt64(5).hash(a) != UInt64(5).hash(b))
        #expect(MACAddress(rawValue: 5).hash(a) == UInt64(5).hash(a))
        #expect(IPv4Address(rawValue: 5).hash(a) == UInt64(5).hash(a))
        #expect(IPv6Address(high: 1, low: 2).hash(a) != IPv6Address(high: 2, low: 1).hash(a))
        // Two secrets are not alike.
        #expect(UInt64(1).hash(HashSeed()) != UInt64(1).hash(HashSeed()) || UInt64(2).hash(HashSeed()) != 0)
    }
}
