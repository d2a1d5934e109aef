import Foundation
import Testing

/// testpmd with one virtio-user port.
final class Testpmd {
    let program: Program
    /// Entries of each of its rings.
    static let ringSize = 1024

    init(_ socket: String, forward: String, options: String, isServer: Bool = false, more: [String] = []) throws {
        let vdev =
            "net_virtio_user0,path=\(socket),queues=1,queue_size=\(Testpmd.ringSize),\(options)"
            + (isServer ? ",server=1" : "")
        program = try Program(
            "testpmd",
            [
                "stdbuf", "-oL", "dpdk-testpmd", "-l", "0,1", "--main-lcore", "0", "--in-memory",
                "--single-file-segments", "--no-pci",
                "--no-telemetry", "-m", "256", "--vdev", vdev, "--", "-i", "--nb-cores=1", "--forward-mode=\(forward)",
                "--auto-start",
                "--total-num-mbufs=16384",
            ] + more)
        _ = try program.wait(for: "testpmd> ", seconds: 30)
    }

    /// Stops forwarding; packets that it received and sent.
    func stop() throws -> (received: Int, sent: Int) {
        program.send("stop")
        let text = try program.wait(for: "Accumulated forward statistics for all ports", seconds: 10)
        let tail = text.components(separatedBy: "Accumulated forward statistics for all ports").last!
        _ = try program.wait(for: "Done.", seconds: 10)
        func number(_ key: String) -> Int {
            let whole =
                tail.isEmpty ? text : program.output.components(separatedBy: "Accumulated forward statistics").last!
            guard let at = whole.range(of: key) else { return -1 }
            return Int(whole[at.upperBound...].drop { !$0.isNumber }.prefix { $0.isNumber }) ?? -1
        }
        return (number("RX-packets:"), number("TX-packets:"))
    }

    /// Status of its end.
    func quit() -> Int32? {
        program.send("quit")
        return program.wait(seconds: 20)
    }
}

/// DPDK's virtio-user as driver of each mode.
@Suite(.serialized) struct DPDKTests {
    static let options = ["packed_vq=0", "packed_vq=1"].flatMap { a in
        ["in_order=0", "in_order=1"].flatMap { b in ["mrg_rxbuf=0", "mrg_rxbuf=1"].map { "\(a),\(b),\($0)" } }
    }

    /// One session; the counts of both sides must agree with the mode.
    private func check(_ mode: String, _ socket: String, _ options: String, isServer: Bool = false, _ ringway: Ringway)
        throws
    {
        let forward = ["drop": "txonly", "generate": "rxonly", "macswap": "flowgen"][mode]!
        let testpmd = try Testpmd(socket, forward: forward, options: options, isServer: isServer)
        usleep(700_000)
        let counts = try testpmd.stop()
        #expect(testpmd.quit() == 0)
        switch mode {
        case "drop": #expect(counts.sent > 0, "\(options): \(counts)")
        case "generate": #expect(counts.received > 0, "\(options): \(counts)")
        default: #expect(counts.sent > 0 && counts.received > 0, "\(options): \(counts)")
        }
        #expect(ringway.complaints == [], "\(options)")
    }

    @Test("every kind of ring, one after the other on the same port", arguments: ["drop", "generate", "macswap"])
    func client(_ mode: String) throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p"))"], mode: mode, ["--cpus", "0"])
        for options in DPDKTests.options { try check(mode, folder("p"), options, ringway) }
        let totals = try ringway.totals()[0]
        // Of `drop` every packet is dropped by its function.
        #expect(
            totals.drops.filter { !["receiver full", "receiver not ready", "by the packet function"].contains($0.key) }
                == [:])
        #expect((totals.drops["by the packet function"] ?? 0 > 0) == (mode == "drop"))
        switch mode {
        case "drop": #expect(totals.rxBytes == totals.rxPackets * 64)
        case "generate": #expect(totals.txBytes == totals.txPackets * 64)
        default: #expect(totals.txPackets > 0)
        }
    }

    @Test("DPDK as the socket's server", arguments: ["drop", "generate", "macswap"])
    func server(_ mode: String) throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p")),client=on"], mode: mode, ["--cpus", "0"])
        for options in ["packed_vq=0,in_order=0,mrg_rxbuf=1", "packed_vq=1,in_order=1,mrg_rxbuf=1"] {
            try check(mode, folder("p"), options, isServer: true, ringway)
        }
        _ = try ringway.totals()
    }

    @Test(
        "packets of several segments, in indirect tables and chains",
        arguments: ["packed_vq=0", "packed_vq=1", "packed_vq=1,in_order=0"])
    func segments(_ options: String) throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("p"))"], mode: "drop", ["--cpus", "0"])
        let testpmd = try Testpmd(
            folder("p"), forward: "txonly", options: options, more: ["--tx-offloads=0x8000", "--txpkts=64,128,256"])
        usleep(300_000)
        let sent = try testpmd.stop().sent
        #expect(testpmd.quit() == 0)
        #expect(ringway.complaints == [])
        let totals = try ringway.totals()[0]
        // What testpmd leaves in the ring when it goes, which has 1,024 entries, nobody gets.
        let left = sent - totals.rxPackets
        #expect(sent > 0 && (0...1024).contains(left), "\(sent) sent, \(totals)")
        #expect(totals.rxBytes == 448 * totals.rxPackets, "\(sent) sent, \(totals)")
    }

    @Test(
        "Ringway killed under traffic and started again: DPDK, the socket's server, goes on",
        arguments: ["packed_vq=0", "packed_vq=1"])
    func killed(_ options: String) throws {
        let folder = Folder()
        var ringway = try Ringway(["vhost-user:\(folder("p")),client=on"], mode: "macswap", ["--cpus", "0"])
        let testpmd = try Testpmd(folder("p"), forward: "flowgen", options: options, isServer: true)
        usleep(300_000)
        ringway.program.end(SIGKILL)
        ringway = try Ringway(["vhost-user:\(folder("p")),client=on"], mode: "macswap", ["--cpus", "0"])
        usleep(1_500_000)
        _ = try testpmd.stop()
        #expect(testpmd.quit() == 0)
        #expect(ringway.complaints == [])
        #expect(try ringway.totals()[0].txPackets > 0, "\(ringway.log)")
    }

    @Test("poll never sleeps and works the same")
    func poll() throws {
        let folder = Folder()
        let ringway = try Ringway(
            ["vhost-user:\(folder("p"))"], mode: "macswap", ["--cpus", "0", "--busyloop", "poll"])
        try check("macswap", folder("p"), "packed_vq=1,in_order=0,mrg_rxbuf=1", ringway)
        try check("macswap", folder("p"), "packed_vq=0,in_order=0,mrg_rxbuf=1", ringway)
        _ = try ringway.totals()
    }
}
