import CPlatform
import Control
import Glibc
import Logging
import Memory
import Synchronization
import Virtio

/// A network interface as a port, through AF_XDP: a socket for each queue pair, and one program that hands them what
/// their queues receive. Its control thread follows the interface: up and down, its MTU, that it goes and comes back.
final class XDPPort: EnginePort {
    let index: Int
    let options: PortOptions
    private let core: EngineCore
    private let log: Logger
    private let name: String
    private let busyPolls: Bool
    /// Frames can be sent: read by snapshots.
    private let hasCarrier = Atomic(false)
    private let control = ControlThread()
    /// Readable after each change of an interface.
    private let watcher: OwnedDescriptor

    // The control thread's own, while there is one
    /// The interface as it was looked at last, while its queues are open.
    private var link: NetworkLink?
    private var program: XDPProgram?
    private var sockets: [XDPSocket] = []
    private var ends: OwnedValues<XDPEnd>
    /// When to open it again after an attempt that failed: CLOCK_MONOTONIC.
    private var nextAttempt: UInt64?
    private var lastComplaint = ""

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) throws(EngineError) {
        guard case .xdp(let interface, let busyPolls) = options.kind else { preconditionFailure("no XDP port") }
        (name, self.busyPolls) = (interface, busyPolls)
        self.index = index
        self.options = options
        self.core = core
        ends = OwnedValues(capacity: options.queuePairs)
        log = logger
        let size = options.ringSize
        if size < 64 || size & (size - 1) != 0 {
            throw EngineError("\(options.name): queue_size=\(size); 64 to 32768, a power of two")
        }
        watcher = OwnedDescriptor(CPlat_link_watcher())
        if watcher.fd < 0 { throw EngineError("\(options.name): netlink: \(SystemError.text(errno))") }
        core.addPairs(port: index, options, defectFD: -1)
    }

    var isConnected: Bool { hasCarrier.load(ordering: .relaxed) }

    /// Opens the interface's queues, or waits until it is up.
    func start() throws(EngineError) {
        do throws(EngineError) {
            guard let now = try NetworkLink(name) else {
                throw EngineError("there is no interface \(name); see `ip link`")
            }
            if now.isUp {
                try open(now)
            } else {
                complain("interface \(name) is down; set it up: `ip link set \(name) up`")
            }
        } catch {
            close()
            throw EngineError("\(options.name): \(error)")
        }
        do throws(ThreadError) { try control.start("ringway-ctl", prepare: { self.prepare(&$0) }) } catch {
            throw EngineError("\(options.name): \(error)")
        }
    }

    func perform(_ work: @escaping () -> Void) { control.run(work) }

    func stop() {
        control.stop()
        close()
    }

    func dispose() {}

    // MARK: Opening and closing

    private func open(_ now: NetworkLink) throws(EngineError) {
        if !now.isEthernet { throw EngineError("interface \(name) is no Ethernet") }
        let queues = options.queuePairs
        if now.queues > 0 && queues > now.queues {
            throw EngineError(
                "queues=\(queues), and interface \(name) has \(now.queues); `ethtool -L` may give it more")
        }
        let program = try XDPProgram(now, queues: queues)
        var all: [XDPSocket] = []
        for queue in 0..<queues {
            let socket = try XDPSocket(
                name, index: now.index, queue: queue, size: options.ringSize, node: now.node,
                pieces: program.takesPieces, busyPolls: busyPolls)
            try program.set(queue, to: socket)
            all.append(socket)
        }
        (self.program, sockets, link) = (program, all, now)
        for socket in sockets { ends.add(XDPEnd(socket, longest: now.longestFrame, busyPolls: busyPolls)) }
        let places = (0..<ends.count).map { ends.start + $0 }
        let fillsChecksums = sockets.allSatisfy(\.fillsChecksums)
        _ = core.startOther(
            port: index, places.map { (.xdp($0), $0.pointee.incoming, $0.pointee.node) },
            offloads: fillsChecksums ? .guestCsum : [], budget: core.budget(options))
        (lastComplaint, nextAttempt) = ("", nil)
        describe(now, program)
        setCarrier(now.hasCarrier)
        core.table.setAddress(now.address, mtu: UInt16(clamping: now.mtu), index)
    }

    /// What was opened, for the log.
    private func describe(_ now: NetworkLink, _ program: XDPProgram) {
        let queues = "\(sockets.count) queue\(sockets.count == 1 ? "" : "s")"
        let place = program.isNative ? "native XDP" : "generic XDP (the driver takes none: \(program.whyNot))"
        let zero = sockets.filter(\.isZeroCopy).count
        let copies =
            zero == sockets.count
            ? "zero copy" : zero == 0 ? "copy mode (the driver has no zero copy)" : "zero copy of \(zero) queues"
        log.info(
            """
            \(options.name): interface \(name) with \(queues): \(place), \(copies), MTU \(now.mtu); UMEM of \
            \(sockets[0].memory.summary) a queue
            """)
        if now.queues > sockets.count {
            log.warning(
                """
                \(options.name): interface \(name) has \(now.queues) queues, and what those from \(sockets.count) on \
                receive goes to the kernel; `ethtool -L \(name) combined \(sockets.count)` leaves none of them
                """)
        }
        if now.stripsTags {
            log.warning(
                """
                \(options.name): interface \(name) takes VLAN tags off, which XDP does not see; `ethtool -K \(name) \
                rxvlan off` keeps them
                """)
        }
    }

    private func close() {
        hasCarrier.store(false, ordering: .relaxed)
        // Frames go to the kernel from here on.
        program = nil
        core.stopOther(port: index, pairs: options.queuePairs)
        ends.removeAll()
        for (queue, socket) in sockets.enumerated() {
            if let losses = socket.losses {
                log.info("\(options.name): queue \(queue), by the kernel's count: \(losses)")
            }
        }
        (sockets, link) = ([], nil)
    }

    // MARK: Control thread

    private func prepare(_ waits: inout ControlThread.Waits) {
        if let due = nextAttempt, CPlat_monotonic_ns() >= due { look() }
        waits.on(watcher.fd) { _ in
            CPlat_link_watcher_drain(self.watcher.fd)
            self.look()
        }
        waits.deadline = nextAttempt
    }

    /// Nanoseconds between two attempts to open an interface that cannot be.
    private static let pause: UInt64 = 1_000_000_000

    /// Some interface has changed.
    private func look() {
        nextAttempt = nil
        do throws(EngineError) {
            let now = try NetworkLink(name)
            if let link, now?.index != link.index {
                close()
                core.forgetAddresses(port: index)
                log.error("\(options.name): interface \(name) has gone; the port waits until there is one of its name")
            }
            guard let now else { return }
            if link != nil {
                if program?.takesPieces == true || !now.needsPieces { return follow(now) }
                log.info("\(options.name): interface \(name) has MTU \(now.mtu) now, and its queues are opened anew")
                close()
            }
            if now.isUp { try open(now) }
        } catch {
            close()
            complain("\(error)")
            nextAttempt = CPlat_monotonic_ns() + XDPPort.pause
        }
    }

    /// Takes over what has changed of an interface whose queues are open.
    private func follow(_ now: NetworkLink) {
        let old = link
        link = now
        core.table.setAddress(now.address, mtu: UInt16(clamping: now.mtu), index)
        if old?.mtu != now.mtu {
            core.onPairs(of: index, options.queuePairs) { _, pair in
                if case .xdp(let end) = pair.pointee.receive.end { end.pointee.longest = now.longestFrame }
            }
            log.info("\(options.name): interface \(name) has MTU \(now.mtu) now")
        }
        if old?.hasCarrier != now.hasCarrier { setCarrier(now.hasCarrier) }
    }

    /// Others send to the port while its interface has its link.
    private func setCarrier(_ isThere: Bool) {
        hasCarrier.store(isThere, ordering: .relaxed)
        core.setActivePairs(isThere ? options.queuePairs : 0, port: index)
        if isThere {
            log.info("\(options.name): interface \(name) has its link")
        } else {
            core.forgetAddresses(port: index)
            log.warning("\(options.name): interface \(name) has no link; packets to it are dropped until it has")
        }
    }

    /// Once for each reason.
    private func complain(_ text: String) {
        if text != lastComplaint { log.error("\(options.name): \(text)") }
        lastComplaint = text
    }
}
