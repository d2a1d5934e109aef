import Logging
import Synchronization

/// The level of the program's log, which can be changed while it runs.
package enum LogLevel {
    private static let place = Atomic(2)

    package static var current: Logger.Level {
        get { Logger.Level.allCases[place.load(ordering: .relaxed)] }
        set { place.store(Logger.Level.allCases.firstIndex(of: newValue) ?? 2, ordering: .relaxed) }
    }

    /// The names, for errors.
    package static let names = "trace, debug, info, notice, warning, error or critical"
}
