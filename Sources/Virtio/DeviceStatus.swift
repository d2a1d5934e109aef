/// Bits of the device status field (virtio 1.3, 2.1).
public struct DeviceStatus: OptionSet, Sendable, Hashable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let acknowledge = DeviceStatus(rawValue: 1)
    public static let driver = DeviceStatus(rawValue: 2)
    public static let driverOK = DeviceStatus(rawValue: 4)
    public static let featuresOK = DeviceStatus(rawValue: 8)
    public static let deviceNeedsReset = DeviceStatus(rawValue: 64)
    public static let failed = DeviceStatus(rawValue: 128)
    /// No bit: the device is reset.
    public static let reset: DeviceStatus = []
}

/// `struct virtio_net_config` (5.1.4): where its fields lie, in bytes, and the bits of `status`.
public enum NetConfig {
    public static let mac = 0
    public static let status = 6
    public static let maxVirtqueuePairs = 8
    public static let mtu = 10
    public static let speed = 12
    public static let duplex = 16
    /// Bytes up to `supported_hash_types`.
    public static let bytes = 24

    /// VIRTIO_NET_S_LINK_UP
    public static let linkUp: UInt16 = 1
    /// VIRTIO_NET_S_ANNOUNCE
    public static let announce: UInt16 = 2
    /// `speed` and `duplex` that are not known: all bits.
    public static let unknown: UInt8 = 0xff
}
