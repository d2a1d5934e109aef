/// Memory that threads write on the path of a packet lies apart from other threads': a processor that writes a cache
/// line takes it away from the others, and those that prefetch take it in pairs.
public enum CacheLines {
    /// Bytes of a pair of lines.
    @inlinable public static var pair: Int { 128 }
}

extension UnsafeMutablePointer where Pointee: ~Copyable {
    /// Like `allocate`, on cache lines that hold nothing else. Freed with `deallocate()`.
    @inlinable public static func allocateApart(capacity: Int) -> UnsafeMutablePointer {
        let bytes = max(1, capacity) * MemoryLayout<Pointee>.stride
        let whole = (bytes + CacheLines.pair - 1) / CacheLines.pair * CacheLines.pair
        return UnsafeMutableRawPointer.allocate(byteCount: whole, alignment: CacheLines.pair).bindMemory(
            to: Pointee.self, capacity: max(1, capacity))
    }
}
