import CPlatform

// Notifications of the driver side: virtio 1.3 sections 2.7.7, 2.7.10, 2.8.10 and 2.9.
extension DriverQueue {
    /// Whether the device wants a kick for what `publish()` has shown since the last call.
    @inlinable @inline(__always)
    public mutating func needsKick() -> Bool { isPacked ? needsKickPacked() : needsKickSplit() }

    @usableFromInline @inline(never)
    mutating func needsKickSplit() -> Bool {
        let (old, new) = (kicked, published)
        if isStopped || old == new { return false }
        kicked = new
        // Full: the index must be visible before the device's wish is read (2.7.13.4.1).
        CPlat_fence_full()
        if hasEventIndex {
            let event = CPlat_load16_relaxed(deviceArea + 4 + Int(size) &* 8)
            return DriverQueue.passes(event, new, old)
        }
        return CPlat_load16_relaxed(deviceArea) & SplitRingFlag.noNotify == 0
    }

    @usableFromInline @inline(never)
    mutating func needsKickPacked() -> Bool {
        let count = shown
        if isStopped || count == 0 { return false }
        shown = 0
        // Full: the descriptors must be visible before the device's wish is read (2.8.21.3.1).
        CPlat_fence_full()
        let wish = EventSuppression(rawValue: CPlat_load32_relaxed(deviceArea))
        if wish.flags != EventSuppression.flagsDesc { return wish.flags != EventSuppression.flagsDisable }
        if !hasEventIndex { return true }
        // Positions of this lap count from 0, those of the last one are negative. What was added but
        // not yet published moves `available` ahead of what the device was shown.
        let new = UInt16(truncatingIfNeeded: Int(available) &- Int(heldDescriptors))
        var event = wish.slot
        if wish.wrap != availableWrap { event = event &- UInt16(truncatingIfNeeded: size) }
        return DriverQueue.passes(event, new, new &- UInt16(truncatingIfNeeded: count))
    }

    /// The event lies among the entries [old, new): `vring_need_event` of 2.7.10.
    @inline(__always)
    static func passes(_ event: UInt16, _ new: UInt16, _ old: UInt16) -> Bool { new &- event &- 1 < new &- old }

    /// Asks for a call at the next used chain.
    ///
    /// - Returns: true when there is something to reclaim already: the call may never come, so reclaim
    ///   instead of sleeping. Also true when the queue is stopped.
    public mutating func armCalls() -> Bool {
        if isStopped { return true }
        if isPacked {
            // RING_EVENT_FLAGS_DESC needs EVENT_IDX; one store, so never half of it (2.8.10).
            let wish: EventSuppression = hasEventIndex ? .desc(used, usedWrap) : .enable
            CPlat_store32_relaxed(driverArea, wish.rawValue)
        } else if hasEventIndex {
            CPlat_store16_relaxed(driverArea + 4 + Int(size) &* 2, used)
        } else {
            CPlat_store16_relaxed(driverArea, 0)
        }
        // Full: the wish must be visible before the ring is looked at again (2.7.7.1, 2.8.10).
        CPlat_fence_full()
        return hasUsed
    }

    /// Asks for no calls. With EVENT_IDX a split ring can only put the event far away (2.7.7): a call
    /// comes after 32768 chains unless this is called again.
    public mutating func suppressCalls() {
        if isPacked {
            CPlat_store32_relaxed(driverArea, EventSuppression.disable.rawValue)
        } else if hasEventIndex {
            CPlat_store16_relaxed(driverArea + 4 + Int(size) &* 2, used &+ (1 << 15))
        } else {
            CPlat_store16_relaxed(driverArea, SplitRingFlag.noInterrupt)
        }
    }

    /// Whether `reclaim` has something to do.
    public var hasUsed: Bool {
        if inBatch { return true }
        if isPacked {
            // Acquire: as in `reclaim`, for callers that look at the buffers first.
            return DriverQueue.isUsed(CPlat_load16_acquire(descriptors + Int(used) &* 16 + 14), usedWrap)
        }
        return CPlat_load16_acquire(deviceArea + 2) != used
    }

    /// What a kick carries with NOTIFICATION_DATA (2.9, 4.1.5.2): queue index in bits 0–15, where the
    /// next available entry will be in bits 16–30, and in bit 31 its wrap counter (packed) or bit 15
    /// of the available index (split).
    public func notificationData(queueIndex: UInt16) -> UInt32 {
        guard isPacked else { return UInt32(queueIndex) | UInt32(published) << 16 }
        var (next, wrap) = (Int(available) - Int(heldDescriptors), availableWrap)
        if next < 0 {
            next += Int(size)
            wrap.toggle()
        }
        return UInt32(queueIndex) | UInt32(PackedOffset.word(UInt16(next), wrap)) << 16
    }
}
