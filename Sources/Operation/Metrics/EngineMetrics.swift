import Console
import Ringway
import Telemetry

/// What the metrics of an engine are made from (docs/metrics.md).
struct EngineMetrics {
    let counts: EngineCounts
    /// What each queue waits for, and how its thread polls it.
    let reports: [QueueReport]
    let busyShares: [Double]

    func text(isOpenMetrics: Bool) -> String {
        var text = MetricsText(isOpenMetrics: isOpenMetrics)
        text.family("ringway_build_info", .gauge, "1; the label has the version.")
        text.add(true, ["version": Version.number])
        writePorts(&text)
        writeQueues(&text)
        writeTimes(&text)
        writeThreads(&text)
        text.family("ringway_function_events_total", .counter, "What the packet function counts, by its names.")
        for counter in counts.function { text.add(counter.count, ["counter": counter.name]) }
        text.end()
        return text.text
    }

    // MARK: Ports

    private func writePorts(_ text: inout MetricsText) {
        text.family("ringway_port_up", .gauge, "Whether packets of the port may pass.")
        for port in counts.ports { text.add(port.isUp, ["port": port.name]) }
        text.family("ringway_port_connected", .gauge, "Whether somebody is at the port's other end.")
        for port in counts.ports { text.add(port.isConnected, ["port": port.name]) }
        writeTraffic(&text)
        text.family(
            "ringway_port_dropped_packets_total", .counter, "Packets that went no further, by cause.")
        for port in counts.ports {
            for drop in port.drops { text.add(drop.count, ["port": port.name, "cause": drop.cause]) }
        }
        text.family(
            "ringway_port_stopped_queues_total", .counter, "Queues that had to stop, by what was wrong with the ring.")
        for port in counts.ports {
            for stop in port.stoppedQueues { text.add(stop.count, ["port": port.name, "cause": stop.cause]) }
        }
        text.family("ringway_port_flooded_packets_total", .counter, "Received packets that were flooded.")
        for port in counts.ports { text.add(port.flooded, ["port": port.name]) }
        text.family(
            "ringway_port_consumed_packets_total", .counter, "Received packets for the packet function itself.")
        for port in counts.ports { text.add(port.consumed, ["port": port.name]) }
        text.family(
            "ringway_port_made_packets_total", .counter, "Packets made for the driver: copies, segments, RARPs.")
        for port in counts.ports { text.add(port.made, ["port": port.name]) }
    }

    /// By queue: its packets, bytes, and events.
    private func writeTraffic(_ text: inout MetricsText) {
        func write(
            _ name: String, _ help: String, of direction: QueueDirection? = nil, _ value: (QueueSnapshot) -> UInt64
        ) {
            text.family(name, .counter, help)
            for port in counts.ports {
                for queue in port.queues where direction == nil || QueueDirection(queue: queue.queue) == direction {
                    text.add(value(queue), ["port": port.name, "queue": "\(queue.queue)"])
                }
            }
        }
        write(
            "ringway_port_received_packets_total", "Packets received from the port's driver.", of: .transmit,
            \.packets)
        write("ringway_port_received_bytes_total", "Bytes of them, without CRC.", of: .transmit, \.bytes)
        write(
            "ringway_port_delivered_packets_total", "Packets delivered to the port's driver.", of: .receive, \.packets)
        write("ringway_port_delivered_bytes_total", "Bytes of them, without CRC.", of: .receive, \.bytes)
        write("ringway_queue_kicks_total", "Kicks that the queue's thread has seen.", \.kicks)
        write("ringway_queue_calls_total", "Calls to the queue's driver.", \.calls)
    }

    // MARK: Queues

    private func writeQueues(_ text: inout MetricsText) {
        text.family(
            "ringway_queue_available_entries", .gauge, "Entries of the ring that were made available and not taken.")
        for r in reports { text.add(UInt64(r.available), ["port": r.port, "queue": "\(r.queue)"]) }
        text.family(
            "ringway_queue_stands_still", .gauge, "1 if something waits there and does not get on; the condition why.")
        for r in reports {
            text.add(
                r.standsStill, ["port": r.port, "queue": "\(r.queue)", "condition": r.condition.rawValue])
        }
        text.family(
            "ringway_queue_busyloop_seconds", .gauge,
            "How long the queue is polled after its last packet; +Inf: always.")
        for r in reports where r.direction == "transmit" {
            text.add(r.busyloopSeconds ?? .infinity, ["port": r.port, "queue": "\(r.queue)"])
        }
    }

    // MARK: Times

    /// Upper bounds in seconds.
    private static let bounds: [Double] = [
        1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 1,
    ]

    private func writeTimes(_ text: inout MetricsText) {
        let families: [(name: String, help: String, what: [QueueTime])] = [
            ("ring_sojourn", "How long stamped frames lay in the ring.", [.ringSojourn]),
            ("kick_to_pickup", "From a stamp before a kick until the frame was taken.", [.kickToPickup]),
            ("wake_to_pickup", "From when a kick was seen until frames were taken.", [.wakeToPickup]),
            ("call_delay", "From the decision to call until it was done.", [.transmitCallDelay, .receiveCallDelay]),
        ]
        for family in families {
            text.family("ringway_queue_\(family.name)_seconds", .histogram, family.help)
            for time in counts.times where family.what.contains(time.what) {
                let (counts, sum) = EngineMetrics.histogram(time)
                text.add(
                    counts, count: time.counts.count, sum: sum, ["port": time.port, "queue": "\(time.queue)"])
            }
        }
    }

    /// How many there were up to each bound, and their sum in seconds; each at the middle of its bucket of ticks, which
    /// is a sixteenth of an octave.
    private static func histogram(_ time: QueueTimeSnapshot) -> ([(bound: Double, count: UInt64)], Double) {
        var (counts, sum) = ([UInt64](repeating: 0, count: bounds.count), 0.0)
        for (bucket, n) in time.counts.counts.enumerated() where n > 0 {
            let middle = (LiveHistogram.lowest(bucket) + LiveHistogram.lowest(bucket + 1)) / 2
            let seconds = Double(middle) / Double(time.ticksPerMicrosecond) / 1e6
            sum += seconds * Double(n)
            for place in bounds.indices where seconds <= bounds[place] { counts[place] &+= n }
        }
        return (zip(bounds, counts).map { ($0, $1) }, sum)
    }

    // MARK: Threads

    private func writeThreads(_ text: inout MetricsText) {
        func write(_ name: String, _ kind: MetricsText.Kind, _ help: String, _ value: (Int, ThreadSnapshot) -> Double) {
            text.family(name, kind, help)
            for (index, thread) in counts.threads.enumerated() {
                text.add(value(index, thread), ["thread": "\(index)", "cpu": thread.cpu < 0 ? "" : "\(thread.cpu)"])
            }
        }
        write("ringway_thread_busy_seconds_total", .counter, "Time of rounds in which the thread had work.") {
            Double($1.busyNanoseconds) / 1e9
        }
        write("ringway_thread_busy_ratio", .gauge, "Share of the last second in which the thread had work.") { i, _ in
            i < busyShares.count ? busyShares[i].rounded(digits: 4) : 0
        }
        write("ringway_thread_cpu_seconds_total", .counter, "CPU time of the thread.") {
            Double($1.cpuNanoseconds) / 1e9
        }
        write("ringway_thread_system_calls_total", .counter, "System calls of the thread's io_uring.") {
            Double($1.systemCalls)
        }
    }
}
