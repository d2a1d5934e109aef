import Foundation
import Logging
import Operation
import TestSupport
import Testing

/// systemd's journal, by a socket that takes what it takes.
@Suite struct JournalTests {
    private static var place: String { "/tmp/ringway-journal-\(getpid())-\(UInt32.random(in: 0 ... .max))" }

    /// The fields of an entry, as journald reads them.
    private static func parse(_ bytes: [UInt8]) throws -> [String: String] {
        var (all, at): ([String: String], Int) = ([:], 0)
        while at < bytes.count {
            let end = try #require(bytes[at...].firstIndex { $0 == 10 || $0 == UInt8(ascii: "=") })
            let name = String(decoding: bytes[at..<end], as: UTF8.self)
            #expect(name.wholeMatch(of: /[A-Z][A-Z0-9_]{0,63}/) != nil, "\(name)")
            var (first, last) = (end + 1, 0)
            if bytes[end] == 10 {
                let count = (0..<8).reduce(0) { $0 | Int(bytes[end + 1 + $1]) << (8 * $1) }
                (first, last) = (end + 9, end + 9 + count)
            } else {
                last = try #require(bytes[first...].firstIndex(of: 10))
            }
            try #require(bytes.indices.contains(last) && bytes[last] == 10)
            all[name] = String(decoding: bytes[first..<last], as: UTF8.self)
            at = last + 1
        }
        return all
    }

    @Test("an event is an entry with fields: its text, priority, and what it was logged with")
    func fields() throws {
        let socket = try #require(ManagerSocket(JournalTests.place))
        let journal = try #require(Journal(socket.place))
        var handler = LineLogHandler("ringway", .journald, journal)
        func log(_ level: Logger.Level, _ text: String, _ metadata: Logger.Metadata) throws -> [String: String] {
            handler.log(
                event: LogEvent(
                    level: level, message: "\(text)", metadata: metadata, source: nil, file: "", function: "", line: 0))
            return try JournalTests.parse(try #require(socket.nextBytes()))
        }
        handler[metadataKey: "port"] = "/run/vm1.sock"
        #expect(
            try log(.warning, "queue 3 stands still", ["queue": "3", "why not": "a\nb=c\n"]) == [
                "MESSAGE": "queue 3 stands still", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "ringway",
                "RINGWAY_PORT": "/run/vm1.sock", "RINGWAY_QUEUE": "3", "RINGWAY_WHY_NOT": "a\nb=c\n",
            ])
        // A name that cannot be a field of its own becomes none of somebody else's.
        handler[metadataKey: "port"] = nil
        let entry = try log(.error, "two\nlines", ["_PID=1\nMESSAGE": "x", String(repeating: "k", count: 100): "y"])
        #expect(entry["MESSAGE"] == "two\nlines" && entry["PRIORITY"] == "3" && entry.count == 5)
        #expect(entry["RINGWAY__PID_1_MESSAGE"] == "x")
        for (level, priority) in [(Logger.Level.trace, "7"), (.debug, "7"), (.info, "6"), (.notice, "5")] {
            #expect(try log(level, "x", [:])["PRIORITY"] == priority)
        }
    }

    @Test("what is too long is cut, also in the midst of a letter; what is empty is empty")
    func long() throws {
        let socket = try #require(ManagerSocket(JournalTests.place))
        let journal = try #require(Journal(socket.place))
        for text in ["", String(repeating: "x", count: 1 << 20), "x" + String(repeating: "ä", count: 1 << 16)] {
            #expect(journal.send([("MESSAGE", text), ("RINGWAY_PORT", text)]))
            let entry = try JournalTests.parse(try #require(socket.nextBytes()))
            for value in [entry["MESSAGE"], entry["RINGWAY_PORT"]] {
                let value = try #require(value)
                #expect(value.utf8.count <= Journal.longestValue + 16)
                #expect(text.count < Journal.longestValue ? value == text : value.hasSuffix(" [cut]"))
            }
        }
    }

    @Test("without a journal, or when it has gone, nothing is sent")
    func gone() throws {
        #expect(Journal("/nowhere/journal") == nil && Journal("relative") == nil && Journal("") == nil)
        var socket = ManagerSocket(JournalTests.place)
        let place = try #require(socket?.place)
        let journal = try #require(Journal(place))
        socket = nil
        #expect(!journal.send([("MESSAGE", "x")]))
    }
}
