import CPlatform

/// The driver side of a split virtqueue, virtio 1.3 section 2.7.
public struct SplitDriverQueue: DriverRing, ~Copyable {
    private var core: DriverCore
    /// Next available index to write, and next used index to read (free-running).
    private var nextAvail: UInt16 = 0
    private var nextUsed: UInt16 = 0
    /// The available index that the device was shown, and the one at the last decision to kick.
    private var published: UInt16 = 0
    private var kicked: UInt16 = 0

    init(_ core: consuming DriverCore) { self.core = core }

    public var setup: RingSetup { core.setup }
    public var free: UInt32 { core.free }
    public var outstanding: UInt32 { core.outstanding }
    public var defect: RingDefect { core.defect }
    private var mask: UInt16 { UInt16(truncatingIfNeeded: core.size &- 1) }

    public mutating func reset() {
        core.reset()
        (nextAvail, nextUsed, published, kicked) = (0, 0, 0, 0)
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
        var room: UInt64 = 0
        let head = core.takeID()
        if indirect && n <= core.indirectLength {
            room = fillIndirect(head, pieces)
            SplitDescriptor.write(
                core.address(core.indirectTable(head)), UInt32(truncatingIfNeeded: SplitDescriptor.offset(n)),
                DescriptorFlag.indirect, next: 0, to: core.descriptors + SplitDescriptor.offset(head))
        } else {
            var id = head
            var i = 0
            while i < n {
                let piece = pieces[i]
                var flags: UInt16 = 0
                if pieces.isWritable(i) {
                    room &+= UInt64(piece.length)
                    flags = DescriptorFlag.write
                }
                var next: UInt16 = 0
                if i &+ 1 < n {
                    flags |= DescriptorFlag.next
                    next = core.takeID()
                }
                SplitDescriptor.write(
                    core.address(piece.base), piece.length, flags, next: next,
                    to: core.descriptors + SplitDescriptor.offset(id))
                core.chains[Int(id)].next = next
                id = next
                i &+= 1
            }
        }
        core.chains[Int(head)].token = token
        core.chains[Int(head)].writable = UInt32(truncatingIfNeeded: min(room, UInt64(UInt32.max)))
        core.chains[Int(head)].count = UInt16(truncatingIfNeeded: count)
        (core.driverArea + SplitRing.avail(nextAvail & mask)).storeBytes(of: head, as: UInt16.self)
        nextAvail = nextAvail &+ 1
        core.free &-= UInt32(truncatingIfNeeded: count)
        core.outstanding &+= 1
        return true
    }

    /// Fills the indirect table of `head`, linked by `next` (2.7.5.3); returns the bytes that the device may write.
    @inline(__always)
    private func fillIndirect(_ head: UInt16, _ pieces: DriverSegments) -> UInt64 {
        let table = core.indirectTable(head)
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
            let hasNext = i &+ 1 < n
            SplitDescriptor.write(
                core.address(piece.base), piece.length, hasNext ? flags | DescriptorFlag.next : flags,
                next: hasNext ? UInt16(truncatingIfNeeded: i &+ 1) : 0, to: table + SplitDescriptor.offset(i))
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
        let (table, ring, mask) = (core.descriptors, core.driverArea, self.mask)
        let (ids, idMask, chains, delta) = (core.freeIDs, core.freeMask, core.chains, core.delta)
        var (read, index) = (core.freeRead, nextAvail)
        let flags = isWritable ? DescriptorFlag.write : 0
        var i = 0
        while i < n {
            let id = ids[Int(read & idMask)]
            let b = buffers[i]
            SplitDescriptor.write(
                UInt64(UInt(bitPattern: b.base)) &+ delta, b.length, flags, next: 0,
                to: table + SplitDescriptor.offset(id))
            chains[Int(id)] = DriverChain(token: b.token, writable: isWritable ? b.length : 0, count: 1, next: 0)
            let entry = ring + SplitRing.avail(index & mask)
            // In ring order the entry mostly holds this id since the last lap: a line that is not
            // written stays shared with the device's core.
            if CPlat_load16_relaxed(entry) != id { CPlat_store16_relaxed(entry, id) }
            read = read &+ 1
            index = index &+ 1
            i &+= 1
        }
        if n <= 0 { return 0 }
        core.freeRead = read
        nextAvail = index
        core.free &-= UInt32(truncatingIfNeeded: n)
        core.outstanding &+= UInt32(truncatingIfNeeded: n)
        return n
    }

    public mutating func publish() {
        if core.isStopped || published == nextAvail { return }
        // Release: descriptors and ring entries before the index that shows them (2.7.13.3).
        CPlat_store16_release(core.driverArea + SplitRing.index, nextAvail)
        published = nextAvail
    }

    // MARK: Used

    @inlinable @inline(__always)
    public mutating func reclaim(into completions: UnsafeMutablePointer<DriverCompletion>, max: Int) -> Int {
        isInOrder ? reclaimInOrder(completions, max) : reclaimAny(completions, max)
    }

    @usableFromInline var isInOrder: Bool { core.isInOrder }

    @usableFromInline @inline(never)
    mutating func reclaimAny(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if core.isStopped { return 0 }
        // Acquire: the used entries and the buffers' contents after the index that shows them (2.7.14).
        let index = CPlat_load16_acquire(core.deviceArea + SplitRing.index)
        var last = nextUsed
        let ready = index &- last
        if ready == 0 { return 0 }
        if ready > published &- last {
            core.stop(.usedIndexJump, index: UInt32(last), value: UInt64(index))
            return 0
        }
        let n = min(Int(ready), max)
        let (ring, mask, chains, size) = (core.deviceArea, self.mask, core.chains, core.size)
        let (ids, idMask) = (core.freeIDs, core.freeMask)
        var (write, freed) = (core.freeWrite, core.free)
        var i = 0
        while i < n {
            let entry = ring + SplitRing.used(last & mask)
            let id = CPlat_load32_relaxed(entry + UsedElement.idOffset)
            let length = CPlat_load32_relaxed(entry + UsedElement.lengthOffset)
            if id >= size || chains[Int(id)].count == 0 {
                core.stop(.usedID, index: UInt32(last & mask), value: UInt64(id))
                break
            }
            let chain = chains[Int(id)]
            if length > chain.writable {
                core.stop(.usedLength, index: UInt32(last & mask), value: UInt64(length))
                break
            }
            out[i] = DriverCompletion(token: chain.token, length: length)
            chains[Int(id)].count = 0
            ids[Int(write & idMask)] = UInt16(truncatingIfNeeded: id)
            write = write &+ 1
            // The chain's other descriptors, by the private links.
            var (next, left) = (chain.next, chain.count &- 1)
            while left > 0 {
                ids[Int(write & idMask)] = next
                write = write &+ 1
                next = chains[Int(next)].next
                left = left &- 1
            }
            freed &+= UInt32(chain.count)
            last = last &+ 1
            i &+= 1
        }
        (core.freeWrite, core.free, nextUsed) = (write, freed, last)
        core.outstanding &-= UInt32(truncatingIfNeeded: i)
        return i
    }

    /// IN_ORDER: one used entry can stand for a batch, which ends with the chain that it names and
    /// whose other chains count as used completely (2.7.9). The next entry follows behind the batch.
    @usableFromInline @inline(never)
    mutating func reclaimInOrder(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if core.isStopped { return 0 }
        // Acquire: the used entries and the buffers' contents after the index that shows them (2.7.14).
        let index = CPlat_load16_acquire(core.deviceArea + SplitRing.index)
        if index &- nextUsed > published &- nextUsed {
            core.stop(.usedIndexJump, index: UInt32(nextUsed), value: UInt64(index))
            return 0
        }
        var n = 0
        while n < max && nextUsed != index {
            if !core.inBatch {
                let entry = core.deviceArea + SplitRing.used(nextUsed & mask)
                let id = CPlat_load32_relaxed(entry + UsedElement.idOffset)
                let length = CPlat_load32_relaxed(entry + UsedElement.lengthOffset)
                if !core.beginBatch(id, length, at: UInt32(nextUsed)) { break }
            }
            let head = core.oldest
            out[n] = core.completeOldest()
            let count = freeChain(head)
            core.oldest = (head &+ UInt16(truncatingIfNeeded: count)) & mask
            core.free &+= count
            nextUsed = nextUsed &+ 1
            n &+= 1
        }
        if core.inBatch && nextUsed == index {
            // The batch's last chain lies beyond the used index.
            core.stop(.usedIndexJump, index: UInt32(nextUsed), value: UInt64(index))
        }
        core.outstanding &-= UInt32(truncatingIfNeeded: n)
        return n
    }

    /// Frees the descriptors of the chain at `head`, which is outstanding; returns their number.
    @inline(__always)
    private mutating func freeChain(_ head: UInt16) -> UInt32 {
        let count = core.chains[Int(head)].count
        core.chains[Int(head)].count = 0
        var id = head
        var i: UInt16 = 0
        while i < count {
            core.giveID(id)
            id = core.chains[Int(id)].next
            i = i &+ 1
        }
        return UInt32(count)
    }

    // MARK: Notifications (2.7.7, 2.7.10)

    @inline(never)
    public mutating func needsKick() -> Bool {
        let (old, new) = (kicked, published)
        if core.isStopped || old == new { return false }
        kicked = new
        // Full: the index must be visible before the device's wish is read (2.7.13.4.1).
        CPlat_fence_full()
        if core.hasEventIdx {
            let event = CPlat_load16_relaxed(core.deviceArea + SplitRing.availEvent(core.size))
            return DriverCore.passes(event, new, old)
        }
        return CPlat_load16_relaxed(core.deviceArea + SplitRing.flags) & SplitRingFlag.noNotify == 0
    }

    public mutating func armCalls() -> Bool {
        if core.isStopped { return true }
        if core.hasEventIdx {
            CPlat_store16_relaxed(core.driverArea + SplitRing.usedEvent(core.size), nextUsed)
        } else {
            CPlat_store16_relaxed(core.driverArea + SplitRing.flags, 0)
        }
        // Full: the wish must be visible before the ring is looked at again (2.7.7.1).
        CPlat_fence_full()
        return hasUsed
    }

    /// Furthest from the used index that an event can be.
    private static var far: UInt16 { 1 << 15 }

    public mutating func suppressCalls() {
        if core.hasEventIdx {
            CPlat_store16_relaxed(core.driverArea + SplitRing.usedEvent(core.size), nextUsed &+ SplitDriverQueue.far)
        } else {
            CPlat_store16_relaxed(core.driverArea + SplitRing.flags, SplitRingFlag.noInterrupt)
        }
    }

    public var hasUsed: Bool {
        core.inBatch || CPlat_load16_acquire(core.deviceArea + SplitRing.index) != nextUsed
    }

    public func notificationData(queueIndex: UInt16) -> UInt32 { NotificationData.word(queueIndex, published) }
}
