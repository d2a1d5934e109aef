import CPlatform
import Glibc
import Logging
import Vhost
import Virtio

/// A TAP device of this machine's kernel as a port: frames go through io_uring. No control thread: nothing changes.
final class TapPort: EnginePort {
    let index: Int
    let options: PortOptions
    private let core: EngineCore
    private let log: Logger
    private var tap: Tap?
    private var ends: [UnsafeMutablePointer<TapEnd>] = []

    init(index: Int, options: PortOptions, core: EngineCore, logger: Logger) {
        self.index = index
        self.options = options
        self.core = core
        log = logger
        core.addPairs(port: index, options, defectFD: -1)
    }

    var isConnected: Bool { tap != nil }

    /// Opens or makes the device with a queue for each pair.
    func start() throws(EngineError) {
        guard case .tap(let name) = options.kind else { return }
        let tap: Tap
        do throws(VhostError) {
            tap = try Tap(name: name, queues: options.queuePairs, isNonblocking: false)
            guard tap.headerLength == 12 else { throw VhostError(.features, "tap \(name): its frames have no virtio-net header of 12 bytes; make it with `ip tuntap add \(name) mode tap vnet_hdr`") }
            try tap.setOffloads(PortFeatures.guestOffloads)
        } catch {
            throw EngineError(error.description)
        }
        var offloads: Features = [.guestCsum, .guestTSO4, .guestTSO6, .guestECN]
        if tap.hasUSO { offloads.formUnion([.guestUSO4, .guestUSO6]) }
        self.tap = tap
        for (pair, queue) in tap.queues.enumerated() {
            let made = try TapEnd(fd: queue.fd)
            let end = UnsafeMutablePointer<TapEnd>.allocate(capacity: 1)
            end.initialize(to: made)
            ends.append(end)
            _ = core.startOther(
                port: index, pair: pair, driver: nil, tap: end, incoming: end.pointee.incoming, offloads: offloads, memory: UnsafeMutableRawPointer(end),
                budget: core.budget(options))
        }
        core.setActivePairs(UInt16(options.queuePairs), port: index)
        log.info("\(options.name): interface \(tap.name) with \(options.queuePairs) queue(s)")
    }

    func stop() {
        core.stopOther(port: index, pairs: options.queuePairs)
        for end in ends {
            end.pointee.deallocate()
            end.deallocate()
        }
        ends = []
        tap = nil
    }

    func deallocate() { core.removePairs(port: index, options.queuePairs) }
}
