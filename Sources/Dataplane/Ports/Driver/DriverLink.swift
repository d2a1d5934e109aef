import CPlatform
import Glibc
import Memory
import Vhost
import Virtio

/// One connection of a `DriverPort`: a started `VhostNet` with the driver's ends of its rings. Made and given back on
/// the port's control thread; the ends belong to poll threads meanwhile.
final class DriverLink {
    let vhost: VhostNet
    let memory: HostMemory
    /// By pair.
    private(set) var ends: OwnedValues<DriverEnd>
    /// By pair: readable when the back-end has used receive buffers.
    private(set) var incoming: [OwnedDescriptor] = []
    /// What may be sent without being resolved first.
    let receiveOffloads: Features
    private let pairs: Int
    private var kicks: [OwnedDescriptor] = []
    /// A back-end has them, too, and may be hostile.
    private var kickRings: [CallRing] = []
    private var control: ControlDriver?

    /// Offloads that Ringway can take from a back-end and give to it.
    static let offloads: Features = [
        .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO, .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4,
        .guestUSO6,
    ]

    /// Initialises, negotiates and starts. `saved` is what the last connection left; a device that no longer has those
    /// features is an error. Errors: one line with the path.
    init(_ options: PortOptions, _ backend: any VhostBackend, saved: VhostNet.Saved?, node: Int, log: (String) -> Void)
        throws
    {
        let wantsControl = backend.kind == .vdpa && (options.queuePairs > 1 || options.mac != nil)
        var o = VhostNet.Options()
        o.queuePairs = options.queuePairs
        o.hasControl = wantsControl
        o.saved = saved
        if backend.kind == .kernel { o.busyloopTimeout = try DriverLink.kernelTimeout(options) }
        vhost = try VhostNet(backend, o)
        // After a reconnection: what was acknowledged before, less the back-end's own bits.
        var features =
            saved != nil
            ? vhost.acknowledged.subtracting(backend.ownFeatures)
            : try DriverLink.choose(options, vhost, backend, wantsControl)
        if saved == nil { try vhost.acknowledge(features) }
        pairs = options.queuePairs
        if options.wantsPacked && !features.contains(.ringPacked) {
            log("\(options.name): packed=on: the back-end has no packed rings; split ones are used")
        }
        try DriverLink.tellMTU(options, vhost, log)
        if let kernel = backend as? KernelBackend {
            try kernel.tap.setOffloads(features)
            // The TAP's own business, so that no list has it.
            if !kernel.tap.hasUSO { features.subtract([.guestUSO4, .guestUSO6, .hostUSO]) }
            if o.busyloopTimeout > 0 {
                log("\(options.name): vhost polls for \(try vhost.busyloopTimeout(ring: 0)) us before it sleeps")
            }
        }
        receiveOffloads = features.asReceiver

        let isPacked = features.contains(.ringPacked)
        let size = try DriverLink.ringSize(options, backend, isPacked)
        let longest =
            features.contains(.mrgRxbuf)
            ? 0
            : features.isDisjoint(with: [.guestTSO4, .guestTSO6, .guestUSO4])
                ? Int(options.mtu ?? 1500) + 18 : 65536 + 64
        let buffers = DriverBuffers(size: size, isPacked: isPacked, longest: longest)
        let controlBytes = wantsControl ? ControlDriver.memoryBytes(isPacked: isPacked) : 0
        memory = try HostMemory(bytes: buffers.bytes * pairs + controlBytes, node: node)
        let regions = try DriverLink.regions(
            memory, backend, controlAt: wantsControl ? pairs * buffers.bytes : nil, controlRing: vhost.controlRing)
        let delta = regions[0].guestAddress &- regions[0].userAddress
        for _ in 0..<2 * pairs {
            kicks.append(try DriverLink.eventfd())
            kickRings.append(try CallRing(kicks.last!.fd))
        }
        ends = OwnedValues(capacity: pairs)
        for i in 0..<pairs {
            ends.add(
                DriverEnd(
                    buffers, features: features, memory: memory, at: i * buffers.bytes, delta: delta,
                    receiveKick: kickRings[2 * i].calls,
                    transmitKick: kickRings[2 * i + 1].calls))
        }
        for command in DriverLink.commands(options, features) { vhost.remember(command) }
        try start(features, regions, delta, controlAt: pairs * buffers.bytes, wantsControl)
    }

    /// Of the kernel's vhost: microseconds; 0, its default, by `0`. Errors: other budgets are Ringway's, and not for a
    /// kernel port.
    private static func kernelTimeout(_ options: PortOptions) throws -> UInt32 {
        switch options.busyloop {
        case nil, .sleep: return 0
        case .microseconds(let us): return UInt32(clamping: us)
        case .poll, .auto:
            throw EngineError(
                "\(options.name): busyloop= is vhost's own timeout here; write microseconds as in 50us, or 0")
        }
    }

    deinit {
        vhost.close()
    }

    private static func eventfd() throws -> OwnedDescriptor {
        guard let fd = EventFD.make() else { throw EngineError("eventfd: \(SystemError.text(errno))") }
        return fd
    }

    // MARK: Negotiation

    private static func choose(
        _ options: PortOptions, _ vhost: VhostNet, _ backend: any VhostBackend, _ wantsControl: Bool
    ) throws -> Features {
        var wanted: Features = [.version1, .mrgRxbuf, .eventIdx]
        wanted.formUnion(offloads)
        if options.wantsPacked { wanted.insert(.ringPacked) }
        if options.wantsInOrder { wanted.insert(.inOrder) }
        if options.queuePairs > 1 { wanted.insert(.mq) }
        if options.mtu != nil { wanted.insert(.mtu) }
        // A driver should accept it (6.1). The kernel offers it always, and looks every address up then.
        if backend.kind != .kernel { wanted.insert(.accessPlatform) }
        if wantsControl { wanted.formUnion([.ctrlVQ, .ctrlMACAddr, .ctrlRX]) }
        var features = vhost.features(of: wanted)
        if let kernel = backend as? KernelBackend {
            guard kernel.tap.headerLength == 12 else {
                throw EngineError(
                    """
                    tap \(kernel.tap.name): its frames have no virtio-net header of 12 bytes; make it with `ip tuntap \
                    add \(kernel.tap.name) mode tap vnet_hdr multi_queue`
                    """
                )
            }
        } else {
            features.formIntersection(backend.offered)
        }
        if !features.contains(.version1) {
            throw EngineError("\(backend.name): the back-end does not offer VERSION_1, which Ringway's driver needs")
        }
        if !features.contains(.mrgRxbuf) {
            features.subtract([.guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6])
        }
        if !features.contains(.csum) { features.subtract([.hostTSO4, .hostTSO6, .hostECN, .hostUSO]) }
        if !features.contains(.guestCsum) {
            features.subtract([.guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6])
        }
        if wantsControl && !features.contains(.ctrlVQ) {
            throw EngineError("\(backend.name): the device has no control queue, which mac= and queues= need")
        }
        return features
    }

    /// At most what is wanted and what the device takes; split rings have a power of two.
    private static func ringSize(_ options: PortOptions, _ backend: any VhostBackend, _ isPacked: Bool) throws -> UInt32
    {
        var size = UInt32(options.ringSize)
        if let vdpa = backend as? VDPABackend { size = min(size, try vdpa.maximumRingSize()) }
        return isPacked ? size : 1 << UInt32(31 - size.leadingZeroBitCount)
    }

    private static func tellMTU(_ options: PortOptions, _ vhost: VhostNet, _ log: (String) -> Void) throws {
        guard let mtu = options.mtu else { return }
        if try !vhost.setMTU(mtu) {
            log("\(options.name): mtu=\(mtu) is not told to the back-end, which cannot be told")
        }
    }

    /// Addresses as in this process where the back-end can map them so, as DPDK's virtio-user has it. Where a vDPA
    /// device can keep its control queue apart, the end of the memory, which is the control queue's, goes into an
    /// address space of its own: the data queues cannot reach it, nor it the packets.
    private static func regions(_ memory: HostMemory, _ backend: any VhostBackend, controlAt: Int?, controlRing: Int)
        throws -> [VhostRegion]
    {
        var data = VhostRegion(memory)
        guard let vdpa = backend as? VDPABackend else { return [data] }
        let last = data.guestAddress &+ (data.size &- 1)
        if !vdpa.iovaRange.contains(data.guestAddress) || !vdpa.iovaRange.contains(last) {
            data.guestAddress = (vdpa.iovaRange.lowerBound &+ 4095) & ~4095
        }
        guard let controlAt, let group = vdpa.isolatedGroup(control: controlRing) else { return [data] }
        try vdpa.setAddressSpace(group: group, 1)
        let at = UInt64(controlAt)
        var control = data
        (control.guestAddress, control.userAddress, control.offset) = (
            data.guestAddress + at, data.userAddress + at, at
        )
        (control.size, control.addressSpace) = (data.size - at, 1)
        (data.size, data.addressSpace) = (at, 0)
        return [data, control]
    }

    // MARK: Start

    private func start(
        _ features: Features, _ regions: [VhostRegion], _ delta: UInt64, controlAt start: Int,
        _ wantsControl: Bool
    ) throws {
        var rings: [VhostRing] = []
        for i in 0..<pairs {
            for (setup, kick) in [(ends[i].receive.setup, kicks[2 * i]), (ends[i].transmit.setup, kicks[2 * i + 1])] {
                let call = try DriverLink.eventfd()
                rings.append(DriverLink.ring(setup, kick, call))
                if rings.count % 2 == 1 { incoming.append(call) } else { calls.append(call) }
            }
        }
        if wantsControl {
            let kick = try DriverLink.eventfd()
            kicks.append(kick)
            let driver = ControlDriver(
                isPacked: features.contains(.ringPacked), features: features, memory: memory, at: start, kick: kick.fd,
                delta: delta)
            control = driver
            rings.append(DriverLink.ring(driver.queue.setup, kick, try DriverLink.eventfd()))
        }
        try vhost.start(rings, memory: regions) { [unowned self] command in
            control?.send(command.kind, command.command, command.data)
        }
    }

    /// Calls of transmit rings: nobody waits for them, but the back-end writes there.
    private var calls: [OwnedDescriptor] = []

    /// What the control queue is told with each start, before the data queues run (5.1.6.5): the MAC, the number of
    /// pairs, and that packets for any address are wanted.
    private static func commands(_ options: PortOptions, _ features: Features) -> [DriverCommand] {
        guard features.contains(.ctrlVQ) else { return [] }
        var all: [DriverCommand] = []
        if let mac = options.mac, features.contains(.ctrlMACAddr) { all.append(.mac(mac)) }
        if features.contains(.mq) { all.append(.pairs(UInt16(options.queuePairs))) }
        if features.contains(.ctrlRX) { all.append(.receive(.promiscuous, true)) }
        return all
    }

    private static func ring(_ setup: RingSetup, _ kick: OwnedDescriptor, _ call: OwnedDescriptor)
        -> VhostRing
    {
        let addresses = setup.addresses
        return VhostRing(
            size: setup.size, isPacked: setup.isPacked, base: RingPosition().base(isPacked: setup.isPacked),
            descriptors: addresses.descriptors,
            driverArea: addresses.driverArea, deviceArea: addresses.deviceArea, kick: kick, call: call)
    }
}
