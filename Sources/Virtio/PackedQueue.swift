import CPlatform

/// The device side of a packed virtqueue, virtio 1.3 section 2.8.
public struct PackedQueue: DeviceRing {
    var core: DeviceCore
    /// Slot and wrap counter of the next descriptor to take.
    var nextAvail: PackedCursor
    /// Slot and wrap counter of the next descriptor to mark used.
    var nextUsed: PackedCursor
    /// Slots used since the last notification decision.
    var slotsSinceCall: UInt32 = 0
    /// In order: where the completions that are held back begin, and the id of the last.
    var heldFrom: PackedCursor?
    var heldId: UInt16 = 0

    /// The queue of a ring whose `setup.isPacked` holds.
    public init(_ setup: RingSetup) {
        core = DeviceCore(setup)
        let at = setup.position
        nextAvail = PackedCursor(slot: UInt32(at.available), wrap: at.availableWrap)
        nextUsed = PackedCursor(slot: UInt32(at.used), wrap: at.usedWrap)
    }

    public var size: UInt32 { core.size }
    public var features: Features { core.features }
    public var map: MemoryMap { core.map }
    public var defect: RingDefect { core.defect }
    public var position: RingPosition {
        RingPosition(
            available: UInt16(truncatingIfNeeded: nextAvail.slot), used: UInt16(truncatingIfNeeded: nextUsed.slot),
            availableWrap: nextAvail.wrap, usedWrap: nextUsed.wrap)
    }

    public mutating func use(_ map: MemoryMap) { core.use(map) }
    public mutating func stop(_ reason: RingDefect) { core.stop(reason) }
    public mutating func forgetCalls() { core.mustCall = true }

    /// NEXT, WRITE, INDIRECT, AVAIL and USED: what one comparison decides the common case by.
    @inline(__always)
    static var shapeBits: UInt16 {
        DescriptorFlag.owner | DescriptorFlag.next | DescriptorFlag.write | DescriptorFlag.indirect
    }

    /// Flags of the descriptor at a place.
    @inline(__always)
    private func flags(_ at: PackedCursor) -> UInt16 {
        CPlat_load16_acquire(
            core.descriptors + PackedDescriptor.offset(at.slot) + PackedDescriptor.flagsOffset)
    }

    @inline(__always)
    func isAvailable(_ flags: UInt16, _ at: PackedCursor) -> Bool {
        flags & DescriptorFlag.owner == at.availableBits
    }

    public func hasAvailable(ahead n: Int) -> Bool {
        if n >= Int(size) { return hasWork }
        var at = nextAvail
        at.advance(UInt32(truncatingIfNeeded: n), size)
        return isAvailable(flags(at), at)
    }

    public var hasWork: Bool { core.defect.kind == .none && isAvailable(flags(nextAvail), nextAvail) }

    public mutating func unpop(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        var slots: UInt32 = 0
        var i = 0
        while i < count {
            slots &+= UInt32(packets[i].slots)
            i &+= 1
        }
        var cursor = nextAvail
        slots = cursor.goRound(slots, size)
        if slots > cursor.slot {
            cursor = PackedCursor(slot: cursor.slot &+ size &- slots, wrap: !cursor.wrap)
        } else {
            cursor.slot &-= slots
        }
        nextAvail = cursor
    }

    public var bestHold: Int { core.isInOrder ? 128 : 0 }

    @inline(__always)
    public var held: Int {
        guard let from = heldFrom else { return 0 }
        let n = Int(nextUsed.slot) &- Int(from.slot)
        return from.wrap == nextUsed.wrap ? n : n &+ Int(core.size)
    }

    // MARK: Notifications

    public mutating func armKicks() -> Bool {
        core.areKicksSuppressed = false
        let wish: EventSuppression =
            core.hasEventIdx ? .desc(UInt16(truncatingIfNeeded: nextAvail.slot), nextAvail.wrap) : .enable
        CPlat_store32_relaxed(core.deviceArea, wish.rawValue)
        // The wish must be visible before the ring is read again: store-load order (2.8.10).
        CPlat_fence_full()
        return hasWork
    }

    public mutating func suppressKicks() {
        if core.areKicksSuppressed { return }
        core.areKicksSuppressed = true
        CPlat_store32_relaxed(core.deviceArea, EventSuppression.disable.rawValue)
    }

    public mutating func needsCall() -> Bool {
        // The used entries must be visible before the driver's wish is read: store-load order (2.8.10).
        CPlat_fence_full()
        return core.decideCall(isWanted: isCallWanted())
    }

    @inline(__always)
    private mutating func isCallWanted() -> Bool {
        let since = UInt16(truncatingIfNeeded: slotsSinceCall)
        slotsSinceCall = 0
        if since == 0 { return false }
        // Offset, wrap counter and flags in one read: they belong together (2.8.10).
        let wish = EventSuppression(rawValue: CPlat_load32_relaxed(core.driverArea))
        if wish.flags == EventSuppression.flagsDisable { return false }
        if wish.flags != EventSuppression.flagsDesc || !core.hasEventIdx { return true }
        var event = wish.slot
        if wish.wrap != nextUsed.wrap { event = event &- UInt16(truncatingIfNeeded: core.size) }
        return UInt16(truncatingIfNeeded: nextUsed.slot) &- event &- 1 < since
    }

    // MARK: Control queue

    public mutating func popControl(into room: ControlRoom) -> ControlCommand? {
        guard hasWork else { return nil }
        var g = Gathering(control: room.burst)
        guard let id = gather(nextAvail, &g), let command = core.finishControl(g, id: id, into: room) else {
            return nil
        }
        nextAvail.advance(g.descriptors, core.size)
        return command
    }

    public mutating func completeControl(_ command: ControlCommand, answer: UInt8) {
        command.answer.storeBytes(of: answer, as: UInt8.self)
        publishUsed(nextUsed, command.id, 1)
        nextUsed.advance(UInt32(command.slots), core.size)
        slotsSinceCall &+= UInt32(command.slots)
    }
}

// MARK: Chains
extension PackedQueue {
    /// Walks an indirect table, whose descriptors are read in order (2.8.7).
    mutating func gatherIndirect(_ d: DescribedBuffer, index: UInt32, _ g: inout Gathering) -> Bool {
        let host = core.indirectTable(d, index: index)
        if host == 0 { return false }
        let table = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
        let entries = d.length / UInt32(PackedDescriptor.bytes)
        let longest = core.longestIndirect
        var at: UInt32 = 0
        while at < entries {
            if at == longest {
                core.fail(.chainTooLong, index, UInt64(longest))
                return false
            }
            var entry = PackedDescriptor(unaligned: table + PackedDescriptor.offset(at)).buffer
            // DPDK's driver leaves WRITE in the tables of packed rings when it transmits several segments.
            if !g.wantsWritable && !g.takesAnswer { entry.flags &= ~DescriptorFlag.write }
            if entry.flags & DescriptorFlag.indirect != 0 {
                core.fail(.indirectNested, at, entry.address, entry.length)
                return false
            }
            if !core.gatherBuffer(entry, index: at, &g) { return false }
            at &+= 1
        }
        return true
    }

    /// Gathers a packed chain that starts at `first`; returns its buffer id (from its last descriptor,
    /// 2.8.6), nil on a defect.
    mutating func gather(_ first: PackedCursor, _ g: inout Gathering) -> UInt16? {
        var at = first
        while true {
            g.descriptors &+= 1
            if g.descriptors > core.size {
                core.fail(.chainTooLong, first.slot, UInt64(core.size))
                return nil
            }
            let d = PackedDescriptor(at: core.descriptors + PackedDescriptor.offset(at.slot))
            if !isAvailable(d.flags, at) {
                core.fail(.chainIncomplete, first.slot, UInt64(at.slot))
                return nil
            }
            if d.flags & DescriptorFlag.indirect != 0 {
                if d.flags & DescriptorFlag.next != 0 || g.descriptors > 1 {
                    core.fail(.indirectWithNext, at.slot, d.address)
                    return nil
                }
                return gatherIndirect(d.buffer, index: at.slot, &g) ? d.id : nil
            }
            if !core.gatherBuffer(d.buffer, index: at.slot, &g) { return nil }
            if d.flags & DescriptorFlag.next == 0 { return d.id }
            at.advance(1, core.size)
        }
    }

    /// Pops chains that were taken before, by their saved descriptors; the ring stays where it is.
    mutating func popAgain(_ burst: inout Burst, _ chains: ArraySlice<SavedChain>) -> Int {
        (burst.count, burst.segmentCount) = (0, 0)
        if core.defect.kind != .none { return 0 }
        var count = 0
        for chain in chains {
            if count > 0 && burst.segmentCount > 2 * Burst.maximum { break }
            var g = core.gathering(in: burst)
            guard gather(chain, &g), core.finish(g, id: chain.id, into: burst.packets + count, &burst) else { break }
            count += 1
        }
        core.loadHeaders(&burst, count, except: UInt64.max)
        return count
    }

    private mutating func gather(_ chain: SavedChain, _ g: inout Gathering) -> Bool {
        for d in chain.descriptors {
            g.descriptors &+= 1
            if d.flags & DescriptorFlag.indirect != 0 {
                if d.flags & DescriptorFlag.next != 0 || chain.descriptors.count > 1 {
                    core.fail(.indirectWithNext, UInt32(chain.id), d.address)
                    return false
                }
                return gatherIndirect(d.buffer, index: UInt32(chain.id), &g)
            }
            if !core.gatherBuffer(d.buffer, index: UInt32(chain.id), &g) { return false }
        }
        return true
    }

    /// Where the next used descriptor goes after these packets.
    func end(of packets: UnsafePointer<PacketSlot>, _ count: Int) -> PackedCursor {
        var cursor = nextUsed
        var i = 0
        while i < count {
            cursor.advance(UInt32(packets[i].slots), size)
            i &+= 1
        }
        return cursor
    }
}
