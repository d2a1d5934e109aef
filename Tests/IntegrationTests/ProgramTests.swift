import Foundation
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
            let line = output.split(separator: "\n").map { $0.split(separator: " ") }.last { $0.first == Substring(size) }
            let rate = line.flatMap { Double($0[1]) } ?? 0
            #expect(rate > 0.05, "\(size) bytes: \(output)")
        }
    }

    @Test("usage errors are one line that says what to do", arguments: [
        (["forward"], "--port"), (["forward", "--port", "x"], "vhost-user:PATH"),
        (["forward", "--port", "vhost-user:/tmp/x", "--mode", "bridge"], "crossconnect, switch"),
        (["forward", "--port", "vhost-user:/nowhere/x", "--mode", "drop"], "create its directory"),
        (["forward", "--port", "vhost-user:/tmp/x", "--mode", "drop", "--cpus", "99"], "CPU 99"),
        (["drive", "/nowhere/x"], "/nowhere/x"),
        (["bench", "latency", "--rates", "10k,fast"], "'fast' is no load"), (["bench", "latency", "--mode", "generate"], "it has no sender"),
        (["bench", "throughput", "--size", "imixed"], "imix (64, 570 and 1518"), (["bench", "throughput", "--mode", "drop", "--both-ways"], "--both-ways"),
        (["bench", "throughput", "--ring-size", "1000"], "power of two"), (["bench", "peer-latency", "--formats", "spilt"], "'spilt' is not split or packed"),
        (["drive"], "see 'ringway drive --help'"), (["forward", "--sise", "64"], "see 'ringway forward --help'"), (["probe"], "give one path"),
        (["forward", "--port", "vhost-user:/tmp/x", "--mode", "drop", "--cpus", "0,0"], "twice"), (["forward", "--port", "vhost-user:/tmp/x"], "two ports"),
        (["bench", "threads", "--threads=-1"], "--threads -1"), (["bench", "scale", "--budgets", "fast"], "write poll, auto, 0"), (["bench", "peer-latency", "--rates", "50%"], "packets a second"),
        (["bench", "throughput", "--confirmation", "0"], "0.05 to 3600"), (["tune", "--accept", "nan"], "--accept nan"), (["tune", "--samples", "0"], "--samples 0: give 1 to 1000"),
        (["tune", "--budgets", "fast"], "write poll, auto, 0"), (["tune", "--rates", "50%"], "packets a second, or full"),
    ])
    func usage(_ arguments: [String], _ wanted: String) throws {
        let program = try Program("cli", [Ringway.binary] + arguments)
        let status = program.wait(seconds: 20)
        #expect(status == (arguments.contains { $0.hasPrefix("/nowhere") || $0.contains(":/nowhere") } ? 1 : 64))
        let lines = program.output.split(separator: "\n")
        #expect(lines.count == 1 && program.output.contains(wanted), "\(program.output)")
    }

    @Test("a program that is stopped early leaves nothing behind: no folder, no other program that polls", arguments: [
        ["demo", "--seconds", "60"], ["bench", "latency", "--rates", "1k", "--seconds", "60"], ["tune", "--samples", "100"],
        ["bench", "peer-latency", "--samples", "1000"], ["compare", "--modes", "drop", "--formats", "split", "--sizes", "64", "--samples", "100"],
    ])
    func leftovers(_ arguments: [String]) throws {
        let program = try Program("cli", [Ringway.binary] + arguments)
        func folders() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: "/tmp").filter { "\($0)-".contains("-\(program.pid)-") } }
        let startsOthers = arguments.contains("compare") || arguments.contains("peer-latency")
        let end = now + 20
        while try now < end && (folders().isEmpty || ProgramTests.children(of: program.pid).isEmpty == startsOthers) { usleep(10_000) }
        usleep(200_000)
        let children = ProgramTests.children(of: program.pid)
        #expect(try !folders().isEmpty && children.isEmpty != startsOthers && program.isRunning, "\(program.output)")
        #expect(program.end(SIGINT) == 128 + SIGINT, "\(program.output)")
        #expect(try folders().isEmpty)
        for child in children { #expect(kill(child, 0) != 0, "\(child) goes on") }
    }

    /// Processes that `pid` has started.
    private static func children(of pid: pid_t) -> [pid_t] {
        let text = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task"))?.map { (try? String(contentsOfFile: "/proc/\(pid)/task/\($0)/children", encoding: .utf8)) ?? "" }.joined(separator: " ") ?? ""
        return text.split(separator: " ").compactMap { pid_t($0) }
    }

    @Test("forward ends when nobody reads its counters any more; a length that no clock can count is for ever; a closed descriptor gives nothing away")
    func output() throws {
        let folder = Folder()
        let head = try Program("sh", ["sh", "-c", "'\(Ringway.binary)' forward --port vhost-user:\(folder("p")) --mode drop --stats 0.1 --json | head -1"])
        #expect(head.wait(seconds: 10) == 0 && head.output.contains("standard output is closed"), "\(head.output)")
        #expect(!FileManager.default.fileExists(atPath: folder("p")))
        let long = try Ringway(["vhost-user:\(folder("p"))"], mode: "drop", ["--duration", "1e19", "--stats", "inf"])
        usleep(200_000)
        #expect(long.program.end(SIGINT) == 0, "\(long.log)")
        let closed = try Program("sh", ["sh", "-c", "'\(Ringway.binary)' forward --port vhost-user:\(folder("p")) --mode drop --duration 0.2 >&- 2>&- <&-"])
        #expect(closed.wait(seconds: 10) == 0)
    }

    @Test("a back-end that sends nothing back is an error of the benchmark, not an empty table", arguments: ["latency", "throughput"])
    func nothingBack(_ command: String) throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p")),queues=2"], mode: "switch")
        defer { _ = ringway.program.end() }
        let (status, output) = try run(["bench", command, "--socket", folder("p"), "--seconds", "0.2"] + (command == "latency" ? ["--rates", "1k"] : []))
        #expect(status == 1 && output.contains("none came back"), "\(output)")
        let (_, probed) = try run("probe", folder("p"))
        #expect(probed.contains("max_virtqueue_pairs") && !probed.contains("00:00:00:00:00:00"), "\(probed)")
    }

    @Test("a folder that is missing is told before the measurement", arguments: [
        ["bench", "latency", "--svg", "/nowhere/x.svg"], ["bench", "latency", "--hgrm", "/nowhere/x"], ["bench", "throughput", "--svg", "/nowhere/x.svg"],
        ["tune", "--svg", "/nowhere/x"], ["bench", "peer-latency", "--output", "/nowhere/x"], ["compare", "--output", "/nowhere/x"],
    ])
    func missingFolder(_ arguments: [String]) throws {
        let start = now
        let (status, output) = try run(arguments)
        #expect(status == 64 && now - start < 2 && output.contains("/nowhere") && output.split(separator: "\n").count == 1, "\(output)")
    }

    @Test("the columns of a port with a long path stand under their titles")
    func longNames() throws {
        let folder = Folder()
        let (_, output) = try run("forward", "--mode", "drop", "--duration", "0.1", "--port", "vhost-user:" + folder("a-path-of-more-than-thirty-two-characters"))
        let lines = output.split(separator: "\n").suffix(3).map(Array.init)
        #expect(lines[0].count == lines[1].count + 7 && lines[1].count == lines[2].count, "\(output)")
    }

    @Test("SIGINT ends it with totals, removes the sockets, status 0; a socket in use is an error")
    func ending() throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p"))"], mode: "drop", ["--stats", "0.2"])
        let second = try Program("cli", [Ringway.binary, "forward", "--mode", "drop", "--port", "vhost-user:\(folder("p"))"])
        #expect(second.wait() == 1)
        #expect(second.output.contains("a live process serves this socket"))
        let drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "1"])
        #expect(drive.wait() == 0, "\(drive.output)")
        #expect(ringway.program.end(SIGINT) == 0)
        #expect(ringway.log.contains("\"type\":\"totals\"") && ringway.log.contains("\"type\":\"interval\""))
        #expect(!FileManager.default.fileExists(atPath: folder("p")))
        let short = try Program("cli", [Ringway.binary, "forward", "--mode", "drop", "--port", "vhost-user:\(folder("p"))", "--duration", "0.3"])
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
        let numa = (0..<2).flatMap { ["-object", "memory-backend-ram,id=m\($0),size=384M", "-numa", "node,memdev=m\($0),cpus=\($0)"] }
        let guest = try Guest("guest-numa", [], cpus: 2, memory: 768, initrd: initrd, numa: numa)
        try guest.ready()
        #expect(try guest.run("ls -d /sys/devices/system/node/node*").contains("node1"))
        try guest.run("(ringway forward --mode macswap --port vhost-user:/tmp/p --cpus 0,1 >/tmp/log 2>&1 &) ; sleep 2", seconds: 60)
        for node in 0..<2 {
            let output = try guest.run("ringway drive /tmp/p --node \(node) --seconds 1 --ring-size 256", seconds: 60)
            #expect(output.contains("on node \(node)"), "\(output)")
            let log = try guest.run("tail -n 6 /tmp/log")
            #expect(log.contains("queue pair 0 on thread \(node) (CPU \(node), node \(node)): the guest's memory lies on node \(node)"), "\(log)")
        }
    }
}
