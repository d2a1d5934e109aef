/// What a ring tells of what it does. Chosen at compile time: nothing is asked, and nothing is paid, where nobody wants
/// to know. `RecordedRing` has the one that watches.
protocol RingWitness {
    static var isWatching: Bool { get }
    /// Buffers were written; `wrote` names them one by one.
    mutating func begin()
    mutating func wrote(_ host: UnsafeMutableRawPointer, _ length: UInt64)
    /// Packed: the driver is about to be told of what was used, up to this place.
    mutating func publishing(_ place: PackedCursor)
    /// Packed: it was told.
    mutating func published(_ place: PackedCursor)
}

/// Nobody wants to know.
struct NoWitness: RingWitness {
    /// Values without a byte have one address without optimisation, where ThreadSanitizer takes it for one variable.
    private var byte: UInt8 = 0

    init() {}

    @inline(__always) static var isWatching: Bool { false }
    @inline(__always) mutating func begin() {}
    @inline(__always) mutating func wrote(_ host: UnsafeMutableRawPointer, _ length: UInt64) {}
    @inline(__always) mutating func publishing(_ place: PackedCursor) {}
    @inline(__always) mutating func published(_ place: PackedCursor) {}
}
