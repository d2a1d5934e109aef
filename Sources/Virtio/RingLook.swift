import CPlatform

/// What a device-side ring shows to somebody who looks after it: nothing is taken, and nothing is written. What the
/// driver writes can be anything, so nothing may depend on it but what people are told.
package struct RingLook: BitwiseCopyable, Sendable {
    /// Whether the driver waits to be called for what was used.
    package enum Wish: UInt8, Sendable, BitwiseCopyable {
        /// Without EVENT_IDX: at each used entry. Whether it has looked since the last one, the ring does not tell.
        case always
        /// With EVENT_IDX: at a used entry that is still to come. So it has looked since the last call.
        case ahead
        /// With EVENT_IDX: at one that has been used. So it has not looked since.
        case overdue
        /// Never.
        case suppressed
    }

    /// Entries (split) or descriptors (packed) that were made available and not taken, at most the ring's size.
    package var available: Int
    package var wish: Wish

    package init(available: Int, wish: Wish) { (self.available, self.wish) = (available, wish) }
}

extension SplitQueue {
    package var look: RingLook {
        let shown = CPlat_load16_relaxed(core.driverArea + SplitRing.index)
        return RingLook(available: min(Int(shown &- nextAvail), Int(size)), wish: wish)
    }

    private var wish: RingLook.Wish {
        if !core.hasEventIdx {
            let flags = CPlat_load16_relaxed(core.driverArea + SplitRing.flags)
            return flags & SplitRingFlag.noInterrupt == 0 ? .always : .suppressed
        }
        let event = CPlat_load16_relaxed(core.driverArea + SplitRing.usedEvent(size))
        // The call is due when the entry at `event` has been used (2.7.7.2).
        let behind = usedIndex &- event
        if behind != 0 && behind <= size { return .overdue }
        return 0 &- behind <= size ? .ahead : .suppressed
    }
}

extension PackedQueue {
    package var look: RingLook { RingLook(available: available, wish: wish) }

    /// Those that are available follow each other, so half of what is left can be ruled out at a time.
    private var available: Int {
        if !hasAvailable(ahead: 0) { return 0 }
        var (least, most) = (1, Int(size))
        while least < most {
            let middle = (least + most + 1) / 2
            if hasAvailable(ahead: middle - 1) { least = middle } else { most = middle - 1 }
        }
        return least
    }

    private var wish: RingLook.Wish {
        let wish = EventSuppression(rawValue: CPlat_load32_relaxed(core.driverArea))
        if wish.flags == EventSuppression.flagsDisable { return .suppressed }
        if wish.flags != EventSuppression.flagsDesc || !core.hasEventIdx { return .always }
        // Of the same lap, or else of the one before or behind (2.8.10).
        let behind = Int(nextUsed.slot) - Int(wish.slot) + (wish.wrap == nextUsed.wrap ? 0 : Int(size))
        return behind > 0 && behind <= Int(size) ? .overdue : .ahead
    }
}

extension DeviceQueue {
    package var look: RingLook {
        switch self {
        case .split(let ring): return ring.look
        case .packed(let ring): return ring.look
        }
    }
}
