import CPlatform

// The driver side of a split ring, virtio 1.3 section 2.7.
extension DriverQueue {
    @usableFromInline @inline(never)
    mutating func addSplit(
        _ readable: UnsafePointer<Segment>?, _ r: Int, _ writable: UnsafePointer<Segment>?, _ w: Int,
        _ token: UInt32, _ wantsIndirect: Bool
    ) -> Bool {
        let n = r &+ w
        if isStopped || n <= 0 || n > Int(size) || free == 0 { return false }
        let isIndirect = wantsIndirect && n <= indirectLength
        let count = isIndirect ? 1 : n
        if count > Int(free) { return false }

        var read = freeRead
        let head = freeIDs[Int(read & freeMask)]
        var room: UInt64 = 0
        if isIndirect {
            room = fillIndirect(head, readable, r, writable, w)
            SplitDescriptor.write(
                address(indirectTable(head)), UInt32(truncatingIfNeeded: n &* 16), DescriptorFlag.indirect, next: 0,
                to: descriptors + Int(head) &* 16)
            read = read &+ 1
        } else {
            var i = 0
            while i < n {
                let id = freeIDs[Int(read & freeMask)]
                read = read &+ 1
                let isWritable = i >= r
                let s = isWritable ? writable.unsafelyUnwrapped[i &- r] : readable.unsafelyUnwrapped[i]
                if isWritable { room &+= UInt64(s.length) }
                var flags = isWritable ? DescriptorFlag.write : 0
                var next: UInt16 = 0
                if i &+ 1 < n {
                    flags |= DescriptorFlag.next
                    next = freeIDs[Int(read & freeMask)]
                }
                SplitDescriptor.write(address(s.base), s.length, flags, next: next, to: descriptors + Int(id) &* 16)
                chains[Int(id)].next = next
                i &+= 1
            }
        }
        freeRead = read
        chains[Int(head)].token = token
        chains[Int(head)].writable = UInt32(truncatingIfNeeded: min(room, UInt64(UInt32.max)))
        chains[Int(head)].count = UInt16(truncatingIfNeeded: count)
        let entry = driverArea + 4 + Int(available & UInt16(truncatingIfNeeded: size &- 1)) &* 2
        entry.storeBytes(of: head, as: UInt16.self)
        available = available &+ 1
        free &-= UInt32(truncatingIfNeeded: count)
        outstanding &+= 1
        return true
    }

    @usableFromInline @inline(never)
    mutating func addSinglesSplit(_ buffers: UnsafePointer<DriverBuffer>, _ wanted: Int, _ isWritable: Bool) -> Int {
        let n = isStopped ? 0 : min(wanted, Int(free))
        let (table, ring, mask) = (descriptors, driverArea + 4, UInt16(truncatingIfNeeded: size &- 1))
        let (ids, idMask, chains, delta) = (freeIDs, freeMask, self.chains, self.delta)
        var (read, index) = (freeRead, available)
        let flags = isWritable ? DescriptorFlag.write : 0
        var i = 0
        while i < n {
            let id = ids[Int(read & idMask)]
            let b = buffers[i]
            SplitDescriptor.write(
                UInt64(UInt(bitPattern: b.base)) &+ delta, b.length, flags, next: 0, to: table + Int(id) &* 16)
            chains[Int(id)] = DriverChain(token: b.token, writable: isWritable ? b.length : 0, count: 1, next: 0)
            let entry = ring + Int(index & mask) &* 2
            // In ring order the entry mostly holds this id since the last lap: a line that is not
            // written stays shared with the device's core.
            if CPlat_load16_relaxed(entry) != id { CPlat_store16_relaxed(entry, id) }
            read = read &+ 1
            index = index &+ 1
            i &+= 1
        }
        if n <= 0 { return 0 }
        freeRead = read
        available = index
        free &-= UInt32(truncatingIfNeeded: n)
        outstanding &+= UInt32(truncatingIfNeeded: n)
        return n
    }

    @usableFromInline
    mutating func publishSplit() {
        if isStopped || published == available { return }
        // Release: descriptors and ring entries before the index that shows them (2.7.13.3).
        CPlat_store16_release(driverArea + 2, available)
        published = available
    }

    /// Frees the descriptors of the chain at `head`, which is outstanding; returns their number.
    @inline(__always)
    mutating func freeSplit(_ head: UInt16) -> UInt32 {
        let count = chains[Int(head)].count
        chains[Int(head)].count = 0
        var id = head
        var i: UInt16 = 0
        while i < count {
            freeIDs[Int(freeWrite & freeMask)] = id
            freeWrite = freeWrite &+ 1
            id = chains[Int(id)].next
            i = i &+ 1
        }
        return UInt32(count)
    }

    @usableFromInline @inline(never)
    mutating func reclaimSplit(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if isStopped { return 0 }
        // Acquire: the used entries and the buffers' contents after the index that shows them (2.7.14).
        let index = CPlat_load16_acquire(deviceArea + 2)
        var last = used
        let ready = index &- last
        if ready == 0 { return 0 }
        if ready > published &- last {
            stop(.usedIndexJump, index: UInt32(last), value: UInt64(index))
            return 0
        }
        let n = min(Int(ready), max)
        let (ring, mask, chains, size) = (
            deviceArea + 4, UInt16(truncatingIfNeeded: self.size &- 1), self.chains, self.size
        )
        let (ids, idMask) = (freeIDs, freeMask)
        var (write, freed) = (freeWrite, free)
        var i = 0
        while i < n {
            let entry = ring + Int(last & mask) &* 8
            let id = CPlat_load32_relaxed(entry)
            let length = CPlat_load32_relaxed(entry + 4)
            if id >= size || chains[Int(id)].count == 0 {
                stop(.usedID, index: UInt32(last & mask), value: UInt64(id))
                break
            }
            let chain = chains[Int(id)]
            if length > chain.writable {
                stop(.usedLength, index: UInt32(last & mask), value: UInt64(length))
                break
            }
            out[i] = DriverCompletion(token: chain.token, length: length)
            chains[Int(id)].count = 0
            ids[Int(write & idMask)] = UInt16(truncatingIfNeeded: id)
            write = write &+ 1
            // The chain's other descriptors, by the private links.
            var (next, left) = (chain.next, chain.count &- 1)
            while left > 0 {
                ids[Int(write & idMask)] = next
                write = write &+ 1
                next = chains[Int(next)].next
                left = left &- 1
            }
            freed &+= UInt32(chain.count)
            last = last &+ 1
            i &+= 1
        }
        (freeWrite, free, used) = (write, freed, last)
        outstanding &-= UInt32(truncatingIfNeeded: i)
        return i
    }

    /// IN_ORDER: one used entry can stand for a batch, which ends with the chain that it names and
    /// whose other chains count as used completely (2.7.9). The next entry follows behind the batch.
    @usableFromInline @inline(never)
    mutating func reclaimSplitInOrder(_ out: UnsafeMutablePointer<DriverCompletion>, _ max: Int) -> Int {
        if isStopped { return 0 }
        // Acquire: the used entries and the buffers' contents after the index that shows them (2.7.14).
        let index = CPlat_load16_acquire(deviceArea + 2)
        if index &- used > published &- used {
            stop(.usedIndexJump, index: UInt32(used), value: UInt64(index))
            return 0
        }
        let mask = UInt16(truncatingIfNeeded: size &- 1)
        var n = 0
        while n < max && used != index {
            if !inBatch {
                let entry = deviceArea + 4 + Int(used & mask) &* 8
                let id = CPlat_load32_relaxed(entry)
                let length = CPlat_load32_relaxed(entry + 4)
                if !beginBatch(id, length) { break }
            }
            let head = oldest
            out[n] = completeOldest()
            let count = freeSplit(head)
            oldest = (head &+ UInt16(truncatingIfNeeded: count)) & mask
            free &+= count
            used = used &+ 1
            n &+= 1
        }
        if inBatch && used == index {
            // The batch's last chain lies beyond the used index.
            stop(.usedIndexJump, index: UInt32(used), value: UInt64(index))
        }
        outstanding &-= UInt32(truncatingIfNeeded: n)
        return n
    }

    /// Checks the used entry that ends a batch.
    @inline(__always)
    mutating func beginBatch(_ id: UInt32, _ length: UInt32) -> Bool {
        if id >= size || chains[Int(id)].count == 0 {
            stop(.usedID, index: UInt32(used), value: UInt64(id))
            return false
        }
        if length > chains[Int(id)].writable {
            stop(.usedLength, index: UInt32(used), value: UInt64(length))
            return false
        }
        inBatch = true
        batchLast = UInt16(truncatingIfNeeded: id)
        batchLength = length
        return true
    }

    /// The completion of the oldest chain of a batch; ends the batch with its last one.
    @inline(__always)
    mutating func completeOldest() -> DriverCompletion {
        let chain = chains[Int(oldest)]
        let isLast = oldest == batchLast
        if isLast { inBatch = false }
        return DriverCompletion(token: chain.token, length: isLast ? batchLength : chain.writable)
    }
}
