import Logging

/// What has to be undone if a later step fails: the newest first. A failing clean-up is logged; the error
/// that made it necessary is the one reported.
struct Rollback {
    private var steps: [(name: String, undo: () throws -> Void)] = []

    mutating func add(_ name: String, _ undo: @escaping () throws -> Void) { steps.append((name, undo)) }

    /// A back-end that is gone needs no undoing.
    mutating func run(_ log: Logger, _ backend: any VhostBackend, because error: VhostError) {
        for step in steps.reversed() where !backend.isDisconnected {
            do { try step.undo() } catch { log.warning("undoing \(step.name): \(error)") }
        }
        steps = []
    }
}
