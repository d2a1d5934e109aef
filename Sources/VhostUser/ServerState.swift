import CPlatform
import Control
import Glibc
import Memory

/// All that a port's socket knows, for a process that takes it over.
package struct ServerState: Codable {
    /// Nil: it connects instead of listening, or was handed a connection.
    var listener: OwnedDescriptor?
    /// Those that have not sent a whole message.
    var waiting: [SocketState]
    /// The front-end's, and what it has set.
    var active: SocketState?
    package var session: SessionState?
}

/// To hand a port's socket on, and to take one over. The control thread waits meanwhile (`park`), or does not run yet:
/// so whoever does it may use the session itself.
extension BackEndServer {
    /// Its control thread does nothing until `release`: returns when it has begun to wait.
    package func park() { control.park() }

    /// The control thread goes on.
    package func release() { control.release() }

    /// Ends the connection of a front-end whose memory could not be mapped again.
    package func endIfTruncated() { if session?.hasWholeFiles == false { endTruncated() } }

    /// What another process needs to go on in place of this one.
    package var state: ServerState {
        get throws {
            ServerState(
                listener: listener < 0 ? nil : try OwnedDescriptor(copyOf: listener),
                waiting: try pending.map { try $0.socket.state }, active: try active?.state,
                session: try session?.state)
        }
    }

    /// Takes over what another process had, instead of `start`. No ring starts, and the control thread waits until
    /// `release`. Errors: what cannot be mapped, no threads.
    package func adopt(_ state: ServerState) throws {
        guard handed != nil || (state.listener == nil) == isClient else {
            throw VhostUserError(.socket, "\(path): client=\(isClient ? "on" : "off"), and not so where it ran")
        }
        if let fd = state.listener {
            listener = try fd.copy()
            // Of this process the number says nothing.
            if let handed { HandedDescriptors.adopt(handed, fd) }
        }
        let now = CPlat_monotonic_ns()
        pending = try state.waiting.map { (try MessageSocket($0, keeps: .ofFrontEnd), now) }
        if let socket = state.active, let known = state.session {
            (active, activeSince) = (try MessageSocket(socket, keeps: .ofFrontEnd), now)
            session = makeSession()
            try session?.adopt(known)
            watchInbandCalls()
        }
        try run(isParked: true)
    }

    /// Another process goes on with all of it: the socket's file and the connection stay. Rings have stopped.
    package func leave() {
        if listener >= 0 { close(listener) }
        (listener, pending, session, active) = (-1, [], nil, nil)
    }
}
