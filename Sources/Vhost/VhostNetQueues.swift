import Glibc
import Memory
import Virtio

// Single queues, masks, the configuration interrupt, migration.
extension VhostNet {
    /// Enables or disables the queues of a pair; remembered and restored with the next start. At once: vhost-user
    /// SET_VRING_ENABLE for each queue of the pair, with its effect waited for (REPLY_ACK, or a GET_FEATURES after
    /// them); kernel, while started, VHOST_NET_SET_BACKEND; vDPA nothing, for there enabling follows DRIVER_OK. A
    /// failure leaves both queues as they were. Errors: `.argument` for no such pair, or vhost-user without
    /// PROTOCOL_FEATURES (EINVAL).
    public func setEnabled(pair: Int, _ isEnabled: Bool) throws(VhostError) {
        guard enabled.indices.contains(pair) else {
            throw VhostError(.argument, "\(backend.name): no queue pair \(pair)")
        }
        do throws(VhostError) { try switchPair(pair, isEnabled) } catch {
            let before = backend.kind == .user ? wired[pair] : enabled[pair]
            if !backend.isDisconnected && error.kind != .argument {
                do throws(VhostError) { try switchPair(pair, before) } catch {
                    log.warning("undoing the enable of pair \(pair): \(error)")
                }
            }
            throw error
        }
        enabled[pair] = isEnabled
        wired[pair] = isEnabled
        save()
        if isEnabled && started.contains(where: { !$0.isControl && $0.index == pair }) {
            for ring in 2 * pair..<2 * pair + 2 { wake(ring) }
        }
    }

    private func switchPair(_ pair: Int, _ isOn: Bool) throws(VhostError) {
        let rings = 2 * pair..<2 * pair + 2
        switch backend.kind {
        case .user: try backend.setVringEnable(rings, isOn)
        case .kernel:
            guard isStarted, started.contains(where: { $0.index == pair }) else { return }
            // A queue that was reset is bound when it is restarted.
            for ring in rings where queues[ring].ring != nil { try backend.bind(ring, isOn) }
        case .vdpa: break
        }
    }

    /// Resets one queue of a running device (virtio 1.3, 2.6.1): kernel VHOST_NET_SET_BACKEND -1, then GET_VRING_BASE;
    /// vhost-user GET_VRING_BASE; no other queue notices. Returns where it stood. A failing call leaves the queue as it
    /// was. Errors:
    /// `.state` unless it runs; `.unsupported` unless RING_RESET was acknowledged, and on vDPA.
    @discardableResult
    public func resetQueue(_ ring: Int) throws(VhostError) -> UInt32 {
        try checkReset(ring)
        guard let running = queues[place(ring)].ring else {
            throw VhostError(.state, "\(backend.name): queue \(ring) is reset already")
        }
        do throws(VhostError) {
            try backend.bind(ring, false)
            let base = try position(running, ring)
            queues[place(ring)].ring = nil
            return base
        } catch {
            // An answer that cannot be, but the queue has stopped.
            if error.kind == .answer {
                queues[place(ring)].ring = nil
            } else if isBound(ring) {
                do throws(VhostError) { try backend.bind(ring, true) } catch {
                    log.warning("binding queue \(ring) again: \(error)")
                }
            }
            throw error
        }
    }

    /// Whether its pair is enabled.
    private func isBound(_ ring: Int) -> Bool { ring / 2 >= enabled.count || enabled[ring / 2] }

    /// Starts a queue again that was reset: SET_VRING_NUM, _BASE, _ADDR, _KICK, _CALL; kernel: VHOST_NET_SET_BACKEND.
    /// Both eventfds are written then, as by a start. If it fails, the queue is unbound and the device is stopped.
    /// Errors: `.state` unless the device runs (EBUSY) and the queue was reset; `.unsupported` as for `resetQueue`.
    public func restartQueue(_ ring: Int, _ new: VhostRing) throws(VhostError) {
        try checkReset(ring)
        guard queues[place(ring)].ring == nil else { throw VhostError(.state, "\(backend.name): queue \(ring) runs") }
        do throws(VhostError) {
            try startQueue(ring, new)
            if isBound(ring) { try backend.bind(ring, true) }
            try backend.settle()
        } catch {
            do throws(VhostError) { try backend.bind(ring, false) } catch {
                log.warning("unbinding queue \(ring): \(error)")
            }
            stop()
            throw error
        }
        wake(ring)
    }

    private func checkReset(_ ring: Int) throws(VhostError) {
        guard isStarted else { throw VhostError(.state, "\(backend.name): queue \(ring): the device does not run") }
        guard started.contains(where: { $0.rings.contains(ring) }) else {
            throw VhostError(.argument, "\(backend.name): no queue \(ring)")
        }
        try backend.resetQueue(ring)
        guard acknowledged.contains(.ringReset) else {
            throw VhostError(
                .unsupported,
                """
                \(backend.name): queue \(ring): reset of one queue needs RING_RESET, which \
                \(backend.offered.contains(.ringReset) ? "was not acknowledged" : "the back-end does not offer")
                """
            )
        }
    }

    // MARK: Calls

    /// Masks or unmasks a queue's calls (SET_VRING_CALL, all kinds). Masked, the back-end gets an eventfd of ours;
    /// unmasked, the driver's, and what came meanwhile is delivered. While stopped nothing goes out and it is
    /// remembered. Errors: `.argument` for no such queue.
    public func mask(ring: Int, _ isMasked: Bool) throws(VhostError) {
        guard let place = knownPlace(ring) else { throw VhostError(.argument, "\(backend.name): no queue \(ring)") }
        if let running = queues[place].ring {
            try backend.setVringCall(ring, isMasked ? queues[place].masked : running.call)
            if !isMasked {
                // Until then calls may come to the masked eventfd.
                try backend.settle()
                if VhostNet.take(queues[place].masked) { signal(running.call) }
            }
        }
        queues[place].isMasked = isMasked
    }

    /// Whether a call came while the queue was masked; clears it. No call, all kinds.
    public func isPending(ring: Int) -> Bool {
        knownPlace(ring).map { VhostNet.take(queues[$0].masked) } ?? false
    }

    /// By queue: readable when `isPending`.
    public var maskedDescriptors: [Int32] { queues.map(\.masked.fd) }

    /// By queue: readable when `hasFailed`.
    public var errorDescriptors: [Int32] { queues.map(\.error.fd) }

    /// Whether the back-end has reported a broken ring (the eventfd of SET_VRING_ERR); clears it. Never on vDPA, which
    /// has none.
    public func hasFailed(ring: Int) -> Bool {
        knownPlace(ring).map { VhostNet.take(queues[$0].error) } ?? false
    }

    static func take(_ fd: OwnedDescriptor) -> Bool {
        // The back-end has it, too, and may have made it block.
        EventFD.take(fd.fd)
    }

    func signal(_ fd: OwnedDescriptor) {
        if !EventFD.signal(fd.fd) { log.warning("\(backend.name): a call is lost: no memory or descriptors") }
    }

    // MARK: Configuration interrupt

    /// Who is told when the configuration changes: an eventfd, written by the kernel (VHOST_VDPA_SET_CONFIG_CALL, sent
    /// while started) or when CONFIG_CHANGE comes on the back-end's channel (vhost-user; `serveBackEnd`). Nil: nobody.
    /// Errors:
    /// `.unsupported` on the kernel's vhost-net and without BACKEND_REQ.
    public func setConfigurationNotifier(_ fd: OwnedDescriptor?) throws(VhostError) {
        if backend.kind == .vdpa && configuration.masked == nil { configuration.masked = try VhostNet.eventfd() }
        let old = configuration.notifier
        configuration.notifier = fd
        do throws(VhostError) {
            if backend.kind != .vdpa {
                try backend.setConfigurationCall(fd)
            } else if isStarted {
                try applyConfigurationCall()
            }
        } catch {
            configuration.notifier = old
            throw error
        }
    }

    func applyConfigurationCall() throws(VhostError) {
        try backend.setConfigurationCall(
            configuration.notifier == nil ? nil : configuration.isMasked ? configuration.masked : configuration.notifier
        )
    }

    /// Masks or unmasks the configuration interrupt (vDPA: VHOST_VDPA_SET_CONFIG_CALL while started; vhost-user: no
    /// message); unmasking delivers what was pending. Errors: `.state` without a notifier.
    public func maskConfiguration(_ isMasked: Bool) throws(VhostError) {
        guard let notifier = configuration.notifier else {
            throw VhostError(.state, "\(backend.name): configuration interrupt: no notifier was set")
        }
        configuration.isMasked = isMasked
        if backend.kind == .vdpa && isStarted { try applyConfigurationCall() }
        if !isMasked && isConfigurationPending() { signal(notifier) }
    }

    /// Whether it fired while masked; clears it. No call.
    public func isConfigurationPending() -> Bool {
        let wasPending = configuration.isPending
        configuration.isPending = false
        return (configuration.masked.map(VhostNet.take) ?? false) || wasPending
    }

    /// Descriptor to wait on for `serveBackEnd`; nil if the back-end has no channel of its own.
    public var backEndDescriptor: Int32? { (backend as? UserBackend)?.channel?.fd }

    /// Serves what a vhost-user back-end says on its channel: CONFIG_CHANGE; IOTLB_MSG with ACCESS_PLATFORM (a miss is
    /// answered with IOTLB_MSG, an update). The other kinds have no such channel: nothing happens. Errors:
    /// `.disconnected`, `.answer`: the channel has ended, the connection itself need not have.
    public func serveBackEnd() throws(VhostError) { try (backend as? UserBackend)?.serveChannel() }

    func configurationChanged() {
        if configuration.isMasked {
            configuration.isPending = true
        } else if let fd = configuration.notifier {
            signal(fd)
        }
    }

    // MARK: Migration

    /// After a migration: has the switches behind the back-end learn where `mac` (6 bytes) now is (vhost-user
    /// SEND_RARP, with the protocol feature RARP). Nothing goes out when the driver announces itself (GUEST_ANNOUNCE
    /// acknowledged). Errors:
    /// `.unsupported` without RARP, on the kernel and on vDPA; `.argument` for another length.
    public func migrationDone(mac: [UInt8]) throws(VhostError) {
        guard mac.count == 6 else {
            throw VhostError(.argument, "\(backend.name): a MAC address has 6 bytes, not \(mac.count)")
        }
        if backend.kind == .user && acknowledged.contains(.guestAnnounce) { return }
        try backend.sendRARP(mac)
    }

    /// Switches the dirty log on or off. On, for each object: SET_LOG_BASE, SET_FEATURES with LOG_ALL, SET_VRING_ADDR
    /// with the LOG flag; off: without. A stopped device begins so with its next start. Errors: `.unsupported` without
    /// LOG_ALL, without LOG_SHMFD (vhost-user) and on vDPA, whose migration needs shadow rings. If it fails, the log is
    /// as before.
    /// `memory`: what it shall cover besides that in use.
    public func setLogging(_ isOn: Bool, memory: [VhostRegion]? = nil) throws(VhostError) {
        if isOn == (dirtyLog != nil) { return }
        if isOn && (!backend.offered.contains(.vhostLogAll) || backend.kind == .vdpa) {
            throw VhostError(.unsupported, "\(backend.name): dirty log: the back-end does not offer LOG_ALL")
        }
        let old = dirtyLog
        // Never less than is in use: the kernel sets bits wherever they would be.
        dirtyLog = isOn ? try DirtyLog(covering: regions + (memory ?? [])) : nil
        guard isStarted else { return }
        do throws(VhostError) {
            for object in started { try applyLog(object) }
        } catch {
            dirtyLog = old
            for object in started {
                do throws(VhostError) { try applyLog(object) } catch { log.warning("undoing the dirty log: \(error)") }
            }
            throw error
        }
    }

    private func applyLog(_ object: VhostObject) throws(VhostError) {
        if let dirtyLog { try backend.setLogBase(object, dirtyLog) }
        try backend.setFeatures(object, featuresOnTheWire)
        for ring in object.rings {
            if let running = queues[place(ring)].ring {
                try backend.setVringAddress(ring, try address(running, ring, regions))
            }
        }
    }
}
