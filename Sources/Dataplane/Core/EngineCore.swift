import CPlatform
import Glibc
import Synchronization
import Headers
import Virtio

/// What ports and threads of one engine share.
final class EngineCore {
    private var tableMemory: PairTableMemory
    let table: PairTable
    let threads: [PollThread]
    let mode: ForwardingMode
    let busyloop: BusyloopBudget
    let pacing: Pacing
    /// The plain switch's addresses; nil in other modes.
    let addresses: MACTable?
    /// The switch whose ports have options; nil in other modes.
    let guarded: SwitchCore?
    /// Queues that had to stop, by port.
    let stops: [StopCounts]

    var generates: Bool { if case .generate = mode { return true } else { return false } }

    init(_ options: EngineOptions, cpus: [Int]) throws(EngineError) {
        mode = options.mode
        busyloop = options.busyloop
        pacing = options.pacing
        stops = options.ports.map { _ in StopCounts() }
        tableMemory = PairTableMemory(portCount: options.ports.count)
        table = tableMemory.table
        let (isPlain, isGuarded) = (options.mode == .switch && !options.isGuarded, options.isGuarded)
        addresses = isPlain ? MACTable(ports: options.ports.count, ageing: options.macAgeing) : nil
        guarded = isGuarded ? SwitchCore(options.members, ageing: options.macAgeing, threads: cpus.count) : nil
        var boxes: [Mailbox] = []
        for _ in cpus { boxes.append(try Mailbox()) }
        var all: [PollThread] = []
        for (i, cpu) in cpus.enumerated() {
            let thread = try PollThread(
                index: i, cpu: cpu, mailboxes: boxes, table: table, requests: options.requests)
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
    func run(_ work: ThreadWork) {
        let tickets = work.parts.sorted { $0.key < $1.key }.map { index, part in
            let thread = threads[index]
            return (thread, thread.mailbox.post { for body in part { body(thread) } })
        }
        for (thread, ticket) in tickets { thread.mailbox.wait(for: ticket) }
    }

    /// Publishes how many pairs of a port receive, and tells embedders' functions when there are some, or none any
    /// more. On the port's control thread.
    func setActivePairs(_ count: Int, port: Int) {
        let wasUp = table.activePairs(port) > 0
        table.setActivePairs(count, port)
        let isUp = count > 0
        if wasUp == isUp { return }
        for thread in threads where thread.kept != nil {
            _ = thread.mailbox.post { thread.kept?.portChanged(port, isUp: isUp) }
        }
    }

    /// Takes a pair over; it lives as long as this.
    func add(_ pair: consuming PairState) -> PairPointer { tableMemory.add(pair) }

    func forgetAddresses(port: Int) {
        addresses?.forget(port: port)
        guarded?.addresses.forget(port: port)
    }

    /// Sends a RARP for `mac` as if `port` had sent it, so that switches behind the other ports learn
    /// where the guest now is (SEND_RARP after a migration).
    func announce(mac: [UInt8], from port: Int) {
        guard mac.count == 6 else { return }
        let value = mac.enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
        let seconds = TickClock.shared.seconds(CPlat_cycles())
        let frame = Frames.rarp(mac)
        if let guarded {
            let all = guarded.announcement(frame, mac: value, from: port, seconds: seconds)
            for (frame, targets) in all { inject(frame, to: targets) }
            return
        }
        addresses?.learn(value, port: port, seconds: seconds)
        switch mode {
        case .switch: inject(frame, to: (0..<table.portCount).filter { $0 != port })
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
    fileprivate var parts: [Int: [(PollThread) -> Void]] = [:]

    /// `body` runs on that thread, between two bursts. What it writes is read after `run`.
    mutating func add(_ thread: Int, _ body: @escaping (PollThread) -> Void) {
        parts[thread, default: []].append(body)
    }
}

/// Frames that Ringway makes itself.
package enum Frames {
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
    private let counts = Mutex<[UInt8: UInt64]>([:])

    func note(_ defect: RingDefect) { counts.withLock { $0[defect.kind.rawValue, default: 0] += 1 } }

    var all: [(cause: String, count: UInt64)] {
        counts.withLock { counts in
            RingDefect.Kind.allCases.compactMap { kind in counts[kind.rawValue].map { ("\(kind)", $0) } }
        }
    }
}
