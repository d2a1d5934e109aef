import CPlatform

/// The device side of a split virtqueue, virtio 1.3 section 2.7.
public struct SplitQueue: DeviceRing {
    var core: DeviceCore
    /// Next available index to take (free-running).
    var nextAvail: UInt16
    /// Next used index to write (free-running).
    var nextUsed: UInt16
    /// `idx` of the available ring as it was read last: while it tells enough, the line that the driver writes for
    /// each of its bursts is left to it.
    var availIndex: UInt16
    /// `idx` of the used ring as the driver sees it; behind `nextUsed` while completions are held back.
    var usedIndex: UInt16
    /// Where `nextUsed` stood when the last notification decision was made.
    var signalledUsed: UInt16

    /// The queue of a ring whose `setup.isPacked` does not hold.
    public init(_ setup: RingSetup) {
        core = DeviceCore(setup)
        nextAvail = setup.position.available
        nextUsed = setup.position.used
        availIndex = setup.position.available
        usedIndex = setup.position.used
        signalledUsed = setup.position.used
    }

    /// After a crash: what was taken from the ring and not given back comes from elsewhere (`RecordedRing`).
    mutating func goOn(used: UInt16, taken: Int) {
        nextUsed = used
        usedIndex = used
        signalledUsed = used
        nextAvail = used &+ UInt16(truncatingIfNeeded: taken)
        availIndex = nextAvail
    }

    /// Pops chains that were taken before, by their heads; the ring stays where it is.
    mutating func popAgain(_ burst: inout Burst, _ chains: ArraySlice<SavedChain>) -> Int {
        (burst.count, burst.segmentCount) = (0, 0)
        if core.defect.kind != .none { return 0 }
        var count = 0
        for chain in chains {
            if !popSlow(&burst, count, chain.id) { break }
            count += 1
        }
        core.loadHeaders(&burst, count, except: UInt64.max)
        return count
    }

    public var size: UInt32 { core.size }
    public var features: Features { core.features }
    public var map: MemoryMap { core.map }
    public var defect: RingDefect { core.defect }
    public var position: RingPosition { RingPosition(available: nextAvail, used: nextUsed) }

    public mutating func use(_ map: MemoryMap) { core.use(map) }
    public mutating func stop(_ reason: RingDefect) { core.stop(reason) }
    public mutating func forgetCalls() { core.mustCall = true }

    public func hasAvailable(ahead n: Int) -> Bool {
        if n >= Int(size) { return hasWork }
        return Int(availIndex &- nextAvail) > n
            || Int(CPlat_load16_acquire(core.driverArea + SplitRing.index) &- nextAvail) > n
    }

    public var hasWork: Bool {
        core.defect.kind == .none && CPlat_load16_acquire(core.driverArea + SplitRing.index) != nextAvail
    }

    public mutating func unpop(_ packets: UnsafePointer<PacketSlot>, _ count: Int) {
        nextAvail = nextAvail &- UInt16(truncatingIfNeeded: count)
    }

    public var bestHold: Int { 256 }

    @inline(__always)
    public var held: Int { Int(nextUsed &- usedIndex) }

    public mutating func publishHeld() { if held > 0 { publishUsed(nextUsed) } }

    // MARK: Notifications

    public mutating func armKicks() -> Bool {
        core.areKicksSuppressed = false
        if core.hasEventIdx {
            CPlat_store16_relaxed(core.deviceArea + SplitRing.availEvent(core.size), nextAvail)
        } else {
            CPlat_store16_relaxed(core.deviceArea + SplitRing.flags, 0)
        }
        // The wish must be visible before the ring is read again: store-load order (2.7.7.2).
        CPlat_fence_full()
        return hasWork
    }

    public mutating func suppressKicks() {
        if core.areKicksSuppressed { return }
        core.areKicksSuppressed = true
        // With EVENT_IDX an avail_event that stays behind is enough.
        if !core.hasEventIdx { CPlat_store16_relaxed(core.deviceArea + SplitRing.flags, SplitRingFlag.noNotify) }
    }

    public mutating func needsCall() -> Bool {
        // The used entries must be visible before the driver's wish is read: store-load order (2.7.10).
        CPlat_fence_full()
        return core.decideCall(isWanted: isCallWanted())
    }

    @inline(__always)
    private mutating func isCallWanted() -> Bool {
        let old = signalledUsed
        let new = nextUsed
        signalledUsed = new
        if core.hasEventIdx {
            let event = CPlat_load16_relaxed(core.driverArea + SplitRing.usedEvent(core.size))
            // 2.7.7.2: crossed since the last decision?
            return new &- event &- 1 < new &- old
        }
        if new == old { return false }
        let flags = CPlat_load16_relaxed(core.driverArea + SplitRing.flags)
        // The index is in the same line, which is here now.
        availIndex = CPlat_load16_acquire(core.driverArea + SplitRing.index)
        return flags & SplitRingFlag.noInterrupt == 0
    }

    // MARK: Control queue

    public mutating func popControl(into room: ControlRoom) -> ControlCommand? {
        guard chainsThere(1) > 0 else { return nil }
        let slot = nextAvail & UInt16(truncatingIfNeeded: core.size &- 1)
        let head = CPlat_load16_relaxed(core.driverArea + SplitRing.avail(slot))
        if UInt32(head) >= core.size {
            core.fail(.descriptorIndex, UInt32(slot), UInt64(head))
            return nil
        }
        var g = Gathering(control: room.burst)
        guard gather(head: head, &g), let command = core.finishControl(g, id: head, into: room) else { return nil }
        nextAvail = nextAvail &+ 1
        return command
    }

    public mutating func completeControl(_ command: ControlCommand, answer: UInt8) {
        command.answer.storeBytes(of: answer, as: UInt8.self)
        let slot = nextUsed & UInt16(truncatingIfNeeded: core.size &- 1)
        storeUsed(core.deviceArea, slot, command.id, 1)
        publishUsed(nextUsed &+ 1)
    }
}

// MARK: Chains
extension SplitQueue {
    /// Walks an indirect table, whose descriptors are linked by `next` (2.7.5.3).
    mutating func gatherIndirect(_ d: DescribedBuffer, index: UInt32, _ g: inout Gathering) -> Bool {
        let host = core.indirectTable(d, index: index)
        if host == 0 { return false }
        let table = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
        let entries = d.length / UInt32(SplitDescriptor.bytes)
        let longest = core.longestIndirect
        var at: UInt32 = 0
        var walked: UInt32 = 0
        while true {
            walked &+= 1
            if walked > longest {
                core.fail(.chainTooLong, index, UInt64(longest))
                return false
            }
            assert(at < entries)
            let entry = SplitDescriptor(unaligned: table + SplitDescriptor.offset(at))
            if entry.flags & DescriptorFlag.indirect != 0 {
                core.fail(.indirectNested, at, entry.address, entry.length)
                return false
            }
            if !core.gatherBuffer(entry.buffer, index: at, &g) { return false }
            if entry.flags & DescriptorFlag.next == 0 { return true }
            let next = UInt32(entry.next)
            if next >= entries {
                core.fail(.descriptorIndex, at, UInt64(next))
                return false
            }
            at = next
        }
    }

    /// Gathers a split chain.
    mutating func gather(head: UInt16, _ g: inout Gathering) -> Bool {
        var at = UInt32(head)
        while true {
            g.descriptors &+= 1
            if g.descriptors > core.size {
                core.fail(.chainTooLong, UInt32(head), UInt64(core.size))
                return false
            }
            let d = SplitDescriptor(at: core.descriptors + SplitDescriptor.offset(at))
            if d.flags & DescriptorFlag.indirect != 0 {
                if d.flags & DescriptorFlag.next != 0 {
                    core.fail(.indirectWithNext, at, d.address)
                    return false
                }
                return gatherIndirect(d.buffer, index: at, &g)
            }
            if !core.gatherBuffer(d.buffer, index: at, &g) { return false }
            if d.flags & DescriptorFlag.next == 0 { return true }
            let next = UInt32(d.next)
            if next >= core.size {
                core.fail(.descriptorIndex, at, UInt64(next))
                return false
            }
            at = next
        }
    }
}
