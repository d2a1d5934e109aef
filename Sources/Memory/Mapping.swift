import CPlatform
import Glibc
import Virtio

/// A mapping of a part of somebody's file; unmapped with its last reference. While it lives, a file
/// that is truncated behind it cannot end the process: see `CPlat_guard`.
final class Mapping {
    let start: UnsafeMutableRawPointer
    private let length: Int
    private let handle: Int32
    /// Where the region begins: `start` is rounded down to a page of the file.
    let host: UnsafeMutableRawPointer
    /// The file, and the region's place in it.
    private let device: UInt64
    private let inode: UInt64
    let offset: UInt64
    private let size: UInt64
    /// Kept, to be handed on to a process that takes over. Mappings of one file share it.
    let file: OwnedDescriptor

    /// `size` bytes of the file from `offset` on; `name` is what errors call them. `others` may have the file already.
    init(
        _ name: String, offset: UInt64, size: UInt64, fd: Int32, lossFD: Int32, others: [Mapping] = []
    ) throws(MemoryError) {
        var status = stat()
        guard fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw MemoryError("descriptor of \(name) is not a file that can be mapped")
        }
        let (device, inode) = (UInt64(status.st_dev), UInt64(status.st_ino))
        (self.device, self.inode, self.offset, self.size) = (device, inode, offset, size)
        file =
            others.first { $0.device == device && $0.inode == inode }?.file
            ?? OwnedDescriptor(fcntl(fd, F_DUPFD_CLOEXEC, 0))
        guard file.fd >= 0 else { throw MemoryError("\(name): its file cannot be kept: \(SystemError.text(errno))") }
        let (end, overflows) = offset.addingReportingOverflow(size)
        guard !overflows, end <= UInt64(max(0, status.st_size)) else {
            throw MemoryError(
                """
                \(name): offset \(hex(offset)) + size \(hex(size)) is beyond \
                the file's \(hex(UInt64(max(0, status.st_size)))) bytes
                """
            )
        }
        let page = CPlat_file_page_size(fd)
        guard page > 0 else {
            throw MemoryError("\(name): fstatfs: \(SystemError.text(errno))")
        }
        let first = offset & ~(page - 1)
        length = Int(((end + page - 1) & ~(page - 1)) - first)
        let p = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, off_t(first))
        guard let p, p != MAP_FAILED else {
            throw MemoryError(
                """
                \(name): mmap of \(hex(size)) bytes: \
                \(SystemError.text(errno))
                """
            )
        }
        host = p + Int(offset - first)
        // Guest memory is neither ours to dump nor to pass to children.
        madvise(p, length, 16 /* MADV_DONTDUMP */)
        madvise(p, length, 10 /* MADV_DONTFORK */)
        let place = CPlat_guard(p, length, lossFD)
        guard place >= 0 else {
            munmap(p, length)
            throw MemoryError(
                """
                \(name): this process has 32768 regions mapped already, the most it can \
                guard; 
                """
                    + "give the guests fewer memory slots")
        }
        handle = place
        start = p
    }

    /// Before anything asks the file's file system. One of FUSE could let each access wait for ever, and with it every
    /// port of the thread.
    static func checkKind(_ name: String, _ fd: Int32) throws(MemoryError) {
        if CPlat_is_shared_memory(fd) { return }
        var kind = [CChar](repeating: 0, count: 64)
        CPlat_file_system(fd, &kind, kind.count)
        let type = String(decoding: kind.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        throw MemoryError(
            """
            descriptor of \(name) is not a file of memfd, tmpfs or hugetlbfs (its file \
            system: \(type)); 
            """
                + "with QEMU use memory-backend-memfd, or memory-backend-file in /dev/shm or on hugetlbfs")
    }

    deinit {
        CPlat_unguard(handle)
        munmap(start, length)
    }

    /// The file is as long as what is mapped of it.
    var hasWholeFile: Bool {
        var status = stat()
        return fstat(file.fd, &status) == 0 && offset + size <= UInt64(max(0, status.st_size))
    }

    /// Whether this is `offset` of the file behind `fd`.
    func shows(_ fd: Int32, _ offset: UInt64) -> Bool {
        var status = stat()
        return fstat(fd, &status) == 0 && UInt64(status.st_dev) == device && UInt64(status.st_ino) == inode
            && offset == self.offset
    }
}
