import CPlatform
import Dataplane
import Foundation
import RingwayLab
import Testing

/// Ringway as the driver on other people's back-ends.
@Suite(.serialized) struct DriverPortTests {
    /// DPDK's vhost PMD, sending everything back.
    private func peer(_ socket: String, queues: Int = 1, iommu: Bool = false) throws -> Program {
        let p = try Program(
            "testpmd-vhost",
            [
                "stdbuf", "-oL", "dpdk-testpmd", "-l", "0,1", "--main-lcore", "0", "--in-memory", "--no-pci",
                "--no-telemetry", "-m", "256",
                "--vdev", "net_vhost0,iface=\(socket),queues=\(queues),iommu-support=\(iommu ? 1 : 0)", "--", "-i",
                "--nb-cores=1", "--rxq=\(queues)", "--txq=\(queues)",
                "--forward-mode=macswap", "--auto-start", "--total-num-mbufs=16384",
            ])
        _ = try p.wait(for: "testpmd> ", seconds: 30)
        return p
    }

    private func drive(_ socket: String, seconds: Int = 1, _ more: [String] = []) throws -> Program {
        try Program("drive", [Ringway.binary, "drive", socket, "--seconds", "\(seconds)"] + more)
    }

    @Test(
        "packets to DPDK's vhost PMD and back, with an IOMMU (ACCESS_PLATFORM) too",
        arguments: [
            "in_order=off", "in_order=on", "packed=on,in_order=off", "packed=on", "queues=2", "queue_size=256", "iommu",
            "iommu,packed=on",
        ])
    func dpdk(options: String) throws {
        let f = Folder()
        let iommu = options.hasPrefix("iommu")
        let peer = try peer(f("x"), queues: options == "queues=2" ? 2 : 1, iommu: iommu)
        let ringway = try Ringway(
            ["vhost-user:\(f("a"))", "virtio-user:\(f("x"))" + (iommu ? String(options.dropFirst(5)) : "," + options)],
            mode: "crossconnect")
        _ = try ringway.program.wait(for: "connected to vhost-user", seconds: 10)
        #expect(try drive(f("a")).wait() == 0)
        let totals = try ringway.totals()
        #expect(totals[1].txPackets > 0 && totals[1].rxPackets > 0, "\(options): \(totals)")
        #expect(
            ringway.log.contains("RING_PACKED") == options.contains("packed=on")
                && ringway.log.contains("ACCESS_PLATFORM") == iommu)
        #expect(ringway.complaints == [])
        #expect(peer.isRunning)
    }

    @Test(
        "with DPDK's vhost PMD a port whose threads sleep is called for each frame, from the first of each connection",
        arguments: ["packed=off", "packed=on"])
    func calledAgain(options: String) throws {
        let f = Folder()
        var peer = try self.peer(f("x"))
        let ringway = try Ringway(
            ["vhost-user:\(f("a"))", "virtio-user:\(f("x")),\(options)"], mode: "crossconnect", ["--busyloop", "0"])
        var mark = 0
        for life in 0..<3 {
            _ = try ringway.program.wait(for: "features: ", after: mark, seconds: 30)
            let driver = try EmbeddedDriver(path: f("a"))
            for n in 0..<20 {
                // One at a time: whoever is not called for it stops for ever.
                let frame = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: UInt8(n), count: 50)
                try #require(driver.pairs[0].prepare(1) == 1)
                let out = driver.pairs[0].outgoing.start
                out.pointee.length = UInt32(frame.count)
                CPlat_zero(out.pointee.base - 12, 12)
                frame.withUnsafeBytes { out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
                driver.pairs[0].send(1)
                let end = deadline(20)
                while driver.pairs[0].receiveBurst() == 0 {
                    try #require(now < end, "connection \(life), frame \(n): \(ringway.log.suffix(1000))")
                    usleep(50)
                }
                let back = driver.pairs[0].incoming[0]
                #expect(
                    Array(UnsafeRawBufferPointer(start: back.base, count: frame.count))
                        == Array(frame[6..<12] + frame[0..<6] + frame[12...]))
                driver.pairs[0].giveBack()
                usleep(UInt32(n) * 300)
            }
            if life == 2 { break }
            mark = ringway.log.count
            peer.end(SIGKILL)
            _ = try ringway.program.wait(for: "the back-end has gone", after: mark)
            unlink(f("x"))
            peer = try self.peer(f("x"))
        }
        #expect(ringway.complaints == [])
    }

    @Test(
        "a back-end that is killed under traffic and comes back is used again, with the features of before",
        arguments: ["in_order=off", "packed=on,in_order=on", "queues=2"])
    func reconnect(options: String) throws {
        let f = Folder()
        let queues = options == "queues=2" ? 2 : 1
        var peer: Program? = try self.peer(f("x"), queues: queues)
        let ringway = try Ringway(
            ["vhost-user:\(f("a"))", "virtio-user:\(f("x")),\(options)"], mode: "crossconnect", ["--stats", "0.5"])
        _ = try ringway.program.wait(for: "connected to vhost-user", seconds: 10)
        let load = try drive(f("a"), seconds: 60)
        usleep(500_000)
        peer!.end(SIGKILL)
        _ = try ringway.program.wait(for: "the back-end has gone", seconds: 5)
        let mark = ringway.log.count
        unlink(f("x"))
        peer = try self.peer(f("x"), queues: queues)
        let log = try ringway.program.wait(for: "connected to vhost-user", after: mark, seconds: 10)
        let first = try #require(
            ringway.log.components(separatedBy: "connected to vhost-user").dropFirst().first?.components(
                separatedBy: "features: "
            ).last?.split(separator: "\n").first)
        #expect(log.contains("features: \(first)"))
        #expect(
            first.contains("RING_PACKED") == options.contains("packed")
                && first.contains("IN_ORDER") == !options.contains("in_order=off"))
        // The first interval may have begun before the back-end was killed; the others are later.
        let back = ringway.log.count
        let end = deadline(20)
        func isReceiving() throws -> Bool {
            try ringway.ports("interval", after: back).dropFirst().contains { $0[1].isConnected && $0[1].rxPackets > 0 }
        }
        while try !isReceiving() {
            try #require(now < end, "\(ringway.log.suffix(1000))")
            usleep(100_000)
        }
        #expect(load.isRunning)
        load.end(SIGKILL)
        #expect(ringway.complaints == [])
    }

    @Test(
        "a back-end that comes back with fewer features is an error that names them; with all of them it is used again")
    func fewer() throws {
        let f = Folder()
        var back: Ringway? = try Ringway(["vhost-user:\(f("x")),mtu=1400"], mode: "macswap")
        let ringway = try Ringway(["vhost-user:\(f("a"))", "virtio-user:\(f("x")),mtu=1400"], mode: "crossconnect")
        _ = try ringway.program.wait(for: "connected to vhost-user", seconds: 10)
        back!.program.end()
        back = try Ringway(["vhost-user:\(f("x"))"], mode: "macswap")
        _ = try ringway.program.wait(for: "the back-end came back without MTU", seconds: 10)
        back!.program.end()
        let mark = ringway.log.count
        back = try Ringway(["vhost-user:\(f("x")),mtu=1400"], mode: "macswap")
        _ = try ringway.program.wait(for: "connected to vhost-user", after: mark, seconds: 10)
    }

    @Test(
        "Ringway on both ends, the driver as the socket's server; the back-end killed under traffic and started again",
        arguments: ["packed=off,in_order=off", "packed=on,in_order=on"])
    func own(options: String) throws {
        let f = Folder()
        var back: Ringway? = try Ringway(["vhost-user:\(f("x")),client=on,queues=2"], mode: "macswap")
        let ringway = try Ringway(
            ["vhost-user:\(f("a"))", "virtio-user:\(f("x")),server=on,queues=2,\(options)"], mode: "crossconnect")
        _ = try ringway.program.wait(for: "connected to vhost-user", seconds: 10)
        let load = try drive(f("a"), seconds: 3)
        usleep(700_000)
        back!.program.end(SIGKILL)
        _ = try ringway.program.wait(for: "the back-end has gone", seconds: 5)
        let mark = ringway.log.count
        back = try Ringway(["vhost-user:\(f("x")),client=on,queues=2"], mode: "macswap")
        let log = try ringway.program.wait(for: "features: ", after: mark, seconds: 10)
        #expect(load.wait() == 0)
        // What the second back-end has sent back.
        let later = try back!.totals()
        #expect(later[0].rxPackets > 0 && later[0].txPackets > 0, "\(later)")
        let totals = try ringway.totals()
        #expect(totals[1].rxPackets > later[0].txPackets, "\(totals)")
        #expect(
            (ringway.log.components(separatedBy: "RING_PACKED").count == 3) == options.contains("packed=on"), "\(log)")
        #expect(back!.complaints == [] && ringway.complaints == [])
    }

    @Test(
        """
        probe tells what DPDK's and Ringway's own back-end offer, as text and JSON, and waits where it is the \
        socket's server
        """
    )
    func probe() throws {
        let f = Folder()
        func probe(_ arguments: String...) throws -> (Int32?, String) {
            let p = try Program("probe", [Ringway.binary, "probe"] + arguments)
            return (p.wait(), p.output)
        }
        let peer = try peer(f("x"), queues: 2)
        let (status, text) = try probe(f("x"))
        #expect(
            status == 0 && text.contains("queue pairs          128") && text.contains("RING_PACKED")
                && text.contains("REPLY_ACK"), "\(text)")
        #expect(peer.isRunning)
        let own = try Ringway(["vhost-user:\(f("y")),queues=3,mtu=1400,mac=02:00:00:00:00:07"], mode: "drop")
        let (jsonStatus, json) = try probe("--port", "virtio-user:\(f("y"))", "--json")
        #expect(
            jsonStatus == 0 && json.contains("\"mtu\":1400") && json.contains("\"mac\":\"02:00:00:00:00:07\"")
                && json.contains("\"queue_pairs\":3"), "\(json)")
        #expect(own.complaints == [])
        let waiting = try Program("probe", [Ringway.binary, "probe", "--port", "virtio-user:\(f("z")),server=on"])
        usleep(300_000)
        let client = try Ringway(["vhost-user:\(f("z")),client=on"], mode: "drop")
        #expect(waiting.wait() == 0 && waiting.output.contains("VERSION_1"), "\(waiting.output)")
        #expect(client.complaints == [])
        // What cannot be reached is one line that says what to do.
        try "no socket".write(toFile: f("file"), atomically: true, encoding: .utf8)
        for (place, wanted) in [
            (f("none"), "nobody has made this socket yet"), (f("file"), "not a socket"),
            ("/dev/vhost-blk", "unknown kind"),
        ] {
            let (status, text) = try probe(place)
            #expect(status != 0 && text.contains(wanted) && text.split(separator: "\n").count == 1, "\(text)")
        }
    }

    @Test(
        """
        Open vSwitch with DPDK as back-end of two ports, split with two pairs and packed: packets both ways, and \
        again when it was killed under traffic
        """
    )
    func ovs() throws {
        let f = Folder()
        var ovs = try Program("ovs", [root + "/tools/testbed/ovs", f("ovs")])
        // Its children go with it.
        defer { ovs.end(SIGKILL) }
        _ = try ovs.wait(for: "ready", seconds: 40)
        var sides: [Ringway] = []
        for i in 0..<2 {
            // One split and with two pairs, the other packed.
            let side = try Ringway(
                ["vhost-user:\(f("g\(i)"))", "virtio-user:\(f("ovs"))/p\(i)" + (i == 1 ? ",packed=on" : ",queues=2")],
                mode: "crossconnect")
            let log = try side.program.wait(for: "features: ", seconds: 30)
            #expect(log.contains("IN_ORDER"), "\(log)")
            sides.append(side)
        }
        func check(_ from: Int, _ to: Int) throws {
            let sink = try drive(f("g\(to)"), seconds: 3, ["--receive-only"])
            usleep(300_000)
            #expect(try drive(f("g\(from)"), seconds: 2).wait() == 0)
            #expect(sink.wait() == 0)
            let rates = sink.output.split(separator: "\n").compactMap { $0.split(separator: " ").last }.compactMap {
                Double($0)
            }
            #expect(rates.contains { $0 > 0.01 }, "from \(from) to \(to): \(sink.output)")
        }
        try check(0, 1)
        try check(1, 0)
        let load = try drive(f("g0"), seconds: 30)
        usleep(300_000)
        ovs.end(SIGKILL)
        for side in sides { _ = try side.program.wait(for: "the back-end has gone", seconds: 5) }
        load.end(SIGKILL)
        let marks = sides.map(\.log.count)
        ovs = try Program("ovs", [root + "/tools/testbed/ovs", f("ovs")])
        for (side, mark) in zip(sides, marks) { _ = try side.program.wait(for: "features: ", after: mark, seconds: 40) }
        try check(0, 1)
        for side in sides { #expect(side.complaints == []) }
        #expect(sides[0].log.contains("queue pair 1 on") && sides[1].log.contains("RING_PACKED"))
    }

    @Test("a TAP of this machine's kernel in a network namespace: ping and TCP with offloads to a QEMU guest")
    func tap() throws {
        let f = Folder()
        let name = "rwtap\(getpid() % 10000)"
        let space = "rwtest\(getpid())"
        func sh(_ line: String, seconds: Double = 30) throws -> String {
            let p = try Program("sh", ["sh", "-c", line])
            #expect(p.wait(seconds: seconds) == 0, "\(line): \(p.output)")
            return p.output
        }
        let ringway = try Ringway(["tap:\(name)", "vhost-user:\(f("a"))"], mode: "crossconnect")
        _ = try sh("ip netns add \(space)")
        defer { _ = try? sh("ip netns pids \(space) | xargs -r kill; ip netns del \(space)") }
        _ = try sh(
            """
            ip link set \(name) netns \(space) && ip -n \(space) addr add 10.3.0.2/24 dev \(name) && ip -n \(space) \
            link set \(name) up
            """
        )
        let guest = try Guest("guest-tap", [Guest.NIC(socket: f("a"), mac: "52:54:00:00:03:01")])
        try guest.ready()
        try guest.configure("10.3.0.1")
        #expect(try guest.loss(to: "10.3.0.2") == 0)
        _ = try sh("ip netns exec \(space) sh -c '\(Guest.server)'")
        for reverse in [false, true] { #expect(try guest.iperf("10.3.0.2", reverse: reverse) > 20) }
        let totals = try ringway.totals()
        // Segmentation offload passes: frames are larger than the MTU.
        #expect(
            totals[0].rxBytes / max(1, totals[0].rxPackets) > 1600
                || totals[0].txBytes / max(1, totals[0].txPackets) > 1600, "\(totals)")
        #expect(ringway.complaints == [])
    }

    @Test("a TAP interface that is deleted is an error in the log, and its port is not connected any more")
    func tapGone() throws {
        let f = Folder()
        let name = "rwgone\(getpid() % 10000)"
        let ringway = try Ringway(["tap:\(name)", "vhost-user:\(f("a"))"], mode: "crossconnect")
        #expect(try Program("sh", ["sh", "-c", "ip link set \(name) up; sleep 0.3; ip link del \(name)"]).wait() == 0)
        _ = try ringway.program.wait(for: "the interface has gone", seconds: 5)
        let tap = try ringway.totals()[0]
        #expect(tap.port == "tap:\(name)" && !tap.isConnected, "\(ringway.log)")
    }
}
