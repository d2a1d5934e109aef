import CPlatform
import Glibc
import Memory
import Vhost
import Virtio

/// One connection of a `DriverPort`: a started `VhostNet` with the driver's ends of its rings. Made and given back on the
/// port's control thread; the ends belong to poll threads meanwhile.
final class DriverLink {
    let vhost: VhostNet
    let memory: HostMemory
    /// By pair.
    let ends: UnsafeMutablePointer<DriverEnd>
    /// By pair: readable when the back-end has used receive buffers.
    private(set) var incoming: [OwnedDescriptor] = []
    /// What may be sent without being resolved first.
    let receiveOffloads: Features
    private let pairs: Int
    private var kicks: [OwnedDescriptor] = []
    private var control: ControlDriver?

    /// Offloads that Ringway can take from a back-end and give to it.
    static let offloads: Features = [
        .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO, .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6,
    ]

    /// Initialises, negotiates and starts. `saved` is what the last connection left; a device that no longer has those
    /// features is an error. Errors: one line with the path.
    init(_ options: PortOptions, _ backend: any VhostBackend, saved: VhostNet.Saved?, node: Int, log: (String) -> Void) throws {
        let wantsControl = backend.kind == .vdpa && (options.queuePairs > 1 || options.mac != nil)
        var o = VhostNet.Options()
        o.queuePairs = options.queuePairs
        o.hasControl = wantsControl
        o.saved = saved
        if backend.kind == .kernel, case .microseconds(let us)? = options.busyloop { o.busyloopTimeout = UInt32(us) }
        vhost = try VhostNet(backend, o)
        let size = try DriverLink.ringSize(options, backend)
        // After a reconnection: what was acknowledged before, less the back-end's own bits.
        let features = saved != nil
            ? vhost.acknowledged.subtracting(backend.ownFeatures) : try DriverLink.choose(options, vhost, backend, wantsControl)
        if saved == nil { try vhost.acknowledge(features) }
        receiveOffloads = features.asReceiver
        pairs = options.queuePairs
        try DriverLink.tellMTU(options, vhost, log)
        if let kernel = backend as? KernelBackend { try kernel.tap.setOffloads(features) }

        let isPacked = features.contains(.ringPacked)
        let longest = features.contains(.mrgRxbuf) ? 0 : features.isDisjoint(with: [.guestTSO4, .guestTSO6, .guestUSO4]) ? Int(options.mtu ?? 1500) + 18 : 65536 + 64
        let buffers = DriverBuffers(size: size, isPacked: isPacked, longest: longest)
        let controlBytes = wantsControl ? ControlDriver.bytes(isPacked: isPacked) : 0
        memory = try HostMemory(bytes: buffers.bytes * pairs + controlBytes, node: node)
        let region = DriverLink.region(memory, backend)
        let delta = region.guestAddress &- region.userAddress
        ends = .allocate(capacity: pairs)
        for i in 0..<pairs {
            let (receive, transmit) = (try eventfd(), try eventfd())
            kicks += [receive, transmit]
            (ends + i).initialize(to: DriverEnd(
                buffers, features: features, memory: memory.base + i * buffers.bytes, delta: delta, receiveKick: receive.fd, transmitKick: transmit.fd))
        }
        try start(options, features, region, delta, at: memory.base + pairs * buffers.bytes, wantsControl)
    }

    deinit {
        vhost.close()
        for i in 0..<pairs { ends[i].deallocate() }
        ends.deallocate()
        control?.deallocate()
    }

    private func eventfd() throws -> OwnedDescriptor {
        let fd = CPlat_eventfd(0)
        guard fd >= 0 else { throw EngineError("eventfd: \(String(cString: strerror(errno)))") }
        return OwnedDescriptor(fd)
    }

    // MARK: Negotiation

    private static func choose(_ options: PortOptions, _ vhost: VhostNet, _ backend: any VhostBackend, _ wantsControl: Bool) throws -> Features {
        var wanted: Features = [.version1, .mrgRxbuf, .eventIdx]
        wanted.formUnion(offloads)
        if options.wantsPacked { wanted.insert(.ringPacked) }
        if options.wantsInOrder { wanted.insert(.inOrder) }
        if options.queuePairs > 1 { wanted.insert(.mq) }
        if options.mtu != nil { wanted.insert(.mtu) }
        if backend.kind == .vdpa { wanted.insert(.accessPlatform) }
        if wantsControl { wanted.formUnion([.ctrlVQ, .ctrlMACAddr, .ctrlRX]) }
        var features = vhost.features(of: wanted)
        if let kernel = backend as? KernelBackend {
            guard kernel.tap.headerLength == 12 else {
                throw EngineError("tap \(kernel.tap.name): its frames have no virtio-net header of 12 bytes; make it with `ip tuntap add \(kernel.tap.name) mode tap vnet_hdr multi_queue`")
            }
        } else {
            features.formIntersection(backend.offered)
        }
        if !features.contains(.version1) { throw EngineError("\(backend.name): the back-end does not offer VERSION_1, which Ringway's driver needs") }
        if !features.contains(.mrgRxbuf) { features.subtract([.guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6]) }
        if !features.contains(.csum) { features.subtract([.hostTSO4, .hostTSO6, .hostECN, .hostUSO]) }
        if !features.contains(.guestCsum) { features.subtract([.guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6]) }
        if wantsControl && !features.contains(.ctrlVQ) { throw EngineError("\(backend.name): the device has no control queue, which mac= and queues= need") }
        if backend.kind == .vdpa && options.queuePairs > 1 && options.queuePairs != backend.maximumPairs {
            throw EngineError("\(backend.name): the device has \(backend.maximumPairs) queue pairs; write queues=\(backend.maximumPairs)")
        }
        return features
    }

    private static func ringSize(_ options: PortOptions, _ backend: any VhostBackend) throws -> UInt32 {
        var size = UInt32(options.ringSize)
        if let vdpa = backend as? VDPABackend { size = min(size, try vdpa.maximumRingSize()) }
        return size
    }

    private static func tellMTU(_ options: PortOptions, _ vhost: VhostNet, _ log: (String) -> Void) throws {
        guard let mtu = options.mtu else { return }
        do throws(VhostError) { try vhost.setMTU(mtu) } catch {
            if error.kind != .unsupported { throw error }
            log("\(options.name): mtu=\(mtu) is not told to the back-end: \(error)")
        }
    }

    /// Addresses as in this process where the back-end can map them so, as DPDK's virtio-user has it.
    private static func region(_ memory: HostMemory, _ backend: any VhostBackend) -> VhostRegion {
        var region = VhostRegion(memory)
        guard let vdpa = backend as? VDPABackend else { return region }
        let last = region.guestAddress &+ (region.size &- 1)
        if !vdpa.iovaRange.contains(region.guestAddress) || !vdpa.iovaRange.contains(last) {
            region.guestAddress = (vdpa.iovaRange.lowerBound &+ 4095) & ~4095
        }
        return region
    }

    // MARK: Start

    private func start(
        _ options: PortOptions, _ features: Features, _ region: VhostRegion, _ delta: UInt64, at room: UnsafeMutableRawPointer, _ wantsControl: Bool
    ) throws {
        var rings: [VhostRing] = []
        for i in 0..<pairs {
            for (queue, kick) in [(ends[i].receive, kicks[2 * i]), (ends[i].transmit, kicks[2 * i + 1])] {
                let call = try eventfd()
                rings.append(DriverLink.ring(queue, kick, call))
                if rings.count % 2 == 1 { incoming.append(call) } else { calls.append(call) }
            }
        }
        if wantsControl {
            let kick = try eventfd()
            kicks.append(kick)
            let driver = ControlDriver(isPacked: features.contains(.ringPacked), features: features, memory: room, kick: kick.fd, delta: delta)
            control = driver
            rings.append(DriverLink.ring(driver.queue, kick, try eventfd()))
        }
        let commands = DriverLink.commands(options, features)
        try vhost.start(rings, memory: [region]) { [unowned self] () throws(VhostError) in
            for (name, kind, command, data) in commands where self.control?.send(kind, command, data) != 0 {
                throw VhostError(.refused, "\(options.name): the device refused \(name) on its control queue")
            }
        }
    }

    /// Calls of transmit rings: nobody waits for them, but the back-end writes there.
    private var calls: [OwnedDescriptor] = []

    /// What the control queue is told before the data queues run (5.1.6.5): the MAC, the number of pairs, and that packets
    /// for any address are wanted.
    private static func commands(_ options: PortOptions, _ features: Features) -> [(String, UInt8, UInt8, [UInt8])] {
        guard features.contains(.ctrlVQ) else { return [] }
        var all: [(String, UInt8, UInt8, [UInt8])] = []
        if let mac = options.mac, features.contains(.ctrlMACAddr) { all.append(("the MAC address", 1, 1, mac)) }
        if features.contains(.mq) { all.append(("\(options.queuePairs) queue pairs", 4, 0, [UInt8(options.queuePairs & 255), UInt8(options.queuePairs >> 8)])) }
        if features.contains(.ctrlRX) { all.append(("promiscuous mode", 0, 0, [1])) }
        return all
    }

    private static func ring(_ queue: DriverQueue, _ kick: OwnedDescriptor, _ call: OwnedDescriptor) -> VhostRing {
        func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) }
        return VhostRing(
            size: queue.size, isPacked: queue.isPacked, base: RingPosition().base(isPacked: queue.isPacked), descriptors: address(queue.descriptors),
            driverArea: address(queue.driverArea), deviceArea: address(queue.deviceArea), kick: kick, call: call)
    }

    /// Receive buffers were there before the back-end was: it is told.
    func kickAll() {
        var one: UInt64 = 1
        for kick in kicks { _ = write(kick.fd, &one, 8) }
    }
}
