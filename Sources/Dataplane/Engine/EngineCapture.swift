import Memory
import Virtio

/// A capture that runs, for whoever reads it.
package struct EngineCapture {
    package let memory: CaptureMemory
    /// Why packets go no further, by the numbers of `CapturedHeader.cause` from 1 on.
    package let causes: [String]
}

/// Packets of a port, shown to another process. Threads judge by another function meanwhile, so that nothing is paid
/// where nothing is captured.
extension Engine {
    /// Bytes of each packet that can be asked for.
    package static let snapLengths = 14...Int(PacketSlot.maximumLength)

    /// Has poll threads put what a port sends and receives, or one queue of it, into memory that another process may
    /// read: `snap` bytes of each packet at most. What does not fit is counted there; packets flow as before. It ends
    /// with `endCapture`, with the port, or with the engine. Throws where there is no such queue, or a capture runs.
    package func startCapture(
        port name: String, queue: Int? = nil, snap: Int, ringBytes: Int = CaptureMemory.usualRing
    ) throws(EngineError) -> EngineCapture {
        let (core, port) = try find(name)
        if core.generates { throw EngineError("\(name): generate sends one frame over and over; it is not captured") }
        let queues = 2 * port.options.queuePairs
        if let queue, !(0..<queues).contains(queue) {
            throw EngineError("\(name): queue \(queue): there is no such queue; 0 to \(queues - 1) are")
        }
        if !Engine.snapLengths.contains(snap) {
            throw EngineError(
                "\(name): \(snap) bytes of each packet; \(Engine.snapLengths.lowerBound) to "
                    + "\(Engine.snapLengths.upperBound) are possible")
        }
        if let other = core.judging.capture {
            let names = portOptions.first { $0.place == other.port }.map(\.options.name)
            throw EngineError("\(name): a capture of \(names ?? "a port") runs, and there can be one; end it first")
        }
        let memory: CaptureMemory
        do throws(MemoryError) { memory = try CaptureMemory(threads: core.threads.count, ringBytes: ringBytes) } catch {
            throw EngineError("\(name): no memory for a capture: \(error)")
        }
        core.setCapture(
            CaptureOrder(memory, port: port.port.index, queue: queue ?? -1, snap: snap, places: core.places))
        return EngineCapture(
            memory: memory, causes: DropCause.allCases.map(\.text) + functionNames.dropCauses)
    }

    /// Ends the capture that fills this memory, if it still runs: threads are as they were before when this returns.
    package func endCapture(_ memory: CaptureMemory) {
        guard let core, core.judging.capture?.memory === memory else { return }
        endCapture(core, .stopped)
    }

    func endCapture(_ core: EngineCore, _ end: CaptureMemory.End) {
        guard let memory = core.judging.capture?.memory else { return }
        core.setCapture(nil)
        memory.end = end
    }

    /// Ends the capture of a port that goes.
    func endCapture(_ core: EngineCore, ofPlace place: Int) {
        if core.judging.capture?.port == place { endCapture(core, .portRemoved) }
    }
}
