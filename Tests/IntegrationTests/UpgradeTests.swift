import CPlatform
import Control
import Dataplane
import Foundation
import RingwayLab
import Synchronization
import TestSupport
import Testing
import VhostUser

/// One `ringway` goes on in another's place under traffic: drivers in this process, guests, DPDK.
@Suite(.serialized) struct Upgrades {
    /// How often in each case; `RINGWAY_UPGRADES` says another number.
    private static let times = ProcessInfo.processInfo.environment["RINGWAY_UPGRADES"].flatMap { Int($0) } ?? 10

    /// The ringway that runs, one after the other.
    ///
    /// Unchecked: one thread at a time.
    private final class Chain: @unchecked Sendable {
        let folder = Folder()
        private(set) var ringway: Program
        /// Microseconds that packets stood still.
        private(set) var pauses: [Int] = []
        var control: String { folder("ctl") }

        init(_ ports: [String], mode: String, _ more: [String] = []) throws {
            let folder = self.folder
            let all = ports.flatMap { ["--port", "vhost-user:\(folder($0))"] }
            ringway = try Program(
                "ringway",
                [Ringway.binary, "forward", "--json", "--mode", mode, "--control", folder("ctl")] + all + more)
            _ = try ringway.wait(for: "{\"type\":\"ready\"}\n")
        }

        func successor() throws -> Program {
            try Program("ringway", [Ringway.binary, "forward", "--json", "--upgrade-from", control])
        }

        func follow() throws {
            let new = try successor()
            _ = try new.wait(for: "{\"type\":\"ready\"}\n")
            guard ringway.wait() == 0 else { throw Unexpected("the old one did not end well:\n\(ringway.output)") }
            if let at = ringway.output.range(of: "stood still for ") {
                pauses.append(Int(ringway.output[at.upperBound...].prefix { $0.isNumber }) ?? -1)
            }
            take(new)
        }

        /// Somebody has asked for its place, and it has not said yet what became of that.
        var isAsked: Bool {
            let log = ringway.output
            return log.components(separatedBy: "asks to go on").count
                > log.components(separatedBy: "the upgrade has failed").count
        }

        func take(_ new: Program) { ringway = new }

        /// Drops of all ports by cause, of the one that runs.
        func drops() throws -> [String: Int] {
            let stats = try Program("stats", [Ringway.binary, "stats", "--json", "--control", control])
            guard stats.wait() == 0, let line = objects(in: stats.output).first else {
                throw Unexpected("stats: \(stats.output)")
            }
            return try Chain.drops(Chain.ports(line))
        }

        private static func ports(_ line: [String: Any]?) throws -> [PortTotals] {
            try (line?["ports"] as? [[String: Any]] ?? []).map(PortTotals.init)
        }

        private static func drops(_ ports: [PortTotals]) -> [String: Int] {
            ports.map(\.drops).reduce(into: [:]) { $0.merge($1, uniquingKeysWith: +) }
        }

        /// Drops of all ports by cause, and packets; ends it.
        func end() throws -> (ports: [PortTotals], drops: [String: Int]) {
            let log = ringway
            guard log.end() == 0 else { throw Unexpected("ringway has not ended well:\n\(log.output)") }
            let ports = try Chain.ports(objects(in: log.output).last { $0["type"] as? String == "totals" })
            return (ports, Chain.drops(ports))
        }
    }

    private final class Flag: Sendable {
        let isSet = Atomic(false)
        private let failure = Locked("")
        var error: String {
            get { failure.withLock { $0 } }
            set { failure.withLock { $0 = newValue } }
        }
    }

    struct Case: CustomTestStringConvertible, Sendable {
        var isPacked: Bool
        var threads: Int
        var testDescription: String { (isPacked ? "packed" : "split") + ", \(threads) threads" }
    }
    static let cases = [Case(isPacked: false, threads: 1), Case(isPacked: true, threads: 2)]

    @Test("every byte arrives once and in order while one follows another", arguments: cases)
    func drivers(_ c: Case) throws {
        let chain = try Chain(["a", "b"], mode: "switch", ["--unpinned", "\(c.threads)"])
        var options = DriverOptions()
        (options.ringSize, options.isPacked, options.hasControl) = (256, c.isPacked, true)
        let drivers = try ["a", "b"].map { try EmbeddedDriver(path: chain.folder($0), options) }
        let done = Flag()
        Thread.detachNewThread {
            do { for _ in 0..<Upgrades.times { try chain.follow() } } catch { done.error = "\(error)" }
            done.isSet.store(true, ordering: .releasing)
        }
        var streams = [Stream(from: 0, to: 1), Stream(from: 1, to: 0)]
        while !done.isSet.load(ordering: .acquiring) { for i in 0..<2 { streams[i].exchange(drivers) } }
        #expect(done.error == "")
        for i in 0..<2 {
            let isAtEnd = streams[i].finishes(drivers)
            #expect(isAtEnd, "\(streams[i])")
            #expect(streams[i].wrong == 0 && streams[i].received > 0, "\(streams[i])")
            #expect(drivers[i].command(0, 0, [1]) == 0)
        }
        let (ports, drops) = try chain.end()
        #expect(drops == [:])
        #expect(ports.map(\.rxPackets) == streams.map { Int($0.sent) })
        #expect(ports.map(\.txPackets) == streams.reversed().map { Int($0.sent) })
    }

    @Test(
        "a socket that it was started with (fd=N) goes over, and its number means the same there; no other number does")
    func handedSocket() throws {
        let folder = Folder()
        let (listener, path) = (try Listener.open(folder("s")), folder("s"))
        // As a child finds it: its number is far from those that a program opens.
        let number = fcntl(listener, F_DUPFD, 200)
        close(listener)
        let places = ["--control", folder("ctl")]
        let old = try Program(
            "ringway",
            [Ringway.binary, "forward", "--json", "--mode", "switch", "--port", "vhost-user:fd=\(number)", "--port"]
                + ["vhost-user:\(folder("b"))"] + places)
        close(number)
        _ = try old.wait(for: "{\"type\":\"ready\"}\n")
        let drivers = [try EmbeddedDriver(path: path), try EmbeddedDriver(path: folder("b"))]
        var streams = [Stream(from: 0, to: 1), Stream(from: 1, to: 0)]
        for i in 0..<2 { streams[i].exchange(drivers) }
        func port(_ words: [String]) throws -> Program {
            try Program("port", [Ringway.binary, "port"] + words + places)
        }
        // Its control socket, or anything else of its own.
        let wrong = try port(["add", "vhost-user:fd=999"])
        #expect(wrong.wait() == 1)
        #expect(wrong.output.contains("fd=999: this program was not started with a descriptor of that number"))
        let new = try Program("ringway", [Ringway.binary, "forward", "--json", "--upgrade-from", folder("ctl")])
        _ = try new.wait(for: "{\"type\":\"ready\"}\n")
        #expect(old.wait() == 0)
        for i in 0..<2 {
            let isAtEnd = streams[i].finishes(drivers)
            #expect(isAtEnd && streams[i].wrong == 0, "\(streams[i])")
        }
        #expect(try port(["remove", "fd=\(number)"]).wait() == 0)
        #expect(try port(["add", "vhost-user:fd=\(number)"]).wait() == 0)
        let again = try EmbeddedDriver(path: path)
        #expect(access(path, F_OK) == 0)
        #expect(new.end() == 0)
        #expect(access(path, F_OK) == 0)
        withExtendedLifetime(again) {}
    }

    @Test("a successor that is killed at any moment: the old one goes on, or the new one is already the only one")
    func killed() throws {
        let chain = try Chain(["a", "b"], mode: "switch")
        let drivers = try ["a", "b"].map { try EmbeddedDriver(path: chain.folder($0)) }
        var streams = [Stream(from: 0, to: 1), Stream(from: 1, to: 0)]
        var survived = 0
        for _ in 0..<3 * Upgrades.times {
            let new = try chain.successor()
            let end = now + Double.random(in: 0...0.1)
            while now < end { for i in 0..<2 { streams[i].exchange(drivers) } }
            // Where it is the only one already, the moment has come too late.
            if !chain.ringway.isRunning || new.output.contains("ready") {
                _ = try new.wait(for: "ready")
                #expect(chain.ringway.wait() == 0)
                chain.take(new)
                continue
            }
            new.end(SIGKILL)
            while chain.ringway.isRunning && chain.isAsked { for i in 0..<2 { streams[i].exchange(drivers) } }
            // It had answered `running` before it was killed: a crash like any other.
            if !chain.ringway.isRunning { break }
            survived += 1
            for i in 0..<2 {
                let isAtEnd = streams[i].finishes(drivers)
                #expect(isAtEnd, "\(streams[i])")
            }
        }
        #expect(survived > 0)
        for i in 0..<2 { #expect(streams[i].wrong == 0 && streams[i].received > 0, "\(streams[i])") }
    }

    @Test(
        "a successor that is stopped (SIGSTOP) when the old one has given its word is ended, and the old one goes on"
    )
    func stopped() throws {
        let chain = try Chain(["a", "b"], mode: "switch")
        let drivers = try ["a", "b"].map { try EmbeddedDriver(path: chain.folder($0)) }
        var streams = [Stream(from: 0, to: 1), Stream(from: 1, to: 0)]
        for _ in 0..<100 { for i in 0..<2 { streams[i].exchange(drivers) } }
        let process = Locked(pid_t(0))
        // The fifth document is `ready`, the next is `go`.
        let relay = try UpgradeRelay(chain.folder("relay"), to: chain.control, passing: 5, then: .silence) {
            while process.withLock(\.self) == 0 { usleep(1000) }
            kill(process.withLock(\.self), SIGSTOP)
        }
        let new = try Program(
            "ringway", [Ringway.binary, "forward", "--json", "--upgrade-from", chain.folder("relay")])
        process.withLock { $0 = new.pid }
        while new.isRunning { for i in 0..<2 { streams[i].exchange(drivers) } }
        #expect(new.wait() == 128 + SIGKILL && !new.output.contains("ready"), "\(new.output)")
        relay.wait()
        for i in 0..<2 {
            let isAtEnd = streams[i].finishes(drivers)
            #expect(isAtEnd && streams[i].wrong == 0, "\(streams[i])")
        }
        #expect(chain.ringway.output.contains("the upgrade has failed, and this process goes on"))
        // Rings are where they were.
        for _ in 0..<100 { for i in 0..<2 { streams[i].exchange(drivers) } }
        try chain.follow()
        for i in 0..<2 {
            let isAtEnd = streams[i].finishes(drivers)
            #expect(isAtEnd && streams[i].wrong == 0, "\(streams[i])")
        }
    }

    @Test("guests' TCP and pings go on while one follows another", arguments: [false, true])
    func guests(isPacked: Bool) throws {
        let chain = try Chain(["a", "b"], mode: "switch")
        let nics = ["a", "b"].map {
            Guest.NIC(socket: chain.folder($0), mac: "52:54:00:00:00:0\($0)", isPacked: isPacked)
        }
        let (a, b) = (try Guest("guest-a", [nics[0]]), try Guest("guest-b", [nics[1]]))
        try boot(a, b)
        try a.configure("10.0.0.1")
        try b.configure("10.0.0.2")
        try b.serve()
        #expect(try a.loss(to: "10.0.0.2", count: 5) == 0)
        let line = "iperf3 -c 10.0.0.2 -t 15 -f m & ping -c 150 -i 0.1 -W 5 10.0.0.2; wait"
        let mark = a.begin(line)
        sleep(1)
        for _ in 0..<Upgrades.times {
            try chain.follow()
            usleep(300_000)
        }
        let text = try a.finish(mark, line, seconds: 120)
        #expect(try Guest.loss(text) == 0, "\(text)")
        #expect(text.contains("receiver"), "\(text)")
        // Both are still what they were.
        for reverse in [false, true] { #expect(try a.iperf("10.0.0.2", reverse: reverse) > 5) }
        let (ports, drops) = try chain.end()
        #expect(ports.map(\.isConnected) == [true, true])
        #expect(drops.filter { $0.key != "receiver full" } == [:])
    }

    /// `RINGWAY_PAUSES=100 swift test -c release --filter Upgrades/pauses` prints the figures of docs/upgrade.md.
    @Test(
        "how long packets stand still: small frames as fast as they go on one port, others that wait",
        arguments: [1, 8, 64])
    func pauses(_ ports: Int) throws {
        let names = (0..<ports).map { "p\($0)" }
        let chain = try Chain(names, mode: "macswap")
        var options = DriverOptions()
        options.ringSize = 256
        let drivers = try names.map { try EmbeddedDriver(path: chain.folder($0), options) }
        let done = Flag()
        let times = ProcessInfo.processInfo.environment["RINGWAY_PAUSES"].flatMap { Int($0) } ?? 3
        Thread.detachNewThread {
            do { for _ in 0..<times { try chain.follow() } } catch { done.error = "\(error)" }
            done.isSet.store(true, ordering: .releasing)
        }
        var packets = 0
        while !done.isSet.load(ordering: .acquiring) { packets += drivers[0].pump() }
        #expect(done.error == "" && packets > 0)
        let all = chain.pauses.sorted()
        #expect(all.count == times)
        guard all.count == times else { return }
        print(
            """
            \(ports) ports, \(times) upgrades: packets stood still for \(all[times / 2]) us (median), \
            \(all[times - 1 - times / 100]) us (99 %), \(all[times - 1]) us (longest)
            """)
        withExtendedLifetime(drivers) {}
    }

    @Test(
        "ports that are not guests': a TAP's interface stays, interfaces and back-ends are opened again",
        .enabled(if: getuid() == 0, "needs root"))
    func others() throws {
        let folder = Folder()
        let (home, a, b, c) = (try Host("home"), try Host("a"), try Host("b"), try Host("c"))
        let forward = [Ringway.binary, "forward", "--json", "--mode"]
        let far = try home.start(
            "far", forward + ["crossconnect", "--port", "vhost-user:\(folder("far"))", "--port", "tap:far"])
        _ = try far.wait(for: "{\"type\":\"ready\"}\n")
        try home.run("ip link add dev wire type veth peer name eth0; ip link set dev wire up")
        try home.run("ip link set dev eth0 netns \(b.network); ip link set dev far netns \(c.network)")
        var ringway = try home.start(
            "old",
            forward + ["switch", "--control", folder("ctl"), "--port", "tap:near", "--port", "xdp:wire"]
                + ["--port", "virtio-user:\(folder("far"))"])
        _ = try ringway.wait(for: "{\"type\":\"ready\"}\n")
        try home.run("ip link set dev near netns \(a.network)")
        try b.run("ethtool -K eth0 tx off >/dev/null")
        for (number, (host, device)) in [(a, "near"), (b, "eth0"), (c, "far")].enumerated() {
            try host.run("ip addr add 10.0.0.\(number + 1)/24 dev \(device); ip link set \(device) up")
        }
        let interface = try a.run("ip -o link show near").prefix { $0 != ":" }
        for round in 0..<4 {
            for (host, address) in [(a, "10.0.0.2"), (b, "10.0.0.3"), (c, "10.0.0.1")] {
                var loss = 100
                for _ in 0..<20 where loss > 0 { loss = try host.loss(to: address) }
                #expect(loss == 0, "\(host.name) to \(address): \(ringway.output)")
            }
            if round == 3 { break }
            let new = try home.start("new", [Ringway.binary, "forward", "--json", "--upgrade-from", folder("ctl")])
            _ = try new.wait(for: "{\"type\":\"ready\"}\n")
            #expect(ringway.wait() == 0, "\(ringway.output)")
            ringway = new
        }
        #expect(try a.run("ip -o link show near").prefix { $0 != ":" } == interface)
        #expect(ringway.end() == 0)
        #expect(far.end() == 0)
    }

    @Test("a reload that is an upgrade: the service manager follows, and the file is read again")
    func service() throws {
        let folder = Folder()
        let socket = try #require(ManagerSocket(folder("notify")))
        func write(_ ports: String, mode: String = "switch") throws {
            try "mode: \(mode)\ncontrol: \(folder("ctl"))\nports: [\(ports)]\n".write(
                toFile: folder("f.yaml"), atomically: true, encoding: .utf8)
        }
        try write("\"vhost-user:\(folder("a"))\"")
        let run = [Ringway.binary, "run", "--config", folder("f.yaml")]
        let old = try Program(
            "ringway", ["env", "NOTIFY_SOCKET=\(socket.place)", "WATCHDOG_USEC=10000000"] + run)
        #expect(socket.nextEvent() == ["READY=1", "STATUS=switch, 1 ports"])
        let driver = try EmbeddedDriver(path: folder("a"))
        let refused = run + ["--upgrade-from", folder("ctl")]
        try write("\"vhost-user:\(folder("a"))\"", mode: "drop")
        let other = try Program("ringway", refused)
        #expect(other.wait() == 64 && other.output.contains("f.yaml:1: mode: "), "\(other.output)")
        try write("\"vhost-user:\(folder("a"))\", null:b")
        // As systemd starts what ExecReload= says: it need not be told of the manager.
        let new = try Program("ringway", refused)
        #expect(socket.nextEvent() == ["MAINPID=\(new.pid)"])
        #expect(socket.nextEvent()?.first == "RELOADING=1")
        #expect(socket.nextEvent() == ["READY=1", "STATUS=switch, 2 ports"])
        #expect(old.wait() == 0)
        #expect(socket.nextEvent() == ["READY=1", "STATUS=switch, 2 ports"])
        #expect(socket.next(seconds: 60) == ["WATCHDOG=1"])
        #expect(try driver.frontEnd.ask64(.getQueueNum) == 1)
        #expect(new.end() == 0)
        #expect(socket.nextEvent() == ["STOPPING=1"])
        let left = ["a", "ctl"].filter { access(folder($0), F_OK) == 0 }
        #expect(left == [])
    }

    @Test("DPDK's driver goes on while one follows another", arguments: ["packed_vq=0", "packed_vq=1,in_order=1"])
    func dpdk(_ options: String) throws {
        let chain = try Chain(["p"], mode: "macswap")
        let testpmd = try Testpmd(chain.folder("p"), forward: "flowgen", options: options)
        for _ in 0..<Upgrades.times {
            try chain.follow()
            usleep(200_000)
        }
        let counts = try testpmd.stop()
        // No upgrade has left a ring without its receiver.
        let before = try chain.drops()
        #expect(before.filter { $0.key != "receiver full" } == [:])
        #expect(testpmd.quit() == 0)
        let (ports, drops) = try chain.end()
        // At its end testpmd takes its receive ring away first: what lies in the other one then has no receiver.
        #expect(drops.filter { !["receiver full", "receiver not ready"].contains($0.key) } == [:])
        #expect(drops["receiver not ready"] ?? 0 <= Testpmd.ringSize, "\(drops)")
        // All of them, over all who forwarded. What lies in the rings when testpmd stops is left.
        #expect(counts.sent > 0 && abs(counts.sent - ports[0].rxPackets) <= Testpmd.ringSize, "\(counts), \(ports)")
        #expect(ports[0].rxPackets - ports[0].txPackets == drops.values.reduce(0, +), "\(ports)")
    }
}

extension EmbeddedDriver {
    /// Sends 60 bytes as often as there is room, and takes what comes back; how many did.
    fileprivate func pump() -> Int {
        let count = pairs[0].prepare(32)
        for k in 0..<count {
            let out = pairs[0].outgoing.start + k
            out.pointee.length = 60
            memset(out.pointee.base - 12, 0, 72)
        }
        if count > 0 { pairs[0].send(count) }
        let received = pairs[0].receiveBurst()
        pairs[0].giveBack()
        return received
    }
}

/// Numbered frames from one driver to another: each of them comes, once and in order.
private struct Stream: CustomStringConvertible {
    let from, to: Int
    private(set) var sent: UInt32 = 0
    private(set) var received: UInt32 = 0
    private(set) var wrong = 0
    var description: String { "\(from) to \(to): \(sent) sent, \(received) received, \(wrong) wrong" }

    init(from: Int, to: Int) { (self.from, self.to) = (from, to) }

    private func length(_ n: UInt32) -> Int { 60 + Int(n % 1400) }

    /// A few more, and what has come.
    mutating func exchange(_ drivers: [EmbeddedDriver]) {
        // No more than the receiver has buffers for: nothing is dropped.
        let pair = drivers[from].pairs
        let room = min(16, 128 - Int(sent &- received))
        let count = room > 0 ? pair[0].prepare(room) : 0
        for k in 0..<count {
            let out = pair[0].outgoing.start + k
            let size = length(sent)
            out.pointee.length = UInt32(size)
            memset(out.pointee.base - 12, 0, 12)
            memset(out.pointee.base, Int32(sent & 255), size)
            let head: [UInt8] = [2, 0, 0, 0, 1, UInt8(to), 2, 0, 0, 0, 1, UInt8(from), 0x88, 0xb5]
            head.withUnsafeBytes { out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: 14) }
            (out.pointee.base + 14).storeBytes(of: sent, as: UInt32.self)
            sent &+= 1
        }
        if count > 0 { pair[0].send(count) }
        take(drivers)
    }

    private mutating func take(_ drivers: [EmbeddedDriver]) {
        let pair = drivers[to].pairs
        let count = pair[0].receiveBurst()
        for k in 0..<count {
            let (base, size) = (pair[0].incoming[k].base, Int(pair[0].incoming[k].length))
            let number = (base + 14).loadUnaligned(as: UInt32.self)
            let bytes = UnsafeRawBufferPointer(start: base + 18, count: max(0, size - 18))
            if number != received || size != length(number)
                || !bytes.allSatisfy({ $0 == UInt8(truncatingIfNeeded: number) })
            {
                wrong += 1
            }
            received &+= 1
        }
        pair[0].giveBack()
    }

    /// All that was sent comes within ten seconds, and is given back.
    mutating func finishes(_ drivers: [EmbeddedDriver]) -> Bool {
        let end = deadline(10)
        while now < end {
            take(drivers)
            drivers[from].pairs[0].reclaim()
            if received == sent && drivers[from].pairs[0].outstanding == 0 { return true }
            sched_yield()
        }
        return false
    }
}
