import Synchronization

/// A value that poll threads read while packets flow, and that is replaced as a whole (as with RCU): rules, routes.
/// What has been replaced is freed when no thread reads it any more: see `Engine.replace`. Whoever made it keeps it for
/// as long as functions have its `reader`.
///
/// ```swift
/// let rules = ReadMostly(try Classifier(old))
/// let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: logger) { _ in
///     Chain(Limiter(bytesPerSecond: 1_000_000), Firewall(rules: rules.reader))
/// }
/// try engine.start()
/// ```
public final class ReadMostly<Value: ~Copyable & Sendable>: Sendable {
    /// Holds a reference, as no property could while others read it.
    @usableFromInline let current: Atomic<Unmanaged<Held>>

    /// Takes the first value over. Any thread.
    public init(_ value: consuming Value) { current = Atomic(.passRetained(Held(value))) }

    deinit { current.load(ordering: .relaxed).release() }

    /// What a packet function keeps to read the value. Of a dead `ReadMostly` it must not be used.
    public var reader: Reader { Reader(owner: .passUnretained(self)) }

    /// Publishes another value; returns the old one, which somebody may read still: the caller releases it.
    func exchange(_ value: consuming Value) -> Unmanaged<Held> {
        // Release: whoever sees the reference sees the value.
        current.exchange(.passRetained(Held(value)), ordering: .releasing)
    }

    /// One of the values.
    @usableFromInline
    final class Held: Sendable {
        @usableFromInline let value: Value

        init(_ value: consuming Value) { self.value = value }
    }

    /// Reads the value on a poll thread: no reference is counted.
    public struct Reader: BitwiseCopyable, Sendable {
        @usableFromInline let owner: Unmanaged<ReadMostly>

        @usableFromInline init(owner: Unmanaged<ReadMostly>) { self.owner = owner }

        /// The value as it is now, for the call's time: for a burst it is asked once.
        @inlinable @inline(__always)
        public func withValue<R>(_ body: (borrowing Value) -> R) -> R {
            owner._withUnsafeGuaranteedRef {
                $0.current.load(ordering: .acquiring)._withUnsafeGuaranteedRef { body($0.value) }
            }
        }
    }
}
