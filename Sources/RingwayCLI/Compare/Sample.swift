import CPlatform
import Foundation
import Ringway

/// One thing that is compared.
struct CompareCase {
    var mode: String
    var format: String
    var size: Int
    var name: String { "\(mode) \(format) \(size)" }

    /// Options of DPDK's virtio-user.
    var rings: String {
        let packed = format.hasPrefix("packed") ? 1 : 0
        let inOrder = format.hasSuffix("in-order") ? 1 : 0
        return "packed_vq=\(packed),in_order=\(inOrder),mrg_rxbuf=1"
    }
    var ports: Int { mode == "crossconnect" ? 2 : 1 }
    /// What the driver does, and the peer.
    var driver: String { ["drop": "txonly", "generate": "rxonly"][mode] ?? "flowgen" }
    var peer: String { ["drop": "rxonly", "generate": "txonly", "macswap": "macswap", "crossconnect": "io"][mode] ?? mode }
}

struct Sample {
    /// Packets a second that the driver counted.
    var mpps: Double
    /// Cycles a packet on the device side; 0: not known.
    var cycles: Double
    /// Share of the time that the device side had work; 0: not known.
    var busy: Double
    /// Cycles of a cache line's way between the two CPUs and back, before and after.
    var pingPong: (Double, Double)
}

/// Runs one back-end with one driver: DPDK's virtio-user, on the first CPU; the device side on the second.
struct Sampler {
    let testpmd: String
    let peer: String
    let cpus: (driver: Int, device: Int)
    let seconds: Double
    let burst: Int
    let folder: String

    func run(_ c: CompareCase, isRingway: Bool) throws -> Sample {
        let before = PingPong.cycles(cpus.driver, cpus.device)
        let sockets = (0..<c.ports).map { "\(folder)/\($0).sock" }
        for s in sockets { unlink(s) }
        let backEnd = try isRingway ? ringway(c, sockets) : dpdk(c, sockets)
        let driver = try startDriver(c, sockets)
        usleep(400_000)
        try driver.say("clear port stats all", until: "testpmd> ")
        let start = SignalWaiter.now
        usleep(UInt32(seconds * 1e6))
        let text = try driver.say("show port stats all", until: "testpmd> ")
        let elapsed = SignalWaiter.now - start
        let packets = Sampler.sum(text, c.mode == "drop" ? "TX-packets:" : "RX-packets:")
        let side = try isRingway ? ringwaySide(backEnd, driver, c) : dpdkSide(backEnd, driver, c)
        return Sample(
            mpps: Double(packets) / elapsed / 1e6, cycles: side.cycles, busy: side.busy, pingPong: (before, PingPong.cycles(cpus.driver, cpus.device)))
    }

    private func startDriver(_ c: CompareCase, _ sockets: [String]) throws -> Child {
        let devices = sockets.enumerated().flatMap { ["--vdev", "net_virtio_user\($0),path=\($1),queues=1,queue_size=1024,\(c.rings)"] }
        let driver = try Child(
            ["stdbuf", "-oL", testpmd, "-l", "\(cpus.driver),\(cpus.device)", "--main-lcore", "\(cpus.device)", "--in-memory", "--single-file-segments",
                "--no-pci", "--no-telemetry", "-m", "256", "--file-prefix", "driver"] + devices
                + ["--", "-i", "--nb-cores=1", "--burst=\(burst)", "--txpkts=\(c.size)", "--forward-mode=\(c.driver)", "--auto-start", "--total-num-mbufs=16384"],
            log: folder + "/driver.log")
        try driver.say(nil, until: "testpmd> ")
        return driver
    }

    private func ringway(_ c: CompareCase, _ sockets: [String]) throws -> Child {
        let child = try Child(
            [CommandLine.arguments[0], "forward", "--json", "--mode", c.mode, "--size", "\(c.size)", "--cpus", "\(cpus.device)", "--busyloop", "poll"]
                + sockets.flatMap { ["--port", "vhost-user:\($0)"] }, log: folder + "/device.log")
        try child.say(nil, until: "ready\n")
        return child
    }

    private func dpdk(_ c: CompareCase, _ sockets: [String]) throws -> Child {
        let devices = sockets.enumerated().flatMap { ["--vdev", "net_vhost\($0),iface=\($1),queues=1"] }
        let child = try Child(
            ["stdbuf", "-oL", peer, "-l", "\(cpus.driver),\(cpus.device)", "--main-lcore", "\(cpus.driver)", "--in-memory", "--no-pci", "--no-telemetry",
                "-m", "256", "--file-prefix", "peer"] + devices
                + ["--", "-i", "--nb-cores=1", "--record-core-cycles", "--forward-mode=\(c.peer)", "--txpkts=\(c.size)", "--auto-start", "--total-num-mbufs=16384"],
            log: folder + "/device.log")
        try child.say(nil, until: "testpmd> ")
        return child
    }

    /// Ends both; the device side's own figures over its whole life, which is all traffic but for the start.
    private func ringwaySide(_ child: Child, _ driver: Child, _ c: CompareCase) throws -> (cycles: Double, busy: Double) {
        child.end()
        driver.end()
        guard let line = child.output.split(separator: "\n").last(where: { $0.hasPrefix("{\"type\":\"totals\"") }),
            let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
            let ports = object["ports"] as? [[String: Any]], let threads = object["threads"] as? [[String: Any]]
        else { throw CompareError("ringway printed no totals:\n\(child.output.suffix(800))") }
        func packets(_ way: String) -> Double { ports.reduce(0) { $0 + ((($1[way] as? [String: Any])?["packets"] as? Double) ?? 0) } }
        let busy = threads.reduce(0.0) { $0 + (($1["busy_cycles"] as? Double) ?? 0) }
        let count = max(packets("rx"), packets("tx"))
        return (count > 0 ? busy / count : 0, 0)
    }

    private func dpdkSide(_ child: Child, _ driver: Child, _ c: CompareCase) throws -> (cycles: Double, busy: Double) {
        let text = try child.say("show fwd stats all", until: "CPU cycles/packet", seconds: 5)
        driver.end()
        child.end()
        guard let at = text.range(of: "CPU cycles/packet=") else { return (0, 0) }
        return (Double(text[at.upperBound...].prefix { $0.isNumber || $0 == "." }) ?? 0, 0)
    }

    private static func sum(_ text: String, _ key: String) -> Int {
        text.components(separatedBy: key).dropFirst().reduce(0) { $0 + (Int($1.drop { $0 == " " }.prefix { $0.isNumber }) ?? 0) }
    }
}

/// How long a cache line takes between two CPUs and back: every figure here changes with it.
enum PingPong {
    private struct Job {
        var word: UnsafeMutablePointer<UInt32>
        var cpu: Int
        /// 0: begins; 1: answers.
        var first: UInt32
        var cycles = 0.0
    }
    private static let rounds: UInt32 = 20_000

    /// Cycles a round trip, between threads of our own.
    static func cycles(_ a: Int, _ b: Int) -> Double {
        let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 32)
        word.initialize(repeating: 0, count: 32)
        let jobs = UnsafeMutablePointer<Job>.allocate(capacity: 2)
        jobs.initialize(to: Job(word: word, cpu: a, first: 0))
        (jobs + 1).initialize(to: Job(word: word, cpu: b, first: 1))
        var threads = [pthread_t(), pthread_t()]
        for i in 0..<2 {
            pthread_create(&threads[i], nil, { raw in
                PingPong.play(raw!.assumingMemoryBound(to: Job.self))
                return nil
            }, jobs + i)
        }
        for t in threads { pthread_join(t, nil) }
        defer {
            word.deallocate()
            jobs.deallocate()
        }
        return jobs[0].cycles
    }

    private static func play(_ job: UnsafeMutablePointer<Job>) {
        _ = CPlat_pin_to_cpu(Int32(job.pointee.cpu))
        let word = job.pointee.word
        var expected = job.pointee.first
        var start: UInt64 = 0
        for round in 0..<rounds {
            // The first rounds wait for the other thread to arrive.
            if round == 100 { start = CPlat_cycles() }
            while CPlat_load32_acquire(word) != expected {}
            CPlat_store32_release(word, expected &+ 1)
            expected &+= 2
        }
        job.pointee.cycles = Double(CPlat_cycles() &- start) / Double(rounds - 100)
    }
}
