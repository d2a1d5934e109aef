import Virtio

/// `struct virtio_net_config` (virtio 1.3, 5.1.4), as far as the device side offers it.
struct ConfigurationSpace {
    var bytes = [UInt8](repeating: 0, count: NetConfig.bytes)

    init(_ options: PortOptions) {
        for (i, byte) in (options.mac ?? []).prefix(6).enumerated() { bytes[i] = byte }
        store16(NetConfig.status, NetConfig.linkUp)
        store16(NetConfig.maxVirtqueuePairs, UInt16(options.queuePairs))
        store16(NetConfig.mtu, options.mtu ?? 1500)
        for i in NetConfig.speed...NetConfig.duplex { bytes[i] = NetConfig.unknown }
    }

    var mac: [UInt8] {
        get { Array(bytes[0..<6]) }
        set { for (i, byte) in newValue.prefix(6).enumerated() { bytes[i] = byte } }
    }

    var mtu: UInt16 {
        get { load16(NetConfig.mtu) }
        set { store16(NetConfig.mtu, newValue) }
    }

    var status: UInt16 {
        get { load16(NetConfig.status) }
        set { store16(NetConfig.status, newValue) }
    }

    /// Nil if any byte lies outside. The part behind what is offered reads as zeroes.
    func read(offset: Int, size: Int) -> [UInt8]? {
        guard offset >= 0, size >= 0, offset <= 256, size <= 256, offset + size <= 256 else { return nil }
        return (offset..<offset + size).map { $0 < bytes.count ? bytes[$0] : 0 }
    }

    private func load16(_ offset: Int) -> UInt16 { UInt16(bytes[offset]) | UInt16(bytes[offset + 1]) << 8 }

    private mutating func store16(_ offset: Int, _ value: UInt16) {
        bytes[offset] = UInt8(truncatingIfNeeded: value)
        bytes[offset + 1] = UInt8(truncatingIfNeeded: value >> 8)
    }
}
