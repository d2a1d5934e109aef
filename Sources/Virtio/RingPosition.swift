/// Where a ring stands: what GET_VRING_BASE answers and SET_VRING_BASE sets.
public struct RingPosition: Sendable, Equatable {
    /// Next available index (split, free-running) or slot (packed).
    public var available: UInt16
    /// Next used index (split, free-running) or slot (packed).
    public var used: UInt16
    /// Packed only.
    public var availableWrap: Bool
    /// Packed only.
    public var usedWrap: Bool

    /// As it says; without arguments, the start of a new ring.
    public init(available: UInt16 = 0, used: UInt16 = 0, availableWrap: Bool = true, usedWrap: Bool = true) {
        self.available = available
        self.used = used
        self.availableWrap = availableWrap
        self.usedWrap = usedWrap
    }

    /// From SET_VRING_BASE. Packed: bits 0–14 available, 15 its wrap counter, 16–30 used, 31 its wrap
    /// counter; a front-end that sends the low half only (DPDK) means used = available.
    public init(base: UInt32, isPacked: Bool) {
        if isPacked {
            let low = UInt16(truncatingIfNeeded: base)
            let high = UInt16(truncatingIfNeeded: base >> 16)
            self.init(available: low & PackedOffset.slotMask, used: 0, availableWrap: low & PackedOffset.wrapBit != 0)
            let usedHalf = high == 0 ? low : high
            used = usedHalf & PackedOffset.slotMask
            usedWrap = usedHalf & PackedOffset.wrapBit != 0
        } else {
            self.init(available: UInt16(truncatingIfNeeded: base), used: UInt16(truncatingIfNeeded: base))
        }
    }

    /// For GET_VRING_BASE.
    public func base(isPacked: Bool) -> UInt32 {
        guard isPacked else { return UInt32(available) }
        let low = UInt32(PackedOffset.word(available, availableWrap))
        let high = UInt32(PackedOffset.word(used, usedWrap))
        return low | high << 16
    }
}
