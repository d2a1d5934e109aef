import CPlatform
import Glibc
import Memory

/// The requests (ioctl) that the control plane makes, by their names in the kernel's headers.
package enum DeviceRequest: String, Sendable, CaseIterable {
    case getFeatures = "VHOST_GET_FEATURES"
    case setFeatures = "VHOST_SET_FEATURES"
    case getFeaturesArray = "VHOST_GET_FEATURES_ARRAY"
    case setFeaturesArray = "VHOST_SET_FEATURES_ARRAY"
    case setOwner = "VHOST_SET_OWNER"
    case resetOwner = "VHOST_RESET_OWNER"
    case setMemTable = "VHOST_SET_MEM_TABLE"
    case setLogBase = "VHOST_SET_LOG_BASE"
    case setVringNum = "VHOST_SET_VRING_NUM"
    case setVringAddr = "VHOST_SET_VRING_ADDR"
    case setVringBase = "VHOST_SET_VRING_BASE"
    case getVringBase = "VHOST_GET_VRING_BASE"
    case setVringKick = "VHOST_SET_VRING_KICK"
    case setVringCall = "VHOST_SET_VRING_CALL"
    case setVringErr = "VHOST_SET_VRING_ERR"
    case setBusyloopTimeout = "VHOST_SET_VRING_BUSYLOOP_TIMEOUT"
    case getBusyloopTimeout = "VHOST_GET_VRING_BUSYLOOP_TIMEOUT"
    case setBackendFeatures = "VHOST_SET_BACKEND_FEATURES"
    case getBackendFeatures = "VHOST_GET_BACKEND_FEATURES"
    case netSetBackend = "VHOST_NET_SET_BACKEND"
    case vdpaGetDeviceID = "VHOST_VDPA_GET_DEVICE_ID"
    case vdpaGetStatus = "VHOST_VDPA_GET_STATUS"
    case vdpaSetStatus = "VHOST_VDPA_SET_STATUS"
    case vdpaGetConfig = "VHOST_VDPA_GET_CONFIG"
    case vdpaSetConfig = "VHOST_VDPA_SET_CONFIG"
    case vdpaSetVringEnable = "VHOST_VDPA_SET_VRING_ENABLE"
    case vdpaGetVringNum = "VHOST_VDPA_GET_VRING_NUM"
    case vdpaSetConfigCall = "VHOST_VDPA_SET_CONFIG_CALL"
    case vdpaGetIOVARange = "VHOST_VDPA_GET_IOVA_RANGE"
    case vdpaGetConfigSize = "VHOST_VDPA_GET_CONFIG_SIZE"
    case vdpaGetVQsCount = "VHOST_VDPA_GET_VQS_COUNT"
    case vdpaGetGroupNum = "VHOST_VDPA_GET_GROUP_NUM"
    case vdpaGetASNum = "VHOST_VDPA_GET_AS_NUM"
    case vdpaGetVringGroup = "VHOST_VDPA_GET_VRING_GROUP"
    case vdpaSetGroupASID = "VHOST_VDPA_SET_GROUP_ASID"
    case vdpaSuspend = "VHOST_VDPA_SUSPEND"
    case vdpaResume = "VHOST_VDPA_RESUME"
    case tunSetIFF = "TUNSETIFF"
    case tunGetIFF = "TUNGETIFF"
    case tunGetFeatures = "TUNGETFEATURES"
    case tunSetHeaderSize = "TUNSETVNETHDRSZ"
    case tunGetHeaderSize = "TUNGETVNETHDRSZ"
    case tunSetOffload = "TUNSETOFFLOAD"
    case tunSetPersist = "TUNSETPERSIST"
    case tunSetSendBuffer = "TUNSETSNDBUF"

    var code: UInt {
        switch self {
        case .getFeatures: return CPlat_VHOST_GET_FEATURES
        case .setFeatures: return CPlat_VHOST_SET_FEATURES
        case .getFeaturesArray: return CPlat_VHOST_GET_FEATURES_ARRAY
        case .setFeaturesArray: return CPlat_VHOST_SET_FEATURES_ARRAY
        case .setOwner: return CPlat_VHOST_SET_OWNER
        case .resetOwner: return CPlat_VHOST_RESET_OWNER
        case .setMemTable: return CPlat_VHOST_SET_MEM_TABLE
        case .setLogBase: return CPlat_VHOST_SET_LOG_BASE
        case .setVringNum: return CPlat_VHOST_SET_VRING_NUM
        case .setVringAddr: return CPlat_VHOST_SET_VRING_ADDR
        case .setVringBase: return CPlat_VHOST_SET_VRING_BASE
        case .getVringBase: return CPlat_VHOST_GET_VRING_BASE
        case .setVringKick: return CPlat_VHOST_SET_VRING_KICK
        case .setVringCall: return CPlat_VHOST_SET_VRING_CALL
        case .setVringErr: return CPlat_VHOST_SET_VRING_ERR
        case .setBusyloopTimeout: return CPlat_VHOST_SET_VRING_BUSYLOOP_TIMEOUT
        case .getBusyloopTimeout: return CPlat_VHOST_GET_VRING_BUSYLOOP_TIMEOUT
        case .setBackendFeatures: return CPlat_VHOST_SET_BACKEND_FEATURES
        case .getBackendFeatures: return CPlat_VHOST_GET_BACKEND_FEATURES
        case .netSetBackend: return CPlat_VHOST_NET_SET_BACKEND
        case .vdpaGetDeviceID: return CPlat_VHOST_VDPA_GET_DEVICE_ID
        case .vdpaGetStatus: return CPlat_VHOST_VDPA_GET_STATUS
        case .vdpaSetStatus: return CPlat_VHOST_VDPA_SET_STATUS
        case .vdpaGetConfig: return CPlat_VHOST_VDPA_GET_CONFIG
        case .vdpaSetConfig: return CPlat_VHOST_VDPA_SET_CONFIG
        case .vdpaSetVringEnable: return CPlat_VHOST_VDPA_SET_VRING_ENABLE
        case .vdpaGetVringNum: return CPlat_VHOST_VDPA_GET_VRING_NUM
        case .vdpaSetConfigCall: return CPlat_VHOST_VDPA_SET_CONFIG_CALL
        case .vdpaGetIOVARange: return CPlat_VHOST_VDPA_GET_IOVA_RANGE
        case .vdpaGetConfigSize: return CPlat_VHOST_VDPA_GET_CONFIG_SIZE
        case .vdpaGetVQsCount: return CPlat_VHOST_VDPA_GET_VQS_COUNT
        case .vdpaGetGroupNum: return CPlat_VHOST_VDPA_GET_GROUP_NUM
        case .vdpaGetASNum: return CPlat_VHOST_VDPA_GET_AS_NUM
        case .vdpaGetVringGroup: return CPlat_VHOST_VDPA_GET_VRING_GROUP
        case .vdpaSetGroupASID: return CPlat_VHOST_VDPA_SET_GROUP_ASID
        case .vdpaSuspend: return CPlat_VHOST_VDPA_SUSPEND
        case .vdpaResume: return CPlat_VHOST_VDPA_RESUME
        case .tunSetIFF: return CPlat_TUNSETIFF
        case .tunGetIFF: return CPlat_TUNGETIFF
        case .tunGetFeatures: return CPlat_TUNGETFEATURES
        case .tunSetHeaderSize: return CPlat_TUNSETVNETHDRSZ
        case .tunGetHeaderSize: return CPlat_TUNGETVNETHDRSZ
        case .tunSetOffload: return CPlat_TUNSETOFFLOAD
        case .tunSetPersist: return CPlat_TUNSETPERSIST
        case .tunSetSendBuffer: return CPlat_TUNSETSNDBUF
        }
    }
}

/// The system calls of the kernel and vDPA back-ends and of TAP devices. Tests put their own in place:
/// one that records, or that fails where it is told to. A failed call returns -1 and sets errno.
package protocol DeviceCalls: AnyObject {
    /// open(2) with O_RDWR, close-on-exec and, for `isNonblocking`, O_NONBLOCK.
    func open(_ path: String, isNonblocking: Bool) -> Int32
    /// ioctl(2). `argument` may be nil for requests without one.
    func control(_ fd: Int32, _ request: DeviceRequest, _ argument: UnsafeMutableRawPointer?) -> Int32
    /// The same, for requests whose argument is a number.
    func control(_ fd: Int32, _ request: DeviceRequest, number: UInt) -> Int32
    /// write(2).
    func write(_ fd: Int32, _ bytes: RawSpan) -> Int
}

/// The real ones.
package final class SystemCalls: DeviceCalls {
    package init() {}

    package func open(_ path: String, isNonblocking: Bool) -> Int32 {
        Glibc.open(path, O_RDWR | O_CLOEXEC | (isNonblocking ? O_NONBLOCK : 0))
    }

    package func control(_ fd: Int32, _ request: DeviceRequest, _ argument: UnsafeMutableRawPointer?) -> Int32 {
        CPlat_ioctl(fd, request.code, argument)
    }

    package func control(_ fd: Int32, _ request: DeviceRequest, number: UInt) -> Int32 {
        CPlat_ioctl_number(fd, request.code, number)
    }

    package func write(_ fd: Int32, _ bytes: RawSpan) -> Int {
        bytes.withUnsafeBytes { Glibc.write(fd, $0.baseAddress, $0.count) }
    }
}

/// `struct vhost_features_array` of 128 bits.
struct FeaturesArray: BitwiseCopyable {
    let count: UInt64 = 2
    var low: UInt64 = 0
    var high: UInt64 = 0
}

/// An open vhost or TUN device with typed requests. Control plane; one thread at a time.
final class Device {
    let name: String
    let descriptor: OwnedDescriptor
    let calls: any DeviceCalls

    init(_ path: String, isNonblocking: Bool, _ calls: any DeviceCalls) throws(VhostError) {
        let fd = calls.open(path, isNonblocking: isNonblocking)
        if fd < 0 { throw Device.explain(path) }
        name = path
        descriptor = OwnedDescriptor(fd)
        self.calls = calls
    }

    /// A device that is open already.
    init(_ name: String, _ descriptor: OwnedDescriptor, _ calls: any DeviceCalls) {
        (self.name, self.descriptor, self.calls) = (name, descriptor, calls)
    }

    private static func explain(_ path: String) -> VhostError {
        let code = errno
        let hint: String
        switch (code, path) {
        case (ENOENT, "/dev/vhost-net"):
            hint = "; load it with `modprobe vhost_net`, or use tap:NAME, which needs no vhost"
        case (ENOENT, "/dev/net/tun"): hint = "; load it with `modprobe tun`"
        case (ENOENT, _) where path.hasPrefix("/dev/vhost-net"): hint = "; the kernel's is /dev/vhost-net"
        case (ENOENT, _): hint = "; see `vdpa dev show`, and `modprobe vhost_vdpa`"
        case (EACCES, _), (EPERM, _): hint = "; run as root or be given the device's group"
        default: hint = ""
        }
        return VhostError(.system(code), "\(path): open: \(SystemError.text(code))\(hint)")
    }

    func failure(_ request: DeviceRequest) -> VhostError { .system(name, request.rawValue) }

    /// A request with an argument that is read, written or both. Returns ioctl's result.
    @discardableResult
    func request<T: BitwiseCopyable>(_ request: DeviceRequest, _ argument: inout T) throws(VhostError) -> Int32 {
        let result = withUnsafeMutableBytes(of: &argument) { calls.control(descriptor.fd, request, $0.baseAddress) }
        if result < 0 { throw failure(request) }
        return result
    }

    func request(_ request: DeviceRequest) throws(VhostError) {
        if calls.control(descriptor.fd, request, nil) < 0 { throw failure(request) }
    }

    /// A request whose argument is a buffer of varying length.
    func request(_ request: DeviceRequest, bytes: inout [UInt8]) throws(VhostError) {
        let result = bytes.withUnsafeMutableBytes { calls.control(descriptor.fd, request, $0.baseAddress) }
        if result < 0 { throw failure(request) }
    }

    func set<T: BitwiseCopyable>(_ request: DeviceRequest, _ value: T) throws(VhostError) {
        var value = value
        try self.request(request, &value)
    }

    func get<T: BitwiseCopyable>(_ request: DeviceRequest, _ start: T) throws(VhostError) -> T {
        var value = start
        try self.request(request, &value)
        return value
    }

    /// Nil: the kernel has 64 bits alone. Which error says so depends on the kernel: one that does not know the request
    /// takes the argument for the number of a ring.
    func featuresArray() -> FeaturesArray? { try? get(.getFeaturesArray, FeaturesArray()) }

    /// `struct vhost_vring_state`.
    func vring(_ request: DeviceRequest, _ index: Int, _ number: UInt32) throws(VhostError) {
        try set(request, vhost_vring_state(index: UInt32(index), num: number))
    }

    /// `struct vhost_vring_file`; nil is -1.
    func file(_ request: DeviceRequest, _ index: Int, _ fd: OwnedDescriptor?) throws(VhostError) {
        try set(request, vhost_vring_file(index: UInt32(index), fd: fd?.fd ?? -1))
    }

    func vringBase(_ index: Int) throws(VhostError) -> UInt32 {
        try get(.getVringBase, vhost_vring_state(index: UInt32(index), num: 0)).num
    }

    /// `struct vhost_msg_v2`, written to the device: VHOST_IOTLB_UPDATE, _INVALIDATE, _BATCH_BEGIN, _BATCH_END.
    func iotlb(_ type: Int32, _ region: VhostRegion?, space: UInt32 = 0) throws(VhostError) {
        var m = vhost_msg_v2()
        m.type = UInt32(VHOST_IOTLB_MSG_V2)
        m.asid = space
        if let region {
            m.iotlb.iova = region.guestAddress
            m.iotlb.size = region.size
            m.iotlb.uaddr = region.userAddress
            m.iotlb.perm = UInt8(VHOST_ACCESS_RW)
        }
        m.iotlb.type = UInt8(type)
        let n = withUnsafeBytes(of: &m) { calls.write(descriptor.fd, $0.bytes) }
        if n == MemoryLayout<vhost_msg_v2>.size { return }
        let names = [
            VHOST_IOTLB_UPDATE: "update", VHOST_IOTLB_INVALIDATE: "invalidation",
            VHOST_IOTLB_BATCH_BEGIN: "batch begin", VHOST_IOTLB_BATCH_END: "batch end",
        ]
        throw .system(
            name,
            "IOTLB \(names[type] ?? "message")"
                + (region.map { " of 0x\(String($0.guestAddress, radix: 16))+\($0.size)" } ?? ""))
    }

    func vringAddress(_ index: Int, _ a: VhostRingAddress) throws(VhostError) {
        try set(
            .setVringAddr,
            vhost_vring_addr(
                index: UInt32(index), flags: a.log == nil ? 0 : 1 << UInt32(VHOST_VRING_F_LOG),
                desc_user_addr: a.descriptors,
                used_user_addr: a.deviceArea, avail_user_addr: a.driverArea, log_guest_addr: a.log ?? 0))
    }
}
