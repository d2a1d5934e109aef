import Headers
import Virtio

/// Room for the headers that software writes: one for each packet of a burst. Belongs to one thread.
struct OffloadScratch: ~Copyable {
    /// Checksum fields lie within this many bytes of the frame.
    static var longestPrefix: Int { PacketSlot.farthestChecksum }
    private let room = OwnedMemory<UInt8>(count: (Burst.maximum + 1) * longestPrefix)

    /// For use while this lives.
    var headers: HeaderRooms { HeaderRooms(first: HeaderRoom(start: room.start)) }
}

/// Where the headers are written.
struct HeaderRooms: BitwiseCopyable {
    fileprivate let first: HeaderRoom

    /// The header of a packet of the burst.
    subscript(_ i: Int) -> HeaderRoom {
        assert(i >= 0 && i <= Burst.maximum)
        return HeaderRoom(start: first.start + i * OffloadScratch.longestPrefix)
    }

    /// The header that all segments of a packet start from.
    var template: HeaderRoom { self[Burst.maximum] }
}

/// Private memory for one header of a frame, `OffloadScratch.longestPrefix` bytes. Its fields are in network byte order
/// there, in host order here; the caller knows that they are within the header.
struct HeaderRoom: BitwiseCopyable {
    let start: UnsafeMutableRawPointer

    @inline(__always)
    private func check(_ offset: Int, _ size: Int) {
        assert(offset >= 0 && size >= 0 && offset + size <= OffloadScratch.longestPrefix)
    }

    @inline(__always)
    subscript(_ offset: Int) -> UInt8 {
        get {
            check(offset, 1)
            return start.load(fromByteOffset: offset, as: UInt8.self)
        }
        nonmutating set {
            check(offset, 1)
            start.storeBytes(of: newValue, toByteOffset: offset, as: UInt8.self)
        }
    }

    @inline(__always)
    func load16(_ offset: Int) -> Int {
        check(offset, 2)
        return Int(UInt16(bigEndian: start.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
    }

    /// The upper bits of `value` are dropped.
    @inline(__always)
    func store16(_ offset: Int, _ value: Int) {
        check(offset, 2)
        start.storeBytes(of: UInt16(truncatingIfNeeded: value).bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    @inline(__always)
    func load32(_ offset: Int) -> UInt32 {
        check(offset, 4)
        return UInt32(bigEndian: start.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    @inline(__always)
    func store32(_ offset: Int, _ value: UInt32) {
        check(offset, 4)
        start.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }

    /// Adds `count` bytes from `offset` on to a sum.
    func add(_ offset: Int, _ count: Int, to sum: inout Checksum) {
        check(offset, count)
        sum.add(start + offset, count)
    }

    /// Writes a sum's checksum.
    func store(_ sum: Checksum, at offset: Int) {
        check(offset, 2)
        start.storeBytes(of: sum.result, toByteOffset: offset, as: UInt16.self)
    }
}
