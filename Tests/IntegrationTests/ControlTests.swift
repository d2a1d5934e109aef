import Foundation
import Testing

/// The program under its control socket, by its own commands.
@Suite(.serialized) struct ControlTests {
    /// A command that speaks to `socket`: status, and what it printed.
    private static func run(_ words: [String], _ socket: String) throws -> (status: Int32?, output: String) {
        let program = try Program(words[0], [Ringway.binary] + words + ["--control", socket])
        return (program.wait(), program.output)
    }

    private static func json(_ words: [String], _ socket: String) throws -> [JSON] {
        let (status, output) = try run(words + ["--json"], socket)
        guard status == 0 else { throw Unexpected("\(words): \(output)") }
        return try JSONTests.parse(output)
    }

    private static func start(_ folder: Folder, _ more: [String] = []) throws -> Program {
        let arguments = ["--mode", "switch", "--control", folder("c"), "--control-read", folder("r,mode=666")]
        let program = try Program("ringway", [Ringway.binary, "forward", "--json"] + arguments + more)
        _ = try program.wait(for: "\"ready\"")
        return program
    }

    @Test("what each method answers is as docs/control.md has it")
    func schema() throws {
        let folder = Folder()
        let ringway = try ControlTests.start(folder, ["--port", "null:source,emit=60"])
        let port = "vhost-user:\(folder("p")),queues=2,mtu=1500,mac=02:00:00:00:00:77"
        try Schema.check(try ControlTests.json(["port", "add", port], folder("c")), "port.add")
        let drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "1"])
        _ = try drive.wait(for: "  1 ")
        try Schema.check(try ControlTests.json(["port", "list"], folder("r")), "port.list")
        try Schema.check(try ControlTests.json(["port", "set", folder("p"), "--up"], folder("c")), "port.set")
        try Schema.check(
            try ControlTests.json(
                ["port", "set", folder("p"), "--threads", "0", "--options", "rate_in=1gbit,storm=1kpps"], folder("c")),
            "port.set")
        try Schema.check(try ControlTests.json(["mode", "--mac-ageing", "60"], folder("c")), "mode.set")
        try Schema.check(try ControlTests.json(["stats"], folder("r")), "stats")
        try Schema.check(try ControlTests.json(["why", folder("p")], folder("r")), "queue.why")
        try Schema.check(try ControlTests.json(["trace", folder("p")], folder("r")), "queue.trace")
        let python = """
            import socket
            s = socket.socket(socket.AF_UNIX); s.connect("\(folder("c"))")
            s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"capture","params":{"port":"null:source"}}\\n')
            print(s.makefile().readline())
            """
        let capture = try Program("python3", ["python3", "-c", python])
        #expect(capture.wait() == 0)
        try Schema.check(try JSONTests.parse(capture.output).compactMap { $0["result"] }, "capture")
        let watch = try Program(
            "watch", [Ringway.binary, "stats", "--watch", "--interval", "0.05", "--json", "--control", folder("r")])
        _ = try watch.wait(for: "}\n")
        #expect(watch.end(SIGINT) == 0)
        try Schema.check(try JSONTests.parse(watch.output), "stats")
        try Schema.check(try ControlTests.json(["addresses", "list"], folder("r")), "switch.list")
        try Schema.check(
            try ControlTests.json(["addresses", "clear", "--port", "null:source"], folder("c")), "switch.clear")
        try Schema.check(try ControlTests.json(["log-level", "warning"], folder("c")), "log.level")
        try Schema.check(try ControlTests.json(["port", "remove", folder("p")], folder("c")), "port.remove")
        #expect(try ControlTests.json(["log-level"], folder("c")) == [.object(["level": .string("warning")])])
        #expect(drive.wait() != nil && ringway.end() == 0)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty, "a socket was left behind")
    }

    @Test("errors of the commands say what to do next")
    func errors() throws {
        let folder = Folder()
        let ringway = try ControlTests.start(folder)
        func error(_ words: [String], _ socket: String) throws -> String {
            let (status, output) = try ControlTests.run(words, socket)
            #expect(status == 1 && output.split(separator: "\n").count == 1, "\(output)")
            return output
        }
        #expect(try error(["port", "list"], folder("x")).contains("start `ringway forward --control \(folder("x"))`"))
        #expect(try error(["port", "add", "x"], folder("c")).contains("write vhost-user:PATH"))
        #expect(try error(["port", "remove", "x"], folder("c")).contains("there is no such port; there is none"))
        #expect(try error(["port", "add", "null:x"], folder("r")).contains("use the one of --control"))
        #expect(ringway.isRunning && ringway.end() == 0)
    }

    @Test("a hundred ports come and go under traffic: no descriptor, mapping or thread stays")
    func hundred() throws {
        let folder = Folder()
        let ringway = try ControlTests.start(folder, ["--port", "null:source,emit=60", "--port", "null:sink"])
        func count(_ what: String) -> Int {
            (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(ringway.pid)/\(what)").count) ?? -1
        }
        func round(_ n: Int) throws {
            #expect(try ControlTests.run(["port", "add", "vhost-user:\(folder("p"))"], folder("c")).status == 0)
            // A driver every now and then; the port goes from under it.
            let drive =
                n % 10 == 0 ? try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "30"]) : nil
            _ = try drive?.wait(for: "connected; ")
            #expect(try ControlTests.run(["port", "remove", folder("p")], folder("c")).status == 0)
        }
        try round(0)
        func counts() -> [Int] { [count("fd"), count("task")] }
        let before = counts()
        for n in 1...100 { try round(n) }
        #expect(counts() == before)
        #expect(ringway.end() == 0)
    }

    @Test("shutdown ends the program as a signal does")
    func shutdown() throws {
        let folder = Folder()
        let ringway = try ControlTests.start(folder)
        let python = """
            import socket
            s = socket.socket(socket.AF_UNIX); s.connect("\(folder("c"))")
            s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"shutdown"}\\n'); print(s.makefile().readline())
            """
        let client = try Program("python3", ["python3", "-c", python])
        #expect(client.wait() == 0 && client.output.contains("\"result\":{}"), "\(client.output)")
        #expect(ringway.wait() == 0 && ringway.output.contains("\"totals\""))
    }
}

/// `ringway run` and its file.
@Suite(.serialized) struct ConfigurationTests {
    private static func write(_ folder: Folder, _ ports: [String]) throws {
        let text = "mode: crossconnect\ncontrol: \(folder("c"))\nports:\n" + ports.map { "  - \($0)\n" }.joined()
        try text.write(toFile: folder("f.yaml"), atomically: true, encoding: .utf8)
    }

    private static func run(_ words: [String]) throws -> (status: Int32?, output: String) {
        let program = try Program(words[0], [Ringway.binary] + words)
        return (program.wait(), program.output)
    }

    @Test("DPDK's drivers stay connected while the file is read again; SIGHUP, reload and export-config")
    func reload() throws {
        let folder = Folder()
        try ConfigurationTests.write(folder, ["vhost-user:\(folder("a"))", "null:sink"])
        #expect(try ConfigurationTests.run(["check", folder("f.yaml")]).status == 0)
        let ringway = try Program("ringway", [Ringway.binary, "run", "--config", folder("f.yaml")])
        _ = try ringway.wait(for: "ready")
        let a = try Testpmd(folder("a"), forward: "txonly", options: "packed_vq=1")
        // Two ports are what crossconnect takes: the sink goes, and what comes in its place gets the packets.
        try ConfigurationTests.write(folder, ["vhost-user:\(folder("a"))", "vhost-user:\(folder("b"))"])
        kill(ringway.pid, SIGHUP)
        _ = try ringway.wait(for: "read again; ports added: [\"\(folder("b"))\"], removed: [\"null:sink\"]")
        let b = try Testpmd(folder("b"), forward: "rxonly", options: "packed_vq=1")
        while try b.stop().received == 0 { b.program.send("start") }
        // Wrong ones change nothing.
        try ConfigurationTests.write(folder, ["vhost-user:\(folder("a"))", "vhost-user:\(folder("b")),queues=x"])
        let (status, output) = try ConfigurationTests.run(["reload", "--control", folder("c")])
        #expect(status == 1 && output.contains("f.yaml:5: vhost-user:\(folder("b")),queues=x: queues=x"), "\(output)")
        #expect(try ConfigurationTests.run(["check", folder("f.yaml")]).status == 64)
        for (command, heading) in [("reload", "reload"), ("export-config", "config.export")] {
            if command == "reload" {
                try ConfigurationTests.write(folder, ["vhost-user:\(folder("a"))", "vhost-user:\(folder("b"))"])
            }
            let (_, output) = try ConfigurationTests.run([command, "--json", "--control", folder("c")])
            try Schema.check(try JSONTests.parse(output), heading)
        }
        let exported = try ConfigurationTests.run(["export-config", "--control", folder("c")])
        try exported.output.write(toFile: folder("g.yaml"), atomically: true, encoding: .utf8)
        let checked = try ConfigurationTests.run(["check", folder("g.yaml")])
        #expect(checked.status == 0 && checked.output.hasSuffix("mode crossconnect, 2 ports\n"), "\(checked.output)")
        #expect(try a.stop().sent > 0)
        let lists = try ConfigurationTests.run(["port", "list", "--control", folder("c")]).output
        #expect(lists.components(separatedBy: " connected ").count == 3, "\(lists)")
        #expect(ringway.end() == 0 && access(folder("c"), F_OK) != 0)
    }
}

/// QEMU guests whose ports come and go by the control socket.
@Suite(.serialized) struct GuestPorts {
    private static func port(_ words: [String], _ folder: Folder) throws {
        let program = try Program("port", [Ringway.binary, "port"] + words + ["--control", folder("c")])
        guard program.wait() == 0 else { throw Unexpected("port \(words): \(program.output)") }
    }

    @Test("guests' TCP goes on while other ports come and go; a guest whose port is made anew connects again")
    func guests() throws {
        let folder = Folder()
        let ringway = try Ringway([], mode: "switch", ["--control", folder("c")])
        for name in ["a", "b"] { try GuestPorts.port(["add", "vhost-user:\(folder(name)),queues=2"], folder) }
        func guest(_ name: String, isPacked: Bool) throws -> Guest {
            try Guest(
                "guest-\(name)",
                [
                    .init(
                        socket: folder(name), mac: "52:54:00:00:00:0\(name)", queues: 2, isPacked: isPacked,
                        reconnects: true)
                ])
        }
        let (a, b) = (try guest("a", isPacked: false), try guest("b", isPacked: true))
        try boot(a, b)
        try a.configure("10.0.0.1")
        try b.configure("10.0.0.2")
        try b.serve()
        let line = "iperf3 -c 10.0.0.2 -t 8 -f m"
        let mark = a.begin(line)
        for round in 0..<20 {
            try GuestPorts.port(["add", "vhost-user:\(folder("more")),queues=2"], folder)
            if round % 5 == 0 {
                let drive = try Program("drive", [Ringway.binary, "drive", folder("more"), "--seconds", "30"])
                _ = try drive.wait(for: "connected; ")
                try GuestPorts.port(["remove", folder("more")], folder)
            } else {
                try GuestPorts.port(["remove", folder("more")], folder)
            }
        }
        #expect(try a.finish(mark, line, seconds: 60).contains("receiver"))
        #expect(try a.loss(to: "10.0.0.2") == 0)
        for name in ["b", "a"] {
            let seen = ringway.log.count
            try GuestPorts.port(["remove", folder(name)], folder)
            #expect(access(folder(name), F_OK) != 0)
            try GuestPorts.port(["add", "vhost-user:\(folder(name)),queues=2"], folder)
            _ = try ringway.program.wait(for: "\(folder(name)): front-end connected", after: seen)
            // The first ones may come before its rings run again.
            _ = try a.loss(to: "10.0.0.2", count: 3)
            #expect(try a.loss(to: "10.0.0.2") == 0)
        }
        #expect(ringway.complaints == [])
        _ = try ringway.totals()
    }
}
