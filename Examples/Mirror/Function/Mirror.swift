import Ringway

/// Joins port 0 and port 1, and gives port 2 a copy of every packet of port 0. What port 2 sends is dropped.
public struct Mirror: PacketFunction {
    /// It looks at no header, so none is read.
    public static let frontBytes = 0
    public static let dropCauses = ["sent by the mirror port"]
    public static let counters = ["mirrored"]

    /// A mirror.
    public init() {}

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        switch packets.port {
        case 0:
            packets.count(0, packets.count)
            // Each of the two gets the packet; its payload is copied once to each.
            return packets.verdict(for: PortSet([1, 2]))
        case 1:
            return .port(0)
        default:
            for i in 0..<packets.count { packets.drop(i, because: 0) }
            return nil
        }
    }
}
