import CPlatform
import Glibc
import Logging
import Memory
import Virtio

/// The control plane of a virtio-net device on somebody's back-end: the counterpart of QEMU's vhost-net layer.
///
/// It stands for the whole device: an object for each queue pair and one for the control queue, as QEMU has
/// them, driven together. The driver's side of the rings is the caller's, and so are the eventfds of kicks (host
/// notifiers) and calls (guest notifiers), which come with `VhostRing`.
///
/// **Thread**, of every operation: the caller's control thread, one at a time; it has none of its own. Calls block
/// until the back-end has answered (kernel and vDPA: in the ioctl; vhost-user: at most `UserBackend.init`'s timeout,
/// five seconds, for each message). **Errors** are `VhostError`s; an operation that a back-end does not have is one of
/// kind
/// `.unsupported`. Besides those that an operation names it throws what its calls return: `.system` with errno (kernel,
/// vDPA),
/// `.refused`, `.answer` or `.disconnected` (vhost-user).
///
/// `docs/vhostnet.md` lists for each function of QEMU's layer what does it here.
public final class VhostNet {
    /// What a device is opened with.
    public struct Options: Sendable {
        /// Data queue pairs, at most `maximumPairs`.
        public var queuePairs = 1
        /// A control queue comes after the pairs.
        public var hasControl = false
        /// Microseconds for which the kernel's vhost thread polls before it sleeps; 0 leaves it alone. Any other
        /// value is an error (`.argument`) on vhost-user and vDPA, which have no such thing.
        public var busyloopTimeout: UInt32 = 0
        /// Vhost-user: keeps an in-flight region, so that a back-end that crashed can go on where it was.
        public var keepsInflight = false
        /// What a connection to the same device left behind (`VhostNet.saved`).
        public var saved: Saved?
        /// One queue pair.
        public init() {}
    }

    /// What outlives a connection: hand it to the `VhostNet` of the next one.
    public struct Saved: Sendable {
        /// Acknowledged features, never empty once they were set.
        public internal(set) var features: Features = []
        /// By pair: whether its queues were enabled.
        public internal(set) var enabled: [Bool] = []
        /// The in-flight region, with `keepsInflight`; nil before the back-end made one.
        public internal(set) var inflight: Inflight?
        /// What was set through the control queue.
        public internal(set) var control = ControlState()
        /// Nothing: for a device's first connection.
        public init() {}
    }

    /// What is known of one queue.
    struct Queue {
        /// Takes the calls while the guest masks them.
        let masked: OwnedDescriptor
        /// Written by the back-end when the ring is broken.
        let error: OwnedDescriptor
        var isMasked = false
        /// As it was started; nil while it is stopped.
        var ring: VhostRing?
    }

    /// What it runs on.
    public let backend: any VhostBackend
    /// As it was opened.
    public let options: Options
    let log: Logger
    var queues: [Queue] = []
    /// By pair, remembered while stopped.
    var enabled: [Bool]
    /// Vhost-user, by pair: what the back-end was told last.
    var wired: [Bool]
    /// Features as they were acknowledged to the back-end.
    public internal(set) var acknowledged: Features = []
    /// See `Saved`; kept up to date at every acknowledgement, stop and close.
    public internal(set) var saved = Saved()
    /// Its rings run.
    public internal(set) var isStarted = false
    /// Objects of the start under way.
    var started: [VhostObject] = []
    var regions: [VhostRegion] = []
    /// What keeps them mapped.
    var owners: [any AnyObject & Sendable] = []
    /// While the back-end logs what it writes.
    public internal(set) var dirtyLog: DirtyLog?
    var configuration = ConfigurationInterrupt()

    /// Initialises the device on `backend`: each object is opened in order (kernel: open, VHOST_SET_OWNER,
    /// VHOST_GET_FEATURES; vhost-user: GET_FEATURES, protocol features, GET_QUEUE_NUM, GET_MAX_MEM_SLOTS,
    /// SET_BACKEND_REQ_FD, SET_OWNER, GET_FEATURES; vDPA: see `VDPABackend.open`), then for each of its queues
    /// SET_VRING_CALL with the masked eventfd and SET_VRING_ERR (not on vDPA), then kernel:
    /// VHOST_SET_VRING_BUSYLOOP_TIMEOUT for each, unless it is 0. At last what was saved is acknowledged, without a
    /// call.
    ///
    /// A failure undoes everything and closes what was opened. Errors: `.argument` for a timeout where there is none or
    /// more pairs than there are; `.features` if the back-end no longer has what was saved; what the calls return.
    public init(_ backend: any VhostBackend, _ options: Options = Options(), logger: Logger = Logger(label: "vhost"))
        throws(VhostError)
    {
        self.backend = backend
        self.options = options
        log = logger
        enabled = [Bool](repeating: true, count: min(max(0, options.queuePairs), ControlCode.pairsRange.upperBound))
        wired = [Bool](repeating: false, count: enabled.count)
        do throws(VhostError) {
            guard ControlCode.pairsRange.contains(options.queuePairs) else {
                throw VhostError(.argument, "\(backend.name): \(options.queuePairs) queue pairs")
            }
            if options.busyloopTimeout != 0 && backend.kind != .kernel {
                throw VhostError(.argument, "\(backend.name): busyloop timeout: \(backend.kind) has none; leave it 0")
            }
            for object in objects(pairs: options.queuePairs, hasControl: options.hasControl) { try open(object) }
            try restore()
            (backend as? UserBackend)?.configurationChanged = { [weak self] in self?.configurationChanged() }
        } catch {
            backend.close()
            throw error
        }
    }

    deinit { close() }

    /// Pairs with first rings 0, 2, 4 …; the control queue comes last.
    func objects(pairs: Int, hasControl: Bool) -> [VhostObject] {
        let count = pairs + (hasControl ? 1 : 0)
        return (0..<count).map { i in
            VhostObject(
                index: i, firstRing: i < pairs ? 2 * i : controlRing, ringCount: i < pairs ? 2 : 1, isFirst: i == 0,
                isLast: i == count - 1)
        }
    }

    /// Index of the control queue on the device: with MQ or RSS after all the pairs that the device has, however few of
    /// them are used (virtio 1.3, 5.1.2); without, after those that were opened. It changes with `acknowledge`.
    public var controlRing: Int {
        acknowledged.isDisjoint(with: [.mq, .rss])
            ? 2 * options.queuePairs : 2 * max(options.queuePairs, backend.maximumPairs)
    }

    private func open(_ object: VhostObject) throws(VhostError) {
        try backend.open(object)
        if object.isFirst && options.queuePairs > backend.maximumPairs {
            throw VhostError(
                .argument, "\(backend.name): \(options.queuePairs) queue pairs; it has \(backend.maximumPairs)")
        }
        for ring in object.rings {
            let queue = Queue(masked: try VhostNet.eventfd(), error: try VhostNet.eventfd())
            queues.append(queue)
            try backend.setVringCall(ring, queue.masked)
            try backend.setVringErr(ring, queue.error)
        }
        if options.busyloopTimeout != 0 {
            for ring in object.rings { try backend.setBusyloopTimeout(ring, microseconds: options.busyloopTimeout) }
        }
        try backend.finishOpen(object)
    }

    private func restore() throws(VhostError) {
        guard let old = options.saved else { return }
        saved = old
        for (i, isEnabled) in old.enabled.enumerated() where i < enabled.count { enabled[i] = isEnabled }
        (backend as? UserBackend)?.inflight = old.inflight
        let missing = old.features.subtracting(backend.offered.union(backend.ownFeatures))
        if !missing.isEmpty {
            throw VhostError(.features, "\(backend.name): the back-end came back without \(missing.listed)")
        }
        acknowledged = old.features
    }

    static func eventfd() throws(VhostError) -> OwnedDescriptor {
        guard let fd = EventFD.make() else { throw .system("vhost", "eventfd") }
        return fd
    }

    /// Stops the device if it runs and closes everything (kernel, vDPA: the devices, vDPA after status 0; vhost-user:
    /// the socket and the back-end's channel): no descriptor and no mapping of this object is left but what `saved`
    /// holds. Safe to call twice.
    public func close() {
        if isStarted { stop() }
        save()
        backend.close()
        queues = []
        dirtyLog = nil
        configuration = ConfigurationInterrupt()
    }

    // MARK: Features

    /// Queue pairs that the back-end has: 1 until it says more (kernel: queues of the TAP; vhost-user: GET_QUEUE_NUM;
    /// vDPA: max_virtqueue_pairs of its configuration). No call.
    public var maximumPairs: Int { backend.maximumPairs }

    /// Of what the device model would offer, what the driver may be offered: bits that the back-end's list passes on
    /// and the back-end lacks are cleared, others stay. No call.
    public func features(of model: Features) -> Features {
        let listed = backend.kind.listedFeatures
        return model.subtracting(listed.subtracting(backend.offered))
    }

    /// What the driver accepted: the back-end's own bits and, of the driver's, those that are in the list and that the
    /// back-end offers. Others are left out, as in QEMU; `acknowledged` tells what remains. No call: it goes out with
    /// the next start. Errors: `.state` while started.
    public func acknowledge(_ driver: Features) throws(VhostError) {
        if isStarted { throw VhostError(.state, "\(backend.name): features cannot change while the device runs") }
        acknowledged = backend.ownFeatures.union(
            driver.intersection(backend.kind.listedFeatures).intersection(backend.offered))
        save()
    }

    /// Remembers what was set on the control queue and accepted by the device: each start says it again. No call:
    /// sending is the caller's (before the first start there is nothing to send to). Any kind that was opened with a
    /// control queue.
    public func remember(_ command: DriverCommand) { saved.control.note(command) }

    /// Never replaces what was saved by nothing.
    func save() {
        if !acknowledged.isEmpty { saved.features = acknowledged }
        saved.enabled = enabled
        saved.inflight = (backend as? UserBackend)?.inflight ?? saved.inflight
    }

    // MARK: Configuration

    /// Reads the device's configuration space, offset and size in bytes (vhost-user GET_CONFIG, VHOST_VDPA_GET_CONFIG).
    /// Errors:
    /// `.unsupported` on the kernel and without CONFIG; `.argument` beyond 256 bytes; `.refused` by an empty answer.
    public func readConfiguration(offset: Int, size: Int) throws(VhostError) -> [UInt8] {
        try backend.readConfiguration(offset: offset, size: size)
    }

    /// Writes it (SET_CONFIG, VHOST_VDPA_SET_CONFIG). `forMigration` sets SET_CONFIG's flag for fields that the driver
    /// cannot write, on the destination of a migration; vDPA has no such flag. Errors as for reading.
    public func writeConfiguration(offset: Int, _ bytes: [UInt8], forMigration: Bool = false) throws(VhostError) {
        try backend.writeConfiguration(offset: offset, bytes, forMigration: forMigration)
    }

    /// Tells the back-end the MTU in bytes (vhost-user NET_SET_MTU with the protocol feature MTU), before the start,
    /// which a refusal shall end. Returns whether there was somebody to tell. There is nobody, and that is no error,
    /// without the protocol feature, on the kernel, where the TAP's MTU counts, and on vDPA, whose MTU is in its
    /// configuration. Errors:
    /// `.refused` (told by REPLY_ACK); `.state` while started.
    @discardableResult
    public func setMTU(_ mtu: UInt16) throws(VhostError) -> Bool {
        if isStarted { throw VhostError(.state, "\(backend.name): the MTU is set before the start") }
        return try backend.setMTU(mtu)
    }

    /// VHOST_SET_VRING_BUSYLOOP_TIMEOUT for a queue, in microseconds. Errors: `.unsupported` on vhost-user and vDPA.
    public func setBusyloopTimeout(ring: Int, microseconds: UInt32) throws(VhostError) {
        try backend.setBusyloopTimeout(ring, microseconds: microseconds)
    }

    /// VHOST_GET_VRING_BUSYLOOP_TIMEOUT. Errors as above.
    public func busyloopTimeout(ring: Int) throws(VhostError) -> UInt32 { try backend.busyloopTimeout(ring) }

    /// The whole device as after init: vhost-user RESET_DEVICE (with that protocol feature), vDPA status 0. A running
    /// device is stopped first. Errors: `.unsupported` on the kernel and without RESET_DEVICE: it runs on.
    public func resetDevice() throws(VhostError) {
        try backend.checkReset()
        if isStarted { stop() }
        try backend.resetDevice()
        wired = wired.map { _ in false }
    }
}
