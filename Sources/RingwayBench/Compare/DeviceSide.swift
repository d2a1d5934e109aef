import Console
import Foundation
import RingwayLab

/// A device side that takes part: a program on the second CPU, paused while another is measured.
final class DeviceSide {
    enum Kind {
        /// A build of ringway, with its `--pacing`; nil: its own, as versions before 0.1.0 have no other.
        case ringway(String, pacing: String? = nil)
        /// DPDK's vhost PMD in testpmd.
        case testpmd(String)
        /// The script that starts Open vSwitch with DPDK.
        case ovs(String)
    }

    let name: String
    let kind: Kind
    let sockets: [String]
    private let child: Child
    private let folder: String

    /// What `--peer PATH` is: another build of ringway, by its name, or testpmd.
    static func peer(_ path: String) -> (name: String, kind: Kind) {
        let isRingway = URL(fileURLWithPath: path).lastPathComponent.hasPrefix("ringway")
        return isRingway ? ("peer", .ringway(path)) : ("DPDK", .testpmd(path))
    }

    /// Starts it with the ports that the case wants. `folder` is its own. Counting cycles costs each side a little.
    init(
        _ name: String, _ kind: Kind, _ c: CompareCase, cpus: (driver: Int, device: Int), folder: String,
        countsCycles: Bool = true
    ) throws {
        self.name = name
        self.kind = kind
        self.folder = folder
        try? FileManager.default.removeItem(atPath: folder)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let sockets = (0..<c.ports).map { "\(folder)/p\($0)" }
        self.sockets = sockets
        let log = folder + "/log"
        switch kind {
        case .ringway(let path, let pacing):
            var arguments = [path, "forward", "--json", "--mode", c.mode, "--cpus", "\(cpus.device)"]
            arguments += ["--busyloop", "poll"]
            if countsCycles { arguments += ["--stats", "0.05"] }
            if let pacing { arguments += ["--pacing", pacing] }
            if c.mode == "generate" { arguments += ["--size", "\(c.size ?? 64)"] }
            arguments += sockets.flatMap { ["--port", "vhost-user:\($0),queues=\(c.queues)"] }
            child = try Child(arguments, log: log)
            // The second is how versions before 0.1.0 write it.
            try child.say(nil, until: "{\"type\":\"ready\"}\n", "ready\n")
        case .testpmd(let path):
            let devices = sockets.enumerated().flatMap { ["--vdev", "net_vhost\($0),iface=\($1),queues=\(c.queues)"] }
            child = try Child(
                [
                    "stdbuf", "-oL", path, "-l", "\(cpus.driver),\(cpus.device)", "--main-lcore", "\(cpus.driver)",
                    "--in-memory", "--no-pci", "--no-telemetry", "-v",
                    "-m", "256", "--file-prefix", "peer",
                ] + devices
                    + [
                        "--", "-i", "--nb-cores=1", "--rxq=\(c.queues)", "--txq=\(c.queues)",
                        "--forward-mode=\(c.peer)",
                        "--txpkts=\(c.size ?? 64)", "--auto-start", "--total-num-mbufs=16384",
                    ] + (countsCycles ? ["--record-core-cycles"] : []),
                log: log)
            try child.say(nil, until: "testpmd> ")
        case .ovs(let script):
            child = try Child([script, folder, "\(cpus.driver)", "\(cpus.device)", "crossconnect"], log: log)
            try child.say(nil, until: "ready\n", seconds: 60)
            let id = (try? String(contentsOfFile: folder + "/vswitchd.pid", encoding: .utf8))?.trimmingCharacters(
                in: .whitespacesAndNewlines)
            guard let id, let worker = pid_t(id) else { throw CompareError("\(script) left no \(folder)/vswitchd.pid") }
            child.worker = worker
            Leftovers.add(program: worker)
        }
    }

    /// DPDK's, as it prints it: `DPDK 22.11.10`; nil for others.
    var version: String? {
        guard case .testpmd = kind, let at = child.output.range(of: "RTE Version: '") else { return nil }
        return String(child.output[at.upperBound...].prefix { $0 != "'" })
    }

    func pause() { child.pause() }
    func resume() { child.resume() }
    /// After `pause`, until none of its threads has a CPU any more. Not for Open vSwitch, which is no child of ours.
    func waitUntilStopped() { child.waitUntilStopped() }
    /// The one that is paused.
    var process: pid_t { child.worker }

    /// Begins to count cycles. It runs since more than one interval of its counters.
    func beginCounting() throws {
        switch kind {
        case .ringway: child.skip()
        case .testpmd: try child.say("clear fwd stats all", until: "testpmd> ")
        case .ovs: _ = try appctl("dpif-netdev/pmd-stats-clear")
        }
    }

    /// Cycles a packet of its busy rounds since then; 0 where nothing was counted.
    func cycles() throws -> Double {
        switch kind {
        case .ringway: return DeviceSide.cycles(inIntervals: child.skip())
        case .testpmd:
            return DeviceSide.number(
                in: try child.say("show fwd stats all", until: "testpmd> ", seconds: 5), after: "CPU cycles/packet=")
        case .ovs:
            return DeviceSide.number(
                in: try appctl("dpif-netdev/pmd-stats-show"), after: "avg processing cycles per packet: ")
        }
    }

    func end() { child.end() }

    /// What is used of an interval of `ringway forward --json`, of any version.
    private struct Interval: Decodable {
        struct Direction: Decodable { var packets: Double }
        struct Port: Decodable { var rx, tx: Direction }
        struct Thread: Decodable { var busyCycles: Double }
        var ports: [Port]
        var threads: [Thread]
    }

    private static func cycles(inIntervals text: String) -> Double {
        var (busy, packets) = (0.0, 0.0)
        for line in text.split(separator: "\n") where line.hasPrefix("{\"type\":\"interval\"") && line.hasSuffix("}") {
            guard let interval = try? JSON.read(Interval.self, Data(line.utf8)) else { continue }
            let (rx, tx) = interval.ports.reduce((0, 0)) { ($0.0 + $1.rx.packets, $0.1 + $1.tx.packets) }
            packets += max(rx, tx)
            busy += interval.threads.reduce(0) { $0 + $1.busyCycles }
        }
        return packets > 0 ? busy / packets : 0
    }

    private func appctl(_ command: String) throws -> String {
        let log = folder + "/appctl"
        let control = try FileManager.default.contentsOfDirectory(atPath: folder).first {
            $0.hasPrefix("ovs-vswitchd") && $0.hasSuffix(".ctl")
        }
        let asked = try Child(["ovs-appctl", "-t", "\(folder)/\(control ?? "")", command], log: log)
        asked.wait(seconds: 10)
        return asked.output
    }

    private static func number(in text: String, after key: String) -> Double {
        guard let at = text.range(of: key) else { return 0 }
        return Double(text[at.upperBound...].prefix { $0.isNumber || $0 == "." }) ?? 0
    }
}
