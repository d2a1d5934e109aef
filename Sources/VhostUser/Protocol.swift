import Memory

/// Requests of the front-end, vhost-user specification, "Front-end message types".
public enum Request: UInt32, Sendable, CaseIterable {
    case getFeatures = 1
    case setFeatures, setOwner, resetOwner, setMemTable, setLogBase, setLogFD, setVringNum, setVringAddr
    case setVringBase, getVringBase, setVringKick, setVringCall, setVringErr, getProtocolFeatures, setProtocolFeatures
    case getQueueNum, setVringEnable, sendRARP, netSetMTU, setBackendReqFD, iotlbMsg, setVringEndian, getConfig,
        setConfig
    case createCryptoSession, closeCryptoSession, postcopyAdvise, postcopyListen, postcopyEnd, getInflightFD,
        setInflightFD
    case gpuSetSocket, resetDevice, vringKick, getMaxMemSlots, addMemReg, remMemReg, setStatus, getStatus

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
            "ADD_MEM_REG", "REM_MEM_REG", "SET_STATUS", "GET_STATUS",
        ]
        return names[Int(rawValue) - 1]
    }
}

/// Requests of the back-end, on the channel that SET_BACKEND_REQ_FD opened.
public enum BackEndRequest: UInt32, Sendable {
    case iotlbMsg = 1
    case configChange, vringHostNotifier, vringCall, vringErr
}

/// Protocol feature bits by their names in the specification.
public struct ProtocolFeatures: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    private init(bit: Int) { rawValue = 1 << UInt64(bit) }

    public static let mq = ProtocolFeatures(bit: 0)
    public static let logShmFD = ProtocolFeatures(bit: 1)
    public static let rarp = ProtocolFeatures(bit: 2)
    public static let replyAck = ProtocolFeatures(bit: 3)
    public static let mtu = ProtocolFeatures(bit: 4)
    public static let backendReq = ProtocolFeatures(bit: 5)
    public static let config = ProtocolFeatures(bit: 9)
    public static let inflightShmFD = ProtocolFeatures(bit: 12)
    public static let resetDevice = ProtocolFeatures(bit: 13)
    public static let inbandNotifications = ProtocolFeatures(bit: 14)
    public static let configureMemSlots = ProtocolFeatures(bit: 15)
    public static let status = ProtocolFeatures(bit: 16)

    private static let names = [
        "MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN", "CRYPTO_SESSION", "PAGEFAULT",
        "CONFIG",
        "BACKEND_SEND_FD", "HOST_NOTIFIER", "INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS",
        "CONFIGURE_MEM_SLOTS", "STATUS",
        "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT",
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
    public var flags: UInt32
    public var payload: [UInt8]
    /// Descriptors that came with it; closed with the last reference.
    public var descriptors: [OwnedDescriptor] = []

    public static let version: UInt32 = 1
    public static let versionMask: UInt32 = 3
    public static let reply: UInt32 = 4
    public static let needReply: UInt32 = 8
    /// Of SET_VRING_KICK, CALL and ERR: bits 0 to 7 are the ring's index, bit 8 says that no descriptor comes.
    public static let ringMask: UInt64 = 0xff
    public static let noDescriptor: UInt64 = 1 << 8
    /// VHOST_VRING_F_LOG of SET_VRING_ADDR: writes to the used ring are logged.
    public static let logsUsed: UInt32 = 1
    public static let headerSize = 12
    /// Longest payload taken: a memory table of 8 regions has 264 bytes, a configuration 268.
    public static let maximumPayload = 4096
    /// Descriptors of one message: 8 regions.
    public static let maximumDescriptors = 8

    public init(_ request: UInt32, flags: UInt32 = Message.version, payload: [UInt8] = []) {
        self.request = request
        self.flags = flags
        self.payload = payload
    }

    public init(_ request: Request, flags: UInt32 = Message.version, payload: Payload = Payload()) {
        self.init(request.rawValue, flags: flags, payload: payload.bytes)
    }

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
    public private(set) var bytes: [UInt8] = []
    public init() {}
    public init(_ value: UInt64) { add64(value) }
    /// Vring state description: index and number.
    public init(index: Int, _ value: UInt32) {
        add32(UInt32(index))
        add32(value)
    }
    public mutating func add32(_ v: UInt32) { withUnsafeBytes(of: v.littleEndian) { bytes += $0 } }
    public mutating func add64(_ v: UInt64) { withUnsafeBytes(of: v.littleEndian) { bytes += $0 } }
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
struct PayloadReader {
    let bytes: [UInt8]
    private(set) var offset = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func next32() -> UInt32? {
        guard offset + 4 <= bytes.count else { return nil }
        defer { offset += 4 }
        return bytes.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self)) }
    }

    mutating func next64() -> UInt64? {
        guard offset + 8 <= bytes.count else { return nil }
        defer { offset += 8 }
        return bytes.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
    }

    mutating func nextRegion() -> RegionDescription? {
        guard let g = next64(), let s = next64(), let u = next64(), let o = next64() else { return nil }
        return RegionDescription(guestAddress: g, size: s, userAddress: u, offset: o)
    }
}
