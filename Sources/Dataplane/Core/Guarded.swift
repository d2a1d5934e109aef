import Control

/// A value that threads ask for while another one changes it.
final class Guarded<Value> {
    private let monitor = Monitor()
    private var current: Value

    init(_ value: Value) { current = value }

    var value: Value {
        get {
            monitor.lock()
            defer { monitor.unlock() }
            return current
        }
        set {
            monitor.lock()
            defer { monitor.unlock() }
            current = newValue
        }
    }
}
