import CPlatform
import Memory
import Virtio

/// One of the driver's rings, as it is handed to the back-end.
public struct VhostRing: Sendable {
    public var size: UInt32
    public var isPacked: Bool
    /// Where it stands, in the form of SET_VRING_BASE (see `RingPosition`).
    public var base: UInt32
    /// Addresses in this process, inside one of the regions.
    public var descriptors: UInt64
    public var driverArea: UInt64
    public var deviceArea: UInt64
    /// Written by the driver.
    public var kick: OwnedDescriptor
    /// Written by the back-end.
    public var call: OwnedDescriptor

    public init(
        size: UInt32, isPacked: Bool, base: UInt32, descriptors: UInt64, driverArea: UInt64, deviceArea: UInt64, kick: OwnedDescriptor,
        call: OwnedDescriptor
    ) {
        self.size = size
        self.isPacked = isPacked
        self.base = base
        self.descriptors = descriptors
        self.driverArea = driverArea
        self.deviceArea = deviceArea
        self.kick = kick
        self.call = call
    }
}

extension VhostNet {
    /// Starts `rings.count / 2` data pairs, and the control queue if the number is odd, which must stand last.
    ///
    /// For each object in order: its remembered enable state (vhost-user SET_VRING_ENABLE); SET_FEATURES (with LOG_ALL while
    /// logging; status FEATURES_OK where there is one); the memory table or IOTLB maps; for each queue SET_VRING_NUM, _BASE,
    /// _ADDR, _KICK, _CALL; the log's base; with the last object DRIVER_OK; kernel: VHOST_NET_SET_BACKEND for enabled
    /// queues. vDPA: after DRIVER_OK the control queue is enabled, `replay` may send its commands, then the data queues
    /// are enabled. A failure undoes all of it in reverse.
    ///
    /// `rings`, and the memory behind them, must stay until `stop`. Errors: `.state` if it runs; `.argument` for rings that do
    /// not fit; what the calls return.
    public func start(_ rings: [VhostRing], memory: [VhostRegion], replay: (() throws(VhostError) -> Void)? = nil) throws(VhostError) {
        if isStarted { throw VhostError(.state, "\(backend.name): the device runs already") }
        let pairs = rings.count / 2
        let hasControl = rings.count % 2 == 1
        guard pairs >= 1, pairs <= options.queuePairs, !hasControl || options.hasControl else {
            throw VhostError(.argument, "\(backend.name): \(rings.count) rings for \(options.queuePairs) queue pairs\(options.hasControl ? " and a control queue" : "")")
        }
        regions = memory
        started = VhostNet.objects(pairs: pairs, hasControl: hasControl)
        var rollback = Rollback()
        do throws(VhostError) {
            if options.keepsInflight {
                let size = UInt16(clamping: rings.map(\.size).max() ?? 0)
                try backend.shareInflight(ringCount: rings.count, ringSize: size)
            }
            for object in started { try start(object, rings, &rollback) }
            try replay?()
            for object in started where !object.isControl { try backend.enableData(object.rings) }
            if configuration.notifier != nil && backend.kind == .vdpa {
                rollback.add("the configuration interrupt") { [backend] in try backend.setConfigurationCall(nil) }
                try applyConfigurationCall()
            }
        } catch {
            rollback.run(log, because: error)
            for i in queues.indices { queues[i].ring = nil }
            started = []
            regions = []
            throw error
        }
        isStarted = true
        save()
    }

    /// Place of a started device's ring in `queues`: the control queue's does not move with the number of pairs that run.
    func place(_ ring: Int) -> Int { ring < 2 * started.filter { !$0.isControl }.count ? ring : 2 * options.queuePairs }

    private func start(_ object: VhostObject, _ rings: [VhostRing], _ rollback: inout Rollback) throws(VhostError) {
        let backend = backend
        if backend.kind == .user && backend.offered.contains(.protocolFeatures) {
            rollback.add("queue enable") { try backend.setVringEnable(object.rings, false) }
            try backend.setVringEnable(object.rings, isEnabled(object))
        }
        // Undone once for all objects.
        let whole = VhostObject(index: 0, firstRing: 0, ringCount: 2, isFirst: true, isLast: true)
        if object.isFirst { rollback.add("status") { try backend.finishStop(whole) } }
        try backend.setFeatures(object, featuresOnTheWire)
        if object.isFirst { rollback.add("memory") { try backend.dropMemory(whole) } }
        try backend.setMemory(object, regions)
        for ring in object.rings {
            // VDPA rings stop with the status.
            if backend.kind != .vdpa { rollback.add("queue \(ring)") { _ = try backend.getVringBase(ring) } }
            try startQueue(ring, rings[ring])
        }
        if let dirtyLog { try backend.setLogBase(object, dirtyLog) }
        try backend.finishStart(object)
        for ring in object.rings where isEnabled(object) {
            rollback.add("binding of queue \(ring)") { try backend.bind(ring, false) }
            try backend.bind(ring, true)
        }
    }

    func isEnabled(_ object: VhostObject) -> Bool { object.isControl || enabled[object.index] }

    var featuresOnTheWire: Features { dirtyLog == nil ? acknowledged : acknowledged.union(.vhostLogAll) }

    /// NUM, BASE, ADDR, KICK, CALL.
    func startQueue(_ index: Int, _ ring: VhostRing) throws(VhostError) {
        queues[place(index)].ring = ring
        try backend.setVringNum(index, ring.size)
        try backend.setVringBase(index, ring.base)
        try backend.setVringAddress(index, try address(ring, index))
        try backend.setVringKick(index, ring.kick)
        try backend.setVringCall(index, queues[place(index)].isMasked ? queues[place(index)].masked : ring.call)
    }

    /// As the back-end wants it. Errors: `.argument` for a ring outside the regions.
    func address(_ ring: VhostRing, _ index: Int) throws(VhostError) -> VhostRingAddress {
        func guest(_ a: UInt64) -> UInt64? {
            regions.first { a &- $0.userAddress < $0.size }.map { $0.guestAddress &+ (a &- $0.userAddress) }
        }
        guard let d = guest(ring.descriptors), let a = guest(ring.driverArea), let u = guest(ring.deviceArea) else {
            throw VhostError(.argument, "\(backend.name): queue \(index) lies outside the memory that is shared")
        }
        let log = dirtyLog == nil ? nil : u
        return backend.kind == .vdpa
            ? VhostRingAddress(descriptors: d, driverArea: a, deviceArea: u, log: nil)
            : VhostRingAddress(descriptors: ring.descriptors, driverArea: ring.driverArea, deviceArea: ring.deviceArea, log: log)
    }

    /// Stops the device. Kernel: VHOST_NET_SET_BACKEND -1 for each queue; vDPA: SUSPEND (status 0 where there is none); then
    /// GET_VRING_BASE for each queue; at last status 0 and the memory. What fails is logged and the rest is done.
    ///
    /// Returns for each ring where it stands; where the back-end does not answer, what the used index in memory says, and
    /// nil for a packed ring, which cannot tell: its driver has to begin anew. Empty if nothing runs.
    @discardableResult
    public func stop() -> [UInt32?] {
        guard isStarted else { return [] }
        save()
        if configuration.notifier != nil && backend.kind == .vdpa { attempt("configuration interrupt") { () throws(VhostError) in try backend.setConfigurationCall(nil) } }
        for object in started { for ring in object.rings { attempt("unbind") { () throws(VhostError) in try backend.bind(ring, false) } } }
        if let first = started.first { attempt("suspend") { () throws(VhostError) in try backend.beginStop(first) } }
        var bases: [UInt32?] = []
        for object in started {
            for ring in object.rings { bases.append(stopQueue(ring)) }
        }
        for object in started { attempt("status") { () throws(VhostError) in try backend.finishStop(object) } }
        for object in started { attempt("memory") { () throws(VhostError) in try backend.dropMemory(object) } }
        isStarted = false
        started = []
        regions = []
        return bases
    }

    /// A step of a stop: what fails is logged, but for a back-end that is known to be gone.
    private func attempt(_ what: String, _ step: () throws(VhostError) -> Void) {
        if backend.isDisconnected { return }
        do throws(VhostError) { try step() } catch { log.warning("\(what): \(error)") }
    }

    func stopQueue(_ ring: Int) -> UInt32? {
        let place = place(ring)
        let old = queues[place].ring
        queues[place].ring = nil
        if !backend.isDisconnected {
            do throws(VhostError) { return try backend.getVringBase(ring) } catch {
                // Without SUSPEND that is how it goes.
                if error.kind != .state { log.warning("where queue \(ring) stands is taken from memory: \(error)") }
            }
        }
        guard let old, !old.isPacked, let used = UnsafeRawPointer(bitPattern: UInt(old.deviceArea) + 2) else { return nil }
        // The entry after the last one that was used: what was under way is done again (QEMU does the same).
        return UInt32(CPlat_load16_acquire(used))
    }

    /// Other memory while the device runs: the log grows before the table and shrinks after it; vDPA unmaps what is gone.
    /// Errors: `.state` if it does not run.
    public func updateMemory(_ new: [VhostRegion]) throws(VhostError) {
        guard isStarted, let first = started.first, let last = started.last else { throw VhostError(.state, "\(backend.name): the device does not run") }
        var after: DirtyLog?
        if let log = dirtyLog {
            let wanted = try DirtyLog(covering: new)
            if wanted.size > log.size { try moveLog(to: wanted) } else if wanted.size < log.size { after = wanted }
        }
        if backend.kind == .vdpa { try backend.dropMemory(last) }
        for object in backend.kind == .kernel ? started : [first] { try backend.setMemory(object, new) }
        regions = new
        if let after { try moveLog(to: after) }
    }

    /// Pages that the old log still holds are taken over.
    private func moveLog(to new: DirtyLog) throws(VhostError) {
        for object in started { try backend.setLogBase(object, new) }
        for page in dirtyLog?.takeDirty() ?? [] { new.mark(page) }
        dirtyLog = new
    }
}
