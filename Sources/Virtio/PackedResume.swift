import CPlatform

/// Where a packed ring goes on after a back-end that crashed. The front-end cannot know (2.8 keeps no used index), so
/// it says the beginning, where the ring was started, or where the driver stands; the ring itself tells better.
extension RingSetup {
    /// Where a packed ring goes on that is given `base`. Taken is what the front-end says, unless the ring's
    /// descriptors show that it cannot be. Nil: the driver writes descriptors just now (or this is no ring); look
    /// again.
    public func packedPosition(base: UInt32) -> RingPosition? {
        let given = RingPosition(base: base, isPacked: true)
        let trace = PackedTrace(descriptors, Int(size))
        if trace.driver == nil { return nil }
        let isInOrder = features.contains(.inOrder)
        guard let place = trace.finishBatch() ?? trace.place(given: given, isInOrder: isInOrder) else { return given }
        return RingPosition(
            available: UInt16(place.slot), used: UInt16(place.slot), availableWrap: place.wrap, usedWrap: place.wrap)
    }
}

/// What the descriptors of a packed ring tell of its past. A descriptor's AVAIL bit is that of the lap in which the
/// driver wrote it, and stays when the device uses it. So the driver stands where that bit changes; behind it lie
/// the last `size` descriptors that it made available. Of those the device has used all up to the last whose USED bit
/// is like its AVAIL bit, and perhaps the rest of that chain or batch.
private struct PackedTrace {
    /// A place counted from the beginning of a lap of wrap counter 1; the driver's is in size ..< 3 * size.
    private let ring: UnsafeMutableRawPointer
    private let size: Int
    /// Where the driver stands. Nil: it writes just now, or this is no ring.
    let driver: Int?
    /// The last descriptor behind it that is marked used.
    private let last: Int?

    init(_ ring: UnsafeMutableRawPointer, _ size: Int) {
        (self.ring, self.size) = (ring, size)
        func isAvailableSet(_ i: Int) -> Bool { PackedTrace.flags(ring, i) & DescriptorFlag.available != 0 }
        let first = isAvailableSet(0)
        var (change, changes) = (0, 0)
        for i in 1..<size where isAvailableSet(i) != isAvailableSet(i - 1) { (change, changes) = (i, changes + 1) }
        guard changes <= 1 else {
            (driver, last) = (nil, nil)
            return
        }
        // Without a change a lap is whole: the driver is at the next one's beginning.
        let wrap = changes == 0 ? !first : first
        let driver = change + (wrap ? 2 * size : size)
        self.driver = driver
        last = (driver - size..<driver).reversed().first { i in
            let bits = PackedTrace.flags(ring, i % size) & DescriptorFlag.owner
            return bits == 0 || bits == DescriptorFlag.owner
        }
    }

    private static func flags(_ ring: UnsafeMutableRawPointer, _ slot: Int) -> UInt16 {
        CPlat_load16_acquire(ring + PackedDescriptor.offset(slot) + PackedDescriptor.flagsOffset)
    }

    private func at(_ place: Int) -> UnsafeMutableRawPointer { ring + PackedDescriptor.offset(place % size) }
    private func flags(_ place: Int) -> UInt16 { PackedTrace.flags(ring, place % size) }
    private func id(_ place: Int) -> UInt16 { CPlat_load16_relaxed(at(place) + PackedDescriptor.idOffset) }
    private func length(_ place: Int) -> UInt32 { CPlat_load32_relaxed(at(place) + PackedDescriptor.lengthOffset) }
    private func isUsed(_ place: Int) -> Bool {
        let bits = flags(place) & DescriptorFlag.owner
        return bits == 0 || bits == DescriptorFlag.owner
    }
    /// Nobody has written it yet.
    private func isFresh(_ place: Int) -> Bool {
        CPlat_load64_relaxed(at(place)) == 0 && CPlat_load64_relaxed(at(place) + PackedDescriptor.wordOffset) == 0
    }

    private func cursor(_ place: Int) -> PackedCursor {
        PackedCursor(slot: UInt32(place % size), wrap: place / size % 2 == 0)
    }

    /// A batch becomes visible with its first descriptor, which is written last. A device that crashed before has used
    /// all but that one, and the driver waits for it: it is used now, with nothing in it, and the ring goes on behind
    /// the batch. (Its length is not known. A transmit ring's driver does not look at it, a receive ring's drops the
    /// packet.) Nil: there is no such batch.
    func finishBatch() -> PackedCursor? {
        guard let driver, let last else { return nil }
        let unused = (driver - size..<last).filter { !isUsed($0) }
        guard unused.count == 1, let first = unused.first, !isFresh(last) else { return nil }
        // Part of a chain or batch for which the mark before it stands.
        let before = first - 1
        // Where the driver has written over that mark already, only a receive ring can be judged (its marks have
        // WRITE): its chains have one descriptor.
        let isSkipped =
            before >= driver - size
            ? !isFresh(before) && id(before) == id(first) : flags(last) & DescriptorFlag.write == 0
        if isSkipped || flags(first) & DescriptorFlag.next != 0 { return nil }
        PackedDescriptor.useEmpty(ring, cursor(first), id: id(first))
        return cursor(last + 1)
    }

    /// Nil: what was given is to be believed.
    func place(given: RingPosition, isInOrder: Bool) -> PackedCursor? {
        guard let driver, Int(given.used) < size else { return nil }
        let isBeginning = given == RingPosition()
        // Between the driver's place and a lap before it.
        let wanted = (driver - size...driver).first {
            $0 % size == Int(given.used) && (cursor($0).wrap == given.usedWrap)
        }
        guard let last else {
            // All are outstanding, unless the mark of another device's last batch is one that the driver has written
            // over already.
            let isSure = isInOrder || (0..<size).allSatisfy { flags($0) & DescriptorFlag.next == 0 }
            let isPossible = wanted != nil && wanted != driver && !(isSure && isBeginning)
            return isPossible ? nil : cursor(driver - size)
        }
        // Never used: wherever the front-end wants to begin where nothing was made available either.
        if isFresh(last) { return driver == 2 * size && isFresh(driver) ? nil : cursor(last + 1) }
        let end = self.end(after: last, driver, isInOrder)
        let single = last + 1
        if let wanted, wanted == single || wanted == end { return nil }
        let isSingles = (driver - size..<last).allSatisfy { isUsed($0) }
        // Chains that another device used in an order of its own: it may be right, if nothing behind it is used.
        if !isInOrder && !isSingles, let wanted, wanted > last { return nil }
        return cursor(isInOrder || !isSingles ? end ?? single : single)
    }

    /// Behind the chain or batch that the descriptor at `last` stands for, if that has more than itself. Each chain
    /// ends with its id (2.8.6), and the mark holds the id of the last chain.
    private func end(after last: Int, _ driver: Int, _ isInOrder: Bool) -> Int? {
        // The end of one of our own batches, which holds how many there were. None is told of before its beginning.
        if isInOrder && flags(last) & DescriptorFlag.write == 0 && length(last) > 1 {
            let first = last + 1 - Int(length(last))
            return first >= driver - size && !isUsed(first) ? first : last + 1
        }
        let wanted = id(last)
        var i = last + 1
        while i < driver {
            let hasNext = flags(i) & DescriptorFlag.next != 0
            if !hasNext && id(i) == wanted { return i + 1 }
            if !isInOrder && !hasNext { return nil }
            i += 1
        }
        return nil
    }
}
