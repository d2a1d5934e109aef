import Foundation
import Testing

/// The log's formats, metrics and `top` of the real program.
@Suite(.serialized) struct ObservabilityTests {
    private let folder = Folder()

    private func start(_ more: [String] = []) throws -> Program {
        let arguments = [
            Ringway.binary, "forward", "--json", "--mode", "switch", "--control", folder("c"), "--port",
            "null:source,emit=60,rate_in=10kpps", "--port", "vhost-user:\(folder("p"))",
        ]
        let program = try Program("ringway", arguments + more, errors: folder("log"))
        _ = try program.wait(for: "\"ready\"")
        return program
    }

    private var log: String { (try? String(contentsOfFile: folder("log"), encoding: .utf8)) ?? "" }

    @Test("the log as JSON: an object a line, with what the watchdog knows beside the text")
    func json() throws {
        let ringway = try start(["--log-format", "json", "--log-level", "debug"])
        let testpmd = try Testpmd(folder("p"), forward: "rxonly", options: "packed_vq=1")
        kill(testpmd.program.pid, SIGSTOP)
        let end = deadline(60)
        while !log.contains("call_suppressed") && now < end { usleep(50_000) }
        kill(testpmd.program.pid, SIGCONT)
        while !log.contains("goes on") && now < end { usleep(50_000) }
        #expect(testpmd.quit() == 0 && ringway.end() == 0)
        let lines = try JSONTests.parse(log)
        #expect(lines.count > 3)
        for line in lines {
            guard case .string(let time)? = line["time"], case .string(let level)? = line["level"],
                case .string? = line["message"], case .string? = line["label"]
            else {
                Issue.record("\(line)")
                continue
            }
            #expect(time.wholeMatch(of: /20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ/) != nil, "\(time)")
            #expect(["trace", "debug", "info", "notice", "warning", "error", "critical"].contains(level))
        }
        let still = try #require(lines.first { $0["level"] == .string("warning") })
        #expect(
            still["metadata"]
                == .object([
                    "port": .string(folder("p")), "queue": .string("0"), "condition": .string("call_suppressed"),
                ]))
    }

    @Test("the log for journald where there is no journal: each line begins with its priority, and has no time")
    func journald() throws {
        let words = [
            "unshare", "-m", "sh", "-c", "mount -t tmpfs none /run && exec \"$0\" \"$@\"", Ringway.binary, "forward",
            "--json", "--log-format", "journald", "--mode", "switch", "--port", "vhost-user:\(folder("p"))",
        ]
        let ringway = try Program("ringway", words, errors: folder("log"))
        _ = try ringway.wait(for: "\"ready\"")
        let drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "1"])
        #expect(drive.wait() == 0 && ringway.end() == 0)
        #expect(log.contains("<6>\(folder("p")): front-end connected\n"), "\(log)")
        for line in log.split(separator: "\n") { #expect(line.prefixMatch(of: /<[2-7]>/) != nil, "\(line)") }
    }

    /// Serves a journal's socket, in a mount namespace of its own, for the program that it runs.
    private static let journal = """
        import os, signal, socket, subprocess, sys, threading
        os.makedirs("/run/systemd/journal")
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind("/run/systemd/journal/socket")
        out = open(sys.argv[1], "ab", 0)
        def read():
            while True: out.write(s.recv(1 << 18) + b"--\\n")
        threading.Thread(target=read, daemon=True).start()
        child = subprocess.Popen(sys.argv[2:])
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        sys.exit(child.wait())
        """

    @Test("where there is a journal, it gets entries with fields, from inside the sandbox, too")
    func journalFields() throws {
        let ringway = try Program(
            "ringway",
            [
                "unshare", "-m", "sh", "-c", "mount -t tmpfs none /run && exec python3 -c \"$0\" \"$@\"",
                ObservabilityTests.journal, folder("journal"), Ringway.binary, "forward", "--json", "--log-format",
                "journald", "--mode", "switch", "--port", "vhost-user:\(folder("p"))",
            ], errors: folder("log"))
        _ = try ringway.wait(for: "\"ready\"")
        let drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "1"])
        #expect(drive.wait() == 0)
        func entries() -> [String] {
            let text = (try? String(contentsOfFile: folder("journal"), encoding: .utf8)) ?? ""
            return text.components(separatedBy: "--\n")
        }
        let end = deadline(20)
        while !entries().contains(where: { $0.contains("front-end gone") }) && now < end { usleep(20_000) }
        #expect(ringway.end() == 0)
        let connected = try #require(entries().first { $0.contains("front-end connected") })
        #expect(connected.contains("MESSAGE=\(folder("p")): front-end connected\n"))
        #expect(connected.contains("PRIORITY=6\n") && connected.contains("SYSLOG_IDENTIFIER=ringway\n"))
        #expect(connected.contains("RINGWAY_PORT=\(folder("p"))\n"))
        #expect(entries().contains { $0.contains("sandbox: Landlock") || $0.contains("sandbox: ") })
        #expect(!log.contains("<6>"), "\(log)")
    }

    @Test("metrics over TCP, as an HTTP client fetches them; a file's settings; a place that is taken")
    func metrics() throws {
        let port = 20_000 + Int(getpid() % 20_000)
        let file = """
            mode: switch
            log_format: json
            metrics: 127.0.0.1:\(port)
            control: \(folder("c"))
            ports: ["null:a,emit=60,rate_in=10kpps", "null:b"]
            """
        try file.write(toFile: folder("f.yaml"), atomically: true, encoding: .utf8)
        let ringway = try Program("ringway", [Ringway.binary, "run", "--config", folder("f.yaml")])
        _ = try ringway.wait(for: "ready")
        let fetch = """
            import urllib.request as r
            print(r.urlopen("http://127.0.0.1:\(port)/metrics").read().decode())
            """
        let client = try Program("python3", ["python3", "-c", fetch])
        #expect(client.wait() == 0 && client.output.contains("ringway_port_connected{port=\"null:a\"} 1"))
        let exported = try Program("export", [Ringway.binary, "export-config", "--control", folder("c")])
        #expect(exported.wait() == 0)
        #expect(exported.output.contains("metrics: \"127.0.0.1:\(port)\"\n"))
        #expect(exported.output.contains("log_format: json\n"))
        let other = try Program(
            "other",
            [Ringway.binary, "forward", "--mode", "drop", "--port", "null:x", "--metrics", "127.0.0.1:\(port)"])
        #expect(other.wait() == 1 && other.output.contains("--metrics 127.0.0.1:\(port): Address already in use"))
        for wrong in [["--metrics", "x"], ["--log-format", "xml"]] {
            let program = try Program("wrong", [Ringway.binary, "forward", "--port", "null:x"] + wrong)
            #expect(program.wait() == 64 && program.output.contains("\(wrong[0]) \(wrong[1]): write "))
        }
        #expect(ringway.end() == 0)
    }

    @Test("top --once: a frame with ports, queues and threads")
    func once() throws {
        let ringway = try start()
        let testpmd = try Testpmd(folder("p"), forward: "rxonly", options: "packed_vq=1")
        func frame() throws -> String {
            let top = try Program(
                "top", [Ringway.binary, "top", "--once", "--interval", "0.5", "--control", folder("c")])
            guard top.wait() == 0 else { throw Unexpected("top: \(top.output)") }
            return top.output
        }
        let text = try frame()
        let lines = text.split(separator: "\n").map(String.init)
        #expect(lines[0].hasPrefix("ringway \(folder("c"))  2 ports  4 queues"), "\(text)")
        #expect(lines[1].hasPrefix("thread ") && lines.contains { $0.hasPrefix("port ") }, "\(text)")
        let source = try #require(lines.first { $0.hasPrefix("null:source ") })
        // What is above the rate is dropped at the source, by cause.
        #expect(source.contains("drops") || source.contains("rate"), "\(text)")
        let queue = try #require(lines.first { $0.hasPrefix("  queue 0 receive ") })
        let rate = try #require(Double(queue.split(separator: " ")[3]))
        #expect(rate > 0.001 && rate < 0.1, "\(text)")
        kill(testpmd.program.pid, SIGSTOP)
        let end = deadline(30)
        while try !frame().contains("1 STAND STILL") && now < end {}
        #expect(try frame().contains("its driver wants no calls, and does not look by itself, for "))
        kill(testpmd.program.pid, SIGCONT)
        #expect(testpmd.quit() == 0 && ringway.end() == 0)
        let gone = try Program("top", [Ringway.binary, "top", "--once", "--control", folder("c")])
        #expect(gone.wait() == 1 && gone.output.split(separator: "\n").count == 1)
        let none = try Program("top", [Ringway.binary, "top", "--control", folder("c")])
        #expect(none.wait() == 1)
    }

    private func top() throws -> Pty {
        let top = try Pty([Ringway.binary, "top", "--interval", "0.1", "--control", folder("c")])
        try top.wait { $0.contains("null:source") }
        return top
    }

    @Test("top in a terminal: its keys, another size, and the terminal as before, whatever ends it")
    func terminal() throws {
        let ringway = try start((0..<10).flatMap { ["--port", "vhost-user:\(folder("m\($0)"))"] })
        let left = "\u{1b}[?25h\u{1b}[?1049l"
        let first = try top()
        #expect(!first.isCooked)
        for (key, text) in [("h", "quit"), ("h", "port  "), ("s", "by received"), ("p", "PAUSED")] {
            let mark = first.count
            first.type(key)
            try first.wait(after: mark) { $0.contains(text) }
        }
        // A paused one draws for a new size, too, and no line of it is longer.
        let mark = first.count
        first.resize(40, 6)
        let frame = try first.wait(after: mark) { $0.contains(/ports 1-[12] of 12/) && $0.hasSuffix("\u{1b}[J") }
        let lines = frame.components(separatedBy: "\u{1b}[H").last!.components(separatedBy: "\r\n")
        #expect(
            lines.count == 6 && lines.allSatisfy { $0.replacing(/\u{1b}\[[0-9;]*[KJm]|\r/, with: "").count <= 40 },
            "\(lines)")
        // Each of the last ten has one line, as nobody is at its other end.
        for (key, text) in [
            ("[F", "ports 11-12 of 12"), ("[A", "ports 10-11 of 12"), ("[5~", "ports 8-9 of 12"),
            ("[6~", "ports 10-11 of 12"), ("OB", "ports 11-12 of 12"), ("[B", "ports 11-12 of 12"),
            ("[H", "ports 1-"), ("[A", "ports 1-"),
        ] {
            let mark = first.count
            first.type("\u{1b}" + key)
            let frame = try first.wait(after: mark) { $0.contains(text) && $0.hasSuffix("\u{1b}[J") }
            if text.contains("11-12") { #expect(frame.contains("/m8 ") && frame.contains("/m9 ")) }
        }
        first.type("q")
        #expect(first.end() == 0)
        try first.wait { $0.hasSuffix(left) }
        #expect(first.isCooked)
        for number in [SIGTERM, SIGINT, SIGHUP] {
            let other = try top()
            kill(other.pid, number)
            #expect(other.end() == 0, "signal \(number)")
            try other.wait { $0.hasSuffix(left) }
            #expect(other.isCooked)
        }
        // The ringway that it looks at ends: one line on the screen of before.
        let last = try top()
        #expect(ringway.end() == 0)
        #expect(last.end() == 1)
        try last.wait {
            $0.contains(left) && $0.components(separatedBy: left).last!.contains("does ringway still run?")
        }
        #expect(last.isCooked)
    }
}
