/// A value behind a lock: the one that this project uses, since ThreadSanitizer sees it.
///
/// Any thread, but none that forwards packets. (A lock that guards nothing is a `Monitor`: ThreadSanitizer takes an
/// access to a `Void` here for one to its neighbour.)
///
/// Unchecked: the value is reached with the lock held only.
package final class Locked<Value>: @unchecked Sendable {
    private let monitor = Monitor()
    private var current: Value

    package init(_ value: Value) { current = value }

    package func withLock<Result, Failure>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure) -> Result {
        monitor.lock()
        defer { monitor.unlock() }
        return try body(&current)
    }

    package var value: Value {
        get { withLock { $0 } }
        set { withLock { $0 = newValue } }
    }
}
