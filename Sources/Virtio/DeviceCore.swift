import CPlatform

/// What the device sides of split and packed rings have in common: where the ring lies, what was negotiated, how
/// addresses are translated, and why the queue had to stop.
struct DeviceCore {
    /// Split: descriptor table. Packed: descriptor ring.
    let descriptors: UnsafeMutableRawPointer
    /// Split: available ring. Packed: driver event suppression.
    let driverArea: UnsafeMutableRawPointer
    /// Split: used ring. Packed: device event suppression.
    let deviceArea: UnsafeMutableRawPointer
    let size: UInt32
    let features: Features
    let headerLength: UInt32
    let hasEventIdx: Bool
    let hasIndirect: Bool
    let isMergeable: Bool
    let isInOrder: Bool

    private(set) var map: MemoryMap
    var translation: Translation

    /// The next decision is to call: the ring has only just started, and its driver may wait for what an earlier life
    /// of the ring did without telling.
    var mustCall = true
    /// The driver was told not to kick.
    var areKicksSuppressed = false
    /// Why the queue stopped; `.none` while it works.
    var defect = RingDefect.none

    init(_ setup: RingSetup) {
        descriptors = setup.descriptors
        driverArea = setup.driverArea
        deviceArea = setup.deviceArea
        size = setup.size
        features = setup.features
        headerLength = UInt32(setup.features.netHeaderLength)
        hasEventIdx = setup.features.contains(.eventIdx)
        hasIndirect = setup.features.contains(.indirectDesc)
        isMergeable = setup.features.contains(.mrgRxbuf)
        isInOrder = setup.features.contains(.inOrder)
        map = setup.map
        translation = Translation(setup.map)
    }

    mutating func use(_ map: MemoryMap) {
        self.map = map
        translation = Translation(map)
        if defect.isMiss { defect = .none }
    }

    /// What lies at an address is not known: a defect, or with an IOTLB the beginning of a wait.
    @inline(never)
    mutating func fail(_ kind: RingDefect.Kind, _ index: UInt32, _ buffer: DescribedBuffer, in map: MemoryMap) {
        guard map.isIOTLB, let missing = map.firstMissing(buffer.address, UInt64(buffer.length)) else {
            return fail(kind, index, buffer.address, buffer.length)
        }
        let left = UInt64(buffer.length) &- (missing &- buffer.address)
        fail(map.isReadable ? .readMiss : .writeMiss, index, missing, UInt32(truncatingIfNeeded: left))
    }

    /// Host address of a range outside the last region, which changes; 0 if it is not inside one region.
    @inline(never)
    mutating func translate(_ address: UInt64, _ length: UInt64) -> UInt64 { translation.miss(address, length, map) }

    mutating func stop(_ reason: RingDefect) {
        if defect.kind == .none { defect = reason }
    }

    @inline(never)
    mutating func fail(_ kind: RingDefect.Kind, _ index: UInt32, _ value: UInt64, _ length: UInt32 = 0) {
        if defect.kind == .none { defect = RingDefect(kind, index: index, value: value, length: length) }
    }

    /// Whether to call, if the driver wants to be called or not: the first answer after the ring's start is yes.
    @inline(__always)
    mutating func decideCall(isWanted: Bool) -> Bool {
        if mustCall {
            mustCall = false
            return true
        }
        return isWanted
    }
}

// MARK: Chains
extension DeviceCore {
    /// Longest indirect table that is walked. The specification's bound is the queue size; QEMU and
    /// DPDK accept longer tables of small queues, and so do their drivers' users.
    var longestIndirect: UInt32 { max(size, 1024) }

    /// Buffers of length 0 that a packet may have. They take no room, so nothing else bounds the time that a thousand
    /// chains of them cost; QEMU refuses every one.
    static var mostEmpties: UInt32 { 1024 }

    /// Checks one buffer and adds it. A buffer that lies over several regions is cut at their borders.
    mutating func gatherBuffer(_ d: DescribedBuffer, index: UInt32, _ g: inout Gathering) -> Bool {
        if d.flags & DescriptorFlag.write != 0 {
            if g.takesAnswer { return gatherAnswer(d, index, &g) }
            if !g.wantsWritable {
                fail(.writableInTransmit, index, d.address, d.length)
                return false
            }
        } else if g.wantsWritable || g.answer != nil {
            fail(.readableInReceive, index, d.address, d.length)
            return false
        }
        if d.length == 0 {
            g.empties &+= 1
            if g.empties > DeviceCore.mostEmpties {
                fail(.chainTooLong, index, UInt64(DeviceCore.mostEmpties))
                return false
            }
        }
        var address = d.address
        var left = UInt64(d.length)
        while left > 0 {
            var piece = left
            var host = translation.host(address, piece, map)
            if host == 0 {
                piece = map.contiguous(from: address, atMost: left)
                host = piece == 0 ? 0 : translation.host(address, piece, map)
                if host == 0 {
                    fail(.address, index, d, in: map)
                    return false
                }
            }
            let pointer = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
            if !g.append(pointer, UInt32(truncatingIfNeeded: piece), headerLength: Int(headerLength)) {
                fail(.chainTooLong, index, UInt64(g.capacity))
                return false
            }
            address = address &+ piece
            left &-= piece
        }
        return true
    }

    mutating func gatherAnswer(_ d: DescribedBuffer, _ index: UInt32, _ g: inout Gathering) -> Bool {
        if g.answer != nil || d.length == 0 { return true }
        // The control queue reads: its map is that of what may be read.
        let writable = map.writable
        let host = map.isIOTLB ? writable.host(d.address, 1) : translation.host(d.address, 1, map)
        if host == 0 {
            fail(.address, index, DescribedBuffer(address: d.address, length: 1, flags: d.flags), in: writable)
            return false
        }
        g.answer = UnsafeMutableRawPointer(bitPattern: UInt(host))
        return true
    }

    /// Where an indirect table lies; 0 on a defect.
    mutating func indirectTable(_ d: DescribedBuffer, index: UInt32) -> UInt64 {
        if !hasIndirect {
            fail(.indirectNotNegotiated, index, d.address, d.length)
            return 0
        }
        if d.length == 0 || d.length % UInt32(SplitDescriptor.bytes) != 0 {
            fail(.indirectLength, index, UInt64(d.length))
            return 0
        }
        // A receive ring's map is that of what may be written.
        let isElsewhere = map.isWritable
        let host =
            isElsewhere
            ? map.readable.host(d.address, UInt64(d.length)) : translation.host(d.address, UInt64(d.length), map)
        if host == 0 {
            fail(.indirectAddress, index, d, in: map.readable)
            return 0
        }
        return host
    }

    /// A packet of the gathered chain, its segments appended to the burst. False stops the burst.
    @inline(__always)
    mutating func finish(
        _ g: Gathering, id: UInt16, into packet: UnsafeMutablePointer<PacketSlot>, _ burst: inout Burst
    )
        -> Bool
    {
        if g.headerLeft > 0 {
            fail(.chainTooShort, UInt32(id), UInt64(headerLength) &- UInt64(g.headerLeft))
            return false
        }
        let first = g.count > 0 ? g.segments[0] : Segment(base: descriptors, length: 0)
        var p = packet.pointee
        p.place(first.base, UInt32(truncatingIfNeeded: min(g.bytes, UInt64(UInt32.max))))
        p.dataLength = first.length
        p.header = g.header
        p.id = id
        p.slots = UInt16(truncatingIfNeeded: g.descriptors)
        if g.count > PacketSlot.mostSegments {
            // Longer than anything that a driver makes of a frame: screening drops it for its length.
            p.length = 0
            p.dataLength = 0
        } else if g.count > 1 {
            p.more = g.segments + 1
            p.moreCount = UInt16(truncatingIfNeeded: g.count &- 1)
        }
        packet.pointee = p
        // Also those of a packet that will be dropped: a burst goes through one such chain, not through 64.
        burst.segmentCount &+= g.count
        assert(burst.segmentCount <= Burst.mostSegments)
        return true
    }

    /// Room for a gathering in what is left of the burst's segments.
    @inline(__always)
    func gathering(in burst: borrowing Burst) -> Gathering {
        Gathering(
            segments: burst.segments + burst.segmentCount,
            capacity: min(Burst.mostSegments &- burst.segmentCount, 0xffff),
            headerLength: headerLength, wantsWritable: false)
    }
}

// MARK: Packets
extension DeviceCore {
    /// A packet of one buffer; its header is read in the next pass.
    @inline(__always)
    func setSimple(
        _ packet: UnsafeMutablePointer<PacketSlot>, _ p: UnsafeMutableRawPointer, _ length: UInt32, _ id: UInt16
    ) {
        packet.pointee.data = p + Int(headerLength)
        packet.pointee.length = length &- headerLength
        packet.pointee.dataLength = length &- headerLength
        packet.pointee.front = .nothing
        packet.pointee.verdict = Verdict.drop.rawValue
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
        let span = PacketSlot.maximumLength &- PacketSlot.minimumLength
        var bytes: UInt64 = 0
        var offloads: UInt64 = 0
        var odd = false
        var i = 0
        while i < n {
            if gathered & (1 << UInt64(i)) == 0 { packets[i].header = loadHeader(packets[i].data - back) }
            // Flags and type.
            offloads |= packets[i].header.low & 0xffff
            let length = packets[i].length
            odd = odd || length &- PacketSlot.minimumLength > span
            bytes &+= UInt64(length)
            i &+= 1
        }
        burst.bytes = bytes
        burst.needsScreening = odd || offloads != 0
        burst.count = n
    }

    /// The lines that the copy will write first; a frame's later lines stream. Header and frame take two: Ethernet's
    /// shortest frame has 60 bytes, and a prefetch beyond the buffer does nothing. A header that has a line of its own
    /// is only looked at, as a rule (`storeHeader`), and so not asked for.
    @inline(__always)
    func prefetchTarget(_ p: UnsafeMutableRawPointer) {
        CPlat_prefetch_write(p + 12)
        CPlat_prefetch_write(p + 64)
    }

    /// Asks for what is left of a long frame, source and destination, while the one before it is copied.
    @inline(__always)
    func prefetchFrame(_ packet: UnsafeMutablePointer<PacketSlot>, _ to: UnsafeMutableRawPointer) {
        let length = Int(packet.pointee.dataLength)
        let from = packet.pointee.data
        var at = 128
        while at < length {
            CPlat_prefetch_read(from + at)
            CPlat_prefetch_write(to + at)
            at &+= 64
        }
    }

    /// Header and frame over gathered receive segments.
    mutating func writeScattered(_ packet: UnsafeMutablePointer<PacketSlot>, _ g: Gathering, buffers: UInt16) {
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

    /// Tells of a frame in each of the first `n` targets.
    @inline(__always)
    func tell<W: RingWitness>(
        _ packets: UnsafePointer<PacketSlot>, _ list: UnsafePointer<UInt16>, _ n: Int,
        _ targets: UnsafePointer<ReceiveTarget>, _ witness: inout W
    ) {
        if !W.isWatching { return }
        witness.begin()
        var i = 0
        while i < n {
            witness.wrote(
                targets[i].host, UInt64(packets[Int(list[i])].length) &+ UInt64(headerLength))
            i &+= 1
        }
    }

    /// Tells of the first `bytes` of gathered buffers.
    @inline(__always)
    func tell<W: RingWitness>(_ g: Gathering, _ bytes: UInt64, _ witness: inout W) {
        if !W.isWatching { return }
        witness.begin()
        var left = bytes
        var i = 0
        while i < g.count && left > 0 {
            let n = min(left, UInt64(g.segments[i].length))
            witness.wrote(g.segments[i].base, n)
            left &-= n
            i &+= 1
        }
    }
}
