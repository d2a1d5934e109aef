import Ringway

/// Something that happened to a queue, as two looks show it: the shape of `queue.trace` (docs/control.md).
package struct QueueEvent: Codable, Sendable {
    /// When it was seen: RFC 3339, UTC.
    package var time: String
    package var condition: QueueCondition
    package var text: String
    /// How often the ring has been started so far.
    package var starts: UInt64
    /// Since the event before: packets, kicks, calls, and packets that found no buffers.
    package var packets: UInt64
    package var kicks: UInt64
    package var calls: UInt64
    package var dropped: UInt64
}

/// The last events of a queue. Whether it has something to do just now is none.
struct QueueHistory {
    private static let most = 64
    private(set) var events: [QueueEvent] = []
    private var last: QueueLook?

    mutating func note(_ queue: QueueLook, _ report: QueueReport) {
        let old = events.last
        if let old, old.condition.asEvent == report.condition.asEvent && old.starts == queue.starts { return }
        let before = last ?? queue
        let isReceive = queue.direction == .receive
        events.append(
            QueueEvent(
                time: LogFormat.time(), condition: report.condition, text: report.text, starts: queue.starts,
                packets: queue.packets &- before.packets, kicks: queue.kicks &- before.kicks,
                calls: queue.calls &- before.calls, dropped: isReceive ? queue.refused &- before.refused : 0))
        last = queue
        if events.count > QueueHistory.most { events.removeFirst() }
    }
}

extension QueueCondition {
    /// A queue that runs has something to do or not.
    fileprivate var asEvent: QueueCondition { self == .flows || self == .overloaded ? .idle : self }
}
