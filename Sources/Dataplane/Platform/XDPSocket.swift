import CPlatform
import Glibc
import Memory

/// An AF_XDP socket on one queue of an interface, with a UMEM of its own: frames for the receive side, then as many for
/// the transmit side. What is mapped goes with the last reference.
///
/// The kernel's interface is used as it is: four rings, four socket options and bind(2) (Documentation/networking/
/// af_xdp.rst). libxdp would add a dispatcher for several programs on one interface, and two libraries to embedders.
///
/// Nothing of it changes after `init`; what is behind it belongs to the pair's poll thread.
final class XDPSocket {
    let descriptor: OwnedDescriptor
    let memory: HostMemory
    /// Entries of each ring, and frames of each side.
    let size: Int
    let received, sent, free, done: XDPRing
    /// The driver works in the UMEM itself; else the kernel copies.
    let isZeroCopy: Bool
    /// A frame may lie in several pieces.
    let hasPieces: Bool
    /// The kernel fills checksums in where a frame says so.
    let fillsChecksums: Bool
    private let mappings: [XDPMapping]

    /// Bytes of the UMEM for each frame: the most that every kernel takes.
    static var frameBytes: Int { 4096 }
    /// Bytes before a frame that is sent, for what is to be done with it (`struct xsk_tx_metadata`, 16 bytes); a whole
    /// cache line.
    static var metadataBytes: Int { 64 }
    /// Bytes that one piece of a frame that is sent has at most.
    static var room: Int { frameBytes - metadataBytes }

    /// Makes the socket and binds it. Errors name what failed and what to do.
    /// - Parameters:
    ///   - size: a power of two.
    ///   - node: where the UMEM should lie, -1: anywhere.
    ///   - pieces: longer frames than a page come and go in several pieces (Linux 6.6).
    ///   - busyPolls: the driver is run from this socket's system calls rather than by interrupts.
    init(
        _ interface: String, index: Int32, queue: Int, size: Int, node: Int, pieces: Bool, busyPolls: Bool
    ) throws(EngineError) {
        let fd = socket(AF_XDP, Int32(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if fd < 0 { throw XDPSocket.refusal("socket(AF_XDP)", errno) }
        descriptor = OwnedDescriptor(fd)
        self.size = size
        do { memory = try HostMemory(bytes: 2 * size * XDPSocket.frameBytes, node: node, name: "ringway-xdp") } catch {
            throw EngineError("\(error)")
        }
        let knowsMetadata = try XDPSocket.register(memory, fd)
        var entries = Int32(size)
        for ring in [XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING] {
            if setsockopt(fd, SOL_XDP, ring, &entries, 4) != 0 { throw XDPSocket.refusal("a ring of \(size)", errno) }
        }
        var offsets = xdp_mmap_offsets()
        var length = socklen_t(MemoryLayout<xdp_mmap_offsets>.size)
        if getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length) != 0 {
            throw XDPSocket.refusal("XDP_MMAP_OFFSETS", errno)
        }
        var maps: [XDPMapping] = []
        func ring(_ place: Int, _ offsets: xdp_ring_offset, _ entry: Int) throws(EngineError) -> XDPRing {
            guard let map = XDPMapping(fd, place: place, bytes: Int(offsets.desc) + size * entry) else {
                throw XDPSocket.refusal("mmap of a ring", errno)
            }
            maps.append(map)
            return XDPRing(map.start, offsets, size: size)
        }
        free = try ring(0x1_0000_0000, offsets.fr, 8)
        done = try ring(0x1_8000_0000, offsets.cr, 8)
        received = try ring(0, offsets.rx, 16)
        sent = try ring(0x8000_0000, offsets.tx, 16)
        if busyPolls { try XDPSocket.setBusyPoll(fd) }
        try XDPSocket.bind(fd, interface, index, queue, pieces: pieces)
        mappings = maps
        var options = xdp_options()
        length = socklen_t(MemoryLayout<xdp_options>.size)
        _ = getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &length)
        isZeroCopy = options.flags & UInt32(XDP_OPTIONS_ZEROCOPY) != 0
        hasPieces = pieces
        // In zero-copy mode not all drivers do it, and the kernel does not do it for them.
        fillsChecksums = knowsMetadata && !isZeroCopy
    }

    /// What the kernel did not take or deliver so far: for the log.
    var losses: String? {
        var counts = xdp_statistics()
        var length = socklen_t(MemoryLayout<xdp_statistics>.size)
        if getsockopt(descriptor.fd, SOL_XDP, XDP_STATISTICS, &counts, &length) != 0 { return nil }
        let all: [(String, UInt64)] = [
            ("rx_dropped", counts.rx_dropped), ("rx_ring_full", counts.rx_ring_full),
            ("rx_fill_ring_empty", counts.rx_fill_ring_empty_descs), ("rx_invalid", counts.rx_invalid_descs),
            ("tx_invalid", counts.tx_invalid_descs),
        ]
        let some = all.filter { $0.1 > 0 }
        return some.isEmpty ? nil : some.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
    }

    /// Makes `memory` the socket's UMEM; whether frames that are sent may say more of themselves (Linux 6.8).
    private static func register(_ memory: HostMemory, _ fd: Int32) throws(EngineError) -> Bool {
        var umem = CPlat_umem_reg()
        umem.address = UInt64(UInt(bitPattern: memory.base))
        umem.bytes = UInt64(memory.size)
        umem.chunk = UInt32(frameBytes)
        for knowsMetadata in [true, false] {
            umem.flags = knowsMetadata ? UInt32(CPlat_XDP_UMEM_TX_METADATA_LEN) : 0
            umem.metadata = knowsMetadata ? UInt32(metadataBytes) : 0
            let length = socklen_t(MemoryLayout<CPlat_umem_reg>.size)
            if setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, length) == 0 { return knowsMetadata }
            if errno != EINVAL { break }
        }
        throw refusal("a UMEM of \(memory.size) bytes", errno)
    }

    /// SO_PREFER_BUSY_POLL, SO_BUSY_POLL and SO_BUSY_POLL_BUDGET (Linux 5.11), which Glibc has no names for.
    private static func setBusyPoll(_ fd: Int32) throws(EngineError) {
        for (option, value) in [(69, 1), (46, 20), (70, 64)] as [(Int32, Int32)] {
            var value = value
            if setsockopt(fd, SOL_SOCKET, option, &value, 4) != 0 { throw refusal("busy_poll=on", errno) }
        }
    }

    private static func bind(
        _ fd: Int32, _ interface: String, _ index: Int32, _ queue: Int, pieces: Bool
    ) throws(EngineError) {
        var address = sockaddr_xdp()
        address.sxdp_family = UInt16(AF_XDP)
        // Neither XDP_ZEROCOPY nor XDP_COPY: the kernel copies where the driver has nothing better.
        address.sxdp_flags = UInt16(XDP_USE_NEED_WAKEUP) | (pieces ? UInt16(CPlat_XDP_USE_SG) : 0)
        address.sxdp_ifindex = UInt32(index)
        address.sxdp_queue_id = UInt32(queue)
        let status = Retry.whileBusy {
            withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.bind(fd, $0, socklen_t(MemoryLayout<sockaddr_xdp>.size))
                }
            }
        }
        if status == 0 { return }
        switch errno {
        case EBUSY: throw EngineError("queue \(queue) of \(interface) is another program's")
        case EINVAL:
            let why = "; see `ethtool -l \(interface)`" + (pieces ? ", and its MTU: long frames need Linux 6.6" : "")
            throw EngineError("queue \(queue) of \(interface) cannot be bound\(why)")
        default: throw refusal("queue \(queue) of \(interface)", errno)
        }
    }

    private static func refusal(_ what: String, _ code: Int32) -> EngineError {
        let hint: String
        switch code {
        case EPERM: hint = "; run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
        case EAFNOSUPPORT: hint = "; the kernel is built without CONFIG_XDP_SOCKETS"
        case ENOBUFS, ENOMEM: hint = "; raise the limit of locked memory (ulimit -l), or run as root"
        default: hint = ""
        }
        return EngineError("\(what): \(SystemError.text(code))\(hint)")
    }
}

/// What an AF_XDP socket has mapped of one ring; unmapped with the last reference.
private final class XDPMapping {
    let start: UnsafeMutableRawPointer
    private let bytes: Int

    /// Nil, and errno: the kernel refuses it.
    init?(_ fd: Int32, place: Int, bytes: Int) {
        let p = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | Int32(MAP_POPULATE), fd, off_t(place))
        guard let p, p != MAP_FAILED else { return nil }
        (start, self.bytes) = (p, bytes)
    }

    deinit { munmap(start, bytes) }
}

/// Calls that fail for a moment.
enum Retry {
    /// The kernel lets go of an interface a moment after the last descriptor was closed, which ends with a process that
    /// was killed, too. So EBUSY is believed after half a second. For threads that may wait.
    static func whileBusy(_ call: () -> Int32) -> Int32 {
        for _ in 0..<50 {
            let result = call()
            if result >= 0 || errno != EBUSY { return result }
            usleep(10_000)
        }
        return call()
    }
}
