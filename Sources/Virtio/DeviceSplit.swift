import CPlatform

/// Split rings, virtio 1.3 section 2.7: the device side's bursts.
extension DeviceQueue {
    /// Chains that wait: at least as many as are `wanted`, or all. The index is read only when the last reading told of
    /// fewer, and must not be further ahead than the queue is long.
    @inline(__always)
    mutating func waitingSplit(_ wanted: Int) -> UInt32 {
        if defect.kind != .none { return 0 }
        let known = UInt32(seen &- available)
        if Int(known) >= wanted && known <= size { return known }
        // Acquire: the ring entries and descriptors were written before the index (2.7.13.3).
        seen = CPlat_load16_acquire(driverArea + 2)
        let n = UInt32(seen &- available)
        if n > size {
            fail(.availableIndexJump, UInt32(available), UInt64(available) &+ UInt64(n))
            return 0
        }
        return n
    }

    @inline(never)
    mutating func popTransmitSplit(_ burst: inout Burst, _ limit: Int, _ leave: Int, _ least: Int) -> Int {
        burst.count = 0
        burst.segmentCount = 0
        let waiting = Int(waitingSplit(leave &+ limit))
        let n = min(waiting &- leave, min(limit, burst.capacity))
        if n < least { return 0 }
        let packets = burst.packets
        let mask = UInt16(truncatingIfNeeded: size &- 1)
        let ring = driverArea + 4
        let table = descriptors
        let first = available
        let size16 = size
        // Pass 1: heads; ask for the descriptors.
        var i = 0
        while i < n {
            let slot = Int((first &+ UInt16(truncatingIfNeeded: i)) & mask)
            let head = CPlat_load16_relaxed(ring + 2 * slot)
            if UInt32(head) >= size16 {
                fail(.descriptorIndex, UInt32(slot), UInt64(head))
                break
            }
            packets[i].id = head
            CPlat_prefetch_read(table + 16 * Int(head))
            i &+= 1
        }
        return popSplitChains(&burst, i)
    }

    /// Pass 2 reads and checks descriptors and asks for the data; pass 3 reads the headers.
    @inline(__always)
    mutating func popSplitChains(_ burst: inout Burst, _ n: Int) -> Int {
        let packets = burst.packets
        let table = descriptors
        let headerBytes = headerLength
        let map = self.map
        var t = translation
        let wantsData = burst.wantsData
        var gathered: UInt64 = 0
        var i = 0
        while i < n {
            let head = packets[i].id
            let d = SplitDescriptor(at: table + 16 * Int(head))
            if d.flags == 0 && d.length > headerBytes {
                let host = t.host(d.address, UInt64(d.length), map)
                if host != 0 {
                    let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
                    CPlat_prefetch_read(p)
                    if wantsData && d.length > 64 { CPlat_prefetch_read(p + 64) }
                    setSimple(packets + i, p, d.length, head)
                    i &+= 1
                    continue
                }
            }
            translation = t
            if !popSplitSlow(&burst, i, head) { break }
            t = translation
            gathered |= 1 << UInt64(i)
            i &+= 1
        }
        translation = t
        loadHeaders(&burst, i, except: gathered)
        available = available &+ UInt16(truncatingIfNeeded: i)
        return i
    }

    @inline(never)
    mutating func popSplitSlow(_ burst: inout Burst, _ i: Int, _ head: UInt16) -> Bool {
        // A burst whose segments are nearly used up ends here; the chain opens the next one.
        if i > 0 && burst.segmentCount > 2 * burst.capacity { return false }
        var g = gathering(in: burst)
        if !gatherSplit(head: head, &g) { return false }
        return finish(g, id: head, into: burst.packets + i, &burst)
    }

    /// A packet of one buffer; its header is read in the next pass.
    @inline(__always)
    func setSimple(_ packet: UnsafeMutablePointer<Packet>, _ p: UnsafeMutableRawPointer, _ length: UInt32, _ id: UInt16)
    {
        packet.pointee.data = p + Int(headerLength)
        packet.pointee.length = length &- headerLength
        packet.pointee.dataLength = length &- headerLength
        packet.pointee.headLength = 0
        packet.pointee.id = id
        packet.pointee.more = nil
        packet.pointee.moreCount = 0
        packet.pointee.slots = 1
    }

    /// Pass 3: reads the headers of simple packets, and tells what the burst holds.
    @inline(__always)
    func loadHeaders(_ burst: inout Burst, _ n: Int, except gathered: UInt64) {
        let packets = burst.packets
        let back = Int(headerLength)
        let span = Packet.maximumLength &- Packet.minimumLength
        var bytes: UInt64 = 0
        var offloads: UInt64 = 0
        var odd = false
        var i = 0
        while i < n {
            if gathered & (1 << UInt64(i)) == 0 { packets[i].header = loadHeader(packets[i].data - back) }
            // Flags and type.
            offloads |= packets[i].header.low & 0xffff
            let length = packets[i].length
            odd = odd || length &- Packet.minimumLength > span
            bytes &+= UInt64(length)
            i &+= 1
        }
        burst.bytes = bytes
        burst.needsScreening = odd || offloads != 0
        burst.count = n
    }

    @inline(never)
    mutating func completeSplit(_ packets: UnsafePointer<Packet>, _ count: Int, _ hold: Bool) {
        if count <= 0 { return }
        let ring = deviceArea + 4
        let mask = UInt16(truncatingIfNeeded: size &- 1)
        let first = used
        if isInOrder {
            // One entry, with the id of the last, stands for all that the driver is told of together (2.7.9).
            storeUsed(ring, published & mask, packets[count &- 1].id, 0)
        } else {
            var i = 0
            while i < count {
                storeUsed(ring, (first &+ UInt16(truncatingIfNeeded: i)) & mask, packets[i].id, 0)
                i &+= 1
            }
        }
        used = first &+ UInt16(truncatingIfNeeded: count)
        if !hold { publishUsedSplit(used) }
    }

    @inline(__always)
    func storeUsed(_ ring: UnsafeMutableRawPointer, _ slot: UInt16, _ id: UInt16, _ length: UInt32) {
        assert(UInt32(slot) < size)
        // The ring begins four bytes behind a multiple of eight, maybe.
        CPlat_store64_unaligned(ring + 8 * Int(slot), UInt64(id) | UInt64(length) << 32)
    }

    @inline(__always)
    mutating func publishUsedSplit(_ index: UInt16) {
        used = index
        published = index
        // Release: entries and buffers are visible before the index (2.7.8.2).
        CPlat_store16_release(deviceArea + 2, index)
    }

    @inline(__always)
    mutating func needsCallSplit() -> Bool {
        let old = usedAtCall
        let new = used
        usedAtCall = new
        if hasEventIdx {
            let event = CPlat_load16_relaxed(driverArea + 4 + 2 * Int(size))
            // 2.7.7.2: crossed since the last decision?
            return new &- event &- 1 < new &- old
        }
        if new == old { return false }
        let flags = CPlat_load16_relaxed(driverArea)
        // The index is in the same line, which is here now.
        seen = CPlat_load16_acquire(driverArea + 2)
        return flags & SplitRingFlag.noInterrupt == 0
    }

    // MARK: Receive

    @inline(never)
    mutating func deliverSplit(
        _ burst: Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ scratch: DeliveryScratch
    ) -> Delivery {
        var work = DeliveryWork()
        var result = Delivery(consumed: 0, delivered: 0, bytes: 0)
        var waiting = Int(waitingSplit(count))
        var isFresh = false
        while result.consumed < count {
            if waiting == 0 {
                // What was known is used up, or too little for one packet: the index may have moved on.
                if isFresh { break }
                isFresh = true
                waiting = Int(waitingSplit(Int.max))
                if waiting == 0 { break }
            }
            let n = deliverSplitFast(
                burst, list + result.consumed, min(count &- result.consumed, waiting), scratch.targets, &result)
            if n > 0 { work.tooSmall = UInt64.max }
            waiting &-= n
            if result.consumed == count || waiting == 0 { continue }
            if work.isOver { break }
            let chains = deliverSplitSlow(scratch, burst.packets + Int(list[result.consumed]), waiting, &work, &result)
            waiting = chains < 0 ? 0 : waiting &- chains
        }
        if result.delivered > 0 { publishUsedSplit(used) }
        return result
    }

    /// The prefix of packets that each fit the first buffer of their chain. Returns their number.
    @inline(__always)
    mutating func deliverSplitFast(
        _ burst: Burst, _ list: UnsafePointer<UInt16>, _ count: Int, _ targets: UnsafeMutablePointer<ReceiveTarget>,
        _ result: inout Delivery
    ) -> Int {
        let packets = burst.packets
        let mask = UInt16(truncatingIfNeeded: size &- 1)
        let ring = driverArea + 4
        let table = descriptors
        let first = available
        let headerBytes = headerLength
        let map = self.map
        let isLong = burst.bytes > 512 &* UInt64(truncatingIfNeeded: burst.count)
        let limit = min(count, burst.capacity)
        var t = translation
        var i = 0
        while i < limit {
            let head = CPlat_load16_relaxed(ring + 2 * Int((first &+ UInt16(truncatingIfNeeded: i)) & mask))
            targets[i].id = head
            if UInt32(head) < size { CPlat_prefetch_read(table + 16 * Int(head)) }
            i &+= 1
        }
        var n = 0
        while n < limit {
            let head = targets[n].id
            if UInt32(head) >= size { break }
            let d = SplitDescriptor(at: table + 16 * Int(head))
            let length = packets[Int(list[n])].length
            // 64-bit sum: a frame length near 2^32 must not wrap.
            if d.flags != DescriptorFlag.write || UInt64(d.length) < UInt64(length) &+ UInt64(headerBytes) { break }
            let host = t.host(d.address, UInt64(d.length), map)
            if host == 0 { break }
            let p = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
            targets[n].host = p
            prefetchTarget(p)
            n &+= 1
        }
        translation = t
        let usedRing = deviceArea + 4
        let firstUsed = used
        var bytes: UInt64 = 0
        i = 0
        while i < n {
            let packet = packets + Int(list[i])
            let target = targets[i]
            if isLong && i &+ 1 < n { prefetchFrame(packets + Int(list[i &+ 1]), targets[i &+ 1].host) }
            storeHeader(packet.pointee.header, buffers: 1, to: target.host, length: headerBytes)
            copyFrame(packet, to: target.host + Int(headerBytes))
            let length = packet.pointee.length
            storeUsed(usedRing, (firstUsed &+ UInt16(truncatingIfNeeded: i)) & mask, target.id, length &+ headerBytes)
            bytes &+= UInt64(length)
            i &+= 1
        }
        available = first &+ UInt16(truncatingIfNeeded: n)
        used = firstUsed &+ UInt16(truncatingIfNeeded: n)
        result.consumed &+= n
        result.delivered &+= n
        result.bytes &+= bytes
        return n
    }

    /// The lines that the copy will write first; a frame's later lines stream. Header and frame take two: Ethernet's
    /// shortest frame has 60 bytes, and a prefetch beyond the buffer does nothing.
    @inline(__always)
    func prefetchTarget(_ p: UnsafeMutableRawPointer) {
        CPlat_prefetch_write(p)
        CPlat_prefetch_write(p + 64)
    }

    /// Asks for what is left of a long frame, source and destination, while the one before it is copied.
    @inline(__always)
    func prefetchFrame(_ packet: UnsafeMutablePointer<Packet>, _ to: UnsafeMutableRawPointer) {
        let length = Int(packet.pointee.dataLength)
        let from = packet.pointee.data
        var at = 128
        while at < length {
            CPlat_prefetch_read(from + at)
            CPlat_prefetch_write(to + at)
            at &+= 64
        }
    }

    /// One packet over any chains. Returns the chains used, 0 if the packet was dropped, -1 if the
    /// queue has too few buffers or a defect.
    @inline(never)
    mutating func deliverSplitSlow(
        _ scratch: DeliveryScratch, _ packet: UnsafeMutablePointer<Packet>, _ waiting: Int, _ work: inout DeliveryWork,
        _ result: inout Delivery
    ) -> Int {
        let mask = UInt16(truncatingIfNeeded: size &- 1)
        let need = UInt64(packet.pointee.length) &+ UInt64(headerLength)
        // The same buffers were too small for a shorter packet: they are not read again.
        if need > work.tooSmall {
            result.consumed &+= 1
            return 0
        }
        var g = Gathering(
            segments: scratch.scatter, capacity: DeliveryScratch.mostSegments, headerLength: 0, wantsWritable: true)
        let mostChains = isMergeable ? min(waiting, DeliveryScratch.mostChains) : 1
        var chains = 0
        while g.bytes < need {
            if chains == mostChains {
                // Bounded work (CVE-2019-3900): buffers that are too small cost this packet, not the thread.
                work.segments &+= g.count
                if chains < waiting || !isMergeable || waiting == Int(size) {
                    work.tooSmall = g.bytes
                    result.consumed &+= 1
                    return 0
                }
                return -1
            }
            let slot = (available &+ UInt16(truncatingIfNeeded: chains)) & mask
            let head = CPlat_load16_relaxed(driverArea + 4 + 2 * Int(slot))
            if UInt32(head) >= size {
                fail(.descriptorIndex, UInt32(slot), UInt64(head))
                return -1
            }
            let before = g.bytes
            g.descriptors = 0
            if !gatherSplit(head: head, &g) { return -1 }
            scratch.chains[chains] = ReceiveChain(
                id: head, slots: 1, length: UInt32(truncatingIfNeeded: min(g.bytes &- before, UInt64(UInt32.max))))
            chains &+= 1
        }
        work.segments &+= g.count
        work.tooSmall = UInt64.max
        writeScattered(packet, g, buffers: UInt16(truncatingIfNeeded: chains))
        var left = need
        let usedRing = deviceArea + 4
        var i = 0
        while i < chains {
            let chain = scratch.chains[i]
            let length = min(UInt64(chain.length), left)
            left &-= length
            storeUsed(
                usedRing, (used &+ UInt16(truncatingIfNeeded: i)) & mask, chain.id, UInt32(truncatingIfNeeded: length))
            i &+= 1
        }
        available = available &+ UInt16(truncatingIfNeeded: chains)
        used = used &+ UInt16(truncatingIfNeeded: chains)
        result.consumed &+= 1
        result.delivered &+= 1
        result.bytes &+= UInt64(packet.pointee.length)
        return chains
    }

    /// Header and frame over gathered receive segments.
    mutating func writeScattered(_ packet: UnsafeMutablePointer<Packet>, _ g: Gathering, buffers: UInt16) {
        assert(g.bytes >= UInt64(packet.pointee.length) &+ UInt64(headerLength))
        var scatter = Scatter(g.segments)
        var raw: (UInt64, UInt64) = (0, 0)
        let length = headerLength
        withUnsafeMutableBytes(of: &raw) {
            let p = $0.baseAddress.unsafelyUnwrapped
            storeHeader(packet.pointee.header, buffers: buffers, to: p, length: length)
            scatter.write(p, length)
        }
        scatter.write(packet)
    }
}
