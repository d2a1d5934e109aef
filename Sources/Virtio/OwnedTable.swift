import CPlatform

/// A fixed number of values, on cache lines that hold nothing else, which are reached as their owner is: who may change
/// that may change them, all others read. What threads change at the same time are atomics. They go with whoever holds
/// this, and none of them ever moves. Places are the caller's to know; a build without optimisation checks them.
@frozen
public struct OwnedTable<Value: ~Copyable>: ~Copyable {
    /// The first value, for lookups that go on from an address. It must not outlive this, and what is read through it
    /// while others read is not written through it.
    public let start: UnsafeMutablePointer<Value>
    /// Values that there are.
    public let count: Int

    @inlinable
    init(room count: Int) {
        start = .allocateApart(capacity: count)
        self.count = count
    }

    /// `count` values: `make` gives that of each place.
    @inlinable
    public init(count: Int, _ make: (Int) -> Value) {
        self.init(room: count)
        for i in 0..<count { (start + i).initialize(to: make(i)) }
    }

    @inlinable
    deinit {
        start.deinitialize(count: count)
        start.deallocate()
    }

    /// A value by its place, which only builds without optimisation check.
    @inlinable
    public subscript(_ i: Int) -> Value {
        @inline(__always) unsafeAddress { UnsafePointer(place(i)) }
        @inline(__always) mutating unsafeMutableAddress { place(i) }
    }

    @inlinable @inline(__always)
    func place(_ i: Int) -> UnsafeMutablePointer<Value> {
        #if DEBUG
        precondition(i >= 0 && i < count, "there is no such place")
        #endif
        return start + i
    }
}

/// Unchecked: the values are behind a pointer of its own, which no other value has. So whoever has this alone has them
/// alone, and whoever shares it can do no more with them than with values of its own that are `Sendable`.
extension OwnedTable: @unchecked Sendable where Value: ~Copyable & Sendable {}

extension OwnedTable where Value: BitwiseCopyable {
    /// `count` values, each of them `value`.
    @inlinable
    public init(count: Int, repeating value: Value) {
        self.init(room: count)
        start.initialize(repeating: value, count: count)
    }

    /// A copy of an array's elements.
    @inlinable
    public init(_ values: [Value]) {
        self.init(room: values.count)
        for (i, value) in values.enumerated() { start[i] = value }
    }

    /// `count` values whose bytes are 0, which must be a value that there can be.
    @inlinable
    public init(zeroed count: Int) {
        self.init(room: count)
        CPlat_zero(start, UInt64(count * MemoryLayout<Value>.stride))
    }

    /// A larger table, with the values of this one; the others are `value`.
    @inlinable
    public func copied(of count: Int, filledWith value: Value) -> OwnedTable {
        assert(self.count <= count)
        let larger = OwnedTable(room: count)
        larger.start.initialize(from: start, count: self.count)
        (larger.start + self.count).initialize(repeating: value, count: count - self.count)
        return larger
    }

    /// Gives all places of a range this value.
    @inlinable
    public mutating func fill(_ places: Range<Int>, with value: Value) {
        assert(places.lowerBound >= 0 && places.upperBound <= count)
        (start + places.lowerBound).update(repeating: value, count: places.count)
    }
}
