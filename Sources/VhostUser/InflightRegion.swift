import Memory
import Virtio

/// The inflight region ("Inflight I/O tracking"): memory that the front-end keeps for a back-end that may crash.
struct InflightRegion {
    let region: SharedRegion
    /// Queues, and descriptors of the largest.
    let queues: Int
    let queueSize: UInt32

    /// The part of one queue, if it has one and fits.
    func queue(_ i: Int, size: UInt32, isPacked: Bool) -> InflightQueue? {
        let stride = InflightQueue.bytes(size: queueSize, isPacked: isPacked)
        guard i < queues, size <= queueSize, UInt64((i + 1) * stride) <= region.size else { return nil }
        return InflightQueue(base: region.start + i * stride, size: size, isPacked: isPacked)
    }
}
