import ArgumentParser
import CPlatform
import Console
import Foundation
import Operation
import Ringway

struct CaptureCommand: ParsableCommand, GoesOn {
    static let configuration = CommandConfiguration(
        commandName: "capture", abstract: "Show or write the packets of a port of a ringway that runs.",
        discussion: """
            A line for each packet, or a pcapng file with -w, until a signal. A filter is an expression as tcpdump \
            takes it (pcap-filter(7)); it sees as much of each packet as is captured. Traffic goes on whatever becomes \
            of this program; what it does not keep up with is counted, and told at the end. The socket for reading \
            (--control-read) will not do. There is one capture at a time.

              ringway capture /run/vm1.sock
              ringway capture /run/vm1.sock/1 -c 10 udp port 53
              ringway capture /run/vm1.sock -w - | wireshark -k -i -
            """)

    @Argument(help: ArgumentHelp("A port, as `ringway port list` prints it, or PORT/QUEUE.", valueName: "port"))
    var place: String
    @Argument(help: ArgumentHelp("Packets that are wanted, as in `arp or udp port 53`; else all.", valueName: "filter"))
    var filter: [String] = []
    @Option(
        name: [.customShort("w"), .customLong("write")],
        help: ArgumentHelp("Writes pcapng there; - is standard output.", valueName: "file"))
    var output: String?
    @Option(name: .shortAndLong, help: ArgumentHelp("Ends after so many packets.", valueName: "packets"))
    var count: UInt64?
    @Option(name: .shortAndLong, help: ArgumentHelp("Of each packet at most, 14 to 65600; 0: all.", valueName: "bytes"))
    var snap = 256
    @Option(help: ArgumentHelp("Ends after so long.", valueName: "seconds")) var duration: Double?
    @OptionGroup var options: ControlOptions

    /// What is told at the end.
    private struct Summary: Encodable {
        var type = "summary"
        var port: String
        var seconds: Double
        /// Those that the filter let through, of those that were seen.
        var captured: UInt64 = 0
        var seen: UInt64 = 0
        var lost: UInt64 = 0
        var ended = ""

        var text: String {
            "\(port): captured \(captured) of \(seen) packets in \(Text.number(seconds, 1)) s, lost \(lost); "
                + "ended by \(ended)"
        }
    }

    func run() {
        if snap != 0 { check("--snap", snap, Engine.snapLengths, "bytes") }
        if let count { check("--count", count, 1...UInt64.max) }
        if let duration { check("--duration", duration, 0.001...1e9, "seconds") }
        checkFolder(of: output == "-" ? nil : output, "-w")
        let words = filter
        let filter = usage { try words.isEmpty ? nil : PacketFilter(words.joined(separator: " ")) }
        let (port, queue) = options.split(place)
        let length = snap == 0 ? Engine.snapLengths.upperBound : snap
        Signals.handOver()
        do {
            let reading = try CaptureReading(options.control, .init(port: port, queue: queue, snap: length))
            let writer = try output.map {
                try PcapngWriter($0, program: Version.text, interface: port, snap: length)
            }
            capture(reading, port, filter, writer)
        } catch {
            fail("\(error)")
        }
    }

    private func capture(
        _ reading: CaptureReading, _ port: String, _ filter: PacketFilter?, _ writer: PcapngWriter?
    ) {
        let start = CPlatClock.seconds
        var summary = Summary(port: port, seconds: 0)
        var problem: String?
        do throws(PcapngWriter.Problem) {
            while true {
                // Asked before the packets that there are then.
                problem = reading.end
                var ended = problem ?? ownEnd(start)
                let n = reading.take { packet in
                    summary.seen += 1
                    // Many may have come, and lines take their time.
                    if summary.seen & 255 == 0 && Signals.haveCome { return false }
                    if filter?.matches(packet) == false { return true }
                    summary.captured += 1
                    if let writer { writer.add(packet) } else { show(PacketLine(packet, port: port)) }
                    return summary.captured != count
                }
                if summary.captured == count { (ended, problem) = ("--count", nil) }
                try writer?.flush()
                if writer == nil && !isOutputOpen { (ended, problem) = ("whoever read it", nil) }
                summary.ended = ended ?? ""
                if ended != nil { break }
                reading.wait(milliseconds: n > 0 ? 1 : 5)
            }
            summary.lost = reading.lost
            try writer?.finish(received: summary.seen, lost: summary.lost)
        } catch {
            (summary.ended, problem) = ("whoever read it", nil)
            if !error.isClosed { (summary.ended, problem) = ("an error", "\(error); the capture has ended") }
        }
        summary.lost = reading.lost
        summary.seconds = (CPlatClock.seconds - start).rounded(digits: 3)
        tell(summary)
        if let problem { fail("\(port): \(problem)") }
    }

    private func ownEnd(_ start: Double) -> String? {
        if Signals.haveCome { return "a signal" }
        if let duration, CPlatClock.seconds - start >= duration { return "--duration" }
        return nil
    }

    private func show(_ line: PacketLine) { print(options.json ? JSON.text(line) : line.text) }

    /// Not among what was captured.
    private func tell(_ summary: Summary) {
        if options.json && output != "-" { return printJSON(summary) }
        note(options.json ? JSON.text(summary) : summary.text)
    }
}
