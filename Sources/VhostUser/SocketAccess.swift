import CPlatform
import Glibc
import Memory

/// Who may connect to a Unix socket that Ringway makes: who may write to its file.
public struct SocketAccess: Sendable, Equatable {
    /// Permissions, such as 0o660, whatever the umask is; nil: what the umask leaves of 0o777.
    public var mode: UInt32?
    /// Number of the user whose file it is; nil: this process's. Giving it to another one takes CAP_CHOWN.
    public var user: UInt32?
    /// Number of the group; nil: this process's. One that its user is not in takes CAP_CHOWN.
    public var group: UInt32?

    /// Nil, as long as nothing else is said.
    public init(mode: UInt32? = nil, user: UInt32? = nil, group: UInt32? = nil) {
        (self.mode, self.user, self.group) = (mode, user, group)
    }

    /// Nothing is asked for.
    public var isDefault: Bool { self == SocketAccess() }
}

extension SocketAccess {
    /// Names of its options, as ports and control sockets take them.
    package static let options = ["mode", "user", "group"]

    /// One of the options: `mode=660`; `user=` and `group=` with a name or a number. Errors: what is wrong with the
    /// value.
    package mutating func read(_ name: String, _ value: String) throws(VhostUserError) {
        switch name {
        case "mode":
            guard value.allSatisfy({ "0"..."7" ~= $0 }), let bits = UInt32(value, radix: 8), bits <= 0o777 else {
                throw refusal(name, value, "write permissions as chmod takes them, as in 660")
            }
            mode = bits
        case "user":
            user = try SocketAccess.number(name, value) { name, room in
                var (entry, found) = (passwd(), UnsafeMutablePointer<passwd>?.none)
                let code = getpwnam_r(name, &entry, &room, room.count, &found)
                return (found == nil ? nil : entry.pw_uid, code)
            }
        case "group":
            group = try SocketAccess.number(name, value) { name, room in
                var (entry, found) = (Glibc.group(), UnsafeMutablePointer<Glibc.group>?.none)
                let code = getgrnam_r(name, &entry, &room, room.count, &found)
                return (found == nil ? nil : entry.gr_gid, code)
            }
        default: assertionFailure("an option that is listed and nothing reads: \(name)")
        }
    }

    /// The number that `value` is, or that `look` finds in the system's tables by that name.
    private static func number(
        _ option: String, _ value: String, _ look: (String, inout [CChar]) -> (number: UInt32?, code: Int32)
    ) throws(VhostUserError) -> UInt32 {
        if !value.isEmpty, value.allSatisfy({ "0"..."9" ~= $0 }) {
            // The last number means none to the kernel.
            guard let number = UInt32(value), number < .max else { throw refusal(option, value, "there is none") }
            return number
        }
        // A group's members have to fit.
        for shift in 12...20 {
            var room = [CChar](repeating: 0, count: 1 << shift)
            let (number, code) = look(value, &room)
            if let number { return number }
            if code == 0 { break }
            if code != ERANGE {
                throw refusal(option, value, "it cannot be looked up (\(SystemError.text(code))); write its number")
            }
        }
        throw refusal(option, value, "there is no such \(option); write its name or number")
    }
}

private func refusal(_ option: String, _ value: String, _ text: String) -> VhostUserError {
    VhostUserError(.socket, "\(option)=\(value): \(text)")
}
