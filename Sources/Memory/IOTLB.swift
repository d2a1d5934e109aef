import Virtio

/// What a device may do at an address.
public struct IOTLBAccess: OptionSet, Sendable, Hashable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// VHOST_ACCESS_RO.
    public static let read = IOTLBAccess(rawValue: 1)
    /// VHOST_ACCESS_WO.
    public static let write = IOTLBAccess(rawValue: 2)
}

/// One range of addresses that a driver behind an IOMMU may use, and what lies there: `struct vhost_iotlb_msg`
/// of an update, in user addresses of the front-end.
public struct IOTLBEntry: Sendable, Equatable {
    /// First address, as descriptors and SET_VRING_ADDR have it (IOVA).
    public var address: UInt64
    /// Bytes.
    public var size: UInt64
    /// Where that is in the front-end's address space.
    public var userAddress: UInt64
    /// What the device may do there.
    public var access: IOTLBAccess

    /// Nothing is checked before it is added.
    public init(address: UInt64, size: UInt64, userAddress: UInt64, access: IOTLBAccess) {
        (self.address, self.size, self.userAddress, self.access) = (address, size, userAddress, access)
    }

    /// The last address.
    fileprivate var last: UInt64 { address &+ (size &- 1) }

    /// What is left of it below and above a range.
    fileprivate func without(_ first: UInt64, _ last: UInt64) -> [IOTLBEntry] {
        var rest: [IOTLBEntry] = []
        if address < first { rest.append(part(address, first - 1)) }
        if self.last > last { rest.append(part(last + 1, self.last)) }
        return rest
    }

    private func part(_ first: UInt64, _ last: UInt64) -> IOTLBEntry {
        IOTLBEntry(
            address: first, size: last - first + 1, userAddress: userAddress &+ (first - address), access: access)
    }

    fileprivate func continues(_ before: IOTLBEntry) -> Bool {
        before.last &+ 1 == address && address != 0 && before.access == access
            && before.userAddress &+ before.size == userAddress
    }
}

/// What a front-end's IOMMU lets the device reach (vhost-user, "IOMMU support"): an immutable set of entries, with the
/// two tables that rings translate with. A change makes a new value; the old one may go when no ring uses its map any
/// more. One thread, the port's control thread; its map is for poll threads, too.
public final class IOTLB {
    /// In the order of their addresses; none overlap.
    public let entries: [IOTLBEntry]
    /// Those that may be read, then those that may be written; behind each half's last one more (`MemoryMap`).
    private let tables: OwnedMemory<MappedRegion>
    private let readableCount: Int

    /// Entries that are kept, when neighbours were joined. One that comes beyond them takes the place of another, which
    /// the ring that needs it asks for again.
    public static let most = 4096

    /// Valid while this object lives. `MemoryMap.writable` is the map of what may be written.
    public var map: MemoryMap { MemoryMap(readable: tables.start, count: readableCount) }

    /// No entry.
    public convenience init() { self.init([], GuestMemory()) }

    /// Entries that do not overlap, in order. What lies outside `memory` is left out.
    package init(_ entries: [IOTLBEntry], _ memory: GuestMemory) {
        self.entries = entries
        let map = memory.map
        func regions(_ access: IOTLBAccess) -> [MappedRegion] {
            entries.compactMap { e in
                guard e.access.contains(access), let host = map.translateUser(e.userAddress, e.size) else { return nil }
                return MappedRegion(guestAddress: e.address, size: e.size, userAddress: e.userAddress, host: host)
            }
        }
        let (readable, writable) = (regions(.read), regions(.write))
        readableCount = readable.count
        tables = OwnedMemory(count: readable.count + writable.count + 2)
        let (first, second) = (tables.start, tables.start + readable.count + 1)
        for (i, r) in readable.enumerated() { tables[i] = r }
        tables[readable.count] = MemoryMap.counterpart(second, count: writable.count)
        for (i, r) in writable.enumerated() { tables[readable.count + 1 + i] = r }
        tables[readable.count + 1 + writable.count] = MemoryMap.counterpart(first, count: readable.count)
    }

    /// The same entries where memory now lies.
    public func moved(to memory: GuestMemory) -> IOTLB {
        IOTLB(entries.filter { memory.map.translateUser($0.userAddress, $0.size) != nil }, memory)
    }

    /// With one more, which takes the place of what was said of its addresses before. Errors name what is wrong with
    /// it.
    public func adding(_ new: IOTLBEntry, _ memory: GuestMemory) throws(MemoryError) -> IOTLB {
        guard new.size > 0, !new.address.addingReportingOverflow(new.size - 1).overflow else {
            throw MemoryError("address \(hex(new.address)): size \(hex(new.size)) is empty or goes beyond 64 bits")
        }
        guard !new.access.isEmpty, new.access.isSubset(of: [.read, .write]) else {
            throw MemoryError("address \(hex(new.address)): access \(new.access.rawValue); 1, 2 or 3 are possible")
        }
        guard memory.map.translateUser(new.userAddress, new.size) != nil else {
            throw MemoryError(
                """
                address \(hex(new.address)): user address \(hex(new.userAddress))+\(hex(new.size)) is outside guest \
                memory
                """)
        }
        var all = without(new.address, new.last)
        if all.count >= IOTLB.most { all.remove(at: Int.random(in: 0..<all.count)) }
        let place = all.firstIndex { $0.address > new.address } ?? all.count
        all.insert(new, at: place)
        join(&all, place + 1, memory)
        join(&all, place, memory)
        return IOTLB(all, memory)
    }

    /// Joins entry `i` with the one before it where they are one in memory, too.
    private func join(_ all: inout [IOTLBEntry], _ i: Int, _ memory: GuestMemory) {
        guard i > 0, i < all.count, all[i].continues(all[i - 1]) else { return }
        let size = all[i - 1].size + all[i].size
        guard memory.map.translateUser(all[i - 1].userAddress, size) != nil else { return }
        all[i - 1].size = size
        all.remove(at: i)
    }

    private func without(_ first: UInt64, _ last: UInt64) -> [IOTLBEntry] {
        var rest: [IOTLBEntry] = []
        rest.reserveCapacity(entries.count + 2)
        for e in entries {
            if e.last < first || e.address > last { rest.append(e) } else { rest += e.without(first, last) }
        }
        return rest
    }

    /// Without what is said of `size` addresses from `address` on (0, or too many: to the last one); nil: nothing was.
    public func removing(_ address: UInt64, _ size: UInt64, _ memory: GuestMemory) -> IOTLB? {
        let end = address.addingReportingOverflow(size &- 1)
        let last = size == 0 || end.overflow ? UInt64.max : end.partialValue
        guard entries.contains(where: { $0.last >= address && $0.address <= last }) else { return nil }
        return IOTLB(without(address, last), memory)
    }

    /// What is known of a range.
    public enum Answer: Equatable {
        /// It lies here.
        case host(UnsafeMutableRawPointer)
        /// The first address of which nothing is known, or that may not be reached so.
        case missing(UInt64)
        /// All of it is known, but it does not lie in one piece.
        case pieces
    }

    /// Where `length` bytes lie that the device accesses so.
    public func find(_ address: UInt64, _ length: UInt64, _ access: IOTLBAccess) -> Answer {
        for map in [map, map.writable] where access.contains(map.isReadable ? .read : .write) {
            if let missing = map.firstMissing(address, length) { return .missing(missing) }
        }
        let host = (access.contains(.read) ? map : map.writable).host(address, length)
        return UnsafeMutableRawPointer(bitPattern: UInt(host)).map { .host($0) } ?? .pieces
    }
}
