import CPlatform

/// What a chain of any shape is gathered into, step by step: the slow path of both formats.
struct Gathering {
    var segments: UnsafeMutablePointer<Segment>
    var capacity: Int
    var count = 0
    var bytes: UInt64 = 0
    /// Buffers of length 0.
    var empties: UInt32 = 0
    /// Readable chains: bytes of net header still to be split off.
    var headerLeft: Int
    var header = NetHeader()
    var wantsWritable: Bool
    /// Control queue: readable buffers, then writable ones, of which the first byte is kept.
    var takesAnswer = false
    var answer: UnsafeMutableRawPointer?
    var descriptors: UInt32 = 0

    @inline(__always)
    init(segments: UnsafeMutablePointer<Segment>, capacity: Int, headerLength: UInt32, wantsWritable: Bool) {
        self.segments = segments
        self.capacity = capacity
        headerLeft = wantsWritable ? 0 : Int(headerLength)
        self.wantsWritable = wantsWritable
    }

    /// Adds host memory; the header's bytes are taken off the front. False when there is no room.
    mutating func append(_ host: UnsafeMutableRawPointer, _ length: UInt32, headerLength: Int) -> Bool {
        var base = host
        var left = length
        if headerLeft > 0 {
            let n = min(headerLeft, Int(left))
            let at = headerLength &- headerLeft
            withUnsafeMutableBytes(of: &header) { CPlat_copy($0.baseAddress.unsafelyUnwrapped + at, base, UInt64(n)) }
            headerLeft &-= n
            base += n
            left &-= UInt32(n)
        }
        bytes &+= UInt64(left)
        if left == 0 { return true }
        if count >= capacity { return false }
        assert(count >= 0 && count < capacity)
        segments[count] = Segment(base: base, length: left)
        count &+= 1
        return true
    }
}

extension DeviceQueue {
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
            if g.empties > DeviceQueue.mostEmpties {
                fail(.chainTooLong, index, UInt64(DeviceQueue.mostEmpties))
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
                    fail(.address, index, d.address, d.length)
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
        let host = translation.host(d.address, 1, map)
        if host == 0 {
            fail(.address, index, d.address, d.length)
            return false
        }
        g.answer = UnsafeMutableRawPointer(bitPattern: UInt(host))
        return true
    }

    /// Walks an indirect table. Split tables are linked by `next`; packed ones are read in order (2.8.7).
    mutating func gatherIndirect(_ d: DescribedBuffer, index: UInt32, _ g: inout Gathering) -> Bool {
        if !hasIndirect {
            fail(.indirectNotNegotiated, index, d.address, d.length)
            return false
        }
        if d.length == 0 || d.length & 15 != 0 {
            fail(.indirectLength, index, UInt64(d.length))
            return false
        }
        let host = translation.host(d.address, UInt64(d.length), map)
        if host == 0 {
            fail(.indirectAddress, index, d.address, d.length)
            return false
        }
        let table = UnsafeMutableRawPointer(bitPattern: UInt(host)).unsafelyUnwrapped
        let entries = d.length >> 4
        let longest = longestIndirect
        var at: UInt32 = 0
        var walked: UInt32 = 0
        while true {
            walked &+= 1
            if walked > longest {
                fail(.chainTooLong, index, UInt64(longest))
                return false
            }
            assert(at < entries)
            var next: UInt32 = 0
            var entry: DescribedBuffer
            if isPacked {
                entry = PackedDescriptor(unaligned: table + PackedDescriptor.bytes * Int(at)).buffer
                // DPDK's driver leaves WRITE in the tables of packed rings when it transmits several segments.
                if !g.wantsWritable && !g.takesAnswer { entry.flags &= ~DescriptorFlag.write }
            } else {
                let d = SplitDescriptor(unaligned: table + SplitDescriptor.bytes * Int(at))
                next = UInt32(d.next)
                entry = d.buffer
            }
            if entry.flags & DescriptorFlag.indirect != 0 {
                fail(.indirectNested, at, entry.address, entry.length)
                return false
            }
            if !gatherBuffer(entry, index: at, &g) { return false }
            if isPacked {
                at &+= 1
                if at == entries { return true }
            } else {
                if entry.flags & DescriptorFlag.next == 0 { return true }
                if next >= entries {
                    fail(.descriptorIndex, at, UInt64(next))
                    return false
                }
                at = next
            }
        }
    }

    /// Gathers a split chain.
    mutating func gatherSplit(head: UInt16, _ g: inout Gathering) -> Bool {
        var at = UInt32(head)
        while true {
            g.descriptors &+= 1
            if g.descriptors > size {
                fail(.chainTooLong, UInt32(head), UInt64(size))
                return false
            }
            let d = SplitDescriptor(at: descriptors + SplitDescriptor.bytes * Int(at))
            if d.flags & DescriptorFlag.indirect != 0 {
                if d.flags & DescriptorFlag.next != 0 {
                    fail(.indirectWithNext, at, d.address)
                    return false
                }
                return gatherIndirect(d.buffer, index: at, &g)
            }
            if !gatherBuffer(d.buffer, index: at, &g) { return false }
            if d.flags & DescriptorFlag.next == 0 { return true }
            let next = UInt32(d.next)
            if next >= size {
                fail(.descriptorIndex, at, UInt64(next))
                return false
            }
            at = next
        }
    }

    /// Gathers a packed chain that starts at `slot`; returns its buffer id (from its last descriptor,
    /// 2.8.6), nil on a defect.
    mutating func gatherPacked(slot: UInt16, wrap: Bool, _ g: inout Gathering) -> UInt16? {
        var at = UInt32(slot)
        var wrap = wrap
        while true {
            g.descriptors &+= 1
            if g.descriptors > size {
                fail(.chainTooLong, UInt32(slot), UInt64(size))
                return nil
            }
            let d = PackedDescriptor(at: descriptors + PackedDescriptor.bytes * Int(at))
            if !isAvailable(d.flags, wrap) {
                fail(.chainIncomplete, UInt32(slot), UInt64(at))
                return nil
            }
            if d.flags & DescriptorFlag.indirect != 0 {
                if d.flags & DescriptorFlag.next != 0 || g.descriptors > 1 {
                    fail(.indirectWithNext, at, d.address)
                    return nil
                }
                return gatherIndirect(d.buffer, index: at, &g) ? d.id : nil
            }
            if !gatherBuffer(d.buffer, index: at, &g) { return nil }
            if d.flags & DescriptorFlag.next == 0 { return d.id }
            at &+= 1
            if at == size {
                at = 0
                wrap.toggle()
            }
        }
    }

    /// A packet of the gathered chain, its segments appended to the burst. False stops the burst.
    @inline(__always)
    mutating func finish(_ g: Gathering, id: UInt16, into packet: UnsafeMutablePointer<Packet>, _ burst: inout Burst)
        -> Bool
    {
        if g.headerLeft > 0 {
            fail(.chainTooShort, UInt32(id), UInt64(headerLength) &- UInt64(g.headerLeft))
            return false
        }
        let first = g.count > 0 ? g.segments[0] : Segment(base: descriptors, length: 0)
        var p = Packet(data: first.base, length: UInt32(truncatingIfNeeded: min(g.bytes, UInt64(UInt32.max))))
        p.dataLength = first.length
        p.header = g.header
        p.id = id
        p.slots = UInt16(truncatingIfNeeded: g.descriptors)
        if g.count > Packet.mostSegments {
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
        assert(burst.segmentCount <= burst.segmentCapacity)
        return true
    }

    /// Room for a gathering in what is left of the burst's segments.
    @inline(__always)
    func gathering(in burst: Burst) -> Gathering {
        Gathering(
            segments: burst.segments + burst.segmentCount,
            capacity: min(burst.segmentCapacity &- burst.segmentCount, 0xffff),
            headerLength: headerLength, wantsWritable: false)
    }
}

extension MemoryMap {
    /// Bytes from `address` to the end of its region, at most `limit`; 0 outside every region.
    func contiguous(from address: UInt64, atMost limit: UInt64) -> UInt64 {
        if isIdentity { return limit }
        guard let r = region(of: address) else { return 0 }
        return min(limit, r.size &- (address &- r.guestAddress))
    }
}
