import Virtio

/// What one ring of the device is started with.
public struct RingStart: Sendable {
    public var setup: RingSetup
    /// Whether receive is on; while off, transmits are consumed and dropped (vhost-user, "Ring states").
    public var enabled: Bool
    /// Eventfds, owned by the session and valid until `stopRing` or `updateRing` returns; -1 without.
    public var kickFD: Int32
    public var callFD: Int32
    public var errFD: Int32
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
    /// Reads and writes of the configuration space, virtio 1.3 section 5.1.4. Nil or false: refused.
    func readConfiguration(offset: Int, size: Int) -> [UInt8]?
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool
    /// The driver's features were set.
    func featuresAcknowledged(_ features: Features)
    /// The ring may run: it has addresses, memory and a kick. With in-band notifications the
    /// descriptors are the session's own eventfds.
    func startRing(_ index: Int, _ start: RingStart)
    /// The ring stops; returns where it stands. Nothing of the ring is used afterwards.
    func stopRing(_ index: Int) -> RingPosition
    /// New enable state, descriptors or dirty-log settings of a running ring.
    func updateRing(_ index: Int, enabled: Bool, callFD: Int32, kickFD: Int32, errFD: Int32)
    /// Slots were added to memory: running rings must use this map from now on. (Where ring
    /// addresses or existing regions change, the session stops and starts the rings instead.)
    func memoryChanged(_ map: MemoryMap)
    /// NET_SET_MTU: false refuses.
    func setMTU(_ mtu: UInt16) -> Bool
    /// SEND_RARP: announce this MAC to the network.
    func sendRARP(mac: [UInt8])
    /// SET_STATUS with the virtio status byte (2.1); RESET_DEVICE and a status of 0 come as 0.
    func statusChanged(_ status: UInt8)
    /// The front-end is there (true) or has gone (false; all rings are stopped already).
    func connected(_ isConnected: Bool)
}
