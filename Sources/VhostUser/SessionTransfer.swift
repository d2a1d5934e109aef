import CPlatform
import Glibc
import Memory

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
