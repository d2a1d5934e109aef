import Memory
import Ringway

/// What the two ends of an upgrade say to each other after `Methods.Upgrade` (docs/upgrade.md), in this order:
/// `begin`, `Handed`, `prepared`, `EnginePlaces`, `ready`, `go`, `running`, `EngineCounters`. Whoever cannot go on
/// says why in place of the next, or closes. Before `go` the old one goes on then; after it the new one.
enum Upgrade {
    /// Of these documents. The new one asks for it, and refuses another.
    static let version = 1

    struct Step: Codable {
        enum Kind: String, Codable { case begin, prepared, ready, go, running, problem }
        var kind: Kind
        var problem: String?
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
