import CPlatform

/// What a queue's part of the inflight region says (vhost-user, "Inflight I/O tracking"): which chains a device has
/// taken and not given back. It outlives this process, so that whoever comes after a crash gives them back. The region
/// is shared with the front-end: what is read there is read once and checked.
///
/// Chains are given back in the order in which they were taken. So the entries of a packed ring's chain are those of
/// its slots, and the list of free entries begins where the next chain will lie.
public struct InflightQueue: BitwiseCopyable {
    private let base: UnsafeMutableRawPointer
    /// Descriptors of the ring, and entries.
    private let size: UInt32
    private let isPacked: Bool

    /// A queue's part is a multiple of so many bytes, as other back-ends lay it out.
    public static var alignment: Int { 64 }

    /// Bytes of the part of a queue of `size` descriptors.
    public static func bytes(size: UInt32, isPacked: Bool) -> Int {
        let all =
            isPacked
            ? PackedState.entries + PackedState.bytes * Int(size) : SplitState.entries + SplitState.bytes * Int(size)
        return (all + alignment - 1) / alignment * alignment
    }

    /// The part at `base`, which is the caller's and outlives every ring that uses it.
    public init(base: UnsafeMutableRawPointer, size: UInt32, isPacked: Bool) {
        (self.base, self.size, self.isPacked) = (base, size, isPacked)
    }

    /// The part was begun for a ring like this one, and not ended.
    public var isInUse: Bool {
        CPlat_load16_relaxed(base + RegionHeader.version) == RegionHeader.currentVersion
            && UInt32(CPlat_load16_relaxed(base + RegionHeader.count)) == size & 0xffff
    }

    /// Whether a chain is in flight.
    public var hasAny: Bool { (0..<size).contains { isInflight($0) } }

    /// The ring was stopped in good order: its next life begins where the front-end says. What is in flight is kept,
    /// unless the device was reset.
    public func end(isReset: Bool) {
        if isReset || !hasAny { CPlat_store16_release(base + RegionHeader.version, 0) }
    }

    /// A ring's first life begins: nothing is in flight.
    func begin(_ position: RingPosition) {
        CPlat_store16_relaxed(base + RegionHeader.version, 0)
        forgetAll()
        if isPacked {
            for i in 0..<size { setNext(i, (i + 1) % size) }
            setFree(UInt32(position.available))
            let place = PackedCursor(slot: UInt32(position.used), wrap: position.usedWrap)
            setUsed(new: place, old: place)
        } else {
            CPlat_store16_relaxed(base + SplitState.lastBatchHead, 0)
            CPlat_store16_relaxed(base + SplitState.usedIndex, position.used)
        }
        CPlat_store16_relaxed(base + RegionHeader.count, UInt16(truncatingIfNeeded: size))
        CPlat_store16_release(base + RegionHeader.version, RegionHeader.currentVersion)
    }

    // MARK: Entries

    private func entry(_ i: UInt32) -> UnsafeMutableRawPointer {
        assert(i < size)
        return isPacked
            ? base + PackedState.entries + PackedState.bytes * Int(i)
            : base + SplitState.entries + SplitState.bytes * Int(i)
    }

    @inline(__always)
    private func isInflight(_ i: UInt32) -> Bool { CPlat_load8_relaxed(entry(i)) == 1 }
    @inline(__always)
    private func setInflight(_ i: UInt32, _ value: Bool) { CPlat_store8_release(entry(i), value ? 1 : 0) }
    private func counter(_ i: UInt32) -> UInt64 { CPlat_load64_relaxed(entry(i) + Self.counterOffset) }
    private func setNext(_ i: UInt32, _ next: UInt32) {
        let offset = isPacked ? PackedState.next : SplitState.next
        CPlat_store16_release(entry(i) + offset, UInt16(truncatingIfNeeded: next))
    }
    private func next(_ i: UInt32) -> UInt32 {
        UInt32(CPlat_load16_relaxed(entry(i) + (isPacked ? PackedState.next : SplitState.next)))
    }
    private static var counterOffset: Int { 8 }

    /// Heads of what is in flight, in the order in which it was taken, and the counter that comes next.
    private func inflight() -> (heads: [UInt32], counter: UInt64) {
        let found = (0..<size).filter { isInflight($0) }.map { (head: $0, counter: counter($0)) }
        let ordered = found.sorted { $0.counter < $1.counter }
        return (ordered.map(\.head), (ordered.last?.counter ?? 0) &+ 1)
    }
}

/// What a queue's part begins with, in bytes: `features` (0), `version`, `desc_num`.
private enum RegionHeader {
    static var version: Int { 8 }
    static var count: Int { 10 }
    static var currentVersion: UInt16 { 1 }
}

/// `QueueRegionSplit` and `DescStateSplit`: where the fields lie, in bytes.
private enum SplitState {
    static var lastBatchHead: Int { 12 }
    static var usedIndex: Int { 14 }
    static var entries: Int { 16 }
    static var bytes: Int { 16 }
    static var next: Int { 6 }
}

/// `QueueRegionPacked` and `DescStatePacked`.
private enum PackedState {
    static var freeHead: Int { 12 }
    static var oldFreeHead: Int { 14 }
    /// `used_idx`, `old_used_idx`, `used_wrap_counter`, `old_used_wrap_counter`: one word, which is written whole.
    static var used: Int { 16 }
    static var entries: Int { 32 }
    static var bytes: Int { 32 }
    static var next: Int { 2 }
    static var last: Int { 4 }
    static var num: Int { 6 }
    /// The descriptor, in a packed descriptor's fields but in another order.
    static var id: Int { 16 }
    static var flags: Int { 18 }
    static var length: Int { 20 }
    static var address: Int { 24 }
}

// MARK: Split rings
extension InflightQueue {
    /// A chain was taken.
    @inline(__always)
    func took(head: UInt16, counter: UInt64) {
        CPlat_store64_release(entry(UInt32(head)) + Self.counterOffset, counter)
        setInflight(UInt32(head), true)
    }

    /// A chain is put back into the ring, or was given back.
    @inline(__always)
    func left(head: UInt16) { setInflight(UInt32(head), false) }

    /// A chain of the batch that the driver will be told of next.
    @inline(__always)
    func batch(head: UInt16) {
        setNext(UInt32(head), UInt32(CPlat_load16_relaxed(base + SplitState.lastBatchHead)))
        CPlat_store16_release(base + SplitState.lastBatchHead, head)
    }

    @inline(__always)
    func setUsedIndex(_ index: UInt16) { CPlat_store16_release(base + SplitState.usedIndex, index) }

    /// After a crash: heads to be taken again, in their order.
    func resumeSplit(usedIndex: UInt16) -> (heads: [UInt16], counter: UInt64) {
        // The driver was told of the last batch, whose marks may still stand.
        var left = usedIndex &- CPlat_load16_relaxed(base + SplitState.usedIndex)
        var at = UInt32(CPlat_load16_relaxed(base + SplitState.lastBatchHead))
        while left > 0 && UInt32(left) <= size && at < size {
            setInflight(at, false)
            at = next(at)
            left &-= 1
        }
        setUsedIndex(usedIndex)
        let (heads, counter) = inflight()
        return (heads.map { UInt16($0) }, counter)
    }

    /// Nothing is taken again: the ring's own entries are.
    func forgetAll() { for i in 0..<size where isInflight(i) { setInflight(i, false) } }
}

// MARK: Packed rings

/// A chain of a packed ring as it was when it was taken; its slots may have been written over.
struct SavedChain {
    var descriptors: [PackedDescriptor]
    var id: UInt16
}

extension InflightQueue {
    private func setFree(_ head: UInt32) {
        CPlat_store16_release(base + PackedState.freeHead, UInt16(truncatingIfNeeded: head))
        CPlat_store16_release(base + PackedState.oldFreeHead, UInt16(truncatingIfNeeded: head))
    }

    @inline(__always)
    private func setUsed(new: PackedCursor, old: PackedCursor) {
        let slots = UInt64(new.slot & 0xffff) | UInt64(old.slot & 0xffff) << 16
        let wraps: UInt64 = (new.wrap ? 1 : 0) | (old.wrap ? 1 << 8 : 0)
        CPlat_store64_release(base + PackedState.used, slots | wraps << 32)
    }

    /// A chain of `slots` descriptors at `place` of the ring was taken; its descriptors are kept.
    func took(_ ring: UnsafeMutableRawPointer, _ place: PackedCursor, slots: UInt32, counter: UInt64) {
        let count = min(slots, size)
        let head = place.slot
        var slot = head
        var i: UInt32 = 0
        while i < count {
            save(PackedDescriptor(at: ring + PackedDescriptor.offset(slot)), slot)
            slot = slot &+ 1 == size ? 0 : slot &+ 1
            i &+= 1
        }
        mark(head, count: count, counter)
        setFree(slot)
    }

    private func save(_ d: PackedDescriptor, _ i: UInt32) {
        let e = entry(i)
        CPlat_store16_relaxed(e + PackedState.id, d.id)
        CPlat_store16_relaxed(e + PackedState.flags, d.flags)
        CPlat_store32_relaxed(e + PackedState.length, d.length)
        CPlat_store64_relaxed(e + PackedState.address, d.address)
    }

    private func mark(_ head: UInt32, count: UInt32, _ counter: UInt64) {
        let e = entry(head)
        CPlat_store16_relaxed(e + PackedState.num, UInt16(truncatingIfNeeded: count))
        CPlat_store16_relaxed(e + PackedState.last, UInt16(truncatingIfNeeded: (head &+ count &- 1) % size))
        CPlat_store64_release(e + Self.counterOffset, counter)
        setInflight(head, true)
    }

    /// Chains were put back into the ring: the next one will be taken here.
    func putBack(_ place: PackedCursor) { setFree(place.slot) }

    /// The driver is about to be told that what lies from `old` up to `new` was used. Until it is, whoever comes after
    /// a crash takes none of it for done; from then on, all (its entries head the list of free ones).
    func publishing(from old: PackedCursor, to new: PackedCursor) {
        if old.slot == new.slot && old.wrap == new.wrap { return }
        setNext((new.slot &+ size &- 1) % size, UInt32(CPlat_load16_relaxed(base + PackedState.oldFreeHead)))
        CPlat_store16_release(base + PackedState.freeHead, UInt16(truncatingIfNeeded: old.slot))
        setUsed(new: new, old: old)
    }

    /// It was told of the chain at this place.
    @inline(__always)
    func left(_ place: PackedCursor) { setInflight(place.slot, false) }

    /// It was told of all up to `new`.
    func published(to new: PackedCursor) {
        setNext((new.slot &+ size &- 1) % size, new.slot)
        CPlat_store16_release(
            base + PackedState.freeHead, CPlat_load16_relaxed(base + PackedState.oldFreeHead))
        setUsed(new: new, old: new)
    }

    /// After a crash: where the ring was used up to, and the chains to be taken again, in their order. Nil: what stands
    /// there cannot be.
    func resumePacked(_ ring: UnsafeMutableRawPointer, takesAgain: Bool) -> PackedResumption? {
        let word = CPlat_load64_relaxed(base + PackedState.used)
        var new = PackedCursor(slot: UInt32(word & 0xffff), wrap: word >> 32 & 0xff == 1)
        let old = PackedCursor(slot: UInt32(word >> 16 & 0xffff), wrap: word >> 40 & 0xff == 1)
        guard new.slot < size, old.slot < size else { return nil }
        let oldFree = UInt32(CPlat_load16_relaxed(base + PackedState.oldFreeHead))
        if new.slot != old.slot || new.wrap != old.wrap {
            let flags = CPlat_load16_acquire(ring + PackedDescriptor.offset(old.slot) + PackedDescriptor.flagsOffset)
            if flags & DescriptorFlag.owner == old.availableBits {
                new = old
            } else {
                forgetFreed(upTo: oldFree)
            }
        }
        var (heads, counter) = inflight()
        if !takesAgain {
            heads = []
            new = finishBatch(ring, new)
        }
        var chains: [SavedChain] = []
        var slots: UInt32 = 0
        var isInPlace = true
        for head in heads {
            guard let chain = saved(head) else { return nil }
            isInPlace = isInPlace && head == (new.slot &+ slots) % size && isConsecutive(head, chain.descriptors.count)
            slots &+= UInt32(chain.descriptors.count)
            guard slots <= size else { return nil }
            chains.append(chain)
        }
        var next = new
        next.advance(next.goRound(slots, size), size)
        if !isInPlace || !takesAgain { layOut(chains, at: new, counter &- UInt64(chains.count)) }
        // All are in place now; a link may be left that a crash kept `publishing` from using.
        for i in 0..<size { setNext(i, (i &+ 1) % size) }
        restore(ring, chains, at: new)
        setFree(next.slot)
        setUsed(new: new, old: new)
        return PackedResumption(used: new, available: next, chains: chains, counter: counter)
    }

    /// A batch whose first descriptor was not written: the others bear the marks of used ones, and would be taken for
    /// it as soon as one before them is used. The driver does not look there yet.
    private func restore(_ ring: UnsafeMutableRawPointer, _ chains: [SavedChain], at place: PackedCursor) {
        var at = place
        for d in chains.lazy.flatMap(\.descriptors) {
            let to = ring + PackedDescriptor.offset(at.slot)
            let flags = CPlat_load16_relaxed(to + PackedDescriptor.flagsOffset)
            if flags & DescriptorFlag.owner != at.availableBits {
                let saved = d.flags & ~DescriptorFlag.owner | at.availableBits
                CPlat_store64_relaxed(to, d.address)
                CPlat_store64_release(
                    to + PackedDescriptor.wordOffset, PackedDescriptor.word(d.length, d.id, saved))
            }
            at.advance(1, size)
        }
    }

    /// Receive rings: a batch that was used all but its first descriptor is made visible, as `PackedTrace` does it.
    private func finishBatch(_ ring: UnsafeMutableRawPointer, _ first: PackedCursor) -> PackedCursor {
        let head = PackedDescriptor(at: ring + PackedDescriptor.offset(first.slot))
        guard head.flags & (DescriptorFlag.owner | DescriptorFlag.next) == first.availableBits else { return first }
        var end = first
        var left = size
        repeat {
            end.advance(1, size)
            left &-= 1
            let flags = CPlat_load16_acquire(ring + PackedDescriptor.offset(end.slot) + PackedDescriptor.flagsOffset)
            if flags & DescriptorFlag.owner != end.usedBits { break }
        } while left > 1
        var second = first
        second.advance(1, size)
        if end.slot == second.slot { return first }
        PackedDescriptor.useEmpty(ring, first, id: head.id)
        return end
    }

    /// The last batch: what was put at the head of the list of free entries.
    private func forgetFreed(upTo oldFree: UInt32) {
        var at = UInt32(CPlat_load16_relaxed(base + PackedState.freeHead))
        var left = size
        // At least one: a batch of the whole ring ends where it begins.
        while at < size && left > 0 {
            setInflight(at, false)
            at = next(at)
            left &-= 1
            if at == oldFree { return }
        }
    }

    /// Whether a chain's entries follow each other, as its slots do.
    private func isConsecutive(_ head: UInt32, _ count: Int) -> Bool {
        (1..<count).allSatisfy { next((head &+ UInt32($0) &- 1) % size) == (head &+ UInt32($0)) % size }
    }

    private func saved(_ head: UInt32) -> SavedChain? {
        let count = UInt32(CPlat_load16_relaxed(entry(head) + PackedState.num))
        guard count >= 1, count <= size else { return nil }
        var descriptors: [PackedDescriptor] = []
        var at = head
        for _ in 0..<count {
            guard at < size else { return nil }
            let e = entry(at)
            descriptors.append(
                PackedDescriptor(
                    CPlat_load64_relaxed(e + PackedState.address),
                    PackedDescriptor.word(
                        CPlat_load32_relaxed(e + PackedState.length), CPlat_load16_relaxed(e + PackedState.id),
                        CPlat_load16_relaxed(e + PackedState.flags))))
            at = next(at)
        }
        return SavedChain(descriptors: descriptors, id: descriptors[descriptors.count - 1].id)
    }

    /// Another back-end's entries as ours would be: each chain at its slots.
    private func layOut(_ chains: [SavedChain], at place: PackedCursor, _ first: UInt64) {
        forgetAll()
        var slot = place.slot
        for (i, chain) in chains.enumerated() {
            let head = slot
            for d in chain.descriptors {
                save(d, slot)
                setNext(slot, (slot &+ 1) % size)
                slot = (slot &+ 1) % size
            }
            mark(head, count: UInt32(chain.descriptors.count), first &+ UInt64(i))
        }
    }
}

/// Where a packed ring goes on.
struct PackedResumption {
    var used: PackedCursor
    var available: PackedCursor
    var chains: [SavedChain]
    var counter: UInt64
}
