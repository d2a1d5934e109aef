import Virtio

/// Room for the headers that software writes: one for each packet of a burst. Belongs to one thread.
struct OffloadScratch: ~Copyable {
    /// Checksum fields lie within this many bytes of the frame.
    static var longestPrefix: Int { PacketSlot.farthestChecksum }
    private let room = OwnedMemory<UInt8>(count: (Burst.maximum + 1) * longestPrefix)

    /// For use while this lives.
    var headers: HeaderRooms { HeaderRooms(start: UnsafeMutableRawPointer(room.start)) }
}

/// Where the headers are written.
struct HeaderRooms: BitwiseCopyable {
    fileprivate let start: UnsafeMutableRawPointer

    /// The header that all segments of a packet start from.
    var template: UnsafeMutableRawPointer { start + Burst.maximum * OffloadScratch.longestPrefix }

    func header(_ i: Int) -> UnsafeMutableRawPointer {
        assert(i >= 0 && i < Burst.maximum)
        return start + i * OffloadScratch.longestPrefix
    }
}
