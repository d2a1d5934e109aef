import Memory

/// Requests of the front-end, vhost-user specification, "Front-end message types".
public enum Request: UInt32, Sendable, CaseIterable {
    /// Which features are offered? Answer: 64 bits, `Features`.
    case getFeatures = 1
    /// The features that the driver accepted, and the back-end's own.
    case setFeatures
    /// A session begins.
    case setOwner
    /// Deprecated: back-ends disable all rings.
    case resetOwner
    /// The memory that the back-end may reach: up to 8 regions, with a descriptor each.
    case setMemTable
    /// The dirty log: size and offset, with its descriptor; needs LOG_SHMFD.
    case setLogBase
    /// An eventfd that is written when the log was.
    case setLogFD
    /// Descriptors of a ring.
    case setVringNum
    /// Where a ring lies, in user addresses.
    case setVringAddr
    /// Where a ring goes on.
    case setVringBase
    /// Stops a ring. Answer: where it stands.
    case getVringBase
    /// The eventfd that the driver writes.
    case setVringKick
    /// The eventfd that the back-end writes for used buffers.
    case setVringCall
    /// The eventfd that the back-end writes when the ring is broken.
    case setVringErr
    /// Which protocol features are offered? Answer: 64 bits, `ProtocolFeatures`.
    case getProtocolFeatures
    /// The protocol features that the front-end has chosen.
    case setProtocolFeatures
    /// How many queues? Of network devices: queue pairs. Answer: 64 bits; needs MQ.
    case getQueueNum
    /// Enables a ring, or disables it, which goes on to run; needs PROTOCOL_FEATURES.
    case setVringEnable
    /// Announce this MAC address after a migration; needs RARP.
    case sendRARP
    /// The MTU that the driver was told; needs MTU.
    case netSetMTU
    /// A socket for the back-end's own requests; needs BACKEND_REQ.
    case setBackendReqFD
    /// An entry of the IOTLB comes or goes; needs the feature ACCESS_PLATFORM.
    case iotlbMsg
    /// Byte order of a legacy device's ring; needs CROSS_ENDIAN.
    case setVringEndian
    /// Reads the configuration space. Answer: the same with its bytes, empty for an error; needs CONFIG.
    case getConfig
    /// Writes the configuration space; needs CONFIG.
    case setConfig
    /// For crypto devices; needs CRYPTO_SESSION.
    case createCryptoSession
    /// For crypto devices; needs CRYPTO_SESSION.
    case closeCryptoSession
    /// A migration with postcopy begins. Answer: a userfaultfd; needs PAGEFAULT, as the two that follow.
    case postcopyAdvise
    /// Postcopy begins: missing pages shall fault.
    case postcopyListen
    /// Postcopy has ended. Answer: 64 bits, 0 for success.
    case postcopyEnd
    /// A region for the buffers in flight is wanted. Answer: the region; needs INFLIGHT_SHMFD.
    case getInflightFD
    /// That region, for a back-end that was started anew; needs INFLIGHT_SHMFD.
    case setInflightFD
    /// For graphics devices.
    case gpuSetSocket
    /// Disables all rings and resets the device; needs RESET_DEVICE.
    case resetDevice
    /// A kick as a message; needs INBAND_NOTIFICATIONS.
    case vringKick
    /// How many regions can there be? Answer: 64 bits; needs CONFIGURE_MEM_SLOTS, as the two that follow.
    case getMaxMemSlots
    /// One more region, with its descriptor.
    case addMemReg
    /// One region fewer.
    case remMemReg
    /// The virtio status byte (`DeviceStatus`); needs STATUS.
    case setStatus
    /// Which status? Answer: 64 bits; needs STATUS.
    case getStatus
    /// Resources that devices share, by their numbers (dma-buf); needs SHARED_OBJECT.
    case getSharedObject
    /// A pipe for the device's state, and which way it goes. Answer: 64 bits; needs DEVICE_STATE, as the one that
    /// follows.
    case setDeviceStateFD
    /// Has all of the device's state gone over? Answer: 64 bits, 0 for success.
    case checkDeviceState

    /// The specification's name.
    public var name: String {
        let names = [
            "GET_FEATURES", "SET_FEATURES", "SET_OWNER", "RESET_OWNER", "SET_MEM_TABLE", "SET_LOG_BASE", "SET_LOG_FD",
            "SET_VRING_NUM", "SET_VRING_ADDR", "SET_VRING_BASE", "GET_VRING_BASE", "SET_VRING_KICK", "SET_VRING_CALL",
            "SET_VRING_ERR", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "SET_VRING_ENABLE",
            "SEND_RARP", "NET_SET_MTU", "SET_BACKEND_REQ_FD", "IOTLB_MSG", "SET_VRING_ENDIAN", "GET_CONFIG",
            "SET_CONFIG",
            "CREATE_CRYPTO_SESSION", "CLOSE_CRYPTO_SESSION", "POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_END",
            "GET_INFLIGHT_FD", "SET_INFLIGHT_FD", "GPU_SET_SOCKET", "RESET_DEVICE", "VRING_KICK", "GET_MAX_MEM_SLOTS",
            "ADD_MEM_REG", "REM_MEM_REG", "SET_STATUS", "GET_STATUS", "GET_SHARED_OBJECT", "SET_DEVICE_STATE_FD",
            "CHECK_DEVICE_STATE",
        ]
        return names[Int(rawValue) - 1]
    }
}

/// Requests of the back-end, on the channel that SET_BACKEND_REQ_FD opened.
public enum BackEndRequest: UInt32, Sendable {
    /// An address is not in the IOTLB, or may not be reached so.
    case iotlbMsg = 1
    /// The configuration space has changed; needs CONFIG.
    case configChange
    /// Memory that a driver's kicks shall go to; needs HOST_NOTIFIER.
    case vringHostNotifier
    /// A call as a message; needs INBAND_NOTIFICATIONS.
    case vringCall
    /// A ring is broken, as a message; needs INBAND_NOTIFICATIONS.
    case vringErr
}

/// Protocol feature bits by their names in the specification.
public struct ProtocolFeatures: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    private init(bit: Int) { rawValue = 1 << UInt64(bit) }

    /// Several queues; GET_QUEUE_NUM says how many.
    public static let mq = ProtocolFeatures(bit: 0)
    /// The dirty log is shared memory (SET_LOG_BASE).
    public static let logShmFD = ProtocolFeatures(bit: 1)
    /// SEND_RARP.
    public static let rarp = ProtocolFeatures(bit: 2)
    /// Every message can be acknowledged (`Message.needReply`).
    public static let replyAck = ProtocolFeatures(bit: 3)
    /// NET_SET_MTU.
    public static let mtu = ProtocolFeatures(bit: 4)
    /// The back-end has requests of its own (SET_BACKEND_REQ_FD).
    public static let backendReq = ProtocolFeatures(bit: 5)
    /// GET_CONFIG, SET_CONFIG and CONFIG_CHANGE.
    public static let config = ProtocolFeatures(bit: 9)
    /// Buffers in flight are kept in shared memory, so that a back-end that crashed can go on.
    public static let inflightShmFD = ProtocolFeatures(bit: 12)
    /// RESET_DEVICE.
    public static let resetDevice = ProtocolFeatures(bit: 13)
    /// Kicks and calls can be messages.
    public static let inbandNotifications = ProtocolFeatures(bit: 14)
    /// Regions can come and go one by one.
    public static let configureMemSlots = ProtocolFeatures(bit: 15)
    /// SET_STATUS and GET_STATUS.
    public static let status = ProtocolFeatures(bit: 16)
    /// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
    public static let deviceState = ProtocolFeatures(bit: 19)
    /// GET_VRING_BASE leaves what is in flight in the inflight region; needs INFLIGHT_SHMFD.
    public static let getVringBaseInflight = ProtocolFeatures(bit: 20)

    private static let names = [
        "MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN", "CRYPTO_SESSION", "PAGEFAULT",
        "CONFIG",
        "BACKEND_SEND_FD", "HOST_NOTIFIER", "INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS",
        "CONFIGURE_MEM_SLOTS", "STATUS",
        "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT",
        "GPA_ADDRESSES", "SHMEM_MAP",
    ]

    /// The bits by their specification names; `bit N` for those without one.
    public var bitNames: [String] {
        (0..<64).filter { rawValue & (1 << UInt64($0)) != 0 }.map {
            $0 < ProtocolFeatures.names.count ? ProtocolFeatures.names[$0] : "bit \($0)"
        }
    }
}

/// A message of either direction: header and payload ("Message specification"), with its descriptors.
public struct Message {
    /// Raw request number; `Request(rawValue:)` names it.
    public var request: UInt32
    /// The version in the low two bits, then `reply` and `needReply`.
    public var flags: UInt32
    /// What comes after the header, at most `maximumPayload` bytes.
    public var payload: [UInt8]
    /// Descriptors that came with it; closed with the last reference.
    public var descriptors: [OwnedDescriptor] = []

    /// The protocol's only version.
    public static let version: UInt32 = 1
    /// Bits of the version.
    public static let versionMask: UInt32 = 3
    /// This message is an answer.
    public static let reply: UInt32 = 4
    /// This message wants to be acknowledged (REPLY_ACK): 64 bits, 0 for success.
    public static let needReply: UInt32 = 8
    /// Of SET_VRING_KICK, CALL and ERR: bits 0 to 7 are the ring's index, bit 8 says that no descriptor comes.
    public static let ringMask: UInt64 = 0xff
    /// No descriptor comes with SET_VRING_KICK, CALL or ERR.
    public static let noDescriptor: UInt64 = 1 << 8
    /// VHOST_VRING_F_LOG of SET_VRING_ADDR: writes to the used ring are logged.
    public static let logsUsed: UInt32 = 1
    /// Bytes of request, flags and the payload's size.
    public static let headerSize = 12
    /// Longest payload taken: a memory table of 8 regions has 264 bytes, a configuration 268.
    public static let maximumPayload = 4096
    /// Descriptors of one message: 8 regions.
    public static let maximumDescriptors = 8

    /// A message with any number, also one that the specification does not know.
    public init(_ request: UInt32, flags: UInt32 = Message.version, payload: [UInt8] = []) {
        self.request = request
        self.flags = flags
        self.payload = payload
    }

    /// A message of the specification.
    public init(_ request: Request, flags: UInt32 = Message.version, payload: Payload = Payload()) {
        self.init(request.rawValue, flags: flags, payload: payload.bytes)
    }

    /// It wants to be acknowledged.
    public var needsReply: Bool { flags & Message.needReply != 0 }

    /// Header and payload as they go over the socket.
    public var encoded: [UInt8] {
        var p = Payload()
        p.add32(request)
        p.add32(flags)
        p.add32(UInt32(payload.count))
        return p.bytes + payload
    }
}

/// Builds a payload; little-endian, as every host that Ringway knows.
public struct Payload: Sendable {
    /// What was added so far.
    public private(set) var bytes: [UInt8] = []
    /// No byte.
    public init() {}
    /// 64 bits.
    public init(_ value: UInt64) { add64(value) }
    /// Vring state description: index and number.
    public init(index: Int, _ value: UInt32) {
        add32(UInt32(index))
        add32(value)
    }
    /// Adds 32 bits.
    public mutating func add32(_ v: UInt32) { withUnsafeBytes(of: v.littleEndian) { bytes += $0 } }
    /// Adds 64 bits.
    public mutating func add64(_ v: UInt64) { withUnsafeBytes(of: v.littleEndian) { bytes += $0 } }
    /// Adds bytes as they are.
    public mutating func add(_ more: [UInt8]) { bytes += more }
    /// Memory region description.
    public mutating func add(_ r: RegionDescription) {
        add64(r.guestAddress)
        add64(r.size)
        add64(r.userAddress)
        add64(r.offset)
    }
}

/// Reads a payload; nil beyond its end.
package struct PayloadReader {
    let bytes: [UInt8]
    private(set) var offset = 0

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package mutating func next32() -> UInt32? {
        guard offset + 4 <= bytes.count else { return nil }
        defer { offset += 4 }
        return bytes.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self)) }
    }

    package mutating func next64() -> UInt64? {
        guard offset + 8 <= bytes.count else { return nil }
        defer { offset += 8 }
        return bytes.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
    }

    mutating func nextRegion() -> RegionDescription? {
        guard let g = next64(), let s = next64(), let u = next64(), let o = next64() else { return nil }
        return RegionDescription(guestAddress: g, size: s, userAddress: u, offset: o)
    }
}
