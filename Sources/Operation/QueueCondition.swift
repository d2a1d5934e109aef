import Ringway

/// What a queue waits for.
package enum QueueCondition: String, Codable, CaseIterable, Sendable {
    /// Packets move.
    case flows
    /// They move, but more come than its thread has time for.
    case overloaded
    /// Nothing is to be done.
    case idle
    case portDown = "port_down"
    case notConnected = "not_connected"
    case notStarted = "not_started"
    case disabled
    /// The ring had to stop: its driver wrote what cannot be.
    case defect
    /// It waits until the front-end says what an address means (IOTLB).
    case addressMiss = "address_miss"
    /// Packets are there, and its driver gives no buffers.
    case noBuffers = "no_buffers"
    /// Packets are there; its driver was called, and does not look.
    case notLooking = "driver_not_looking"
    /// Packets are there; its driver wants no calls, and does not look by itself.
    case callSuppressed = "call_suppressed"
    /// Entries are there, and no kick came that was asked for.
    case kickLost = "kick_lost"
    /// Entries are there, and the thread does not come to them.
    case threadOverloaded = "thread_overloaded"

    /// A driver does not take what is for it.
    var isReceiversOwn: Bool { self == .noBuffers || self == .notLooking || self == .callSuppressed }

    /// Something waits that does not get on: worth a warning.
    package var standsStill: Bool {
        switch self {
        case .flows, .overloaded, .idle, .portDown, .notConnected, .notStarted, .disabled: return false
        case .defect, .addressMiss, .noBuffers, .notLooking, .callSuppressed, .kickLost, .threadOverloaded: return true
        }
    }
}

/// Two looks at an engine, and what they say of its queues. The earlier one is missing at the start.
package struct Comparison {
    let now: EngineLook
    private let before: EngineLook?
    private var earlier: [QueueLook.ID: QueueLook] = [:]
    private let ports: [Int: EngineLook.Port]
    /// Somewhere packets were dropped for want of buffers at a queue that has some: they were for another one.
    private var someWereRefusedElsewhere = false

    package init(_ before: EngineLook?, _ now: EngineLook) {
        (self.before, self.now) = (before, now)
        ports = Dictionary(uniqueKeysWithValues: now.ports.map { ($0.place, $0) })
        // Of a port that has gone nothing is compared with the one that came in its place.
        let same = Set(before?.ports.map(\.serial) ?? []).intersection(now.ports.map(\.serial))
        let places = Set(now.ports.filter { same.contains($0.serial) }.map(\.place))
        for queue in before?.queues ?? [] where places.contains(queue.place) { earlier[queue.id] = queue }
        someWereRefusedElsewhere = now.queues.contains {
            $0.direction == .receive && $0.ring.available > 0 && refused($0) > 0
        }
    }

    func port(of queue: QueueLook) -> EngineLook.Port? { ports[queue.place] }

    /// Packets of a queue's pair that found no buffers between the looks.
    func refused(_ queue: QueueLook) -> UInt64 { queue.refused &- (earlier[queue.id]?.refused ?? queue.refused) }

    /// The share of its time in which a thread had work, 0 to 1.
    package func busyShare(_ thread: Int) -> Double {
        guard let before, thread < min(before.threads.count, now.threads.count) else { return 0 }
        let (busy, time) = (
            now.threads[thread].busyNanoseconds &- before.threads[thread].busyNanoseconds,
            now.nanoseconds &- before.nanoseconds
        )
        return min(1, Double(busy) / Double(max(1, time)))
    }

    package func condition(_ queue: QueueLook) -> QueueCondition {
        guard let port = ports[queue.place] else { return .notConnected }
        if !port.isUp { return .portDown }
        if !port.isConnected { return .notConnected }
        if queue.end == .none { return .notStarted }
        if queue.defect.isMiss { return .addressMiss }
        if queue.defect.kind != .none { return .defect }
        if !queue.isWanted { return .disabled }
        let last = earlier[queue.id]
        if let last, last.packets != queue.packets { return isOverloaded(queue, last) ? .overloaded : .flows }
        return queue.direction == .receive ? receive(queue) : transmit(queue, last)
    }

    /// A driver's ring was half full at both looks, and its thread was never without work.
    private func isOverloaded(_ queue: QueueLook, _ last: QueueLook) -> Bool {
        guard queue.direction == .transmit, queue.end == .guest, busyShare(queue.thread) > 0.95 else { return false }
        return min(queue.ring.available, last.ring.available) * 2 > Int(queue.size)
    }

    /// Nothing was delivered.
    private func receive(_ queue: QueueLook) -> QueueCondition {
        let isEmpty = queue.ring.available == 0
        let hasRing = queue.end == .guest || queue.end == .driver
        if refused(queue) == 0 && !(isEmpty && hasRing && someWereRefusedElsewhere) { return .idle }
        if queue.end != .guest { return .notLooking }
        // Some are there, but not as many as a packet needs; or none ever was.
        if !isEmpty || queue.packets == 0 { return .noBuffers }
        switch queue.ring.wish {
        case .suppressed: return .callSuppressed
        case .overdue: return .notLooking
        case .ahead: return .noBuffers
        case .always: return queue.calls > 0 ? .notLooking : .noBuffers
        }
    }

    /// Nothing was taken.
    private func transmit(_ queue: QueueLook, _ last: QueueLook?) -> QueueCondition {
        // What came a moment ago is on its way.
        guard let last, queue.ring.available > 0, last.ring.available > 0 || last.isUnderWay else { return .idle }
        if !queue.isPolled && !last.isPolled && queue.kicks == last.kicks && !queue.isUnderWay { return .kickLost }
        return .threadOverloaded
    }
}

extension QueueLook {
    struct ID: Hashable { let place, queue: Int }
    var id: ID { ID(place: place, queue: queue) }
}
