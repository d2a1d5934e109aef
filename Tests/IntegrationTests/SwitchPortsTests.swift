import Foundation
import Testing

/// The switch whose ports have options (docs/switch.md), with QEMU guests: their kernels' VLANs, ARP and TCP.
@Suite(.serialized) struct GuestsOfVLANs {
    private let folder = Folder()
    private let ringway: Ringway
    private let guests: [Guest]

    /// Guests a and b are isolated, c is not, all in VLAN 10; d is in VLAN 20; e has tags of both.
    init() throws {
        let folder = folder
        let options = [
            "access=10,isolated=on,static=52:54:00:00:00:0a,anti_spoof=on", "access=10,isolated=on", "access=10",
            "access=20", "trunk=10+20",
        ]
        let names = ["a", "b", "c", "d", "e"]
        ringway = try Ringway(
            zip(names, options).map { "vhost-user:\(folder($0)),\($1)" }, mode: "switch", ["--cpus", "0,1"])
        // One after the other: they are many.
        guests = try names.map {
            let guest = try Guest("guest-\($0)", [.init(socket: folder($0), mac: "52:54:00:00:00:0\($0)")], memory: 160)
            try guest.ready()
            return guest
        }
        // One network for all: the switch alone keeps VLAN 20's guest from the others.
        for (i, g) in guests[..<4].enumerated() { try g.configure("10.0.0.\(i + 1)") }
        try guests[3].run("ip addr add 10.0.20.4/24 dev eth0")
        try guests[4].run("ip link set eth0 up")
        for (vlan, address) in [(10, "10.0.0.5"), (20, "10.0.20.5")] { try addVLAN(vlan, address, to: guests[4]) }
    }

    private func addVLAN(_ vlan: Int, _ address: String, to g: Guest) throws {
        try g.run("ip link add link eth0 name eth0.\(vlan) type vlan id \(vlan)")
        try g.configure(address, interface: "eth0.\(vlan)")
    }

    private func setMAC(_ mac: String, of g: Guest) throws {
        try g.run("ip link set eth0 down; ip link set eth0 address \(mac) && ip link set eth0 up")
    }

    @Test("each reaches its VLAN alone, the isolated not each other; who takes another's address or tag is dropped")
    func reach() throws {
        let (a, b, c, d, e) = (guests[0], guests[1], guests[2], guests[3], guests[4])
        for (g, address) in [
            (a, "10.0.0.3"), (b, "10.0.0.3"), (c, "10.0.0.1"), (a, "10.0.0.5"), (e, "10.0.0.2"), (e, "10.0.20.4"),
            (d, "10.0.20.5"),
        ] {
            #expect(try g.loss(to: address, count: 5) == 0, "\(g.name) to \(address)")
        }
        // Tags go on and off packets that are still to be cut, with checksums that are still to be made.
        for server in [c, d] { try server.serve() }
        for (g, address) in [(a, "10.0.0.3"), (e, "10.0.0.3"), (e, "10.0.20.4")] {
            for reverse in [false, true] { #expect(try g.iperf(address, reverse: reverse) > 0) }
        }
        for (g, address) in [(a, "10.0.0.4"), (d, "10.0.0.3"), (a, "10.0.0.2"), (b, "10.0.0.1")] {
            #expect(try g.loss(to: address, count: 3) == 100, "\(g.name) to \(address)")
        }
        // Who knows the other's address needs no broadcast.
        try a.run("arp -s 10.0.0.2 52:54:00:00:00:0b")
        #expect(try a.loss(to: "10.0.0.2", count: 3) == 100)
        // A source that is not its own, and then its own again.
        try setMAC("52:54:00:00:00:66", of: a)
        #expect(try a.loss(to: "10.0.0.3", count: 3) == 100)
        try setMAC("52:54:00:00:00:0a", of: a)
        #expect(try a.loss(to: "10.0.0.3", count: 5) == 0)
        // The address of the first, whose own traffic goes on.
        try setMAC("52:54:00:00:00:0a", of: b)
        #expect(try b.loss(to: "10.0.0.3", count: 3) == 100)
        #expect(try a.loss(to: "10.0.0.3", count: 5) == 0)
        // A tag where none may be.
        try addVLAN(20, "10.0.20.3", to: c)
        #expect(try c.loss(to: "10.0.20.4", count: 3) == 100)
        #expect(ringway.complaints == [])
        let drops = try ringway.totals().map(\.drops)
        for (port, cause) in [
            (0, "isolated"), (0, "spoofed source"), (1, "address of another port"), (2, "wrong VLAN"),
        ] {
            #expect(drops[port][cause, default: 0] > 0, "\(cause): \(drops)")
        }
        for port in drops { #expect(port["malformed"] == nil && port["offload fields"] == nil, "\(drops)") }
    }
}

/// Limits of the switch's ports, with DPDK as a sender that does not pause: by counts, whatever the machine's speed.
@Suite(.serialized) struct LimitedSenders {
    struct Case: CustomTestStringConvertible, Sendable {
        /// Of the sender's port, and the receiver's.
        var sender = "", receiver = ""
        var destination = Case.known
        /// Packets that may come at once, at least and at most; nil: all.
        var burst: ClosedRange<Int>?
        var cause = "storm"
        var testDescription: String {
            "\(sender)\(receiver) \(destination): \(burst == nil ? "not limited" : "limited")"
        }
        static let (known, unknown) = ("02:00:00:00:00:02", "02:00:00:00:00:03")
        static let (broadcast, multicast) = ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01")
    }
    static let storms = [Case.broadcast, Case.multicast, Case.unknown].map {
        Case(sender: "storm=1pps", destination: $0, burst: 16...16)
    }
    static let kinds = ["broadcast", "multicast", "unknown"].flatMap { kind in
        [Case.broadcast, Case.multicast, Case.unknown].enumerated().map { place, destination in
            let isOwn = place == ["broadcast", "multicast", "unknown"].firstIndex(of: kind)
            return Case(sender: "storm_\(kind)=1pps", destination: destination, burst: isOwn ? 16...16 : nil)
        }
    }
    static let rates = [
        Case(sender: "rate_in=1pps", burst: 16...16, cause: "rate"),
        Case(receiver: "rate_out=1pps", burst: 16...16, cause: "rate"),
        // 128 KiB at once, of which one thread sees 15/16 or more; a byte a second.
        Case(sender: "rate_in=8bit", burst: 1920...2048, cause: "rate"),
        Case(sender: "rate_in=1pps", destination: Case.broadcast, burst: 16...16, cause: "rate"),
    ]

    @Test(
        "a limit lets through its burst and what each second gives; the rest is dropped under its name, and counted",
        arguments: storms + kinds + rates + [Case(sender: "storm=1pps")])
    func limits(_ c: Case) throws {
        let folder = Folder()
        let start = now
        let ringway = try Ringway(
            [
                "vhost-user:\(folder("p")),\(c.sender)", "null:n,static=\(Case.known),\(c.receiver)",
            ].map { $0.hasSuffix(",") ? String($0.dropLast()) : $0 }, mode: "switch",
            ["--cpus", "0", "--stats", "1"])
        let testpmd = try Testpmd(
            folder("p"), forward: "txonly", options: "packed_vq=1,in_order=0,mrg_rxbuf=1",
            more: ["--eth-peer=0,\(c.destination)"])
        let end = deadline(60)
        func taken() throws -> Int { try ringway.ports("interval").reduce(0) { $0 + $1[0].rxPackets } }
        while try taken() < 20_000 && now < end { usleep(50_000) }
        let sent = try testpmd.stop().sent
        #expect(testpmd.quit() == 0)
        let totals = try ringway.totals()
        let seconds = Int(now - start) + 1
        let (taken, passed) = (totals[0].rxPackets, totals[1].txPackets)
        var drops = totals[0].drops
        // What is in the ring when testpmd disables it.
        let unready = drops.removeValue(forKey: "receiver not ready") ?? 0
        // What testpmd leaves in the ring when it goes nobody gets.
        #expect(taken >= 20_000 && (0...1024).contains(sent - taken), "\(sent) sent, \(totals)")
        #expect(passed + drops[c.cause, default: 0] + unready == taken && unready <= 1024, "\(totals)")
        #expect(drops.keys.allSatisfy { $0 == c.cause }, "\(totals)")
        if let burst = c.burst {
            #expect((burst.lowerBound...burst.upperBound + seconds).contains(passed), "\(seconds) s, \(totals)")
        } else {
            #expect(passed + unready == taken, "\(totals)")
        }
        #expect(ringway.complaints == [])
    }
}
