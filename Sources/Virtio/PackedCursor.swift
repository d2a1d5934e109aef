/// A place in a packed ring: slot and wrap counter (2.8.1).
struct PackedCursor: BitwiseCopyable {
    var slot: UInt32
    var wrap: Bool

    @inline(__always)
    mutating func advance(_ n: UInt32, _ size: UInt32) {
        slot &+= n
        if slot >= size {
            slot &-= size
            wrap = !wrap
        }
    }

    /// The whole laps that `n` slots are; returns the slots that are left. A driver can make descriptors available
    /// again while a burst is taken, so what a burst took may add up to more than the ring.
    @inline(__always)
    mutating func goRound(_ n: UInt32, _ size: UInt32) -> UInt32 {
        var left = n
        while left >= size {
            left &-= size
            wrap = !wrap
        }
        return left
    }

    /// AVAIL and USED bits of a descriptor that is available here.
    @inline(__always)
    var availableBits: UInt16 { wrap ? DescriptorFlag.available : DescriptorFlag.used }

    /// AVAIL and USED bits of a descriptor that the device marks used here.
    @inline(__always)
    var usedBits: UInt16 { wrap ? DescriptorFlag.owner : 0 }
}
