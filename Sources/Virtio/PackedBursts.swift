import CPlatform

/// Packed rings, virtio 1.3 section 2.8: the device side's bursts.
extension PackedQueue {
    // MARK: Transmit

    public mutating func popTransmit(_ burst: inout Burst, limit: Int, leave: Int = 0, least: Int = 1) -> Int {
        // Looks at one line, which the driver is not about to write if the answer is yes.
        if leave > 0 && !hasAvailable(ahead: least &+ leave &- 1) { return 0 }
        return pop(&burst, leave > 0 ? min(limit, least) : limit)
    }

    @inline(never)
    mutating func pop(_ burst: inout Burst, _ limit: Int) -> Int {
        burst.count = 0
        burst.segmentCount = 0
        if core.defect.kind != .none { return 0 }
        let packets = burst.packets
        let n = min(limit, Burst.maximum)
        let headerBytes = core.headerLength
        let size = core.size
        let map = core.map
        let ring = core.descriptors
        var cursor = nextAvail
        var t = core.translation
        let wantsData = burst.wantsData
        var gathered: UInt64 = 0
        var i = 0
        while i < n {
            let d = PackedDescriptor(at: ring + PackedDescriptor.offset(cursor.slot))
            if d.flags & Self.shapeBits == cursor.availableBits && d.length > headerBytes {
                let host = t.host(d.address, UInt64(d.length), map)
                if host != 0 {
                    let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
                    CPlat_prefetch_read(p)
                    if wantsData && d.length > 64 { CPlat_prefetch_read(p + 64) }
                    core.setSimple(packets + i, p, d.length, d.id)
                    cursor.advance(1, size)
                    i &+= 1
                    continue
                }
            }
            if d.flags & DescriptorFlag.owner != cursor.availableBits { break }
            core.translation = t
            if !popSlow(&burst, i, cursor) { break }
            t = core.translation
            gathered |= 1 << UInt64(i)
            cursor.advance(UInt32(packets[i].slots), size)
            i &+= 1
        }
        core.translation = t
        nextAvail = cursor
        core.loadHeaders(&burst, i, except: gathered)
        return i
    }

    @inline(never)
    mutating func popSlow(_ burst: inout Burst, _ i: Int, _ cursor: PackedCursor) -> Bool {
        if i > 0 && burst.segmentCount > 2 * Burst.maximum { return false }
        var g = core.gathering(in: burst)
        guard let id = gather(cursor, &g) else {
            return false
        }
        return core.finish(g, id: id, into: burst.packets + i, &burst)
    }

    @inline(never)
    public mutating func complete(_ packets: UnsafePointer<PacketSlot>, _ count: Int, hold: Bool = false) {
        if count <= 0 { return }
        let size = core.size
        let first = nextUsed
        var cursor = first
        var slots: UInt32 = 0
        var i = 0
        if core.isInOrder {
            while i < count {
                slots &+= UInt32(packets[i].slots)
                i &+= 1
            }
            cursor.advance(cursor.goRound(slots, size), size)
            if heldFrom == nil { heldFrom = first }
            heldId = packets[count &- 1].id
            nextUsed = cursor
            if !hold { publishHeld() }
        } else {
            while i < count {
                // The first descriptor is written last: until then the driver sees none of them.
                if i > 0 { storeUsed(cursor, packets[i].id, 0) }
                slots &+= UInt32(packets[i].slots)
                cursor.advance(UInt32(packets[i].slots), size)
                i &+= 1
            }
            publishUsed(first, packets[0].id, 0)
            nextUsed = cursor
        }
        slotsSinceCall &+= slots
    }

    /// One descriptor, with the id of the last, stands for all that the driver is told of together (2.8.8). The driver
    /// skips the others, so the last of them can tell a back-end that comes after a crash of ours where the batch
    /// ended (`RingSetup.packedPosition`): it holds how many there were.
    @inline(__always)
    public mutating func publishHeld() {
        guard let from = heldFrom else { return }
        let slots = UInt32(truncatingIfNeeded: held)
        heldFrom = nil
        if slots > 1 {
            var last = nextUsed
            if last.slot == 0 { last = PackedCursor(slot: core.size, wrap: !last.wrap) }
            last.slot &-= 1
            let word = PackedDescriptor.word(slots, heldId, last.usedBits)
            CPlat_store64_relaxed(
                core.descriptors + PackedDescriptor.offset(last.slot) + PackedDescriptor.wordOffset, word)
        }
        publishUsed(from, heldId, 0)
    }

    /// With WRITE where something was written: without it drivers ignore the length (2.8.4).
    @inline(__always)
    func usedWord(_ cursor: PackedCursor, _ id: UInt16, _ length: UInt32) -> UInt64 {
        let flags = cursor.usedBits | (length > 0 ? DescriptorFlag.write : 0)
        return PackedDescriptor.word(length, id, flags)
    }

    @inline(__always)
    func storeUsed(_ cursor: PackedCursor, _ id: UInt16, _ length: UInt32) {
        assert(cursor.slot < core.size)
        CPlat_store64_relaxed(
            core.descriptors + PackedDescriptor.offset(cursor.slot) + PackedDescriptor.wordOffset,
            usedWord(cursor, id, length))
    }

    @inline(__always)
    func publishUsed(_ cursor: PackedCursor, _ id: UInt16, _ length: UInt32) {
        // Release: buffers and the batch's later descriptors are visible before its first (2.8.8).
        CPlat_store64_release(
            core.descriptors + PackedDescriptor.offset(cursor.slot) + PackedDescriptor.wordOffset,
            usedWord(cursor, id, length))
    }

    // MARK: Receive

    @inline(never)
    public mutating func deliver(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, with scratch: borrowing DeliveryScratch
    ) -> Delivery {
        var nobody = NoWitness()
        return deliver(burst, list, count, with: scratch, telling: &nobody)
    }

    @inline(__always)
    mutating func deliver(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, with scratch: borrowing DeliveryScratch,
        telling witness: inout some RingWitness
    ) -> Delivery {
        var result = Delivery(consumed: 0, delivered: 0, bytes: 0)
        if core.defect.kind != .none { return result }
        deliverFast(burst, list, count, scratch.targets, &result, &witness)
        if result.consumed < count && hasWork { deliverRest(burst, list, count, scratch, &result, &witness) }
        return result
    }

    /// What the first pass left: packets that take several buffers, and those behind them.
    @inline(never)
    mutating func deliverRest(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ scratch: borrowing DeliveryScratch,
        _ result: inout Delivery, _ witness: inout some RingWitness
    ) {
        var work = DeliveryWork()
        while deliverSlow(scratch, burst.packets + Int(list[result.consumed]), &work, &result, &witness) {
            if result.consumed == count || core.defect.kind != .none { return }
            let before = result.consumed
            deliverFast(burst, list + before, count &- before, scratch.targets, &result, &witness)
            if result.consumed > before { work.tooSmall = UInt64.max }
            if result.consumed == count || work.isOver || !hasWork { return }
        }
    }

    /// The prefix of packets that each fit a receive buffer of one descriptor.
    @inline(__always)
    mutating func deliverFast(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int,
        _ targets: UnsafeMutablePointer<ReceiveTarget>, _ result: inout Delivery, _ witness: inout some RingWitness
    ) {
        let n = chooseTargets(burst.packets, list, min(count, Burst.maximum), targets)
        if n == 0 { return }
        let isLong = burst.bytes > 512 &* UInt64(truncatingIfNeeded: burst.count)
        result.bytes &+= fillTargets(burst.packets, list, n, targets, isLong, &witness)
        core.tell(burst.packets, list, n, targets, &witness)
        result.consumed &+= n
        result.delivered &+= n
    }

    /// Descriptors of a cache line, and how many ahead their lines are asked for.
    private static var perLine: Int { 64 / PackedDescriptor.bytes }
    private static var ahead: Int { 2 * perLine }

    /// First pass: reads, checks and translates descriptors, and asks for the buffers. Returns how many packets have
    /// one. A function of its own, and not inlined, so that its loop keeps its state in registers.
    @inline(never)
    mutating func chooseTargets(
        _ packets: UnsafePointer<PacketSlot>, _ list: UnsafePointer<UInt16>, _ limit: Int,
        _ targets: UnsafeMutablePointer<ReceiveTarget>
    ) -> Int {
        assert(limit <= Burst.maximum)
        let ring = core.descriptors
        let headerBytes = UInt64(core.headerLength)
        let size = Int(core.size)
        var slot = Int(nextAvail.slot)
        // What the flags are compared with; the bits change places at the ring's end.
        var wanted = nextAvail.availableBits | DescriptorFlag.write
        var t = core.translation
        var n = 0
        while n < limit {
            // These lines will be written, too: owned from the start, they are fetched once.
            if slot % Self.perLine == 0 { CPlat_prefetch_write(ring + PackedDescriptor.offset(slot &+ Self.ahead)) }
            let d = PackedDescriptor(at: ring + PackedDescriptor.offset(slot))
            let length = packets[Int(list[n])].length
            if d.flags & Self.shapeBits != wanted { break }
            // 64-bit sum: a frame length near 2^32 must not wrap.
            if UInt64(d.length) < UInt64(length) &+ headerBytes { break }
            var host = t.hit(d.address, UInt64(d.length))
            if host == 0 {
                host = core.translate(d.address, UInt64(d.length))
                if host == 0 { break }
                t = core.translation
            }
            let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
            targets[n] = ReceiveTarget(host: p, id: d.id)
            core.prefetchTarget(p)
            slot &+= 1
            if slot >= size {
                slot &-= size
                wanted ^= DescriptorFlag.owner
            }
            n &+= 1
        }
        nextAvail = PackedCursor(
            slot: UInt32(truncatingIfNeeded: slot), wrap: wanted & DescriptorFlag.available != 0)
        return n
    }

    /// Second pass: headers, frames and used entries, the first of which becomes visible last. Returns the frames'
    /// bytes.
    @inline(never)
    mutating func fillTargets(
        _ packets: UnsafeMutablePointer<PacketSlot>, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ targets: UnsafePointer<ReceiveTarget>, _ isLong: Bool, _ witness: inout some RingWitness
    ) -> UInt64 {
        let ring = core.descriptors
        let headerBytes = core.headerLength
        let size = core.size
        let first = nextUsed
        var slot = first.slot
        // WRITE: the header at least is written. The other bits change at the ring's end.
        var flags = first.usedBits | DescriptorFlag.write
        var bytes: UInt64 = 0
        var i = 0
        while i < n {
            let packet = packets + Int(list[i])
            let target = targets[i]
            if isLong && i &+ 1 < n { core.prefetchFrame(packets + Int(list[i &+ 1]), targets[i &+ 1].host) }
            storeHeader(packet.pointee.header, buffers: 1, to: target.host, length: headerBytes)
            copyFrame(packet, to: target.host + Int(headerBytes))
            let length = packet.pointee.length
            if i > 0 {
                assert(slot < size)
                let word = PackedDescriptor.word(length &+ headerBytes, target.id, flags)
                CPlat_store64_relaxed(ring + PackedDescriptor.offset(slot) + PackedDescriptor.wordOffset, word)
            }
            slot &+= 1
            if slot == size {
                slot = 0
                flags ^= DescriptorFlag.owner
            }
            bytes &+= UInt64(length)
            i &+= 1
        }
        let next = PackedCursor(slot: slot, wrap: flags & DescriptorFlag.used != 0)
        witness.publishing(next)
        publishUsed(first, targets[0].id, packets[Int(list[0])].length &+ headerBytes)
        nextUsed = next
        witness.published(next)
        slotsSinceCall &+= UInt32(truncatingIfNeeded: n)
        return bytes
    }

    /// One packet over any chains. False when the queue has too few buffers, or a defect.
    @inline(never)
    mutating func deliverSlow(
        _ scratch: borrowing DeliveryScratch, _ packet: UnsafeMutablePointer<PacketSlot>, _ work: inout DeliveryWork,
        _ result: inout Delivery, _ witness: inout some RingWitness
    ) -> Bool {
        let need = UInt64(packet.pointee.length) &+ UInt64(core.headerLength)
        // The same buffers were too small for a shorter packet: they are not read again.
        if need > work.tooSmall {
            result.consumed &+= 1
            return true
        }
        var g = Gathering(
            segments: scratch.scatter, capacity: DeliveryScratch.mostSegments, headerLength: 0, wantsWritable: true)
        let mostChains = core.isMergeable ? DeliveryScratch.mostChains : 1
        var cursor = nextAvail
        var chains = 0
        var slots: UInt32 = 0
        while g.bytes < need {
            // Bounded work (CVE-2019-3900): buffers that are too small cost this packet, not the thread.
            if chains == mostChains || slots >= core.size {
                work.segments &+= g.count
                work.tooSmall = g.bytes
                result.consumed &+= 1
                return true
            }
            let flags = CPlat_load16_acquire(
                core.descriptors + PackedDescriptor.offset(cursor.slot) + PackedDescriptor.flagsOffset)
            if flags & DescriptorFlag.owner != cursor.availableBits { return false }
            let before = g.bytes
            g.descriptors = 0
            guard let id = gather(cursor, &g) else {
                return false
            }
            scratch.chains[chains] = ReceiveChain(
                id: id, slots: UInt16(truncatingIfNeeded: g.descriptors),
                length: UInt32(truncatingIfNeeded: min(g.bytes &- before, UInt64(UInt32.max))))
            slots &+= g.descriptors
            cursor.advance(g.descriptors, core.size)
            chains &+= 1
        }
        work.segments &+= g.count
        work.tooSmall = UInt64.max
        core.writeScattered(packet, g, buffers: UInt16(truncatingIfNeeded: chains))
        core.tell(g, need, &witness)
        useChains(scratch, chains, need, &witness)
        nextAvail = cursor
        result.consumed &+= 1
        result.delivered &+= 1
        result.bytes &+= UInt64(packet.pointee.length)
        return true
    }

    /// Marks the chains of one packet used; the first becomes visible last.
    mutating func useChains(
        _ scratch: borrowing DeliveryScratch, _ chains: Int, _ need: UInt64, _ witness: inout some RingWitness
    ) {
        let first = nextUsed
        var place = first
        var left = need
        var firstLength: UInt32 = 0
        var i = 0
        while i < chains {
            let chain = scratch.chains[i]
            let length = UInt32(truncatingIfNeeded: min(UInt64(chain.length), left))
            left &-= UInt64(length)
            if i == 0 { firstLength = length } else { storeUsed(place, chain.id, length) }
            place.advance(UInt32(chain.slots), core.size)
            slotsSinceCall &+= UInt32(chain.slots)
            i &+= 1
        }
        witness.publishing(place)
        publishUsed(first, scratch.chains[0].id, firstLength)
        nextUsed = place
        witness.published(place)
    }
}
