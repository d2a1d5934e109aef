import Memory
import Virtio

/// Memory tables and slots ("Memory regions description").
extension BackEndSession {
    func setMemTable(_ m: Message) throws(VhostUserError) {
        var r = PayloadReader(m.payload)
        guard let count = r.next32(), r.next32() != nil, count >= 1, count <= 8, m.payload.count >= 8 + 32 * Int(count)
        else {
            throw VhostUserError(
                .payload, .setMemTable, "payload of \(m.payload.count) bytes does not hold the regions it counts")
        }
        guard m.descriptors.count == Int(count) else {
            throw VhostUserError(.descriptors, .setMemTable, "\(m.descriptors.count) descriptors for \(count) regions")
        }
        var new = GuestMemory()
        for i in 0..<Int(count) {
            guard let region = r.nextRegion() else {
                throw VhostUserError(.payload, .setMemTable, "region \(i) is cut off")
            }
            new = try add(region, m.descriptors[i], to: new, .setMemTable)
        }
        replaceMemory(new)
    }

    private func add(
        _ region: RegionDescription, _ descriptor: OwnedDescriptor, to memory: GuestMemory, _ request: Request
    ) throws(VhostUserError) -> GuestMemory {
        do throws(MemoryError) {
            return try memory.adding(region, fd: descriptor.fd, lossFD: lossFD)
        } catch {
            throw VhostUserError(.memory, request, error.description)
        }
    }

    private func singleRegion(_ m: Message, _ request: Request) throws(VhostUserError) -> RegionDescription {
        try need(.configureMemSlots, request)
        var r = PayloadReader(m.payload)
        guard m.payload.count == 40, r.next64() != nil, let region = r.nextRegion() else {
            throw VhostUserError(.payload, request, "payload of \(m.payload.count) bytes, 40 are expected")
        }
        return region
    }

    func addMemReg(_ m: Message) throws(VhostUserError) {
        let region = try singleRegion(m, .addMemReg)
        guard m.descriptors.count == 1 else {
            throw VhostUserError(.descriptors, .addMemReg, "\(m.descriptors.count) descriptors, 1 is expected")
        }
        let new = try add(region, m.descriptors[0], to: memory, .addMemReg)
        // With an IOTLB rings do not translate by memory; only the log does.
        if usesIOTLB { return replaceMemory(new) }
        let old = memory
        memory = new
        device.memoryChanged(new.map)
        withExtendedLifetime(old) {}
        apply(readyStarts())
    }

    func remMemReg(_ m: Message) throws(VhostUserError) {
        let region = try singleRegion(m, .remMemReg)
        do throws(MemoryError) {
            replaceMemory(try memory.removing(region))
        } catch {
            throw VhostUserError(.memory, .remMemReg, error.description)
        }
    }

    /// Running rings go on in the new memory, or stop where they do not lie in it; others may start now. The old
    /// mappings go afterwards, when nothing uses them.
    private func replaceMemory(_ new: GuestMemory) {
        let old = (memory, iotlb)
        memory = new
        iotlb = iotlb.moved(to: new)
        apply(moves() + readyStarts())
        withExtendedLifetime(old) {}
        // Rings that have stopped, since their addresses are not known any more, are asked for.
        if usesIOTLB { apply(readyStarts()) }
    }

    /// The way of each ring that runs to where it now lies.
    func moves() -> [RingChange] {
        rings.indices.filter { rings[$0].isStarted }.map { RingChange($0, move(of: $0)) }
    }

    private func move(of i: Int) -> RingChange.What {
        let ring = rings[i]
        let setup = unlessItWaits(i) { () throws(VhostUserError) -> RingSetup? in
            guard let addresses = ring.addresses else { return nil }
            return try self.setup(i, addresses, base: ring.base)
        }
        return setup.map { .move($0) } ?? .stop
    }
}
