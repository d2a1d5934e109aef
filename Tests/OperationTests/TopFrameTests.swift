import Console
import Foundation
import Operation
import Testing

/// What `top` makes of two records: made here as the control socket has them.
@Suite struct TopFrameTests {
    /// Ports named `p1`, `p2`... with one queue, of which these times are known, by the nanoseconds at which a bucket
    /// begins.
    private func record(
        ports: Int = 1, serial: Int = 0, seconds: Double, _ counts: [String: UInt64]?
    ) throws -> PeriodRecord {
        func direction(_ packets: Int) -> String { #"{"packets":\#(packets),"bytes":0,"mpps":0,"gbps":0}"# }
        let all = (0..<ports).map { place in
            #"{"port":"p\#(place + 1)","place":\#(place),"serial":\#(serial + place),"up":true,"connected":true,"#
                + #""rx":\#(direction(0)),"tx":\#(direction(0)),"flooded":0,"consumed":0,"made":0,"drops":{},"#
                + #""stopped_queues":{},"#
                + #""queues":[{"queue":1,"packets":\#(Int(seconds)),"bytes":0,"kicks":0,"calls":0}]}"#
        }
        var text = #"{"seconds":\#(seconds),"ports":[\#(all.joined(separator: ","))]"#
        if let counts {
            let object = counts.map { #""\#($0)":\#($1)"# }.joined(separator: ",")
            text += #","queue_times":[{"port":"p1","queue":1,"what":"ring sojourn","nanoseconds":{"max":900000},"#
            text += #""counts":{\#(object)}}]"#
        }
        return try JSON.read(PeriodRecord.self, Data((text + "}").utf8))
    }

    private func queues(_ ports: Int = 1) throws -> [QueueReport] {
        try (1...ports).map { port in
            let text =
                #"{"port":"p\#(port)","queue":1,"direction":"transmit","condition":"flows","stands_still":false,"#
                + #""seconds":1,"available":0,"dropped":0,"thread":0,"text":"","advice":""}"#
            return try JSON.read(QueueReport.self, Data(text.utf8))
        }
    }

    /// p50 and p99 in microseconds; none: nothing is shown.
    private func sojourn(_ before: PeriodRecord, _ now: PeriodRecord) throws -> [Int] {
        let lines = TopFrame(before, now, try queues()).lines(title: "x")
        let line = try #require(lines.first { $0.hasPrefix("  queue 1 transmit") })
        guard line.contains("/") else { return [] }
        return line.split(separator: " ").last?.split(separator: "/").map { Int(Double($0) ?? -1) } ?? []
    }

    @Test("the sojourn is that of the interval: what was before it does not count")
    func sojourn() throws {
        let before = try record(seconds: 100, ["1024": 1_000_000, "2048": 100])
        // A bucket that begins at 512 µs has its middle at 528.
        let now = try record(seconds: 101, ["1024": 1_000_000, "2048": 200, "512000": 200])
        #expect(try sojourn(before, now) == [528, 528])
        let mixed = try record(seconds: 101, ["1024": 1_000_098, "2048": 100, "512000": 2])
        #expect(try sojourn(before, mixed) == [1, 528])
        // Nothing was timed in it.
        #expect(try sojourn(before, try record(seconds: 101, ["1024": 1_000_000, "2048": 100])) == [])
        // Another port that has the name now has no past.
        #expect(try sojourn(before, try record(serial: 7, seconds: 101, ["1024": 10])) == [1, 1])
        #expect(try sojourn(before, try record(seconds: 101, nil)) == [])
    }

    @Test("ports that have no room are scrolled to, and the last line says which are there")
    func scrolls() throws {
        let (before, now) = (try record(ports: 64, seconds: 1, nil), try record(ports: 64, seconds: 2, nil))
        let frame = TopFrame(before, now, try queues(64))
        func view(_ height: Int, from first: Int = 0) -> TopFrame.View {
            frame.view(width: 100, height: height, title: "x", from: first)
        }
        // A title, the threads' header, an empty line, the ports' header, two lines for each port, and the last.
        var shown = view(45)
        #expect(shown.lines.count == 45 && shown.lines.last == "ports 1-20 of 64" && shown.room == 40)
        #expect(shown.lines[4].hasPrefix("p1 ") && shown.first == 0)
        #expect(shown.styles.prefix(6) == [.title, .header, .plain, .header, .port, .plain])
        shown = view(45, from: 1)
        #expect(shown.lines[4].hasPrefix("  queue 1 ") && shown.lines.last == "ports 1-21 of 64")
        shown = view(45, from: 40)
        #expect(shown.lines[4].hasPrefix("p21 ") && shown.lines.last == "ports 21-40 of 64")
        // Not beyond the ends.
        shown = view(45, from: .max)
        #expect(shown.first == 88 && shown.lines[4].hasPrefix("p45 ") && shown.lines.last == "ports 45-64 of 64")
        shown = view(45, from: -5)
        #expect(shown.first == 0 && shown.lines.last == "ports 1-20 of 64")
        // All have room: there is no such line.
        shown = view(132, from: 3)
        #expect(shown.lines.count == 132 && shown.first == 0 && shown.lines.last?.hasPrefix("  queue 1 ") == true)
        #expect(frame.lines(title: "x").map { String($0.prefix(100)) } == shown.lines)
        #expect(view(131).lines.last == "ports 1-63 of 64")
        // Terminals of hardly any lines.
        for height in 0...6 { #expect(view(height, from: 10).lines.count == height) }
        #expect(view(6).lines.last == "ports 1-1 of 64" && view(4).lines.last == "ports 0 of 64")
    }
}
