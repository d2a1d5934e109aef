import Virtio

/// Commands of the control virtqueue (virtio 1.3, 5.1.6.5). Lives on the port's control thread.
struct ControlQueue {
    private var queue: RecordedRing
    /// Shared with copies of this.
    private let room = ControlRoom(size: ControlQueue.longest)
    /// The longest command is a table of MAC addresses or the VLAN set; what is longer is refused.
    private static var longest: Int { 16384 }
    var errFD: Int32
    private var isReported = false

    init(_ setup: RingSetup, errFD: Int32) {
        queue = RecordedRing(setup)
        self.errFD = errFD
    }

    /// Another map. True: the queue waited for it.
    mutating func use(_ map: MemoryMap) -> Bool {
        let waited = queue.defect.isMiss
        if waited { isReported = false }
        queue.use(map)
        return waited
    }

    /// A new call descriptor: the next decision calls.
    mutating func forgetCalls() { queue.forgetCalls() }

    /// Ends the queue and says where it stands.
    func stop() -> RingPosition { queue.position }

    /// Serves everything that waits. `handle` gets class, command and data and says whether it
    /// did it; the driver is told after that. Returns whether the driver wants a call, and the ring's defect once.
    mutating func serve(_ handle: (UInt8, UInt8, Span<UInt8>) -> Bool) -> (
        needsCall: Bool, defect: RingDefect?
    ) {
        var served = 0
        let room = room
        // Bounded: a driver that adds commands all the time wakes the thread again.
        repeat {
            while served < 1024, let command = queue.popControl(into: room) {
                served += 1
                let data = room.bytes(command.length)
                let isDone =
                    data.count >= 2 && data.count < room.size && handle(data[0], data[1], data.extracting(2...))
                queue.completeControl(command, answer: isDone ? ControlCode.ok : ControlCode.error)
            }
        } while served < 1024 && queue.armKicks()
        // Once: a driver may go on kicking a ring that has stopped.
        let isNew = queue.defect.kind != .none && !isReported
        if isNew { isReported = true }
        return (served > 0 && queue.needsCall(), isNew ? queue.defect : nil)
    }
}

/// What a driver set through its control queue.
struct ControlState: Equatable, Codable {
    /// Queue pairs in use (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET).
    var pairs = 1
    var mac: [UInt8]
    /// Of CTRL_GUEST_OFFLOADS; nil: all that were negotiated.
    var guestOffloads: Features?

    /// Carries out one command; false refuses it. Modes and filters of CTRL_RX and CTRL_VLAN are checked and answered,
    /// and filter nothing, as a device may (5.1.6.5.1).
    mutating func handle(
        _ kind: UInt8, _ command: UInt8, _ data: Span<UInt8>, features: Features, maximumPairs: Int,
        announced: () -> Void
    ) -> Bool {
        let code = ControlCode(kind, command)
        switch code {
        case .rxPromisc, .rxAllMulti: return isMode(data, features, .ctrlRX)
        case .rxAllUni, .rxNoMulti, .rxNoUni, .rxNoBcast: return isMode(data, features, .ctrlRXExtra)
        case .macTableSet: return features.contains(.ctrlRX) && isMACTable(data)
        case .macAddrSet: return setMAC(data, features)
        case .vlanAdd, .vlanDel: return isVLAN(data, features)
        case .announceAck:
            guard features.contains(.guestAnnounce), data.isEmpty else { return false }
            announced()
            return true
        case .mqVQPairsSet: return setPairs(data, features, maximumPairs)
        case .guestOffloadsSet: return setOffloads(data, features)
        default: return false
        }
    }

    private func isMode(_ data: Span<UInt8>, _ features: Features, _ needed: Features) -> Bool {
        features.contains(needed) && data.count == 1 && data[0] <= 1
    }

    /// A number of up to eight bytes, as drivers of VERSION_1 write it: the lowest byte comes first.
    private func number(_ data: Span<UInt8>, at start: Int = 0, bytes: Int) -> UInt64 {
        var number: UInt64 = 0
        for i in 0..<bytes { number |= UInt64(data[start + i]) << UInt64(8 * i) }
        return number
    }

    /// Two tables, unicast and multicast, each a 32-bit count and so many addresses.
    private func isMACTable(_ data: Span<UInt8>) -> Bool {
        var offset = 0
        for _ in 0..<2 {
            guard offset + 4 <= data.count else { return false }
            let entries = Int(number(data, at: offset, bytes: 4))
            offset += 4
            guard entries <= (data.count - offset) / 6 else { return false }
            offset += entries * 6
        }
        return offset == data.count
    }

    private mutating func setMAC(_ data: Span<UInt8>, _ features: Features) -> Bool {
        guard features.contains(.ctrlMACAddr), data.count == 6, data[0] & 1 == 0 else { return false }
        mac = (0..<6).map { data[$0] }
        return true
    }

    private func isVLAN(_ data: Span<UInt8>, _ features: Features) -> Bool {
        features.contains(.ctrlVLAN) && data.count == 2
            && number(data, bytes: 2) < 4096
    }

    private mutating func setPairs(_ data: Span<UInt8>, _ features: Features, _ maximum: Int) -> Bool {
        guard features.contains(.mq), data.count == 2 else { return false }
        let wanted = Int(number(data, bytes: 2))
        guard wanted >= 1, wanted <= maximum else { return false }
        pairs = wanted
        return true
    }

    private mutating func setOffloads(_ data: Span<UInt8>, _ features: Features) -> Bool {
        guard features.contains(.ctrlGuestOffloads), data.count == 8 else { return false }
        let wanted = Features(rawValue: number(data, bytes: 8))
        guard wanted.isSubset(of: features.intersection(PortFeatures.guestOffloads)) else { return false }
        guestOffloads = wanted
        return true
    }
}
