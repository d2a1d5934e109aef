import Glibc
import Memory
import VhostUser
import Virtio

/// What went wrong in the control plane: one line that names the back-end and the call.
public struct VhostError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What sort of failure, for programs; the text is for people.
    public enum Kind: Sendable, Equatable {
        /// The back-end does not have this operation.
        case unsupported
        /// A system call failed with this errno.
        case system(Int32)
        /// Feature bits are missing, or a value was not offered.
        case features
        /// The socket is closed, or no answer came.
        case disconnected
        /// The back-end said no.
        case refused
        /// The back-end answered what it may not.
        case answer
        /// Not now: EBUSY of QEMU's layer. The device is (not) started.
        case state
        /// An argument of the caller: EINVAL.
        case argument
    }

    /// What sort of failure.
    public let kind: Kind
    public let description: String

    /// For a back-end of one's own: the text names the back-end and the call.
    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    /// A failed system call, from errno.
    static func system(_ name: String, _ call: String) -> VhostError {
        let code = errno
        return VhostError(.system(code), "\(name): \(call): \(SystemError.text(code))")
    }

    init(_ name: String, _ error: VhostUserError) {
        let kind: Kind
        switch error.kind {
        case .socket: kind = .disconnected
        case .refused: kind = .refused
        default: kind = .answer
        }
        self.init(kind, "\(name): \(error)")
    }
}

extension Features {
    /// For errors: names and mask.
    var listed: String { "\(bitNames.joined(separator: " ")) (mask 0x\(String(rawValue, radix: 16)))" }
}
