import CPlatform
import Control
import Glibc
import Logging
import Memory
import Synchronization
import Vhost
import VhostUser
import Virtio

/// A TAP device of this machine's kernel as a port: frames go through io_uring. Its control thread waits for one thing,
/// that the interface goes away, and then for its return.
final class TapPort: EnginePort {
    let index: Int
    let options: PortOptions
    private let core: EngineCore
    private let log: Logger
    private let goneFD: Int32
    /// The interface is there: read by snapshots.
    private let isThere = Atomic(false)
    private let control = ControlThread()

    // The control thread's own, while there is one
    private var tap: Tap?
    /// Of the process that had this port before.
    private var adopted: [OwnedDescriptor] = []
    /// As the kernel has it.
    private var name = ""
    private var ends: OwnedValues<TapEnd>
    /// When to look for an interface of the name again, of which nobody tells: CLOCK_MONOTONIC.
    private var nextLook: UInt64 = 0
    private var lastError = ""

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) throws(EngineError) {
        self.index = index
        self.options = options
        self.core = core
        ends = OwnedValues(capacity: options.queuePairs)
        log = logger
        goneFD = CPlat_eventfd(0)
        if goneFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
        core.addPairs(port: index, options, defectFD: goneFD)
    }

    var isConnected: Bool { isThere.load(ordering: .relaxed) }

    /// Opens or makes the device with a queue for each pair.
    func start() throws(EngineError) {
        try open()
        do throws(ThreadError) { try control.start("ringway-ctl", prepare: { self.prepare(&$0) }) } catch {
            throw EngineError("\(options.name): \(error)")
        }
    }

    private func open() throws(EngineError) {
        guard case .tap(let wanted) = options.kind else { return }
        let tap: Tap
        do throws(VhostError) {
            if !adopted.isEmpty {
                tap = try Tap(descriptors: adopted)
            } else if let number = options.kind.descriptor {
                tap = try Tap(descriptors: [try TapPort.copy(number)])
            } else {
                tap = try Tap(name: name.isEmpty ? wanted : name, queues: options.queuePairs, isNonblocking: false)
            }
            adopted = []
            guard tap.headerLength == 12 else {
                throw VhostError(
                    .features,
                    "tap \(wanted): its frames have no virtio-net header of 12 bytes; make it with "
                        + "`ip tuntap add \(wanted) mode tap vnet_hdr`")
            }
            try tap.setOffloads(PortFeatures.guestOffloads)
        } catch {
            throw EngineError(error.description)
        }
        var offloads: Features = [.guestCsum, .guestTSO4, .guestTSO6, .guestECN]
        if tap.hasUSO { offloads.formUnion([.guestUSO4, .guestUSO6]) }
        (self.tap, name) = (tap, tap.name)
        for queue in tap.queues { ends.add(try TapEnd(fd: queue.fd, goneFD: goneFD)) }
        let all = (0..<ends.count).map { ends.start + $0 }
        _ = core.startOther(
            port: index, all.map { (.tap($0), $0.pointee.incoming, NUMA.node(of: $0)) },
            offloads: offloads, budget: core.budget(options))
        isThere.store(true, ordering: .relaxed)
        log.info(
            """
            \(options.name): interface \(tap.name) with \(options.queuePairs) \
            queue\(options.queuePairs == 1 ? "" : "s")
            """
        )
    }

    /// Of a descriptor that was handed over; as io_uring waits on it, it blocks.
    private static func copy(_ number: Int32) throws(VhostError) -> OwnedDescriptor {
        do throws(VhostUserError) {
            let copy = try HandedDescriptors.copy(number)
            _ = fcntl(copy.fd, F_SETFL, fcntl(copy.fd, F_GETFL) & ~O_NONBLOCK)
            return copy
        } catch {
            throw VhostError(.argument, error.description)
        }
    }

    private func closeTap() {
        isThere.store(false, ordering: .relaxed)
        core.stopOther(port: index, pairs: options.queuePairs)
        ends.removeAll()
        tap = nil
    }

    // MARK: Control thread

    /// Opens the interface again when there is one of its name, and waits until it goes away.
    private func prepare(_ waits: inout ControlThread.Waits) {
        let now = CPlat_monotonic_ns()
        if tap == nil && now >= nextLook && options.kind.descriptor == nil {
            reopen()
            nextLook = now + TapPort.pause
        }
        waits.on(goneFD) { _ in self.interfaceGone() }
        waits.deadline = tap == nil && options.kind.descriptor == nil ? nextLook : nil
    }

    /// Nanoseconds between two looks for an interface of the name.
    private static let pause: UInt64 = 200_000_000

    private func interfaceGone() {
        if tap != nil {
            closeTap()
            core.forgetAddresses(port: index)
            log.error(
                """
                \(options.name): the interface has gone; \(options.kind.descriptor == nil
                    ? "the port waits until there is one of its name again" : "its descriptor is of no use any more")
                """)
            nextLook = CPlat_monotonic_ns() + TapPort.pause
        }
        // After the queues were closed: each of them may have written.
        _ = EventFD.take(goneFD)
    }

    private func reopen() {
        if if_nametoindex(name) == 0 { return }
        do throws(EngineError) {
            try open()
            lastError = ""
        } catch {
            closeTap()
            if error.description != lastError { log.error("\(options.name): \(error)") }
            lastError = error.description
        }
    }

    func perform(_ work: @escaping () -> Void) { control.run(work) }

    var devices: [OwnedDescriptor] {
        var all: [OwnedDescriptor] = []
        control.run { all = self.tap?.queues ?? [] }
        return all
    }

    func adopt(_ devices: [OwnedDescriptor]) {
        adopted = devices
        // Of this process the number says nothing.
        if let number = options.kind.descriptor, let first = devices.first { HandedDescriptors.adopt(number, first) }
    }

    func stop() {
        control.stop()
        closeTap()
    }

    func dispose() {
        close(goneFD)
    }
}
