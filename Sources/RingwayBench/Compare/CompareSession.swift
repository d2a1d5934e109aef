import Console
import Foundation
import RingwayLab

struct Sample: Codable {
    /// Packets a second that the driver counted, in millions.
    var mpps: Double
    /// Of the device side's busy rounds; 0: not known.
    var cyclesPerPacket: Double
    /// Cycles of a cache line's way between the two CPUs and back, before the sample.
    var pingPongCycles: Double
}

/// All device sides with one driver, DPDK's virtio-user on the first CPU: it has ports on each of them, and uses those
/// of one at a time. So every side is measured with the same driver process, memory and CPU state, a moment apart.
final class CompareSession {
    let sides: [DeviceSide]
    private let what: CompareCase
    private let driver: Child
    private let cpus: (driver: Int, device: Int)
    /// IMIX comes from these ports, which are the driver's first.
    private let sources: Int

    init(
        _ c: CompareCase, _ kinds: [(name: String, kind: DeviceSide.Kind)], testpmd: String,
        cpus: (driver: Int, device: Int), folder: String
    ) throws {
        what = c
        self.cpus = cpus
        sources = c.size == nil ? c.ports : 0
        var started: [DeviceSide] = []
        for (name, kind) in kinds {
            let side = try DeviceSide(name, kind, c, cpus: cpus, folder: "\(folder)/\(name)")
            try Verification.check(c, side.sockets, by: name)
            side.pause()
            started.append(side)
        }
        sides = started
        for s in sides { s.resume() }
        driver = try CompareSession.startDriver(
            c, sides.flatMap(\.sockets), sources: sources, testpmd: testpmd, cpus: cpus, folder: folder)
        usleep(100_000)
        for s in sides { s.pause() }
    }

    private static func startDriver(
        _ c: CompareCase, _ sockets: [String], sources: Int, testpmd: String, cpus: (driver: Int, device: Int),
        folder: String
    ) throws -> Child {
        let mix = folder + "/imix.pcap"
        if sources > 0 { try CompareCase.writeIMIX(to: mix) }
        let devices =
            (0..<sources).flatMap { ["--vdev", "net_pcap\($0),rx_pcap=\(mix),infinite_rx=1"] }
            + sockets.enumerated().flatMap { ["--vdev", "net_virtio_user\($0),path=\($1),\(c.rings)"] }
        let driver = try Child(
            [
                "stdbuf", "-oL", testpmd, "-l", "\(cpus.driver),\(cpus.device)", "--main-lcore", "\(cpus.device)",
                "--in-memory", "--single-file-segments",
                "--no-pci", "--no-telemetry", "-m", "384", "--file-prefix", "driver",
            ] + devices
                + [
                    "--", "-i", "--nb-cores=1", "--rxq=\(sources > 0 ? 1 : c.queues)",
                    "--txq=\(sources > 0 ? 1 : c.queues)", "--burst=\(c.burst)",
                    "--txpkts=\(c.size ?? 64)", "--forward-mode=\(c.driver)", "--no-flush-rx",
                    "--total-num-mbufs=32768",
                ],
            log: folder + "/driver.log")
        try driver.say(nil, until: "testpmd> ", seconds: 60)
        return driver
    }

    /// The driver's ports on the side, with the sources of IMIX between them.
    private func ports(_ side: Int) -> [Int] {
        (0..<what.ports).flatMap { k in (sources > 0 ? [k] : []) + [sources + side * what.ports + k] }
    }

    /// One sample of one side.
    func sample(_ side: Int, seconds: Double) throws -> Sample {
        let pingPong = PingPong.cycles(cpus.driver, cpus.device)
        sides[side].resume()
        defer { sides[side].pause() }
        try driver.say("set portlist \(ports(side).map(String.init).joined(separator: ","))", until: "testpmd> ")
        try driver.say("start", until: "testpmd> ")
        usleep(120_000)
        try sides[side].beginCounting()
        let first = try count(side)
        if Signals.wait(until: CPlatClock.seconds + seconds) { throw Interrupted() }
        let last = try count(side)
        let cycles = try sides[side].cycles()
        try driver.say("stop", until: "Done.")
        return Sample(
            mpps: Double(last.packets - first.packets) / (last.time - first.time) / 1e6, cyclesPerPacket: cycles,
            pingPongCycles: pingPong)
    }

    /// What the driver has counted on the side so far, and when. (Clearing its counters would race with its adding to
    /// them.)
    private func count(_ side: Int) throws -> (packets: Int, time: Double) {
        let text = try driver.say("show port stats all", until: "testpmd> ")
        let time = CPlatClock.seconds
        let key = what.mode == "drop" ? "TX-packets:" : "RX-packets:"
        let mine = ports(side).filter { $0 >= sources }
        var sum = 0
        for block in text.components(separatedBy: "NIC statistics for port ").dropFirst() {
            guard let port = Int(block.prefix { $0.isNumber }), mine.contains(port), let at = block.range(of: key)
            else { continue }
            sum += Int(block[at.upperBound...].drop { $0 == " " }.prefix { $0.isNumber }) ?? 0
        }
        return (sum, time)
    }

    func end() {
        for s in sides { s.resume() }
        driver.end()
        for s in sides { s.end() }
    }
}
