/// A piece of a packet in somebody's memory.
public struct Segment: BitwiseCopyable {
    /// First byte, as this process sees it. Whoever made the segment keeps the memory mapped.
    public var base: UnsafeMutableRawPointer
    /// Bytes.
    public var length: UInt32
    /// `length` bytes from `base` on; nothing is copied or checked.
    @inlinable public init(base: UnsafeMutableRawPointer, length: UInt32) {
        self.base = base
        self.length = length
    }
}
