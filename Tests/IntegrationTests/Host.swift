import Foundation

/// A host with a network stack of its own: a network namespace of this machine's kernel, with a shell in it. What runs
/// there ends with the object.
final class Host {
    let name: String
    private let program: Program
    private var commands = 0

    init(_ name: String) throws {
        self.name = name
        program = try Program("host-\(name)", ["unshare", "-n", "-p", "-f", "--kill-child", "bash"])
        // Nobody sends unasked: so that packets can be counted.
        try run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; ip link set lo up")
    }

    var pid: pid_t { program.pid }
    /// For `ip link set ... netns`: a host has numbers of its own for processes.
    var network: String { "/proc/\(pid)/ns/net" }

    /// Carries a line out; its output. Errors: a status other than 0, no answer.
    @discardableResult
    func run(_ line: String, seconds: Double = 30, anyStatus: Bool = false) throws -> String {
        commands += 1
        let (mark, end) = (program.output.count, "@@\(commands) ")
        program.send("{ \(line)\n} </dev/null; echo \"\(end)$?@@\"")
        var text = try program.wait(for: end, after: mark, seconds: seconds)
        if !text.hasSuffix("@@\n") { text = try program.wait(for: "@@\n", after: mark, seconds: 5) }
        let parts = text.components(separatedBy: end)
        guard anyStatus || parts[1].hasPrefix("0@@") else { throw Unexpected("\(name): \(line):\n\(text)") }
        return parts[0]
    }

    /// A program in this host's network.
    func start(_ name: String, _ arguments: [String]) throws -> Program {
        try Program(name, ["nsenter", "-t", "\(pid)", "-n"] + arguments)
    }

    /// Percentage of lost pings; one that gets nothing takes a second a ping.
    func loss(to address: String, count: Int = 5) throws -> Int {
        try Guest.loss(run("busybox ping -c \(count) -i 0.05 -W 1 \(address)", anyStatus: true))
    }

    /// So many bytes by TCP from here to an `iperf3 -s`; true when they have arrived.
    func sends(_ bytes: String, to address: String, port: Int = 5201, _ more: String = "") throws -> Bool {
        let text = try run(
            "iperf3 -c \(address) -p \(port) -n \(bytes) --connect-timeout 1000 \(more)", seconds: 60, anyStatus: true)
        return text.contains("iperf Done.")
    }

    /// An `iperf3 -s`, until the host ends.
    func serve(port: Int = 5201) throws {
        try run("(iperf3 -s -p \(port) >/tmp/ringway-iperf-\(pid).log 2>&1 &); \(Guest.untilListening(port))")
    }

    /// What `ip -s link` says of an interface's packets.
    func packets(_ interface: String) throws -> (received: Int, sent: Int) {
        let text = try run("grep \(interface): /proc/net/dev").split(whereSeparator: { " :".contains($0) })
        guard text.count > 10, let rx = Int(text[2]), let tx = Int(text[10]) else { throw Unexpected("\(text)") }
        return (rx, tx)
    }

    deinit { try? FileManager.default.removeItem(atPath: "/tmp/ringway-iperf-\(pid).log") }
}

/// A program of Examples, with TAP interfaces that go to hosts: run as its user runs it.
final class Example {
    let program: Program
    /// Where it runs.
    let home: Host

    init(_ name: String, _ arguments: [String], in home: Host? = nil) throws {
        self.home = try home ?? Host(name)
        program = try self.home.start(name, [root + "/.build/examples/release/\(name)"] + arguments)
        for argument in arguments where argument.hasPrefix("tap:") {
            _ = try program.wait(for: "interface \(argument.dropFirst(4)) with")
        }
    }

    /// Gives an interface to a host, with an address such as 10.0.0.1/24, and perhaps a way to all others.
    func give(_ tap: String, to host: Host, _ address: String, via router: String? = nil) throws {
        try home.run("ip link set dev \(tap) netns \(host.network)")
        let route = router.map { "; ip route add default via \($0)" } ?? ""
        try host.run("ip addr add \(address) dev \(tap); ip link set dev \(tap) up\(route)")
    }

    /// Ends it: its counters by name. Errors: another status than 0.
    func counters() throws -> [String: Int] {
        let status = program.end()
        guard status == 0 else { throw Unexpected("\(program.name): status \(status ?? -1):\n\(program.output)") }
        var all: [String: Int] = [:]
        for line in program.output.split(separator: "\n") {
            let parts = line.components(separatedBy: ": ")
            if parts.count == 2, let count = Int(parts[1]) { all[parts[0]] = count }
        }
        return all
    }

    /// What its ports have dropped, by cause, as it said last.
    func dropped(_ cause: String) -> Int {
        let parts = program.output.components(separatedBy: "cause: \"\(cause)\", count: ")
        return parts.count > 1 ? Int(parts[parts.count - 1].prefix { $0.isNumber }) ?? 0 : 0
    }
}
