import VhostUser

/// What stands behind a port. In place of a socket's path or a TAP's name may stand `fd=N`: a descriptor of this
/// process, of which the port uses a copy (`HandedDescriptors`). A socket listens, or is a connection, and then the
/// only one of its port; a TAP has one queue. `isClient` and `isServer` are false then.
public enum PortKind: Sendable, Equatable {
    /// The device side of vhost-user on a socket; a client connects and reconnects, else a server listens.
    case vhostUser(path: String, isClient: Bool)
    /// The driver side, on somebody else's back-end (`VhostNet`). Kernel, vDPA or socket: the path decides.
    case virtioUser(path: String, isServer: Bool, tap: String?)
    /// A TAP device of this machine's kernel, through io_uring.
    case tap(name: String)
    /// An interface of this machine, a physical one or a veth, through AF_XDP: one queue of it for each pair, and all
    /// that they receive. `busyPolls`: the poll thread runs the interface's driver, too (SO_PREFER_BUSY_POLL).
    case xdp(interface: String, busyPolls: Bool)
    /// Nothing: what is sent there is counted, and is gone. `emit`: it sends frames of so many bytes (14…9216, without
    /// CRC) as fast as they are taken.
    case null(name: String, emit: Int?)
}

extension PortKind {
    /// What errors and tables call the port: its path, or its kind and name.
    public var name: String {
        switch self {
        case .virtioUser(let path, _, let tap?): return "\(path),tap=\(tap)"
        case .vhostUser(let path, _), .virtioUser(let path, _, nil): return path
        case .tap(let name): return "tap:" + name
        case .xdp(let interface, _): return "xdp:" + interface
        case .null(let name, _): return "null:" + name
        }
    }

    /// The socket that the port makes, and removes when it stops; nil: none.
    public var listeningPath: String? {
        switch self {
        case _ where descriptor != nil: return nil
        case .vhostUser(let path, false), .virtioUser(let path, true, _): return path
        case .vhostUser, .virtioUser, .tap, .xdp, .null: return nil
        }
    }

    /// The port goes to a socket or device of somebody else's, where nobody may ever be.
    public var connects: Bool {
        switch self {
        case _ where descriptor != nil: return false
        case .vhostUser(_, let isClient): return isClient
        case .virtioUser(_, let isServer, _): return !isServer
        case .tap, .xdp, .null: return false
        }
    }

    /// The number of the descriptor that it was handed; nil: it opens what it needs.
    public var descriptor: Int32? {
        switch self {
        case .vhostUser(let place, _), .virtioUser(let place, _, _), .tap(let place):
            return HandedDescriptors.number(place)
        case .xdp, .null: return nil
        }
    }

    /// On the kernel's vhost-net: `PortOptions.busyloop` is then vhost's own timeout.
    var isKernel: Bool {
        if case .virtioUser(let path, _, _) = self { return path.hasPrefix("/dev/vhost-net") }
        return false
    }
}
