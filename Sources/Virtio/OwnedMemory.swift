/// Memory for a fixed number of plain values, on cache lines that hold nothing else. Whoever holds this owns it, and it
/// is freed with its owner. `start` must not outlive it. Places are the caller's to know; a build without optimisation
/// checks them.
@frozen
public struct OwnedMemory<Element: BitwiseCopyable>: ~Copyable {
    /// The first element.
    public let start: UnsafeMutablePointer<Element>
    #if DEBUG
    @usableFromInline let count: Int
    #endif

    /// Uninitialised: each element is written before it is read.
    @inlinable public init(count: Int) {
        start = .allocateApart(capacity: count)
        #if DEBUG
        self.count = count
        #endif
    }

    /// `count` elements, each of them `value`.
    @inlinable public init(count: Int, repeating value: Element) {
        self.init(count: count)
        start.initialize(repeating: value, count: count)
    }

    /// A copy of an array's elements.
    @inlinable public init(_ values: [Element]) {
        self.init(count: values.count)
        for (i, value) in values.enumerated() { start[i] = value }
    }

    @inlinable deinit { start.deallocate() }

    /// An element by its place, which only builds without optimisation check.
    @inlinable
    public subscript(_ i: Int) -> Element {
        @inline(__always) unsafeAddress { UnsafePointer(place(i)) }
        @inline(__always) nonmutating unsafeMutableAddress { place(i) }
    }

    @inlinable @inline(__always)
    func place(_ i: Int) -> UnsafeMutablePointer<Element> {
        #if DEBUG
        precondition(i >= 0 && i < count, "there is no such place")
        #endif
        return start + i
    }
}

/// Room for values that own something, on cache lines that hold nothing else. They and the room go with whoever holds
/// this; none of them ever moves, so addresses stay valid until then.
@frozen
public struct OwnedValues<Value: ~Copyable>: ~Copyable {
    /// The first value.
    public let start: UnsafeMutablePointer<Value>
    /// Values that there is room for.
    public let capacity: Int
    /// Values that were added.
    public private(set) var count = 0

    /// Room without a value.
    public init(capacity: Int) {
        self.capacity = capacity
        start = .allocateApart(capacity: capacity)
    }

    /// One value.
    public init(_ value: consuming Value) {
        self.init(capacity: 1)
        add(value)
    }

    deinit {
        start.deinitialize(count: count)
        start.deallocate()
    }

    /// Takes a value behind those that are there. Traps where the room is full.
    public mutating func add(_ value: consuming Value) {
        precondition(count < capacity, "room for \(capacity) values")
        (start + count).initialize(to: value)
        count += 1
    }

    /// Ends the values and keeps the room.
    public mutating func removeAll() {
        start.deinitialize(count: count)
        count = 0
    }

    /// A value in its place. Traps where there is none.
    public subscript(_ i: Int) -> Value {
        _read {
            precondition(i >= 0 && i < count)
            yield start[i]
        }
        nonmutating _modify {
            precondition(i >= 0 && i < count)
            yield &start[i]
        }
    }
}
