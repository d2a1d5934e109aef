import CPlatform
import Glibc
import Memory
import Virtio

/// A vDPA device through `/dev/vhost-vdpa-N`.
public final class VDPABackend: VhostBackend {
    /// Bits of VHOST_GET_BACKEND_FEATURES that this front-end knows.
    struct BackendFeatures: OptionSet, Sendable {
        let rawValue: UInt64
        static let iotlbV2 = BackendFeatures(rawValue: 1 << 1)
        static let iotlbBatch = BackendFeatures(rawValue: 1 << 2)
        static let iotlbASID = BackendFeatures(rawValue: 1 << 3)
        static let suspend = BackendFeatures(rawValue: 1 << 4)
        static let resume = BackendFeatures(rawValue: 1 << 5)
        static let known: BackendFeatures = [.iotlbV2, .iotlbBatch, .iotlbASID, .suspend, .resume]
    }

    public let kind = VhostKind.vdpa
    public let name: String
    public private(set) var offered = Features(rawValue: 0)
    public private(set) var maximumPairs = 1
    /// First and last IOVA that can be mapped.
    public private(set) var iovaRange: ClosedRange<UInt64> = 0...UInt64.max
    /// Virtqueues in all, the control queue with them; 0: the kernel does not say.
    public private(set) var queueCount = 0
    /// Address spaces.
    public private(set) var addressSpaces = 1
    /// The group of each virtqueue, by its index; empty where the kernel has no groups.
    public private(set) var groups: [Int: UInt32] = [:]
    /// Groups that belong elsewhere than into address space 0.
    private var spaces: [UInt32: UInt32] = [:]
    private(set) var backendFeatures: BackendFeatures = []
    private let calls: any DeviceCalls
    private var device: Device?
    private var mapped: [(VhostRegion, UInt32)] = []
    private var isSuspended = false

    /// Nothing is opened yet.
    public convenience init(path: String) { self.init(path: path, calls: SystemCalls()) }

    package init(path: String, calls: any DeviceCalls) {
        name = path
        self.calls = calls
    }

    public var ownFeatures: Features { [] }
    /// What it can beyond the basics, by the kernel's names.
    public var backendFeatureNames: [String] {
        [
            (BackendFeatures.iotlbV2, "IOTLB_MSG_V2"), (.iotlbBatch, "IOTLB_BATCH"), (.iotlbASID, "IOTLB_ASID"),
            (.suspend, "SUSPEND"), (.resume, "RESUME"),
        ]
        .filter { backendFeatures.contains($0.0) }.map(\.1)
    }
    /// Whether the device can be suspended, so that rings stop where they stand.
    public var hasSuspend: Bool { backendFeatures.contains(.suspend) }

    private func opened() throws(VhostError) -> Device {
        guard let device else { throw VhostError(.state, "\(name): not open") }
        return device
    }

    /// For the first object: open, GET_FEATURES, GET_CONFIG (max_virtqueue_pairs), GET_IOVA_RANGE, backend
    /// features, status ACKNOWLEDGE and DRIVER read back, SET_OWNER, virtqueue groups.
    public func open(_ object: VhostObject) throws(VhostError) {
        guard object.isFirst else { return }
        let d = try Device(name, isNonblocking: true, calls)
        device = d
        offered = Features(rawValue: try d.get(.getFeatures, UInt64(0)))
        if offered.contains(.mq) {
            // struct virtio_net_config: max_virtqueue_pairs at 8.
            let bytes = try readConfiguration(offset: NetConfig.maxVirtqueuePairs, size: 2)
            let pairs = Int(bytes[0]) | Int(bytes[1]) << 8
            guard ControlCode.pairsRange.contains(pairs) else {
                throw VhostError(.answer, "\(name): max_virtqueue_pairs is \(pairs)")
            }
            maximumPairs = pairs
        }
        if let range = try? d.get(.vdpaGetIOVARange, vhost_vdpa_iova_range()) {
            guard range.first <= range.last else {
                throw VhostError(.answer, "\(name): IOVA range from \(range.first) to \(range.last)")
            }
            iovaRange = range.first...range.last
        }
        if let bits = try? d.get(.getBackendFeatures, UInt64(0)) {
            backendFeatures = BackendFeatures(rawValue: bits).intersection(.known)
        }
        if let count = try? d.get(.vdpaGetVQsCount, UInt32(0)) { queueCount = Int(min(count, 65536)) }
        try addStatus([.acknowledge, .driver])
        try d.request(.setOwner)
        // Only the owner is told.
        try readGroups(d)
    }

    /// GET_DEVICE_ID: 1, a network device.
    public func finishOpen(_ object: VhostObject) throws(VhostError) {
        guard object.isFirst else { return }
        let id = try opened().get(.vdpaGetDeviceID, UInt32(0))
        guard id == 1 else { throw VhostError(.answer, "\(name): virtio device \(id); 1, a network device, is needed") }
    }

    private func readGroups(_ d: Device) throws(VhostError) {
        guard backendFeatures.contains(.iotlbASID), let spaces = try? d.get(.vdpaGetASNum, UInt32(0)), spaces > 1 else {
            return
        }
        addressSpaces = Int(spaces)
        for ring in 0..<min(queueCount, 64) {
            groups[ring] = try d.get(.vdpaGetVringGroup, vhost_vring_state(index: UInt32(ring), num: 0)).num
        }
    }

    /// Puts a group of virtqueues into an address space: VHOST_VDPA_SET_GROUP_ASID goes out with each start, for a
    /// reset forgets it. Regions are mapped into every space in use, but for those that name one. Errors:
    /// `.unsupported` without IOTLB_ASID, `.argument` beyond what the device has.
    public func setAddressSpace(group: UInt32, _ space: UInt32) throws(VhostError) {
        guard backendFeatures.contains(.iotlbASID) else {
            throw VhostError(.unsupported, "\(name): the device has no address spaces (IOTLB_ASID)")
        }
        guard space < addressSpaces else {
            throw VhostError(.argument, "\(name): address space \(space); there are \(addressSpaces)")
        }
        guard groups.values.contains(group) else {
            throw VhostError(.argument, "\(name): no virtqueue is in group \(group)")
        }
        spaces[group] = space
    }

    /// The group of a control queue that can have an address space of its own: no other ring is in it. Nil if there is
    /// none.
    public func isolatedGroup(control ring: Int) -> UInt32? {
        guard addressSpaces > 1, let group = groups[ring] else { return nil }
        return groups.contains { $0.key != ring && $0.value == group } ? nil : group
    }

    /// Status 0, then everything is closed: the device is as it was before.
    public func close() {
        if device != nil {
            _ = try? setStatus(.reset)
            _ = try? unmap { _, _ in true }
        }
        device = nil
        mapped = []
    }

    // MARK: Status (virtio 1.3, 2.1)

    private func status() throws(VhostError) -> DeviceStatus {
        DeviceStatus(rawValue: try opened().get(.vdpaGetStatus, UInt8(0)))
    }
    private func setStatus(_ value: DeviceStatus) throws(VhostError) {
        try opened().set(.vdpaSetStatus, value.rawValue)
    }

    /// Adds bits and reads them back.
    private func addStatus(_ bits: DeviceStatus) throws(VhostError) {
        try setStatus(try status().union(bits))
        let after = try status()
        guard after.isSuperset(of: bits) else {
            throw VhostError(
                .refused, "\(name): device status is \(after.rawValue) after bits \(bits.rawValue) were set")
        }
    }

    // MARK: Device

    /// Once: VHOST_SET_FEATURES, status FEATURES_OK, VHOST_SET_BACKEND_FEATURES, VHOST_VDPA_SET_GROUP_ASID.
    public func setFeatures(_ object: VhostObject, _ features: Features) throws(VhostError) {
        guard object.isFirst else { return }
        let d = try opened()
        try d.set(.setFeatures, features.rawValue)
        try addStatus(.featuresOK)
        if !backendFeatures.isEmpty { try d.set(.setBackendFeatures, backendFeatures.rawValue) }
        for (group, space) in spaces.sorted(by: { $0.key < $1.key }) {
            try d.vring(.vdpaSetGroupASID, Int(group), space)
        }
    }

    /// Once: IOTLB messages, as one batch for each address space where IOTLB_BATCH is offered: what is gone is
    /// invalidated, what is new is mapped. Each region must lie in the IOVA range.
    public func setMemory(_ object: VhostObject, _ regions: [VhostRegion]) throws(VhostError) {
        guard object.isFirst else { return }
        let used = Set([0] + spaces.values).sorted()
        for r in regions { try check(r, used) }
        try unmap { old, space in !regions.contains { $0.isSame(old) && ($0.addressSpace ?? space) == space } }
        for space in used {
            let new = regions.filter { r in
                (r.addressSpace ?? space) == space && !mapped.contains { $0.1 == space && $0.0.isSame(r) }
            }
            if new.isEmpty { continue }
            try batch(space) { () throws(VhostError) in
                for r in new {
                    try opened().iotlb(VHOST_IOTLB_UPDATE, r, space: space)
                    mapped.append((r, space))
                }
            }
        }
    }

    private func check(_ r: VhostRegion, _ used: [UInt32]) throws(VhostError) {
        let last = r.guestAddress &+ (r.size &- 1)
        guard r.size > 0, last >= r.guestAddress, iovaRange.contains(r.guestAddress), iovaRange.contains(last) else {
            func hex(_ v: UInt64) -> String { "0x" + String(v, radix: 16) }
            throw VhostError(
                .argument,
                """
                \(name): region \(hex(r.guestAddress))+\(r.size) lies outside the IOVA range \
                \(hex(iovaRange.lowerBound))-\(hex(iovaRange.upperBound))
                """
            )
        }
        if let space = r.addressSpace, !used.contains(space) {
            throw VhostError(
                .argument,
                "\(name): region 0x\(String(r.guestAddress, radix: 16)): no group is in address space \(space)")
        }
    }

    public func dropMemory(_ object: VhostObject) throws(VhostError) { if object.isLast { try unmap { _, _ in true } } }

    /// Invalidates what `isGone` says.
    private func unmap(_ isGone: (VhostRegion, UInt32) -> Bool) throws(VhostError) {
        let gone = mapped.filter(isGone)
        for space in Set(gone.map(\.1)).sorted() {
            try batch(space) { () throws(VhostError) in
                for (r, s) in gone where s == space {
                    try opened().iotlb(VHOST_IOTLB_INVALIDATE, r, space: s)
                    mapped.removeAll { $0.1 == s && $0.0.isSame(r) }
                }
            }
        }
    }

    private func batch(_ space: UInt32, _ body: () throws(VhostError) -> Void) throws(VhostError) {
        let batches = backendFeatures.contains(.iotlbBatch)
        if batches { try opened().iotlb(VHOST_IOTLB_BATCH_BEGIN, nil, space: space) }
        try body()
        if batches { try opened().iotlb(VHOST_IOTLB_BATCH_END, nil, space: space) }
    }

    /// With the last object: the control queue is enabled first, then DRIVER_OK; `enableData` follows when the
    /// control queue's state has been replayed.
    public func finishStart(_ object: VhostObject) throws(VhostError) {
        guard object.isLast else { return }
        try addStatus(.driverOK)
        isSuspended = false
        if object.isControl { try enableData(object.rings) }
    }

    public func enableData(_ rings: Range<Int>) throws(VhostError) {
        for ring in rings { try opened().vring(.vdpaSetVringEnable, ring, 1) }
    }

    /// Before the start nothing goes out: enabling follows DRIVER_OK.
    public func setVringEnable(_ rings: Range<Int>, _ isEnabled: Bool) throws(VhostError) {}

    /// SUSPEND where it is offered; else status 0, after which rings cannot be asked where they stand.
    public func beginStop(_ object: VhostObject) throws(VhostError) {
        guard object.isFirst else { return }
        if hasSuspend {
            try opened().request(.vdpaSuspend)
            isSuspended = true
        } else {
            try setStatus(.reset)
        }
    }

    /// With the last object: status 0, then ACKNOWLEDGE and DRIVER again, so that it can be started anew.
    public func finishStop(_ object: VhostObject) throws(VhostError) {
        guard object.isLast else { return }
        isSuspended = false
        try setStatus(.reset)
        try addStatus([.acknowledge, .driver])
    }

    /// VHOST_VDPA_SUSPEND by itself, as before a live migration; `resume` undoes it. Errors: `.unsupported`.
    public func suspend() throws(VhostError) {
        guard hasSuspend else { throw VhostError(.unsupported, "\(name): the device cannot be suspended") }
        try opened().request(.vdpaSuspend)
        isSuspended = true
    }

    /// VHOST_VDPA_RESUME: a suspended device goes on where it was. Errors: `.unsupported`.
    public func resume() throws(VhostError) {
        guard backendFeatures.contains(.resume) else {
            throw VhostError(.unsupported, "\(name): the device cannot be resumed")
        }
        try opened().request(.vdpaResume)
        isSuspended = false
    }

    public func checkReset() throws(VhostError) {}

    /// Status 0, then ACKNOWLEDGE and DRIVER: mappings go too.
    public func resetDevice() throws(VhostError) {
        isSuspended = false
        try setStatus(.reset)
        try unmap { _, _ in true }
        try addStatus([.acknowledge, .driver])
    }

    /// One queue alone cannot be reset through vhost-vdpa.
    public func resetQueue(_ ring: Int) throws(VhostError) { throw .unsupported(self, "reset of one queue") }

    /// VHOST_VDPA_GET_VRING_NUM: the largest ring.
    public func maximumRingSize() throws(VhostError) -> UInt32 {
        let size = try opened().get(.vdpaGetVringNum, UInt16(0))
        guard size >= 2 else { throw VhostError(.answer, "\(name): rings of \(size)") }
        return UInt32(size)
    }

    // MARK: Rings

    public func setVringNum(_ ring: Int, _ size: UInt32) throws(VhostError) {
        try opened().vring(.setVringNum, ring, size)
    }
    public func setVringBase(_ ring: Int, _ base: UInt32) throws(VhostError) {
        try opened().vring(.setVringBase, ring, base)
    }
    public func setVringAddress(_ ring: Int, _ address: VhostRingAddress) throws(VhostError) {
        try opened().vringAddress(ring, address)
    }
    public func setVringKick(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        try opened().file(.setVringKick, ring, fd)
    }
    public func setVringCall(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        try opened().file(.setVringCall, ring, fd)
    }
    /// Vhost-vdpa has no error eventfd of use: nothing goes out.
    public func setVringErr(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {}

    /// Answers only when suspended.
    public func getVringBase(_ ring: Int) throws(VhostError) -> UInt32 {
        guard isSuspended else {
            throw VhostError(.state, "\(name): VHOST_GET_VRING_BASE: the device is not suspended")
        }
        return try opened().vringBase(ring)
    }

    // MARK: Configuration

    private func configuration(_ offset: Int, _ size: Int) throws(VhostError) -> [UInt8] {
        guard (0...4096).contains(offset), (1...4096).contains(size) else {
            throw VhostError(.argument, "\(name): configuration \(offset)+\(size)")
        }
        return withUnsafeBytes(of: (UInt32(offset), UInt32(size))) { Array($0) } + [UInt8](repeating: 0, count: size)
    }

    public func readConfiguration(offset: Int, size: Int) throws(VhostError) -> [UInt8] {
        var bytes = try configuration(offset, size)
        try opened().request(.vdpaGetConfig, bytes: &bytes)
        return Array(bytes[8...])
    }

    public func writeConfiguration(offset: Int, _ new: [UInt8], forMigration: Bool) throws(VhostError) {
        var bytes = try configuration(offset, new.count)
        bytes.replaceSubrange(8..., with: new)
        try opened().request(.vdpaSetConfig, bytes: &bytes)
    }

    public func setConfigurationCall(_ fd: OwnedDescriptor?) throws(VhostError) {
        try opened().set(.vdpaSetConfigCall, fd?.fd ?? -1)
    }
}
