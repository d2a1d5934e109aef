import CPlatform
import Glibc
import Memory
import Virtio

/// The kernel's vhost-net: `/dev/vhost-net` is opened once for each queue pair, and each is bound to a queue
/// of a TAP device.
public final class KernelBackend: VhostBackend {
    public let kind = VhostKind.kernel
    public let name: String
    /// The device whose queues vhost moves packets to and from.
    public let tap: Tap
    public private(set) var offered = Features(rawValue: 0)
    /// Numbers of the features above 63 that it offers (`<linux/vhost.h>`, VHOST_GET_FEATURES_ARRAY), empty where the
    /// kernel has 64 bits. They are of segments in UDP tunnels, whose longer net header Ringway does not write or read:
    /// none is ever accepted.
    public private(set) var featuresAbove63: [Int] = []
    /// It takes features as an array.
    private var takesArray = false
    private let calls: any DeviceCalls
    /// By pair.
    private var devices: [Device] = []
    /// By pair, with ACCESS_PLATFORM: regions that its IOTLB knows.
    private var mapped: [Int: [VhostRegion]] = [:]
    private var usesIOTLB = false

    /// Nothing is opened yet. `tap` has a queue for each pair.
    public convenience init(path: String = "/dev/vhost-net", tap: Tap) {
        self.init(path: path, tap: tap, calls: SystemCalls())
    }

    package init(path: String = "/dev/vhost-net", tap: Tap, calls: any DeviceCalls) {
        name = path
        self.tap = tap
        self.calls = calls
    }

    /// Vhost adds and strips the net header itself where the TAP has none.
    public var ownFeatures: Features { tap.headerLength == 0 ? .vhostNetHeader : [] }
    public var maximumPairs: Int { tap.queues.count }

    /// open, SET_OWNER, GET_FEATURES; for the first object also GET_FEATURES_ARRAY.
    public func open(_ object: VhostObject) throws(VhostError) {
        guard !object.isControl else { throw .unsupported(self, "control queue") }
        guard object.index < tap.queues.count else {
            throw VhostError(.argument, "\(name): pair \(object.index): \(tap.name) has \(tap.queues.count) queues")
        }
        let device = try Device(name, isNonblocking: true, calls)
        try device.request(.setOwner)
        var features = Features(rawValue: try device.get(.getFeatures, UInt64(0)))
        let missing = ownFeatures.subtracting(features)
        if !missing.isEmpty {
            throw VhostError(.features, "\(name): vhost lacks \(missing.listed), which a TAP without net header needs")
        }
        // The bit is vhost's own, not the driver's ANY_LAYOUT.
        features.subtract(.vhostNetHeader)
        if tap.headerLength != 0 && tap.headerLength < 12 { features.subtract(.mrgRxbuf) }
        offered = object.isFirst ? features : offered.intersection(features)
        if object.isFirst {
            let all = device.featuresArray()
            takesArray = all != nil
            featuresAbove63 = (0..<64).filter { (all?.high ?? 0) >> UInt64($0) & 1 == 1 }.map { 64 + $0 }
        }
        devices.append(device)
    }

    public func close() { (devices, mapped) = ([], [:]) }

    private func device(_ ring: Int) throws(VhostError) -> (Device, Int) {
        guard ring >= 0, ring / 2 < devices.count else { throw VhostError(.argument, "\(name): no queue \(ring)") }
        return (devices[ring / 2], ring % 2)
    }

    /// VHOST_SET_FEATURES (_ARRAY where the kernel has that: of features above 63 none is accepted), and
    /// VHOST_SET_BACKEND_FEATURES: the IOTLB's message format may be missing, that is no error.
    public func setFeatures(_ object: VhostObject, _ features: Features) throws(VhostError) {
        let d = try device(object.firstRing).0
        if takesArray {
            var all = FeaturesArray()
            all.low = features.rawValue
            try d.set(.setFeaturesArray, all)
        } else {
            try d.set(.setFeatures, features.rawValue)
        }
        usesIOTLB = features.contains(.accessPlatform)
        if let backend = try? d.get(.getBackendFeatures, UInt64(0)) {
            _ = try? d.set(.setBackendFeatures, backend & (1 << UInt64(VHOST_BACKEND_F_IOTLB_MSG_V2)))
        }
        // With ACCESS_PLATFORM each VHOST_SET_FEATURES makes an empty IOTLB.
        if usesIOTLB { for r in mapped[object.index] ?? [] { try d.iotlb(VHOST_IOTLB_UPDATE, r) } }
    }

    /// VHOST_SET_MEM_TABLE. With ACCESS_PLATFORM addresses are IOVA, and each region goes into the device's IOTLB
    /// beforehand, so that vhost never has to ask.
    public func setMemory(_ object: VhostObject, _ regions: [VhostRegion]) throws(VhostError) {
        let most = KernelBackend.maximumRegions
        guard regions.count <= most else {
            throw VhostError(
                .argument, "\(name): \(regions.count) memory regions; \(most) are the most (vhost.max_mem_regions)")
        }
        var words: [UInt64] = [UInt64(regions.count)]
        for r in regions { words += [r.guestAddress, r.size, r.userAddress, 0] }
        var bytes = words.withUnsafeBytes { Array($0) }
        let d = try device(object.firstRing).0
        try d.request(.setMemTable, bytes: &bytes)
        if !usesIOTLB { return }
        for r in mapped[object.index] ?? [] where !regions.contains(where: r.isSame) {
            try d.iotlb(VHOST_IOTLB_INVALIDATE, r)
        }
        mapped[object.index] = regions
        for r in regions { try d.iotlb(VHOST_IOTLB_UPDATE, r) }
    }

    /// The table stays until the next one; what the IOTLB knows goes.
    public func dropMemory(_ object: VhostObject) throws(VhostError) {
        let all = mapped.removeValue(forKey: object.index) ?? []
        for r in all { try device(object.firstRing).0.iotlb(VHOST_IOTLB_INVALIDATE, r) }
    }

    private static var maximumRegions: Int {
        guard let f = fopen("/sys/module/vhost/parameters/max_mem_regions", "r") else { return 64 }
        defer { fclose(f) }
        var line = [CChar](repeating: 0, count: 32)
        return fgets(&line, 32, f) == nil ? 64 : Int(atoi(line))
    }

    public func setVringNum(_ ring: Int, _ size: UInt32) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.vring(.setVringNum, i, size)
    }

    public func setVringBase(_ ring: Int, _ base: UInt32) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.vring(.setVringBase, i, base)
    }

    public func setVringAddress(_ ring: Int, _ address: VhostRingAddress) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.vringAddress(i, address)
    }

    public func setVringKick(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.file(.setVringKick, i, fd)
    }

    public func setVringCall(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.file(.setVringCall, i, fd)
    }

    public func setVringErr(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.file(.setVringErr, i, fd)
    }

    public func getVringBase(_ ring: Int) throws(VhostError) -> UInt32 {
        let (d, i) = try device(ring)
        return try d.vringBase(i)
    }

    /// VHOST_NET_SET_BACKEND: from here on vhost's thread moves packets, or no longer.
    public func bind(_ ring: Int, _ isBound: Bool) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.file(.netSetBackend, i, isBound ? tap.queues[ring / 2] : nil)
    }

    public func setBusyloopTimeout(_ ring: Int, microseconds: UInt32) throws(VhostError) {
        let (d, i) = try device(ring)
        try d.vring(.setBusyloopTimeout, i, microseconds)
    }

    public func busyloopTimeout(_ ring: Int) throws(VhostError) -> UInt32 {
        let (d, i) = try device(ring)
        return try d.get(.getBusyloopTimeout, vhost_vring_state(index: UInt32(i), num: 0)).num
    }

    /// VHOST_SET_LOG_BASE takes a pointer.
    public func setLogBase(_ object: VhostObject, _ log: DirtyLog) throws(VhostError) {
        try device(object.firstRing).0.set(.setLogBase, UInt64(UInt(bitPattern: log.memory.base)))
    }
}
