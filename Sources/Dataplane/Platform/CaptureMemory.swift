import CPlatform
import Glibc
import Memory

/// What stands before the bytes of a packet that was captured.
package struct CapturedHeader: BitwiseCopyable {
    /// From this header to the next one.
    package var size: UInt32
    /// Bytes of the packet that follow.
    package var taken: UInt32
    /// When its burst was seen: since 1970.
    package var nanoseconds: UInt64
    /// Bytes of the packet.
    package var length: UInt32
    /// 2*k*: delivered into pair *k*'s receive queue; 2*k*+1: received from its transmit queue.
    package var queue: UInt16
    /// Why it went no further: its place among `EngineCapture.causes`, and 1; 0: it did.
    package var cause: UInt16
}

/// Memory into which poll threads put packets that are captured, and from which another process reads them: a ring for
/// each thread, with one writer and one reader.
///
/// The file: a page for all, one for each thread, the rings. Each ring is mapped twice in a row, so that a packet that
/// goes over its end lies in one piece. The reader is trusted with what it gets to see, and with nothing else: a
/// thread reads one word of it once a burst, where the reader is, and whatever stands there loses packets at worst. The
/// file cannot be cut off.
package final class CaptureMemory {
    /// Why a capture has ended.
    package enum End: UInt64 { case none, portRemoved, stopped }

    /// Of what is in the file. Another one cannot be read.
    package static let version = 1
    /// Bytes of a ring, where nobody says otherwise: 27,000 packets of 256 bytes.
    package static let usualRing = 8 << 20

    /// The memfd.
    package let descriptor: OwnedDescriptor
    package let threads: Int
    /// Bytes of a ring: a power of two.
    package let ringBytes: Int
    private let pages: UnsafeMutableRawPointer
    private let rings: UnsafeMutableRawPointer
    private static let page = 4096

    private var pageBytes: Int { (1 + threads) * CaptureMemory.page }

    /// Makes it, with all pages there: no poll thread waits for one. Errors: the call that failed, and why.
    package convenience init(threads: Int, ringBytes: Int = usualRing) throws(MemoryError) {
        let descriptor = OwnedDescriptor(CPlat_memfd("ringway-capture", 0, true))
        if descriptor.fd < 0 { throw MemoryError("memfd_create: \(SystemError.text(errno))") }
        let bytes = CaptureMemory.bytes(threads, ringBytes)
        if ftruncate(descriptor.fd, bytes) != 0 { throw MemoryError("ftruncate: \(SystemError.text(errno))") }
        if CPlat_seal_shrink(descriptor.fd) != 0 { throw MemoryError("F_ADD_SEALS: \(SystemError.text(errno))") }
        // Allocated here: what fails for want of memory is this call, and no access later.
        let code = posix_fallocate(descriptor.fd, 0, bytes)
        if code != 0 { throw MemoryError("fallocate of \(bytes) bytes: \(SystemError.text(code))") }
        try self.init(descriptor, threads: threads, ringBytes: ringBytes)
    }

    /// Maps what somebody has made. Errors: it is not as long as it should be, or cannot be mapped.
    package init(_ descriptor: OwnedDescriptor, threads: Int, ringBytes: Int) throws(MemoryError) {
        guard (1...4096).contains(threads), (1 << 16...1 << 30).contains(ringBytes), ringBytes.nonzeroBitCount == 1
        else { throw MemoryError("\(threads) rings of \(ringBytes) bytes cannot be") }
        (self.descriptor, self.threads, self.ringBytes) = (descriptor, threads, ringBytes)
        var status = stat()
        guard fstat(descriptor.fd, &status) == 0, status.st_size >= CaptureMemory.bytes(threads, ringBytes) else {
            throw MemoryError("the memory of the capture is too short")
        }
        let (fd, first) = (descriptor.fd, (1 + threads) * CaptureMemory.page)
        func failure() -> MemoryError { MemoryError("mmap: \(SystemError.text(errno))") }
        let access = PROT_READ | PROT_WRITE
        guard let pages = mmap(nil, first, access, MAP_SHARED | MAP_POPULATE, fd, 0), pages != MAP_FAILED else {
            throw failure()
        }
        let both = 2 * threads * ringBytes
        guard let rings = mmap(nil, both, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
            rings != MAP_FAILED
        else {
            let error = failure()
            munmap(pages, first)
            throw error
        }
        (self.pages, self.rings) = (pages, rings)
        for half in 0..<2 * threads {
            let flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE
            let offset = first + half / 2 * ringBytes
            // From here on `deinit` unmaps all of it.
            if mmap(rings + half * ringBytes, ringBytes, access, flags, fd, offset) == MAP_FAILED { throw failure() }
        }
        // Packets are neither ours to dump nor to pass to children.
        for advice in [Int32(16) /* MADV_DONTDUMP */, 10 /* MADV_DONTFORK */] { madvise(rings, both, advice) }
    }

    deinit {
        munmap(pages, pageBytes)
        munmap(rings, 2 * threads * ringBytes)
    }

    private static func bytes(_ threads: Int, _ ringBytes: Int) -> Int { (1 + threads) * page + threads * ringBytes }

    /// Whether the capture has ended. Said by who made it.
    package var end: End {
        get { End(rawValue: CPlat_load64_acquire(pages)) ?? .stopped }
        set { CPlat_store64_release(pages, newValue.rawValue) }
    }

    fileprivate func words(_ thread: Int) -> UnsafeMutableRawPointer { pages + (1 + thread) * CaptureMemory.page }
    fileprivate func bytes(_ thread: Int) -> UnsafeMutableRawPointer { rings + 2 * thread * ringBytes }

    // MARK: The reader

    /// Packets of a thread that found no room so far.
    package func lost(_ thread: Int) -> UInt64 { CPlat_load64_relaxed(words(thread) + CaptureRing.lostPlace) }

    /// Where a thread's ring has been read to, and what has been written since. Nothing of it changes until `release`.
    package func written(_ thread: Int) -> (from: UInt64, bytes: UnsafeRawBufferPointer) {
        // Acquire: what the thread has written before it said so.
        let tail = CPlat_load64_acquire(words(thread) + CaptureRing.tailPlace)
        let head = CPlat_load64_relaxed(words(thread) + CaptureRing.headPlace)
        let count = tail &- head
        let start = bytes(thread) + Int(head & UInt64(ringBytes - 1))
        return (head, UnsafeRawBufferPointer(start: start, count: count <= UInt64(ringBytes) ? Int(count) : 0))
    }

    /// The thread may write over what was read up to there.
    package func release(_ thread: Int, to: UInt64) {
        CPlat_store64_release(words(thread) + CaptureRing.headPlace, to)
    }
}

/// A poll thread's end of its ring. What it has written nobody sees until `publish`.
struct CaptureRing: BitwiseCopyable {
    // Each on lines of its own.
    fileprivate static var tailPlace: Int { 0 }
    fileprivate static var lostPlace: Int { 64 }
    fileprivate static var headPlace: Int { 128 }

    /// Where the next packet goes, and packets that found no room until then.
    struct Mark: BitwiseCopyable {
        fileprivate(set) var position: UInt64 = 0
        fileprivate(set) var lost: UInt64 = 0
    }

    private let words: UnsafeMutableRawPointer
    private let bytes: UnsafeMutableRawPointer
    private let size: UInt64
    private(set) var mark = Mark()
    /// Up to where there is room.
    private var limit: UInt64 = 0

    /// The memory must outlive it. Of each thread there is one in the memory's life.
    init(_ memory: CaptureMemory, thread: Int) {
        (words, bytes, size) = (memory.words(thread), memory.bytes(thread), UInt64(memory.ringBytes))
    }

    /// Looks how far the reader is: once, and whatever it says.
    mutating func begin() {
        // Acquire: it has read what is written over next.
        let used = mark.position &- CPlat_load64_acquire(words + CaptureRing.headPlace)
        limit = mark.position &+ (used <= size ? size &- used : 0)
    }

    /// Room for a header and so many bytes of a packet, and where it is; nil: there is none, which is counted.
    mutating func reserve(_ taken: Int) -> (room: UnsafeMutableRawPointer, position: UInt64, size: UInt32)? {
        let whole = (MemoryLayout<CapturedHeader>.size &+ taken &+ 7) & ~7
        let position = mark.position
        if UInt64(truncatingIfNeeded: whole) > limit &- position {
            mark.lost &+= 1
            return nil
        }
        mark.position = position &+ UInt64(truncatingIfNeeded: whole)
        return (place(position), position, UInt32(truncatingIfNeeded: whole))
    }

    /// What became of a packet that was written, and not yet published.
    func setCause(_ cause: UInt16, at position: UInt64) {
        let offset = MemoryLayout<CapturedHeader>.offset(of: \.cause).unsafelyUnwrapped
        place(position).storeBytes(of: cause, toByteOffset: offset, as: UInt16.self)
    }

    private func place(_ position: UInt64) -> UnsafeMutableRawPointer {
        bytes + Int(truncatingIfNeeded: position & (size &- 1))
    }

    /// Forgets what was written from there on.
    mutating func rewind(to mark: Mark) { self.mark = mark }

    /// Lets the reader see what was written.
    func publish() {
        CPlat_store64_relaxed(words + CaptureRing.lostPlace, mark.lost)
        CPlat_store64_release(words + CaptureRing.tailPlace, mark.position)
    }
}
