import CPlatform
import Memory
import Virtio

/// The dirty log of a guest that migrates ("Migration"). Rings write into it while VHOST_F_LOG_ALL is among the
/// features and SET_LOG_BASE has said where it lies.
extension BackEndSession {
    var isLogging: Bool { features.contains(.vhostLogAll) && dirtyLog != nil }

    func setLogBase(_ m: Message) throws(VhostUserError) -> Message {
        try need(.logShmFD, .setLogBase)
        var r = PayloadReader(m.payload)
        guard m.payload.count == 16, let size = r.next64(), let offset = r.next64() else {
            throw VhostUserError(.payload, .setLogBase, "payload of \(m.payload.count) bytes, 16 are expected")
        }
        guard m.descriptors.count == 1 else {
            throw VhostUserError(.descriptors, .setLogBase, "\(m.descriptors.count) descriptors, 1 is expected")
        }
        let new: SharedRegion
        do throws(MemoryError) {
            new = try SharedRegion(
                "the dirty log", offset: offset, size: size, fd: m.descriptors[0].fd, lossFD: lossFD)
        } catch {
            throw VhostUserError(.memory, .setLogBase, error.description)
        }
        let needed = bytesForLog
        guard size >= needed else {
            throw VhostUserError(
                .memory, .setLogBase, "a log of \(size) bytes; the guest's memory needs \(needed)")
        }
        let old = dirtyLog
        dirtyLog = new
        // Rings let go of the old one before it is unmapped.
        if features.contains(.vhostLogAll) { moveAll() }
        withExtendedLifetime(old) {}
        return reply(.setLogBase, Payload(0))
    }

    /// A bit for each page up to the end of memory.
    private var bytesForLog: UInt64 {
        let last = memory.regions.map { $0.guestAddress &+ ($0.size &- 1) }.max() ?? 0
        return last / DirtyLog.pageSize / 8 + 1
    }

    /// The eventfd is checked, and never written: front-ends read the log when they want to, and QEMU sends none.
    func setLogFD(_ m: Message) throws(VhostUserError) {
        guard m.descriptors.count == 1 else {
            throw VhostUserError(.descriptors, .setLogFD, "\(m.descriptors.count) descriptors, 1 is expected")
        }
        guard CPlat_is_eventfd(m.descriptors[0].fd) else {
            throw VhostUserError(.descriptors, .setLogFD, "the descriptor is not an eventfd")
        }
    }

    /// Where ring `i` lies, and what it writes down where.
    func setup(_ i: Int, _ addresses: RingAddresses, base: UInt32) throws(VhostUserError) -> RingSetup {
        var setup = try addresses.setup(i, size: rings[i].size, base: base, features: features, map: ringMap) { part in
            usesIOTLB ? iotlb.find(part).host : memory.map.translateUser(part.address, part.bytes)
        }
        if usesIOTLB { setup.memory = memory.map }
        if isLogging, let dirtyLog {
            setup.log = DirtyLog(bits: dirtyLog.start, bytes: dirtyLog.size)
            if addresses.flags & Message.logsUsed != 0 { setup.loggedDeviceArea = addresses.log }
        }
        if let queue = inflight?.queue(i, size: setup.size, isPacked: setup.isPacked) {
            setup.inflight = queue
            // Transmit rings, which are the odd ones.
            setup.takesInflightAgain = i % 2 == 1
            setup.leavesInflight = protocolFeatures.contains(.getVringBaseInflight)
        }
        return setup
    }

    /// Rings that run go on with what the session says now, each where it stands.
    func moveAll() { apply(moves()) }
}
