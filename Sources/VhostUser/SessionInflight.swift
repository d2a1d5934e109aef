import CPlatform
import Glibc
import Memory
import Virtio

extension BackEndSession {
    /// `mmap size`, `mmap offset`, `num queues`, `queue size`; with or without the structure's padding.
    private func inflightOperands(_ m: Message, _ request: Request) throws(VhostUserError) -> (
        size: UInt64, offset: UInt64, queues: Int, queueSize: UInt32
    ) {
        try need(.inflightShmFD, request)
        var r = PayloadReader(m.payload)
        guard m.payload.count == 20 || m.payload.count == 24, let size = r.next64(), let offset = r.next64(),
            let both = r.next32()
        else { throw VhostUserError(.payload, request, "payload of \(m.payload.count) bytes, 20 are expected") }
        let (queues, queueSize) = (Int(both & 0xffff), both >> 16)
        guard queues >= 1, queues <= rings.count else {
            throw VhostUserError(
                .ring, request, "\(queues) queues; this port has \(rings.count) (queues=\(device.queuePairs))")
        }
        guard RingLayout.isValid(size: queueSize, isPacked: true) else {
            throw VhostUserError(
                .ring, request, "queue size \(queueSize); 2 to \(RingLayout.maximumSize) are possible")
        }
        return (size, offset, queues, queueSize)
    }

    private func inflightBytes(_ queues: Int, _ queueSize: UInt32) -> UInt64 {
        UInt64(queues * InflightQueue.bytes(size: queueSize, isPacked: isPacked))
    }

    /// Answers a new region, which is all zero. The front-end gives it back with SET_INFLIGHT_FD.
    func getInflightFD(_ m: Message) throws(VhostUserError) -> Message {
        let (_, _, queues, queueSize) = try inflightOperands(m, .getInflightFD)
        let size = inflightBytes(queues, queueSize)
        // Without pages until a ring writes there: a front-end can ask as often as it likes.
        let file = OwnedDescriptor(CPlat_memfd("ringway-inflight", 0, true))
        guard file.fd >= 0, ftruncate(file.fd, off_t(size)) == 0, CPlat_seal_shrink(file.fd) == 0 else {
            throw VhostUserError(.refused, .getInflightFD, "a file of \(size) bytes: \(SystemError.text(errno))")
        }
        var answer = Payload(size)
        answer.add64(0)
        answer.add32(UInt32(queues) | queueSize << 16)
        if m.payload.count == 24 { answer.add32(0) }
        var message = reply(.getInflightFD, answer)
        message.descriptors = [file]
        return message
    }

    func setInflightFD(_ m: Message) throws(VhostUserError) {
        let (size, offset, queues, queueSize) = try inflightOperands(m, .setInflightFD)
        guard m.descriptors.count == 1 else {
            throw VhostUserError(.descriptors, .setInflightFD, "\(m.descriptors.count) descriptors, 1 is expected")
        }
        guard !rings.contains(where: \.isStarted) else {
            throw VhostUserError(.ring, .setInflightFD, "a ring runs; stop it first (GET_VRING_BASE)")
        }
        let needed = inflightBytes(queues, queueSize)
        guard size >= needed else {
            throw VhostUserError(
                .memory, .setInflightFD,
                "a region of \(size) bytes; \(queues) queues of \(queueSize) descriptors need \(needed)")
        }
        guard offset % 8 == 0 else {
            throw VhostUserError(.memory, .setInflightFD, "offset \(offset) is not a multiple of 8")
        }
        do throws(MemoryError) {
            let region = try SharedRegion(
                "the inflight region", offset: offset, size: size, fd: m.descriptors[0].fd, lossFD: lossFD)
            inflight = InflightRegion(region: region, queues: queues, queueSize: queueSize)
        } catch {
            throw VhostUserError(.memory, .setInflightFD, error.description)
        }
        apply(readyStarts())
    }

    /// Ring `i`'s life has ended. After one that ended in good order the next begins where the front-end says.
    func endInflight(_ i: Int, isReset: Bool = false) {
        let queue = inflight?.queue(i, size: rings[i].size, isPacked: isPacked)
        queue?.end(isReset: isReset)
    }
}
