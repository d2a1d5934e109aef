import CPlatform
import Glibc
import Synchronization
import Virtio

/// A port as the engine sees it.
protocol EnginePort: AnyObject {
    var index: Int { get }
    var options: PortOptions { get }
    /// Somebody is at the other end.
    var isConnected: Bool { get }
    /// Somebody is or was at the other end since the start.
    var wasConnected: Bool { get }
    /// Opens it; from here on it has a control thread of its own where it needs one.
    func start() throws(EngineError)
    /// Closes it; its rings are stopped afterwards.
    func stop()
    /// After the threads have ended.
    func deallocate()
}

extension EnginePort {
    var queuePairs: Int { options.queuePairs }
    var wasConnected: Bool { true }
}

extension EngineCore {
    /// Makes a port's entries of the table.
    func addPairs(port: Int, _ options: PortOptions, defectFD: Int32) {
        for pair in 0..<options.queuePairs {
            let p = PairPointer.allocateApart(capacity: 1)
            p.initialize(to: PairState(port: port, pair: pair, defectFD: defectFD, pacing: options.pacing ?? pacing))
            CPlat_store32_relaxed(PairState.owner(p), UInt32(pair % threads.count))
            p.pointee.budget = BudgetState(budget(options), clock: TickClock.shared)
            table[port, pair] = p
        }
    }

    /// The thread that owns the pair's rings.
    func owner(of p: PairPointer) -> PollThread { threads[Int(CPlat_load32_relaxed(PairState.owner(p)))] }

    /// Runs `work` on the thread that owns the pair, and returns when it has run. A port's control thread may give the
    /// pair to another thread at any time, so what counts is who owns it when the thread has come to it.
    func onOwner(of p: PairPointer, _ work: @escaping (PollThread) -> Void) {
        var isDone = false
        while !isDone {
            let thread = owner(of: p)
            thread.mailbox.run {
                if CPlat_load32_relaxed(PairState.owner(p)) != UInt32(thread.index) { return }
                work(thread)
                isDone = true
            }
        }
    }

    /// Gives a pair none of whose rings runs to another thread. The old one lets go of it itself, between two bursts.
    func give(_ p: PairPointer, to thread: Int) {
        onOwner(of: p) { $0.letGo(p, to: thread) }
    }

    func removePairs(port: Int, _ count: Int) {
        for pair in 0..<count {
            table[port, pair]?.deinitialize(count: 1)
            table[port, pair]?.deallocate()
            table[port, pair] = nil
        }
    }

    /// The port's own budget, or the engine's. Of a kernel port the option is vhost's (see `DriverPort`).
    func budget(_ options: PortOptions) -> BusyloopBudget {
        options.kind.isKernel ? busyloop : options.busyloop ?? busyloop
    }

    /// Rings that poll threads had to stop, each once: its number and why.
    func newDefects(port: Int, pairs: Range<Int>) -> [(ring: Int, defect: RingDefect, errFD: Int32)] {
        var all: [(Int, RingDefect, Int32)] = []
        for pair in pairs {
            guard let p = table[port, pair] else { continue }
            onOwner(of: p) { _ in
                for isReceive in [true, false] {
                    let q = PollThread.queue(p, isReceive)
                    let defect = q.pointee.end.defect(isReceive: isReceive)
                    if (q.pointee.isReported || defect.kind != .none) && !q.pointee.isLogged {
                        q.pointee.isLogged = true
                        all.append((2 * pair + (isReceive ? 0 : 1), defect, q.pointee.errFD))
                    }
                }
            }
        }
        for (_, defect, _) in all { stops[port].note(defect) }
        return all
    }

    /// Hands a pair of which Ringway is the driver, or a TAP queue, to a thread: the one of `Placement`'s choice, which
    /// is told.
    func startOther(
        port: Int, pair: Int, _ end: QueueEnd, incoming: Int32, offloads: Features, memory: UnsafeMutableRawPointer,
        budget: BusyloopBudget
    ) -> String {
        guard let p = table[port, pair] else { return "no such pair" }
        let choice = Placement.choose(pair: pair, cpus: threads.map(\.cpu), memory: memory)
        give(p, to: choice.thread)
        let thread = threads[choice.thread]
        thread.mailbox.run {
            p.pointee.receiveOffloads = offloads
            thread.startOther(p, end, incoming: incoming, watches: budget != .poll)
        }
        return choice.reason
    }

    func stopOther(port: Int, pairs: Int) {
        setActivePairs(0, port: port)
        for pair in 0..<pairs {
            guard let p = table[port, pair], !p.pointee.transmit.end.isGuest else { continue }
            onOwner(of: p) { $0.stopOther(p) }
        }
    }
}

extension Features {
    /// What may be sent to a device that offers these: its HOST_* bits seen as a receiver's GUEST_* bits.
    var asReceiver: Features {
        let pairs: [(Features, Features)] = [
            (.csum, .guestCsum), (.hostTSO4, .guestTSO4), (.hostTSO6, .guestTSO6), (.hostECN, .guestECN),
            (.hostUSO, [.guestUSO4, .guestUSO6]),
        ]
        return pairs.reduce(Features()) { contains($1.0) ? $0.union($1.1) : $0 }
    }
}

/// Queues of a port that had to stop since the engine's start, by cause. Written by the port's control thread, read by
/// anyone.
final class StopCounts: Sendable {
    private let counts = Mutex<[UInt8: UInt64]>([:])

    func note(_ defect: RingDefect) { counts.withLock { $0[defect.kind.rawValue, default: 0] += 1 } }

    var all: [(cause: String, count: UInt64)] {
        counts.withLock { counts in
            RingDefect.Kind.allCases.compactMap { kind in counts[kind.rawValue].map { ("\(kind)", $0) } }
        }
    }
}
