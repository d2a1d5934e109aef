import CPlatform
import Control
import Synchronization
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

    /// Nanoseconds that are waited for threads which look at their rings.
    private var patience: UInt64 { 500_000_000 }

    /// Poll threads that have not come round since an earlier call of this, or of `look`, asked them to, and since
    /// when. None that sleeps: it is not woken for this. Nobody waits for anything here, so a thread that hangs in its
    /// packet function does not hang whoever asks.
    package func lateThreads() -> [LateThread] {
        guard let core else { return [] }
        let now = CPlat_monotonic_ns()
        var late: [LateThread] = []
        for thread in core.threads {
            if let probe = probes[thread.index] {
                if !thread.mailbox.wait(for: probe.ticket, until: 0) {
                    late.append(LateThread(thread: thread.index, cpu: thread.cpu, nanoseconds: now &- probe.since))
                    continue
                }
                probes[thread.index] = nil
            }
            // Its work is done, and there is none that it would have to see.
            if thread.mailbox.isAsleep.load(ordering: .relaxed) { continue }
            probes[thread.index] = ThreadProbe(ticket: thread.mailbox.post {}, since: now)
        }
        return late
    }

    /// Each thread looks at its rings between two bursts. Nothing of a queue changes. Nil where the engine does not
    /// run, or a thread does not come to it within half a second; `lateThreads` names it then.
    package func look() -> EngineLook? {
        guard let core else { return nil }
        let all = ports.compactMap(\.self)
        let pairs = all.flatMap { core.pairs(of: $0.port) }
        var queues: [QueueLook] = []
        for start in stride(from: 0, to: pairs.count, by: pairsInTrip) {
            let (looks, late) = core.look(at: pairs[start..<min(start + pairsInTrip, pairs.count)], within: patience)
            if !late.isEmpty {
                let now = CPlat_monotonic_ns()
                for (thread, ticket) in late { probes[thread] = ThreadProbe(ticket: ticket, since: now &- patience) }
                return nil
            }
            queues += looks
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
    fileprivate func look(
        at pairs: ArraySlice<PairPointer>, within nanoseconds: UInt64
    ) -> ([QueueLook], late: [(thread: Int, ticket: WorkQueue.Ticket)]) {
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
        let late = run(work, within: nanoseconds)
        // A thread that is late may write its list at any time.
        return (late.isEmpty ? lists.flatMap(\.looks) : [], late)
    }
}

/// A poll thread that has not come round for so long.
package struct LateThread: Sendable {
    package let thread: Int
    /// -1: not pinned.
    package let cpu: Int
    package let nanoseconds: UInt64
}

/// Those of one thread, which writes it during `EngineCore.run`.
private final class QueueLookList {
    var looks: [QueueLook] = []
}
