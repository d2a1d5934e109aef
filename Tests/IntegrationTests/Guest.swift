import CPlatform
import Foundation

/// A QEMU guest with virtio-net devices on vhost-user sockets, driven over its serial console.
final class Guest {
    struct NIC {
        var socket: String
        var mac: String
        var queues = 1
        var isPacked = false
        var hasOffloads = true
        /// QEMU is the socket's server.
        var isServer = false
        /// QEMU, as client, connects again after a second.
        var reconnects = false
    }

    private var program: Program
    private let arguments: [String]
    let name: String
    private static let offloads = [
        "csum", "gso", "guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo", "host_tso4", "host_tso6",
        "host_ecn", "host_ufo",
    ]

    /// Starts it; `ready()` waits for the console. `iommu`: it has one, and its kernel this option for it.
    init(
        _ name: String, _ nics: [NIC], cpus: Int = 1, memory: Int = 256, initrd: String? = nil, numa: [String]? = nil,
        staysUp: Bool = false, qmp: String? = nil, incoming: String? = nil, iommu: String? = nil
    ) throws {
        self.name = name
        let testbed = root + "/.testbed/"
        var a = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "\(cpus)", "-m", "\(memory)",
        ]
        a += ["-display", "none", "-monitor", "none", "-serial", "stdio", "-nodefaults"]
        if let qmp { a += ["-qmp", "unix:\(qmp),server=on,wait=off"] }
        if !staysUp { a.append("-no-reboot") }
        a += numa ?? ["-object", "memory-backend-memfd,id=m,size=\(memory)M,share=on", "-numa", "node,memdev=m"]
        a += ["-kernel", testbed + "vmlinuz", "-initrd", initrd ?? testbed + "initramfs.gz"]
        // no_timer_check: where the host is busy, the kernel thinks that its timer does not work, and panics.
        a += ["-append", "console=ttyS0 quiet panic=-1 no_timer_check ipv6.disable=1 " + (iommu ?? "")]
        if iommu != nil { a += ["-machine", "q35", "-device", "intel-iommu,device-iotlb=on"] }
        for (i, nic) in nics.enumerated() {
            let side = nic.isServer ? ",server=on" : nic.reconnects ? ",reconnect=1" : ""
            a += ["-chardev", "socket,id=c\(i),path=\(nic.socket)\(side)"]
            a += ["-netdev", "vhost-user,id=n\(i),chardev=c\(i),queues=\(nic.queues)"]
            // vectors=0: QEMU 7.2 without KVM cannot do MSI-X on a vhost back-end.
            var device = "virtio-net-pci,netdev=n\(i),mac=\(nic.mac),mq=\(nic.queues > 1 ? "on" : "off"),vectors=0"
            if nic.isPacked { device += ",packed=on" }
            if iommu != nil { device += ",iommu_platform=on,ats=on,disable-legacy=on" }
            if !nic.hasOffloads { device += Guest.offloads.map { ",\($0)=off" }.joined() }
            a += ["-device", device]
        }
        if let incoming { a += ["-incoming", "unix:\(incoming)"] }
        arguments = a
        program = try Program(name, a)
    }

    /// One that another program starts, and whose console `arguments` then are.
    init(console name: String, _ arguments: [String]) throws {
        self.name = name
        self.arguments = arguments
        program = try Program(name, arguments)
    }

    /// Waits until it takes commands.
    func ready() throws { _ = try program.wait(for: "@@READY@@", seconds: 60) }

    /// Carries a line out; its output. Errors: a status other than 0, no answer.
    @discardableResult
    func run(_ line: String, seconds: Double = 30, anyStatus: Bool = false) throws -> String {
        try finish(begin(line), line, seconds: seconds, anyStatus: anyStatus)
    }

    /// Sends a line without waiting for its end; give what comes back to `finish`.
    func begin(_ line: String) -> Int {
        let mark = program.output.count
        program.send(line)
        return mark
    }

    @discardableResult
    func finish(_ mark: Int, _ line: String, seconds: Double = 30, anyStatus: Bool = false) throws -> String {
        let text = try program.wait(for: "@@STATUS ", after: mark, seconds: seconds)
        // The status itself may be a moment later.
        let whole =
            text.hasSuffix("@@") || text.contains("@@\r\n")
            ? text : try program.wait(for: "@@\r\n", after: mark, seconds: 5)
        let parts = whole.components(separatedBy: "@@STATUS ")
        guard anyStatus || parts.last!.hasPrefix("0@@") else { throw Unexpected("\(name): \(line):\n\(whole)") }
        return parts[0]
    }

    /// Gives an interface its address.
    func configure(_ address: String, interface: String = "eth0") throws {
        try run("ip addr add \(address)/24 dev \(interface) && ip link set \(interface) up")
    }

    /// Percentage of lost pings.
    func loss(to address: String, count: Int = 20) throws -> Int {
        try Guest.loss(run("ping -c \(count) -i 0.1 -W 2 \(address)", seconds: 60, anyStatus: true))
    }

    static func loss(_ text: String) throws -> Int {
        guard let at = text.range(of: "% packet loss"),
            let n = Int(text[..<at.lowerBound].split(separator: " ").last ?? "")
        else {
            throw Unexpected("ping said:\n\(text)")
        }
        return n
    }

    /// Has an `iperf3 -s` listen: it returns before it does.
    static let server = "iperf3 -s -D; \(untilListening(5201))"

    /// Waits until somebody listens at a TCP port (0A), of the network namespace that it runs in. Without quotes, so
    /// that it can stand between any.
    static func untilListening(_ port: Int) -> String {
        let place = String(format: ":%04X", port)
        return "until grep -qsE \(place).0*:0000.0A /proc/net/tcp /proc/net/tcp6; do sleep 0.05; done"
    }

    /// The same in this guest.
    func serve() throws { try run(Guest.server) }

    /// TCP for two seconds to an `iperf3 -s`; Mbit/s as the receiver saw them.
    func iperf(_ address: String, reverse: Bool) throws -> Double {
        let text = try run("iperf3 -c \(address) -t 2 -f m\(reverse ? " -R" : "")", seconds: 40)
        guard let line = text.split(whereSeparator: \.isNewline).last(where: { $0.contains("receiver") }) else {
            throw Unexpected(text)
        }
        let words = line.split(separator: " ")
        guard let unit = words.firstIndex(of: "Mbits/sec"), let rate = Double(words[unit - 1]) else {
            throw Unexpected(text)
        }
        return rate
    }

    /// `reboot -f` without waiting for an answer; `ready()` afterwards.
    func reboot() throws {
        let mark = program.output.count
        program.send("reboot -f")
        _ = try program.wait(for: "@@READY@@", after: mark, seconds: 60)
    }

    func kill() { program.end(SIGKILL) }

    var pid: pid_t { program.pid }

    /// What came over its console, and from QEMU.
    var output: String { program.output }

    /// The same machine again.
    func start() throws {
        program = try Program(name, arguments)
        try ready()
    }
}

/// QEMU's machine protocol: one command after another.
final class QMP {
    private let fd: Int32
    private let path: String

    /// Waits for a QEMU that only just starts: its socket is not there at first, and then nobody listens on it yet.
    init(_ path: String) throws {
        self.path = path
        fd = CPlat_unix_socket()
        let end = deadline(20)
        while CPlat_unix_connect(fd, path) != 0 {
            guard now < end else { throw Unexpected("\(path): connect: \(errno)") }
            usleep(20_000)
        }
        _ = try answer("\"QMP\"")
        try run("qmp_capabilities")
    }

    deinit { close(fd) }

    /// Returns when QEMU says that it is done, with what it says. `arguments` are JSON.
    @discardableResult
    func run(_ command: String, _ arguments: String = "{}") throws -> String {
        let bytes = Array("{\"execute\":\"\(command)\",\"arguments\":\(arguments)}\n".utf8)
        guard write(fd, bytes, bytes.count) == bytes.count else { throw Unexpected("\(path): write: \(errno)") }
        let text = try answer("\"return\"")
        if text.contains("\"error\"") { throw Unexpected("\(command): \(text)") }
        return text
    }

    private func answer(_ wanted: String) throws -> String {
        var text = ""
        let end = deadline(20)
        while !text.contains(wanted) && !text.contains("\"error\"") {
            guard now < end else { throw Unexpected("\(path): no \(wanted) in \(text)") }
            var p = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
            guard poll(&p, 1, 1000) == 1 else { continue }
            var bytes = [UInt8](repeating: 0, count: 4096)
            let n = read(fd, &bytes, 4096)
            guard n > 0 else { throw Unexpected("\(path): closed after \(text)") }
            text += String(decoding: bytes[0..<n], as: UTF8.self)
        }
        return text
    }
}

/// Boots several at once.
func boot(_ guests: Guest...) throws { for g in guests { try g.ready() } }
