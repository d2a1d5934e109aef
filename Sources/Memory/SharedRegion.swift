/// Memory that a front-end shares for a purpose of its own: a dirty log, an inflight region. Unmapped with its last
/// reference.
public final class SharedRegion {
    private let mapping: Mapping
    /// Where it begins in this process.
    public var start: UnsafeMutableRawPointer { mapping.host }
    /// Bytes.
    public let size: UInt64
    package var hasWholeFile: Bool { mapping.hasWholeFile }
    /// Its file, and where in it the region begins.
    package var place: (file: OwnedDescriptor, offset: UInt64) { (mapping.file, mapping.offset) }

    /// `size` bytes of the file from `offset` on, `name` being what errors call them. Errors: what is not a file of
    /// memfd, tmpfs or hugetlbfs, or is too short. `fd` stays the caller's; `lossFD`: see `GuestMemory.adding`.
    public init(_ name: String, offset: UInt64, size: UInt64, fd: Int32, lossFD: Int32 = -1) throws(MemoryError) {
        try Mapping.checkKind(name, fd)
        guard size > 0, size <= GuestMemory.maximumBytes else {
            throw MemoryError("\(name): size \(hex(size)); 1 to \(hex(GuestMemory.maximumBytes)) are possible")
        }
        mapping = try Mapping(name, offset: offset, size: size, fd: fd, lossFD: lossFD)
        self.size = size
    }
}
