import Console
import Ringway

/// What a queue waits for, since when, and what to do: the shape of `queue.why` (docs/control.md).
package struct QueueReport: Codable, Sendable {
    package var port: String
    package var queue: Int
    package var direction: String
    package var condition: QueueCondition
    package var standsStill: Bool
    /// How long it has been so.
    package var seconds: Double
    /// What its driver made available and was not taken: packets to send, or buffers to receive.
    package var available: Int
    /// Packets that found no buffers since then.
    package var dropped: UInt64
    /// Index of the thread that serves it.
    package var thread: Int
    /// How long it is polled after its last packet; nil: for ever.
    package var busyloopSeconds: Double?
    package var text: String
    /// Empty where nothing is to be done.
    package var advice: String
}

extension QueueReport {
    init(_ queue: QueueLook, _ port: EngineLook.Port, _ condition: QueueCondition, busyShare: Double, cpu: Int) {
        let words = Words(queue: queue, port: port, busy: Text.number(busyShare * 100, 0) + " %", cpu: cpu)
        (self.port, self.queue, self.condition) = (port.name, queue.queue, condition)
        direction = queue.direction == .receive ? "receive" : "transmit"
        (standsStill, seconds, dropped) = (condition.standsStill, 0, 0)
        (available, thread) = (queue.ring.available, queue.thread)
        busyloopSeconds = queue.busyloop.map { (Double($0) / 1e9).rounded(digits: 9) }
        (text, advice) = words.of(condition)
    }

    /// For people: queues of a port that have the same to say are told of together, in one paragraph each.
    package static func paragraphs(_ all: [QueueReport]) -> [String] {
        var groups: [[QueueReport]] = []
        for report in all {
            let place = groups.firstIndex {
                $0[0].port == report.port && $0[0].direction == report.direction && $0[0].text == report.text
            }
            if let place { groups[place].append(report) } else { groups.append([report]) }
        }
        return groups.map(paragraph)
    }

    private static func paragraph(_ group: [QueueReport]) -> String {
        let numbers = group.map { "\($0.queue)" }.joined(separator: ", ")
        let dropped = group.reduce(0) { $0 &+ $1.dropped }
        let time = age(group.map(\.seconds).max() ?? 0)
        return "\(group[0].port) \(group.count > 1 ? "queues" : "queue") \(numbers) (\(group[0].direction)): "
            + "\(group[0].text), for \(time)" + (dropped > 0 ? "; \(dropped) packets were dropped meanwhile" : "") + "."
            + (group[0].advice.isEmpty ? "" : " " + group[0].advice)
    }

    /// As people say it.
    static func age(_ seconds: Double) -> String {
        if seconds < 120 { return Text.number(seconds, seconds < 10 ? 1 : 0) + " s" }
        if seconds < 7200 { return Text.number(seconds / 60, 0) + " min" }
        return Text.number(seconds / 3600, 0) + " h"
    }
}

/// What is said of a queue in each condition: a sentence without its subject, and what to do.
private struct Words {
    let queue: QueueLook
    let port: EngineLook.Port
    let busy: String
    let cpu: Int

    private var isReceive: Bool { queue.direction == .receive }
    private var isDriver: Bool { queue.end == .driver }
    private var thread: String { "thread \(queue.thread)" + (cpu >= 0 ? " on CPU \(cpu)" : "") }
    private var entries: String { queue.ring.available == 1 ? "1 entry waits" : "\(queue.ring.available) entries wait" }

    func of(_ condition: QueueCondition) -> (String, String) {
        switch condition {
        case .flows: return ("packets move", "")
        case .overloaded:
            return (
                "packets move, but more come than \(thread) has time for: it had work \(busy) of the time",
                "Give it fewer queues (more --cpus), or a CPU that nobody else uses."
            )
        case .idle: return (idle, "")
        case .portDown:
            return (
                "the port is down, so none of its packets passes",
                "`ringway port set \(port.name) --up` lets them pass."
            )
        case .notConnected: return notConnected
        case .notStarted:
            return (
                "the front-end is there, but has not started this ring",
                """
                The guest still boots, is paused, has no driver for it, or uses fewer queue pairs than the port has \
                (`ethtool -l` in the guest tells).
                """
            )
        case .disabled:
            return (
                "the front-end has disabled this ring",
                """
                The driver uses fewer queue pairs (`ethtool -L` in the guest sets them), or the guest is about to \
                reset or to migrate.
                """
            )
        case .defect:
            return (
                "the ring had to stop, as \(isDriver ? "the back-end" : "its driver") wrote what cannot be: "
                    + "\(queue.defect)",
                isDriver
                    ? "Restart the back-end; Ringway then connects again."
                    : "The ring starts anew when the driver is loaded again, or the guest restarts."
            )
        case .addressMiss:
            return (
                "\(queue.defect)", "The front-end was asked and has not answered: see whether it runs (QEMU's monitor)."
            )
        case .noBuffers, .notLooking, .callSuppressed: return receiver(condition)
        case .kickLost:
            return (
                "\(entries), \(isDriver ? "the back-end was asked to call" : "its driver was asked to kick"), and "
                    + "nothing came",
                """
                What passes it on (ioeventfd, the front-end) has lost one, or the \
                \(isDriver ? "back-end" : "driver") forgot it. \
                Polling needs none: `ringway port set \(port.name) --busyloop poll`.
                """
            )
        case .threadOverloaded:
            return (
                "\(entries), and \(thread) does not come to it, which had work \(busy) of the time",
                "Something else has its CPU, or it has too many queues: see `ringway top`; give it a CPU of its own."
            )
        }
    }

    private var idle: String {
        if !isReceive { return "\(isDriver ? "the back-end" : "its driver") has nothing to send" }
        let isBare = queue.end == .guest && queue.ring.available == 0
        return "there is nothing to deliver" + (isBare ? " (and there are no buffers now)" : "")
    }

    private var notConnected: (String, String) {
        switch port.kind {
        case .tap where port.kind.descriptor != nil:
            return (
                "its interface is gone", "Its descriptor is of no use any more: start ringway again with another one."
            )
        case .vhostUser(let path, false):
            return ("nobody is at the other end", "Start the virtual machine, or the program, that is to use \(path).")
        case .vhostUser(let path, true):
            return ("nobody serves its socket", "Start what serves \(path); Ringway tries again all the time.")
        case .virtioUser(let path, _, _):
            return ("no back-end is at the other end", "Start the back-end of \(path); Ringway tries again by itself.")
        case .tap(let name):
            return ("its interface is gone", "Remove the port and add it again: it makes \(name) anew.")
        case .xdp(let name, _):
            return ("its interface is not there, or has no link", "`ip link show \(name)` tells.")
        case .null: return ("it has not begun", "")
        }
    }

    /// Of a queue that packets are for.
    private func receiver(_ condition: QueueCondition) -> (String, String) {
        switch queue.end {
        case .driver:
            return ("the back-end takes nothing of what it was given", "See whether the back-end's program runs.")
        case .tap:
            return ("the kernel takes no packets", "`ip link set \(port.name.dropFirst(4)) up` lets it.")
        case .xdp:
            return ("the interface takes no packets", "See whether it is up and has a link: `ip link` tells.")
        default: break
        }
        if condition == .notLooking {
            return (
                "its driver was called, and has not looked at the ring since",
                """
                The guest does not run (stopped, or without a CPU), its interface is down, or the interrupt got lost: \
                see whether it answers, and `ip link` and /proc/interrupts there.
                """
            )
        }
        if condition == .callSuppressed {
            return (
                "its driver wants no calls, and does not look by itself",
                "It polls (as DPDK does), or did: see whether its program runs and has its CPU."
            )
        }
        return (
            "its driver gives " + (queue.packets == 0 ? "no" : queue.ring.available == 0 ? "no more" : "too few")
                + " buffers",
            "Its interface is down, or the guest is short of memory: see `ip link` and `dmesg` there."
        )
    }
}
