import CPlatform

/// Everything a device-side ring is made from. Addresses are host addresses that were checked to
/// hold the whole ring (see `RingLayout`).
public struct RingSetup {
    /// Descriptors: 2…32768; a power of two for split rings.
    public var size: UInt32
    /// The format: packed (2.8) or split (2.7).
    public var isPacked: Bool
    /// Split: descriptor table. Packed: descriptor ring.
    public var descriptors: UnsafeMutableRawPointer
    /// Split: available ring. Packed: driver event suppression.
    public var driverArea: UnsafeMutableRawPointer
    /// Split: used ring. Packed: device event suppression.
    public var deviceArea: UnsafeMutableRawPointer
    /// Where the ring goes on.
    public var position: RingPosition
    /// The features that the driver accepted.
    public var features: Features
    /// Where the addresses in descriptors lie.
    public var map: MemoryMap
    /// For the log, where guest physical memory lies, if `map` has addresses of an IOTLB.
    public var memory: MemoryMap?
    /// Where what the device writes is written down while the guest migrates; nil: nowhere.
    public var log: DirtyLog?
    /// Where, for the log, the device area lies in guest physical memory (SET_VRING_ADDR), if that is not where the map
    /// says.
    public var loggedDeviceArea: UInt64?
    /// Where it stands which chains were taken and not given back; nil: nowhere.
    public var inflight: InflightQueue?
    /// Chains that stand there after a crash are taken again. (Receive rings take the ring's own entries again.)
    public var takesInflightAgain = true
    /// Where it stands when it stops: beyond what `inflight` still holds, which is for whoever comes next. False: as if
    /// that lay in the ring.
    public var leavesInflight = false
    /// Such a ring is a `RecordedRing`.
    public var isRecorded: Bool { log != nil || inflight != nil }

    /// Nothing is checked here: see `RingLayout`.
    public init(
        size: UInt32, isPacked: Bool, descriptors: UnsafeMutableRawPointer, driverArea: UnsafeMutableRawPointer,
        deviceArea: UnsafeMutableRawPointer, position: RingPosition, features: Features, map: MemoryMap
    ) {
        self.size = size
        self.isPacked = isPacked
        self.descriptors = descriptors
        self.driverArea = driverArea
        self.deviceArea = deviceArea
        self.position = position
        self.features = features
        self.map = map
    }

    /// With the map that a ring of this direction needs.
    public func of(_ direction: QueueDirection) -> RingSetup {
        var setup = self
        setup.map = map.forRing(direction)
        return setup
    }

    /// Where its parts lie, as numbers in this process's address space.
    public var addresses: (descriptors: UInt64, driverArea: UInt64, deviceArea: UInt64) {
        (
            UInt64(UInt(bitPattern: descriptors)), UInt64(UInt(bitPattern: driverArea)),
            UInt64(UInt(bitPattern: deviceArea))
        )
    }

    /// Where a split ring goes on that is given `base` as next available index. How far it was used stands in the ring
    /// itself, and whatever was taken and not used by a back-end that stopped or crashed is taken again: nobody else
    /// will. So a ring goes on at its used index, whether the front-end says 0 (DPDK's driver), the used index (QEMU)
    /// or the available index; unless that cannot be: a fresh ring says nothing, and one whose used index is more than
    /// the ring behind the driver is not ours to judge.
    public func splitPosition(base: UInt16) -> RingPosition {
        let used = CPlat_load16_relaxed(deviceArea + SplitRing.index)
        let shown = CPlat_load16_relaxed(driverArea + SplitRing.index)
        let isFresh = used == 0 && shown == 0
        let isPossible = UInt32(shown &- used) <= size
        return RingPosition(available: isPossible && !isFresh ? used : base, used: used)
    }
}

/// Sizes and alignments of the parts of a ring, virtio 1.3 sections 2.7 and 2.8.
public enum RingLayout {
    /// Descriptors of the largest ring.
    public static let maximumSize: UInt32 = 32768

    /// Whether the size is one that the format allows.
    public static func isValid(size: UInt32, isPacked: Bool) -> Bool {
        size >= 2 && size <= maximumSize && (isPacked || size & (size - 1) == 0)
    }
    /// Bytes of the descriptor table or ring of `size` descriptors.
    public static func descriptorBytes(_ size: UInt32) -> UInt64 {
        UInt64(SplitDescriptor.bytes) * UInt64(size)
    }
    /// Split: flags, idx, ring, used_event. Packed: one event suppression structure.
    public static func driverAreaBytes(_ size: UInt32, isPacked: Bool) -> UInt64 {
        UInt64(isPacked ? EventSuppression.bytes : SplitRing.usedEvent(size) + SplitRing.eventBytes)
    }
    /// Split: flags, idx, ring, avail_event. Packed: one event suppression structure.
    public static func deviceAreaBytes(_ size: UInt32, isPacked: Bool) -> UInt64 {
        UInt64(isPacked ? EventSuppression.bytes : SplitRing.availEvent(size) + SplitRing.eventBytes)
    }
    /// In bytes, of the descriptor table or ring.
    public static let descriptorAlignment: UInt64 = 16
    /// In bytes.
    public static func driverAreaAlignment(isPacked: Bool) -> UInt64 { isPacked ? 4 : 2 }
    /// In bytes.
    public static func deviceAreaAlignment(isPacked: Bool) -> UInt64 { 4 }
}
