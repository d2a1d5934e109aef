import CPlatform
import Glibc
import Virtio

/// One region as a front-end describes it: `struct` "memory region description" of the vhost-user
/// specification.
public struct RegionDescription: Sendable, Equatable {
    /// First guest physical address.
    public var guestAddress: UInt64
    /// Bytes.
    public var size: UInt64
    /// First address in the front-end's address space.
    public var userAddress: UInt64
    /// Where the region begins in its file, in bytes.
    public var offset: UInt64

    /// As a front-end tells it; nothing is checked before it is mapped.
    public init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, offset: UInt64) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.offset = offset
    }
}

/// A front-end's memory: an immutable set of mapped regions. A change makes a new value that shares
/// the mappings which stay; the old one may go when no ring uses its map any more. One thread, the port's control
/// thread; its map is for poll threads, too.
public final class GuestMemory {
    private let mappings: [Mapping]
    /// How often each region was added: QEMU adds and removes every region once for each queue pair.
    private let counts: [Int]
    private let table: OwnedTable<MappedRegion>
    /// The same in the order of their guest addresses, as rings search them.
    private let sorted: OwnedTable<MappedRegion>
    private let count: Int

    /// Regions that ADD_MEM_REG can reach; SET_MEM_TABLE carries 8.
    public static let maximumRegions = 509

    /// Bytes of all regions together, 8 TiB. A file without pages costs its sender nothing, but could take this
    /// process's whole address space of 128 TiB, and with it what the other ports need.
    public static let maximumBytes: UInt64 = 1 << 43

    /// What rings translate with; valid while this object lives.
    public var map: MemoryMap { MemoryMap(sorted: sorted.start, count: count) }
    /// What `adding` was told of each region, how often, and its file: for a process that takes over. One descriptor
    /// for each file: a front-end can have as many of them kept as there can be regions.
    package var origins: [(region: RegionDescription, count: Int, file: OwnedDescriptor)] {
        (0..<count).map { i in
            let r = table[i]
            let region = RegionDescription(
                guestAddress: r.guestAddress, size: r.size, userAddress: r.userAddress, offset: mappings[i].offset)
            return (region, counts[i], mappings[i].file)
        }
    }
    /// Each file is as long as what is mapped of it.
    package var hasWholeFiles: Bool { mappings.allSatisfy(\.hasWholeFile) }

    /// The regions as they are mapped; valid as long as this value or a copy of it lives.
    public var regions: [MappedRegion] { (0..<count).map { table[$0] } }

    /// No memory.
    public convenience init() { self.init([], [], []) }

    private init(_ mappings: [Mapping], _ counts: [Int], _ regions: [MappedRegion]) {
        self.mappings = mappings
        self.counts = counts
        count = regions.count
        table = OwnedTable(regions)
        sorted = OwnedTable(regions.sorted { $0.guestAddress < $1.guestAddress })
    }

    /// The same regions and one more. A region that is there already, from the same place of the same
    /// file, is counted; it has to be removed as often. Errors: overlap, overflow, too many, a file that is too short,
    /// mmap,
    /// a file that is not of memfd, tmpfs or hugetlbfs. `fd` stays the caller's. `lossFD` is an eventfd (or -1) that is
    /// written when the file is truncated behind the mapping.
    public func adding(_ region: RegionDescription, fd: Int32, lossFD: Int32 = -1) throws(MemoryError) -> GuestMemory {
        let name = "region \(hex(region.guestAddress))"
        try Mapping.checkKind(name, fd)
        if let i = index(of: region), mappings[i].shows(fd, region.offset) { return counting(i, 1) }
        guard count < GuestMemory.maximumRegions else {
            throw MemoryError("more than \(GuestMemory.maximumRegions) regions")
        }
        try check(region)
        let left = GuestMemory.maximumBytes - regions.reduce(0) { $0 + $1.size }
        guard region.size <= left else {
            throw MemoryError(
                """
                region \(hex(region.guestAddress)): size \(hex(region.size)) goes beyond the \
                \(hex(GuestMemory.maximumBytes)) bytes of all regions
                """
            )
        }
        let mapping = try Mapping(
            name, offset: region.offset, size: region.size, fd: fd, lossFD: lossFD, others: mappings)
        let mapped = MappedRegion(
            guestAddress: region.guestAddress, size: region.size, userAddress: region.userAddress, host: mapping.host)
        return GuestMemory(mappings + [mapping], counts + [1], regions + [mapped])
    }

    private func index(of region: RegionDescription) -> Int? {
        regions.firstIndex {
            $0.guestAddress == region.guestAddress && $0.size == region.size && $0.userAddress == region.userAddress
        }
    }

    private func counting(_ i: Int, _ change: Int) -> GuestMemory {
        var new = counts
        new[i] += change
        return GuestMemory(mappings, new, regions)
    }

    private func check(_ new: RegionDescription) throws(MemoryError) {
        guard new.size > 0 else { throw MemoryError("region \(hex(new.guestAddress)) is empty") }
        guard new.size <= UInt64(Int.max), !new.guestAddress.addingReportingOverflow(new.size - 1).overflow,
            !new.userAddress.addingReportingOverflow(new.size - 1).overflow
        else {
            throw MemoryError("region \(hex(new.guestAddress)): size \(hex(new.size)) goes beyond the address space")
        }
        for old in regions {
            if overlap(old.guestAddress, old.size, new.guestAddress, new.size) {
                throw MemoryError(
                    """
                    region \(hex(new.guestAddress))+\(hex(new.size)) overlaps \
                    \(hex(old.guestAddress))+\(hex(old.size))
                    """
                )
            }
            if overlap(old.userAddress, old.size, new.userAddress, new.size) {
                throw MemoryError(
                    """
                    region \(hex(new.guestAddress)): user addresses \(hex(new.userAddress))+\(hex(new.size)) overlap \
                    those of \(hex(old.guestAddress))
                    """
                )
            }
        }
    }

    private func overlap(_ a: UInt64, _ n: UInt64, _ b: UInt64, _ m: UInt64) -> Bool {
        a <= b + (m - 1) && b <= a + (n - 1)
    }

    /// The regions without the one that has these addresses and this size.
    public func removing(_ region: RegionDescription) throws(MemoryError) -> GuestMemory {
        guard let i = index(of: region) else {
            throw MemoryError("no region \(hex(region.guestAddress))+\(hex(region.size)) to remove")
        }
        if counts[i] > 1 { return counting(i, -1) }
        var (kept, numbers, left) = (mappings, counts, regions)
        kept.remove(at: i)
        numbers.remove(at: i)
        left.remove(at: i)
        return GuestMemory(kept, numbers, left)
    }
}
