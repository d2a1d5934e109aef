import Memory
import Virtio

/// A part of a device: a queue pair, or the control queue. QEMU has a `vhost_net` for each.
public struct VhostObject: Sendable, Equatable {
    /// 0 for the first pair; the control queue comes last.
    public let index: Int
    /// Index of its first ring on the whole device (the control queue's: `VhostNet.controlRing`).
    public let firstRing: Int
    /// 2 for a pair, 1 for the control queue.
    public let ringCount: Int
    /// Of those that take part in the operation at hand.
    public let isFirst: Bool
    /// Of those that take part in the operation at hand.
    public let isLast: Bool
    /// The control queue.
    public var isControl: Bool { ringCount == 1 }
    /// Indexes of its rings on the whole device.
    public var rings: Range<Int> { firstRing..<firstRing + ringCount }
}

/// Where the parts of a ring lie, as the back-end wants it: user addresses (kernel, user) or IOVA (vDPA).
public struct VhostRingAddress: Sendable, Equatable {
    /// Split: descriptor table. Packed: descriptor ring.
    public var descriptors: UInt64
    /// Split: available ring. Packed: driver event suppression.
    public var driverArea: UInt64
    /// Split: used ring. Packed: device event suppression.
    public var deviceArea: UInt64
    /// Guest physical address of the used ring where its writes shall be logged.
    public var log: UInt64?
}

/// What a `VhostNet` asks of a back-end; each method is one step of an operation. Three conform:
/// `KernelBackend`, `UserBackend`, `VDPABackend`. Ring indexes are those of the whole device.
///
/// All calls come from the thread that uses the `VhostNet`, and may block for an answer (vhost-user: five
/// seconds). Errors: see `VhostError`; operations that a kind lacks throw `.unsupported`.
public protocol VhostBackend: AnyObject {
    /// Which of the three.
    var kind: VhostKind { get }
    /// Path or device, for errors.
    var name: String { get }
    /// GET_FEATURES, less what the TAP behind it cannot do. Known after `open`.
    var offered: Features { get }
    /// Bits that are acknowledged for the back-end itself, whatever the driver wants.
    var ownFeatures: Features { get }
    /// Queue pairs that it has; known after `open` of the first object.
    var maximumPairs: Int { get }

    /// The init sequence of one object, up to its queues: opens (first object), owner, features.
    func open(_ object: VhostObject) throws(VhostError)
    /// After its queues have their call descriptors: what else the init sequence has.
    func finishOpen(_ object: VhostObject) throws(VhostError)
    /// Lets go of everything; afterwards nothing is open. Never fails.
    func close()

    /// Acknowledges features for the driver and the back-end (SET_FEATURES).
    func setFeatures(_ object: VhostObject, _ features: Features) throws(VhostError)
    /// Tells which memory the back-end may reach: a memory table or IOTLB entries, in place of what was told before.
    func setMemory(_ object: VhostObject, _ regions: [VhostRegion]) throws(VhostError)
    /// Takes back what `setMemory` told (vDPA: unmaps), after the device has stopped.
    func dropMemory(_ object: VhostObject) throws(VhostError)
    /// SET_VRING_NUM: descriptors of a ring.
    func setVringNum(_ ring: Int, _ size: UInt32) throws(VhostError)
    /// SET_VRING_BASE: where a ring goes on, in the form of `RingPosition.base`.
    func setVringBase(_ ring: Int, _ base: UInt32) throws(VhostError)
    /// SET_VRING_ADDR: where a ring lies.
    func setVringAddress(_ ring: Int, _ address: VhostRingAddress) throws(VhostError)
    /// SET_VRING_KICK: the eventfd that the driver writes. Nil: none, the back-end polls.
    func setVringKick(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError)
    /// SET_VRING_CALL: the eventfd that the back-end writes for used buffers. Nil: none.
    func setVringCall(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError)
    /// SET_VRING_ERR: the eventfd that the back-end writes when the ring is broken. Nil: none.
    func setVringErr(_ ring: Int, _ fd: OwnedDescriptor?) throws(VhostError)
    /// GET_VRING_BASE, which stops the ring; where it stands then.
    func getVringBase(_ ring: Int) throws(VhostError) -> UInt32
    /// After its rings are set up: DRIVER_OK with the last object, enables on vDPA.
    func finishStart(_ object: VhostObject) throws(VhostError)
    /// After the start and the control queue's replay: VHOST_VDPA_SET_VRING_ENABLE for a data pair.
    func enableData(_ rings: Range<Int>) throws(VhostError)
    /// Whether one queue can be reset by itself; throws if not.
    func resetQueue(_ ring: Int) throws(VhostError)
    /// Whether there is `resetDevice`; throws if not.
    func checkReset() throws(VhostError)
    /// The whole device, as it was after init (RESET_DEVICE, status 0).
    func resetDevice() throws(VhostError)
    /// Before the rings of the first object are stopped: SUSPEND on vDPA.
    func beginStop(_ object: VhostObject) throws(VhostError)
    /// After the rings are stopped: status 0 with the last object.
    func finishStop(_ object: VhostObject) throws(VhostError)

    /// Kernel: VHOST_NET_SET_BACKEND with the TAP, or -1; nothing elsewhere.
    func bind(_ ring: Int, _ isBound: Bool) throws(VhostError)
    /// Vhost-user SET_VRING_ENABLE for each of `rings`.
    func setVringEnable(_ rings: Range<Int>, _ isEnabled: Bool) throws(VhostError)
    /// Returns when everything that was told has taken effect (vhost-user, whose messages may be under way).
    func settle() throws(VhostError)
    /// For how long the kernel's thread polls a ring before it sleeps; 0: not at all.
    func setBusyloopTimeout(_ ring: Int, microseconds: UInt32) throws(VhostError)
    /// The same, as it was set; microseconds.
    func busyloopTimeout(_ ring: Int) throws(VhostError) -> UInt32
    /// `size` bytes of the configuration space (virtio 1.3, 5.1.4) from `offset` on.
    func readConfiguration(offset: Int, size: Int) throws(VhostError) -> [UInt8]
    /// Writes the configuration space from `offset` on; `forMigration`: also fields that the driver cannot write.
    func writeConfiguration(offset: Int, _ bytes: [UInt8], forMigration: Bool) throws(VhostError)
    /// The eventfd that the back-end writes when its configuration has changed. Nil: none.
    func setConfigurationCall(_ fd: OwnedDescriptor?) throws(VhostError)
    /// Before the start; the device's MTU in bytes. False: nobody is told.
    func setMTU(_ mtu: UInt16) throws(VhostError) -> Bool
    /// Vhost-user SEND_RARP: the back-end announces this MAC address, six bytes, to its network.
    func sendRARP(_ mac: [UInt8]) throws(VhostError)
    /// From here on the back-end marks in `log` each page that it writes.
    func setLogBase(_ object: VhostObject, _ log: DirtyLog) throws(VhostError)
    /// Asks for the in-flight region once, and hands it over before the rings start.
    func shareInflight(ringCount: Int, ringSize: UInt16, isPacked: Bool) throws(VhostError)
    /// Whether the socket's other end has gone.
    var isDisconnected: Bool { get }
}

extension VhostBackend {
    public var isDisconnected: Bool { false }
    public func finishOpen(_ object: VhostObject) throws(VhostError) {}
    public func enableData(_ rings: Range<Int>) throws(VhostError) {}
    public func resetQueue(_ ring: Int) throws(VhostError) {}
    public func checkReset() throws(VhostError) { throw .unsupported(self, "device reset") }
    public func resetDevice() throws(VhostError) { throw .unsupported(self, "device reset") }
    public func dropMemory(_ object: VhostObject) throws(VhostError) {}
    public func finishStart(_ object: VhostObject) throws(VhostError) {}
    public func beginStop(_ object: VhostObject) throws(VhostError) {}
    public func finishStop(_ object: VhostObject) throws(VhostError) {}
    public func bind(_ ring: Int, _ isBound: Bool) throws(VhostError) {}
    public func settle() throws(VhostError) {}
    public func setVringEnable(_ rings: Range<Int>, _ isEnabled: Bool) throws(VhostError) {
        throw .unsupported(self, "queue enable")
    }
    public func setBusyloopTimeout(_ ring: Int, microseconds: UInt32) throws(VhostError) {
        throw .unsupported(self, "busyloop timeout")
    }
    public func busyloopTimeout(_ ring: Int) throws(VhostError) -> UInt32 {
        throw .unsupported(self, "busyloop timeout")
    }
    public func readConfiguration(offset: Int, size: Int) throws(VhostError) -> [UInt8] {
        throw .unsupported(self, "configuration read")
    }
    public func writeConfiguration(offset: Int, _ bytes: [UInt8], forMigration: Bool) throws(VhostError) {
        throw .unsupported(self, "configuration write")
    }
    public func setConfigurationCall(_ fd: OwnedDescriptor?) throws(VhostError) {
        throw .unsupported(self, "configuration interrupt")
    }
    public func setMTU(_ mtu: UInt16) throws(VhostError) -> Bool { false }
    public func sendRARP(_ mac: [UInt8]) throws(VhostError) { throw .unsupported(self, "migration notice") }
    public func setLogBase(_ object: VhostObject, _ log: DirtyLog) throws(VhostError) {
        throw .unsupported(self, "dirty log")
    }
    public func shareInflight(ringCount: Int, ringSize: UInt16, isPacked: Bool) throws(VhostError) {
        throw .unsupported(self, "in-flight region")
    }
}

extension VhostError {
    static func unsupported(_ backend: any VhostBackend, _ operation: String) -> VhostError {
        VhostError(.unsupported, "\(backend.name): \(operation): \(backend.kind) has no such operation")
    }
}
