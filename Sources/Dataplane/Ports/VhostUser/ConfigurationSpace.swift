import Virtio

/// `struct virtio_net_config` (virtio 1.3, 5.1.4), as far as the device side offers it.
struct ConfigurationSpace {
    private(set) var bytes = [UInt8](repeating: 0, count: 24)
    static let linkUp: UInt16 = 1
    static let announce: UInt16 = 2

    init(_ options: PortOptions) {
        for (i, byte) in (options.mac ?? []).prefix(6).enumerated() { bytes[i] = byte }
        store16(6, ConfigurationSpace.linkUp)
        store16(8, UInt16(options.queuePairs))
        store16(10, options.mtu ?? 1500)
        // speed and duplex: not known
        for i in 12..<17 { bytes[i] = 0xff }
    }

    var mac: [UInt8] {
        get { Array(bytes[0..<6]) }
        set { for (i, byte) in newValue.prefix(6).enumerated() { bytes[i] = byte } }
    }

    var mtu: UInt16 {
        get { UInt16(bytes[10]) | UInt16(bytes[11]) << 8 }
        set { store16(10, newValue) }
    }

    var status: UInt16 {
        get { UInt16(bytes[6]) | UInt16(bytes[7]) << 8 }
        set { store16(6, newValue) }
    }

    /// Nil if any byte lies outside. The part behind what is offered reads as zeroes.
    func read(offset: Int, size: Int) -> [UInt8]? {
        guard offset >= 0, size >= 0, offset <= 256, size <= 256, offset + size <= 256 else { return nil }
        return (offset..<offset + size).map { $0 < bytes.count ? bytes[$0] : 0 }
    }

    private mutating func store16(_ offset: Int, _ value: UInt16) {
        bytes[offset] = UInt8(truncatingIfNeeded: value)
        bytes[offset + 1] = UInt8(truncatingIfNeeded: value >> 8)
    }
}
