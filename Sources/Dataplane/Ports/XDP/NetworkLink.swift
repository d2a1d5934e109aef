import CPlatform
import Glibc
import Memory

/// What the kernel says of a network interface. For control threads.
struct NetworkLink: Equatable {
    let name: String
    let index: Int32
    /// It was set up (`ip link set NAME up`), and the other end of its cable is there.
    let isUp, hasCarrier: Bool
    let isEthernet: Bool
    /// Its driver takes VLAN tags off, which nobody sees then.
    let stripsTags: Bool
    let mtu: Int
    /// Receive queues; 0: its driver does not say.
    let queues: Int
    let address: [UInt8]

    /// Nil where there is no interface of this name.
    init?(_ name: String) throws(EngineError) {
        var link = CPlat_link()
        let code = CPlat_link_read(name, &link)
        if code == ENODEV || code == ENXIO { return nil }
        if code != 0 { throw EngineError("interface \(name): \(SystemError.text(code))") }
        self.name = name
        index = link.index
        (isUp, hasCarrier, isEthernet) = (link.is_up, link.has_carrier, link.is_ethernet)
        (stripsTags, mtu, queues) = (link.strips_tags, Int(link.mtu), Int(link.queues))
        address = withUnsafeBytes(of: link.address) { Array($0) }
    }

    /// Bytes of the longest frame that it sends: as the kernel's bridge has it, with room for one VLAN tag.
    var longestFrame: UInt32 { UInt32(clamping: mtu + 14 + 4) }
    /// Its frames may be longer than what drivers put into a page that XDP sees.
    var needsPieces: Bool { mtu > 3000 }

    /// The NUMA node of its device; -1: it has none, or it is not known.
    var node: Int {
        // /sys may be another network namespace's.
        let place = "/sys/class/net/\(name)/"
        guard NetworkLink.number(place + "ifindex") == Int(index) else { return -1 }
        return NetworkLink.number(place + "device/numa_node") ?? -1
    }

    private static func number(_ path: String) -> Int? {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        if file < 0 { return nil }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 32)
        let count = read(file, &bytes, bytes.count)
        return Int(String(decoding: bytes.prefix(max(0, count)).prefix { $0 > 32 }, as: UTF8.self))
    }
}
