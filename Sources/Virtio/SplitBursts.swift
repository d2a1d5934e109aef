import CPlatform

/// Split rings, virtio 1.3 section 2.7: the device side's bursts.
extension SplitQueue {
    /// Chains that wait: at least as many as are `wanted`, or all. The index is read only when the last reading told of
    /// fewer, and must not be further ahead than the queue is long.
    @inline(__always)
    mutating func chainsThere(_ wanted: Int) -> UInt32 {
        if core.defect.kind != .none { return 0 }
        let known = UInt32(availIndex &- nextAvail)
        if Int(known) >= wanted && known <= core.size { return known }
        // Acquire: the ring entries and descriptors were written before the index (2.7.13.3).
        availIndex = CPlat_load16_acquire(core.driverArea + SplitRing.index)
        let n = UInt32(availIndex &- nextAvail)
        if n > core.size {
            core.fail(.availableIndexJump, UInt32(nextAvail), UInt64(nextAvail) &+ UInt64(n))
            return 0
        }
        return n
    }

    @inline(never)
    public mutating func popTransmit(_ burst: inout Burst, limit: Int, leave: Int = 0, least: Int = 1) -> Int {
        burst.count = 0
        burst.segmentCount = 0
        let waiting = Int(chainsThere(leave &+ limit))
        let n = min(waiting &- leave, min(limit, Burst.maximum))
        if n < least { return 0 }
        let packets = burst.packets
        let mask = UInt16(truncatingIfNeeded: core.size &- 1)
        let ring = core.driverArea
        let table = core.descriptors
        let first = nextAvail
        let size = core.size
        // Pass 1: heads; ask for the descriptors.
        var i = 0
        while i < n {
            let slot = (first &+ UInt16(truncatingIfNeeded: i)) & mask
            let head = CPlat_load16_relaxed(ring + SplitRing.avail(slot))
            if UInt32(head) >= size {
                core.fail(.descriptorIndex, UInt32(slot), UInt64(head))
                break
            }
            packets[i].id = head
            CPlat_prefetch_read(table + SplitDescriptor.offset(head))
            i &+= 1
        }
        return popChains(&burst, i)
    }

    /// Pass 2 reads and checks descriptors and asks for the data; pass 3 reads the headers.
    @inline(__always)
    mutating func popChains(_ burst: inout Burst, _ n: Int) -> Int {
        let packets = burst.packets
        let table = core.descriptors
        let headerBytes = core.headerLength
        let map = core.map
        var t = core.translation
        let wantsData = burst.wantsData
        var gathered: UInt64 = 0
        var i = 0
        while i < n {
            let head = packets[i].id
            let d = SplitDescriptor(at: table + SplitDescriptor.offset(head))
            if d.flags == 0 && d.length > headerBytes {
                let host = t.host(d.address, UInt64(d.length), map)
                if host != 0 {
                    let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
                    CPlat_prefetch_read(p)
                    if wantsData && d.length > 64 { CPlat_prefetch_read(p + 64) }
                    core.setSimple(packets + i, p, d.length, head)
                    i &+= 1
                    continue
                }
            }
            core.translation = t
            if !popSlow(&burst, i, head) { break }
            t = core.translation
            gathered |= 1 << UInt64(i)
            i &+= 1
        }
        core.translation = t
        core.loadHeaders(&burst, i, except: gathered)
        nextAvail = nextAvail &+ UInt16(truncatingIfNeeded: i)
        return i
    }

    @inline(never)
    mutating func popSlow(_ burst: inout Burst, _ i: Int, _ head: UInt16) -> Bool {
        // A burst whose segments are nearly used up ends here; the chain opens the next one.
        if i > 0 && burst.segmentCount > 2 * Burst.maximum { return false }
        var g = core.gathering(in: burst)
        if !gather(head: head, &g) { return false }
        return core.finish(g, id: head, into: burst.packets + i, &burst)
    }

    @inline(never)
    public mutating func complete(_ packets: UnsafePointer<PacketSlot>, _ count: Int, hold: Bool = false) {
        if count <= 0 { return }
        let ring = core.deviceArea
        let mask = UInt16(truncatingIfNeeded: core.size &- 1)
        let first = nextUsed
        if core.isInOrder {
            // One entry, with the id of the last, stands for all that the driver is told of together (2.7.9).
            storeUsed(ring, usedIndex & mask, packets[count &- 1].id, 0)
        } else {
            var i = 0
            while i < count {
                storeUsed(ring, (first &+ UInt16(truncatingIfNeeded: i)) & mask, packets[i].id, 0)
                i &+= 1
            }
        }
        nextUsed = first &+ UInt16(truncatingIfNeeded: count)
        if !hold { publishUsed(nextUsed) }
    }

    @inline(__always)
    func storeUsed(_ ring: UnsafeMutableRawPointer, _ slot: UInt16, _ id: UInt16, _ length: UInt32) {
        assert(UInt32(slot) < core.size)
        // The entries begin four bytes behind a multiple of eight, maybe.
        CPlat_store64_unaligned(ring + SplitRing.used(slot), UsedElement.word(id, length))
    }

    @inline(__always)
    mutating func publishUsed(_ index: UInt16) {
        nextUsed = index
        usedIndex = index
        // Release: entries and buffers are visible before the index (2.7.8.2).
        CPlat_store16_release(core.deviceArea + SplitRing.index, index)
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
        let waiting = Int(chainsThere(count))
        deliverFast(burst, list, min(count, waiting), scratch.targets, &result, &witness)
        if result.consumed < count {
            deliverRest(burst, list, count, waiting &- result.consumed, scratch, &result, &witness)
        }
        if result.delivered > 0 { publishUsed(nextUsed) }
        return result
    }

    /// What the first pass left: packets that take several chains or found none, and those behind them. `known`: chains
    /// that are known to be there.
    @inline(never)
    mutating func deliverRest(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ known: Int,
        _ scratch: borrowing DeliveryScratch, _ result: inout Delivery, _ witness: inout some RingWitness
    ) {
        var work = DeliveryWork()
        var waiting = known
        var isFresh = false
        while true {
            if waiting > 0 {
                if work.isOver { return }
                let chains = deliverSlow(
                    scratch, burst.packets + Int(list[result.consumed]), waiting, &work, &result, &witness)
                if result.consumed == count { return }
                waiting = chains < 0 ? 0 : waiting &- chains
            }
            if waiting == 0 {
                // What was known is used up, or too little for one packet: the index may have moved on.
                if isFresh { return }
                isFresh = true
                waiting = Int(chainsThere(Int.max))
                if waiting == 0 { return }
            }
            let before = result.consumed
            deliverFast(burst, list + before, min(count &- before, waiting), scratch.targets, &result, &witness)
            if result.consumed > before { work.tooSmall = UInt64.max }
            if result.consumed == count { return }
            waiting &-= result.consumed &- before
        }
    }

    /// The prefix of packets that each fit the first buffer of their chain.
    @inline(__always)
    mutating func deliverFast(
        _ burst: borrowing Burst, _ list: UnsafePointer<UInt16>, _ count: Int,
        _ targets: UnsafeMutablePointer<ReceiveTarget>, _ result: inout Delivery, _ witness: inout some RingWitness
    ) {
        let n = chooseTargets(burst.packets, list, min(count, Burst.maximum), targets)
        if n == 0 { return }
        let isLong = burst.bytes > 512 &* UInt64(truncatingIfNeeded: burst.count)
        result.bytes &+= fillTargets(burst.packets, list, n, targets, isLong)
        core.tell(burst.packets, list, n, targets, &witness)
        result.consumed &+= n
        result.delivered &+= n
    }

    /// First pass: reads, checks and translates descriptors, and asks for the buffers. Returns how many packets have
    /// one.
    @inline(__always)
    mutating func chooseTargets(
        _ packets: UnsafePointer<PacketSlot>, _ list: UnsafePointer<UInt16>, _ limit: Int,
        _ targets: UnsafeMutablePointer<ReceiveTarget>
    ) -> Int {
        assert(limit <= Burst.maximum)
        let mask = UInt16(truncatingIfNeeded: core.size &- 1)
        let ring = core.driverArea
        let table = core.descriptors
        let first = nextAvail
        let headerBytes = core.headerLength
        var t = core.translation
        var i = 0
        while i < limit {
            let head = CPlat_load16_relaxed(ring + SplitRing.avail((first &+ UInt16(truncatingIfNeeded: i)) & mask))
            targets[i].id = head
            if UInt32(head) < core.size { CPlat_prefetch_read(table + SplitDescriptor.offset(head)) }
            i &+= 1
        }
        var n = 0
        while n < limit {
            let head = targets[n].id
            if UInt32(head) >= core.size { break }
            let d = SplitDescriptor(at: table + SplitDescriptor.offset(head))
            let length = packets[Int(list[n])].length
            // 64-bit sum: a frame length near 2^32 must not wrap.
            if d.flags != DescriptorFlag.write || UInt64(d.length) < UInt64(length) &+ UInt64(headerBytes) { break }
            var host = t.hit(d.address, UInt64(d.length))
            if host == 0 {
                host = core.translate(d.address, UInt64(d.length))
                if host == 0 { break }
                t = core.translation
            }
            let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
            targets[n].host = p
            core.prefetchTarget(p)
            n &+= 1
        }
        nextAvail = first &+ UInt16(truncatingIfNeeded: n)
        return n
    }

    /// Second pass: headers, frames and used entries, which the index will show. Returns the frames' bytes.
    @inline(never)
    mutating func fillTargets(
        _ packets: UnsafeMutablePointer<PacketSlot>, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ targets: UnsafePointer<ReceiveTarget>, _ isLong: Bool
    ) -> UInt64 {
        let mask = UInt16(truncatingIfNeeded: core.size &- 1)
        let usedRing = core.deviceArea
        let headerBytes = core.headerLength
        let firstUsed = nextUsed
        var bytes: UInt64 = 0
        var i = 0
        while i < n {
            let packet = packets + Int(list[i])
            let target = targets[i]
            if isLong && i &+ 1 < n { core.prefetchFrame(packets + Int(list[i &+ 1]), targets[i &+ 1].host) }
            storeHeader(packet.pointee.header, buffers: 1, to: target.host, length: headerBytes)
            copyFrame(packet, to: target.host + Int(headerBytes))
            let length = packet.pointee.length
            storeUsed(usedRing, (firstUsed &+ UInt16(truncatingIfNeeded: i)) & mask, target.id, length &+ headerBytes)
            bytes &+= UInt64(length)
            i &+= 1
        }
        nextUsed = firstUsed &+ UInt16(truncatingIfNeeded: n)
        return bytes
    }

    /// One packet over any chains. Returns the chains used, 0 if the packet was dropped, -1 if the
    /// queue has too few buffers or a defect.
    @inline(never)
    mutating func deliverSlow(
        _ scratch: borrowing DeliveryScratch, _ packet: UnsafeMutablePointer<PacketSlot>, _ waiting: Int,
        _ work: inout DeliveryWork, _ result: inout Delivery, _ witness: inout some RingWitness
    ) -> Int {
        let mask = UInt16(truncatingIfNeeded: core.size &- 1)
        let need = UInt64(packet.pointee.length) &+ UInt64(core.headerLength)
        // The same buffers were too small for a shorter packet: they are not read again.
        if need > work.tooSmall {
            result.consumed &+= 1
            return 0
        }
        var g = Gathering(
            segments: scratch.scatter, capacity: DeliveryScratch.mostSegments, headerLength: 0, wantsWritable: true)
        let mostChains = core.isMergeable ? min(waiting, DeliveryScratch.mostChains) : 1
        var chains = 0
        while g.bytes < need {
            if chains == mostChains {
                // Bounded work (CVE-2019-3900): buffers that are too small cost this packet, not the thread.
                work.segments &+= g.count
                if chains < waiting || !core.isMergeable || waiting == Int(core.size) {
                    work.tooSmall = g.bytes
                    result.consumed &+= 1
                    return 0
                }
                return -1
            }
            let slot = (nextAvail &+ UInt16(truncatingIfNeeded: chains)) & mask
            let head = CPlat_load16_relaxed(core.driverArea + SplitRing.avail(slot))
            if UInt32(head) >= core.size {
                core.fail(.descriptorIndex, UInt32(slot), UInt64(head))
                return -1
            }
            let before = g.bytes
            g.descriptors = 0
            if !gather(head: head, &g) { return -1 }
            scratch.chains[chains] = ReceiveChain(
                id: head, slots: 1, length: UInt32(truncatingIfNeeded: min(g.bytes &- before, UInt64(UInt32.max))))
            chains &+= 1
        }
        work.segments &+= g.count
        work.tooSmall = UInt64.max
        core.writeScattered(packet, g, buffers: UInt16(truncatingIfNeeded: chains))
        core.tell(g, need, &witness)
        var left = need
        let usedRing = core.deviceArea
        var i = 0
        while i < chains {
            let chain = scratch.chains[i]
            let length = min(UInt64(chain.length), left)
            left &-= length
            storeUsed(
                usedRing, (nextUsed &+ UInt16(truncatingIfNeeded: i)) & mask, chain.id,
                UInt32(truncatingIfNeeded: length))
            i &+= 1
        }
        nextAvail = nextAvail &+ UInt16(truncatingIfNeeded: chains)
        nextUsed = nextUsed &+ UInt16(truncatingIfNeeded: chains)
        result.consumed &+= 1
        result.delivered &+= 1
        result.bytes &+= UInt64(packet.pointee.length)
        return chains
    }
}
