/// Bits of the device status field (virtio 1.3, 2.1).
public struct DeviceStatus: OptionSet, Sendable, Hashable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// ACKNOWLEDGE: the guest has found the device.
    public static let acknowledge = DeviceStatus(rawValue: 1)
    /// DRIVER: the guest knows how to drive it.
    public static let driver = DeviceStatus(rawValue: 2)
    /// DRIVER_OK: the driver is set up; the device may use its rings.
    public static let driverOK = DeviceStatus(rawValue: 4)
    /// FEATURES_OK: the features are chosen. The device leaves it out where it does not accept them.
    public static let featuresOK = DeviceStatus(rawValue: 8)
    /// DEVICE_NEEDS_RESET: set by the device, which met an error that only a reset ends.
    public static let deviceNeedsReset = DeviceStatus(rawValue: 64)
    /// FAILED: the guest has given the device up.
    public static let failed = DeviceStatus(rawValue: 128)
    /// No bit: the device is reset.
    public static let reset: DeviceStatus = []
}

/// `struct virtio_net_config` (5.1.4): where its fields lie, in bytes, and the bits of `status`.
public enum NetConfig {
    /// `mac`, 6 bytes; valid with VIRTIO_NET_F_MAC.
    public static let mac = 0
    /// `status`, 16 bits (`linkUp`, `announce`); there with VIRTIO_NET_F_STATUS.
    public static let status = 6
    /// `max_virtqueue_pairs`, 16 bits; there with VIRTIO_NET_F_MQ or _RSS.
    public static let maxVirtqueuePairs = 8
    /// `mtu`, 16 bits: 68…65535; there with VIRTIO_NET_F_MTU.
    public static let mtu = 10
    /// `speed`, 32 bits, in Mbit/s; there with VIRTIO_NET_F_SPEED_DUPLEX.
    public static let speed = 12
    /// `duplex`, a byte: 0 half, 1 full; there with VIRTIO_NET_F_SPEED_DUPLEX.
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
