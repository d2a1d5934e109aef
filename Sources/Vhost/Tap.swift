import CPlatform
import Glibc
import Memory
import Virtio

/// A TAP device with a descriptor for each queue. Its frames carry a net header of `headerLength` bytes,
/// where it could be had.
public final class Tap {
    /// The interface's name.
    public let name: String
    /// One for each queue, in order.
    public let queues: [OwnedDescriptor]
    /// 12 with a virtio-net header (IFF_VNET_HDR), 10 for a shorter one, 0 without.
    public let headerLength: Int
    /// Whether TUNSETOFFLOAD takes USO (Linux 6.2).
    public private(set) var hasUSO = false
    private let devices: [Device]

    /// Opens or creates the interface `name` (empty: the kernel chooses) with `queues` queues. A device
    /// that this call makes goes with its last descriptor, unless `isPersistent`. An existing one must have
    /// been made with the same flags (`ip tuntap add NAME mode tap vnet_hdr multi_queue`).
    ///
    /// Calls: open /dev/net/tun, TUNGETFEATURES, TUNSETIFF, TUNSETVNETHDRSZ, TUNSETSNDBUF for each queue.
    /// `isNonblocking` is what QEMU and vhost-net use; io_uring waits on blocking descriptors.
    /// Errors: `.system` names the call.
    public convenience init(
        name: String, queues: Int = 1, isPersistent: Bool = false, isNonblocking: Bool = true
    ) throws(VhostError) {
        try self.init(
            name: name, queues: queues, isPersistent: isPersistent, isNonblocking: isNonblocking, calls: SystemCalls())
    }

    package init(
        name: String, queues: Int = 1, isPersistent: Bool = false, isNonblocking: Bool = true, calls: any DeviceCalls
    ) throws(VhostError) {
        guard name.utf8.count < Int(IFNAMSIZ), !name.contains(where: { $0 == "/" || $0.isWhitespace }), name != ".",
            name != ".."
        else {
            throw VhostError(
                .argument, "tap '\(name)': names of interfaces have at most 15 bytes, without slashes and spaces")
        }
        var devices: [Device] = []
        var actual = name
        var header = 0
        guard queues >= 1 else { throw VhostError(.argument, "tap \(name): \(queues) queues") }
        for _ in 0..<queues {
            let d = try Device("/dev/net/tun", isNonblocking: isNonblocking, calls)
            let features = try d.get(.tunGetFeatures, UInt32(0))
            var flags = UInt32(IFF_TAP) | UInt32(IFF_NO_PI)
            if features & UInt32(IFF_VNET_HDR) != 0 { flags |= UInt32(IFF_VNET_HDR) }
            if queues > 1 { flags |= UInt32(IFF_MULTI_QUEUE) }
            var request = InterfaceRequest(name: actual, flags: UInt16(flags))
            do { try d.request(.tunSetIFF, bytes: &request.bytes) } catch {
                // One that exists with `multi_queue` is taken by one queue, too.
                guard queues == 1, error.kind == .system(EINVAL), features & UInt32(IFF_MULTI_QUEUE) != 0 else {
                    throw Tap.explain(error, actual, queues)
                }
                request = InterfaceRequest(name: actual, flags: UInt16(flags | UInt32(IFF_MULTI_QUEUE)))
                do { try d.request(.tunSetIFF, bytes: &request.bytes) } catch {
                    throw Tap.explain(error, actual, queues)
                }
            }
            actual = request.name
            if flags & UInt32(IFF_VNET_HDR) != 0 { header = Tap.setHeader(d) }
            // Without a limit of its own one queue cannot starve the others of the kernel's memory.
            _ = try? d.set(.tunSetSendBuffer, Int32.max)
            devices.append(d)
        }
        // Last, so that a failure leaves no device behind. TUNSETPERSIST takes its argument by value.
        if isPersistent, let d = devices.first,
            calls.control(d.descriptor.fd, .tunSetPersist, number: 1) < 0
        {
            throw d.failure(.tunSetPersist)
        }
        self.name = actual
        self.devices = devices
        self.queues = devices.map(\.descriptor)
        headerLength = header
    }

    /// A TAP device that was opened by somebody else (IFF_TAP, IFF_NO_PI); each descriptor is one queue and is taken
    /// over. Calls: TUNGETIFF and TUNSETVNETHDRSZ for each. Errors: `.argument` for what is no TAP, has packet
    /// information, or for queues of different interfaces.
    public convenience init(descriptors: [OwnedDescriptor]) throws(VhostError) {
        try self.init(descriptors: descriptors, calls: SystemCalls())
    }

    package init(descriptors: [OwnedDescriptor], calls: any DeviceCalls) throws(VhostError) {
        var devices: [Device] = []
        var found: InterfaceRequest?
        for descriptor in descriptors {
            let d = Device("fd \(descriptor.fd)", descriptor, calls)
            var request = InterfaceRequest(name: "", flags: 0)
            do { try d.request(.tunGetIFF, bytes: &request.bytes) } catch {
                throw VhostError(.argument, "descriptor \(descriptor.fd) is no TAP device (\(error))")
            }
            guard request.flags & UInt16(IFF_TAP) != 0, request.flags & UInt16(IFF_NO_PI) != 0 else {
                throw VhostError(
                    .argument,
                    """
                    descriptor \(descriptor.fd): \(request.name) must be a TAP (IFF_TAP) without packet information \
                    (IFF_NO_PI)
                    """
                )
            }
            if let found, found.name != request.name {
                throw VhostError(
                    .argument,
                    "descriptors of two interfaces, \(found.name) and \(request.name); a TAP's queues belong to one")
            }
            found = request
            devices.append(d)
        }
        guard let found else { throw VhostError(.argument, "no TAP descriptors given") }
        name = found.name
        self.devices = devices
        queues = descriptors
        headerLength = found.flags & UInt16(IFF_VNET_HDR) != 0 ? devices.map(Tap.setHeader).min() ?? 0 : 0
    }

    /// 12 bytes if it can (VERSION_1, MRG_RXBUF), else what there is.
    private static func setHeader(_ d: Device) -> Int {
        do throws(VhostError) {
            try d.set(.tunSetHeaderSize, Int32(12))
            return 12
        } catch {
            return Int((try? d.get(.tunGetHeaderSize, Int32(10))) ?? 10)
        }
    }

    private static func explain(_ error: VhostError, _ name: String, _ queues: Int) -> VhostError {
        let hint: String
        switch error.kind {
        case .system(EINVAL):
            hint =
                """
                ; an interface of this name is no TAP, or has other flags: make it with `ip tuntap add \(name) mode \
                tap vnet_hdr\(queues > 1 ? " multi_queue" : "")`
                """
        case .system(EBUSY): hint = "; another program has it open"
        case .system(EPERM): hint = "; run as root or with CAP_NET_ADMIN"
        default: hint = ""
        }
        return VhostError(error.kind, "tap\(name.isEmpty ? "" : " " + name): \(error)\(hint)")
    }

    /// What frames read from the device may carry, as the receiver accepted it (GUEST_CSUM, GUEST_TSO4, …):
    /// TUNSETOFFLOAD on each queue. USO is left out where the kernel does not know it (`hasUSO`), UFO everywhere: Linux
    /// has given it up.
    public func setOffloads(_ features: Features) throws(VhostError) {
        var bits: UInt32 = 0
        if headerLength > 0 && features.contains(.guestCsum) {
            bits |= UInt32(TUN_F_CSUM)
            if features.contains(.guestTSO4) { bits |= UInt32(TUN_F_TSO4) }
            if features.contains(.guestTSO6) { bits |= UInt32(TUN_F_TSO6) }
            if features.contains(.guestECN) && bits & UInt32(TUN_F_TSO4 | TUN_F_TSO6) != 0 {
                bits |= UInt32(TUN_F_TSO_ECN)
            }
        }
        var uso: UInt32 = 0
        if bits & UInt32(TUN_F_CSUM) != 0 && features.isSuperset(of: [.guestUSO4, .guestUSO6]) {
            uso = UInt32(CPlat_TUN_F_USO4 | CPlat_TUN_F_USO6)
        }
        for d in devices {
            if uso != 0 {
                if d.calls.control(d.descriptor.fd, .tunSetOffload, number: UInt(bits | uso)) >= 0 {
                    hasUSO = true
                    continue
                }
                uso = 0
            }
            // By value, too.
            if d.calls.control(d.descriptor.fd, .tunSetOffload, number: UInt(bits)) < 0 {
                throw d.failure(.tunSetOffload)
            }
        }
    }
}

/// `struct ifreq` with a name and flags: 40 bytes.
struct InterfaceRequest {
    var bytes = [UInt8](repeating: 0, count: 40)

    init(name: String, flags: UInt16) {
        for (i, b) in name.utf8.prefix(15).enumerated() { bytes[i] = b }
        bytes[16] = UInt8(flags & 255)
        bytes[17] = UInt8(flags >> 8)
    }

    var name: String { String(decoding: bytes.prefix(16).prefix { $0 != 0 }, as: UTF8.self) }
    var flags: UInt16 { UInt16(bytes[16]) | UInt16(bytes[17]) << 8 }
}
