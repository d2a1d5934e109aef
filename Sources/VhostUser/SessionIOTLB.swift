import CPlatform
import Memory
import Virtio

/// The IOMMU of a driver ("IOMMU support"): with ACCESS_PLATFORM the addresses of rings and in descriptors are the
/// driver's, and the front-end says what they mean. A ring that meets an address of which nothing is known waits: the
/// front-end is asked for it (a miss), and its answer lets the ring go on.
extension BackEndSession {
    /// Without BACKEND_REQ nobody could be asked: such front-ends (DPDK's virtio-user) accept the bit, and have
    /// guest physical addresses nevertheless.
    var usesIOTLB: Bool { features.contains(.accessPlatform) && protocolFeatures.contains(.backendReq) }

    /// What rings translate with.
    var ringMap: MemoryMap { usesIOTLB ? iotlb.map : memory.map }

    /// `struct vhost_iotlb_msg` of linux/vhost_types.h: 26 bytes, 32 with what a compiler puts behind them.
    private struct Operands {
        var address, size, userAddress: UInt64
        var access, type: UInt8

        init?(_ payload: [UInt8]) {
            var r = PayloadReader(payload)
            guard [26, 32].contains(payload.count), let address = r.next64(), let size = r.next64(),
                let user = r.next64()
            else { return nil }
            (self.address, self.size, userAddress) = (address, size, user)
            (access, type) = (payload[24], payload[25])
        }
    }

    func iotlbMessage(_ m: Message) throws(VhostUserError) {
        guard usesIOTLB else {
            throw VhostUserError(.features, .iotlbMsg, "ACCESS_PLATFORM and BACKEND_REQ were not both negotiated")
        }
        guard let o = Operands(m.payload) else {
            throw VhostUserError(.payload, .iotlbMsg, "payload of \(m.payload.count) bytes, 26 or 32 are expected")
        }
        switch Int32(o.type) {
        case VHOST_IOTLB_UPDATE:
            try update(
                IOTLBEntry(
                    address: o.address, size: o.size, userAddress: o.userAddress,
                    access: IOTLBAccess(rawValue: o.access)))
        case VHOST_IOTLB_INVALIDATE: invalidate(o.address, o.size)
        default:
            throw VhostUserError(
                .payload, .iotlbMsg,
                "type \(o.type); \(VHOST_IOTLB_UPDATE) (update) and \(VHOST_IOTLB_INVALIDATE) (invalidate) are possible"
            )
        }
    }

    private func update(_ entry: IOTLBEntry) throws(VhostUserError) {
        let new: IOTLB
        do throws(MemoryError) { new = try iotlb.adding(entry, memory) } catch {
            throw VhostUserError(.memory, .iotlbMsg, error.description)
        }
        askedFor = askedFor.filter { ($0 | 4095) < entry.address || $0 > entry.address &+ (entry.size - 1) }
        replaceIOTLB(new)
        apply(readyStarts())
    }

    /// In force when it returns: rings that lie there have stopped, and no packet of the driver is under way.
    private func invalidate(_ address: UInt64, _ size: UInt64) {
        // Nor does what was asked for have to be known now.
        askedFor = []
        guard let new = iotlb.removing(address, size, memory) else { return apply(readyStarts()) }
        let lost = rings.indices.filter { i in
            guard rings[i].isStarted, let addresses = rings[i].addresses else { return false }
            return addresses.parts(rings[i].size, isPacked: isPacked).contains { new.find($0).host == nil }
        }
        apply(lost.map { RingChange($0, .stop) })
        for i in lost { rings[i].isPaused = true }
        replaceIOTLB(new)
        // A driver that flushes all of its IOMMU's entries still has the ring mapped: the answer says so.
        apply(readyStarts())
    }

    private func replaceIOTLB(_ new: IOTLB) {
        let old = iotlb
        iotlb = new
        device.memoryChanged(new.map)
        withExtendedLifetime(old) {}
    }

    /// No ring runs: what the front-end said may not hold when one starts again (QEMU tells nothing of what the driver
    /// unmaps meanwhile).
    func forgetIOTLBAtRest() {
        if rings.contains(where: \.isStarted) { return }
        askedFor = []
        if !iotlb.entries.isEmpty { replaceIOTLB(IOTLB()) }
    }

    /// Whether the whole ring can be reached. Asks for what is missing, each address once.
    func isReachable(_ addresses: RingAddresses, size: UInt32) -> Bool {
        var isReachable = true
        for part in addresses.parts(size, isPacked: isPacked) {
            guard case .missing(let address) = iotlb.find(part) else { continue }
            isReachable = false
            ask(for: address, part.access)
        }
        return isReachable
    }

    /// A ring waits for these addresses (`RingDefect.isMiss`).
    public func missed(_ misses: [RingDefect]) {
        for miss in misses {
            let access: IOTLBAccess = miss.kind == .readMiss ? .read : .write
            if iotlb.find(miss.value, 1, access).host == nil { ask(for: miss.value, access) }
        }
    }

    /// Pages that the front-end was asked for and has not told of. More would wait in its channel; the ring asks again
    /// when one of these is known.
    private static let mostAsked = 128

    /// A miss, once for each page. Its answer is an update, as any other; where there can be none, the ring waits on.
    private func ask(for address: UInt64, _ access: IOTLBAccess) {
        let page = address & ~4095
        guard askedFor.count < BackEndSession.mostAsked, !askedFor.contains(page) else { return }
        var p = Payload(address)
        p.add64(0)
        p.add64(0)
        p.add([access.rawValue, UInt8(VHOST_IOTLB_MISS)] + [UInt8](repeating: 0, count: 6))
        let isSent = tellFrontEnd(.iotlbMsg, p, isNeeded: false, "IOTLB miss of 0x\(String(address, radix: 16))")
        if isSent { askedFor.insert(page) }
    }
}

extension IOTLB {
    func find(_ part: RingPart) -> Answer { find(part.address, part.bytes, part.access) }
}

extension IOTLB.Answer {
    var host: UnsafeMutableRawPointer? { if case .host(let host) = self { return host } else { return nil } }
}
