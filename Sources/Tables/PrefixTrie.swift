import Headers
import Virtio

/// A prefix as the key of a table of rules.
struct RuleKey: SeededHashable {
    var high: UInt64
    var low: UInt64
    var length: UInt64

    init(_ bits: UInt128, _ length: Int) {
        high = UInt64(truncatingIfNeeded: bits >> 64)
        low = UInt64(truncatingIfNeeded: bits)
        self.length = UInt64(length)
    }
    func hash(_ seed: HashSeed) -> UInt32 {
        // Prefixes of one address are apart by their lengths, others by the seed.
        IPv6Address(high: high, low: low).hash(seed) &+ UInt32(truncatingIfNeeded: length) &* 0x9e37_79b1
    }
}

/// What `PrefixTable` consists of: a trie with a first step of 16 bits and further ones of 8, in which each entry holds
/// the longest match of its addresses (the leaves are pushed down), so that a lookup never goes back.
///
/// Bits are those of an address at the upper end of 128. Entries of the root and of all nodes lie in one array: 65,536,
/// then 256 a node. An entry with the highest bit set leads to a node: its number in bits 0 to 26, and in 27 to 30 how
/// many bytes of the address stand in front of it, so that a lookup can read the node's entry before the node itself.
/// Another entry is a value or `none`.
///
/// With `skips`, there is no node where only one path leads on: what does not match the bits in front of the next one
/// gets its `fallback`, the longest match of the entry that leads to it.
@usableFromInline
struct PrefixTrie: ~Copyable, Sendable {
    /// What lookups read of a node besides its entries. One cache line.
    @usableFromInline
    struct Node: BitwiseCopyable, Sendable {
        /// The bits that lead to it, and which they are.
        @usableFromInline var high: UInt64 = 0
        @usableFromInline var low: UInt64 = 0
        @usableFromInline var highMask: UInt64 = 0
        @usableFromInline var lowMask: UInt64 = 0
        @usableFromInline var fallback: UInt32 = 0
        /// How many bits they are: a multiple of 8.
        var bits: UInt32 = 0
        /// Prefixes that end in it, nodes behind it, and the prefix length of the fallback.
        var rules: UInt32 = 0
        var children: UInt32 = 0
        var nextFree: UInt32 = 0
        var depth: UInt8 = 0
        // To 64 bytes.
        var padding: (UInt32, UInt16, UInt8) = (0, 0, 0)
    }

    @inlinable static var child: UInt32 { 0x8000_0000 }
    @inlinable static var none: UInt32 { 0x7fff_ffff }
    /// The node to which an entry leads.
    @inlinable @inline(__always)
    static func node(_ entry: UInt32) -> Int { Int(entry & 0x7ff_ffff) }
    /// Bytes of the address in front of that node.
    @inlinable @inline(__always)
    static func step(_ entry: UInt32) -> UInt64 { UInt64(entry &>> 27 & 15) }
    /// Numbers that would be the root's entries.
    @inlinable static var firstNode: Int { 256 }

    @usableFromInline var entries: OwnedTable<UInt32>
    @usableFromInline var nodes: OwnedTable<Node>
    /// The prefix length of each entry's value plus one; 0: none.
    @usableFromInline var depths: OwnedTable<UInt8>
    /// Numbers of nodes that there is room for, and below which they have been used.
    private var room: Int
    private var end = PrefixTrie.firstNode
    private var firstFree: UInt32 = 0
    private let skips: Bool
    /// Nodes in use.
    private(set) var nodeCount = 0

    init(skips: Bool) {
        self.skips = skips
        room = PrefixTrie.firstNode + 16
        entries = OwnedTable(count: room << 8, repeating: PrefixTrie.none)
        depths = OwnedTable(count: room << 8, repeating: 0)
        nodes = OwnedTable(count: room, repeating: Node())
    }

    /// Bytes of its memory.
    var bytes: Int { room << 8 * 5 + room * MemoryLayout<Node>.stride }

    // MARK: Changing

    /// All addresses of the prefix for which there is no longer one get `value`. `isNew`: the prefix was not there.
    mutating func insert(_ bits: UInt128, _ length: Int, value: UInt32, isNew: Bool) {
        let depth = UInt8(length + 1)
        if length <= 16 {
            for i in range(bits, length, 0, 0) { cover(i, value, depth) }
            return
        }
        var slot = Int(truncatingIfNeeded: bits >> 112)
        var slotBits = 16
        while true {
            if entries[slot] & PrefixTrie.child == 0 {
                // The node in which the prefix ends; without skips, the next one.
                let n = makeNode(bits, skips ? (length - 1) & ~7 : slotBits, entries[slot], depths[slot])
                if let parent = owner(slot) { nodes[parent].children += 1 }
                entries[slot] = link(n)
            }
            var n = PrefixTrie.node(entries[slot])
            let common = min((bits ^ path(n)).leadingZeroBitCount, length - 1, Int(nodes[n].bits)) & ~7
            if common < Int(nodes[n].bits) {
                // A node in front, where the ways part or the prefix ends.
                let front = makeNode(bits, common, nodes[n].fallback, nodes[n].depth)
                entries[front << 8 | byte(path(n), common)] = link(n)
                nodes[front].children = 1
                entries[slot] = link(front)
                n = front
            }
            slotBits = Int(nodes[n].bits) + 8
            if length <= slotBits {
                if isNew { nodes[n].rules += 1 }
                for i in range(bits, length, n << 8, slotBits - 8) { cover(i, value, depth) }
                return
            }
            slot = n << 8 | byte(bits, slotBits - 8)
        }
    }

    /// The prefix, which is there, is no more: its addresses get `value`, that of the next shorter prefix (`none`),
    /// whose length plus one is `newDepth` (0).
    mutating func remove(_ bits: UInt128, _ length: Int, value: UInt32, newDepth: UInt8) {
        let depth = UInt8(length + 1)
        if length <= 16 {
            for i in range(bits, length, 0, 0) { uncover(i, depth, value, newDepth) }
            return
        }
        remove(Int(truncatingIfNeeded: bits >> 112), bits, length, value, newDepth)
    }

    /// Behind entry `slot`, which leads to a node. At most 15 deep.
    private mutating func remove(_ slot: Int, _ bits: UInt128, _ length: Int, _ value: UInt32, _ newDepth: UInt8) {
        let n = PrefixTrie.node(entries[slot])
        let start = Int(nodes[n].bits)
        if length <= start + 8 {
            for i in range(bits, length, n << 8, start) { uncover(i, UInt8(length + 1), value, newDepth) }
            nodes[n].rules -= 1
        } else {
            remove(n << 8 | byte(bits, start), bits, length, value, newDepth)
        }
        guard nodes[n].rules == 0 else { return }
        if nodes[n].children == 0 {
            // Nothing ends in it: all of its entries are the fallback.
            entries[slot] = nodes[n].fallback
            depths[slot] = nodes[n].depth
            if let parent = owner(slot) { nodes[parent].children -= 1 }
            freeNode(n)
        } else if skips && nodes[n].children == 1 {
            var i = n << 8
            while entries[i] & PrefixTrie.child == 0 { i += 1 }
            entries[slot] = entries[i]
            freeNode(n)
        }
    }

    /// Entries from `base` on, of a node behind `start` bits, in which addresses of the prefix lie. The root: all of 0.
    private func range(_ bits: UInt128, _ length: Int, _ base: Int, _ start: Int) -> Range<Int> {
        let width = base == 0 ? 16 : 8
        let first = Int(truncatingIfNeeded: (bits << UInt128(start)) >> UInt128(128 - width))
        return base + first..<base + first + 1 << (start + width - length)
    }

    private mutating func cover(_ slot: Int, _ value: UInt32, _ depth: UInt8) {
        if entries[slot] & PrefixTrie.child == 0 {
            if depths[slot] <= depth { (entries[slot], depths[slot]) = (value, depth) }
            return
        }
        let n = PrefixTrie.node(entries[slot])
        if nodes[n].depth <= depth { (nodes[n].fallback, nodes[n].depth) = (value, depth) }
        for i in n << 8..<(n + 1) << 8 { cover(i, value, depth) }
    }

    private mutating func uncover(_ slot: Int, _ depth: UInt8, _ value: UInt32, _ newDepth: UInt8) {
        if entries[slot] & PrefixTrie.child == 0 {
            if depths[slot] == depth { (entries[slot], depths[slot]) = (value, newDepth) }
            return
        }
        let n = PrefixTrie.node(entries[slot])
        if nodes[n].depth == depth { (nodes[n].fallback, nodes[n].depth) = (value, newDepth) }
        for i in n << 8..<(n + 1) << 8 { uncover(i, depth, value, newDepth) }
    }

    /// The entry that leads to a node.
    private func link(_ n: Int) -> UInt32 { PrefixTrie.child | (nodes[n].bits / 8) << 27 | UInt32(n) }

    /// The node to which an entry belongs; nil for the root's.
    private func owner(_ slot: Int) -> Int? { slot < PrefixTrie.firstNode << 8 ? nil : slot >> 8 }

    private func path(_ n: Int) -> UInt128 { UInt128(nodes[n].high) << 64 | UInt128(nodes[n].low) }

    /// The eight bits behind `start`.
    private func byte(_ bits: UInt128, _ start: Int) -> Int {
        Int(truncatingIfNeeded: bits >> UInt128(120 - start)) & 0xff
    }

    // MARK: Nodes

    private mutating func makeNode(_ bits: UInt128, _ start: Int, _ fallback: UInt32, _ depth: UInt8) -> Int {
        var n = Int(firstFree)
        if n != 0 {
            firstFree = nodes[n].nextFree
        } else {
            if end == room { grow() }
            precondition(end < 1 << 27, "more than 2^27 nodes")
            n = end
            end += 1
        }
        let mask: UInt128 = ~0 << UInt128(128 - start)
        var node = Node()
        node.high = UInt64(truncatingIfNeeded: (bits & mask) >> 64)
        node.low = UInt64(truncatingIfNeeded: bits & mask)
        node.highMask = UInt64(truncatingIfNeeded: mask >> 64)
        node.lowMask = UInt64(truncatingIfNeeded: mask)
        node.bits = UInt32(start)
        node.fallback = fallback
        node.depth = depth
        nodes[n] = node
        entries.fill(n << 8..<(n + 1) << 8, with: fallback)
        depths.fill(n << 8..<(n + 1) << 8, with: depth)
        nodeCount += 1
        return n
    }

    private mutating func freeNode(_ n: Int) {
        nodes[n].nextFree = firstFree
        firstFree = UInt32(n)
        nodeCount -= 1
    }

    private mutating func grow() {
        let larger = room * 2
        entries = entries.copied(of: larger << 8, filledWith: PrefixTrie.none)
        depths = depths.copied(of: larger << 8, filledWith: 0)
        nodes = nodes.copied(of: larger, filledWith: Node())
        room = larger
    }
}
