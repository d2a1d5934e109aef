import Foundation
import Testing

/// The programs of Examples between hosts with real network stacks: namespaces of this machine's kernel behind TAP
/// ports, and QEMU guests. `tools/test Integration` builds them. (A host ends with its object, which lives only as long
/// as it is used: `withExtendedLifetime`.)
@Suite(
    .serialized, .enabled(if: getuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0, "needs root and TAP devices"))
struct ExampleTests {
    @Test("firewall: what the rules allow passes, the rest does not; other rules are read at SIGHUP")
    func firewall() throws {
        let f = Folder()
        let web = "allow icmp from any to any\nallow tcp from any to any port 80\nallow tcp from any port 80 to any\n"
        try web.write(toFile: f("rules"), atomically: true, encoding: .utf8)
        let (a, b) = (try Host("a"), try Host("b"))
        defer { withExtendedLifetime((a, b)) {} }
        let firewall = try Example("firewall", ["tap:a", "tap:b", f("rules")])
        try firewall.give("a", to: a, "10.0.0.1/24")
        try firewall.give("b", to: b, "10.0.0.2/24")
        #expect(try a.loss(to: "10.0.0.2") == 0)
        for port in [80, 81] { try b.serve(port: port) }
        #expect(try a.sends("4M", to: "10.0.0.2", port: 80))
        #expect(try a.sends("4M", to: "10.0.0.2", port: 80, "-R"))
        #expect(try !a.sends("1K", to: "10.0.0.2", port: 81))
        try web.replacingOccurrences(of: "80", with: "81").write(toFile: f("rules"), atomically: true, encoding: .utf8)
        kill(firewall.program.pid, SIGHUP)
        _ = try firewall.program.wait(for: "3 rules from now on")
        #expect(try a.sends("1M", to: "10.0.0.2", port: 81))
        #expect(try !a.sends("1K", to: "10.0.0.2", port: 80))
        let counters = try firewall.counters()
        #expect(counters["allowed packets"]! > 100 && counters["denied packets"]! > 0, "\(counters)")
        #expect(firewall.dropped("no rule allows it") > 0)
    }

    @Test("mirror: the two reach each other, and a third host gets each packet that the first has sent")
    func mirror() throws {
        let hosts = try ["a", "b", "c"].map { try Host($0) }
        defer { withExtendedLifetime(hosts) {} }
        let mirror = try Example("mirror", ["tap:a", "tap:b", "tap:c"])
        // The third before the first says anything.
        for (i, tap) in [(2, "c"), (1, "b"), (0, "a")] { try mirror.give(tap, to: hosts[i], "10.0.0.\(i + 1)/24") }
        #expect(try hosts[0].loss(to: "10.0.0.2") == 0)
        try hosts[1].serve()
        #expect(try hosts[0].sends("4M", to: "10.0.0.2"))
        let end = deadline(10)
        var (sent, seen) = (0, -1)
        while sent != seen && now < end {
            (sent, seen) = (try hosts[0].packets("a").sent, try hosts[2].packets("c").received)
        }
        #expect(sent == seen && sent > 10)
        #expect(try mirror.counters()["mirrored"]! >= sent)
    }

    @Test("ratelimiter: what may come at once passes, what is beyond it does not, and the other way has its own limit")
    func rateLimiter() throws {
        let (a, b) = (try Host("a"), try Host("b"))
        defer { withExtendedLifetime((a, b)) {} }
        // A byte a second, and 9018 at once: what is gone does not come back while the test lasts.
        let limiter = try Example("ratelimiter", ["tap:a", "tap:b", "1000000", "1"])
        try limiter.give("a", to: a, "10.0.0.1/24")
        try limiter.give("b", to: b, "10.0.0.2/24")
        #expect(try a.loss(to: "10.0.0.2") == 0)
        for (host, other) in [(a, "10.0.0.2"), (b, "10.0.0.1")] {
            // Pings have used up some of it: five of 98 bytes, and ARP. The way back also carries what the kernel says
            // of closed ports: some of 576 bytes.
            let least = host === a ? 7 : 2
            let interface = host === a ? "b" : "a"
            let peer = host === a ? b : a
            let before = try peer.packets(interface).received
            try host.run("for i in {1..20}; do printf %01000d 0 >/dev/udp/\(other)/9; done", anyStatus: true)
            let end = deadline(10)
            var count = 0
            while count < least && now < end { count = try peer.packets(interface).received - before }
            #expect((least...8).contains(count))
        }
        let counters = try limiter.counters()
        #expect((9000...18_100).contains(counters["passed bytes"]!) && limiter.dropped("byte limit") > 0)
    }

    @Test("router: ping, TCP both ways, traceroute's errors from the router and from behind it")
    func router() throws {
        let f = Folder()
        try "".write(toFile: f("routes"), atomically: true, encoding: .utf8)
        let (a, b) = (try Host("a"), try Host("b"))
        defer { withExtendedLifetime((a, b)) {} }
        let router = try Example(
            "router",
            [
                f("routes"), "tap:a", "02:00:00:00:00:f0,10.1.0.1/24", "tap:b", "02:00:00:00:00:f1,10.2.0.1/24",
            ])
        try router.give("a", to: a, "10.1.0.2/24", via: "10.1.0.1")
        try router.give("b", to: b, "10.2.0.2/24", via: "10.2.0.1")
        #expect(try a.loss(to: "10.1.0.1", count: 1) == 0, "the router itself")
        // The first waits for an ARP answer.
        _ = try a.loss(to: "10.2.0.2", count: 2)
        #expect(try a.loss(to: "10.2.0.2") == 0)
        try b.serve()
        #expect(try a.sends("4M", to: "10.2.0.2"))
        #expect(try a.sends("4M", to: "10.2.0.2", "-R"))
        let hops = try a.run("busybox traceroute -n -q 1 -w 2 -m 4 10.2.0.2").split(separator: "\n").dropFirst()
        #expect(hops.map { $0.split(separator: " ")[1] } == ["10.1.0.1", "10.2.0.2"])
        #expect(try a.run("busybox traceroute -n -q 1 -w 2 -m 2 10.9.0.1", anyStatus: true).contains("!N"))
        #expect(try router.counters()["forwarded"]! > 100)
    }

    @Test("vlanswitch: two of them over a trunk; each VLAN's hosts reach each other alone, isolated ones not at all")
    func vlanSwitch() throws {
        let f = Folder()
        let hosts = try ["a", "b", "c", "d", "e"].map { try Host($0) }
        defer { withExtendedLifetime(hosts) {} }
        let first = try Example(
            "vlanswitch",
            [
                "tap:a", "10u", "tap:b", "20u", "tap:e", "10u+i", "vhost-user:\(f("trunk"))", "10+20",
            ])
        let second = try Example(
            "vlanswitch", ["tap:c", "10u+i", "tap:d", "20u", "tap:f", "10u+i", "virtio-user:\(f("trunk"))", "10+20"])
        for (i, tap) in ["a", "b", "c", "d", "e"].enumerated() {
            try (i == 2 || i == 3 ? second : first).give(tap, to: hosts[i], "10.0.0.\(i + 1)/24")
        }
        let (a, b, e) = (hosts[0], hosts[1], hosts[4])
        // The trunk may still be coming up.
        let end = deadline(10)
        while try a.loss(to: "10.0.0.3", count: 1) != 0 && now < end {}
        #expect(try a.loss(to: "10.0.0.3") == 0 && b.loss(to: "10.0.0.4") == 0 && a.loss(to: "10.0.0.5") == 0)
        #expect(try a.loss(to: "10.0.0.2", count: 1) == 100 && b.loss(to: "10.0.0.3", count: 1) == 100)
        try hosts[2].serve()
        #expect(try a.sends("4M", to: "10.0.0.3"))
        // Isolation is a switch's own: the trunk is not isolated. A second isolated host on the same switch is.
        let other = try Host("f")
        try second.give("f", to: other, "10.0.0.6/24")
        #expect(try other.loss(to: "10.0.0.1", count: 2) == 0 && other.loss(to: "10.0.0.3", count: 1) == 100)
        #expect(try e.loss(to: "10.0.0.3", count: 2) == 0)
        #expect(try first.counters()["forwarded"]! > 100 && second.counters()["learned"]! >= 5)
    }

    @Test("nat44: hosts inside reach servers outside by one address, errors and forwarded ports find them, no one else")
    func nat() throws {
        let (a, c, server) = (try Host("a"), try Host("c"), try Host("server"))
        defer { withExtendedLifetime((a, c, server)) {} }
        let nat = try Example(
            "nat44",
            [
                "198.51.100.254", "tap:wan", "02:00:00:00:00:f0,198.51.100.1/24", "tap:a",
                "02:00:00:00:00:f1,10.0.0.1/24", "tap:c", "02:00:00:00:00:f2,10.0.1.1/24", "tcp:8080=10.0.0.2:5201",
            ])
        // It has no way to 10.0.0.0/8: what it answers goes to the outside address.
        try nat.give("wan", to: server, "198.51.100.254/24")
        try server.run("ip addr add 203.0.113.5/32 dev lo")
        try nat.give("a", to: a, "10.0.0.2/24", via: "10.0.0.1")
        try nat.give("c", to: c, "10.0.1.2/24", via: "10.0.1.1")
        for host in [a, c] {
            _ = try host.loss(to: "203.0.113.5", count: 2)
            #expect(try host.loss(to: "203.0.113.5") == 0)
        }
        for host in [a, server] { try host.serve() }
        for host in [a, c] {
            #expect(try host.sends("4M", to: "203.0.113.5") && host.sends("4M", to: "203.0.113.5", "-R"))
        }
        // To the address that iperf3 answers UDP from.
        #expect(try a.sends("200K", to: "198.51.100.254", "-u -b 20M -l 1000"), "UDP")
        let log = try server.run("cat /tmp/ringway-iperf-\(server.pid).log")
        #expect(log.contains("from 198.51.100.1,") && !log.contains("from 10."))
        // Time exceeded by the NAT, port unreachable by the server's kernel, which quotes what it saw.
        let hops = try a.run("busybox traceroute -n -q 1 -w 2 -m 4 203.0.113.5").split(separator: "\n").dropFirst()
        #expect(hops.map { $0.split(separator: " ")[1] } == ["10.0.0.1", "203.0.113.5"])
        // A server inside: from outside, and from inside by the outside address.
        #expect(try server.sends("4M", to: "198.51.100.1", port: 8080))
        #expect(try c.sends("1M", to: "198.51.100.1", port: 8080))
        #expect(try !server.sends("1K", to: "198.51.100.1", port: 5201))
        let counters = try nat.counters()
        #expect(counters["sessions opened"]! > 10 && counters["hairpins"]! > 10, "\(counters)")
        #expect(nat.dropped("no session") > 0)
    }

    @Test(
        """
        vxlangateway: QEMU guests on two Ringways in two namespaces, whose kernels route the underlay, and a host on \
        the kernel's own VXLAN, reach each other; another network's hosts reach theirs alone
        """)
    func vxlan() throws {
        let f = Folder()
        let (left, right, kernel) = (try Host("left"), try Host("right"), try Host("kernel"))
        defer { withExtendedLifetime((left, right, kernel)) {} }
        let guests = try ["a", "b"].map {
            try Guest("guest-\($0)", [.init(socket: f($0), mac: "52:54:00:00:00:0\($0)", reconnects: true)])
        }
        // left - right, left - kernel; each gateway behind a TAP of its own side. The tunnel's headers fit everywhere.
        try left.run(
            """
            ip link add right type veth peer name left netns \(right.network)
            ip link add kernel type veth peer name left netns \(kernel.network)
            ip addr add 192.0.2.1/24 dev right; ip addr add 192.0.3.1/24 dev kernel
            for i in right kernel; do ip link set dev $i mtu 1600 up; done; sysctl -qw net.ipv4.ip_forward=1
            """)
        try right.run(
            "ip addr add 192.0.2.2/24 dev left; ip link set dev left mtu 1600 up; sysctl -qw net.ipv4.ip_forward=1")
        try kernel.run(
            """
            ip addr add 192.0.3.3/24 dev left; ip link set dev left mtu 1600 up; ip route add default via 192.0.3.1
            ip link add vx address 02:00:00:00:00:0c type vxlan id 42 local 192.0.3.3 dstport 4789
            for i in 10.1.0.2 10.2.0.2; do bridge fdb append 00:00:00:00:00:00 dev vx dst $i; done
            ip addr add 10.0.0.3/24 dev vx; ip link set dev vx mtu 1500 up
            """)
        func gateway(_ n: Int, _ home: Host, _ other: Int, _ socket: String) throws -> Example {
            let gateway = try Example(
                "vxlangateway",
                [
                    "tap:under", "02:00:00:00:00:f\(n),10.\(n).0.2/24,1600", "10.\(n).0.1",
                    "10.\(other).0.2,192.0.3.3", "vhost-user:\(f(socket))", "42", "tap:other", "7",
                ], in: home)
            try home.run("ip addr add 10.\(n).0.1/24 dev under; ip link set dev under mtu 1600 up")
            return gateway
        }
        let gateways = [try gateway(1, left, 2, "a"), try gateway(2, right, 1, "b")]
        try left.run("ip route add 10.2.0.0/24 via 192.0.2.2")
        try right.run("ip route add 10.1.0.0/24 via 192.0.2.1; ip route add 192.0.3.0/24 via 192.0.2.1")
        let others = [try Host("x"), try Host("y")]
        defer { withExtendedLifetime(others) {} }
        for i in 0..<2 { try gateways[i].give("other", to: others[i], "10.0.0.\(i + 1)/24") }
        _ = try others[0].loss(to: "10.0.0.2", count: 2)
        #expect(try others[0].loss(to: "10.0.0.2") == 0)
        #expect(try others[0].loss(to: "10.0.0.3", count: 1) == 100, "that is in the other network")
        try others[1].serve()
        #expect(try others[0].sends("4M", to: "10.0.0.2") && others[0].sends("4M", to: "10.0.0.2", "-R"))

        try boot(guests[0], guests[1])
        for i in 0..<2 { try guests[i].configure("10.0.0.\(i + 1)") }
        for address in ["10.0.0.2", "10.0.0.3"] {
            _ = try guests[0].loss(to: address, count: 2)
            #expect(try guests[0].loss(to: address, count: 5) == 0, "\(address)")
        }
        #expect(try guests[1].loss(to: "10.0.0.3", count: 5) == 0)
        try guests[1].serve()
        try kernel.serve()
        for reverse in [false, true] {
            #expect(try guests[0].iperf("10.0.0.2", reverse: reverse) > 5)
            #expect(try guests[0].iperf("10.0.0.3", reverse: reverse) > 5)
        }
        for gateway in gateways {
            let counters = try gateway.counters()
            #expect(counters["into the tunnel"]! > 100 && counters["out of the tunnel"]! > 100, "\(counters)")
            #expect(gateway.dropped("malformed") == 0, "\(gateway.program.output.suffix(2000))")
        }
    }
}
