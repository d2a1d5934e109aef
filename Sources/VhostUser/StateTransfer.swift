import CPlatform
import Glibc
import Memory

/// The device's own state on its way to or from the front-end (vhost-user, "Migrating back-end state"): by a pipe, as
/// fast as the other end is. Nothing here waits for it. The control thread's own.
final class StateTransfer {
    /// No state is longer: so a pipe, which has at least a page, holds the whole of one that is saved.
    static let longest = 4096

    /// The pipe's end here, while there is something to come.
    private(set) var end: OwnedDescriptor?
    /// What has come.
    private(set) var bytes: [UInt8] = []
    /// Why it failed.
    private(set) var problem: String?
    let isLoad: Bool
    /// Between the front-end's pipe and this process: what is read or written here never makes anybody wait, whoever
    /// has set O_NONBLOCK there, or not.
    private let own: (read: OwnedDescriptor, write: OwnedDescriptor)

    /// State that comes from `end`.
    init(from end: OwnedDescriptor) throws(VhostUserError) {
        own = try StateTransfer.pipe()
        (self.end, isLoad) = (end, true)
    }

    /// Writes all of `state` into `end`. Errors: it cannot be written at once.
    init(_ state: [UInt8], to end: OwnedDescriptor) throws(VhostUserError) {
        precondition(state.count <= StateTransfer.longest)
        own = try StateTransfer.pipe()
        isLoad = false
        var left = write(own.write.fd, state, state.count)
        while left > 0 {
            let n = CPlat_splice_now(own.read.fd, end.fd, left)
            if n <= 0 {
                throw VhostUserError(.refused, .setDeviceStateFD, "the pipe takes nothing: \(SystemError.text(errno))")
            }
            left -= n
        }
    }

    static func pipe() throws(VhostUserError) -> (read: OwnedDescriptor, write: OwnedDescriptor) {
        var ends: [Int32] = [-1, -1]
        guard CPlat_pipe(&ends) == 0 else {
            throw VhostUserError(.refused, .setDeviceStateFD, "pipe: \(SystemError.text(errno))")
        }
        return (OwnedDescriptor(ends[0]), OwnedDescriptor(ends[1]))
    }

    /// Takes what has come. True: nothing more will, since it is whole, or has failed; the pipe is closed.
    func take() -> Bool {
        var room = [UInt8](repeating: 0, count: StateTransfer.longest)
        while let from = end {
            let n = CPlat_splice_now(from.fd, own.write.fd, room.count)
            if n < 0 && errno == EINTR { continue }
            if n < 0 && errno == EAGAIN { return false }
            if n < 0 { problem = "the pipe cannot be read: \(SystemError.text(errno))" }
            if n <= 0 { break }
            let count = read(own.read.fd, &room, n)
            bytes += room[..<max(0, count)]
            if bytes.count > StateTransfer.longest {
                problem = "more than \(StateTransfer.longest) bytes"
                break
            }
        }
        end = nil
        return true
    }
}
