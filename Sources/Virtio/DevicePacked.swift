import CPlatform

/// Packed rings, virtio 1.3 section 2.8: the device side's bursts.
extension DeviceQueue {
    /// A place in a packed ring: slot and wrap counter (2.8.1).
    struct PackedCursor: BitwiseCopyable {
        var slot: UInt32
        var wrap: Bool

        @inline(__always)
        mutating func advance(_ n: UInt32, _ size: UInt32) {
            slot &+= n
            if slot >= size {
                slot &-= size
                wrap = !wrap
            }
        }

        /// The whole laps that `n` slots are; returns the slots that are left. A driver can make descriptors available
        /// again while a burst is taken, so what a burst took may add up to more than the ring.
        @inline(__always)
        mutating func goRound(_ n: UInt32, _ size: UInt32) -> UInt32 {
            var left = n
            while left >= size {
                left &-= size
                wrap = !wrap
            }
            return left
        }

        /// AVAIL and USED bits of a descriptor that is available here.
        @inline(__always)
        var availableBits: UInt16 { wrap ? DescriptorFlag.available : DescriptorFlag.used }

        /// AVAIL and USED bits of a descriptor that the device marks used here.
        @inline(__always)
        var usedBits: UInt16 { wrap ? DescriptorFlag.owner : 0 }
    }

    @inline(__always)
    var availableCursor: PackedCursor {
        get { PackedCursor(slot: UInt32(available), wrap: availableWrap) }
        set {
            available = UInt16(truncatingIfNeeded: newValue.slot)
            availableWrap = newValue.wrap
        }
    }

    @inline(__always)
    var usedCursor: PackedCursor {
        get { PackedCursor(slot: UInt32(used), wrap: usedWrap) }
        set {
            used = UInt16(truncatingIfNeeded: newValue.slot)
            usedWrap = newValue.wrap
        }
    }

    /// AVAIL, USED, NEXT, WRITE and INDIRECT: what one comparison decides the common case by.
    @inline(__always)
    static var shapeBits: UInt16 {
        DescriptorFlag.owner | DescriptorFlag.next | DescriptorFlag.write | DescriptorFlag.indirect
    }

    // MARK: Transmit

    @inline(never)
    mutating func popTransmitPacked(_ burst: inout Burst, _ limit: Int) -> Int {
        burst.count = 0
        burst.segmentCount = 0
        if defect.kind != .none { return 0 }
        let packets = burst.packets
        let n = min(limit, burst.capacity)
        let headerBytes = headerLength
        let size = self.size
        let map = self.map
        let ring = descriptors
        var cursor = availableCursor
        var t = translation
        let wantsData = burst.wantsData
        var gathered: UInt64 = 0
        var i = 0
        while i < n {
            let d = PackedDescriptor(at: ring + 16 * Int(cursor.slot))
            if d.flags & Self.shapeBits == cursor.availableBits && d.length > headerBytes {
                let host = t.host(d.address, UInt64(d.length), map)
                if host != 0 {
                    let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
                    CPlat_prefetch_read(p)
                    if wantsData && d.length > 64 { CPlat_prefetch_read(p + 64) }
                    setSimple(packets + i, p, d.length, d.id)
                    cursor.advance(1, size)
                    i &+= 1
                    continue
                }
            }
            if d.flags & DescriptorFlag.owner != cursor.availableBits { break }
            translation = t
            if !popPackedSlow(&burst, i, cursor) { break }
            t = translation
            gathered |= 1 << UInt64(i)
            cursor.advance(UInt32(packets[i].slots), size)
            i &+= 1
        }
        translation = t
        availableCursor = cursor
        loadHeaders(&burst, i, except: gathered)
        return i
    }

    @inline(never)
    mutating func popPackedSlow(_ burst: inout Burst, _ i: Int, _ cursor: PackedCursor) -> Bool {
        if i > 0 && burst.segmentCount > 2 * burst.capacity { return false }
        var g = gathering(in: burst)
        guard let id = gatherPacked(slot: UInt16(truncatingIfNeeded: cursor.slot), wrap: cursor.wrap, &g) else {
            return false
        }
        return finish(g, id: id, into: burst.packets + i, &burst)
    }

    @inline(never)
    mutating func completePacked(_ packets: UnsafePointer<Packet>, _ count: Int, _ hold: Bool) {
        if count <= 0 { return }
        let size = self.size
        let first = usedCursor
        var cursor = first
        var slots: UInt32 = 0
        var i = 0
        if isInOrder {
            while i < count {
                slots &+= UInt32(packets[i].slots)
                i &+= 1
            }
            cursor.advance(cursor.goRound(slots, size), size)
            if heldFrom == nil { heldFrom = first }
            heldId = packets[count &- 1].id
            usedCursor = cursor
            if !hold { publishHeldPacked() }
        } else {
            while i < count {
                // The first descriptor is written last: until then the driver sees none of them.
                if i > 0 { storeUsedPacked(cursor, packets[i].id, 0) }
                slots &+= UInt32(packets[i].slots)
                cursor.advance(UInt32(packets[i].slots), size)
                i &+= 1
            }
            publishUsedPacked(first, packets[0].id, 0)
            usedCursor = cursor
        }
        slotsSinceCall &+= slots
    }

    /// One descriptor, with the id of the last, stands for all that the driver is told of together (2.8.9). The driver
    /// skips the others, so the last of them can tell a back-end that comes after a crash of ours where the batch
    /// ended (`RingSetup.packedPosition`): it holds how many there were.
    @inline(__always)
    mutating func publishHeldPacked() {
        guard let from = heldFrom else { return }
        let slots = UInt32(truncatingIfNeeded: held)
        heldFrom = nil
        if slots > 1 {
            var last = usedCursor
            if last.slot == 0 { last = PackedCursor(slot: size, wrap: !last.wrap) }
            last.slot &-= 1
            let word = PackedDescriptor.word(slots, heldId, last.usedBits)
            CPlat_store64_relaxed(descriptors + 16 * Int(last.slot) + 8, word)
        }
        publishUsedPacked(from, heldId, 0)
    }

    /// With WRITE where something was written: without it drivers ignore the length (2.8.4).
    @inline(__always)
    func usedWord(_ cursor: PackedCursor, _ id: UInt16, _ length: UInt32) -> UInt64 {
        let flags = cursor.usedBits | (length > 0 ? DescriptorFlag.write : 0)
        return PackedDescriptor.word(length, id, flags)
    }

    @inline(__always)
    func storeUsedPacked(_ cursor: PackedCursor, _ id: UInt16, _ length: UInt32) {
        assert(cursor.slot < size)
        CPlat_store64_relaxed(descriptors + 16 * Int(cursor.slot) + 8, usedWord(cursor, id, length))
    }

    @inline(__always)
    func publishUsedPacked(_ cursor: PackedCursor, _ id: UInt16, _ length: UInt32) {
        // Release: buffers and the batch's later descriptors are visible before its first (2.8.8).
        CPlat_store64_release(descriptors + 16 * Int(cursor.slot) + 8, usedWord(cursor, id, length))
    }

    // MARK: Receive

    @inline(never)
    mutating func deliverPacked(
        _ burst: Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ scratch: DeliveryScratch
    ) -> Delivery {
        var result = Delivery(consumed: 0, delivered: 0, bytes: 0)
        if defect.kind != .none { return result }
        deliverPackedFast(burst, list, count, scratch.targets, &result)
        if result.consumed < count && hasWork { deliverPackedRest(burst, list, count, scratch, &result) }
        return result
    }

    /// What the first pass left: packets that take several buffers, and those behind them.
    @inline(never)
    mutating func deliverPackedRest(
        _ burst: Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ scratch: DeliveryScratch,
        _ result: inout Delivery
    ) {
        var work = DeliveryWork()
        while deliverPackedSlow(scratch, burst.packets + Int(list[result.consumed]), &work, &result) {
            if result.consumed == count || defect.kind != .none { return }
            let before = result.consumed
            deliverPackedFast(burst, list + before, count &- before, scratch.targets, &result)
            if result.consumed > before { work.tooSmall = UInt64.max }
            if result.consumed == count || work.isOver || !hasWork { return }
        }
    }

    /// The prefix of packets that each fit a receive buffer of one descriptor.
    @inline(__always)
    mutating func deliverPackedFast(
        _ burst: Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ targets: UnsafeMutablePointer<ReceiveTarget>,
        _ result: inout Delivery
    ) {
        let n = chooseTargetsPacked(burst.packets, list, min(count, burst.capacity), targets)
        if n == 0 { return }
        let isLong = burst.bytes > 512 &* UInt64(truncatingIfNeeded: burst.count)
        result.bytes &+= fillTargetsPacked(burst.packets, list, n, targets, isLong)
        result.consumed &+= n
        result.delivered &+= n
    }

    /// First pass: reads, checks and translates descriptors, and asks for the buffers. Returns how many packets have
    /// one. A function of its own, and not inlined, so that its loop keeps its state in registers.
    @inline(never)
    mutating func chooseTargetsPacked(
        _ packets: UnsafePointer<Packet>, _ list: UnsafePointer<UInt16>, _ limit: Int,
        _ targets: UnsafeMutablePointer<ReceiveTarget>
    ) -> Int {
        assert(limit <= Burst.maximum)
        let ring = descriptors
        let map = self.map
        let headerBytes = headerLength
        let size = self.size
        var cursor = availableCursor
        var t = translation
        var n = 0
        while n < limit {
            // These lines will be written, too: owned from the start, they are fetched once. Eight descriptors ahead.
            if cursor.slot & 3 == 0 { CPlat_prefetch_write(ring + 16 * Int(cursor.slot &+ 8)) }
            let d = PackedDescriptor(at: ring + 16 * Int(cursor.slot))
            let length = packets[Int(list[n])].length
            if d.flags & Self.shapeBits != cursor.availableBits | DescriptorFlag.write { break }
            // 64-bit sum: a frame length near 2^32 must not wrap.
            if UInt64(d.length) < UInt64(length) &+ UInt64(headerBytes) { break }
            let host = t.host(d.address, UInt64(d.length), map)
            if host == 0 { break }
            let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
            targets[n] = ReceiveTarget(host: p, id: d.id)
            prefetchTarget(p)
            cursor.advance(1, size)
            n &+= 1
        }
        translation = t
        availableCursor = cursor
        return n
    }

    /// Second pass: headers, frames and used entries, the first of which becomes visible last. Returns the frames'
    /// bytes.
    @inline(never)
    mutating func fillTargetsPacked(
        _ packets: UnsafeMutablePointer<Packet>, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ targets: UnsafePointer<ReceiveTarget>, _ isLong: Bool
    ) -> UInt64 {
        let ring = descriptors
        let headerBytes = headerLength
        let size = self.size
        let first = usedCursor
        var place = first
        var bytes: UInt64 = 0
        var i = 0
        while i < n {
            let packet = packets + Int(list[i])
            let target = targets[i]
            if isLong && i &+ 1 < n { prefetchFrame(packets + Int(list[i &+ 1]), targets[i &+ 1].host) }
            storeHeader(packet.pointee.header, buffers: 1, to: target.host, length: headerBytes)
            copyFrame(packet, to: target.host + Int(headerBytes))
            let length = packet.pointee.length
            if i > 0 {
                CPlat_store64_relaxed(
                    ring + 16 * Int(place.slot) + 8, usedWord(place, target.id, length &+ headerBytes))
            }
            place.advance(1, size)
            bytes &+= UInt64(length)
            i &+= 1
        }
        publishUsedPacked(first, targets[0].id, packets[Int(list[0])].length &+ headerBytes)
        usedCursor = place
        slotsSinceCall &+= UInt32(truncatingIfNeeded: n)
        return bytes
    }

    /// One packet over any chains. False when the queue has too few buffers, or a defect.
    @inline(never)
    mutating func deliverPackedSlow(
        _ scratch: DeliveryScratch, _ packet: UnsafeMutablePointer<Packet>, _ work: inout DeliveryWork,
        _ result: inout Delivery
    ) -> Bool {
        let need = UInt64(packet.pointee.length) &+ UInt64(headerLength)
        // The same buffers were too small for a shorter packet: they are not read again.
        if need > work.tooSmall {
            result.consumed &+= 1
            return true
        }
        var g = Gathering(
            segments: scratch.scatter, capacity: DeliveryScratch.mostSegments, headerLength: 0, wantsWritable: true)
        let mostChains = isMergeable ? DeliveryScratch.mostChains : 1
        var cursor = availableCursor
        var chains = 0
        var slots: UInt32 = 0
        while g.bytes < need {
            // Bounded work (CVE-2019-3900): buffers that are too small cost this packet, not the thread.
            if chains == mostChains || slots >= size {
                work.segments &+= g.count
                work.tooSmall = g.bytes
                result.consumed &+= 1
                return true
            }
            let flags = CPlat_load16_acquire(descriptors + 16 * Int(cursor.slot) + 14)
            if flags & DescriptorFlag.owner != cursor.availableBits { return false }
            let before = g.bytes
            g.descriptors = 0
            guard let id = gatherPacked(slot: UInt16(truncatingIfNeeded: cursor.slot), wrap: cursor.wrap, &g) else {
                return false
            }
            scratch.chains[chains] = ReceiveChain(
                id: id, slots: UInt16(truncatingIfNeeded: g.descriptors),
                length: UInt32(truncatingIfNeeded: min(g.bytes &- before, UInt64(UInt32.max))))
            slots &+= g.descriptors
            cursor.advance(g.descriptors, size)
            chains &+= 1
        }
        work.segments &+= g.count
        work.tooSmall = UInt64.max
        writeScattered(packet, g, buffers: UInt16(truncatingIfNeeded: chains))
        useChains(scratch, chains, need)
        availableCursor = cursor
        result.consumed &+= 1
        result.delivered &+= 1
        result.bytes &+= UInt64(packet.pointee.length)
        return true
    }

    /// Marks the chains of one packet used; the first becomes visible last.
    mutating func useChains(_ scratch: DeliveryScratch, _ chains: Int, _ need: UInt64) {
        let first = usedCursor
        var place = first
        var left = need
        var firstLength: UInt32 = 0
        var i = 0
        while i < chains {
            let chain = scratch.chains[i]
            let length = UInt32(truncatingIfNeeded: min(UInt64(chain.length), left))
            left &-= UInt64(length)
            if i == 0 { firstLength = length } else { storeUsedPacked(place, chain.id, length) }
            place.advance(UInt32(chain.slots), size)
            slotsSinceCall &+= UInt32(chain.slots)
            i &+= 1
        }
        publishUsedPacked(first, scratch.chains[0].id, firstLength)
        usedCursor = place
    }

    // MARK: Notification

    @inline(__always)
    mutating func needsCallPacked() -> Bool {
        let since = UInt16(truncatingIfNeeded: slotsSinceCall)
        slotsSinceCall = 0
        if since == 0 { return false }
        // Offset, wrap counter and flags in one read: they belong together (2.8.10).
        let wish = EventSuppression(rawValue: CPlat_load32_relaxed(driverArea))
        if wish.flags == EventSuppression.flagsDisable { return false }
        if wish.flags != EventSuppression.flagsDesc || !hasEventIdx { return true }
        var event = wish.slot
        if wish.wrap != usedWrap { event = event &- UInt16(truncatingIfNeeded: size) }
        return used &- event &- 1 < since
    }
}
