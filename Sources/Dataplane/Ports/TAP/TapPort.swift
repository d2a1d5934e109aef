import CPlatform
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
    /// Tells the control thread to end.
    private let isStopping = Atomic(false)
    private var thread: NamedThread?
    private var tap: Tap?
    /// As the kernel has it.
    private var name = ""
    private var ends: [UnsafeMutablePointer<TapEnd>] = []

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) throws(EngineError) {
        self.index = index
        self.options = options
        self.core = core
        log = logger
        goneFD = CPlat_eventfd(0)
        if goneFD < 0 { throw EngineError("eventfd: \(SystemError.text(errno))") }
        core.addPairs(port: index, options, defectFD: goneFD)
    }

    var isConnected: Bool { isThere.load(ordering: .relaxed) }

    /// Opens or makes the device with a queue for each pair.
    func start() throws(EngineError) {
        try open()
        do { thread = try NamedThread("ringway-ctl") { self.watch() } } catch {
            throw EngineError("\(options.name): \(error)")
        }
    }

    private func open() throws(EngineError) {
        guard case .tap(let wanted) = options.kind else { return }
        let tap: Tap
        do throws(VhostError) {
            tap = try Tap(name: name.isEmpty ? wanted : name, queues: options.queuePairs, isNonblocking: false)
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
        for queue in tap.queues {
            let made = try TapEnd(fd: queue.fd, goneFD: goneFD)
            let end = UnsafeMutablePointer<TapEnd>.allocate(capacity: 1)
            end.initialize(to: made)
            ends.append(end)
        }
        _ = core.startOther(
            port: index, ends.map { (.tap($0), $0.pointee.incoming, UnsafeMutableRawPointer($0)) },
            offloads: offloads, budget: core.budget(options))
        isThere.store(true, ordering: .relaxed)
        log.info(
            """
            \(options.name): interface \(tap.name) with \(options.queuePairs) \
            queue\(options.queuePairs == 1 ? "" : "s")
            """
        )
    }

    private func closeTap() {
        isThere.store(false, ordering: .relaxed)
        core.stopOther(port: index, pairs: options.queuePairs)
        for end in ends {
            end.deinitialize(count: 1)
            end.deallocate()
        }
        ends = []
        tap = nil
    }

    /// The control thread: closes when the interface has gone, and opens it again when there is one of its name.
    private func watch() {
        var lastError = ""
        while true {
            var waiting = pollfd(fd: goneFD, events: Int16(POLLIN), revents: 0)
            // Nobody tells of a new interface.
            let n = poll(&waiting, 1, tap == nil ? 200 : -1)
            if isStopping.load(ordering: .acquiring) { return }
            if n > 0 {
                if tap != nil {
                    closeTap()
                    core.forgetAddresses(port: index)
                    log.error(
                        "\(options.name): the interface has gone; the port waits until there is one of its name again")
                }
                // After the queues were closed: each of them may have written.
                _ = EventFD.take(goneFD)
                continue
            }
            if tap != nil || if_nametoindex(name) == 0 { continue }
            do throws(EngineError) {
                try open()
                lastError = ""
            } catch {
                closeTap()
                if error.description != lastError { log.error("\(options.name): \(error)") }
                lastError = error.description
            }
        }
    }

    func stop() {
        if let thread {
            isStopping.store(true, ordering: .releasing)
            EventFD.signalOwn(goneFD)
            thread.join()
        }
        thread = nil
        closeTap()
    }

    func dispose() {
        core.removePairs(port: index, options.queuePairs)
        close(goneFD)
    }
}
