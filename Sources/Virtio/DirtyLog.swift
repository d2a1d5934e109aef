import CPlatform

/// A front-end's dirty log (vhost-user, "Migration"): one bit for each page of 4 KiB of guest physical memory, which
/// whoever writes into the page sets. The memory belongs to the caller and outlives every ring that uses it.
public struct DirtyLog: BitwiseCopyable {
    let bits: UnsafeMutableRawPointer
    let pages: UInt64
    /// VHOST_LOG_PAGE, in bytes.
    public static var pageSize: UInt64 { 4096 }

    /// A log of so many bytes, each of which stands for 8 pages.
    public init(bits: UnsafeMutableRawPointer, bytes: UInt64) {
        self.bits = bits
        pages = bytes &* 8
    }

    /// Sets a page's bit. The front-end takes bits away at any time, with atomic accesses. A bit that is set already is
    /// only read: the line stays shared between threads. (`DirtyPages.begin` orders that read.)
    @inline(__always)
    func mark(page: UInt64) {
        assert(page < pages)
        let (byte, bit) = (bits + Int(page >> 3), UInt8(1) << UInt8(page & 7))
        if CPlat_load8_relaxed(byte) & bit == 0 { _ = CPlat_or8_relaxed(byte, bit) }
    }
}

/// Writes into guest memory as marks in a dirty log. Belongs to one ring.
struct DirtyPages {
    private let log: DirtyLog
    private var map: MemoryMap
    /// Where the last write lay.
    private var region: MappedRegion
    /// The page that was marked last since `begin`: buffers and ring entries that follow each other share pages.
    private var last = UInt64.max
    /// A guest address whose page the log does not reach.
    private(set) var beyond: UInt64?

    init(_ log: DirtyLog, _ map: MemoryMap) {
        (self.log, self.map) = (log, map)
        region = MappedRegion(guestAddress: 0, size: 0, userAddress: 0, host: log.bits)
    }

    /// `map`: guest physical memory, also where rings have addresses of an IOTLB.
    mutating func use(_ map: MemoryMap) {
        self.map = map
        region.size = 0
    }

    /// What was written must be visible before a bit is read as set already: the front-end takes the bit, then reads
    /// the page (store-load order).
    @inline(__always)
    mutating func begin() {
        CPlat_fence_full()
        last = UInt64.max
    }

    @inline(__always)
    mutating func wrote(_ host: UnsafeMutableRawPointer, _ length: UInt64) {
        if region.offset(of: host) >= region.size {
            guard let found = map.region(ofHost: host) else { return }
            region = found
        }
        wrote(guest: region.guestAddress &+ region.offset(of: host), length)
    }

    @inline(__always)
    mutating func wrote(guest: UInt64, _ length: UInt64) {
        if length == 0 { return }
        var page = guest / DirtyLog.pageSize
        let end = (guest &+ length &- 1) / DirtyLog.pageSize
        while page <= end {
            if page != last {
                if page >= log.pages {
                    if beyond == nil { beyond = page &* DirtyLog.pageSize }
                    return
                }
                log.mark(page: page)
                last = page
            }
            page &+= 1
        }
    }
}

extension MemoryMap {
    /// The region that holds the byte at a host address.
    @inline(never)
    func region(ofHost host: UnsafeMutableRawPointer) -> MappedRegion? {
        var i = 0
        while i < count {
            let r = regions.unsafelyUnwrapped[i]
            if r.offset(of: host) < r.size { return r }
            i &+= 1
        }
        return nil
    }
}

extension MappedRegion {
    /// Where a host address lies in it, in bytes; `size` or more: not in it.
    @inline(__always)
    fileprivate func offset(of host: UnsafeMutableRawPointer) -> UInt64 {
        UInt64(UInt(bitPattern: host)) &- UInt64(UInt(bitPattern: self.host))
    }
}
