import Memory

/// One of the driver's rings, as it is handed to the back-end.
public struct VhostRing: Sendable {
    /// Descriptors.
    public var size: UInt32
    /// The format: packed (virtio 1.3, 2.8) or split (2.7).
    public var isPacked: Bool
    /// Where it stands, in the form of SET_VRING_BASE (see `RingPosition`).
    public var base: UInt32
    /// Addresses in this process, inside one of the regions. No `descriptors` (0): the driver has not set this ring up.
    public var descriptors: UInt64
    /// Split: available ring. Packed: driver event suppression.
    public var driverArea: UInt64
    /// Split: used ring. Packed: device event suppression.
    public var deviceArea: UInt64
    /// Written by the driver.
    public var kick: OwnedDescriptor
    /// Written by the back-end.
    public var call: OwnedDescriptor

    /// A ring as it lies in memory. Both descriptors stay open until the device stops.
    public init(
        size: UInt32, isPacked: Bool, base: UInt32, descriptors: UInt64, driverArea: UInt64, deviceArea: UInt64,
        kick: OwnedDescriptor,
        call: OwnedDescriptor
    ) {
        self.size = size
        self.isPacked = isPacked
        self.base = base
        self.descriptors = descriptors
        self.driverArea = driverArea
        self.deviceArea = deviceArea
        self.kick = kick
        self.call = call
    }

    var isReady: Bool { descriptors != 0 }
}
