import Logging

extension LogLevel {
    /// To standard error, once, before anything is logged. All loggers follow `current`. `journald`: to the journal,
    /// where there is one.
    package static func startLog(_ format: LogFormat = .text) {
        let journal = format == .journald ? Journal() : nil
        LoggingSystem.bootstrap { label in
            if format == .text { return Handler(inner: .standardError(label: label)) }
            return LineLogHandler(label, format, journal)
        }
    }

    private struct Handler: LogHandler {
        var inner: StreamLogHandler
        var metadata: Logger.Metadata {
            get { inner.metadata }
            set { inner.metadata = newValue }
        }
        var logLevel: Logger.Level {
            get { LogLevel.current }
            set {}
        }
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { inner[metadataKey: key] }
            set { inner[metadataKey: key] = newValue }
        }
        func log(event: LogEvent) {
            // What it says is in the text, too.
            var event = event
            event.metadata = nil
            inner.log(event: event)
        }
    }
}
