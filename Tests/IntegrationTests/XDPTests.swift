import Foundation
import Testing

/// A host for Ringway, and others with an interface each whose other end is there. None of them sends unasked.
private final class Wires {
    let home: Host
    private(set) var hosts: [Host] = []

    init(_ name: String) throws { home = try Host("\(name)-home") }

    /// A veth: `name` here, eth0 of a host there (a new one, if it is not told which).
    func host(
        _ name: String, _ address: String, queues: Int = 1, mtu: Int = 1500, again host: Host? = nil
    ) throws -> Host {
        let host = try host ?? Host(name)
        let queues = "numrxqueues \(queues) numtxqueues \(queues)"
        try home.run("ip link add dev \(name) mtu \(mtu) \(queues) type veth peer name eth0 mtu \(mtu) \(queues)")
        try home.run("ip link set dev eth0 netns \(host.network); ip link set dev \(name) up")
        // What this end leaves to hardware would never be done: nobody but another kernel knows of it.
        try host.run("ethtool -K eth0 tx off >/dev/null; ip addr add \(address)/24 dev eth0; ip link set eth0 up")
        hosts.append(host)
        return host
    }

    /// Whether some program is on the interface; one that is detached goes a moment later.
    func isFree(_ name: String) throws -> Bool {
        let wait = "for i in $(seq 100); do ip link show \(name) | grep -q prog/xdp || break; sleep 0.05; done"
        return try !home.run("\(wait); ip link show \(name)").contains("prog/xdp")
    }

    /// Status and output of a `ringway forward` in `home` that ends by itself.
    func refusal(_ port: String) throws -> (status: Int32?, text: String) {
        let arguments = [Ringway.binary, "forward", "--port", port, "--port", "null:x", "--duration", "5"]
        let program = try home.start("refused", arguments)
        return (program.wait(), program.output)
    }
}

extension Host {
    /// 8 MB by iperf3 to an `iperf3 -s`, or from it; what it says where that fails.
    fileprivate func failure(to address: String, _ more: String = "") throws -> String? {
        let text = try run("iperf3 -c \(address) -n 8M --connect-timeout 2000 \(more)", seconds: 60, anyStatus: true)
        return text.contains("iperf Done.") ? nil : text
    }
}

/// Ports `xdp:` on veths across network namespaces, with this machine's kernel behind them.
@Suite(.serialized, .enabled(if: getuid() == 0, "needs root"))
struct XDPTests {
    private func totals(_ ringway: Ringway) throws -> [[String: Any]] {
        _ = try ringway.totals()
        let last = objects(in: ringway.log).last { $0["type"] as? String == "totals" }
        return last?["ports"] as? [[String: Any]] ?? []
    }

    @Test("ping, TCP and UDP between two stacks, through two queues of each interface; then the thread sleeps")
    func stacks() throws {
        let wires = try Wires("stacks")
        let (a, b) = (try wires.host("ra", "10.0.0.1", queues: 2), try wires.host("rb", "10.0.0.2", queues: 2))
        let ringway = try Ringway(
            ["xdp:ra,queues=2", "xdp:rb,queues=2"], mode: "switch", ["--busyloop", "0"], in: wires.home)
        for name in ["ra", "rb"] {
            #expect(ringway.log.contains("interface \(name) with 2 queues: native XDP, copy mode"), "\(ringway.log)")
            #expect(try wires.home.run("ip -d link show \(name)").contains("promiscuity 1"))
        }
        #expect(try a.loss(to: "10.0.0.2") == 0)
        try b.serve()
        for more in ["-P 16", "-P 16 -R", "-u -b 20M"] {
            #expect(try a.failure(to: "10.0.0.2", more) == nil, "\(more)")
        }
        #expect(ringway.program.sleeps())
        let ports = try totals(ringway)
        for port in ports {
            let queues = (port["queues"] as? [[String: Any]] ?? []).filter { $0["packets"] as? Int ?? 0 > 0 }
            #expect(Set(queues.compactMap { $0["queue"] as? Int }) == [0, 1, 2, 3], "\(port)")
        }
        // What came in at one went out at the other, or was dropped.
        let sums = ports.map { port in
            ["rx", "tx"].map { (port[$0] as? [String: Any])?["packets"] as? Int ?? -1 }
                + [(port["drops"] as? [String: Int] ?? [:]).values.reduce(0, +)]
        }
        #expect(sums[0][0] > 1000 && sums.allSatisfy { $0[0] > 0 }, "\(sums)")
        #expect(sums[0][0] + sums[1][0] == sums[0][1] + sums[1][1] + sums[0][2] + sums[1][2], "\(sums)")
        #expect(try wires.isFree("ra") && wires.isFree("rb"))
        withExtendedLifetime(wires) {}
    }

    @Test("the kernel's checksums and large segments from a TAP are finished for an interface that takes neither")
    func offloads() throws {
        let wires = try Wires("offloads")
        let (a, t) = (try wires.host("ra", "10.0.0.1"), try Host("tap"))
        let ringway = try Ringway(["xdp:ra", "tap:t0"], mode: "crossconnect", in: wires.home)
        try wires.home.run("ip link set dev t0 netns \(t.network)")
        try t.run("ip addr add 10.0.0.2/24 dev t0; ip link set dev t0 up")
        #expect(try t.loss(to: "10.0.0.1") == 0)
        try a.serve()
        // With `tx off` what leaves the interface has its checksums, which the stack at the other end then checks;
        // else it is believed.
        for checksums in ["on", "off"] {
            try wires.home.run("ethtool -K ra tx \(checksums) >/dev/null")
            for more in ["", "-R", "-u -b 20M"] {
                #expect(try t.failure(to: "10.0.0.1", more) == nil, "\(checksums) \(more)")
            }
        }
        let counts = try a.run("cat /proc/net/snmp").split(separator: "\n").map { $0.split(separator: " ") }
        for name in ["Tcp:", "Udp:"] {
            let rows = counts.filter { $0[0] == name }
            let place = try #require(rows[0].firstIndex(of: "InCsumErrors"))
            #expect(rows[1][place] == "0", "\(rows)")
        }
        let made = try totals(ringway).compactMap { $0["made"] as? Int }
        #expect(made[0] > 1000, "no segments were cut: \(made)")
        withExtendedLifetime(wires) {}
    }

    @Test("SIGKILL leaves nothing on the interface, and the next Ringway starts there")
    func killed() throws {
        let wires = try Wires("killed")
        let (a, _) = (try wires.host("ra", "10.0.0.1", queues: 2), try wires.host("rb", "10.0.0.2", queues: 2))
        for _ in 1...3 {
            let ringway = try Ringway(["xdp:ra,queues=2", "xdp:rb,queues=2"], mode: "crossconnect", in: wires.home)
            #expect(try a.loss(to: "10.0.0.2") == 0)
            #expect(ringway.program.end(SIGKILL) == 128 + SIGKILL)
        }
        #expect(try wires.isFree("ra") && wires.isFree("rb"))
        #expect(try wires.home.run("ip -d link show ra").contains("promiscuity 0"))
        withExtendedLifetime(wires) {}
    }

    @Test("an interface that is deleted under traffic: others go on, and the port goes on with the next of its name")
    func gone() throws {
        let wires = try Wires("gone")
        let (a, _) = (try wires.host("ra", "10.0.0.1"), try wires.host("rb", "10.0.0.2"))
        let c = try wires.host("rc", "10.0.0.3", queues: 2)
        let ringway = try Ringway(["xdp:ra", "xdp:rb", "xdp:rc,queues=2"], mode: "switch", in: wires.home)
        try c.serve()
        for life in 1...3 {
            let mark = ringway.log.count
            try a.run("(iperf3 -c 10.0.0.3 -u -b 50M -t 30 >/dev/null 2>&1 &); sleep 0.5")
            try wires.home.run("ip link del rc")
            _ = try ringway.program.wait(for: "interface rc has gone", after: mark)
            #expect(try a.loss(to: "10.0.0.2") == 0, "life \(life)")
            _ = try wires.host("rc", "10.0.0.3", queues: 2, again: c)
            _ = try ringway.program.wait(for: "interface rc has its link", after: mark)
            try a.run("pkill iperf3; ip neigh flush dev eth0", anyStatus: true)
            #expect(try a.loss(to: "10.0.0.3") == 0, "life \(life)")
        }
        #expect(try totals(ringway).count == 3)
        withExtendedLifetime(wires) {}
    }

    @Test("a link that goes and comes back; an interface that is down at first")
    func link() throws {
        let wires = try Wires("link")
        let (a, b) = (try wires.host("ra", "10.0.0.1"), try wires.host("rb", "10.0.0.2"))
        try wires.home.run("ip link set ra down")
        let ringway = try Ringway(["xdp:ra", "xdp:rb"], mode: "crossconnect", in: wires.home)
        #expect(ringway.log.contains("interface ra is down; set it up: `ip link set ra up`"))
        for (down, up, host) in [
            ("true", "ip link set ra up", wires.home), ("ip link set eth0 down", "ip link set eth0 up", a),
            ("ip link set ra down", "ip link set ra up", wires.home),
        ] {
            let mark = ringway.log.count
            try host.run(down)
            if down != "true" { _ = try ringway.program.wait(for: "interface ra has no link", after: mark) }
            #expect(try b.loss(to: "10.0.0.1", count: 2) == 100, "\(down)")
            let last = ringway.log.count
            try host.run(up)
            _ = try ringway.program.wait(for: "interface ra has its link", after: last)
            try b.run("ip neigh flush dev eth0")
            #expect(try b.loss(to: "10.0.0.1") == 0, "\(up)")
        }
        let drops = try ringway.totals()[1].drops
        #expect(drops["receiver not ready", default: 0] >= 2, "\(drops)")
        withExtendedLifetime(wires) {}
    }

    @Test("ports that come and go by the control socket under traffic of others leave nothing")
    func changes() throws {
        let (wires, folder) = (try Wires("changes"), Folder())
        let (a, b) = (try wires.host("ra", "10.0.0.1", queues: 2), try wires.host("rb", "10.0.0.2", queues: 2))
        _ = try wires.host("rc", "10.0.0.3", queues: 2)
        let allowed = ["net_admin", "net_raw", "bpf", "ipc_lock"].flatMap { ["--allow", $0] }
        let ringway = try Ringway(
            [], mode: "switch", ["--control", folder("c"), "--unpinned", "2"] + allowed, in: wires.home)
        func port(_ words: String...) throws -> (status: Int32?, text: String) {
            let program = try Program("port", [Ringway.binary, "port"] + words + ["--control", folder("c")])
            return (program.wait(), program.output)
        }
        func count(_ what: String) -> Int {
            (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(ringway.program.pid)/\(what)").count) ?? -1
        }
        for name in ["xdp:ra,queues=2", "xdp:rb,queues=2"] { #expect(try port("add", name).status == 0) }
        try b.serve()
        try a.run("(iperf3 -c 10.0.0.2 -b 20M -t 60 -i 0.5 --forceflush >/tmp/ringway-xdp-\(a.pid) 2>&1 &)")
        defer { try? FileManager.default.removeItem(atPath: "/tmp/ringway-xdp-\(a.pid)") }
        func round() throws {
            let added = try port("add", "xdp:rc,queues=2")
            #expect(added.status == 0, "\(added.text)")
            #expect(try a.loss(to: "10.0.0.3", count: 2) == 0)
            #expect(try port("add", "xdp:rd").text.contains("there is no interface rd"))
            #expect(try port("remove", "xdp:rc").status == 0)
            #expect(try wires.isFree("rc"))
        }
        try round()
        let before = [count("fd"), count("task")]
        for _ in 1...10 { try round() }
        #expect([count("fd"), count("task")] == before)
        let text = try a.run("cat /tmp/ringway-xdp-\(a.pid)")
        #expect(text.contains("Mbits/sec") || text.contains("Gbits/sec"), "\(text)")
        #expect(try a.loss(to: "10.0.0.2") == 0)
        #expect(ringway.program.end() == 0)
        withExtendedLifetime(wires) {}
    }

    @Test("a port that comes later, and what the sandbox was not told of it")
    func later() throws {
        let (wires, folder) = (try Wires("later"), Folder())
        _ = try wires.host("ra", "10.0.0.1")
        let ringway = try Ringway([], mode: "switch", ["--control", folder("c")], in: wires.home)
        let program = try Program("port", [Ringway.binary, "port", "add", "xdp:ra", "--control", folder("c")])
        #expect(program.wait() == 1)
        let wanted = "start it with --allow bpf --allow ipc_lock --allow net_admin --allow net_raw"
        #expect(program.output.contains(wanted), "\(program.output)")
        _ = try ringway.totals()
        withExtendedLifetime(wires) {}
    }

    @Test("what cannot be opened is named, and who has it goes on")
    func refused() throws {
        let wires = try Wires("refused")
        let (a, _) = (try wires.host("ra", "10.0.0.1"), try wires.host("rb", "10.0.0.2"))
        let ringway = try Ringway(["xdp:ra", "xdp:rb"], mode: "crossconnect", in: wires.home)
        for (port, text) in [
            ("xdp:ra", "xdp:ra: interface ra has an XDP program already"),
            ("xdp:rx", "there is no interface rx"), ("xdp:lo", "interface lo is no Ethernet"),
            ("xdp:a-name-that-is-too-long", "there is no interface a-name-that-is-too-long"),
            ("xdp:rb,queues=2", "queues=2, and interface rb has 1"),
            ("xdp:rb,queue_size=32", "64 to 32768, a power of two"),
        ] {
            let (status, output) = try wires.refusal(port)
            #expect(status == 1 && output.contains(text), "\(output)")
            #expect(output.split(separator: "\n").count == 1, "\(output)")
        }
        #expect(try a.loss(to: "10.0.0.2") == 0)
        _ = try ringway.totals()
        withExtendedLifetime(wires) {}
    }

    @Test("jumbo frames in several pieces; the MTU is followed, and what is longer is dropped and counted")
    func jumbo() throws {
        let wires = try Wires("jumbo")
        let (a, b) = (try wires.host("ra", "10.0.0.1", mtu: 9000), try wires.host("rb", "10.0.0.2", mtu: 9000))
        let ringway = try Ringway(["xdp:ra", "xdp:rb"], mode: "crossconnect", in: wires.home)
        #expect(try a.loss(to: "10.0.0.2 -s 8900") == 0)
        try b.serve()
        #expect(try a.failure(to: "10.0.0.2") == nil)
        try wires.home.run("ip link set ra mtu 1500")
        _ = try ringway.program.wait(for: "interface ra has MTU 1500 now")
        // What comes in is the driver's to refuse, what goes out Ringway's.
        #expect(try b.loss(to: "10.0.0.1 -s 8900", count: 2) == 100)
        #expect(try b.loss(to: "10.0.0.1 -s 1400") == 0)
        let totals = try ringway.totals()
        #expect(totals[0].drops["longer than receiver's buffers"] == 2, "\(totals)")
        #expect(totals[1].drops.isEmpty)
        withExtendedLifetime(wires) {}
    }

    @Test("an MTU that grows beyond a page: the queues are opened anew")
    func grows() throws {
        let wires = try Wires("grows")
        let (a, b) = (try wires.host("ra", "10.0.0.1"), try wires.host("rb", "10.0.0.2"))
        let ringway = try Ringway(["xdp:ra", "xdp:rb"], mode: "crossconnect", in: wires.home)
        #expect(try a.loss(to: "10.0.0.2") == 0)
        for (name, host) in [("ra", a), ("rb", b)] {
            let mark = ringway.log.count
            try wires.home.run("ip link set \(name) mtu 9000")
            _ = try ringway.program.wait(for: "interface \(name) has its link", after: mark)
            // Its driver allows its peer no more before that.
            try host.run("ip link set eth0 mtu 9000")
        }
        #expect(try a.loss(to: "10.0.0.2 -s 8900") == 0)
        #expect(ringway.complaints == [])
        _ = try ringway.totals()
        withExtendedLifetime(wires) {}
    }

    @Test(
        "an interface whose driver has no XDP; one whose driver the poll thread runs; one that is never slept for",
        arguments: ["mv", "ra,busy_poll=on", "ra,busyloop=poll"])
    func others(_ port: String) throws {
        let wires = try Wires("others")
        let (a, b) = (try wires.host("ra", "10.0.0.1"), try wires.host("rb", "10.0.0.2"))
        if port == "mv" { try wires.home.run("ip link add mv link ra type macvlan mode passthru; ip link set mv up") }
        let ringway = try Ringway(["xdp:\(port)", "xdp:rb"], mode: "crossconnect", in: wires.home)
        #expect(ringway.log.contains("generic XDP") == (port == "mv"), "\(ringway.log)")
        #expect(try a.loss(to: "10.0.0.2") == 0)
        try b.serve()
        for more in ["", "-R"] { #expect(try a.failure(to: "10.0.0.2", more) == nil, "\(more)") }
        #expect(ringway.complaints == [])
        _ = try ringway.totals()
        withExtendedLifetime(wires) {}
    }

    @Test("a QEMU guest and the stack behind an interface: ping, TCP both ways", arguments: [false, true])
    func guest(_ isPacked: Bool) throws {
        let (wires, folder) = (try Wires("guest"), Folder())
        let a = try wires.host("ra", "10.0.0.1", queues: 2)
        let ringway = try Ringway(
            ["xdp:ra,queues=2", "vhost-user:\(folder("g")),queues=2"], mode: "crossconnect", in: wires.home)
        let guest = try Guest(
            "guest", [.init(socket: folder("g"), mac: "52:54:00:00:00:01", queues: 2, isPacked: isPacked)])
        try guest.ready()
        try guest.configure("10.0.0.2")
        #expect(try guest.loss(to: "10.0.0.1") == 0)
        try a.serve()
        for reverse in [false, true] { #expect(try guest.iperf("10.0.0.1", reverse: reverse) > 0) }
        #expect(try a.loss(to: "10.0.0.2") == 0)
        #expect(ringway.complaints == [])
        _ = try ringway.totals()
        withExtendedLifetime(wires) {}
    }
}
