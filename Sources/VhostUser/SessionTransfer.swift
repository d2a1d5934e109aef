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

extension BackEndSession {
    /// Direction and phase, as the specification numbers them.
    private enum Transfer {
        static let (save, load): (UInt32, UInt32) = (0, 1)
        /// All rings are stopped.
        static let stopped: UInt32 = 0
        /// Of the answer: it failed; no descriptor comes with it.
        static let (failed, noDescriptor): (UInt64, UInt64) = (1, 1 << 8)
    }

    /// Saves the device's state into the front-end's pipe, or begins to load it from there. Where what was handed over
    /// is no pipe, one of our own goes back.
    func setDeviceStateFD(_ m: Message) throws(VhostUserError) -> Message {
        try need(.deviceState, .setDeviceStateFD)
        endTransfer()
        do throws(VhostUserError) {
            let other = try beginTransfer(m)
            var answer = reply(.setDeviceStateFD, Payload(other == nil ? Transfer.noDescriptor : 0))
            answer.descriptors = other.map { [$0] } ?? []
            return answer
        } catch {
            log("refused: \(error)")
            return reply(.setDeviceStateFD, Payload(Transfer.failed | Transfer.noDescriptor))
        }
    }

    /// The other end of our own pipe; nil: the front-end's is used.
    private func beginTransfer(_ m: Message) throws(VhostUserError) -> OwnedDescriptor? {
        func refusal(_ kind: VhostUserError.Kind, _ text: String) -> VhostUserError {
            VhostUserError(kind, .setDeviceStateFD, text)
        }
        var r = PayloadReader(m.payload)
        guard m.payload.count == 8, let direction = r.next32(), let phase = r.next32() else {
            throw refusal(.payload, "payload of \(m.payload.count) bytes, 8 are expected")
        }
        guard direction <= Transfer.load, phase == Transfer.stopped else {
            throw refusal(.payload, "direction \(direction), phase \(phase); 0 or 1, and 0, are known")
        }
        guard m.descriptors.count == 1 else {
            throw refusal(.descriptors, "\(m.descriptors.count) descriptors, 1 is expected")
        }
        guard !rings.contains(where: \.isStarted) else {
            throw refusal(.ring, "a ring runs; stop all of them first (GET_VRING_BASE)")
        }
        var here = m.descriptors[0]
        var other: OwnedDescriptor?
        if !CPlat_is_pipe(here.fd) {
            let ends = try StateTransfer.pipe()
            (here, other) = direction == Transfer.save ? (ends.write, ends.read) : (ends.read, ends.write)
        }
        if direction == Transfer.save {
            transfer = try StateTransfer(device.saveState(), to: here)
        } else {
            transfer = try StateTransfer(from: here)
            transferChanged?(-1, here.fd)
        }
        return other
    }

    /// Something has come, or the other end was closed.
    func serveTransfer() {
        guard let fd = transfer?.end?.fd else { return }
        transferChanged?(fd, -1)
        if transfer?.take() == false { transferChanged?(-1, fd) }
    }

    /// Answers whether all has gone over, and loads what has come. The front-end has closed its end before it asks.
    func checkDeviceState(_ m: Message) throws(VhostUserError) -> Message {
        try need(.deviceState, .checkDeviceState)
        serveTransfer()
        defer { endTransfer() }
        let problem: String?
        if let transfer {
            problem =
                transfer.problem ?? (transfer.end != nil ? "the pipe's other end is still open" : nil)
                ?? (transfer.isLoad ? load(transfer.bytes) : nil)
        } else {
            problem = "SET_DEVICE_STATE_FD has not come"
        }
        if let problem { log("refused: \(VhostUserError(.refused, .checkDeviceState, problem))") }
        return reply(.checkDeviceState, Payload(problem == nil ? 0 : Transfer.failed))
    }

    private func load(_ bytes: [UInt8]) -> String? {
        // Perhaps one was started since.
        rings.contains(where: \.isStarted) ? "a ring runs" : device.loadState(bytes)
    }

    /// A transfer that has not ended fails; its other end sees that this one is closed.
    func endTransfer() {
        if let fd = transfer?.end?.fd { transferChanged?(fd, -1) }
        transfer = nil
    }
}
