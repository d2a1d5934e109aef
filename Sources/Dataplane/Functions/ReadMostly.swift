import CPlatform

/// A value that poll threads read while packets flow, and that is replaced as a whole (as with RCU): rules, routes.
/// What has been replaced is freed when no thread reads it any more: see `Engine.replace`. Whoever made it keeps it for
/// as long as functions have its `reader`.
///
/// Unchecked: the value behind the pointer is only read, and the pointer atomically replaced, by one thread at a time.
public final class ReadMostly<Value: ~Copyable>: @unchecked Sendable {
    private let cell = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)

    public init(_ value: consuming Value) {
        cell.initialize(to: ReadMostly.address(ReadMostly.place(value)))
    }

    deinit {
        ReadMostly.free(CPlat_load64_relaxed(cell))
        cell.deallocate()
    }

    /// What a packet function keeps to read the value. Of a dead `ReadMostly` it must not be used.
    public var reader: Reader { Reader(cell: cell) }

    /// Publishes another value; returns the old one's address, which somebody may read still.
    func exchange(_ value: consuming Value) -> UInt64 {
        let old = CPlat_load64_relaxed(cell)
        // Release: whoever sees the address sees the value.
        CPlat_store64_release(cell, ReadMostly.address(ReadMostly.place(value)))
        return old
    }

    static func free(_ address: UInt64) {
        guard let value = UnsafeMutablePointer<Value>(bitPattern: UInt(address)) else { return }
        value.deinitialize(count: 1)
        value.deallocate()
    }

    private static func place(_ value: consuming Value) -> UnsafeMutablePointer<Value> {
        let place = UnsafeMutablePointer<Value>.allocate(capacity: 1)
        place.initialize(to: value)
        return place
    }

    private static func address(_ place: UnsafeMutablePointer<Value>) -> UInt64 { UInt64(UInt(bitPattern: place)) }

    /// Reads the value on a poll thread: no reference is counted.
    public struct Reader: BitwiseCopyable, @unchecked Sendable {
        @usableFromInline let cell: UnsafeMutablePointer<UInt64>

        @usableFromInline init(cell: UnsafeMutablePointer<UInt64>) { self.cell = cell }

        /// The value as it is now, for the call's time: for a burst it is asked once.
        @inlinable @inline(__always)
        public func withValue<R>(_ body: (borrowing Value) -> R) -> R {
            let address = UInt(CPlat_load64_acquire(cell))
            return body(UnsafePointer<Value>(bitPattern: address).unsafelyUnwrapped.pointee)
        }
    }
}
