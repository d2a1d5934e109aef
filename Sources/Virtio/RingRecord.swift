import CPlatform

/// What a recorded ring writes down, and where.
struct RingRecord: RingWitness {
    static var isWatching: Bool { true }
    var pages: DirtyPages?
    let inflight: InflightQueue?
    /// Counts what is taken: the order of what is in flight.
    var counter: UInt64 = 0
    /// Packed: what the driver was told of so far.
    private var told: PackedCursor
    /// For the log, where the device area lies, if not where the map says.
    private let loggedDeviceArea: UInt64?

    init(_ setup: RingSetup) {
        pages = setup.log.map { DirtyPages($0, setup.memory ?? setup.map) }
        inflight = setup.inflight
        loggedDeviceArea = setup.loggedDeviceArea
        told = PackedCursor(slot: UInt32(setup.position.used), wrap: setup.position.usedWrap)
    }

    /// After a crash the region says where a packed ring was used up to.
    mutating func goOn(_ place: PackedCursor) { told = place }

    // MARK: The dirty log

    mutating func begin() { pages?.begin() }
    mutating func wrote(_ host: UnsafeMutableRawPointer, _ length: UInt64) { pages?.wrote(host, length) }

    /// Used entries were written, and what a split ring tells of them.
    mutating func used(_ ring: inout SplitQueue, since old: UInt16) {
        if pages == nil || old == ring.nextUsed { return }
        begin()
        let mask = ring.core.size &- 1
        let first = UInt32(old) & mask
        let count = min(UInt32(ring.nextUsed &- old), ring.core.size)
        let head = min(count, ring.core.size &- first)
        wroteDeviceArea(ring.core, 0, SplitRing.entries)
        wroteDeviceArea(ring.core, SplitRing.used(UInt16(truncatingIfNeeded: first)), Int(head) * UsedElement.bytes)
        wroteDeviceArea(ring.core, SplitRing.entries, Int(count &- head) * UsedElement.bytes)
        check(&ring.core)
    }

    mutating func used(_ ring: inout PackedQueue, since old: PackedCursor) {
        let new = ring.nextUsed
        if pages == nil || old.slot == new.slot && old.wrap == new.wrap { return }
        begin()
        let end = new.wrap == old.wrap ? new.slot : ring.core.size
        let base = ring.core.descriptors
        wrote(base + PackedDescriptor.offset(old.slot), UInt64(end &- old.slot) * UInt64(PackedDescriptor.bytes))
        if new.wrap != old.wrap { wrote(base, UInt64(new.slot) * UInt64(PackedDescriptor.bytes)) }
        check(&ring.core)
    }

    /// The driver was told whether kicks are wanted.
    mutating func wished(_ queue: DeviceQueue) {
        if pages == nil { return }
        begin()
        switch queue {
        case .split(let ring):
            wroteDeviceArea(ring.core, SplitRing.flags, SplitRing.entries)
            wroteDeviceArea(ring.core, SplitRing.availEvent(ring.core.size), SplitRing.eventBytes)
        case .packed(let ring): wroteDeviceArea(ring.core, 0, EventSuppression.bytes)
        }
    }

    private mutating func wroteDeviceArea(_ core: DeviceCore, _ offset: Int, _ bytes: Int) {
        wrote(core.deviceArea + offset, UInt64(bytes))
        if let guest = loggedDeviceArea { pages?.wrote(guest: guest &+ UInt64(offset), UInt64(bytes)) }
    }

    private func check(_ core: inout DeviceCore) {
        if let beyond = pages?.beyond { core.fail(.logTooSmall, 0, beyond) }
    }

    // MARK: The inflight region, split

    mutating func took(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        guard let inflight else { return }
        for i in 0..<count {
            inflight.took(head: packets[i].id, counter: counter)
            counter &+= 1
        }
    }

    /// They are not in flight any more: put back into the ring, or given back to the driver.
    func left(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        guard let inflight else { return }
        for i in 0..<count { inflight.left(head: packets[i].id) }
    }

    func batch(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        for i in 0..<count { inflight?.batch(head: packets[i].id) }
    }

    func completed(_ packets: UnsafePointer<PacketSlot>, _ count: Int, _ usedIndex: UInt16) {
        left(packets, count)
        inflight?.setUsedIndex(usedIndex)
    }

    // MARK: The inflight region, packed

    mutating func took(
        _ packets: UnsafePointer<PacketSlot>, _ count: Int, _ core: DeviceCore, _ first: PackedCursor
    ) {
        guard let inflight else { return }
        var place = first
        for i in 0..<count {
            let slots = UInt32(packets[i].slots)
            inflight.took(core.descriptors, place, slots: slots, counter: counter)
            counter &+= 1
            place.advance(slots, core.size)
        }
    }

    /// The same; `first` is the place of the first of them.
    private func left(_ packets: UnsafePointer<PacketSlot>, _ count: Int, from first: PackedCursor, _ size: UInt32) {
        guard let inflight else { return }
        var place = first
        for i in 0..<count {
            inflight.left(place)
            place.advance(UInt32(packets[i].slots), size)
        }
    }

    func putBack(_ packets: UnsafePointer<PacketSlot>, _ count: Int, _ first: PackedCursor, _ size: UInt32) {
        if count == 0 { return }
        left(packets, count, from: first, size)
        inflight?.putBack(first)
    }

    mutating func publishing(_ place: PackedCursor) { inflight?.publishing(from: told, to: place) }

    mutating func published(_ place: PackedCursor) {
        inflight?.published(to: place)
        told = place
    }

    mutating func completed(
        _ packets: UnsafePointer<PacketSlot>, _ count: Int, from first: PackedCursor, to new: PackedCursor,
        _ size: UInt32
    ) {
        left(packets, count, from: first, size)
        published(new)
    }
}
