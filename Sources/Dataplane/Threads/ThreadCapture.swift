import Virtio

/// A capture that runs: of which port, and where it goes.
final class CaptureOrder {
    let memory: CaptureMemory
    let port: Int
    /// -1: all of the port's.
    let queue: Int
    /// Bytes of each packet at most.
    let snap: Int
    /// How many ports there can be.
    let places: Int

    init(_ memory: CaptureMemory, port: Int, queue: Int, snap: Int, places: Int) {
        (self.memory, self.port, self.queue, self.snap, self.places) = (memory, port, queue, snap, places)
    }
}

/// What a poll thread keeps of a capture while it runs.
final class ThreadCapture {
    let order: CaptureOrder
    /// The thread's own.
    let room: OwnedValues<CaptureTap>

    init(_ order: CaptureOrder, thread: Int) {
        self.order = order
        let ring = CaptureRing(order.memory, thread: thread)
        room = OwnedValues(
            CaptureTap(ring, port: order.port, queue: order.queue, snap: order.snap, places: order.places))
    }
}
