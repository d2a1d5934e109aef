import CPlatform

/// What a ring that waits for its IOTLB needs besides: asked for together, a burst costs one wait, not one for each
/// buffer. Only hints: whatever is read here is read again, and checked, when the ring goes on.
struct AddressMisses {
    private(set) var found: [RingDefect] = []
    private let most: Int
    /// Bytes of a buffer that are looked at: a driver can say 4 GiB, of thousands of pieces, in each descriptor.
    private static let longest: UInt64 = 1 << 16

    init(most: Int) { self.most = most }

    var isFull: Bool { found.count >= most }

    /// The pages of a buffer, or of an indirect table, that are not known.
    mutating func look(_ d: DescribedBuffer, _ index: UInt32, _ map: MemoryMap) {
        let map = d.flags & DescriptorFlag.indirect != 0 ? map.readable : map
        var (at, left) = (d.address, min(UInt64(d.length), AddressMisses.longest))
        while !isFull, left > 0, let missing = map.firstMissing(at, left) {
            left &-= missing &- at
            found.append(
                RingDefect(
                    map.isReadable ? .readMiss : .writeMiss, index: index, value: missing,
                    length: UInt32(truncatingIfNeeded: left)))
            // To the next page, which is the smallest that an IOMMU knows.
            let step = min(left, 4096 &- missing % 4096)
            (at, left) = (missing &+ step, left &- step)
        }
    }
}

extension SplitQueue {
    /// What the next entries need of a ring's IOTLB, at most so many addresses.
    package func addressMisses(most: Int) -> [RingDefect] {
        var misses = AddressMisses(most: most)
        let available = CPlat_load16_acquire(core.driverArea + SplitRing.index)
        let mask = UInt16(truncatingIfNeeded: core.size &- 1)
        for i in 0..<min(Int(available &- nextAvail), Int(core.size), most) {
            let slot = (nextAvail &+ UInt16(truncatingIfNeeded: i)) & mask
            let head = UInt32(CPlat_load16_relaxed(core.driverArea + SplitRing.avail(slot)))
            if head >= core.size { break }
            misses.look(SplitDescriptor(at: core.descriptors + SplitDescriptor.offset(head)).buffer, head, core.map)
        }
        return misses.found
    }
}

extension PackedQueue {
    /// The same.
    package func addressMisses(most: Int) -> [RingDefect] {
        var misses = AddressMisses(most: most)
        var at = nextAvail
        for _ in 0..<min(Int(core.size), most) {
            let d = PackedDescriptor(at: core.descriptors + PackedDescriptor.offset(at.slot))
            if !isAvailable(d.flags, at) { break }
            misses.look(d.buffer, at.slot, core.map)
            at.advance(1, core.size)
        }
        return misses.found
    }
}

extension DeviceQueue {
    func addressMisses(most: Int) -> [RingDefect] {
        switch self {
        case .split(let ring): return ring.addressMisses(most: most)
        case .packed(let ring): return ring.addressMisses(most: most)
        }
    }
}
