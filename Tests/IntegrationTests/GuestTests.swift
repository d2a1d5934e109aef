import Foundation
import Testing

/// Two QEMU guests on `crossconnect`.
@Suite(.serialized) struct TwoGuests {
    struct Case: CustomTestStringConvertible, Sendable {
        var isPacked: Bool
        var offloads: (Bool, Bool)
        var testDescription: String {
            "\(isPacked ? "packed" : "split"), offloads \(offloads.0 ? "on" : "off")/\(offloads.1 ? "on" : "off")"
        }
    }
    static let cases = [true, false].flatMap { packed in
        [(true, true), (false, false), (true, false)].map { Case(isPacked: packed, offloads: $0) }
    }

    @Test("ping without loss and TCP both ways over 2 queue pairs", arguments: cases)
    func crossconnect(_ c: Case) throws {
        let folder = Folder()
        let ringway = try Ringway(
            ["vhost-user:\(folder("a")),queues=2", "vhost-user:\(folder("b")),queues=2"], mode: "crossconnect")
        func nic(_ name: String, _ hasOffloads: Bool) -> Guest.NIC {
            Guest.NIC(
                socket: folder(name), mac: "52:54:00:00:00:0\(name)", queues: 2, isPacked: c.isPacked,
                hasOffloads: hasOffloads)
        }
        let a = try Guest("guest-a", [nic("a", c.offloads.0)], cpus: 2)
        let b = try Guest("guest-b", [nic("b", c.offloads.1)], cpus: 2)
        try boot(a, b)
        try a.configure("10.0.0.1")
        try b.configure("10.0.0.2")
        #expect(try a.loss(to: "10.0.0.2") == 0)
        #expect(try b.loss(to: "10.0.0.1") == 0)
        try b.serve()
        #expect(try a.iperf("10.0.0.2", reverse: false) > 5)
        #expect(try a.iperf("10.0.0.2", reverse: true) > 5)
        let queues = try a.run("ls -d /sys/class/net/eth0/queues/tx-*")
        #expect(queues.contains("tx-1"))
        // What a driver may do with a device that runs. QEMU would not tell of a queue's reset, so that the guest must
        // not be offered one.
        for change in ["-L eth0 combined 1", "-L eth0 combined 2", "-G eth0 rx 64 tx 64"] {
            let text = try a.run("ethtool \(change)", anyStatus: change.hasPrefix("-G"))
            #expect(try a.loss(to: "10.0.0.2", count: 3) == 0, "after ethtool \(change): \(text)")
        }
        let totals = try ringway.totals()
        #expect(ringway.complaints == [])
        #expect(totals[0].rxPackets > 100 && totals[1].rxPackets > 100)
        for port in totals { #expect(port.drops["offload fields"] == nil && port.drops["frame length"] == nil) }
    }

    @Test("an idle adaptive engine sleeps")
    func idle() throws {
        let folder = Folder()
        let ringway = try Ringway(
            ["vhost-user:\(folder("a"))", "vhost-user:\(folder("b"))"], mode: "crossconnect", ["--cpus", "0,1"])
        let a = try Guest("guest-a", [.init(socket: folder("a"), mac: "52:54:00:00:00:0a")])
        let b = try Guest("guest-b", [.init(socket: folder("b"), mac: "52:54:00:00:00:0b")])
        try boot(a, b)
        try a.configure("10.0.0.1")
        try b.configure("10.0.0.2")
        #expect(try a.loss(to: "10.0.0.2", count: 5) == 0)
        // ARP's own probes after a ping come within some seconds; then there are seconds in which no thread is woken.
        #expect(ringway.program.sleeps())
        // And it wakes.
        #expect(try a.loss(to: "10.0.0.2", count: 5) == 0)
    }
}

/// Three guests on `switch`: learning, flooding, and guests that come and go.
@Suite(.serialized) struct ThreeGuests {
    let folder = Folder()
    let ringway: Ringway
    let guests: [Guest]
    static let names = ["a", "b", "c"]

    init() throws {
        let folder = folder
        ringway = try Ringway(ThreeGuests.names.map { "vhost-user:\(folder($0))" }, mode: "switch", ["--cpus", "0,1"])
        guests = try ThreeGuests.names.map {
            try Guest(
                "guest-\($0)", [.init(socket: folder($0), mac: "52:54:00:00:00:0\($0)")], memory: 192, staysUp: true)
        }
        for (i, g) in guests.enumerated() {
            try g.ready()
            try g.configure("10.0.0.\(i + 1)")
        }
    }

    private func received(_ g: Guest) throws -> Int {
        let text = try g.run("cat /sys/class/net/eth0/statistics/rx_packets")
        guard let n = Int(text.trimmingCharacters(in: .whitespacesAndNewlines)) else { throw Unexpected(text) }
        return n
    }

    @Test("each reaches each, broadcasts reach all, unicasts one, a moved MAC is relearned")
    func switching() throws {
        for (i, g) in guests.enumerated() {
            for j in 0..<3 where j != i {
                #expect(try g.loss(to: "10.0.0.\(j + 1)", count: 5) == 0, "\(i + 1) to \(j + 1)")
            }
        }
        let before = try (received(guests[1]), received(guests[2]))
        try guests[0].run("arping -c 5 -w 2 -I eth0 10.0.0.99", anyStatus: true)
        let after = try (received(guests[1]), received(guests[2]))
        #expect(after.0 - before.0 >= 2 && after.1 - before.1 >= 2, "broadcasts: \(before) to \(after)")
        // Known addresses are not flooded.
        let quiet = try received(guests[2])
        #expect(try guests[0].loss(to: "10.0.0.2", count: 30) == 0)
        #expect(try received(guests[2]) - quiet < 10)
        // The first guest's addresses move to the third.
        try guests[0].run("ip link set eth0 down")
        try guests[2].run("ip link set eth0 down; ip link set eth0 address 52:54:00:00:00:0a; ip addr flush dev eth0")
        try guests[2].configure("10.0.0.1")
        #expect(try guests[2].loss(to: "10.0.0.2", count: 3) == 0)
        #expect(try guests[1].loss(to: "10.0.0.1", count: 10) == 0)
        #expect(ringway.complaints == [])
    }

    @Test("a guest that reboots, is killed or has its driver unbound recovers; the others notice nothing")
    func comingAndGoing() throws {
        #expect(try guests[0].loss(to: "10.0.0.2", count: 3) == 0)
        let line = "ping -c 250 -i 0.1 -W 2 10.0.0.3"
        let others = guests[1].begin(line)
        // Unbound and bound again while it sends.
        try guests[0].run("(ping -c 400 -i 0.01 10.0.0.2 >/dev/null &) ; sleep 0.3")
        try guests[0].run(
            "cd /sys/bus/virtio/drivers/virtio_net && echo virtio0 >unbind && sleep 0.5 && echo virtio0 >bind && cd /")
        try guests[0].configure("10.0.0.1")
        #expect(try guests[0].loss(to: "10.0.0.3", count: 5) == 0)
        try guests[0].reboot()
        try guests[0].configure("10.0.0.1")
        #expect(try guests[0].loss(to: "10.0.0.3", count: 5) == 0)
        guests[0].kill()
        try guests[0].start()
        try guests[0].configure("10.0.0.1")
        #expect(try guests[0].loss(to: "10.0.0.3", count: 5) == 0)
        #expect(try Guest.loss(guests[1].finish(others, line, seconds: 90)) == 0, "the other guests' traffic")
        #expect(ringway.complaints == [])
        #expect(try ringway.totals().count == 3)
    }
}

/// QEMU stops a machine and lets it go on, which is a new life for its rings.
@Suite(.serialized) struct StoppedMachines {
    @Test(
        "stopped and continued ten times while the other guest pings it, a guest answers each time",
        arguments: [false, true])
    func stopAndContinue(isPacked: Bool) throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("a"))", "vhost-user:\(folder("b"))"], mode: "crossconnect")
        let a = try Guest("guest-a", [.init(socket: folder("a"), mac: "52:54:00:00:00:0a", isPacked: isPacked)])
        let b = try Guest(
            "guest-b", [.init(socket: folder("b"), mac: "52:54:00:00:00:0b", isPacked: isPacked)], qmp: folder("qmp"))
        try boot(a, b)
        try a.configure("10.0.0.1")
        try b.configure("10.0.0.2")
        #expect(try a.loss(to: "10.0.0.2", count: 5) == 0)
        let qmp = try QMP(folder("qmp"))
        try a.run("(ping -i 0.02 10.0.0.2 >/dev/null 2>&1 &)")
        for round in 1...10 {
            try qmp.run("stop")
            // Long enough for packets to come meanwhile.
            usleep(300_000)
            try qmp.run("cont")
            // QEMU does not wait for a device before it answers; what comes before the rings run again is dropped.
            #expect(eventually { (try? a.loss(to: "10.0.0.2", count: 1)) == 0 }, "after cont number \(round)")
            #expect(try a.loss(to: "10.0.0.2", count: 5) == 0, "after cont number \(round)")
            #expect(try b.loss(to: "10.0.0.1", count: 5) == 0, "after cont number \(round)")
        }
        #expect(ringway.complaints == [])
    }
}

/// Ringway itself goes away.
@Suite(.serialized) struct RingwayRestarts {
    @Test(
        "killed under traffic and started again, the guests' traffic resumes",
        arguments: [(false, false), (false, true), (true, true)])
    func killed(isClient: Bool, isPacked: Bool) throws {
        let folder = Folder()
        let ports = ["a", "b"].map { "vhost-user:\(folder($0))" + (isClient ? ",client=on" : "") }
        var ringway = try Ringway(ports, mode: "crossconnect")
        let guests = try ["a", "b"].map {
            try Guest(
                "guest-\($0)",
                [
                    .init(
                        socket: folder($0), mac: "52:54:00:00:00:0\($0)", isPacked: isPacked, isServer: isClient,
                        reconnects: !isClient)
                ])
        }
        try boot(guests[0], guests[1])
        try guests[0].configure("10.0.0.1")
        try guests[1].configure("10.0.0.2")
        #expect(try guests[0].loss(to: "10.0.0.2", count: 5) == 0)
        try guests[1].serve()
        try guests[0].run("(iperf3 -c 10.0.0.2 -t 60 >/dev/null 2>&1 &) ; sleep 0.5")
        ringway.program.end(SIGKILL)
        // The sockets of a server are still there.
        if !isClient { #expect(FileManager.default.fileExists(atPath: folder("a"))) }
        ringway = try Ringway(ports, mode: "crossconnect")
        try guests[0].run("killall iperf3", anyStatus: true)
        var loss = 100
        let end = deadline(15)
        while loss != 0 && now < end { loss = try guests[0].loss(to: "10.0.0.2", count: 5) }
        #expect(loss == 0)
        #expect(ringway.complaints == [])
    }
}
