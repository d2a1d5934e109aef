import Glibc

/// A capability that a dataplane can have a use for; its number is the kernel's.
package enum Capability: UInt8, CaseIterable, Sendable {
    case chown = 0
    case dacOverride = 1
    case fowner = 3
    case netAdmin = 12
    case netRaw = 13
    case ipcLock = 14
    case sysAdmin = 21
    case sysNice = 23
    case sysResource = 24
    case perfmon = 38
    case bpf = 39

    /// As capabilities(7) has it, in small letters and without CAP_.
    package var name: String {
        "\(self)".reduce(into: "") { $0 += $1.isUppercase ? "_" + $1.lowercased() : String($1) }
    }
}

/// What ports that are added later may use beside what those at the start do: `--allow`.
package enum Allowance: Sendable, Equatable {
    /// A folder in which sockets are made, or a device.
    case path(String)
    case capability(Capability)

    /// A path, or a capability's name.
    package init(_ text: String, option: String) throws(RPC.Failure) {
        if text.hasPrefix("/") {
            if access(text, F_OK) != 0 { throw .refused("\(option) \(text): there is no such folder or device") }
            self = .path(text)
        } else if let capability = Capability.allCases.first(where: { $0.name == text }) {
            self = .capability(capability)
        } else {
            throw .refused(
                "\(option) \(text): write a folder or device by its whole path, or a capability: "
                    + Capability.allCases.map(\.name).joined(separator: ", "))
        }
    }

    /// As it was written.
    package var text: String {
        switch self {
        case .path(let path): return path
        case .capability(let capability): return capability.name
        }
    }
}
