import CPlatform

/// A ring of either format that writes down what it does: into the dirty log of a guest that migrates
/// (`RingSetup.log`), into the inflight region of a front-end that has one (`RingSetup.inflight`), or both. Such rings
/// are of a type of their own, so that others pay nothing for it.
public struct RecordedRing: DeviceRing {
    private var queue: DeviceQueue
    private var record: RingRecord
    /// What a back-end that crashed had taken and not given back: it is taken first. What follows was taken from the
    /// ring.
    private var saved: [SavedChain] = []
    private var nextSaved = 0
    /// Of what was popped last and not completed, how much came from the ring.
    private var takenFromRing = 0
    private var savedTaken = 0
    private let leavesInflight: Bool

    public init(_ setup: RingSetup) {
        queue = DeviceQueue(setup)
        record = RingRecord(setup)
        leavesInflight = setup.leavesInflight
        guard let inflight = setup.inflight else { return }
        if inflight.isInUse {
            resume(inflight, takesAgain: setup.takesInflightAgain)
        } else {
            inflight.begin(setup.position)
        }
    }

    /// After a crash, or a move.
    private mutating func resume(_ inflight: InflightQueue, takesAgain: Bool) {
        switch queue {
        case .split(var ring):
            defer { queue = .split(ring) }
            if !takesAgain { inflight.forgetAll() }
            let used = CPlat_load16_acquire(ring.core.deviceArea + SplitRing.index)
            let (heads, counter) = inflight.resumeSplit(usedIndex: used)
            ring.goOn(used: used, taken: heads.count)
            saved = heads.map { SavedChain(descriptors: [], id: $0) }
            record.counter = counter
        case .packed(var ring):
            defer { queue = .packed(ring) }
            guard let place = inflight.resumePacked(ring.core.descriptors, takesAgain: takesAgain) else {
                inflight.begin(ring.position)
                return
            }
            (ring.nextUsed, ring.nextAvail) = (place.used, place.available)
            record.goOn(place.used)
            saved = place.chains
            record.counter = place.counter
        }
    }

    public var size: UInt32 { queue.size }
    public var features: Features { queue.features }
    public var map: MemoryMap { queue.map }
    public var defect: RingDefect { queue.defect }
    public var held: Int { 0 }
    public var bestHold: Int { 0 }
    /// What the next entries need of a ring's IOTLB, at most so many addresses.
    package func addressMisses(most: Int) -> [RingDefect] { queue.addressMisses(most: most) }
    private var savedLeft: Int { saved.count - nextSaved }
    package var look: RingLook {
        var look = queue.look
        look.available += savedLeft
        return look
    }

    /// With what was never taken again: as if it still lay in the ring (the inflight region knows better), unless it
    /// is left to that region.
    public var position: RingPosition {
        var place = queue.position
        if savedLeft > 0 && !leavesInflight { (place.available, place.availableWrap) = (place.used, place.usedWrap) }
        return place
    }
    public var hasWork: Bool { queue.hasWork || savedLeft > 0 && defect.kind == .none }
    public func hasAvailable(ahead n: Int) -> Bool { n < savedLeft || queue.hasAvailable(ahead: n - savedLeft) }

    public mutating func use(_ map: MemoryMap) {
        queue.use(map)
        // What an IOTLB knows says nothing of guest physical memory; where that changes, the ring is moved.
        if !map.isIOTLB { record.pages?.use(map) }
    }
    public mutating func stop(_ reason: RingDefect) { queue.stop(reason) }
    public mutating func forgetCalls() { queue.forgetCalls() }
    public mutating func needsCall() -> Bool { queue.needsCall() }
    /// Nothing is held back.
    public mutating func publishHeld() {}

    // MARK: Transmit

    public mutating func popTransmit(_ burst: inout Burst, limit: Int, leave: Int = 0, least: Int = 1) -> Int {
        if savedLeft > 0 { return popSaved(&burst, limit) }
        let count: Int
        switch queue {
        case .split(var ring):
            count = ring.popTransmit(&burst, limit: limit, leave: leave, least: least)
            record.took(burst.packets, count)
            queue = .split(ring)
        case .packed(var ring):
            let place = ring.nextAvail
            count = ring.popTransmit(&burst, limit: limit, leave: leave, least: least)
            record.took(burst.packets, count, ring.core, place)
            queue = .packed(ring)
        }
        takenFromRing += count
        return count
    }

    /// What a back-end before this one had taken. It is marked in the region already.
    private mutating func popSaved(_ burst: inout Burst, _ limit: Int) -> Int {
        let chains = saved[nextSaved..<min(saved.count, nextSaved + min(limit, Burst.maximum))]
        let count: Int
        switch queue {
        case .split(var ring):
            count = ring.popAgain(&burst, chains)
            queue = .split(ring)
        case .packed(var ring):
            count = ring.popAgain(&burst, chains)
            queue = .packed(ring)
        }
        nextSaved += count
        savedTaken += count
        return count
    }

    public mutating func unpop(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        let fromRing = min(count, takenFromRing)
        nextSaved -= count - fromRing
        savedTaken -= count - fromRing
        takenFromRing -= fromRing
        let packets = packets + (count - fromRing)
        queue.unpop(packets, fromRing)
        switch queue {
        case .split: record.left(packets, fromRing)
        case .packed(let ring): record.putBack(packets, fromRing, ring.nextAvail, ring.size)
        }
    }

    public mutating func complete(_ packets: UnsafePointer<PacketSlot>, _ count: Int, hold: Bool = false) {
        if count <= 0 { return }
        let fromSaved = min(count, savedTaken)
        savedTaken -= fromSaved
        takenFromRing -= count - fromSaved
        switch queue {
        case .split(var ring):
            let old = ring.nextUsed
            record.batch(packets, count)
            ring.complete(packets, count)
            record.completed(packets, count, ring.nextUsed)
            record.used(&ring, since: old)
            queue = .split(ring)
        case .packed(var ring):
            let old = ring.nextUsed
            record.publishing(ring.end(of: packets, count))
            ring.complete(packets, count)
            record.completed(packets, count, from: old, to: ring.nextUsed, ring.size)
            record.used(&ring, since: old)
            queue = .packed(ring)
        }
    }

    // MARK: Receive

    public mutating func deliver(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, with scratch: borrowing DeliveryScratch
    ) -> Delivery {
        let result: Delivery
        switch queue {
        case .split(var ring):
            let old = ring.nextUsed
            result = ring.deliver(burst, list, count, with: scratch, telling: &record)
            record.inflight?.setUsedIndex(ring.nextUsed)
            record.used(&ring, since: old)
            queue = .split(ring)
        case .packed(var ring):
            let old = ring.nextUsed
            result = ring.deliver(burst, list, count, with: scratch, telling: &record)
            record.used(&ring, since: old)
            queue = .packed(ring)
        }
        return result
    }

    // MARK: Notifications

    public mutating func armKicks() -> Bool {
        let hasWork = queue.armKicks()
        record.wished(queue)
        return hasWork || savedLeft > 0
    }

    public mutating func suppressKicks() {
        if queue.areKicksSuppressed { return }
        queue.suppressKicks()
        record.wished(queue)
    }

    // MARK: Control queue

    public mutating func popControl(into room: ControlRoom) -> ControlCommand? { queue.popControl(into: room) }

    public mutating func completeControl(_ command: ControlCommand, answer: UInt8) {
        switch queue {
        case .split(var ring):
            let old = ring.nextUsed
            ring.completeControl(command, answer: answer)
            record.inflight?.setUsedIndex(ring.nextUsed)
            record.used(&ring, since: old)
            record.wrote(command.answer, 1)
            queue = .split(ring)
        case .packed(var ring):
            let old = ring.nextUsed
            var place = old
            place.advance(UInt32(command.slots), ring.size)
            record.publishing(place)
            ring.completeControl(command, answer: answer)
            record.published(place)
            record.used(&ring, since: old)
            record.wrote(command.answer, 1)
            queue = .packed(ring)
        }
    }
}
