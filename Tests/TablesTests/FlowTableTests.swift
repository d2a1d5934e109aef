import Headers
import Tables
import Testing

@Suite struct FlowTableTests {
    private struct Known {
        var value: UInt64
        var lastUsed: UInt32
        var timeout: UInt32
    }

    @Test(
        "against a dictionary: any operations in any order, full and empty, while the clock wraps",
        arguments: [1, 2, 7, 64, 1000])
    func reference(capacity: Int) {
        var random = Random(seed: UInt64(capacity))
        var table = FlowTable<UInt64>(capacity: capacity, timeout: 50)
        var known: [FlowKey: Known] = [:]
        var now: UInt32 = 0xffff_fff0
        for step in 0..<rounds(200_000) {
            if random.below(20) == 0 { now &+= UInt32(random.below(10)) }
            // More keys than room, and phases with few.
            let key = flow(random.below(1 + capacity * (step >> 12 & 1 == 0 ? 2 : 1)))
            let value = random.next()
            switch random.below(10) {
            case 0, 1, 2:
                let timeout: UInt32? = random.below(4) == 0 ? UInt32(random.below(200)) : nil
                let result = table.insert(key, value, now: now, timeout: timeout)
                if let old = known[key] {
                    #expect(result == .replaced(old.value))
                    known[key] = Known(value: value, lastUsed: now, timeout: timeout ?? old.timeout)
                } else if known.count == capacity {
                    #expect(result == .full)
                } else {
                    #expect(result == .inserted)
                    known[key] = Known(value: value, lastUsed: now, timeout: timeout ?? 50)
                }
            case 3:
                #expect(table.find(key) == known[key]?.value)
            case 4:
                #expect(table.find(key, now: now) == known[key]?.value)
                known[key]?.lastUsed = now
            case 5:
                let old = table.update(key, now: now) { (v: inout UInt64) -> UInt64 in
                    defer { v = value }
                    return v
                }
                #expect(old == known[key]?.value)
                known[key]?.value = value
                known[key]?.lastUsed = now
            case 6:
                #expect(table.remove(key) == known.removeValue(forKey: key)?.value)
            case 7:
                #expect(table.setTimeout(UInt32(step & 63), of: key) == (known[key] != nil))
                known[key]?.timeout = UInt32(step & 63)
            case 8:
                table.prefetch(key)
                table.prefetchEntry(key)
                let n = table.expire(now: now, limit: random.below(8)) { key, value in
                    let old = known.removeValue(forKey: key)
                    #expect(old?.value == value)
                    #expect(old.map { now &- $0.lastUsed >= $0.timeout } == true)
                }
                #expect(n >= 0 && n < 8)
            default:
                if random.below(50) == 0 {
                    // All of it in one turn: nothing that is too old stays.
                    table.expire(now: now, limit: capacity) { key, _ in known[key] = nil }
                    #expect(known.values.allSatisfy { now &- $0.lastUsed < $0.timeout })
                }
            }
            #expect(table.count == known.count)
        }
        var seen: [FlowKey: UInt64] = [:]
        table.forEach { key, value, lastUsed in
            #expect(seen.updateValue(value, forKey: key) == nil)
            #expect(known[key]?.value == value && known[key]?.lastUsed == lastUsed)
        }
        #expect(seen.count == known.count)
        var removed = 0
        table.removeAll { key, value in
            #expect(seen[key] == value)
            removed += 1
        }
        #expect(removed == known.count && table.count == 0)
        // All of it can be used again.
        for n in 0..<capacity { #expect(table.insert(flow(n), 1, now: now) == .inserted) }
        #expect(table.insert(flow(capacity), 1, now: now) == .full)
    }

    @Test("a full table evicts the one of eight that was idle longest, and tells each once")
    func eviction() {
        var table = FlowTable<Int>(capacity: 8, timeout: 100)
        for n in 0..<8 { _ = table.insert(flow(n), n, now: UInt32(10 + n)) }
        _ = table.find(flow(0), now: 30)
        var gone: [Int] = []
        // 1 was not used since 11.
        let result = table.insert(flow(8), 8, now: 31) { _, value in gone.append(value) }
        #expect(result == .inserted && gone == [1] && table.count == 8)
        #expect(table.find(flow(1)) == nil && table.find(flow(8)) == 8)
        // There is one: it is replaced, and nothing goes.
        #expect(table.insert(flow(8), -8, now: 31) { _, value in gone.append(value) } == .replaced(8))
        #expect(gone == [1])
        for n in 9..<1000 { _ = table.insert(flow(n), n, now: UInt32(31 + n)) { _, value in gone.append(value) } }
        #expect(table.count == 8 && gone.count == 992 && Set(gone).count == 992)
        var one = FlowTable<Int>(capacity: 1, timeout: 1)
        for n in 0..<10 {
            let result = one.insert(flow(n), n, now: 0) { _, v in #expect(v == n - 1) }
            #expect(result == .inserted)
        }
        #expect(one.find(flow(9)) == 9)
    }

    @Test("a flood of new flows with evictions: what is used in between stays")
    func flood() {
        // They lie side by side, as what came first does.
        var table = FlowTable<Int>(capacity: 4096, timeout: 100)
        for n in 0..<100 { _ = table.insert(flow(n), n, now: 0) }
        for n in 0..<rounds(100_000) {
            _ = table.insert(flow(1000 + n), n, now: UInt32(n)) { key, _ in #expect(key.sourcePort != 0) }
            // Each is used far more often than the table goes round.
            _ = table.find(flow(n % 100), now: UInt32(n))
        }
        for n in 0..<100 { #expect(table.find(flow(n)) == n) }
    }

    @Test("ageing visits so many places a call, and each entry is told once; UInt32.max is never")
    func ageing() {
        var table = ExactTable<UInt64, UInt32>(capacity: 1000, timeout: 10)
        for n in 0..<1000 { _ = table.insert(UInt64(n), UInt32(n), now: 0, timeout: n % 10 == 0 ? .max : nil) }
        #expect(table.expire(now: 9, limit: 1000) { _, _ in Issue.record("too early") } == 0)
        var told: [UInt64] = []
        var calls = 0
        while calls < 10 {
            let before = told.count
            let n = table.expire(now: 10, limit: 100) { key, value in
                #expect(UInt64(value) == key)
                told.append(key)
            }
            #expect(n == 90 && told.count == before + 90)
            calls += 1
        }
        #expect(Set(told).count == 900 && table.count == 100)
        #expect(table.expire(now: .max, limit: 5000) { _, _ in Issue.record("never") } == 0)
        #expect(table.expire(now: 0, limit: -1) { _, _ in } == 0)
    }

    @Test("keys that collide under one seed do not under a secret one")
    func secret() {
        // 64 keys of one bucket of 2,048 (capacity 1,024) under a seed that the sender knows.
        let open = HashSeed(1)
        var keys: [FlowKey] = []
        var n = 0
        while keys.count < 64 {
            if flow(n).hash(open) >> 21 == 0 { keys.append(flow(n)) }
            n += 1
        }
        var known = FlowTable<Int>(capacity: 1024, timeout: 1, seed: open)
        for key in keys { _ = known.insert(key, 0, now: 0) }
        #expect(known.longestBucket == 64)
        for _ in 0..<20 {
            var table = FlowTable<Int>(capacity: 1024, timeout: 1)
            for key in keys { _ = table.insert(key, 0, now: 0) }
            // Eight of 64 in one of 2,048 by chance: once in 10^14.
            #expect(table.longestBucket < 8)
        }
    }

    @Test("other keys: MAC addresses, IPv4 and IPv6 addresses; values of other sizes")
    func keys() {
        struct Wide: BitwiseCopyable { var words: (UInt64, UInt64, UInt64, UInt8) = (1, 2, 3, 4) }
        var macs = ExactTable<MACAddress, Wide>(capacity: 100, timeout: 1)
        var v4 = ExactTable<IPv4Address, UInt8>(capacity: 100, timeout: 1)
        var v6 = ExactTable<IPv6Address, (UInt16, UInt16)>(capacity: 100, timeout: 1)
        for n in 0..<100 {
            _ = macs.insert(MACAddress(rawValue: UInt64(n)), Wide(words: (UInt64(n), 0, 0, 7)), now: 0)
            _ = v4.insert(IPv4Address(rawValue: UInt32(n)), UInt8(n), now: 0)
            _ = v6.insert(IPv6Address(high: 1, low: UInt64(n)), (UInt16(n), 5), now: 0)
        }
        for n in 0..<100 {
            #expect(macs.find(MACAddress(rawValue: UInt64(n)))?.words.0 == UInt64(n))
            #expect(v4.find(IPv4Address(rawValue: UInt32(n))) == UInt8(n))
            #expect(v6.find(IPv6Address(high: 1, low: UInt64(n)))?.0 == UInt16(n))
            #expect(v6.find(IPv6Address(high: 2, low: UInt64(n))) == nil)
        }
    }
}
