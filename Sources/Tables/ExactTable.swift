import CPlatform
import Headers
import Virtio

/// A table of flows: `ExactTable` with the 5-tuple as key.
public typealias FlowTable<Value: BitwiseCopyable> = ExactTable<FlowKey, Value>

/// What became of an insertion.
public enum Insertion<Value> {
    /// There is a new entry.
    case inserted
    /// There was an entry with this key: it has the new value. This is the old one.
    case replaced(Value)
    /// There was no room: nothing has changed.
    case full
}

extension Insertion: Equatable where Value: Equatable {}
extension Insertion: Sendable where Value: Sendable {}

/// Values by key, with ageing, in memory that is taken once: for flows, connections, MAC addresses.
///
/// Holds exactly `capacity` entries. Where an entry lies depends on a secret seed: keys that a sender chooses share
/// places no more often than by chance, so a search looks at few entries whatever comes (`HashSeed`).
///
/// Times are 32-bit ticks of the caller's clock (seconds, milliseconds), which may wrap. An entry that nobody asked for
/// during its timeout can be removed by `expire`, which visits a bounded number of places a call; until then it is
/// found, and found with `now` it lives on. Each entry's end is told once: by what `remove` returns or `expire`, an
/// eviction or `removeAll` gives to its closure. Call `expire` often enough to go round well before the clock does
/// (49 days of milliseconds).
///
/// One thread. Nothing allocates but `init`; the memory is freed with the table.
///
/// ```swift
/// var flows = FlowTable<UInt32>(capacity: 100_000, timeout: 30)
/// if flows.find(key, now: seconds) == nil { _ = flows.insert(key, 7, now: seconds) }
/// _ = flows.expire(now: seconds + 31, limit: 100_000) { key, value in ended.append(value) }
/// ```
public struct ExactTable<Key: SeededHashable, Value: BitwiseCopyable>: ~Copyable {
    @usableFromInline
    struct Entry: BitwiseCopyable {
        @usableFromInline var key: Key
        @usableFromInline var lastUsed: UInt32
        @usableFromInline var timeout: UInt32
        /// Of the same bucket, or of the free ones: those have the highest bit set.
        @usableFromInline var next: UInt32
        @usableFromInline var value: Value

        @inlinable
        init(key: Key, lastUsed: UInt32, timeout: UInt32, next: UInt32, value: Value) {
            (self.key, self.lastUsed, self.timeout, self.next, self.value) = (key, lastUsed, timeout, next, value)
        }
    }

    @inlinable static var none: UInt32 { 0x7fff_ffff }
    @inlinable static var free: UInt32 { 0x8000_0000 }

    /// Entries that there can be.
    public let capacity: Int
    /// Ticks without use after which an entry may be removed, where `insert` says nothing else.
    public let timeout: UInt32
    @usableFromInline let seed: HashSeed
    @usableFromInline var entries: OwnedTable<Entry>
    /// The first entry of each bucket.
    @usableFromInline var heads: OwnedTable<UInt32>
    @usableFromInline let shift: UInt32
    @usableFromInline var firstFree: UInt32
    @usableFromInline var used = 0
    /// Where `expire` goes on.
    @usableFromInline var position = 0
    /// Where evictions go on, and how far on: each place comes once before one comes again, and places that follow each
    /// other, which hold entries of one time, lie far apart.
    @usableFromInline var victim = 0
    @usableFromInline let stride: Int

    /// An empty table for `capacity` entries (1 to 2^28), each of which may be removed after `timeout` ticks without
    /// use. `UInt32.max`: never. The seed is secret unless a test gives one.
    @inlinable
    public init(capacity: Int, timeout: UInt32, seed: HashSeed = HashSeed()) {
        precondition((1...1 << 28).contains(capacity), "a table has 1 to 2^28 entries")
        self.capacity = capacity
        self.timeout = timeout
        self.seed = seed
        // At least two buckets an entry: nearly every search ends at its first.
        let bits = max(1, Int.bitWidth - (2 * capacity - 1).leadingZeroBitCount)
        shift = UInt32(32 - bits)
        heads = OwnedTable(count: 1 << bits, repeating: ExactTable.none)
        // There is no value yet that could be written.
        entries = OwnedTable(zeroed: capacity)
        firstFree = 0
        stride = ExactTable.stride(capacity)
        for i in 0..<capacity {
            entries[i].next = ExactTable.free | (i + 1 < capacity ? UInt32(i + 1) : ExactTable.none)
        }
    }

    /// About the golden section of the capacity, without a divisor in common with it.
    @usableFromInline
    static func stride(_ capacity: Int) -> Int {
        var stride = max(1, capacity * 618 / 1000)
        func divisor(_ a: Int, _ b: Int) -> Int { b == 0 ? a : divisor(b, a % b) }
        while divisor(capacity, stride) != 1 { stride -= 1 }
        return stride
    }

    /// Entries that there are.
    @inlinable @inline(__always)
    public var count: Int { used }

    // MARK: Searching

    @inlinable @inline(__always)
    func bucket(_ key: Key) -> Int { Int(key.hash(seed) &>> shift) }

    /// The entry of `key`; `none` where there is none.
    @inlinable @inline(__always)
    func search(_ key: Key) -> UInt32 { search(key, from: heads[bucket(key)]) }

    @inlinable @inline(__always)
    func search(_ key: Key, from first: UInt32) -> UInt32 {
        var i = first
        while i != ExactTable.none && entries[Int(i)].key != key { i = entries[Int(i)].next }
        return i
    }

    /// Asks the processor for the memory in which a search for `key` starts. Of use when keys of a whole burst are
    /// known before the first is looked for, and the table is larger than the processor's caches.
    @inlinable @inline(__always)
    public func prefetch(_ key: Key) { CPlat_prefetch_read(heads.start + bucket(key)) }

    /// Asks for the entry at which a search for `key` looks first. A second pass over a burst, after `prefetch` for all
    /// of its keys.
    @inlinable @inline(__always)
    public func prefetchEntry(_ key: Key) {
        let first = heads[bucket(key)]
        if first != ExactTable.none { CPlat_prefetch_read(entries.start + Int(first)) }
    }

    /// The value of `key`; nil where there is none. The entry's age stays as it is.
    @inlinable @inline(__always)
    public func find(_ key: Key) -> Value? {
        let i = search(key)
        return i == ExactTable.none ? nil : entries[Int(i)].value
    }

    /// The value of `key`, whose entry is used now; nil where there is none.
    @inlinable @inline(__always)
    public mutating func find(_ key: Key, now: UInt32) -> Value? {
        let i = search(key)
        if i == ExactTable.none { return nil }
        entries[Int(i)].lastUsed = now
        return entries[Int(i)].value
    }

    /// Lets `body` change the value of `key`, whose entry is used now. Nil, without a call, where there is none.
    @inlinable @inline(__always)
    public mutating func update<R>(_ key: Key, now: UInt32, _ body: (inout Value) -> R) -> R? {
        let i = search(key)
        if i == ExactTable.none { return nil }
        entries[Int(i)].lastUsed = now
        // (Through the subscript the compiler, 6.3.1, makes invalid code with ThreadSanitizer.)
        return body(&(entries.start + Int(i)).pointee.value)
    }

    /// Gives the entry of `key` another timeout, as when a connection has been established. False where there is none.
    @inlinable @inline(__always)
    @discardableResult
    public mutating func setTimeout(_ timeout: UInt32, of key: Key) -> Bool {
        let i = search(key)
        if i == ExactTable.none { return false }
        entries[Int(i)].timeout = timeout
        return true
    }

    // MARK: Changing

    /// Gives `key` this value. A new entry may be removed after `timeout` ticks without use (nil: the table's). An
    /// entry that was there keeps its timeout, unless there is one here. Where the table is full, nothing changes.
    @inlinable
    public mutating func insert(_ key: Key, _ value: Value, now: UInt32, timeout: UInt32? = nil) -> Insertion<Value> {
        let bucket = bucket(key)
        let known = search(key, from: heads[bucket])
        if known != ExactTable.none {
            let old = entries[Int(known)].value
            entries[Int(known)].value = value
            entries[Int(known)].lastUsed = now
            if let timeout { entries[Int(known)].timeout = timeout }
            return .replaced(old)
        }
        if firstFree == ExactTable.none { return .full }
        let i = firstFree
        firstFree = entries[Int(i)].next & ~ExactTable.free
        entries[Int(i)] = Entry(
            key: key, lastUsed: now, timeout: timeout ?? self.timeout, next: heads[bucket], value: value)
        heads[bucket] = i
        used &+= 1
        return .inserted
    }

    /// The same; but where the table is full, an entry makes room: of eight places far from each other, which are
    /// others each time, the one that was not used for longest. `evicted` gets it. Never `.full`.
    @inlinable
    public mutating func insert(
        _ key: Key, _ value: Value, now: UInt32, timeout: UInt32? = nil, evicted: (Key, Value) -> Void
    ) -> Insertion<Value> {
        let first = insert(key, value, now: now, timeout: timeout)
        guard case .full = first else { return first }
        var oldest = victim
        var age: UInt32 = 0
        for _ in 0..<min(8, capacity) {
            let idle = now &- entries[victim].lastUsed
            if idle >= age { (oldest, age) = (victim, idle) }
            victim &+= stride
            if victim >= capacity { victim &-= capacity }
        }
        let (oldKey, oldValue) = (entries[oldest].key, entries[oldest].value)
        unlink(UInt32(truncatingIfNeeded: oldest))
        evicted(oldKey, oldValue)
        return insert(key, value, now: now, timeout: timeout)
    }

    /// Removes the entry of `key` and returns its value; nil where there is none.
    @inlinable
    @discardableResult
    public mutating func remove(_ key: Key) -> Value? {
        let i = search(key)
        if i == ExactTable.none { return nil }
        let value = entries[Int(i)].value
        unlink(i)
        return value
    }

    /// Goes on through the table, at most `limit` places of it, used or not, and removes entries that were not used
    /// during their timeout. `removed` gets each. Returns how many there were. After `capacity` places in all, each was
    /// visited.
    @inlinable
    @discardableResult
    public mutating func expire(now: UInt32, limit: Int, removed: (Key, Value) -> Void) -> Int {
        var n = 0
        for _ in 0..<max(0, min(limit, capacity)) {
            if entries[position].next & ExactTable.free == 0, entries[position].timeout != .max,
                now &- entries[position].lastUsed >= entries[position].timeout
            {
                let (key, value) = (entries[position].key, entries[position].value)
                unlink(UInt32(truncatingIfNeeded: position))
                removed(key, value)
                n &+= 1
            }
            advance()
        }
        return n
    }

    /// Removes all entries and gives each to `removed`. Takes as long as the table is large.
    @inlinable
    public mutating func removeAll(removed: (Key, Value) -> Void = { _, _ in }) {
        for i in 0..<capacity where entries[i].next & ExactTable.free == 0 {
            let (key, value) = (entries[i].key, entries[i].value)
            unlink(UInt32(truncatingIfNeeded: i))
            removed(key, value)
        }
    }

    /// Shows `body` each entry and when it was used last. Takes as long as the table is large.
    @inlinable
    public func forEach(_ body: (Key, Value, UInt32) -> Void) {
        for i in 0..<capacity where entries[i].next & ExactTable.free == 0 {
            body(entries[i].key, entries[i].value, entries[i].lastUsed)
        }
    }

    /// Entries of the bucket that has most: steps of the longest search. For tests.
    package var longestBucket: Int {
        var most = 0
        for b in 0..<1 << Int(32 - shift) {
            var (n, i) = (0, heads[b])
            while i != ExactTable.none { (n, i) = (n + 1, entries[Int(i)].next) }
            most = max(most, n)
        }
        return most
    }

    @inlinable @inline(__always)
    mutating func advance() {
        position &+= 1
        if position == capacity { position = 0 }
    }

    /// Takes entry `i`, which is used, out of its bucket and makes it free.
    @inlinable
    mutating func unlink(_ i: UInt32) {
        let bucket = bucket(entries[Int(i)].key)
        if heads[bucket] == i {
            heads[bucket] = entries[Int(i)].next
        } else {
            var before = heads[bucket]
            while entries[Int(before)].next != i { before = entries[Int(before)].next }
            entries[Int(before)].next = entries[Int(i)].next
        }
        entries[Int(i)].next = ExactTable.free | firstFree
        firstFree = i
        used &-= 1
    }
}

extension ExactTable.Entry: Sendable where Key: Sendable, Value: Sendable {}
// It can go to another thread as a whole, and several may search it that change nothing.
extension ExactTable: Sendable where Key: Sendable, Value: Sendable {}
