import Virtio

/// Feature bits that a device-side port offers.
enum PortFeatures {
    /// Receive offloads that a driver can accept, and turn off again with CTRL_GUEST_OFFLOADS.
    static let guestOffloads: Features = [.guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6]

    static func offered(_ options: PortOptions, hasMTU: Bool) -> Features {
        var f: Features = [
            .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO, .mrgRxbuf, .status, .ctrlVQ, .ctrlRX, .ctrlRXExtra,
            .ctrlVLAN,
            .ctrlMACAddr, .guestAnnounce, .ctrlGuestOffloads, .indirectDesc, .eventIdx, .version1, .anyLayout,
            .ringPacked, .inOrder, .notificationData, .accessPlatform,
        ]
        f.formUnion(guestOffloads)
        if options.queuePairs > 1 { f.insert(.mq) }
        if hasMTU { f.insert(.mtu) }
        if options.offersRingReset { f.insert(.ringReset) }
        if options.mac != nil { f.insert(.mac) }
        return f
    }
}
