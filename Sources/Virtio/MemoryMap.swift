import CPlatform

/// One mapped region of the driver's memory. Plain data; the mapping belongs to whoever built the map.
///
/// Unchecked: `host` is an address in memory that the driver writes at any time, which no compiler can see.
public struct MappedRegion: @unchecked Sendable, BitwiseCopyable {
    /// First guest physical address.
    public var guestAddress: UInt64
    /// Bytes.
    public var size: UInt64
    /// First address in the front-end's own address space (vhost-user "user address").
    public var userAddress: UInt64
    /// Where the region starts in this process.
    public var host: UnsafeMutableRawPointer

    /// A region that is mapped at `host` in this process; the mapping belongs to the caller.
    public init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, host: UnsafeMutableRawPointer) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.host = host
    }
}

/// Guest-physical to host translation as the ring core sees it: a table of regions.
///
/// Plain data that borrows its table: the owner (module Memory) keeps the table and the mappings
/// alive until every ring that uses the map has been stopped or given another one.
///
/// Unchecked: the table is never written after it was made.
public struct MemoryMap: @unchecked Sendable, BitwiseCopyable {
    /// The table, `count` entries; nil where it has none.
    public var regions: UnsafePointer<MappedRegion>?
    /// Entries of the table.
    public var count: Int
    /// One value: two flags would be packed and unpacked for each burst.
    @usableFromInline let kind: Kind
    @usableFromInline
    enum Kind: UInt8, BitwiseCopyable { case anyOrder, sorted, identity, readable, writable }
    /// The regions stand in the order of their guest addresses and do not overlap: a miss searches, it does not scan.
    public var isSorted: Bool { kind != .anyOrder && kind != .identity }
    /// Of an IOTLB, what may be read, and what may be written.
    package var isReadable: Bool { kind == .readable }
    package var isWritable: Bool { kind == .writable }
    /// It is what an IOTLB knows (ACCESS_PLATFORM): an address that is missing may come.
    public var isIOTLB: Bool { kind == .readable || kind == .writable }
    /// Every address is a host address already (the driver side's own memory): nothing is translated.
    @inlinable public var isIdentity: Bool { kind == .identity }

    /// Regions in any order. The table belongs to the caller and is not copied.
    public init(regions: UnsafePointer<MappedRegion>?, count: Int) { self.init(regions, count, .anyOrder) }

    private init(_ regions: UnsafePointer<MappedRegion>?, _ count: Int, _ kind: Kind) {
        (self.regions, self.count, self.kind) = (regions, count, kind)
    }

    /// Regions in the order of their guest addresses, none of which overlap.
    public init(sorted regions: UnsafePointer<MappedRegion>?, count: Int) {
        self.init(regions, count, .sorted)
    }

    /// What an IOTLB lets the device read, in the order of the addresses; none overlap. Behind the last of `count`
    /// regions one more says where the table of those that it may write lies, and how many there are (`counterpart`).
    /// Behind these one more says the same of the readable ones.
    public init(readable regions: UnsafePointer<MappedRegion>, count: Int) { self.init(regions, count, .readable) }

    /// Where what stands behind a table's last region points: see `init(readable:count:)`.
    public static func counterpart(_ table: UnsafeMutablePointer<MappedRegion>, count: Int) -> MappedRegion {
        MappedRegion(guestAddress: 0, size: UInt64(count), userAddress: 0, host: UnsafeMutableRawPointer(table))
    }

    /// Of an IOTLB: the same for the other kind of access.
    private var counterpart: MemoryMap {
        let other = regions.unsafelyUnwrapped[count]
        return MemoryMap(
            UnsafePointer(other.host.assumingMemoryBound(to: MappedRegion.self)), Int(other.size),
            kind == .readable ? .writable : .readable)
    }

    /// For what the device writes: receive buffers, answers. Another one only where there is an IOTLB.
    public var writable: MemoryMap { kind == .readable ? counterpart : self }
    /// For what the device reads.
    public var readable: MemoryMap { kind == .writable ? counterpart : self }
    /// Where receive rings have their buffers: what a ring of this direction is given.
    public func forRing(_ direction: QueueDirection) -> MemoryMap { direction == .receive ? writable : self }

    /// Host address of the whole range, 0 if it is not inside one region.
    @inline(never)
    package func host(_ address: UInt64, _ length: UInt64) -> UInt64 {
        var translation = Translation(self)
        return translation.miss(address, length, self)
    }

    /// The first address of a range that is in no region; nil: there is none.
    package func firstMissing(_ address: UInt64, _ length: UInt64) -> UInt64? {
        var (at, left) = (address, length)
        while left > 0 {
            let there = contiguous(from: at, atMost: left)
            if there == 0 { return at }
            (at, left) = (at &+ there, left &- there)
        }
        return nil
    }

    /// A map for rings in this process's own memory.
    public static var identity: MemoryMap { MemoryMap(nil, 0, .identity) }

    /// Host address of the whole range [address, address + length), or nil when any byte of it
    /// lies outside a single region. Scans; the rings keep the last hit in a `Translation`.
    @inlinable
    public func translate(_ address: UInt64, _ length: UInt64) -> UnsafeMutableRawPointer? {
        if isIdentity { return UnsafeMutableRawPointer(bitPattern: UInt(truncatingIfNeeded: address)) }
        var i = 0
        while i < count {
            let r = regions.unsafelyUnwrapped[i]
            let offset = address &- r.guestAddress
            // offset < size rules out addresses below the region (they wrap to huge offsets);
            // length is then compared with what is left, so nothing can overflow.
            if offset < r.size && length <= r.size &- offset {
                return r.host + Int(truncatingIfNeeded: offset)
            }
            i &+= 1
        }
        return nil
    }

    /// The region that holds the byte at `address`.
    @inline(never)
    func region(of address: UInt64) -> MappedRegion? {
        if count == 0 { return nil }
        let regions = regions.unsafelyUnwrapped
        if !isSorted {
            var i = 0
            while i < count {
                if address &- regions[i].guestAddress < regions[i].size { return regions[i] }
                i &+= 1
            }
            return nil
        }
        // The last region that begins at or before the address.
        var (low, high) = (0, count)
        while high &- low > 1 {
            let middle = (low &+ high) / 2
            if regions[middle].guestAddress <= address { low = middle } else { high = middle }
        }
        return address &- regions[low].guestAddress < regions[low].size ? regions[low] : nil
    }

    /// The same for an address of the front-end's own address space (ring addresses of SET_VRING_ADDR).
    public func translateUser(_ address: UInt64, _ length: UInt64) -> UnsafeMutableRawPointer? {
        for i in 0..<count {
            let r = regions.unsafelyUnwrapped[i]
            let offset = address &- r.userAddress
            if offset < r.size && length <= r.size &- offset { return r.host + Int(offset) }
        }
        return nil
    }
}

/// The last region that a ring hit, in registers: base, size and the distance to host memory.
/// `delta` is added with wrap-around; a miss consults the map.
@usableFromInline
struct Translation {
    @usableFromInline var base: UInt64
    @usableFromInline var size: UInt64
    @usableFromInline var delta: UInt64

    @inline(__always)
    init(_ map: MemoryMap) {
        if map.isIdentity {
            (base, size, delta) = (0, UInt64.max, 0)
        } else if map.count > 0 {
            let r = map.regions.unsafelyUnwrapped[0]
            (base, size, delta) = (r.guestAddress, r.size, UInt64(UInt(bitPattern: r.host)) &- r.guestAddress)
        } else {
            (base, size, delta) = (0, 0, 0)
        }
    }

    @inline(__always)
    init(_ r: MappedRegion) {
        base = r.guestAddress
        size = r.size
        delta = UInt64(UInt(bitPattern: r.host)) &- r.guestAddress
    }

    /// Host address of the range, 0 if it is not inside one region.
    @inline(__always)
    mutating func host(_ address: UInt64, _ length: UInt64, _ map: MemoryMap) -> UInt64 {
        let found = hit(address, length)
        return found != 0 ? found : miss(address, length, map)
    }

    /// The same if the range lies in the last region, else 0.
    @inline(__always)
    func hit(_ address: UInt64, _ length: UInt64) -> UInt64 {
        let offset = address &- base
        return offset < size && length <= size &- offset ? address &+ delta : 0
    }

    @inline(never)
    mutating func miss(_ address: UInt64, _ length: UInt64, _ map: MemoryMap) -> UInt64 {
        guard let r = map.region(of: address), length <= r.size &- (address &- r.guestAddress) else { return 0 }
        self = Translation(r)
        return address &+ delta
    }
}
