import Virtio

/// What stands behind a `VhostNet`.
public enum VhostKind: Sendable, Equatable, CustomStringConvertible {
    /// `/dev/vhost-net` with a TAP device.
    case kernel
    /// A vhost-user socket.
    case user
    /// `/dev/vhost-vdpa-N`.
    case vdpa

    public var description: String {
        switch self {
        case .kernel: return "the kernel's vhost-net"
        case .user: return "vhost-user"
        case .vdpa: return "vhost-vdpa"
        }
    }

    /// The kind that a path stands for, as DPDK's virtio-user has it: `/dev/vhost-net…` is the kernel,
    /// `/dev/vhost-vdpa…` is vDPA, other paths are sockets. Errors: `.argument` names a `/dev/vhost-…`
    /// device of another kind.
    public static func of(path: String) throws(VhostError) -> VhostKind {
        if path.hasPrefix("/dev/vhost-net") { return .kernel }
        if path.hasPrefix("/dev/vhost-vdpa") { return .vdpa }
        if path.hasPrefix("/dev/vhost-") {
            throw VhostError(
                .argument, "\(path): unknown kind of vhost back-end; vhost-net, vhost-vdpa-N and sockets are known")
        }
        return .user
    }

    /// The bits that are passed between driver and back-end, as QEMU's vhost-net layer lists them for each
    /// kind. Bits outside belong to the device model.
    public var listedFeatures: Features {
        switch self {
        case .kernel: return FeatureLists.kernel
        case .user: return FeatureLists.user
        case .vdpa: return FeatureLists.vdpa
        }
    }
}

private enum FeatureLists {
    static let kernel: Features = [
        .notifyOnEmpty, .indirectDesc, .eventIdx, .mrgRxbuf, .version1, .mtu, .accessPlatform, .ringPacked, .ringReset,
        .inOrder,
        .notificationData, .rscExt, .hashReport,
    ]
    static let user: Features = [
        .notifyOnEmpty, .notificationData, .indirectDesc, .eventIdx, .anyLayout, .version1, .csum, .guestCsum, .gso,
        .guestTSO4,
        .guestTSO6, .guestECN, .guestUFO, .hostTSO4, .hostTSO6, .hostECN, .hostUFO, .mrgRxbuf, .mtu, .accessPlatform,
        .ringPacked,
        .ringReset, .inOrder, .rss, .rscExt, .hashReport, .guestUSO4, .guestUSO6, .hostUSO, .guestAnnounce, .mq,
    ]
    static let vdpa: Features = [
        .anyLayout, .accessPlatform, .notifyOnEmpty, .ringPacked, .ringReset, .version1, .inOrder, .notificationData,
        .eventIdx,
        .indirectDesc, .csum, .ctrlGuestOffloads, .ctrlMACAddr, .ctrlRX, .ctrlRXExtra, .ctrlVLAN, .ctrlVQ, .gso,
        .guestCsum,
        .guestECN, .guestTSO4, .guestTSO6, .guestUFO, .guestUSO4, .guestUSO6, .hashReport, .hostECN, .hostTSO4,
        .hostTSO6,
        .hostUFO, .hostUSO, .mq, .mrgRxbuf, .mtu, .rscExt, .rss, .status,
    ]
}
