import Ringway
import Testing

@Suite struct PortSyntaxTests {
    @Test("ports with their options")
    func ports() throws {
        let p = try PortSyntax.port(
            "vhost-user:/run/vm1.sock,queues=2,mtu=9000,client=on,busyloop=50us,"
                + "mac=02:00:00:00:00:0a,ring_reset=on,pacing=latency,threads=3+0"
        )
        #expect(p.kind == .vhostUser(path: "/run/vm1.sock", isClient: true))
        #expect(
            p.queuePairs == 2 && p.mtu == 9000 && p.busyloop == .microseconds(50) && p.mac == [2, 0, 0, 0, 0, 10]
                && p.offersRingReset && p.pacing == .latency && p.threads == [3, 0])
        #expect(
            try PortSyntax.port("virtio-user:/dev/vhost-net,tap=tap0").kind
                == .virtioUser(path: "/dev/vhost-net", isServer: false, tap: "tap0"))
        let v = try PortSyntax.port("virtio-user:/run/x,server=on,queues=2,packed=on,in_order=off,queue_size=256")
        #expect(
            v.kind == .virtioUser(path: "/run/x", isServer: true, tap: nil) && v.queuePairs == 2 && v.wantsPacked
                && !v.wantsInOrder && v.ringSize == 256)
        #expect(try PortSyntax.port("tap:tap0").kind == .tap(name: "tap0"))
        let x = try PortSyntax.port("xdp:eth0,queues=4,queue_size=2048,busy_poll=on")
        #expect(x.kind == .xdp(interface: "eth0", busyPolls: true) && x.queuePairs == 4 && x.ringSize == 2048)
        #expect(try PortSyntax.port("xdp:eth0").kind == .xdp(interface: "eth0", busyPolls: false))
        #expect(try PortSyntax.port("null:sink,queues=2").kind == .null(name: "sink", emit: nil))
        #expect(try PortSyntax.port("null:x,emit=64").kind == .null(name: "x", emit: 64))
        #expect(try PortSyntax.port("vhost-user:/a:b,queues=128").queuePairs == 128)
        #expect(
            try PortSyntax.port("vhost-user:/x,mode=0660,user=root,group=7").socketAccess
                == SocketAccess(mode: 0o660, user: 0, group: 7))
        #expect(try PortSyntax.port("virtio-user:/x,server=on,mode=600").socketAccess == SocketAccess(mode: 0o600))
    }

    @Test("ports of a switch with their options")
    func switching() throws {
        let a = try PortSyntax.port(
            "tap:t,trunk=10+20-22,native=1,isolated=on,sticky=on,max_macs=3,storm=1kpps,rate_out=1gbit+200kpps,"
                + "mirror=tap:mon"
        ).switching
        var wanted = SwitchPort()
        wanted.vlans = .trunk([10, 20, 21, 22], native: 1)
        (wanted.isIsolated, wanted.isSticky, wanted.addressLimit) = (true, true, 3)
        (wanted.limitFlooding, wanted.limitOut) = (
            RateLimit(packets: 1000), RateLimit(packets: 200_000, bytes: 125_000_000)
        )
        (wanted.mirrorIn, wanted.mirrorOut) = ("tap:mon", "tap:mon")
        #expect(a == wanted)
        let b = try PortSyntax.port(
            "vhost-user:/x,access=7,static=02:00:00:00:00:01+2:0:0:0:0:2,anti_spoof=on,"
                + "ips=192.0.2.1+2001:db8::/64,inspect=on,ip_guard=on,rate_in=8kbit,mirror_in=/y"
        ).switching
        wanted = SwitchPort()
        wanted.vlans = .access(7)
        wanted.addresses = [MACAddress(2, 0, 0, 0, 0, 1), MACAddress(2, 0, 0, 0, 0, 2)]
        (wanted.checksSource, wanted.inspects, wanted.checksIP) = (true, true, true)
        (wanted.ipv4, wanted.ipv6) = ([IPv4Prefix("192.0.2.1")!], [IPv6Prefix("2001:db8::/64")!])
        (wanted.limitIn, wanted.mirrorIn) = (RateLimit(bytes: 1000), "/y")
        #expect(b == wanted)
        #expect(try PortSyntax.port("null:x,trunk=all").switching.vlans == .trunk(nil, native: nil))
        #expect(
            try PortSyntax.port("null:x").switching.isPlain && PortSyntax.port("null:x,isolated=off").switching.isPlain)
    }

    @Test(
        "errors of a switch's options name the part and say what to write",
        arguments: [
            ("access=0", "1 to 4094"), ("access=4095", "1 to 4094"), ("access=x", "1 to 4094"),
            ("trunk=", "10+20-30"), ("trunk=5-3", "10+20-30"), ("trunk=1+4095", "10+20-30"),
            ("native=4", "trunk=all,native=4"),
            ("access=1,trunk=2", "one of the two"), ("access=1,native=2", "goes with trunk="),
            ("isolated=yes", "isolated=on"),
            ("static=01:00:00:00:00:00", "unicast"), ("max_macs=0", "1 to 4096"), ("ips=192.0.2.300", "is no address"),
            ("rate_in=10", "100mbit"), ("rate_in=0pps", "100mbit"), ("rate_out=1kpps+2kpps", "100mbit"),
            ("storm=99999999999999999999pps", "100mbit"), ("storm_unknown=1", "storm_unknown=1: write bits"),
            ("storm=7bit", "100mbit"), ("mirror=", "name the port"),
            ("isolated", "name=value"),
            ("acess=3", "of a switch's port access, trunk"),
        ])
    func switchErrors(_ option: String, _ wanted: String) {
        #expect { try PortSyntax.port("tap:t," + option) } throws: {
            "\($0)".contains(wanted) && !"\($0)".contains("\n")
        }
    }

    @Test(
        "errors name the part and say what to write",
        arguments: [
            ("/run/x", "vhost-user:PATH"), ("vhost:/x", "no kind of port"), ("vhost-user:", "nothing stands"),
            ("vhost-user:/x,queues=0", "1 to 128"), ("vhost-user:/x,queues=129", "1 to 128"),
            ("vhost-user:/x,queues", "name=value"),
            ("vhost-user:/x,mtu=67", "68 to 65535"), ("vhost-user:/x,mac=01:00:00:00:00:00", "unicast"),
            ("vhost-user:/x,mac=2:3", "unicast"),
            ("vhost-user:/x,client=yes", "client=on"), ("vhost-user:/x,server=on", "'server' is no option"),
            ("virtio-user:/x,ring_reset=on", "'ring_reset' is no option"), ("tap:t,client=on", "'client' is no option"),
            ("virtio-user:/x,queue_size=1", "2 to 32768"), ("virtio-user:/x,client=on", "server, tap, packed"),
            ("virtio-user:/x,packed=yes", "packed=on"),
            ("tap:t,mtu=1500", "ip link set NAME mtu 1500"),
            ("xdp:", "nothing stands"), ("xdp:eth0,busy_poll=yes", "busy_poll=on"),
            ("xdp:eth0,packed=on", "'packed' is no option"), ("xdp:eth0,mtu=9000", "ip link set NAME mtu 9000"),
            ("tap:t,mac=02:00:00:00:00:01", "ip link set NAME address 02:"),
            ("vhost-user:/x,queues=1,queues=2", "'queues' is given twice"),
            ("vhost-user:/x\0y", "there is a NUL in it"),
            ("vhost-user:/x,busyloop=never", "poll, auto"),
            ("null:x,threads=0-2", "write numbers of poll threads, from 0, as in 0+2"),
            ("null:x,threads=", "as in 0+2"),
            ("vhost-user:/x,pacing=fast", "auto, throughput or latency"),
            ("tap:t,pacing=auto", "'pacing' is no option"),
            ("null:x,mac=02:00:00:00:00:01", "queues, busyloop, threads, emit are"),
            ("null:x,emit=13", "14 to 9216"), ("vhost-user:/x,emit=64", "'emit' is no option"),
            ("vhost-user:/x,", "name=value"),
            ("vhost-user:/x,mode=999", "mode=999: write permissions"),
            ("vhost-user:/x,group=no such", "group=no such: there is no such group"),
            ("tap:t,mode=660", "'mode' is no option of tap"),
        ])
    func errors(_ text: String, _ wanted: String) {
        #expect { try PortSyntax.port(text) } throws: { "\($0)".contains(wanted) && !"\($0)".contains("\n") }
    }

    @Test("budgets and CPU lists")
    func lists() throws {
        #expect(try PortSyntax.busyloop("0") == .sleep && PortSyntax.busyloop("75") == .microseconds(75))
        #expect(try PortSyntax.budgets("0,auto").map(\.name) == ["0", "auto"])
        for bad in ["", "0,,poll", "fast"] { #expect(throws: EngineError.self) { try PortSyntax.budgets(bad) } }
        #expect(try PortSyntax.cpus("0,2-4") == [0, 2, 3, 4])
        for bad in ["", "1,", "3-1", "-1", "a", "1-2-3"] {
            #expect(throws: EngineError.self) { try PortSyntax.cpus(bad) }
        }
        for bad in ["-1", "1000001", "5ms", ""] { #expect(throws: EngineError.self) { try PortSyntax.busyloop(bad) } }
    }

    @Test("engine options that cannot work are refused with one line")
    func engineOptions() {
        func refused(_ change: (inout EngineOptions) -> Void) -> String {
            var o = EngineOptions(
                ports: [
                    PortOptions(.vhostUser(path: "/tmp/a", isClient: false)),
                    PortOptions(.vhostUser(path: "/tmp/b", isClient: false)),
                ], mode: .crossconnect)
            change(&o)
            do { _ = try Engine(o, logger: Lab.logger) } catch { return "\(error)" }
            return ""
        }
        #expect(refused { _ in } == "")
        #expect(refused { $0.ports = [] }.contains("--port"))
        #expect(refused { $0.ports.removeLast() }.contains("two ports"))
        #expect(refused { $0.ports[1] = $0.ports[0] }.contains("twice"))
        #expect(refused { $0.cpus = [0, 0] }.contains("twice"))
        #expect(refused { $0.cpus = [1023] }.contains("CPU 1023"))
        #expect(refused { $0.mode = .generate(size: 10) }.contains("14 to 9216"))
        #expect(refused { $0.ports[0].queuePairs = 200 }.contains("1 to 128"))
        #expect(refused { $0.ports[0].socketAccess.mode = 0o1777 }.contains("/tmp/a: mode=1777"))
        #expect(
            refused {
                $0.ports[0].kind = .vhostUser(path: "/tmp/a", isClient: true)
                $0.ports[0].socketAccess.user = 0
            }.contains("/tmp/a: mode=, user= and group= are of a socket that the port makes"))
    }
}
