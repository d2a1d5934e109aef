import CPlatform

/// The driver side of a packed virtqueue, virtio 1.3 section 2.8.
public struct PackedDriverQueue: DriverRing, ~Copyable {
    private var core: DriverCore
    /// Where the next descriptor becomes available, and where the next used one will be.
    private var nextAvail = PackedDriverQueue.beginning
    private var nextUsed = PackedDriverQueue.beginning
    /// Descriptors shown since the last decision to kick.
    private var shown: UInt32 = 0
    /// The first chain's head that was added since `publish()`, held back; word 0: none.
    private var heldSlot: UInt32 = 0
    private var heldWord: UInt64 = 0
    private var heldDescriptors: UInt32 = 0
    private var heldChains: UInt32 = 0

    /// Wrap counters are 1 at the start (2.8.1).
    private static var beginning: PackedCursor { PackedCursor(slot: 0, wrap: true) }

    init(_ core: consuming DriverCore) { self.core = core }

    public var setup: RingSetup { core.setup }
    public var free: UInt32 { core.free }
    public var outstanding: UInt32 { core.outstanding }
    public var defect: RingDefect { core.defect }

    public mutating func reset() {
        core.reset()
        (nextAvail, nextUsed) = (PackedDriverQueue.beginning, PackedDriverQueue.beginning)
        (shown, heldSlot, heldWord, heldDescriptors, heldChains) = (0, 0, 0, 0, 0)
    }

    public mutating func abandon(into tokens: UnsafeMutablePointer<UInt32>, max: Int) -> Int {
        core.abandon(into: tokens, max: max)
    }

    // MARK: Available

    @inline(never)
    public mutating func add(
        readable: UnsafePointer<Segment>?, _ readableCount: Int, writable: UnsafePointer<Segment>?,
        _ writableCount: Int, token: UInt32, indirect: Bool = false
    ) -> Bool {
        let pieces = DriverSegments(
            readable: readable, readableCount: readableCount, writable: writable, writableCount: writableCount)
        let n = pieces.count
        let count = core.slots(n, wantsIndirect: indirect)
        if count == 0 { return false }
        let id = core.takeID()
        let head = nextAvail.slot
        var headWord: UInt64 = 0
        var room: UInt64 = 0
        if indirect && n <= core.indirectLength {
            room = fillIndirect(id, pieces)
            let flags = nextAvail.availableBits | DescriptorFlag.indirect
            headWord = PackedDescriptor.word(UInt32(truncatingIfNeeded: PackedDescriptor.offset(n)), id, flags)
            (core.descriptors + PackedDescriptor.offset(head)).storeBytes(
                of: core.address(core.indirectTable(id)), as: UInt64.self)
            nextAvail.advance(1, core.size)
        } else {
            var i = 0
            while i < n {
                let piece = pieces[i]
                var flags = nextAvail.availableBits
                if pieces.isWritable(i) {
                    room &+= UInt64(piece.length)
                    flags |= DescriptorFlag.write
                }
                if i &+ 1 < n { flags |= DescriptorFlag.next }
                let word = PackedDescriptor.word(piece.length, id, flags)
                let at = core.descriptors + PackedDescriptor.offset(nextAvail.slot)
                at.storeBytes(of: core.address(piece.base), as: UInt64.self)
                // The head goes last: it is what makes the chain available.
                if i == 0 { headWord = word } else { CPlat_store64_relaxed(at + PackedDescriptor.wordOffset, word) }
                nextAvail.advance(1, core.size)
                i &+= 1
            }
        }
        show(head, headWord, UInt32(truncatingIfNeeded: count))
        core.chains[Int(id)] = DriverChain(
            token: token, writable: UInt32(truncatingIfNeeded: min(room, UInt64(UInt32.max))),
            count: UInt16(truncatingIfNeeded: count), next: 0)
        core.free &-= UInt32(truncatingIfNeeded: count)
        core.outstanding &+= 1
        return true
    }

    /// Fills the indirect table of `id`, which is read in order: NEXT is reserved there (2.8.8). Returns the bytes that
    /// the device may write.
    @inline(__always)
    private func fillIndirect(_ id: UInt16, _ pieces: DriverSegments) -> UInt64 {
        let table = core.indirectTable(id)
        let n = pieces.count
        var room: UInt64 = 0
        var i = 0
        while i < n {
            let piece = pieces[i]
            var flags: UInt16 = 0
            if pieces.isWritable(i) {
                room &+= UInt64(piece.length)
                flags = DescriptorFlag.write
            }
            PackedDescriptor.write(
                core.address(piece.base), piece.length, id: 0, flags, to: table + PackedDescriptor.offset(i))
            i &+= 1
        }
        return room
    }

    @inlinable @inline(__always)
    public mutating func addTransmit(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int {
        addSingles(buffers, count, false)
    }

    @inlinable @inline(__always)
    public mutating func addReceive(_ buffers: UnsafePointer<DriverBuffer>, _ count: Int) -> Int {
        addSingles(buffers, count, true)
    }

    @usableFromInline @inline(never)
    mutating func addSingles(_ buffers: UnsafePointer<DriverBuffer>, _ wanted: Int, _ isWritable: Bool) -> Int {
        let n = core.isStopped ? 0 : min(wanted, Int(core.free))
        if n <= 0 { return 0 }
        let (ring, size, ids, idMask) = (core.descriptors, core.size, core.freeIDs, core.freeMask)
        let (chains, delta) = (core.chains, core.delta)
        var (slot, read) = (nextAvail.slot, core.freeRead)
        let kind = isWritable ? DescriptorFlag.write : 0
        // AVAIL and USED change places at the ring's end.
        var flags = nextAvail.availableBits | kind
        var (heldSlot, heldWord) = (self.heldSlot, self.heldWord)
        var i = 0
        while i < n {
            let id = ids[Int(read & idMask)]
            let b = buffers[i]
            let at = ring + PackedDescriptor.offset(slot)
            let word = PackedDescriptor.word(b.length, id, flags)
            at.storeBytes(of: UInt64(UInt(bitPattern: b.base)) &+ delta, as: UInt64.self)
            if heldWord == 0 {
                (heldSlot, heldWord) = (slot, word)
            } else {
                // Release: the address before the flags (2.8.21.1); unseen anyhow behind the held head.
                CPlat_store64_release(at + PackedDescriptor.wordOffset, word)
            }
            chains[Int(id)] = DriverChain(token: b.token, writable: isWritable ? b.length : 0, count: 1, next: 0)
            read = read &+ 1
            slot = slot &+ 1
            if slot == size {
                slot = 0
                flags ^= DescriptorFlag.owner
            }
            i &+= 1
        }
        nextAvail = PackedCursor(slot: slot, wrap: flags & DescriptorFlag.available != 0)
        core.freeRead = read
        (self.heldSlot, self.heldWord) = (heldSlot, heldWord)
        heldDescriptors &+= UInt32(truncatingIfNeeded: n)
        heldChains &+= UInt32(truncatingIfNeeded: n)
        core.free &-= UInt32(truncatingIfNeeded: n)
        core.outstanding &+= UInt32(truncatingIfNeeded: n)
        return n
    }

    /// Makes a chain available behind the one that is held back, or holds it back itself.
    @inline(__always)
    private mutating func show(_ slot: UInt32, _ word: UInt64, _ count: UInt32) {
        heldDescriptors &+= count
        heldChains &+= 1
        if heldWord == 0 {
            (heldSlot, heldWord) = (slot, word)
        } else {
            // Release: the chain's other descriptors before the head's flags (2.8.21.1).
            CPlat_store64_release(
                core.descriptors + PackedDescriptor.offset(slot) + PackedDescriptor.wordOffset, word)
        }
    }

    public mutating func publish() {
        if core.isStopped || heldWord == 0 { return }
        // Release: everything of the burst before the flags of its first descriptor (2.8.21.1).
        CPlat_store64_release(
            core.descriptors + PackedDescriptor.offset(heldSlot) + PackedDescriptor.wordOffset, heldWord)
        heldWord = 0
        shown = min(shown &+ heldDescriptors, core.size)
        (heldDescriptors, heldChains) = (0, 0)
    }

    // MARK: Used

    /// Whether flags say that the device has used a descriptor of the lap `wrap` (2.8.1).
    @inline(__always)
    private static func isUsed(_ flags: UInt16, _ wrap: Bool) -> Bool {
        flags & DescriptorFlag.owner == (wrap ? DescriptorFlag.owner : 0)
    }

    @inlinable @inline(__always)
    public mutating func reclaim(into completions: UnsafeMutablePointer<DriverCompletion>, max: Int) -> Int {
        isInOrder ? reclaimInOrder(completions, max) : reclaimAny(completions, max)
    }

    @usableFromInline var isInOrder: Bool { core.isInOrder }

    @usableFromInline @inline(never)
    mutating func reclaimAny(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if core.isStopped { return 0 }
        let (ring, size, chains) = (core.descriptors, core.size, core.chains)
        let (ids, idMask) = (core.freeIDs, core.freeMask)
        var (cursor, write, freed) = (nextUsed, core.freeWrite, core.free)
        let shownChains = Int(core.outstanding &- heldChains)
        var n = 0
        while n < max {
            let at = ring + PackedDescriptor.offset(cursor.slot)
            // Acquire: id, length and the buffer's contents after the flags that show them (2.8.6).
            let flags = CPlat_load16_acquire(at + PackedDescriptor.flagsOffset)
            if !PackedDriverQueue.isUsed(flags, cursor.wrap) { break }
            let id = CPlat_load16_relaxed(at + PackedDescriptor.idOffset)
            // Without WRITE the length is reserved (2.8.5).
            let length =
                flags & DescriptorFlag.write != 0 ? CPlat_load32_relaxed(at + PackedDescriptor.lengthOffset) : 0
            if id >= size || chains[Int(id)].count == 0 || n == shownChains {
                core.stop(.usedID, index: cursor.slot, value: UInt64(id))
                break
            }
            let chain = chains[Int(id)]
            if length > chain.writable {
                core.stop(.usedLength, index: cursor.slot, value: UInt64(length))
                break
            }
            out[n] = DriverCompletion(token: chain.token, length: length)
            chains[Int(id)].count = 0
            ids[Int(write & idMask)] = id
            write = write &+ 1
            freed &+= UInt32(chain.count)
            cursor.advance(UInt32(chain.count), size)
            n &+= 1
        }
        if n == 0 { return 0 }
        (nextUsed, core.freeWrite, core.free) = (cursor, write, freed)
        core.outstanding &-= UInt32(truncatingIfNeeded: n)
        return n
    }

    /// IN_ORDER: one used descriptor can stand for a batch, which ends with the buffer that it names
    /// and whose other buffers count as used completely; the next one follows behind the batch (2.8.8).
    @usableFromInline @inline(never)
    mutating func reclaimInOrder(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if core.isStopped { return 0 }
        let shownChains = Int(core.outstanding &- heldChains)
        var n = 0
        while n < max {
            if !core.inBatch {
                let at = core.descriptors + PackedDescriptor.offset(nextUsed.slot)
                // Acquire: id, length and the buffer's contents after the flags that show them (2.8.6).
                let flags = CPlat_load16_acquire(at + PackedDescriptor.flagsOffset)
                if !PackedDriverQueue.isUsed(flags, nextUsed.wrap) { break }
                let id = CPlat_load16_relaxed(at + PackedDescriptor.idOffset)
                let length =
                    flags & DescriptorFlag.write != 0 ? CPlat_load32_relaxed(at + PackedDescriptor.lengthOffset) : 0
                if !core.beginBatch(UInt32(id), length, at: nextUsed.slot) { break }
            }
            if n == shownChains {
                // The batch reaches beyond what the device was shown.
                core.stop(.usedID, index: nextUsed.slot, value: UInt64(core.batchLast))
                break
            }
            let id = core.oldest
            out[n] = core.completeOldest()
            let count = UInt32(core.chains[Int(id)].count)
            core.chains[Int(id)].count = 0
            core.giveID(id)
            core.oldest = UInt32(id) &+ 1 == core.size ? 0 : id &+ 1
            core.free &+= count
            nextUsed.advance(count, core.size)
            n &+= 1
        }
        core.outstanding &-= UInt32(truncatingIfNeeded: n)
        return n
    }

    // MARK: Notifications (2.8.10)

    @inline(never)
    public mutating func needsKick() -> Bool {
        let count = shown
        if core.isStopped || count == 0 { return false }
        shown = 0
        // Full: the descriptors must be visible before the device's wish is read (2.8.21.3.1).
        CPlat_fence_full()
        let wish = EventSuppression(rawValue: CPlat_load32_relaxed(core.deviceArea))
        if wish.flags != EventSuppression.flagsDesc { return wish.flags != EventSuppression.flagsDisable }
        if !core.hasEventIdx { return true }
        // Positions of this lap count from 0, those of the last one are negative. What was added but
        // not yet published moves `nextAvail` ahead of what the device was shown.
        let new = UInt16(truncatingIfNeeded: nextAvail.slot &- heldDescriptors)
        var event = wish.slot
        if wish.wrap != nextAvail.wrap { event = event &- UInt16(truncatingIfNeeded: core.size) }
        return DriverCore.passes(event, new, new &- UInt16(truncatingIfNeeded: count))
    }

    public mutating func armCalls() -> Bool {
        if core.isStopped { return true }
        // RING_EVENT_FLAGS_DESC needs EVENT_IDX; one store, so never half of it (2.8.10).
        let wish: EventSuppression =
            core.hasEventIdx ? .desc(UInt16(truncatingIfNeeded: nextUsed.slot), nextUsed.wrap) : .enable
        CPlat_store32_relaxed(core.driverArea, wish.rawValue)
        // Full: the wish must be visible before the ring is looked at again (2.8.10).
        CPlat_fence_full()
        return hasUsed
    }

    public mutating func suppressCalls() { CPlat_store32_relaxed(core.driverArea, EventSuppression.disable.rawValue) }

    public var hasUsed: Bool {
        if core.inBatch { return true }
        let at = core.descriptors + PackedDescriptor.offset(nextUsed.slot)
        // Acquire: as in `reclaim`, for callers that look at the buffers first.
        return PackedDriverQueue.isUsed(CPlat_load16_acquire(at + PackedDescriptor.flagsOffset), nextUsed.wrap)
    }

    public func notificationData(queueIndex: UInt16) -> UInt32 {
        // What is held back was not shown.
        var (next, wrap) = (Int(nextAvail.slot) - Int(heldDescriptors), nextAvail.wrap)
        if next < 0 {
            next += Int(core.size)
            wrap.toggle()
        }
        return NotificationData.word(queueIndex, PackedOffset.word(UInt16(next), wrap))
    }
}
