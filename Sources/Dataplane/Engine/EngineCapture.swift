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
    /// Captures that there can be at once.
    package static var mostCaptures: Int { CaptureTaps.most }

    /// Has poll threads put what a port sends and receives, or one queue of it, into memory that another process may
    /// read: `snap` bytes of each packet at most. What does not fit is counted there; packets flow as before. It ends
    /// with `endCapture`, with the port, or with the engine. Several can run at once, of one port,
    /// too. Throws where there is no such queue, or `mostCaptures` run.
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
        let running = core.judging.captures
        if running.count >= Engine.mostCaptures {
            throw EngineError("\(name): \(running.count) captures run, and there can be no more; end one first")
        }
        let memory: CaptureMemory
        do throws(MemoryError) { memory = try CaptureMemory(threads: core.threads.count, ringBytes: ringBytes) } catch {
            throw EngineError("\(name): no memory for a capture: \(error)")
        }
        let order = CaptureOrder(memory, port: port.port.index, queue: queue ?? -1, snap: snap, places: core.places)
        core.setCaptures(running + [order])
        return EngineCapture(
            memory: memory, causes: DropCause.allCases.map(\.text) + functionNames.dropCauses)
    }

    /// Ends the capture that fills this memory, if it still runs: nothing is written there any more when this returns.
    package func endCapture(_ memory: CaptureMemory) {
        if let core { endCaptures(core, .stopped) { $0.memory === memory } }
    }

    /// Ends those that are meant. Without any, threads are as they were before the first.
    func endCaptures(
        _ core: EngineCore, _ end: CaptureMemory.End, where isMeant: (CaptureOrder) -> Bool = { _ in true }
    ) {
        let running = core.judging.captures
        let ending = running.filter(isMeant)
        if ending.isEmpty { return }
        core.setCaptures(running.filter { !isMeant($0) })
        for order in ending { order.memory.end = end }
    }
}
