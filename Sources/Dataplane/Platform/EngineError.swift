/// What an engine cannot start with: one line that says what to do.
public struct EngineError: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String
    /// One line, for people.
    public init(_ description: String) { self.description = description }
}
