import Headers
import Logging
import VhostUser

/// Where packets go.
public enum ForwardingMode: Sendable, Equatable {
    /// Two ports, queue pair to queue pair.
    case crossconnect
    /// Any number of ports: MAC learning, flooding of what is unknown.
    case `switch`
    /// Back to the port it came from, MAC addresses swapped.
    case macswap
    /// Nowhere: received and thrown away.
    case drop
    /// The guest's receive rings are filled with packets of `size` bytes (14…9216, without CRC).
    case generate(size: Int)
}

/// One port of an engine.
public struct PortOptions: Sendable, Equatable {
    /// What is at its other end.
    public var kind: PortKind
    /// Queue pairs offered, 1…128.
    public var queuePairs = 1
    /// The most that `queuePairs` may say.
    public static var maximumQueuePairs: Int { PairTable.pairsPerPort }
    /// MTU offered to the driver in bytes (68…65535), nil: the feature is not offered.
    public var mtu: UInt16?
    /// MAC address offered to the driver (6 bytes), nil: the feature is not offered.
    public var mac: [UInt8]?
    /// Nil: the engine's. On a kernel port (`/dev/vhost-net`) it is not Ringway's own: microseconds are set with
    /// VHOST_SET_VRING_BUSYLOOP_TIMEOUT on each queue.
    public var busyloop: BusyloopBudget?
    /// vhost-user ports: what a busy ring is tuned for; nil: the engine's.
    public var pacing: Pacing?
    /// Poll threads that serve its queue pairs, by number: pair k the k-th, counted round. Empty: pair k goes to thread
    /// k (counted round), or as near as there is one to the memory of its rings.
    public var threads: [Int] = []
    /// vhost-user ports: RING_RESET is offered. Not to QEMU: it lets its driver reset a queue and tells a vhost-user
    /// back-end nothing of it (`ethtool -G`), which would go on in memory that is no ring any more.
    public var offersRingReset = false
    /// Ports that listen on a socket: who may connect to it.
    public var socketAccess = SocketAccess()
    /// Driver-side ports: packed rings (virtio 1.3, 2.8) are wanted where the back-end has them.
    public var wantsPacked = false
    /// Driver-side ports: IN_ORDER is accepted where the back-end has it (virtio 1.3, 2.7.9 and 2.8.8).
    public var wantsInOrder = true
    /// Driver-side ports: descriptors of each ring, less where the back-end takes less.
    public var ringSize = 1024

    /// `ForwardingMode.switch`: VLANs, limits, and what else the port may do.
    public var switching = SwitchPort()

    /// One queue pair; everything else as the engine's options say.
    public init(_ kind: PortKind) { self.kind = kind }

    /// What errors and tables call the port.
    public var name: String { kind.name }
}

/// What an engine is made of. `Engine.init` checks it: what cannot be is an `EngineError` that names it.
public struct EngineOptions: Sendable, Equatable {
    /// In an order that counts: a packet function numbers ports by their places here.
    public var ports: [PortOptions]
    /// Where packets go; of no meaning to an engine with a packet function of its own.
    public var mode: ForwardingMode
    /// CPUs of the poll threads, one thread each; empty: one thread, on a CPU of the machine's choice.
    public var cpus: [Int]
    /// Poll threads that are not pinned, where `cpus` is empty: there may be more than CPUs. They give way to each
    /// other.
    public var unpinnedThreads = 1
    /// For how long queues are polled before their thread sleeps; a port may differ.
    public var busyloop: BusyloopBudget
    /// What busy rings are tuned for.
    public var pacing = Pacing.auto
    /// Seconds after which the switch forgets a MAC address that was not heard of.
    public var macAgeing = 300
    /// Calls to drivers are submitted together, one system call a round. False: each by itself, for comparison.
    public var batchesCalls = true
    /// Microseconds that an embedder's packet function may take for a burst before it is counted as slow
    /// (`ThreadSnapshot`). `Engine.setFunctionBudget` changes it later.
    public var functionBudget = 100
    /// How many ports there can be at once, those that are added later included: 1 to 4096, with `crossconnect` 2.
    /// Where it is given, the engine may start without ports. Nil: 64, or as many as `ports` has if these are more.
    public var mostPorts: Int?
    /// Calls, and other requests to the kernel, that a poll thread gathers at most before it hands them over, 2 to
    /// 1024.
    public var requests = 1024

    /// Everything else as it stands at the properties.
    public init(ports: [PortOptions], mode: ForwardingMode, cpus: [Int] = [], busyloop: BusyloopBudget = .auto) {
        self.ports = ports
        self.mode = mode
        self.cpus = cpus
        self.busyloop = busyloop
    }
}

extension EngineOptions {
    /// A switch whose packets are looked at for what a port's options say.
    var isGuarded: Bool { mode == .switch && ports.contains { !$0.switching.isPlain } }

    /// The ports as the switch sees them.
    var members: [SwitchMember] { ports.map(\.member) }

    /// Packets are counted against rates, and so are judged once.
    var countsPackets: Bool { ports.contains(where: \.countsPackets) }

    /// Poll threads.
    package var threadCount: Int { cpus.isEmpty ? unpinnedThreads : cpus.count }

    /// Places that are reserved for ports.
    var places: Int { mode == .crossconnect ? 2 : mostPorts ?? max(64, ports.count) }
}

extension PortOptions {
    /// As a switch sees it.
    var member: SwitchMember {
        SwitchMember(name, mac: address, switching)
    }

    /// `mac` as one value.
    package var address: MACAddress? { mac.flatMap { $0.isEmpty ? nil : MACAddress(bytes: $0) } }

    /// Its packets are counted against rates.
    var countsPackets: Bool {
        switching.limits.contains { $0.limit != nil }
    }
}

/// Packets and bytes (of frames, without net headers and CRC) since the engine started.
public struct DirectionCounters: Sendable, Equatable {
    /// Frames.
    public var packets: UInt64 = 0
    /// Of the frames.
    public var bytes: UInt64 = 0
    /// Zeros.
    public init() {}
}

/// Events of a virtqueue since the engine started. On a driver-side port kicks are what the back-end called, calls what
/// it was kicked.
public struct QueueSnapshot: Sendable, Equatable {
    /// Virtqueue index: 2k is pair k's receive queue, 2k + 1 its transmit queue.
    public var queue: Int
    /// That its thread has seen: a queue that is polled watches none.
    public var kicks: UInt64
    /// To the driver, for used buffers.
    public var calls: UInt64
    /// Received from a transmit queue, or delivered into a receive queue.
    public var packets: UInt64 = 0
    /// Of these frames.
    public var bytes: UInt64 = 0

    /// What was added after `earlier`.
    public func since(_ earlier: QueueSnapshot) -> QueueSnapshot {
        QueueSnapshot(
            queue: queue, kicks: kicks &- earlier.kicks, calls: calls &- earlier.calls,
            packets: packets &- earlier.packets, bytes: bytes &- earlier.bytes)
    }
}

/// A port's counters at one moment; exact when its threads are at rest, a few packets old otherwise.
///
/// Every packet is counted once: over all ports, at rest, `rx.packets` + `made` = `tx.packets` + all `drops` +
/// `flooded` + `consumed`.
public struct PortSnapshot: Sendable, Equatable {
    /// As `PortOptions.name`.
    public var name: String
    /// The number that packet functions know it by.
    public var place = 0
    /// Ports that the engine had before this one: tells apart ports that followed each other in one place.
    public var serial: UInt64 = 0
    /// False: whoever runs the engine lets none of its packets pass (`Engine.setUp`).
    public var isUp = true
    /// Somebody is at the other end; of a TAP port: it is open.
    public var isConnected: Bool
    /// Somebody is, or was, at the other end since the engine started.
    public var wasConnected = true
    /// Received from the port's driver.
    public var rx: DirectionCounters
    /// Delivered to the port's driver.
    public var tx: DirectionCounters
    /// Packets that went no further, by cause; causes with a count of zero are left out. What a receiver did not take
    /// is counted at the receiver's port, or, where a packet came back for want of buffers from another thread, at the
    /// sender's.
    public var drops: [(cause: String, count: UInt64)]
    /// Packets received from the port's driver that were flooded. Each copy is a packet that was made for its receiver.
    public var flooded: UInt64 = 0
    /// Packets received from the port's driver that were for the packet function itself (`Verdict.consumed`).
    public var consumed: UInt64 = 0
    /// Packets that Ringway made for the port's driver: copies of flooded ones, the further segments of one that was
    /// cut, RARPs, and what `generate` sends.
    public var made: UInt64 = 0
    /// Of all its virtqueues but the control queue.
    public var queues: [QueueSnapshot] = []
    /// Queues that had to stop since the start, by what was wrong with their rings (the name of a `RingDefect.Kind`).
    public var stoppedQueues: [(cause: String, count: UInt64)] = []

    public static func == (a: PortSnapshot, b: PortSnapshot) -> Bool {
        a.name == b.name && a.place == b.place && a.serial == b.serial && a.isUp == b.isUp
            && a.isConnected == b.isConnected && a.wasConnected == b.wasConnected && a.rx == b.rx
            && a.tx == b.tx
            && a.flooded == b.flooded && a.consumed == b.consumed && a.made == b.made && a.queues == b.queues
            && a.drops.map(\.cause) == b.drops.map(\.cause) && a.drops.map(\.count) == b.drops.map(\.count)
            && a.stoppedQueues.elementsEqual(b.stoppedQueues, by: ==)
    }
}

/// A poll thread at one moment.
public struct ThreadSnapshot: Sendable, Equatable {
    /// -1: not pinned.
    public var cpu: Int
    /// Cycles of the time-stamp counter spent in rounds that had work, since the start.
    public var busyCycles: UInt64
    /// The same in nanoseconds.
    public var busyNanoseconds: UInt64 {
        UInt64(Double(busyCycles) * 1000 / Double(TickClock.shared.ticksPerMicrosecond))
    }
    /// System calls of its io_uring since the start: submitting calls and kicks to drivers, sleeping.
    public var systemCalls: UInt64
    /// CPU time since the start.
    public var cpuNanoseconds: UInt64
    /// An embedder's packet function, by its type; nil: one of Ringway's own modes.
    public var function: String?
    /// Bursts since the start in which it took longer than `EngineOptions.functionBudget`. A
    /// thread that waits for its function, or was not on its CPU, serves nobody.
    public var slowBursts: UInt64 = 0
    /// The longest that it took for a burst since the start.
    public var longestNanoseconds: UInt64 = 0

    /// What was added after `earlier`.
    public func since(_ earlier: ThreadSnapshot) -> ThreadSnapshot {
        ThreadSnapshot(
            cpu: cpu, busyCycles: busyCycles &- earlier.busyCycles, systemCalls: systemCalls &- earlier.systemCalls,
            cpuNanoseconds: cpuNanoseconds &- earlier.cpuNanoseconds, function: function,
            slowBursts: slowBursts &- earlier.slowBursts, longestNanoseconds: longestNanoseconds)
    }
}
