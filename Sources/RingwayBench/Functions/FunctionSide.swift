import CPlatform
import Console
import Foundation
import Glibc
import Ringway
import RingwayLab

/// A device side with two ports and an embedded driver on each; stopped while another is measured.
final class FunctionSide {
    let name: String
    private let child: Child
    let drivers: [EmbeddedDriver]

    /// Ringway's, or with `peer` the one of DPDK's l3fwd: `tools/testbed/l3fwd` or the program itself. `folder` is its
    /// own. The calling thread is the drivers'.
    init(
        _ work: FunctionWork, peer: String?, isPacked: Bool, cpu: Int, folder: String
    ) throws {
        try? FileManager.default.removeItem(atPath: folder)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let sockets = (0..<2).map { "\(folder)/p\($0)" }
        var options = DriverOptions()
        (options.isPacked, options.node) = (isPacked, NUMA.node(ofCPU: cpu))
        if let peer {
            name = "DPDK"
            child = try FunctionSide.startPeer(peer, work, sockets, cpu: cpu, folder: folder)
            // It looks for links before it begins, for nine seconds where there are none.
            try child.say(nil, until: "Checking link status", seconds: 120)
            drivers = try sockets.map { try EmbeddedDriver(path: $0, options) }
            try child.say(nil, until: "entering main loop", seconds: 30)
        } else {
            name = "Ringway"
            child = try Child(
                [CommandLine.arguments[0], "function-device", "--function", work.rawValue, "--cpu", "\(cpu)"] + sockets,
                log: folder + "/log")
            try child.say(nil, until: "ready\n")
            drivers = try sockets.map { try EmbeddedDriver(path: $0, options) }
        }
    }

    private static func startPeer(
        _ path: String, _ work: FunctionWork, _ sockets: [String], cpu: Int, folder: String
    ) throws -> Child {
        try work.peerRules.write(toFile: folder + "/rules", atomically: true, encoding: .utf8)
        // It wants one for IPv6 as well.
        let all = "0:0:0:0:0:0:0:0/0"
        let other = work == .route ? "R2001:db8::/32 1\n" : "R\(all) \(all) 0 : 65535 0 : 65535 0x11/0xff 1\n"
        try other.write(toFile: folder + "/rules6", atomically: true, encoding: .utf8)
        let devices = sockets.enumerated().flatMap { ["--vdev", "net_vhost\($0),iface=\($1)"] }
        return try Child(
            ["stdbuf", "-oL", path, "-l", "\(cpu)", "--in-memory", "--no-pci", "--no-telemetry", "-m", "256"]
                + devices + [
                    "--", "-p", "0x3", "-P", "--parse-ptype", "--lookup", work.lookup,
                    "--config=(0,0,\(cpu)),(1,0,\(cpu))", "--rule_ipv4=\(folder)/rules",
                    "--rule_ipv6=\(folder)/rules6",
                ], log: folder + "/log")
    }

    func pause() { child.pause() }
    func resume() { child.resume() }
    func end() { child.end() }
}
