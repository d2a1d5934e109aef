import Memory
import Ringway

/// What the two ends of an upgrade say to each other after `Methods.Upgrade` (docs/upgrade.md), in this order:
/// `begin`, `Handed`, `prepared`, `EnginePlaces`, `ready`, `go`, `running`, `EngineCounters`. Whoever cannot go on
/// says why in place of the next, or closes. Before `go` the old one goes on then; after it the new one, for which the
/// old one waits as long as it lives: until it runs it has a `Deadline`.
enum Upgrade {
    /// Of these documents. The new one asks for it, and refuses another.
    static let version = 1

    /// Seconds from `ready` on after which a new one that does not run is ended by the kernel, and those for which it
    /// waits for `go`: where that does not come there is time left to let go of everything and to say why.
    static let (limit, goLimit): (UInt32, Double) = (10, 8)

    struct Step: Codable {
        enum Kind: String, Codable { case begin, prepared, ready, go, running, problem }
        var kind: Kind
        var problem: String?
        /// With `running`: since when, in nanoseconds of CLOCK_MONOTONIC.
        var since: UInt64?
    }

    /// For how long packets stood still, in microseconds, and in which part of it what was done.
    struct Pause: CustomStringConvertible {
        /// In nanoseconds of CLOCK_MONOTONIC: rings are to stop, have stopped, can start there, run there.
        var begin, stopped, ready, end: UInt64

        var description: String {
            func between(_ a: UInt64, _ b: UInt64) -> UInt64 { (max(a, b) - a) / 1000 }
            return "\(between(begin, end)) us: \(between(begin, stopped)) to stop, "
                + "\(between(stopped, ready)) until the other process was ready, \(between(ready, end)) to start there"
        }
    }

    /// All that the new one needs, but for what changes until rings stop.
    struct Handed: Codable {
        var engine: EngineState
        /// The control sockets, and that of the metrics.
        var control, controlRead, metrics: OwnedDescriptor?
        /// When counting began, in seconds of CLOCK_MONOTONIC.
        var begin: Double
    }
}
