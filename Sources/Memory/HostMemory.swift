import CNuma
import CPlatform
import Glibc

/// What libnuma knows of this machine.
public enum NUMA {
    /// Whether the kernel tells about nodes.
    public static let isAvailable = numa_available() >= 0
    /// Number of nodes; 1 where the kernel tells none.
    public static var nodes: Int { isAvailable ? Int(numa_max_node()) + 1 : 1 }
    /// Node of a CPU, -1 if it is not known.
    public static func node(ofCPU cpu: Int) -> Int { isAvailable ? Int(numa_node_of_cpu(Int32(clamping: cpu))) : -1 }
    /// Node of the page at `p`, which is made present if it is not; -1 if it is not known.
    public static func node(of p: UnsafeMutableRawPointer) -> Int { Int(CPlat_node_of_page(p)) }
}

/// Memory of this process that a back-end can map: for rings and buffers of the driver side. From
/// 2 MiB pages where there are enough, else from pages of the usual size; on the wanted NUMA node where
/// that has room (libnuma). All pages are present when `init` returns. Given back with the last reference.
///
/// Unchecked: nothing of it changes after `init`; what `base` points to is shared with another process.
public final class HostMemory: @unchecked Sendable {
    /// Aligned to `pageSize`; all zeroes at first.
    public let base: UnsafeMutableRawPointer
    /// Bytes, a multiple of `pageSize`.
    public let size: Int
    /// Bytes of its pages.
    public let pageSize: Int
    /// The memfd behind it.
    public let descriptor: OwnedDescriptor
    /// The wanted node, -1: none.
    public let node: Int

    /// At least `bytes`. Errors: the call that failed, and why.
    public init(bytes: Int, node: Int = -1, wantsHugePages: Bool = true, name: String = "ringway") throws(MemoryError) {
        precondition(bytes > 0)
        self.node = node
        if wantsHugePages, let huge = try? HostMemory.map(bytes, 2 << 20, name, node) {
            (descriptor, base, size, pageSize) = huge
        } else {
            (descriptor, base, size, pageSize) = try HostMemory.map(bytes, Int(getpagesize()), name, node)
        }
    }

    deinit { munmap(base, size) }

    private static func map(
        _ bytes: Int, _ page: Int, _ name: String, _ node: Int
    ) throws(MemoryError) -> (OwnedDescriptor, UnsafeMutableRawPointer, Int, Int) {
        func failure(_ call: String) -> MemoryError {
            MemoryError("\(call) for \(bytes) bytes of \(name): \(SystemError.text(errno))")
        }
        let isHuge = page > Int(getpagesize())
        let fd = CPlat_memfd(name, isHuge ? 21 : 0, true)
        if fd < 0 { throw failure("memfd_create") }
        let descriptor = OwnedDescriptor(fd)
        let size = (bytes + page - 1) / page * page
        if ftruncate(fd, size) != 0 { throw failure("ftruncate") }
        // Whoever is given the file could cut it off, and the next access here would be a SIGBUS.
        if CPlat_seal_shrink(fd) != 0 { throw failure("F_ADD_SEALS") }
        // Huge pages are reserved here: too few of them fail this call, not a later access.
        guard let base = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), base != MAP_FAILED else {
            throw failure("mmap")
        }
        if node >= 0 && NUMA.isAvailable { numa_tonode_memory(base, size, Int32(clamping: node)) }
        for offset in stride(from: 0, to: size, by: page) {
            base.storeBytes(of: 0, toByteOffset: offset, as: UInt8.self)
        }
        return (descriptor, base, size, page)
    }

    /// As a back-end sees it: guest physical and user address are the address in this process, as
    /// DPDK's virtio-user has it.
    public var region: RegionDescription {
        let address = UInt64(UInt(bitPattern: base))
        return RegionDescription(guestAddress: address, size: UInt64(size), userAddress: address, offset: 0)
    }

    /// For logs: how much, of which pages, on which node.
    public var summary: String {
        let pages = pageSize >= 2 << 20 ? "2 MiB pages" : "\(pageSize / 1024) KiB pages"
        let place = NUMA.node(of: base)
        return "\(size / 1024) KiB of \(pages)" + (place < 0 ? "" : " on node \(place)")
    }
}
