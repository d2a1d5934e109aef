import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import Virtio

/// Stands for the kernel: records the calls, keeps the state that a back-end has, and fails the call it is told to.
final class FakeDevice: DeviceCalls {
    var trace: [String] = []
    /// The call (counted from 1, all kinds) that fails with EIO; 0: none.
    var failAt = 0
    private(set) var count = 0
    /// Descriptor to path.
    private var paths: [Int32: String] = [:]

    var features: UInt64 =
        (Features([
            .version1, .mrgRxbuf, .eventIdx, .indirectDesc, .notifyOnEmpty, .anyLayout, .vhostLogAll, .ringReset,
        ])).rawValue
    /// Features 64 to 127; nil: a kernel without VHOST_GET_FEATURES_ARRAY.
    var moreFeatures: UInt64?
    /// What was acknowledged of them.
    private(set) var moreAcknowledged: UInt64?
    var backendFeatures: UInt64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4
    var configuration = [UInt8](repeating: 0, count: 16)
    var deviceID: UInt32 = 1
    var iova: (UInt64, UInt64) = (0, UInt64.max)
    var addressSpaces: UInt32 = 2
    var maximumRing: UInt16 = 256
    var queueCount: UInt32 = 3
    var tunFeatures = UInt32(IFF_VNET_HDR | IFF_MULTI_QUEUE)
    /// TUNSETVNETHDRSZ is refused: the header has 10 bytes.
    var hasShortHeader = false
    /// TUNSETOFFLOAD: bits that it does not know.
    var unknownOffloads: UInt = 0

    /// What must be as before when an operation has failed.
    struct State: Equatable {
        var bound: Set<String> = []
        var status: UInt8 = 0
        var mapped = 0
        var enabled: Set<UInt32> = []
        var persistent = false
        /// By group of virtqueues.
        var spaces: [UInt32: UInt32] = [:]
    }
    private(set) var state = State()
    /// Where calls go, by ring (of the last device that was told), and the configuration interrupt.
    private(set) var calls: [UInt32: Int32] = [:]
    private(set) var configurationCall: Int32 = -1
    private(set) var acknowledged = Features()
    private(set) var offloads: UInt = 0
    /// Of the ring that was told last.
    private(set) var descriptorAddress: UInt64 = 0
    /// Regions that were told last.
    private(set) var table: [(UInt64, UInt64)] = []
    var bases: [UInt32: UInt32] = [:]
    var busyloop: [UInt32: UInt32] = [:]

    private func step(_ text: String) -> Bool {
        count += 1
        trace.append(text)
        if count == failAt {
            errno = EIO
            return false
        }
        return true
    }

    func open(_ path: String, isNonblocking: Bool) -> Int32 {
        guard step("open \(path)\(isNonblocking ? " O_NONBLOCK" : "")") else { return -1 }
        let fd = Glibc.open("/dev/null", O_RDWR | O_CLOEXEC)
        paths[fd] = path
        return fd
    }

    func write(_ fd: Int32, _ bytes: RawSpan) -> Int {
        let m = bytes.withUnsafeBytes { $0.loadUnaligned(as: vhost_msg_v2.self) }
        let names: [UInt8: String] = [2: "UPDATE", 3: "INVALIDATE", 5: "BATCH_BEGIN", 6: "BATCH_END"]
        guard step("IOTLB \(names[m.iotlb.type] ?? "?") asid \(m.asid)") else { return -1 }
        if m.iotlb.type == 2 { state.mapped += 1 }
        if m.iotlb.type == 3 { state.mapped -= 1 }
        return bytes.byteCount
    }

    /// The back-end's side of a call, or of a configuration interrupt.
    func fire(_ fd: Int32?) {
        var one: UInt64 = 1
        _ = Glibc.write(fd!, &one, 8)
    }

    /// Requests whose argument has fewer than eight bytes.
    private static let short: Set<DeviceRequest> = [
        .vdpaGetDeviceID, .vdpaGetStatus, .vdpaSetStatus, .vdpaGetConfigSize, .vdpaGetVQsCount, .vdpaGetVringNum,
        .vdpaGetGroupNum, .vdpaGetASNum,
        .vdpaSetConfigCall, .tunGetFeatures, .tunSetHeaderSize, .tunGetHeaderSize, .tunSetSendBuffer,
    ]

    func control(_ fd: Int32, _ request: DeviceRequest, number: UInt) -> Int32 {
        guard step(request.rawValue) else { return -1 }
        switch request {
        case .tunSetPersist: state.persistent = number == 1
        case .tunSetOffload:
            if number & unknownOffloads != 0 {
                errno = EINVAL
                return -1
            }
            offloads = number
        default: break
        }
        return 0
    }

    func control(_ fd: Int32, _ request: DeviceRequest, _ argument: UnsafeMutableRawPointer?) -> Int32 {
        // An index and a number, where the argument is not shorter.
        var pair = vhost_vring_state()
        if let argument, !FakeDevice.short.contains(request) {
            pair = argument.loadUnaligned(as: vhost_vring_state.self)
        }
        guard step(describe(fd, request, pair, argument)) else { return -1 }
        switch request {
        case .getFeatures: argument!.storeBytes(of: features, as: UInt64.self)
        case .getFeaturesArray, .setFeaturesArray:
            return array(argument!, isSet: request == .setFeaturesArray)
        case .getBackendFeatures: argument!.storeBytes(of: backendFeatures, as: UInt64.self)
        case .setFeatures: acknowledged = Features(rawValue: argument!.loadUnaligned(as: UInt64.self))
        case .setVringAddr: descriptorAddress = argument!.loadUnaligned(as: vhost_vring_addr.self).desc_user_addr
        case .setVringCall: calls[pair.index] = Int32(bitPattern: pair.num)
        case .setMemTable:
            let words = argument!.bindMemory(to: UInt64.self, capacity: 1)
            table = (0..<Int(words[0])).map { (words[1 + 4 * $0], words[2 + 4 * $0]) }
        case .tunGetFeatures: argument!.storeBytes(of: tunFeatures, as: UInt32.self)
        case .tunSetHeaderSize where hasShortHeader:
            errno = EINVAL
            return -1
        case .tunGetHeaderSize: argument!.storeBytes(of: 10, as: Int32.self)
        case .netSetBackend:
            let name = "\(paths[fd] ?? "")#\(fd).\(pair.index)"
            if Int32(bitPattern: pair.num) == -1 { state.bound.remove(name) } else { state.bound.insert(name) }
        case .getVringBase:
            argument!.storeBytes(
                of: vhost_vring_state(index: pair.index, num: bases[pair.index] ?? 7), as: vhost_vring_state.self)
        case .setVringBase: bases[pair.index] = pair.num
        case .setBusyloopTimeout: busyloop[pair.index] = pair.num
        case .getBusyloopTimeout:
            argument!.storeBytes(
                of: vhost_vring_state(index: pair.index, num: busyloop[pair.index] ?? 0), as: vhost_vring_state.self)
        default: return vdpa(request, pair, argument)
        }
        return 0
    }

    /// `struct vhost_features_array`.
    private func array(_ words: UnsafeMutableRawPointer, isSet: Bool) -> Int32 {
        guard let moreFeatures, words.load(as: UInt64.self) == 2 else {
            // As Linux 6.1 has it, which takes 2 for a ring.
            errno = ENOBUFS
            return -1
        }
        if isSet {
            acknowledged = Features(rawValue: words.load(fromByteOffset: 8, as: UInt64.self))
            moreAcknowledged = words.load(fromByteOffset: 16, as: UInt64.self)
        } else {
            words.storeBytes(of: features, toByteOffset: 8, as: UInt64.self)
            words.storeBytes(of: moreFeatures, toByteOffset: 16, as: UInt64.self)
        }
        return 0
    }

    private func vdpa(_ request: DeviceRequest, _ pair: vhost_vring_state, _ argument: UnsafeMutableRawPointer?)
        -> Int32
    {
        switch request {
        case .vdpaGetDeviceID: argument!.storeBytes(of: deviceID, as: UInt32.self)
        case .vdpaGetStatus: argument!.storeBytes(of: state.status, as: UInt8.self)
        case .vdpaSetStatus:
            state.status = argument!.load(as: UInt8.self)
            // A reset forgets the address spaces, as the simulator's does.
            if state.status == 0 { (state.enabled, state.spaces) = ([], [:]) }
        case .vdpaSetGroupASID: state.spaces[pair.index] = pair.num
        case .vdpaSetConfigCall: configurationCall = argument!.loadUnaligned(as: Int32.self)
        case .vdpaGetVringNum: argument!.storeBytes(of: maximumRing, as: UInt16.self)
        case .vdpaGetIOVARange:
            argument!.storeBytes(of: vhost_vdpa_iova_range(first: iova.0, last: iova.1), as: vhost_vdpa_iova_range.self)
        case .vdpaGetVQsCount: argument!.storeBytes(of: queueCount, as: UInt32.self)
        case .vdpaGetASNum: argument!.storeBytes(of: addressSpaces, as: UInt32.self)
        case .vdpaGetVringGroup:
            argument!.storeBytes(
                of: vhost_vring_state(index: pair.index, num: pair.index / 2), as: vhost_vring_state.self)
        case .vdpaSetVringEnable:
            if pair.num == 1 { state.enabled.insert(pair.index) } else { state.enabled.remove(pair.index) }
        case .vdpaGetConfig:
            for i in 0..<Int(pair.num) where Int(pair.index) + i < configuration.count {
                argument!.storeBytes(of: configuration[Int(pair.index) + i], toByteOffset: 8 + i, as: UInt8.self)
            }
        case .vdpaSetConfig:
            for i in 0..<Int(pair.num) where Int(pair.index) + i < configuration.count {
                configuration[Int(pair.index) + i] = argument!.load(fromByteOffset: 8 + i, as: UInt8.self)
            }
        default: break
        }
        return 0
    }

    private func describe(
        _ fd: Int32, _ r: DeviceRequest, _ pair: vhost_vring_state, _ argument: UnsafeMutableRawPointer?
    ) -> String {
        switch r {
        case .setVringNum, .setVringBase, .setBusyloopTimeout, .vdpaSetVringEnable, .vdpaSetGroupASID:
            return "\(r.rawValue) \(pair.index) \(pair.num)"
        case .getVringBase, .setVringAddr, .setVringKick, .setVringCall, .setVringErr, .vdpaGetVringGroup:
            return "\(r.rawValue) \(pair.index)"
        case .netSetBackend: return "\(r.rawValue) \(pair.index) \(Int32(bitPattern: pair.num) == -1 ? "-1" : "tap")"
        case .vdpaSetStatus: return "\(r.rawValue) \(argument!.load(as: UInt8.self))"
        case .setFeatures:
            let features = Features(rawValue: argument!.loadUnaligned(as: UInt64.self))
            return r.rawValue + (features.contains(.vhostLogAll) ? " LOG_ALL" : "")
        default: return r.rawValue
        }
    }
}

/// Rings in memory of our own, as a driver would have them.
final class Rings {
    let memory: HostMemory
    let kicks: [OwnedDescriptor]
    let calls: [OwnedDescriptor]

    init(_ count: Int) throws {
        memory = try HostMemory(bytes: 8192 * count, wantsHugePages: false, name: "ringway-vhost")
        kicks = (0..<count).map { _ in OwnedDescriptor(CPlat_eventfd(0)) }
        calls = (0..<count).map { _ in OwnedDescriptor(CPlat_eventfd(0)) }
    }

    /// Where a guest would have it: low. (A dirty log covers everything below the highest address.)
    var region: VhostRegion {
        VhostRegion(
            guestAddress: 1 << 20, size: memory.region.size, userAddress: memory.region.userAddress,
            descriptor: memory.descriptor, owner: memory)
    }
    /// A second region, above the first.
    var more: VhostRegion {
        VhostRegion(
            guestAddress: 1 << 32, size: memory.region.size, userAddress: memory.region.userAddress,
            descriptor: memory.descriptor, owner: memory)
    }
    var count: Int { kicks.count }

    subscript(_ i: Int) -> VhostRing {
        let at = memory.region.userAddress + UInt64(8192 * i)
        return VhostRing(
            size: 256, isPacked: false, base: 0, descriptors: at, driverArea: at + 4096, deviceArea: at + 5120,
            kick: kicks[i], call: calls[i])
    }

    var all: [VhostRing] { (0..<count).map { self[$0] } }
}

/// Open descriptors of this process.
func openDescriptors() -> Int {
    guard let d = opendir("/proc/self/fd") else { return -1 }
    defer { closedir(d) }
    var n = 0
    while readdir(d) != nil { n += 1 }
    return n
}

/// What a device that is closed may not leave behind in this process.
struct Traces: Equatable {
    let descriptors = openDescriptors()
    /// Mappings that are shared: memory, logs, rings. (Private ones are the allocator's and the threads'.)
    let mappings = lines("/proc/self/maps").filter {
        $0.split(separator: " ").dropFirst().first?.hasSuffix("s") == true
    }.count
    let threads = entries("/proc/self/task").count
    /// The kernel's threads that work for a vhost-net (up to Linux 6.3; later ones are threads of this process), of
    /// whichever process.
    let workers = entries("/proc").filter { lines("/proc/\($0)/comm").first?.hasPrefix("vhost-") == true }.count

    private static func entries(_ path: String) -> [String] {
        guard let d = opendir(path) else { return [] }
        defer { closedir(d) }
        var names: [String] = []
        while let e = readdir(d) {
            let name = withUnsafePointer(to: &e.pointee.d_name) {
                String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
            }
            if Int(name) != nil { names.append(name) }
        }
        return names
    }

    private static func lines(_ path: String) -> [Substring] {
        guard let f = fopen(path, "r") else { return [] }
        defer { fclose(f) }
        var bytes: [UInt8] = []
        var c = getc(f)
        while c != EOF {
            bytes.append(UInt8(c))
            c = getc(f)
        }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    }
}

/// One after the other: the tests count this process's descriptors.
@Suite(.serialized) enum ControlPlane {}

extension FakeDevice {
    /// A `VhostNet` on it as /dev/vhost-net with a TAP.
    func kernel() throws -> VhostNet {
        try VhostNet(KernelBackend(tap: try Tap(name: "tap9", calls: self), calls: self))
    }
}
