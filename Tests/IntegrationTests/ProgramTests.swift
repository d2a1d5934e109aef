import Foundation
import TestSupport
import Testing

/// Things a new user tries first.
@Suite(.serialized) struct ProgramTests {
    private func run(_ arguments: String...) throws -> (status: Int32?, output: String) { try run(arguments) }

    private func run(_ arguments: [String]) throws -> (status: Int32?, output: String) {
        let program = try Program("cli", [Ringway.binary] + arguments)
        return (program.wait(seconds: 60), program.output)
    }

    @Test("the demo shows packets and a summary of three sizes")
    func demo() throws {
        let (status, output) = try run("demo", "--seconds", "1")
        #expect(status == 0, "\(output)")
        for size in ["64", "512", "1518"] {
            let line = output.split(separator: "\n").map { $0.split(separator: " ") }.last {
                $0.first == Substring(size)
            }
            let rate = line.flatMap { Double($0[1]) } ?? 0
            #expect(rate > 0.05, "\(size) bytes: \(output)")
        }
    }

    @Test(
        "usage errors are one line that says what to do",
        arguments: [
            (["forward"], "--port"), (["forward", "--port", "x"], "vhost-user:PATH"),
            (["forward", "--port", "vhost-user:/tmp/x", "--mode", "bridge"], "crossconnect, switch"),
            (["forward", "--port", "vhost-user:/nowhere/x", "--mode", "drop"], "create its directory"),
            (["forward", "--port", "vhost-user:/tmp/x", "--mode", "drop", "--cpus", "99"], "CPU 99"),
            (["drive", "/nowhere/x"], "/nowhere/x"),
            (["replay", "/nowhere/x", "--function", "macswap"], "/nowhere/x"),
            (["replay", "x.pcap", "--function", "nat"], "vlan-push=ID"),
            (["replay", "x.pcap", "--function", "drop", "--port", "2"], "--port 2: give 0 to 1"),
            (["replay", "/dev/null", "--function", "drop", "-w", "/dev/null"], "the file that is read"),
            (["bench", "latency", "--rates", "10k,fast"], "'fast' is no load"),
            (["bench", "latency", "--mode", "generate"], "it has no sender"),
            (["bench", "throughput", "--size", "imixed"], "imix (64, 570 and 1518"),
            (["bench", "throughput", "--mode", "drop", "--both-ways"], "--both-ways"),
            (["bench", "throughput", "--ring-size", "1000"], "power of two"),
            (["bench", "peer-latency", "--formats", "spilt"], "--formats spilt: write split"),
            (["bench", "peer-latency", "--sweep", "--rates", "1k,2k"], "the lowest"),
            (["bench", "peer-latency", "--step", "2"], "belongs to --sweep"),
            (["bench", "peer-latency", "--mode", "drop"], "write macswap or crossconnect"),
            (["drive"], "see 'ringway drive --help'"), (["forward", "--sise", "64"], "see 'ringway forward --help'"),
            (["probe"], "give one path"),
            (["forward", "--port", "vhost-user:/tmp/x", "--mode", "drop", "--cpus", "0,0"], "twice"),
            (["forward", "--port", "vhost-user:/tmp/x"], "two ports"),
            (["bench", "threads", "--threads=-1"], "--threads -1"),
            (["bench", "scale", "--budgets", "fast"], "write poll, auto, 0"),
            (["bench", "peer-latency", "--rates", "50%"], "packets a second"),
            (["bench", "throughput", "--confirmation", "0"], "0.05 to 3600"),
            (["tune", "--accept", "nan"], "--accept nan"), (["tune", "--samples", "0"], "--samples 0: give 1 to 1000"),
            (["tune", "--budgets", "fast"], "write poll, auto, 0"),
            (["tune", "--rates", "50%"], "packets a second, or full"),
            // What would be ignored is refused.
            (["forward", "--port", "vhost-user:/tmp/x", "--mode", "macswap", "--size", "64"], "--mode generate"),
            (["forward", "--port", "vhost-user:/tmp/x", "--mode", "drop", "--mac-ageing", "9"], "--mode switch"),
            (
                ["forward", "--port", "vhost-user:/tmp/x", "--mode", "drop", "--cpus", "0", "--unpinned", "1"],
                "give it, or --cpus"
            ),
            (["forward", "--port", "virtio-user:/tmp/x,mac=02:00:00:00:00:02", "--mode", "drop"], "vDPA devices only"),
            (["forward", "--port", "virtio-user:/dev/vhost-net,mtu=1400", "--mode", "drop"], "ip link set"),
            (["forward", "--port", "vhost-user:/dev/null,client=on", "--mode", "drop"], "not a socket"),
            (["forward", "--port", "virtio-user:/dev/null", "--mode", "drop"], "not a socket"),
            (["forward", "--upgrade-from", "/tmp/x", "--metrics", "127.0.0.1:9"], "those of the ringway that runs"),
            (["forward", "--upgrade-from", "/tmp/x", "--log-format", "json"], "those of the ringway that runs"),
            (["bench", "throughput", "--engine-cpu", "0", "--driver-cpu", "0"], "give two CPUs"),
            (["bench", "latency", "--socket", "/tmp/x", "--busyloop", "auto"], "the other back-end's"),
            (["bench", "latency", "--socket", "/tmp/x", "--mode", "macswap"], "the other back-end's"),
            (["bench", "throughput", "--mode", "generate", "--trial", "1"], "has no sender"),
            (["tune", "--budgets", "0,auto", "--accept", "20"], "poll is not among the budgets"),
            (["tune", "--rates", "full", "--svg", "/tmp/x"], "full is the only load"),
            (["drive", "/tmp/x", "--receive-only", "--burst", "8"], "sends nothing"),
            (["compare", "--modes", "drop", "--ovs", "tools/testbed/ovs"], "crossconnect only"),
            (["compare", "--modes", "generate", "--sizes", "imix"], "nothing is left"),
            // A negative value is a value.
            (["bench", "threads", "--threads", "-1"], "--threads -1"),
            (["tune", "--accept", "-1"], "--accept -1"), (["demo", "--seconds", "-2"], "--seconds -2"),
            (["bench", "latency", "--busyloop", "-5us"], "busyloop '-5us'"),
            (["bench", "latency", "--rates", "-1"], "'-1' is no load"),
        ])
    func usage(_ arguments: [String], _ wanted: String) throws {
        let program = try Program("cli", [Ringway.binary] + arguments)
        let status = program.wait(seconds: 20)
        // What the machine does not have, as against what nobody can mean.
        let isOfMachine = arguments.contains {
            $0.hasPrefix("/nowhere") || $0.contains(":/") && !$0.contains(":/tmp/x")
        }
        #expect(status == (isOfMachine || wanted == "vDPA devices only" ? 1 : 64), "\(program.output)")
        let lines = program.output.split(separator: "\n")
        #expect(lines.count == 1 && program.output.contains(wanted), "\(program.output)")
    }

    @Test(
        "a signal ends every long command with what it has measured, marked, and 128 + its number; no folder and no other program stays behind",
        arguments: [
            (["demo", "--seconds", "60"], "B to A Mpps"), (["demo", "--seconds", "60", "--json"], "\"second\":1"),
            (["bench", "latency", "--rates", "1k", "--seconds", "60"], "load 1 of 1"),
            (["bench", "latency", "--rates", "1k,2k", "--seconds", "60", "--json"], "load 1 of 2"),
            (["bench", "latency", "--rates", "50%", "--seconds", "60"], "trial 2 of the search"),
            (["bench", "throughput", "--seconds", "60"], "full rings"),
            (["bench", "throughput", "--mode", "macswap", "--trial", "60", "--json"], "trial 1 of the search"),
            (["bench", "scale", "--queues", "2", "--samples", "100", "--json"], "sample 3 of 100"),
            (["bench", "threads", "--samples", "1000", "--json"], "sample 2 of 1000"),
            (["tune", "--samples", "100", "--rates", "10k,full", "--json"], "sample 2 of 100"),
            // Where the machine has other work, the packets that come first are lost, and no sample is taken.
            (["bench", "peer-latency", "--samples", "1000"], "starting Ringway and DPDK"),
            (
                ["compare", "--modes", "drop", "--formats", "split", "--sizes", "64", "--samples", "100"],
                "sample 2/100 DPDK"
            ),
        ])
    func interrupted(_ arguments: [String], _ moment: String) throws {
        let folder = Folder()
        let isJSON = arguments.contains("--json")
        let program = try Program("cli", [Ringway.binary] + arguments, errors: isJSON ? folder("errors") : nil)
        func errors() -> String { (try? String(contentsOfFile: folder("errors"), encoding: .utf8)) ?? "" }
        func folders() throws -> [String] {
            try FileManager.default.contentsOfDirectory(atPath: "/tmp").filter { "\($0)-".contains("-\(program.pid)-") }
        }
        try waitUntil(seconds: 60) {
            let isThere = (program.output + errors()).contains(moment)
            if !isThere && !program.isRunning { throw Unexpected("it ended early: \(program.output)\(errors())") }
            return isThere
        }
        let startsOthers = arguments.contains("compare") || arguments.contains("peer-latency")
        try waitUntil { ProgramTests.children(of: program.pid).isEmpty != startsOthers }
        let children = ProgramTests.children(of: program.pid)
        #expect(program.isRunning, "\(program.output)")
        // Each sample has one of its own; a benchmark of threads needs none.
        try waitUntil { try !folders().isEmpty || arguments.contains("threads") }
        // Into the middle of a measurement.
        usleep(300_000)
        #expect(program.end(SIGINT) == 128 + SIGINT, "\(program.output)")
        #expect(try folders().isEmpty)
        for child in children { #expect(kill(child, 0) != 0, "\(child) goes on") }
        #expect((isJSON ? errors() : program.output).contains("interrupted by SIGINT"), "\(program.output)")
        if isJSON {
            let lines = try JSONTests.parse(program.output)
            let last = try #require(lines.last, "\(program.output)")
            if arguments[0] == "demo" {
                try Schema.check([last], "demo, drive: interrupted")
            } else {
                #expect(last["interrupted"] == .boolean(true), "\(program.output)")
            }
        }
        if arguments[0] == "compare" { #expect(program.output.contains("| split |"), "\(program.output)") }
    }

    @Test("null ports: one sends, the other counts; where none sends, the thread sleeps")
    func null() throws {
        let busy = try Ringway(["null:a,emit=64", "null:b,queues=2"], mode: "crossconnect")
        usleep(200_000)
        let totals = try busy.totals()
        // Until the second port is there, the first one's packets are dropped.
        let early = totals[0].drops["receiver not ready"] ?? 0
        #expect(totals[1].txPackets > 0 && totals[1].txPackets + early == totals[0].rxPackets, "\(busy.log)")
        #expect(totals[1].txBytes == 64 * totals[1].txPackets && totals[1].drops == [:], "\(busy.log)")
        let idle = try Ringway(["null:a", "null:b"], mode: "crossconnect")
        #expect(idle.program.sleeps())
        #expect(try idle.totals().allSatisfy { $0.rxPackets == 0 && $0.isConnected }, "\(idle.log)")
    }

    @Test("drive ends with what it has, too")
    func interruptedDrive() throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p"))"], mode: "macswap")
        let drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "60"])
        try waitUntil { drive.output.contains("\n       1 ") }
        #expect(drive.end(SIGINT) == 128 + SIGINT && drive.output.contains("interrupted by SIGINT"), "\(drive.output)")
        #expect(ringway.program.end() == 0)
    }

    @Test(
        "forward ends at each signal that would end it, with its totals and without its sockets",
        arguments: [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT, SIGALRM, SIGXCPU])
    func signals(_ signal: Int32) throws {
        let folder = Folder()
        let ringway = try Ringway(
            ["vhost-user:\(folder("a"))", "virtio-user:\(folder("b")),server=on"], mode: "switch")
        for name in ["a", "b"] { #expect(FileManager.default.fileExists(atPath: folder(name))) }
        // As `timeout` has it in a terminal: the terminal sends one, and it passes its own on.
        kill(ringway.program.pid, signal)
        #expect(ringway.program.end(signal == SIGINT ? SIGTERM : signal) == 0, "\(ringway.log)")
        #expect(ringway.log.contains("totals"), "\(ringway.log)")
        for name in ["a", "b"] { #expect(!FileManager.default.fileExists(atPath: folder(name))) }
    }

    @Test("probe with server=on removes its socket when it is ended", arguments: [SIGINT, SIGTERM, SIGHUP, SIGUSR1])
    func probeSignals(_ signal: Int32) throws {
        let folder = Folder()
        let probe = try Program("probe", [Ringway.binary, "probe", "--port", "virtio-user:\(folder("p")),server=on"])
        try waitUntil { FileManager.default.fileExists(atPath: folder("p")) }
        usleep(100_000)
        #expect(probe.end(signal) == 128 + signal, "\(probe.output)")
        #expect(!FileManager.default.fileExists(atPath: folder("p")))
    }

    @Test("an error after the first socket was made, and output that is full or that nobody reads, leave no socket")
    func noSocketStays() throws {
        let folder = Folder()
        let bad = try run(
            "forward", "--port", "vhost-user:\(folder("a"))", "--port", "vhost-user:/nowhere/x", "--mode",
            "crossconnect")
        #expect(bad.status == 1 && !FileManager.default.fileExists(atPath: folder("a")), "\(bad.output)")
        let full = try Program(
            "sh",
            [
                "sh", "-c", "exec '\(Ringway.binary)' forward --port vhost-user:\(folder("a")) --mode drop >/dev/full",
            ])
        #expect(full.wait() == 1 && full.output.contains("closed or full"), "\(full.output)")
        #expect(!FileManager.default.fileExists(atPath: folder("a")))
        let demo = try Program("sh", ["sh", "-c", "exec '\(Ringway.binary)' demo --json >/dev/full"])
        #expect(demo.wait() == 1 && demo.output.contains("closed or full"), "\(demo.output)")
        let left = try FileManager.default.contentsOfDirectory(atPath: "/tmp").filter { $0.contains("-\(demo.pid)-") }
        #expect(left.isEmpty)

        // A pipe that is full: printing waits for ever, and the second signal ends it all the same.
        #expect(mkfifo(folder("fifo"), 0o600) == 0)
        let reader = open(folder("fifo"), O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        let stuck = try Program(
            "sh",
            [
                "sh", "-c",
                "exec '\(Ringway.binary)' forward --json --stats 0.01 --port vhost-user:\(folder("a")) --mode drop >'\(folder("fifo"))'",
            ])
        try waitUntil(seconds: 60) {
            var bytes: Int32 = 0
            _ = ioctl(reader, UInt(FIONREAD), &bytes)
            return bytes > 60_000
        }
        usleep(500_000)
        kill(stuck.pid, SIGTERM)
        usleep(1_500_000)
        #expect(stuck.end(SIGTERM) == 128 + SIGTERM, "\(stuck.output)")
        #expect(!FileManager.default.fileExists(atPath: folder("a")))
    }

    @Test("a port that connects and never could is told at the end, with status 1; one that could is not")
    func neverConnected() throws {
        let folder = Folder()
        let alone = try Program(
            "cli",
            [
                Ringway.binary, "forward", "--mode", "drop", "--duration", "0.3", "--port",
                "vhost-user:\(folder("p")),client=on",
            ])
        #expect(alone.wait() == 1 && alone.output.contains("\(folder("p")): never connected"), "\(alone.output)")
        let server = try Ringway(["virtio-user:\(folder("p")),server=on"], mode: "drop")
        let client = try Ringway(["vhost-user:\(folder("p")),client=on"], mode: "drop")
        _ = try client.program.wait(for: "front-end connected")
        #expect(server.program.end() == 0)
        _ = try client.program.wait(for: "front-end gone")
        #expect(client.program.end() == 0, "\(client.log)")
    }

    @Test("--version tells version and build")
    func version() throws {
        let (status, output) = try run("--version")
        #expect(status == 0 && output.contains("ringway 0.1.0 (") && output.contains("release build"), "\(output)")
    }

    @Test("a service manager is told when ports are open, while the file is read again and at the end")
    func serviceManager() throws {
        let folder = Folder()
        let socket = try #require(ManagerSocket(folder("notify")))
        func write(_ ports: String) throws {
            try "mode: drop\nports: [\(ports)]\n".write(toFile: folder("f.yaml"), atomically: true, encoding: .utf8)
        }
        try write("vhost-user:\(folder("a"))")
        let variables = ["NOTIFY_SOCKET=\(socket.place)", "WATCHDOG_USEC=10000000"]
        let ringway = try Program(
            "ringway", ["env"] + variables + [Ringway.binary, "run", "--config", folder("f.yaml")])
        #expect(socket.nextEvent() == ["READY=1", "STATUS=drop, 1 ports"])
        #expect(access(folder("a"), F_OK) == 0)
        try write("vhost-user:\(folder("a")), null:b")
        kill(ringway.pid, SIGHUP)
        #expect(socket.nextEvent()?.first == "RELOADING=1")
        #expect(socket.nextEvent() == ["READY=1", "STATUS=drop, 2 ports"])
        #expect(socket.next(seconds: 60) == ["WATCHDOG=1"])
        #expect(ringway.end() == 0)
        #expect(socket.nextEvent() == ["STOPPING=1"])
        let alone = try Program(
            "ringway",
            ["env", "NOTIFY_SOCKET=/nowhere/x", Ringway.binary, "forward", "--mode", "drop", "--port", "null:a"])
        _ = try alone.wait(for: "ready")
        #expect(alone.output.contains("the service manager is not told of anything: NOTIFY_SOCKET=/nowhere/x: "))
        #expect(alone.end() == 0)
    }

    @Test("progress is a line a step on standard error, on a terminal one line that is written over")
    func progress() throws {
        let folder = Folder()
        let bench = ["bench", "latency", "--rates", "1k,2k", "--seconds", "1", "--mode", "macswap"]
        let program = try Program("bench", [Ringway.binary] + bench, errors: folder("errors"))
        #expect(program.wait() == 0 && !program.output.contains("load 1 of 2"), "\(program.output)")
        let errors = try String(contentsOfFile: folder("errors"), encoding: .utf8)
        #expect(errors.split(separator: "\n").map { $0.prefix(11) } == ["load 1 of 2", "load 2 of 2"], "\(errors)")
        let terminal = try Program(
            "script", ["script", "-qec", ([Ringway.binary] + bench).joined(separator: " "), "/dev/null"])
        #expect(terminal.wait() == 0, "\(terminal.output)")
        #expect(terminal.output.contains("\r\u{1b}[Kload 1 of 2") && !terminal.output.contains("s\r\nload 2"))
    }

    @Test("README's example of embedding compiles, ends at a signal and leaves no socket")
    func embedding() throws {
        let folder = Folder()
        let readme = try String(contentsOfFile: root + "/README.md", encoding: .utf8)
        let start = try #require(readme.range(of: "```swift\n"))
        let end = try #require(readme.range(of: "```\n", range: start.upperBound..<readme.endIndex))
        var code = String(readme[start.upperBound..<end.lowerBound])
        code = code.replacingOccurrences(of: "/run/", with: folder.path + "/")
        code = code.replacingOccurrences(of: "cpus: [1]", with: "cpus: [0]")
        code = code.replacingOccurrences(of: "seconds: 10", with: "seconds: 0.1")
        try code.write(toFile: folder("main.swift"), atomically: true, encoding: .utf8)
        let built = root + "/.build/release"
        let objects =
            ["Ringway", "Dataplane", "Vhost", "VhostUser", "Control", "Virtio", "Memory", "Telemetry", "Tables"]
            + ["Headers", "CPlatform"]
            + ["Logging", "Histogram", "RealModule", "ComplexModule", "Numerics", "_NumericsShims"]
        let compiler = try Program(
            "sh",
            [
                "sh", "-c",
                "cd '\(built)' && swiftc '\(folder("main.swift"))' -o '\(folder("nfv"))' -I Modules "
                    + "-Xcc -fmodule-map-file=CPlatform.build/module.modulemap "
                    + "-I '\(root)/Sources/CLiburing' -I '\(root)/Sources/CNuma' "
                    + "-I '\(root)/.build/checkouts/swift-numerics/Sources/_NumericsShims/include' "
                    + "$(ls \(objects.map { "\($0).build/*.o" }.joined(separator: " ")) 2>/dev/null) -luring -lnuma",
            ])
        #expect(compiler.wait(seconds: 300) == 0, "\(compiler.output)")
        for signal in [SIGTERM, SIGHUP, SIGINT] {
            let nfv = try Program("nfv", [folder("nfv")])
            try waitUntil { nfv.output.contains("vm2.sock") }
            #expect(nfv.end(signal) == 0, "\(nfv.output)")
            for name in ["vm1.sock", "vm2.sock"] { #expect(!FileManager.default.fileExists(atPath: folder(name))) }
        }
        // Nobody reads what it prints any more.
        let head = try Program("sh", ["sh", "-c", "'\(folder("nfv"))' | head -1"])
        #expect(head.wait() == 0 && !FileManager.default.fileExists(atPath: folder("vm1.sock")), "\(head.output)")
    }

    private func waitUntil(seconds: Double = 20, _ condition: () throws -> Bool) throws {
        let end = deadline(seconds)
        while try !condition() {
            if now > end { throw Unexpected("it did not come to it in \(Int(seconds)) s") }
            usleep(10_000)
        }
    }

    /// Processes that `pid` has started.
    private static func children(of pid: pid_t) -> [pid_t] {
        let text =
            (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task"))?.map {
                (try? String(contentsOfFile: "/proc/\(pid)/task/\($0)/children", encoding: .utf8)) ?? ""
            }.joined(separator: " ") ?? ""
        return text.split(separator: " ").compactMap { pid_t($0) }
    }

    @Test(
        """
        forward ends when nobody reads its counters any more; a length that no clock can count is for ever; a closed \
        descriptor gives nothing away
        """
    )
    func output() throws {
        let folder = Folder()
        let head = try Program(
            "sh",
            [
                "sh", "-c",
                "'\(Ringway.binary)' forward --port vhost-user:\(folder("p")) --mode drop --stats 0.1 --json | head -1",
            ])
        #expect(head.wait(seconds: 10) == 0 && head.output.contains("standard output is closed"), "\(head.output)")
        #expect(!FileManager.default.fileExists(atPath: folder("p")))
        let long = try Ringway(["vhost-user:\(folder("p"))"], mode: "drop", ["--duration", "1e19", "--stats", "inf"])
        usleep(200_000)
        #expect(long.program.end(SIGINT) == 0, "\(long.log)")
        let closed = try Program(
            "sh",
            [
                "sh", "-c",
                "'\(Ringway.binary)' forward --port vhost-user:\(folder("p")) --mode drop --duration 0.2 >&- 2>&- <&-",
            ])
        #expect(closed.wait(seconds: 10) == 0)
    }

    @Test(
        "a back-end that sends nothing back is an error of the benchmark, not an empty table",
        arguments: ["latency", "throughput"])
    func nothingBack(_ command: String) throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p")),queues=2"], mode: "switch")
        defer { _ = ringway.program.end() }
        let (status, output) = try run(
            ["bench", command, "--socket", folder("p"), "--seconds", "0.2"]
                + (command == "latency" ? ["--rates", "1k"] : []))
        #expect(status == 1 && output.contains("none came back"), "\(output)")
        let (_, probed) = try run("probe", folder("p"))
        #expect(probed.contains("max_virtqueue_pairs") && !probed.contains("00:00:00:00:00:00"), "\(probed)")
    }

    @Test(
        "a folder that is missing is told before the measurement",
        arguments: [
            ["bench", "latency", "--svg", "/nowhere/x.svg"], ["bench", "latency", "--hgrm", "/nowhere/x"],
            ["bench", "throughput", "--svg", "/nowhere/x.svg"],
            ["tune", "--svg", "/nowhere/x"], ["bench", "peer-latency", "--output", "/nowhere/x"],
            ["compare", "--output", "/nowhere/x"],
        ])
    func missingFolder(_ arguments: [String]) throws {
        let start = now
        let (status, output) = try run(arguments)
        #expect(
            status == 64 && now - start < 2 && output.contains("/nowhere") && output.split(separator: "\n").count == 1,
            "\(output)")
    }

    @Test("the columns of a port with a long path stand under their titles")
    func longNames() throws {
        let folder = Folder()
        let (_, output) = try run(
            "forward", "--mode", "drop", "--duration", "0.1", "--port",
            "vhost-user:" + folder("a-path-of-more-than-thirty-two-characters"))
        let lines = output.split(separator: "\n").suffix(3).map(Array.init)
        #expect(lines[0].count == lines[1].count + 7 && lines[1].count == lines[2].count, "\(output)")
    }

    @Test("SIGINT ends it with totals, removes the sockets, status 0; a socket in use is an error")
    func ending() throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p"))"], mode: "drop", ["--stats", "0.2"])
        let second = try Program(
            "cli", [Ringway.binary, "forward", "--mode", "drop", "--port", "vhost-user:\(folder("p"))"])
        #expect(second.wait() == 1)
        #expect(second.output.contains("a live process serves this socket"))
        let drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "1"])
        #expect(drive.wait() == 0, "\(drive.output)")
        #expect(ringway.program.end(SIGINT) == 0)
        #expect(ringway.log.contains("\"type\":\"totals\"") && ringway.log.contains("\"type\":\"interval\""))
        #expect(!FileManager.default.fileExists(atPath: folder("p")))
        let short = try Program(
            "cli",
            [Ringway.binary, "forward", "--mode", "drop", "--port", "vhost-user:\(folder("p"))", "--duration", "0.3"])
        #expect(short.wait() == 0)
        #expect(short.output.contains("totals of"))
    }
}

/// A guest of two NUMA nodes that runs Ringway itself.
@Suite(.serialized) struct NUMATests {
    @Test("a queue's thread runs on the node of its driver's memory, and the log says so")
    func placement() throws {
        let folder = Folder()
        let initrd = folder("initrd")
        var image = try Data(contentsOf: URL(fileURLWithPath: root + "/.testbed/initramfs.gz"))
        // The kernel looks for the next archive at a multiple of four.
        image.append(Data(count: (4 - image.count % 4) % 4))
        image.append(try Data(contentsOf: URL(fileURLWithPath: root + "/.testbed/ringway.cpio")))
        try image.write(to: URL(fileURLWithPath: initrd))
        let numa = (0..<2).flatMap {
            ["-object", "memory-backend-ram,id=m\($0),size=384M", "-numa", "node,memdev=m\($0),cpus=\($0)"]
        }
        let guest = try Guest("guest-numa", [], cpus: 2, memory: 768, initrd: initrd, numa: numa)
        try guest.ready()
        #expect(try guest.run("ls -d /sys/devices/system/node/node*").contains("node1"))
        try guest.run(
            "(ringway forward --mode macswap --port vhost-user:/tmp/p --cpus 0,1 >/tmp/log 2>&1 &) ; sleep 2",
            seconds: 60)
        for node in 0..<2 {
            let output = try guest.run("ringway drive /tmp/p --node \(node) --seconds 1 --ring-size 256", seconds: 60)
            #expect(output.contains("on node \(node)"), "\(output)")
            let log = try guest.run("tail -n 6 /tmp/log")
            #expect(
                log.contains(
                    """
                    queue pair 0 on thread \(node) (CPU \(node), node \(node)): the guest's memory lies on node \
                    \(node)
                    """
                ), "\(log)")
        }
    }
}
