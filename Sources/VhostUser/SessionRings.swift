import CPlatform
import Glibc
import Memory
import Virtio

/// Rings: their set-up messages and states.
extension BackEndSession {
    func setVringNum(_ m: Message) throws(VhostUserError) {
        let (i, size) = try state(m, .setVringNum)
        guard RingLayout.isValid(size: size, isPacked: true) else {
            throw VhostUserError(
                .ring, .setVringNum, "ring \(i): size \(size); 2 to \(RingLayout.maximumSize) are possible")
        }
        try mustBeStopped(i, .setVringNum)
        try change(i) { $0.size = size }
    }

    private func mustBeStopped(_ i: Int, _ request: Request) throws(VhostUserError) {
        if rings[i].isStarted { throw VhostUserError(.ring, request, "ring \(i) runs; stop it first (GET_VRING_BASE)") }
    }

    func setVringBase(_ m: Message) throws(VhostUserError) {
        let (i, base) = try state(m, .setVringBase)
        // One that started without a base, since the message comes last: it goes there.
        if !rings[i].isStarted || rings[i].isBaseGiven { try mustBeStopped(i, .setVringBase) } else { pause(i) }
        try change(i) { ($0.base, $0.isBaseGiven, $0.restsAt, $0.isPaused) = (base, true, nil, false) }
    }

    func setVringAddr(_ m: Message) throws(VhostUserError) {
        var r = PayloadReader(m.payload)
        guard m.payload.count == 40, let index = r.next32(), let flags = r.next32(), let descriptors = r.next64(),
            let used = r.next64(), let available = r.next64(), let log = r.next64()
        else { throw VhostUserError(.payload, .setVringAddr, "payload of \(m.payload.count) bytes, 40 are expected") }
        let i = try ring(Int(index), .setVringAddr)
        guard flags & ~Message.logsUsed == 0 else {
            throw VhostUserError(.payload, .setVringAddr, "ring \(i): flags 0x\(String(flags, radix: 16))")
        }
        let new = RingAddresses(flags: flags, descriptors: descriptors, used: used, available: available, log: log)
        // Memory may come later; what can be checked now is checked now, so that the error names this message,
        // and before a ring that runs is stopped.
        var setup: RingSetup?
        if memory.map.count > 0 && rings[i].size > 0 && (!usesIOTLB || rings[i].isStarted) {
            setup = try self.setup(i, new, base: 0)
        }
        guard rings[i].isStarted, let setup else { return try change(i) { $0.addresses = new } }
        var old = rings[i].addresses ?? new
        // Where the log is to show the used ring matters while there is one (QEMU toggles the flag for all).
        if !isLogging { (old.flags, old.log) = (flags, log) }
        rings[i].addresses = new
        if old != new { apply([RingChange(i, .move(setup))]) }
    }

    /// Changes a ring's set-up and starts it where that was the last thing missing. If it cannot start so, the message
    /// is refused and has changed nothing.
    private func change(_ i: Int, _ body: (inout SessionRing) -> Void) throws(VhostUserError) {
        let old = rings[i]
        askedFor = []
        body(&rings[i])
        do throws(VhostUserError) { try startIfReady(i) } catch {
            rings[i] = old
            // One that was stopped for it goes on.
            try? startIfReady(i)
            throw error
        }
    }

    /// Index and descriptor of SET_VRING_KICK, CALL and ERR; the descriptor is nil with NOFD.
    private func eventOperands(_ m: Message, _ request: Request) throws(VhostUserError) -> (Int, OwnedDescriptor?) {
        let value = try value64(m, request)
        let i = try ring(Int(value & Message.ringMask), request)
        if value & Message.noDescriptor != 0 {
            guard m.descriptors.isEmpty else {
                throw VhostUserError(.descriptors, request, "ring \(i): NOFD, but a descriptor came")
            }
            return (i, nil)
        }
        guard m.descriptors.count == 1 else {
            throw VhostUserError(.descriptors, request, "ring \(i): \(m.descriptors.count) descriptors, 1 is expected")
        }
        // Anything else could block a poll thread, or be readable for ever.
        guard CPlat_is_eventfd(m.descriptors[0].fd) else {
            throw VhostUserError(.descriptors, request, "ring \(i): the descriptor is not an eventfd")
        }
        return (i, m.descriptors[0])
    }

    private func ownEventfd(_ request: Request) throws(VhostUserError) -> OwnedDescriptor {
        let fd = CPlat_eventfd(0)
        guard fd >= 0 else { throw VhostUserError(.refused, request, "eventfd: \(SystemError.text(errno))") }
        return OwnedDescriptor(fd)
    }

    func setVringKick(_ m: Message) throws(VhostUserError) {
        var (i, kick) = try eventOperands(m, .setVringKick)
        let isInBand = kick == nil && protocolFeatures.contains(.inbandNotifications)
        if kick == nil { kick = isInBand ? try ownEventfd(.setVringKick) : OwnedDescriptor(-1) }
        let old = rings[i].kick
        if rings[i].isStarted {
            (rings[i].kick, rings[i].kickIsInBand) = (kick, isInBand)
            update(i)
        } else {
            try change(i) { ($0.kick, $0.kickIsInBand) = (kick, isInBand) }
        }
        withExtendedLifetime(old) {}
    }

    func setVringCall(_ m: Message) throws(VhostUserError) {
        var (i, call) = try eventOperands(m, .setVringCall)
        let isInBand = call == nil && protocolFeatures.contains(.inbandNotifications) && channel != nil
        if isInBand { call = try ownEventfd(.setVringCall) }
        let old = rings[i].call
        rings[i].call = call
        rings[i].callIsInBand = isInBand
        update(i)
        inbandCallsChanged?()
        withExtendedLifetime(old) {}
    }

    func setVringErr(_ m: Message) throws(VhostUserError) {
        let (i, err) = try eventOperands(m, .setVringErr)
        let old = rings[i].err
        rings[i].err = err
        update(i)
        withExtendedLifetime(old) {}
    }

    func setVringEnable(_ m: Message) throws(VhostUserError) {
        let (i, value) = try state(m, .setVringEnable)
        // QEMU enables rings before it sends SET_FEATURES; from then on the bit decides.
        guard !isNegotiated || features.contains(.protocolFeatures) else {
            throw VhostUserError(.features, .setVringEnable, "PROTOCOL_FEATURES was not negotiated")
        }
        guard value <= 1 else {
            throw VhostUserError(.payload, .setVringEnable, "ring \(i): \(value); 0 or 1 is expected")
        }
        rings[i].isEnabled = value == 1
        update(i)
    }

    func vringKick(_ m: Message) throws(VhostUserError) {
        try need(.inbandNotifications, .vringKick)
        let (i, _) = try state(m, .vringKick)
        // One of the front-end's own may be full, and would then be waited for.
        guard rings[i].kickIsInBand || rings[i].kickFD < 0 else {
            throw VhostUserError(.ring, .vringKick, "ring \(i): its kicks come by a descriptor")
        }
        if rings[i].kickFD >= 0 { EventFD.signalOwn(rings[i].kickFD) }
    }

    /// Answers the ring's position and ends its life: everything is needed anew to start it again.
    func getVringBase(_ m: Message) throws(VhostUserError) -> Message {
        let (i, _) = try state(m, .getVringBase)
        pause(i)
        endInflight(i)
        let old = rings[i]
        rings[i].base = old.restsAt ?? old.base
        rings[i].end()
        forgetIOTLBAtRest()
        if old.callIsInBand { inbandCallsChanged?() }
        return reply(.getVringBase, Payload(index: i, rings[i].base))
    }

    // MARK: States

    /// Has the device make the changes of one message, all together, and notes what came of them.
    func apply(_ changes: [RingChange]) {
        if !changes.isEmpty { note(changes, device.change(changes)) }
    }

    /// The device has made these changes.
    package func note(_ changes: [RingChange], _ positions: [RingPosition?]) {
        for (change, position) in zip(changes, positions) {
            if case .start = change.what {
                (rings[change.ring].isStarted, rings[change.ring].isPaused) = (true, false)
                rings[change.ring].restsAt = nil
            }
            if case .stop = change.what { rings[change.ring].isStarted = false }
            if let position { rings[change.ring].base = position.base(isPacked: isPacked) }
        }
    }

    private func update(_ i: Int) { apply([update(of: i)].compactMap { $0 }) }

    /// Tells the device of the ring's state and descriptors; nil where it does not run.
    func update(of i: Int) -> RingChange? {
        let ring = rings[i]
        if !ring.isStarted { return nil }
        return RingChange(
            i, .update(enabled: ring.isEnabled, kickFD: ring.kickFD, callFD: ring.callFD, errFD: ring.errFD))
    }

    /// Starts of what can, after a change that is in force already. A ring whose addresses do not lie in the new memory
    /// waits for SET_VRING_ADDR (a front-end whose user addresses have changed says the table first).
    ///
    /// To whoever moves a session: when the device has made them, `note`. `wanted`: of these alone.
    package func readyStarts(of wanted: [Int]? = nil) -> [RingChange] {
        (wanted ?? Array(rings.indices)).compactMap { i in
            unlessItWaits(i) { () throws(VhostUserError) in try start(of: i) }
        }
    }

    /// Nil, and a line in the log, where ring `i`'s addresses do not lie in memory.
    func unlessItWaits<T>(_ i: Int, _ change: () throws(VhostUserError) -> T?) -> T? {
        do throws(VhostUserError) { return try change() } catch {
            log("ring \(i) waits for SET_VRING_ADDR: \(error)")
            return nil
        }
    }

    private func startIfReady(_ i: Int) throws(VhostUserError) { apply([try start(of: i)].compactMap { $0 }) }

    /// The start of a ring that has everything; nil for others. It may be looked at before its first kick: its indices
    /// say whether there is work.
    private func start(of i: Int) throws(VhostUserError) -> RingChange? {
        let ring = rings[i]
        guard !ring.isStarted, ring.kick != nil, ring.size > 0, ring.isBaseGiven || !ring.needsBase,
            let addresses = ring.addresses, memory.map.count > 0,
            !usesIOTLB || isReachable(addresses, size: ring.size)
        else { return nil }
        var setup = try self.setup(i, addresses, base: ring.base)
        // After a crash the inflight region knows best.
        if setup.inflight?.isInUse == true { return change(i, setup) }
        if ring.isPaused { return change(i, setup) }
        let given = setup.position.available
        setup.position = BackEndSession.position(setup, ring.base)
        if setup.position.available != given {
            log("ring \(i): goes on at \(setup.position.available), as the ring itself says, instead of \(given)")
        }
        return change(i, setup)
    }

    private func change(_ i: Int, _ setup: RingSetup) -> RingChange {
        let ring = rings[i]
        return RingChange(
            i,
            .start(
                RingStart(
                    setup: setup, enabled: ring.isEnabled, kickFD: ring.kickFD, callFD: ring.callFD, errFD: ring.errFD))
        )
    }

    /// Where a ring goes on that is given `base`. A driver does not write for long; a ring that never looks like one
    /// begins where it is told, and stops with its first defect.
    private static func position(_ setup: RingSetup, _ base: UInt32) -> RingPosition {
        if !setup.isPacked { return setup.splitPosition(base: UInt16(truncatingIfNeeded: base)) }
        for _ in 0..<50 {
            if let position = setup.packedPosition(base: base) { return position }
            usleep(1000)
        }
        return setup.position
    }

    /// Stops a ring and remembers where it stands; it goes on from there when it starts again.
    private func pause(_ i: Int) { if rings[i].isStarted { apply([RingChange(i, .stop)]) } }

    /// The same of all rings.
    func pauseAll() { apply(rings.indices.filter { rings[$0].isStarted }.map { RingChange($0, .stop) }) }
}
