import Headers
import Virtio

/// Longest-prefix match: routes. `PrefixTable<IPv4Address>` and `PrefixTable<IPv6Address>`.
///
/// **How, and why so.** A trie whose first step takes 16 bits of the address and each further one 8, with the longest
/// match written into every entry. An IPv4 lookup reads one to three words: one for prefixes up to /16, two up to /24,
/// three beyond. DPDK's LPM and other tables with a first step of 24 bits read one or two, but of 64 MiB a table, which
/// no cache holds, and write 65,536 entries for a /8. This one has 256 KiB, and 1.3 KiB for each /16 that holds longer
/// prefixes: 10,000 routes stay in the second and third cache, and a table can be built anew while another is used. A
/// trie compressed by bit maps would be smaller still, but must count bits, which processors do fast only with
/// instructions that the base of x86-64 lacks.
///
/// IPv6: the same with nodes only where ways part or a prefix ends; what lies between is compared at once. A lookup
/// reads at most 14 nodes (two cache lines each, side by side), two or three in usual tables.
///
/// Lookups allocate nothing. `insert` may, and copies the nodes when it does; and a prefix that covers much of a full
/// table takes time (a default route over 900,000 scattered ones: 0.13 s). So change a table before packets use it, or
/// make a new one on another thread and replace it as a whole. One thread, or several that only look up. The memory is
/// freed with the table.
///
/// ```swift
/// var routes = PrefixTable<IPv4Address>(capacity: 1000)
/// _ = routes.insert(IPv4Prefix("10.0.0.0/8")!, 1)
/// _ = routes.insert(IPv4Prefix("10.1.0.0/16")!, 2)
/// let port = routes.lookup(IPv4Address("10.1.2.3")!)  // 2
/// ```
public struct PrefixTable<Address: IPAddress>: ~Copyable, Sendable {
    @usableFromInline var trie: PrefixTrie
    private var rules: ExactTable<RuleKey, UInt32>

    /// Prefixes that there can be.
    public let capacity: Int

    /// The largest value that a prefix can have: 2^31 - 2.
    public static var largestValue: UInt32 { PrefixTrie.none - 1 }

    /// An empty table for `capacity` prefixes (1 to 2^24).
    public init(capacity: Int) {
        precondition((1...1 << 24).contains(capacity), "a table has 1 to 2^24 prefixes")
        self.capacity = capacity
        trie = PrefixTrie(skips: Address.bitWidth > 32)
        rules = ExactTable(capacity: capacity, timeout: .max)
    }

    /// Prefixes that there are.
    public var count: Int { rules.count }

    /// Bytes that lookups read in: entries and nodes. Prefixes take about 60 bytes each besides.
    public var bytes: Int { trie.bytes }

    /// Nodes behind the root. For tests.
    package var nodeCount: Int { trie.nodeCount }

    /// The value of the longest prefix that contains `address`; nil where none does.
    @inlinable @inline(__always)
    public func lookup(_ address: Address) -> UInt32? {
        let found: UInt32
        if Address.bitWidth == 32 {
            found = trie.lookup(UInt32(truncatingIfNeeded: address.aligned &>> 96))
        } else {
            found = trie.lookup(
                UInt64(truncatingIfNeeded: address.aligned &>> 64), UInt64(truncatingIfNeeded: address.aligned))
        }
        return found == PrefixTrie.none ? nil : found
    }

    /// Gives a prefix this value, which is at most `largestValue`. `.full`: there are `capacity` others.
    @discardableResult
    public mutating func insert(_ prefix: IPPrefix<Address>, _ value: UInt32) -> Insertion<UInt32> {
        precondition(value <= PrefixTable.largestValue, "values are at most 2^31 - 2")
        let bits = prefix.address.aligned
        let result = rules.insert(RuleKey(bits, prefix.length), value, now: 0)
        switch result {
        case .inserted: trie.insert(bits, prefix.length, value: value, isNew: true)
        case .replaced: trie.insert(bits, prefix.length, value: value, isNew: false)
        case .full: break
        }
        return result
    }

    /// Removes a prefix and returns its value; nil where it is not there. What it covered belongs to the next shorter
    /// one.
    @discardableResult
    public mutating func remove(_ prefix: IPPrefix<Address>) -> UInt32? {
        let bits = prefix.address.aligned
        guard let old = rules.remove(RuleKey(bits, prefix.length)) else { return nil }
        var (value, depth) = (PrefixTrie.none, UInt8(0))
        for length in stride(from: prefix.length - 1, through: 0, by: -1) {
            let shorter = bits & IPPrefix<Address>.mask(length)
            if let found = rules.find(RuleKey(shorter, length)) {
                (value, depth) = (found, UInt8(length + 1))
                break
            }
        }
        trie.remove(bits, prefix.length, value: value, newDepth: depth)
        return old
    }

    /// The value of exactly this prefix; nil where it is not there.
    public func value(of prefix: IPPrefix<Address>) -> UInt32? {
        rules.find(RuleKey(prefix.address.aligned, prefix.length))
    }

    /// Shows `body` each prefix and its value, in no order.
    public func forEach(_ body: (IPPrefix<Address>, UInt32) -> Void) {
        rules.forEach { key, value, _ in
            let address = Address(aligned: UInt128(key.high) << 64 | UInt128(key.low))
            body(IPPrefix(address, length: Int(key.length))!, value)
        }
    }
}

extension PrefixTrie {
    /// An IPv4 address: its nodes follow each other without skips.
    @inlinable @inline(__always)
    func lookup(_ address: UInt32) -> UInt32 {
        var entry = entries[Int(address &>> 16)]
        if entry & PrefixTrie.child == 0 { return entry }
        entry = entries[PrefixTrie.node(entry) &<< 8 | Int(address &>> 8 & 0xff)]
        if entry & PrefixTrie.child == 0 { return entry }
        return entries[PrefixTrie.node(entry) &<< 8 | Int(address & 0xff)]
    }

    /// An IPv6 address. Each node lies behind more bytes than the one before: 14 at most.
    @inlinable @inline(__always)
    func lookup(_ high: UInt64, _ low: UInt64) -> UInt32 {
        var entry = entries[Int(high &>> 48)]
        var next: UInt64 = 2
        while entry & PrefixTrie.child != 0 {
            let n = PrefixTrie.node(entry)
            let step = PrefixTrie.step(entry)
            let byte = step < 8 ? high &>> (56 &- step &* 8) : low &>> (120 &- step &* 8)
            entry = entries[n &<< 8 | Int(truncatingIfNeeded: byte & 0xff)]
            if step != next {
                let node = nodes.start + n
                let differs = (high ^ node.pointee.high) & node.pointee.highMask
                if differs | (low ^ node.pointee.low) & node.pointee.lowMask != 0 { return node.pointee.fallback }
            }
            next = step &+ 1
        }
        return entry
    }
}
