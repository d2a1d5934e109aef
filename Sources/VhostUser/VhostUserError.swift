/// What is wrong with a message, or with the connection. The text names the message and the operand.
public struct VhostUserError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What sort of failure, for programs; the text is for people.
    public enum Kind: Sendable, Equatable {
        /// Header: version, size, reply flag, an unknown request.
        case header
        /// Payload too short, too long, or with a value out of range.
        case payload
        /// Too many or too few descriptors, or of the wrong sort.
        case descriptors
        /// An address outside guest memory or not aligned.
        case address
        /// Memory regions: overlap, overflow, too short a file.
        case memory
        /// A feature bit that was not offered, or a message whose feature was not negotiated.
        case features
        /// A ring index beyond those offered, or a change that a running ring forbids.
        case ring
        /// The device refused it.
        case refused
        /// The socket: closed, broken, refused, in use.
        case socket
    }

    /// What sort of failure.
    public let kind: Kind
    public let description: String

    /// For a device or a transport of one's own.
    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    init(_ kind: Kind, _ request: Request, _ text: String) { self.init(kind, "\(request.name): \(text)") }
}
