/// Memory for a fixed number of plain values, on cache lines that hold nothing else. Whoever holds this owns it, and it
/// is freed with its owner. `start` must not outlive it.
@frozen
public struct OwnedMemory<Element: BitwiseCopyable>: ~Copyable {
    public let start: UnsafeMutablePointer<Element>

    /// Uninitialised: each element is written before it is read.
    @inlinable public init(count: Int) { start = .allocateApart(capacity: count) }

    @inlinable public init(count: Int, repeating value: Element) {
        self.init(count: count)
        start.initialize(repeating: value, count: count)
    }

    @inlinable deinit { start.deallocate() }

    /// Not checked: the caller knows the bounds.
    @inlinable @inline(__always)
    public subscript(_ i: Int) -> Element {
        get { start[i] }
        nonmutating set { start[i] = newValue }
    }
}
