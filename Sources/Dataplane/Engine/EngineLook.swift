import CPlatform
import Virtio

/// All ports, queues and threads at one moment. Two of them tell what stands still, and why.
package struct EngineLook: Sendable {
    package struct Port: Sendable {
        package var name: String
        package var kind: PortKind
        package var place: Int
        /// As `PortSnapshot.serial`.
        package var serial: UInt64
        package var isUp: Bool
        package var isConnected: Bool
    }

    /// CLOCK_MONOTONIC.
    package var nanoseconds: UInt64
    package var ports: [Port]
    /// By ports and queues. A pair that was on its way to another thread is missing.
    package var queues: [QueueLook]
    package var threads: [ThreadSnapshot]
}

extension Engine {
    /// Pairs that a thread looks at in one trip, so that packets wait for microseconds at most.
    private var pairsInTrip: Int { 64 }

    /// Each thread looks at its rings between two bursts. Nothing of a queue changes. Nil where the engine does not
    /// run.
    package func look() -> EngineLook? {
        guard let core else { return nil }
        let all = ports.compactMap(\.self)
        let pairs = all.flatMap { core.pairs(of: $0.port) }
        var queues: [QueueLook] = []
        for start in stride(from: 0, to: pairs.count, by: pairsInTrip) {
            queues += core.look(at: pairs[start..<min(start + pairsInTrip, pairs.count)])
        }
        return EngineLook(
            nanoseconds: CPlat_monotonic_ns(),
            ports: all.map {
                EngineLook.Port(
                    name: $0.options.name, kind: $0.options.kind, place: $0.port.index, serial: $0.serial,
                    isUp: $0.isUp, isConnected: $0.port.isConnected)
            },
            queues: queues.sorted { ($0.place, $0.queue) < ($1.place, $1.queue) }, threads: threadSnapshots())
    }
}

extension EngineCore {
    fileprivate func look(at pairs: ArraySlice<PairPointer>) -> [QueueLook] {
        let lists = threads.map { _ in QueueLookList() }
        var work = ThreadWork()
        for thread in threads {
            let own = pairs.filter { $0.pointee.owner == UInt32(thread.index) }
            if own.isEmpty { continue }
            work.add(thread.index) { thread in
                // One that was given to another thread meanwhile is that one's.
                for pair in own where pair.pointee.owner == UInt32(thread.index) {
                    for direction in QueueDirection.allCases {
                        lists[thread.index].looks.append(pair.pointee.look(direction))
                    }
                }
            }
        }
        run(work)
        return lists.flatMap(\.looks)
    }
}

/// Those of one thread, which writes it during `EngineCore.run`.
private final class QueueLookList {
    var looks: [QueueLook] = []
}
