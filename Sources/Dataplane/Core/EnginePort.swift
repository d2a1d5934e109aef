import CPlatform
import Glibc
import Memory
import Synchronization
import Virtio

/// Who is at a port's other end. Set by its control thread, read by snapshots.
enum PortPresence: UInt8, AtomicRepresentable {
    case never, now, before
}

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
    /// Runs `work` on its control thread, where it has one, and returns when it has run.
    func perform(_ work: @escaping () -> Void)
    /// Descriptors by which another process opens the same device: without them it would go with this one's. Any
    /// thread.
    var devices: [OwnedDescriptor] { get }
    /// Opens these at the next `start`, in place of what the options name.
    func adopt(_ devices: [OwnedDescriptor])
    /// Whoever runs the engine lets its packets pass, or none. On its control thread.
    func linkChanged(isUp: Bool)
    /// Closes it; its rings are stopped afterwards.
    func stop()
    /// After the threads have ended, or have let go of its pairs.
    func dispose()
}

extension EnginePort {
    var queuePairs: Int { options.queuePairs }
    var wasConnected: Bool { true }
    var devices: [OwnedDescriptor] { [] }
    func adopt(_ devices: [OwnedDescriptor]) {}
    func linkChanged(isUp: Bool) {}
}

extension EngineCore {
    /// Makes a port's entries of the table.
    func addPairs(port: Int, _ options: PortOptions, defectFD: Int32) {
        clearPlace(port)
        assign(options.threads, port: port)
        table.setAddress(options.mac, mtu: options.mtu, port)
        for pair in 0..<options.queuePairs {
            var state = PairState(port: port, pair: pair, defectFD: defectFD, pacing: options.pacing ?? pacing)
            state.give(to: assignment(of: port, pair: pair) ?? pair % threads.count)
            state.budget = BudgetState(budget(options), clock: TickClock.shared)
            add(state)
        }
    }

    /// The port's pairs.
    func pairs(of port: any EnginePort) -> [PairPointer] { (0..<port.queuePairs).compactMap { table[port.index, $0] } }

    /// The thread that owns the pair's rings.
    func owner(of p: PairPointer) -> PollThread { threads[Int(p.pointee.owner)] }

    /// Runs `work` on the thread that owns the pair, and returns when it has run. A port's control thread may give the
    /// pair to another thread at any time, so what counts is who owns it when the thread has come to it.
    func onOwner(of p: PairPointer, _ work: @escaping (PollThread) -> Void) {
        var isDone = false
        while !isDone {
            let thread = owner(of: p)
            thread.mailbox.run {
                if p.pointee.owner != UInt32(thread.index) { return }
                work(thread)
                isDone = true
            }
        }
    }

    /// The thread that a pair goes to: the one that it was assigned to, or `Placement`'s choice. `node`: that of its
    /// rings' memory. Nil where there is no such pair. For the port's control thread; of a pair whose rings run it uses
    /// no more than what is that thread's own.
    func choosePlace(port: Int, pair: Int, node: Int) -> PairPlace? {
        guard let p = table[port, pair] else { return nil }
        p.pointee.node = node
        if let thread = assignment(of: port, pair: pair) {
            let cpu = threads[thread].cpu
            return PairPlace(
                pair: p, thread: thread, reason: "thread \(thread)\(cpu < 0 ? "" : " (CPU \(cpu))"), as assigned")
        }
        let choice = Placement.choose(pair: pair, cpus: threads.map(\.cpu), node: node)
        return PairPlace(pair: p, thread: choice.thread, reason: choice.reason)
    }

    /// Gives pairs none of whose rings runs to other threads. The old ones let go of them themselves, between two
    /// bursts, in one trip each. For the port's control thread alone, under which a pair has no other new owner.
    func give(_ places: [PairPlace]) {
        var work = ThreadWork()
        for place in places {
            let (p, thread, old) = (place.pair, place.thread, owner(of: place.pair).index)
            if old != thread { work.add(old) { $0.letGo(p, to: thread) } }
        }
        run(work)
    }

    /// Gives a port's pairs to the threads that they are assigned to, while their rings run: the old ones let go of
    /// them, then the new ones take them, in one trip each. For the port's control thread.
    func moveToAssigned(port: Int, pairs: Int) {
        var (leaving, entering) = (ThreadWork(), ThreadWork())
        for pair in 0..<pairs {
            guard let p = table[port, pair], let place = choosePlace(port: port, pair: pair, node: p.pointee.node)
            else { continue }
            let old = owner(of: p).index
            if place.thread == old { continue }
            let move = PairMove(to: place.thread)
            leaving.add(old) { $0.leave(p, move) }
            entering.add(place.thread) { $0.enter(p, move) }
        }
        run(leaving)
        run(entering)
    }

    /// Runs `body` for each of the port's pairs that is `wanted` (asked here), on the thread that owns it: one trip a
    /// thread. For the port's control thread, under which pairs stay where they are.
    func onPairs(
        of port: Int, _ count: Int, where wanted: (PairPointer) -> Bool = { _ in true },
        _ body: @escaping (PollThread, PairPointer) -> Void
    ) {
        var work = ThreadWork()
        for pair in 0..<count {
            guard let p = table[port, pair], wanted(p) else { continue }
            work.add(owner(of: p).index) { body($0, p) }
        }
        run(work)
    }

    /// The port's own budget, or the engine's. Of a kernel port the option is vhost's (see `DriverPort`).
    func budget(_ options: PortOptions) -> BusyloopBudget {
        options.kind.isKernel ? busyloop : options.busyloop ?? busyloop
    }

    /// Rings that poll threads had to stop, each once: its number and why. For the port's control thread.
    func newDefects(port: Int, pairs: Int) -> [StoppedRing] {
        // One list a thread.
        let lists = threads.map { _ in StoppedRingList() }
        onPairs(of: port, pairs) { thread, p in
            for direction in QueueDirection.allCases {
                if let stopped = thread.takeDefect(p, direction) { lists[thread.index].rings.append(stopped) }
            }
        }
        let all = lists.flatMap(\.rings).sorted { $0.ring < $1.ring }
        for stopped in all where !stopped.defect.isMiss { stops[port].note(stopped.defect) }
        return all
    }

    /// Hands pairs of which Ringway is the driver, or TAP queues, to threads: those of `Placement`'s choice, which are
    /// told. `node` is that of an end's memory.
    func startOther(
        port: Int, _ ends: [(end: QueueEnd, incoming: Int32, node: Int)], offloads: Features,
        budget: BusyloopBudget
    ) -> [String] {
        let places = ends.indices.compactMap { choosePlace(port: port, pair: $0, node: ends[$0].node) }
        give(places)
        var work = ThreadWork()
        for (place, (end, incoming, _)) in zip(places, ends) {
            let p = place.pair
            work.add(place.thread) { thread in
                p.pointee.receiveOffloads = offloads
                thread.startOther(p, end, incoming: incoming, watches: budget != .poll)
            }
        }
        run(work)
        table.setOffloads(offloads, port)
        setActivePairs(ends.count, port: port)
        return places.map(\.reason)
    }

    func stopOther(port: Int, pairs: Int) {
        setActivePairs(0, port: port)
        onPairs(of: port, pairs) { thread, p in if !p.pointee.transmit.end.isGuest { thread.stopOther(p) } }
    }
}

/// Those of one thread, which writes it during `EngineCore.run`.
private final class StoppedRingList {
    var rings: [StoppedRing] = []
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
