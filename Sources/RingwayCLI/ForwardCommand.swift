import ArgumentParser
import Console
import Glibc
import Logging
import Operation
import Ringway

struct ForwardCommand: ParsableCommand, GoesOn, Confined {
    static let configuration = CommandConfiguration(
        commandName: "forward",
        abstract: "Forward packets between ports until SIGINT, SIGTERM or another signal that ends programs.",
        discussion: """
            PORT is vhost-user:PATH, with options after commas:
              queues=N      queue pairs offered (1 to 128, default 1)
              mtu=N         MTU offered to the driver, in bytes
              mac=ADDRESS   MAC address offered to the driver
              busyloop=B    this port's budget instead of --busyloop
              threads=N+N   poll threads that serve its pairs, by number: pair k the k-th, counted round (any port)
              pacing=P      this port's goal instead of --pacing
              client=on     connect to PATH (and reconnect) instead of listening there;
                            if nobody was ever there, the program ends with status 1
              ring_reset=on offer RING_RESET (not to QEMU, which does not pass it on)
              mode=660, user=NAME, group=NAME   of the socket's file: who may write to it may connect

            virtio-user:PATH is the driver's side, on somebody else's back-end: a vhost-user socket, \
            /dev/vhost-net or /dev/vhost-vdpa-N. Besides queues:
              mtu=N         (socket, vDPA) told to the back-end where it can be told
              mac=ADDRESS   (vDPA) told to the device
              server=on     (socket) listen for the back-end instead of connecting to it; \
            without it status 1 as above; mode=, user=, group= as above
              tap=NAME      (/dev/vhost-net) the TAP interface; made if there is none
              busyloop=Nus  on /dev/vhost-net, how long vhost itself polls
              packed=on, in_order=off, queue_size=N   rings; else split, in order, 1024

            tap:NAME is a TAP interface through io_uring; queues=N, busyloop=B.

            xdp:INTERFACE is a network interface through AF_XDP (docs/xdp.md); queues=N (of its queues), busyloop=B.
              queue_size=N  entries of each ring, 64 to 32768 (default 1024)
              busy_poll=on  the poll thread runs the interface's driver, too

            fd=N in place of PATH or NAME is a descriptor that this program was started with (of systemd's sockets \
            from 3 on):
              vhost-user:fd=3, virtio-user:fd=3   a Unix socket that listens, or is connected: such a port \
            ends with its connection
              tap:fd=3      one queue of a TAP

            null:NAME has nothing behind it: what is sent there is counted, and is gone. queues=N, busyloop=B.
              emit=N        it sends frames of N bytes as fast as they are taken, from 02:00:00:00:00:01 \
            to 02:00:00:00:00:02

            With --mode switch any port takes these, too ("in" is what its driver sends):
              access=VLAN   frames of this VLAN, without tags
              trunk=VLANS   tagged frames of these (10+20-30, or all); native=VLAN: that of frames \
            without a tag, else they are dropped. A port with neither is a trunk of all VLANs
              isolated=on   isolated ports do not reach each other
              static=ADDRESSES   MAC addresses (with + between them) that are this port's for good
              sticky=on     addresses that are learned here stay; max_macs=N (with sticky 1) at most
              anti_spoof=on drop sources that are neither in static= nor mac=
              ips=ADDRESSES IP addresses and prefixes of the port, for
              inspect=on    drop ARP and neighbor discovery with other senders, and router advertisements
              ip_guard=on   drop IP packets from other addresses
              rate_in=R, rate_out=R, storm=R   limits (100mbit, 10kpps, 1gbit+200kpps) of what comes in, \
            goes out, is flooded; storm_broadcast=R, storm_multicast=R, storm_unknown=R: of such packets, \
            beside storm=
              mirror=PORT   copies of what comes in and goes out to PORT, by its path (or tap:NAME, null:NAME), \
            which gets nothing else; mirror_in, mirror_out: of one direction

            Example: two QEMU guests with two queue pairs each, on CPU 1
              ringway forward --port vhost-user:/run/vm1.sock,queues=2 \\
                  --port vhost-user:/run/vm2.sock,queues=2 \\
                  --mode crossconnect --cpus 1 --stats 1
            """)

    @Option(name: .customLong("port"), help: ArgumentHelp("A port; repeat for each.", valueName: "port"))
    var ports: [String] = []

    @Option(help: "crossconnect (two ports), switch, macswap, drop or generate.")
    var mode = "crossconnect"

    @Option(
        help: ArgumentHelp(
            "CPUs for poll threads, one each, as in 1 or 0,2-4 (default: one thread, not pinned).", valueName: "list"))
    var cpus: String?

    @Option(
        help: ArgumentHelp(
            "Poll threads that are not pinned, in place of --cpus; for tests, as there may be more than CPUs.",
            valueName: "number"))
    var unpinned = 1

    @Option(
        help: ArgumentHelp(
            """
            How long to poll after the last packet before sleeping: poll (for ever), 0, microseconds as in 50us, or \
            auto.
            """,
            valueName: "budget"))
    var busyloop = "auto"

    @Option(
        help: ArgumentHelp(
            "What busy rings are tuned for: auto (entries wait for a microsecond at most), throughput or latency.",
            valueName: "goal"))
    var pacing = "auto"

    @Option(help: ArgumentHelp("Frame size for generate, in bytes without CRC.", valueName: "bytes"))
    var size = 64

    @Option(help: ArgumentHelp("Forget a switch's MAC address after this long without a packet.", valueName: "seconds"))
    var macAgeing = 300

    @Option(help: ArgumentHelp("Print counters at this interval.", valueName: "seconds"))
    var stats: Double?

    @Flag(help: "Print intervals and totals as one JSON object a line.")
    var json = false

    @Option(help: ArgumentHelp("End after this long.", valueName: "seconds"))
    var duration: Double?

    @Option(
        help: ArgumentHelp(
            """
            A socket by which ports can be added and removed, and more (docs/control.md). After it may stand \
            ,mode=660, ,user=NAME and ,group=NAME; else this user alone may use it.
            """,
            valueName: "path"))
    var control: String?

    @Option(help: ArgumentHelp("The same for those who may read only.", valueName: "path"))
    var controlRead: String?

    @Option(
        help: ArgumentHelp(
            "Ports that there can be at once, those added later included (default: 64).",
            valueName: "number"))
    var maxPorts: Int?

    @OptionGroup var sandbox: SandboxFlags
    @Option(
        help: ArgumentHelp(
            """
            Where metrics can be fetched by HTTP (docs/metrics.md), as in 127.0.0.1:9095, or a socket's path with \
            ,mode=660 and so on as above.
            """,
            valueName: "place"))
    var metrics: String?

    @Option(
        help: ArgumentHelp(
            """
            Go on in the place of the ringway with this control socket, with its ports and settings; guests stay \
            connected (docs/upgrade.md).
            """,
            valueName: "path"))
    var upgradeFrom: String?

    @Option(help: "\(LogLevel.names).")
    var logLevel = "info"

    @Option(help: "\(LogFormat.names).")
    var logFormat = "text"

    func run() throws {
        if let upgradeFrom { return upgrade(upgradeFrom) }
        var settings = Settings(usage(engineOptions), texts: ports)
        checkPeriods(stats: stats, duration: duration)
        guard let level = Logger.Level(rawValue: logLevel) else {
            fail("--log-level \(logLevel): write \(LogLevel.names)", status: 64)
        }
        settings.logLevel = level
        guard let format = LogFormat(rawValue: logFormat) else {
            fail("--log-format \(logFormat): write \(LogFormat.names)", status: 64)
        }
        settings.logFormat = format
        settings.metrics = usage { try metrics.map { try MetricsPlace($0, option: "--metrics") } }
        settings.control = usage { try control.map { try SocketPlace($0, option: "--control") } }
        settings.controlRead = usage { try controlRead.map { try SocketPlace($0, option: "--control-read") } }
        sandbox.apply(to: &settings)
        Run(settings: settings, json: json, stats: stats, duration: duration).run()
    }

    private func upgrade(_ path: String) {
        checkPeriods(stats: stats, duration: duration)
        refuse(
            "--port", "--mode", "--cpus", "--unpinned", "--busyloop", "--pacing", "--size", "--mac-ageing",
            "--control", "--control-read", "--max-ports", "--log-level", "--log-format", "--metrics", "--sandbox",
            "--no-sandbox", "--allow",
            because: "with --upgrade-from ports and settings are those of the ringway that runs")
        let successor = Successor.find(path)
        Run(settings: successor.settings, successor: successor, json: json, stats: stats, duration: duration).run()
    }

    private func engineOptions() throws(EngineError) -> EngineOptions {
        if ports.isEmpty && control == nil {
            throw EngineError("no ports; give at least one as in --port vhost-user:/run/vm1.sock")
        }
        var all: [PortOptions] = []
        for text in ports { all.append(try PortSyntax.port(text)) }
        var options = EngineOptions(ports: all, mode: try forwardingMode())
        options.mostPorts = maxPorts ?? (control == nil ? nil : max(64, all.count))
        if mode != "generate" {
            refuse("--size", because: "goes with --mode generate; in \(mode) the drivers choose their frames")
        }
        if mode != "switch" { refuse("--mac-ageing", because: "goes with --mode switch; \(mode) learns no addresses") }
        if cpus != nil { refuse("--unpinned", because: "threads are pinned or not: give it, or --cpus") }
        if let cpus { options.cpus = try PortSyntax.cpus(cpus) }
        options.unpinnedThreads = unpinned
        do throws(EngineError) { options.busyloop = try PortSyntax.busyloop(busyloop) } catch {
            throw EngineError("--\(error)")
        }
        do throws(EngineError) { options.pacing = try PortSyntax.pacing(pacing) } catch {
            throw EngineError("--\(error)")
        }
        guard (1...1_000_000).contains(macAgeing) else {
            throw EngineError("--mac-ageing \(macAgeing): give 1 to 1000000 seconds")
        }
        options.macAgeing = macAgeing
        return options
    }

    private func forwardingMode() throws(EngineError) -> ForwardingMode {
        if let mode = ForwardingMode(name: mode, size: size) { return mode }
        throw EngineError("--mode \(mode): write crossconnect, switch, macswap, drop or generate")
    }
}
