/// Which way a data queue of a network device goes, as its driver sees it (virtio 1.3, 5.1.2).
public enum QueueDirection: Int, Sendable, CaseIterable {
    /// receiveq: packets go to the driver.
    case receive
    /// transmitq: packets come from the driver.
    case transmit

    /// Of a data queue by its index: receiveq and transmitq take turns, from receiveq1 on.
    @inlinable @inline(__always)
    public init(queue index: Int) { self = index & 1 == 0 ? .receive : .transmit }

    /// The index of a pair's queue; pairs count from 0.
    @inlinable @inline(__always)
    public func queue(ofPair pair: Int) -> Int { 2 * pair + rawValue }
}
