import Virtio

/// What one ring of the device is started with.
public struct RingStart {
    /// Where the ring lies and goes on.
    public var setup: RingSetup
    /// Whether receive is on; while off, transmits are consumed and dropped (vhost-user, "Ring states").
    public var enabled: Bool
    /// The eventfd that the driver writes. It is the session's, as the two that follow, and valid until a stop or an
    /// update returns; -1: none.
    public var kickFD: Int32
    /// The eventfd to write for used buffers; -1: none.
    public var callFD: Int32
    /// The eventfd to write when the ring is broken; -1: none.
    public var errFD: Int32

    /// A session makes these; tests do, too.
    public init(setup: RingSetup, enabled: Bool, kickFD: Int32, callFD: Int32, errFD: Int32) {
        (self.setup, self.enabled) = (setup, enabled)
        (self.kickFD, self.callFD, self.errFD) = (kickFD, callFD, errFD)
    }
}

/// What happens to one ring.
public struct RingChange {
    /// What happens.
    public enum What {
        /// It may run: it has addresses, memory and a kick. With in-band notifications the descriptors are the
        /// session's own eventfds.
        case start(RingStart)
        /// It stops. Nothing of it is used afterwards.
        case stop
        /// It goes on where it stands, at these addresses: memory has changed. (The set-up's position is not used.)
        case move(RingSetup)
        /// It runs on, enabled or not, with these eventfds.
        case update(enabled: Bool, kickFD: Int32, callFD: Int32, errFD: Int32)
    }

    /// Which: 0 ..< 2 * pairs, or the control queue.
    public var ring: Int
    /// What happens to it.
    public var what: What

    /// A session makes these; tests do, too.
    public init(_ ring: Int, _ what: What) {
        self.ring = ring
        self.what = what
    }
}

/// The device behind a `BackEndSession`: the engine's port, or a test.
///
/// Every call comes from the session's control thread. Each returns only after the queue's poll
/// thread has taken the change over (so the session may then close descriptors and unmap memory).
public protocol BackEndDevice: AnyObject {
    /// Feature bits offered (without PROTOCOL_FEATURES, which the session adds).
    var features: Features { get }
    /// Queue pairs offered; GET_QUEUE_NUM answers it. Rings are numbered 0 ..< 2 * pairs,
    /// the control queue is 2 * pairs (MQ acknowledged) or 2.
    var queuePairs: Int { get }
    /// GET_CONFIG: `size` bytes of the configuration space (virtio 1.3, 5.1.4) from `offset` on. Nil: refused.
    func readConfiguration(offset: Int, size: Int) -> [UInt8]?
    /// SET_CONFIG: writes them. False: refused.
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool
    /// The driver's features were set.
    func featuresAcknowledged(_ features: Features)
    /// All that one message changes of rings, each ring at most once. Returns when every poll thread has taken its part
    /// over: for each change the position at which the ring stood, where it stopped or moved.
    func change(_ changes: [RingChange]) -> [RingPosition?]
    /// Slots were added to memory: running rings must use this map from now on. (Where existing
    /// regions change, the session stops or moves the rings instead.)
    func memoryChanged(_ map: MemoryMap)
    /// NET_SET_MTU: false refuses.
    func setMTU(_ mtu: UInt16) -> Bool
    /// SEND_RARP: announce this MAC to the network.
    func sendRARP(mac: [UInt8])
    /// SET_STATUS with the virtio status byte (2.1); RESET_DEVICE and a status of 0 come as 0.
    func statusChanged(_ status: UInt8)
    /// What it has of its driver beside the rings, for a guest that migrates: at most 4096 bytes. All rings are
    /// stopped.
    func saveState() -> [UInt8]
    /// Goes on with what another device has saved. All rings are stopped. Nil, or what is wrong with it.
    func loadState(_ bytes: [UInt8]) -> String?
    /// The front-end is there (true) or has gone (false; all rings are stopped already).
    func connected(_ isConnected: Bool)
}

/// A device without a state of its own.
extension BackEndDevice {
    public func saveState() -> [UInt8] { [] }
    public func loadState(_ bytes: [UInt8]) -> String? { bytes.isEmpty ? nil : "this device has no state of its own" }
}
