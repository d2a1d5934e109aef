import CPlatform
import Virtio

/// A burst full of one frame, and the memory that its packets lie in: what `generate` and a null port send.
struct FrameTemplate: ~Copyable {
    private let room: OwnedMemory<UInt8>
    let burst: Burst

    /// - Parameter frame: with its Ethernet header.
    init(_ frame: [UInt8]) {
        let size = frame.count
        room = OwnedMemory(count: Burst.maximum * size)
        var burst = Burst()
        CPlat_copy(room.start, frame, UInt64(size))
        for place in 0..<Burst.maximum {
            let at = room.start + place * size
            if place > 0 { CPlat_copy(at, room.start, UInt64(size)) }
            burst.packets[place].place(at, UInt32(size))
        }
        burst.count = Burst.maximum
        burst.bytes = UInt64(Burst.maximum * size)
        self.burst = burst
    }
}
