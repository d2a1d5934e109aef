import Virtio

/// A queue of nothing: what is delivered is gone, and what is popped is one frame over and over, if there is one.
/// Belongs to the poll thread that owns the pair.
struct NullEnd: ~Copyable {
    /// What is sent.
    private var template: FrameTemplate?

    /// - Parameter emits: the frame that is sent, if any.
    init(emits frame: [UInt8]?) { template = frame.map { FrameTemplate($0) } }

    /// Sends another frame from now on, or none. No packet of this end may be under way: they lie in the old one.
    mutating func emit(_ frame: [UInt8]?) { template = frame.map { FrameTemplate($0) } }

    /// `limit` packets, as many as there is room for: they never end.
    func pop(_ burst: inout Burst, limit: Int) -> Int {
        switch template {
        case .none: return 0
        case .some(let template):
            let count = min(limit, template.burst.count)
            // The packet function changes them; their fronts are this burst's.
            let packets = template.burst.packets
            for place in 0..<count { burst.packets[place].place(packets[place].data, packets[place].length) }
            burst.count = count
            burst.segmentCount = 0
            burst.needsScreening = false
            burst.bytes = UInt64(count) &* UInt64(template.burst.packets[0].length)
            return count
        }
    }

    /// Whether there is something to pop: asked before sleeping.
    var hasPackets: Bool { template != nil }

    /// Takes everything.
    func deliver(_ burst: borrowing Burst, _ list: PacketList) -> Delivery {
        var bytes: UInt64 = 0
        var place = 0
        while place < list.count {
            bytes &+= UInt64(burst.packets[list[place]].length)
            place &+= 1
        }
        return Delivery(consumed: list.count, delivered: list.count, bytes: bytes)
    }
}
