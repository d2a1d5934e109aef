import CPlatform

// The driver side of a packed ring, virtio 1.3 section 2.8.
extension DriverQueue {
    @usableFromInline @inline(never)
    mutating func addPacked(
        _ readable: UnsafePointer<Segment>?, _ r: Int, _ writable: UnsafePointer<Segment>?, _ w: Int,
        _ token: UInt32, _ wantsIndirect: Bool
    ) -> Bool {
        let n = r &+ w
        if isStopped || n <= 0 || n > Int(size) || free == 0 { return false }
        let isIndirect = wantsIndirect && n <= indirectLength
        let count = isIndirect ? 1 : n
        if count > Int(free) { return false }

        let id = freeIDs[Int(freeRead & freeMask)]
        freeRead = freeRead &+ 1
        let headSlot = available
        var headWord: UInt64 = 0
        var room: UInt64 = 0
        var (slot, wrap) = (available, availableWrap)
        if isIndirect {
            room = fillIndirect(id, readable, r, writable, w)
            let flags = DriverQueue.availableBits(wrap) | DescriptorFlag.indirect
            headWord = PackedDescriptor.word(UInt32(truncatingIfNeeded: n &* 16), id, flags)
            (descriptors + Int(slot) &* 16).storeBytes(of: address(indirectTable(id)), as: UInt64.self)
            advance(&slot, &wrap)
        } else {
            var i = 0
            while i < n {
                let isWritable = i >= r
                let s = isWritable ? writable.unsafelyUnwrapped[i &- r] : readable.unsafelyUnwrapped[i]
                if isWritable { room &+= UInt64(s.length) }
                var flags = DriverQueue.availableBits(wrap)
                if isWritable { flags |= DescriptorFlag.write }
                if i &+ 1 < n { flags |= DescriptorFlag.next }
                let word = PackedDescriptor.word(s.length, id, flags)
                let at = descriptors + Int(slot) &* 16
                at.storeBytes(of: address(s.base), as: UInt64.self)
                // The head goes last: it is what makes the chain available.
                if i == 0 { headWord = word } else { CPlat_store64_relaxed(at + 8, word) }
                advance(&slot, &wrap)
                i &+= 1
            }
        }
        show(headSlot, headWord, UInt32(truncatingIfNeeded: count))
        chains[Int(id)] = DriverChain(
            token: token, writable: UInt32(truncatingIfNeeded: min(room, UInt64(UInt32.max))),
            count: UInt16(truncatingIfNeeded: count), next: 0)
        (available, availableWrap) = (slot, wrap)
        free &-= UInt32(truncatingIfNeeded: count)
        outstanding &+= 1
        return true
    }

    @usableFromInline @inline(never)
    mutating func addSinglesPacked(_ buffers: UnsafePointer<DriverBuffer>, _ wanted: Int, _ isWritable: Bool) -> Int {
        let n = isStopped ? 0 : min(wanted, Int(free))
        if n <= 0 { return 0 }
        let (ring, size, ids, idMask) = (descriptors, UInt16(truncatingIfNeeded: self.size), freeIDs, freeMask)
        let (chains, delta) = (self.chains, self.delta)
        var (slot, wrap, read) = (available, availableWrap, freeRead)
        let kind = isWritable ? DescriptorFlag.write : 0
        var flags = DriverQueue.availableBits(wrap) | kind
        var (heldSlot, heldWord) = (self.heldSlot, self.heldWord)
        var i = 0
        while i < n {
            let id = ids[Int(read & idMask)]
            let b = buffers[i]
            let at = ring + Int(slot) &* 16
            let word = PackedDescriptor.word(b.length, id, flags)
            at.storeBytes(of: UInt64(UInt(bitPattern: b.base)) &+ delta, as: UInt64.self)
            if heldWord == 0 {
                (heldSlot, heldWord) = (slot, word)
            } else {
                // Release: the address before the flags (2.8.21.1); unseen anyhow behind the held head.
                CPlat_store64_release(at + 8, word)
            }
            chains[Int(id)] = DriverChain(token: b.token, writable: isWritable ? b.length : 0, count: 1, next: 0)
            read = read &+ 1
            slot = slot &+ 1
            if slot == size {
                slot = 0
                wrap = !wrap
                flags = DriverQueue.availableBits(wrap) | kind
            }
            i &+= 1
        }
        (available, availableWrap, freeRead) = (slot, wrap, read)
        (self.heldSlot, self.heldWord) = (heldSlot, heldWord)
        heldDescriptors &+= UInt32(truncatingIfNeeded: n)
        heldChains &+= UInt32(truncatingIfNeeded: n)
        free &-= UInt32(truncatingIfNeeded: n)
        outstanding &+= UInt32(truncatingIfNeeded: n)
        return n
    }

    /// Makes a chain available behind the one that is held back, or holds it back itself.
    @inline(__always)
    mutating func show(_ slot: UInt16, _ word: UInt64, _ count: UInt32) {
        heldDescriptors &+= count
        heldChains &+= 1
        if heldWord == 0 {
            (heldSlot, heldWord) = (slot, word)
        } else {
            // Release: the chain's other descriptors before the head's flags (2.8.21.1).
            CPlat_store64_release(descriptors + Int(slot) &* 16 + 8, word)
        }
    }

    @usableFromInline
    mutating func publishPacked() {
        if isStopped || heldWord == 0 { return }
        // Release: everything of the burst before the flags of its first descriptor (2.8.21.1).
        CPlat_store64_release(descriptors + Int(heldSlot) &* 16 + 8, heldWord)
        heldWord = 0
        shown = min(shown &+ heldDescriptors, size)
        (heldDescriptors, heldChains) = (0, 0)
    }

    /// Whether flags say that the device has used a descriptor of the lap `wrap` (2.8.1).
    @inline(__always)
    static func isUsed(_ flags: UInt16, _ wrap: Bool) -> Bool {
        return flags & DescriptorFlag.owner == (wrap ? DescriptorFlag.owner : 0)
    }

    @usableFromInline @inline(never)
    mutating func reclaimPacked(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if isStopped { return 0 }
        let (ring, size, chains) = (descriptors, self.size, self.chains)
        let (ids, idMask) = (freeIDs, freeMask)
        var (slot, wrap, write, freed) = (UInt32(used), usedWrap, freeWrite, free)
        let shownChains = Int(outstanding &- heldChains)
        var n = 0
        while n < max {
            let at = ring + Int(slot) &* 16
            // Acquire: id, length and the buffer's contents after the flags that show them (2.8.6).
            let flags = CPlat_load16_acquire(at + 14)
            if !DriverQueue.isUsed(flags, wrap) { break }
            let id = CPlat_load16_relaxed(at + 12)
            // Without WRITE the length is reserved (2.8.5).
            let length = flags & DescriptorFlag.write != 0 ? CPlat_load32_relaxed(at + 8) : 0
            if id >= size || chains[Int(id)].count == 0 || n == shownChains {
                stop(.usedID, index: slot, value: UInt64(id))
                break
            }
            let chain = chains[Int(id)]
            if length > chain.writable {
                stop(.usedLength, index: slot, value: UInt64(length))
                break
            }
            out[n] = DriverCompletion(token: chain.token, length: length)
            chains[Int(id)].count = 0
            ids[Int(write & idMask)] = id
            write = write &+ 1
            freed &+= UInt32(chain.count)
            slot &+= UInt32(chain.count)
            if slot >= size {
                slot &-= size
                wrap = !wrap
            }
            n &+= 1
        }
        if n == 0 { return 0 }
        (used, usedWrap, freeWrite, free) = (UInt16(truncatingIfNeeded: slot), wrap, write, freed)
        outstanding &-= UInt32(truncatingIfNeeded: n)
        return n
    }

    /// IN_ORDER: one used descriptor can stand for a batch, which ends with the buffer that it names
    /// and whose other buffers count as used completely; the next one follows behind the batch (2.8.7).
    @usableFromInline @inline(never)
    mutating func reclaimPackedInOrder(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if isStopped { return 0 }
        let shownChains = Int(outstanding &- heldChains)
        var n = 0
        while n < max {
            if !inBatch {
                let at = descriptors + Int(used) &* 16
                // Acquire: id, length and the buffer's contents after the flags that show them (2.8.6).
                let flags = CPlat_load16_acquire(at + 14)
                if !DriverQueue.isUsed(flags, usedWrap) { break }
                let id = CPlat_load16_relaxed(at + 12)
                let length = flags & DescriptorFlag.write != 0 ? CPlat_load32_relaxed(at + 8) : 0
                if !beginBatch(UInt32(id), length) { break }
            }
            if n == shownChains {
                // The batch reaches beyond what the device was shown.
                stop(.usedID, index: UInt32(used), value: UInt64(batchLast))
                break
            }
            let id = oldest
            out[n] = completeOldest()
            let count = UInt32(chains[Int(id)].count)
            chains[Int(id)].count = 0
            freeIDs[Int(freeWrite & freeMask)] = id
            freeWrite = freeWrite &+ 1
            oldest = UInt32(id) &+ 1 == size ? 0 : id &+ 1
            free &+= count
            var slot = UInt32(used) &+ count
            if slot >= size {
                slot &-= size
                usedWrap = !usedWrap
            }
            used = UInt16(truncatingIfNeeded: slot)
            n &+= 1
        }
        outstanding &-= UInt32(truncatingIfNeeded: n)
        return n
    }

    @inline(__always)
    static func availableBits(_ wrap: Bool) -> UInt16 { wrap ? DescriptorFlag.available : DescriptorFlag.used }

    @inline(__always)
    func advance(_ slot: inout UInt16, _ wrap: inout Bool) {
        slot = slot &+ 1
        if UInt32(slot) == size {
            slot = 0
            wrap = !wrap
        }
    }
}
