import CPlatform
import Memory
import Virtio

extension VhostNet {
    /// Starts `rings.count / 2` data pairs, and the control queue if the number is odd, which must stand last.
    ///
    /// For each object in order: its remembered enable state (vhost-user SET_VRING_ENABLE); SET_FEATURES (with LOG_ALL
    /// while logging; status FEATURES_OK where there is one); the memory table or IOTLB maps; the in-flight region; for
    /// each queue SET_VRING_NUM, _BASE, _ADDR, _KICK, _CALL; the log's base; vhost-user SET_VRING_ENABLE; with the last
    /// object DRIVER_OK; kernel: VHOST_NET_SET_BACKEND for enabled queues. Then the control queue's state is said
    /// again, and vDPA's enabled data queues are enabled after it (its control queue was enabled at DRIVER_OK). A
    /// failure undoes all of it in reverse.
    ///
    /// At last each ring's kick and call eventfds are written, so that neither side waits for what was done before.
    ///
    /// A data ring that its driver has not set up (`descriptors` 0) is passed over, as in QEMU: it is not told to the
    /// back-end, not bound and not enabled on vDPA; vhost-user's SET_VRING_ENABLE goes out for the whole pair.
    ///
    /// `control` puts a command on the caller's control queue and returns the device's answer (0: accepted; nil: none
    /// came).
    /// The memory behind `rings` must stay until `stop` (the last reference to this object stops it, too); the device
    /// holds each region's `owner` for that long. Errors: `.state` if it runs; `.argument` for rings
    /// that do not fit or lie outside `memory`; `.refused` if the device does not take the control queue's state.
    public func start(_ rings: [VhostRing], memory: [VhostRegion], control: ((DriverCommand) -> UInt8?)? = nil)
        throws(VhostError)
    {
        if isStarted { throw VhostError(.state, "\(backend.name): the device runs already") }
        let pairs = rings.count / 2
        let hasControl = rings.count % 2 == 1
        guard pairs >= 1, pairs <= options.queuePairs, !hasControl || options.hasControl else {
            throw VhostError(
                .argument,
                """
                \(backend.name): \(rings.count) rings for \(options.queuePairs) queue \
                pairs\(options.hasControl ? " and a control queue" : "")
                """
            )
        }
        if hasControl, let last = rings.last, !last.isReady {
            throw VhostError(.argument, "\(backend.name): the control queue is not set up; start without it")
        }
        try check(memory)
        hold(memory)
        started = objects(pairs: pairs, hasControl: hasControl)
        var rollback = Rollback()
        do throws(VhostError) {
            for (i, ring) in rings.enumerated() where ring.isReady { _ = try address(ring, i, memory) }
            try coverMemory()
            for object in started { try start(object, rings, &rollback) }
            if hasControl { try replay(control) }
            for object in started where !object.isControl && isEnabled(object) {
                for ring in object.rings where rings[ring].isReady { try backend.enableData(ring..<ring + 1) }
            }
            if configuration.notifier != nil && backend.kind == .vdpa {
                rollback.add("the configuration interrupt") { [backend] in try backend.setConfigurationCall(nil) }
                try applyConfigurationCall()
            }
            try backend.settle()
        } catch {
            rollback.run(log, backend, because: error)
            for i in queues.indices { queues[i].ring = nil }
            started = []
            hold([])
            throw error
        }
        isStarted = true
        save()
        wakeAll()
    }

    /// Takes `memory` for the device's own, and lets go of what it held before. The back-end may remember regions for
    /// longer than the device runs, so it gets them without their owners.
    private func hold(_ memory: [VhostRegion]) {
        (regions, owners) = (memory.map(\.withoutOwner), memory.compactMap(\.owner))
    }

    /// Both sides of the rings that run look again: the back-end for what was shown before it could be kicked, the
    /// driver for what was used before it could be called. Neither may wait for something that is done already.
    func wakeAll() {
        for object in started {
            for ring in object.rings { wake(ring) }
        }
    }

    /// The same for one ring; a masked one is found pending.
    func wake(_ ring: Int) {
        let queue = queues[place(ring)]
        guard let running = queue.ring else { return }
        signal(running.kick)
        signal(queue.isMasked ? queue.masked : running.call)
    }

    /// Place of a started device's ring in `queues`: the control queue's does not move with the number of pairs that
    /// run.
    func place(_ ring: Int) -> Int { ring < 2 * started.filter { !$0.isControl }.count ? ring : 2 * options.queuePairs }

    /// The same for a number that may be no queue's: nil then, and for one that was not started with the device.
    func knownPlace(_ ring: Int) -> Int? {
        if isStarted { return started.contains { $0.rings.contains(ring) } ? place(ring) : nil }
        if options.hasControl && ring == controlRing { return 2 * options.queuePairs }
        return (0..<2 * options.queuePairs).contains(ring) && ring < queues.count ? ring : nil
    }

    private func start(_ object: VhostObject, _ rings: [VhostRing], _ rollback: inout Rollback) throws(VhostError) {
        let backend = backend
        let hasEnable = backend.kind == .user && backend.offered.contains(.protocolFeatures)
        if hasEnable {
            let before = !object.isControl && wired[object.index]
            rollback.add("queue enable") { [unowned self] in try enable(object, before) }
            try enable(object, isEnabled(object))
        }
        // Undone once for all objects. A device lets go of its memory after it was stopped.
        let whole = VhostObject(index: 0, firstRing: 0, ringCount: 2, isFirst: true, isLast: true)
        if object.isFirst || backend.kind == .kernel {
            rollback.add("memory") { try backend.dropMemory(backend.kind == .kernel ? object : whole) }
        }
        if object.isFirst { rollback.add("status") { try backend.finishStop(whole) } }
        try backend.setFeatures(object, featuresOnTheWire)
        try backend.setMemory(object, regions)
        if object.isFirst && options.keepsInflight {
            // The format of the region depends on the features.
            try backend.shareInflight(
                ringCount: rings.count, ringSize: UInt16(clamping: rings.map(\.size).max() ?? 0),
                isPacked: rings[0].isPacked)
        }
        for (ring, given) in setups(object, rings) where given.isReady {
            // VDPA rings stop with the status.
            if backend.kind != .vdpa { rollback.add("queue \(ring)") { _ = try backend.getVringBase(ring) } }
            try startQueue(ring, given)
        }
        if let dirtyLog { try backend.setLogBase(object, dirtyLog) }
        // Some back-ends forget an enable that came before the ring's kick.
        if hasEnable { try enable(object, isEnabled(object)) }
        try backend.finishStart(object)
        for (ring, given) in setups(object, rings) where isEnabled(object) && given.isReady {
            rollback.add("binding of queue \(ring)") { try backend.bind(ring, false) }
            try backend.bind(ring, true)
        }
    }

    /// An object's rings by their index on the device, and what was given for them.
    private func setups(_ object: VhostObject, _ rings: [VhostRing]) -> [(Int, VhostRing)] {
        Array(zip(object.rings, rings[(2 * object.index)...]))
    }

    func isEnabled(_ object: VhostObject) -> Bool { object.isControl || enabled[object.index] }

    /// Vhost-user: SET_VRING_ENABLE for an object's queues.
    private func enable(_ object: VhostObject, _ isOn: Bool) throws(VhostError) {
        try backend.setVringEnable(object.rings, isOn)
        if !object.isControl { wired[object.index] = isOn }
    }

    /// Says what was set on the control queue again, for a reset has forgotten it.
    private func replay(_ send: ((DriverCommand) -> UInt8?)?) throws(VhostError) {
        for command in saved.control.commands {
            guard let send else {
                throw VhostError(
                    .argument, "\(backend.name): the control queue has state to restore; give `control` to start")
            }
            switch send(command) {
            case 0: continue
            case nil: throw VhostError(.disconnected, "\(backend.name): no answer on the control queue to \(command)")
            case .some(let answer):
                throw VhostError(
                    .refused, "\(backend.name): the device refused \(command) on its control queue (\(answer))")
            }
        }
    }

    var featuresOnTheWire: Features { dirtyLog == nil ? acknowledged : acknowledged.union(.vhostLogAll) }

    /// NUM, BASE, ADDR, KICK, CALL.
    func startQueue(_ index: Int, _ ring: VhostRing) throws(VhostError) {
        let place = place(index)
        let address = try address(ring, index, regions)
        queues[place].ring = ring
        try backend.setVringNum(index, ring.size)
        try backend.setVringBase(index, ring.base)
        try backend.setVringAddress(index, address)
        try backend.setVringKick(index, ring.kick)
        // What came before the start concerns nobody.
        _ = VhostNet.take(queues[place].masked)
        try backend.setVringCall(index, queues[place].isMasked ? queues[place].masked : ring.call)
    }

    /// As the back-end wants it: user addresses, or IOVA on vDPA and with ACCESS_PLATFORM. Errors: `.argument` for a
    /// ring that does not lie in the regions with all of its parts.
    func address(_ ring: VhostRing, _ index: Int, _ regions: [VhostRegion]) throws(VhostError) -> VhostRingAddress {
        func guest(_ a: UInt64, _ bytes: UInt64) -> UInt64? {
            regions.first { a &- $0.userAddress < $0.size && bytes <= $0.size - (a &- $0.userAddress) }.map {
                $0.guestAddress &+ (a &- $0.userAddress)
            }
        }
        guard let d = guest(ring.descriptors, RingLayout.descriptorBytes(ring.size)),
            let a = guest(ring.driverArea, RingLayout.driverAreaBytes(ring.size, isPacked: ring.isPacked)),
            let u = guest(ring.deviceArea, RingLayout.deviceAreaBytes(ring.size, isPacked: ring.isPacked))
        else {
            throw VhostError(.argument, "\(backend.name): queue \(index) lies outside the memory that is shared")
        }
        let log = dirtyLog == nil ? nil : u
        return backend.kind == .vdpa || acknowledged.contains(.accessPlatform)
            ? VhostRingAddress(descriptors: d, driverArea: a, deviceArea: u, log: log)
            : VhostRingAddress(
                descriptors: ring.descriptors, driverArea: ring.driverArea, deviceArea: ring.deviceArea, log: log)
    }

    /// Errors: `.argument` for a region that is empty or wraps.
    private func check(_ memory: [VhostRegion]) throws(VhostError) {
        for r in memory
        where r.size == 0 || r.guestAddress &+ (r.size - 1) < r.guestAddress
            || r.userAddress &+ (r.size - 1) < r.userAddress
        {
            throw VhostError(
                .argument,
                "\(backend.name): memory region 0x\(String(r.guestAddress, radix: 16))+\(r.size) is empty or wraps")
        }
    }

    /// A log that was switched on while the device was stopped has to cover the memory of this start.
    private func coverMemory() throws(VhostError) {
        guard let old = dirtyLog else { return }
        let wanted = try DirtyLog(covering: regions)
        if wanted.size <= old.size { return }
        for page in old.takeDirty() { wanted.mark(page) }
        dirtyLog = wanted
    }

    /// Stops the device. For each object kernel: VHOST_NET_SET_BACKEND -1 for each queue; vDPA, once: SUSPEND (status 0
    /// where there is none); then GET_VRING_BASE for each queue. At last status 0 (vDPA; vhost-user with STATUS), and
    /// the memory is taken back. What fails is logged and the rest is done: a stop has no errors.
    ///
    /// Returns for each ring where it stands; where the back-end does not answer, what the used index in memory says;
    /// nil for a queue that was reset or not set up, and for a packed ring without an answer, whose driver has to begin
    /// anew. Empty if nothing runs.
    @discardableResult
    public func stop() -> [UInt32?] {
        guard isStarted else { return [] }
        save()
        if configuration.notifier != nil && backend.kind == .vdpa {
            attempt("configuration interrupt") { () throws(VhostError) in try backend.setConfigurationCall(nil) }
        }
        var bases: [UInt32?] = []
        for object in started {
            for ring in object.rings where queues[place(ring)].ring != nil {
                attempt("unbind") { () throws(VhostError) in try backend.bind(ring, false) }
            }
            attempt("suspend") { () throws(VhostError) in try backend.beginStop(object) }
            for ring in object.rings { bases.append(stopQueue(ring)) }
        }
        for object in started { attempt("status") { () throws(VhostError) in try backend.finishStop(object) } }
        for object in started { attempt("memory") { () throws(VhostError) in try backend.dropMemory(object) } }
        isStarted = false
        started = []
        hold([])
        return bases
    }

    /// A step of a stop: what fails is logged, but for a back-end that is known to be gone.
    private func attempt(_ what: String, _ step: () throws(VhostError) -> Void) {
        if backend.isDisconnected { return }
        do throws(VhostError) { try step() } catch { log.warning("\(what): \(error)") }
    }

    private func stopQueue(_ ring: Int) -> UInt32? {
        guard let old = queues[place(ring)].ring else { return nil }
        queues[place(ring)].ring = nil
        if !backend.isDisconnected {
            do throws(VhostError) { return try position(old, ring) } catch {
                // Without SUSPEND that is how it goes, and when the back-end has gone.
                if error.kind != .state {
                    log.log(
                        level: error.kind == .disconnected ? .info : .warning,
                        "where queue \(ring) stands is taken from memory: \(error)")
                }
            }
        }
        guard !old.isPacked, let used = UnsafeRawPointer(bitPattern: UInt(old.deviceArea) + 2) else { return nil }
        // The entry after the last one that was used: what was under way is done again (QEMU does the same).
        return UInt32(CPlat_load16_acquire(used))
    }

    /// GET_VRING_BASE. Errors: `.answer` for a position that the ring does not have.
    func position(_ ring: VhostRing, _ index: Int) throws(VhostError) -> UInt32 {
        let base = try backend.getVringBase(index)
        let position = RingPosition(base: base, isPacked: ring.isPacked)
        guard
            ring.isPacked ? UInt32(position.available) < ring.size && UInt32(position.used) < ring.size : base <= 0xffff
        else {
            throw VhostError(
                .answer,
                """
                \(backend.name): queue \(index): GET_VRING_BASE answered 0x\(String(base, radix: 16)) for \
                \(ring.isPacked ? "a packed" : "a split") ring of \(ring.size)
                """
            )
        }
        return base
    }

    /// Other memory while the device runs. Kernel: VHOST_SET_MEM_TABLE for each object; vhost-user: SET_MEM_TABLE, or
    /// REM_MEM_REG and ADD_MEM_REG where there are more than eight regions; vDPA: IOTLB messages for what is gone and
    /// what is new. The dirty log grows before that (SET_LOG_BASE) and shrinks after it. If it fails, the old memory is
    /// told again. Errors:
    /// `.state` if it does not run; `.argument` if a running ring lies outside.
    public func updateMemory(_ new: [VhostRegion]) throws(VhostError) {
        guard isStarted else { throw VhostError(.state, "\(backend.name): the device does not run") }
        try check(new)
        for object in started {
            for ring in object.rings {
                if let running = queues[place(ring)].ring { _ = try address(running, ring, new) }
            }
        }
        let wanted = try dirtyLog == nil ? nil : DirtyLog(covering: new)
        let size = dirtyLog?.size ?? 0
        if let wanted, wanted.size > size { try moveLog(to: wanted) }
        do throws(VhostError) {
            for object in started { try backend.setMemory(object, new.map(\.withoutOwner)) }
        } catch {
            for object in started {
                attempt("undoing the memory update") { () throws(VhostError) in try backend.setMemory(object, regions) }
            }
            throw error
        }
        hold(new)
        wakeAll()
        // The memory has changed: a log that stays larger is no error.
        if let wanted, wanted.size < size {
            attempt("shrinking the log") { () throws(VhostError) in try moveLog(to: wanted) }
        }
    }

    /// Pages that the old log still holds are taken over.
    private func moveLog(to new: DirtyLog) throws(VhostError) {
        guard let old = dirtyLog else { return }
        do throws(VhostError) {
            for object in started { try backend.setLogBase(object, new) }
        } catch {
            for object in started {
                attempt("undoing the log's move") { () throws(VhostError) in try backend.setLogBase(object, old) }
            }
            throw error
        }
        for page in old.takeDirty() { new.mark(page) }
        dirtyLog = new
    }
}
