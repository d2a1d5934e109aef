import CPlatform
import Control
import Glibc
import Headers
import Synchronization
import Virtio

/// What ports and threads of one engine share.
final class EngineCore {
    private var tableMemory: PairTableMemory
    /// For control threads, which know by themselves whether a port is there: each place of it can be asked for.
    let table: PairTable
    /// How many ports there can be.
    let places: Int
    let threads: [PollThread]
    let mode: ForwardingMode
    let busyloop: BusyloopBudget
    let pacing: Pacing
    /// What threads judge packets by, or are about to. Control threads ask while a port is added.
    private let judgingNow: Locked<Judging>
    var judging: Judging { judgingNow.value }
    /// The plain switch's addresses.
    var addresses: MACTable? { judging.addresses }
    /// The switch whose ports have options.
    var guarded: SwitchCore? { judging.guarded }
    /// Queues that had to stop, by port.
    let stops: [StopCounts]
    /// By port, each its control thread's: pairs that receive, and whether it is up (`setUp`).
    private let receiving: OwnedMemory<Int>
    private let isUp: OwnedMemory<Bool>
    /// By port: threads that serve its pairs, of those that do not leave it to `Placement`.
    private let assigned = Locked<[Int: [Int]]>([:])

    /// The thread that a pair was assigned to.
    func assignment(of port: Int, pair: Int) -> Int? {
        assigned.withLock { $0[port].map { $0[pair % $0.count] } }
    }

    /// Pair k goes to the k-th of these (counted round) when it starts, or with `moveToAssigned`; none: to
    /// `Placement`'s choice.
    func assign(_ list: [Int], port: Int) { assigned.withLock { $0[port] = list.isEmpty ? nil : list } }

    var generates: Bool { if case .generate = mode { return true } else { return false } }

    init(_ options: EngineOptions, cpus: [Int]) throws(EngineError) {
        mode = options.mode
        busyloop = options.busyloop
        pacing = options.pacing
        let (count, places) = (options.ports.count, options.places)
        self.places = places
        stops = (0..<places).map { _ in StopCounts() }
        receiving = OwnedMemory(count: places, repeating: 0)
        isUp = OwnedMemory(count: places, repeating: true)
        tableMemory = PairTableMemory(portCount: count, places: places)
        table = tableMemory.table
        let isPlain = options.mode == .switch && !options.isGuarded
        var judging = Judging()
        if isPlain { judging.addresses = MACTable(ports: count, places: places, ageing: options.macAgeing) }
        if options.isGuarded {
            judging.guarded = SwitchCore(
                options.members, places: places, ageing: options.macAgeing, threads: cpus.count)
            judging.traits = FunctionTraits(GuardedSwitch.self)
            judging.traits?.judgesAgain = !options.countsPackets
        }
        judgingNow = Locked(judging)
        var boxes: [Mailbox] = []
        for _ in cpus { boxes.append(try Mailbox()) }
        var all: [PollThread] = []
        for (i, cpu) in cpus.enumerated() {
            let thread = try PollThread(
                index: i, cpu: cpu, mailboxes: boxes, table: table, places: places, requests: options.requests)
            thread.state.pointee.notifier.batchesCalls = options.batchesCalls
            all.append(thread)
        }
        for a in all {
            for b in all where a.index != b.index {
                a.state.pointee.exchange.connect(a.index, to: b.index, b.state.pointee.exchange)
            }
        }
        threads = all
    }

    /// Takes each thread its part of `work`, all of it in one trip a thread and side by side; returns when all of it
    /// has run. On one thread work runs in the order in which it was added.
    func run(_ work: ThreadWork) { for (thread, ticket) in post(work) { thread.mailbox.wait(for: ticket) } }

    /// The same, but waits for so long at most. Returns the threads that have not come to it until then; they still do.
    func run(_ work: ThreadWork, within nanoseconds: UInt64) -> [(thread: Int, ticket: WorkQueue.Ticket)] {
        let end = CPlat_monotonic_ns() &+ nanoseconds
        return post(work).filter { !$0.mailbox.wait(for: $1, until: end) }.map { ($0.index, $1) }
    }

    private func post(_ work: ThreadWork) -> [(PollThread, WorkQueue.Ticket)] {
        work.byThread(threads).map { thread, part in (thread, thread.mailbox.post { thread.carryOut(part) }) }
    }

    /// The same of several pieces of work, one after the other: each begins when all threads have done theirs of the
    /// one before. The thread that is the last hands on the next, so between them nothing waits until the caller,
    /// which sleeps, has a CPU again. `afterFirst` runs between the first and the second, on one of the threads.
    /// Returns when all of it has run, and at which nanosecond of CLOCK_MONOTONIC that was.
    func run(_ steps: [ThreadWork], afterFirst: @escaping () -> Void = {}) -> UInt64 {
        StepsOfWork(steps.map { $0.byThread(threads) }, afterFirst).run()
    }

    /// Publishes how many pairs of a port receive, and tells embedders' functions when there are some, or none any
    /// more. On the port's control thread.
    func setActivePairs(_ count: Int, port: Int) {
        receiving[port] = count
        publishPairs(port)
    }

    private func publishPairs(_ port: Int) {
        let wasUp = table.activePairs(port) > 0
        let count = isUp[port] ? receiving[port] : 0
        table.setActivePairs(count, port)
        let isUp = count > 0
        if wasUp == isUp { return }
        for thread in threads where thread.kept != nil {
            _ = thread.mailbox.post { thread.kept?.portChanged(port, isUp: isUp) }
        }
    }

    /// Lets packets of a port pass, or none. On the port's control thread.
    func setUp(_ isUp: Bool, port: Int, pairs: Int) {
        self.isUp[port] = isUp
        // Other ports learn before it that the port does not receive, and after it that it does.
        if !isUp { publishPairs(port) }
        onPairs(of: port, pairs) { $1.pointee.setUp(isUp) }
        if isUp { publishPairs(port) }
    }

    /// Takes a pair over; it lives until it is taken out.
    func add(_ pair: consuming PairState) { _ = tableMemory.add(pair) }

    /// A port's place is as new. For the embedder's thread.
    func clearPlace(_ port: Int) {
        (receiving[port], isUp[port]) = (0, true)
        stops[port].clear()
        table.setAddress(nil, mtu: nil, port)
        table.setOffloads([], port)
    }

    /// A port that has stopped goes: threads let go of its pairs in one trip, then its memory is freed. `read` is
    /// called when nothing of it is under way any more. For the embedder's thread.
    func takeOut(port: Int, reading read: () -> Void) {
        let pairs = tableMemory.takeOut(port: port)
        var work = ThreadWork()
        for thread in threads { work.add(thread.index) { $0.letGo(of: pairs) } }
        run(work)
        read()
        // Here, where no thread learns from the port any more.
        forgetAddresses(port: port)
        tableMemory.free(pairs)
    }

    /// Has all threads know ports up to this number, in one trip. For the embedder's thread.
    func setPortCount(_ count: Int) {
        var work = ThreadWork()
        for thread in threads { work.add(thread.index) { $0.setPortCount(count) } }
        run(work)
    }

    func forgetAddresses(port: Int) {
        let judging = self.judging
        judging.addresses?.forget(port: port)
        judging.guarded?.addresses.forget(port: port)
    }

    /// The switch has other ports now. Threads take what it knows of them in one trip. `members`: by place.
    func setMembers(_ members: [SwitchMember?], ageing: Int, judgesAgain: Bool) {
        let (addresses, old) = (judging.addresses, judging.guarded)
        let count = members.reduce(0) { $0 + ($1 == nil ? 0 : 1) }
        if old == nil && members.allSatisfy({ $0?.port.isPlain ?? true }) {
            addresses?.divide(among: count)
            return
        }
        let new = SwitchCore(members, places: places, ageing: ageing, threads: threads.count, after: old)
        var traits = FunctionTraits(GuardedSwitch.self)
        traits.judgesAgain = judgesAgain
        judgingNow.withLock { ($0.addresses, $0.guarded, $0.traits) = (nil, new, traits) }
        setFunctions()
        // What threads have learned meanwhile.
        if let old { new.takeAddresses(of: old) }
    }

    /// The plain switch's table is another one. For the embedder's thread.
    func setAddresses(_ table: MACTable) {
        judgingNow.withLock { $0.addresses = table }
        setFunctions()
    }

    /// What an embedder's function says of itself: threads that run learn of it where they are told next
    /// (`setFunctions`). For the embedder's thread.
    func setTraits(_ traits: FunctionTraits) { judgingNow.withLock { $0.traits = traits } }

    /// From now on threads capture this, or none: they do not. For the embedder's thread.
    func setCaptures(_ orders: [CaptureOrder]) {
        judgingNow.withLock { $0.captures = orders }
        setFunctions()
    }

    /// Sends a RARP for `mac` as if `port` had sent it, so that switches behind the other ports learn
    /// where the guest now is (SEND_RARP after a migration).
    func announce(mac: [UInt8], from port: Int) {
        guard mac.count == 6 else { return }
        let value = MACAddress(bytes: mac).rawValue
        let seconds = TickClock.shared.seconds(CPlat_cycles())
        let frame = Frames.rarp(mac)
        let (addresses, guarded) = (judging.addresses, judging.guarded)
        if let guarded {
            let all = guarded.announcement(frame, mac: value, from: port, seconds: seconds)
            for (frame, targets) in all { inject(frame, to: targets) }
            return
        }
        addresses?.learn(value, port: port, seconds: seconds)
        switch mode {
        case .switch: inject(frame, to: (0..<places).filter { $0 != port })
        case .crossconnect: inject(frame, to: [port ^ 1])
        default: break
        }
    }

    private func inject(_ frame: [UInt8], to targets: [Int]) {
        var work = ThreadWork()
        for thread in threads { work.add(thread.index) { Forwarder.inject($0.state, frame, to: targets) } }
        run(work)
    }
}

/// What poll threads are to do, collected for `EngineCore.run`.
struct ThreadWork {
    /// What one thread does, in its order.
    fileprivate typealias Part = [(PollThread) -> Void]
    private var parts: [Int: Part] = [:]

    /// `body` runs on that thread, between two bursts. What it writes is read after `run`.
    mutating func add(_ thread: Int, _ body: @escaping (PollThread) -> Void) {
        parts[thread, default: []].append(body)
    }

    /// The part of each of `all` that has any.
    fileprivate func byThread(_ all: [PollThread]) -> [(thread: PollThread, part: Part)] {
        parts.sorted { $0.key < $1.key }.map { (all[$0], $1) }
    }
}

/// Several pieces of work on their way.
///
/// Each step's list is read by whoever hands it on: the caller, then the last thread of the step before.
private final class StepsOfWork {
    private let steps: [[(thread: PollThread, part: ThreadWork.Part)]]
    private let afterFirst: () -> Void
    /// Threads that have not done their part of the step that runs.
    private let missing = Atomic(0)
    private let monitor = Monitor()
    /// Guarded by `monitor`; when all was done.
    private var end: UInt64?

    init(_ steps: [[(thread: PollThread, part: ThreadWork.Part)]], _ afterFirst: @escaping () -> Void) {
        (self.steps, self.afterFirst) = (steps, afterFirst)
    }

    /// Returns when the last step has run.
    func run() -> UInt64 {
        handOn(0)
        monitor.lock()
        defer { monitor.unlock() }
        while true {
            if let end { return end }
            monitor.wait()
        }
    }

    private func handOn(_ step: Int) {
        if step == 1 { afterFirst() }
        guard step < steps.count else { return finish() }
        let parts = steps[step]
        if parts.isEmpty { return handOn(step + 1) }
        missing.store(parts.count, ordering: .relaxed)
        for (thread, part) in parts {
            _ = thread.mailbox.post { [self] in
                thread.carryOut(part)
                // What each thread wrote is seen by the next step, and by the caller.
                if missing.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { handOn(step + 1) }
            }
        }
    }

    private func finish() {
        monitor.lock()
        end = CPlat_monotonic_ns()
        monitor.tellAll()
        monitor.unlock()
    }
}

/// Frames that Ringway makes itself.
package enum Frames {
    /// Bytes of those that are sent for the sake of load: `generate`'s and a null port's.
    static let sizes = 14...9216

    /// Reverse ARP request (RFC 903) that asks for nothing but says where `mac` is, 60 bytes.
    static func rarp(_ mac: [UInt8]) -> [UInt8] {
        var f = [UInt8](repeating: 0xff, count: 6) + mac
        f += [0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x03]
        f += mac + [0, 0, 0, 0] + mac + [0, 0, 0, 0]
        return f + [UInt8](repeating: 0, count: 60 - f.count)
    }

    /// A UDP datagram from 198.18.0.1 to 198.18.0.2 (RFC 2544's test network), `size` bytes with its
    /// Ethernet header; cut if that is too short.
    package static func udp(size: Int) -> [UInt8] {
        let ip = max(28, size - 14)
        var f: [UInt8] = [0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00]
        f += [0x45, 0, UInt8(ip >> 8 & 255), UInt8(ip & 255), 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2]
        f += [0x04, 0x00, 0x04, 0x01, UInt8((ip - 20) >> 8 & 255), UInt8((ip - 20) & 255), 0, 0]
        f += [UInt8](repeating: 0, count: max(0, size - f.count))
        f.withUnsafeMutableBytes { bytes in
            var sum = Checksum()
            sum.add(bytes.baseAddress! + 14, 20)
            (bytes.baseAddress! + 24).storeBytes(of: sum.result, as: UInt16.self)
        }
        return Array(f.prefix(size))
    }
}

/// Queues of a port that had to stop since the engine's start, by cause. Written by the port's control thread, read by
/// anyone.
final class StopCounts: Sendable {
    private let counts = Locked<[UInt8: UInt64]>([:])

    func clear() { counts.withLock { $0 = [:] } }

    func note(_ defect: RingDefect) { counts.withLock { $0[defect.kind.rawValue, default: 0] += 1 } }

    var byCause: [UInt8: UInt64] { counts.withLock { $0 } }

    /// What was counted elsewhere.
    func add(_ other: [UInt8: UInt64]) { counts.withLock { $0.merge(other, uniquingKeysWith: +) } }

    var all: [(cause: String, count: UInt64)] {
        counts.withLock { counts in
            RingDefect.Kind.allCases.compactMap { kind in counts[kind.rawValue].map { ("\(kind)", $0) } }
        }
    }
}
