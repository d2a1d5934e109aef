import Logging

/// A running dataplane: ports, poll threads and forwarding.
public final class Engine: @unchecked Sendable {
    public let options: EngineOptions
    let logger: Logger

    /// Checks the options; nothing is opened yet.
    public init(_ options: EngineOptions, logger: Logger) throws(EngineError) {
        self.options = options
        self.logger = logger
    }

    /// Opens the ports and starts the threads; returns when every socket listens.
    public func start() throws(EngineError) {
        throw EngineError("the engine's threads come with the next commit")
    }

    /// Stops threads, closes connections, removes sockets. Safe to call twice.
    public func stop() {}

    public func snapshot() -> [PortSnapshot] { [] }
}
