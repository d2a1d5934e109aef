import Foundation
import Testing

/// What the program gives up, seen from outside: it runs as root here.
@Suite(.serialized) struct SandboxTests {
    /// What each thread's /proc/PID/task/N/status says of `names`, all of which have to agree.
    private static func status(_ pid: pid_t, _ names: [String]) throws -> [String: String] {
        var all: [String: String] = [:]
        let tasks = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")
        #expect(tasks.count >= 4)
        for task in tasks {
            let text = try String(contentsOfFile: "/proc/\(pid)/task/\(task)/status", encoding: .utf8)
            for line in text.split(separator: "\n") {
                let parts = line.split(separator: ":", maxSplits: 1).map { $0.trimmingCharacters(in: .whitespaces) }
                guard parts.count == 2, names.contains(parts[0]) else { continue }
                #expect(all[parts[0]] ?? parts[1] == parts[1], "thread \(task): \(line)")
                all[parts[0]] = parts[1]
            }
        }
        return all
    }

    private static let names = ["Seccomp", "NoNewPrivs", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"]
    private static let none = "0000000000000000"

    private static func run(_ words: [String]) throws -> (status: Int32?, output: String) {
        let program = try Program(words[0], [Ringway.binary] + words)
        return (program.wait(), program.output)
    }

    private static func confined(capabilities: String = none) -> [String: String] {
        var all = ["Seccomp": "2", "NoNewPrivs": "1", "CapInh": none, "CapAmb": none]
        for set in ["CapEff", "CapPrm", "CapBnd"] { all[set] = capabilities }
        return all
    }

    @Test("DPDK's packets pass while every thread is confined; ports come and go; what they lack, the error says")
    func traffic() throws {
        let folder = Folder()
        let ringway = try Ringway(
            ["vhost-user:\(folder("a"))"], mode: "switch", ["--control", folder("c"), "--busyloop", "auto"])
        func port(_ words: String...) throws -> String {
            try SandboxTests.run(["port"] + words + ["--control", folder("c")]).output
        }
        let a = try Testpmd(folder("a"), forward: "txonly", options: "packed_vq=1")
        #expect(try port("add", "vhost-user:\(folder("b"))").contains("added"))
        let b = try Testpmd(folder("b"), forward: "rxonly", options: "packed_vq=0")
        while try b.stop().received == 0 { b.program.send("start") }
        #expect(try SandboxTests.status(ringway.program.pid, SandboxTests.names) == SandboxTests.confined())
        #expect(try port("remove", folder("b")).contains("removed"))
        #expect(access(folder("b"), F_OK) != 0)
        // Root could, without it.
        #expect(try port("add", "vhost-user:/etc/ringway-test.sock").contains("start it with --allow /etc"))
        #expect(try port("add", "tap:rwsandbox").contains("start it with --allow net_admin"))
        #expect(try port("add", "vhost-user:\(folder("g")),group=65534").contains("start it with --allow chown"))
        #expect(access("/etc/ringway-test.sock", F_OK) != 0 && access(folder("g"), F_OK) != 0)
        let other = folder("other")
        mkdir(other, 0o700)
        chown(other, 65534, 65534)
        #expect(try port("add", "vhost-user:\(other)/x").contains("start it with --allow dac_override"))
        #expect(try a.stop().sent > 0)
        #expect(ringway.log.contains("sandbox: no new privileges; "))
        _ = try ringway.totals()
    }

    @Test("what is asked for is left: a TAP's capability from the start, others by --allow")
    func allowed() throws {
        let folder = Folder()
        let host = try Host("sandbox")
        let ringway = try host.start(
            "ringway",
            [
                Ringway.binary, "forward", "--mode", "switch", "--port", "tap:rw0", "--control", folder("c"), "--allow",
                "chown",
            ])
        _ = try ringway.wait(for: "ready")
        // CAP_CHOWN and CAP_NET_ADMIN.
        let wanted = SandboxTests.confined(capabilities: "0000000000001001")
        #expect(try SandboxTests.status(ringway.pid, SandboxTests.names) == wanted)
        for text in ["tap:rw1,queues=2", "vhost-user:\(folder("g")),user=65534,group=65533,mode=640"] {
            let added = try SandboxTests.run(["port", "add", text, "--control", folder("c")])
            #expect(added.status == 0, "\(added.output)")
        }
        var status = stat()
        #expect(lstat(folder("g"), &status) == 0 && status.st_mode & 0o7777 == 0o640)
        #expect(status.st_uid == 65534 && status.st_gid == 65533)
        #expect(ringway.end() == 0 && access(folder("g"), F_OK) != 0)
    }

    @Test("what a dataplane never does is refused, by the same function; without it this user may do most of it")
    func attempts() throws {
        let inside = try SandboxTests.run(["sandbox"])
        #expect(inside.status == 0 && !inside.output.contains("done"), "\(inside.output)")
        let refused = inside.output.components(separatedBy: "refused: ").count - 1
        #expect(refused == 14)
        let outside = try SandboxTests.run(["sandbox", "--no-sandbox"])
        #expect(outside.status == 1)
        for what in ["start a process", "run a program", "trace its parent", "read /etc/shadow", "open a TCP socket"] {
            #expect(outside.output.contains("done   : \(what)"), "\(outside.output)")
            #expect(inside.output.contains("refused: \(what)"))
        }
    }

    @Test("--no-sandbox gives up nothing, and the log says so")
    func off() throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("a"))"], mode: "drop", ["--no-sandbox"])
        let seen = try SandboxTests.status(ringway.program.pid, ["Seccomp", "NoNewPrivs", "CapEff"])
        #expect(seen["Seccomp"] == "0" && seen["NoNewPrivs"] == "0" && seen["CapEff"] != SandboxTests.none)
        #expect(ringway.log.contains("sandbox: off"))
        _ = try ringway.totals()
    }

    @Test("no call that it makes is refused, from the start to the end, but for clone3")
    func calls() throws {
        let folder = Folder()
        let trace = folder("trace")
        try "mode: switch\ncontrol: \(folder("c")),mode=660\nports:\n  - vhost-user:\(folder("a"))\n"
            .write(toFile: folder("f.yaml"), atomically: true, encoding: .utf8)
        let strace = try Program(
            "strace",
            [
                "strace", "-f", "-qq", "-e", "status=failed", "-o", trace, Ringway.binary, "run", "--config",
                folder("f.yaml"), "--stats", "1",
            ])
        _ = try strace.wait(for: "ready")
        func run(_ words: [String]) throws {
            let (status, output) = try SandboxTests.run(words + ["--control", folder("c")])
            #expect(status == 0, "\(words): \(output)")
        }
        try run(["port", "add", "vhost-user:\(folder("b")),mode=600,queues=2"])
        let drivers = try ["a", "b"].map {
            try Program("drive", [Ringway.binary, "drive", folder($0), "--seconds", "2"])
        }
        for driver in drivers { #expect(driver.wait(seconds: 60) == 0, "\(driver.output)") }
        try run(["stats"])
        try run(["addresses", "list"])
        try run(["export-config"])
        try run(["log-level", "debug"])
        // A new file in its place.
        try "mode: switch\ncontrol: \(folder("c")),mode=660\nports:\n  - vhost-user:\(folder("d")),user=root\n"
            .write(toFile: folder("f.yaml"), atomically: true, encoding: .utf8)
        try run(["reload"])
        let children = try String(
            contentsOfFile: "/proc/\(strace.pid)/task/\(strace.pid)/children", encoding: .utf8)
        kill(try #require(pid_t(children.trimmingCharacters(in: .whitespacesAndNewlines))), SIGTERM)
        #expect(strace.wait() == 0, "\(strace.output)")
        let denied = try String(contentsOfFile: trace, encoding: .utf8).split(separator: "\n").filter { line in
            ["ENOSYS", "EPERM", "EACCES"].contains { line.contains(" = -1 \($0)") } && !line.contains("clone3")
        }
        #expect(denied == [])
    }

    @Test("a socket of another user's is theirs alone")
    func owner() throws {
        let folder = Folder()
        chmod(folder.path, 0o755)
        let ringway = try Ringway(["vhost-user:\(folder("a")),user=65534,mode=600"], mode: "drop")
        func connects(user: Int) throws -> Bool {
            let perl =
                "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); exit(!connect(S, sockaddr_un('\(folder("a"))')))"
            let program = try Program(
                "perl", ["setpriv", "--reuid=\(user)", "--regid=65533", "--clear-groups", "perl", "-e", perl])
            return program.wait() == 0
        }
        #expect(try connects(user: 65534))
        #expect(try !connects(user: 65532))
        _ = try ringway.totals()
    }
}
