import Virtio

/// Room for the headers that software writes: one for each packet of a burst.
struct OffloadScratch {
    /// Checksum fields lie within this many bytes of the frame.
    static var longestPrefix: Int { 512 }
    private let room: UnsafeMutableRawPointer
    /// The header that all segments of a packet start from.
    let template: UnsafeMutableRawPointer

    init() {
        room = .allocate(byteCount: (Burst.maximum + 1) * OffloadScratch.longestPrefix, alignment: 64)
        template = room + Burst.maximum * OffloadScratch.longestPrefix
    }

    func deallocate() { room.deallocate() }

    func header(_ i: Int) -> UnsafeMutableRawPointer {
        assert(i >= 0 && i < Burst.maximum)
        return room + i * OffloadScratch.longestPrefix
    }
}
