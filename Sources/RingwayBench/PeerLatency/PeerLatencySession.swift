import CPlatform
import Console
import Foundation
import Glibc
import Ringway
import RingwayLab

/// Device sides in processes of their own on one CPU, each with embedded drivers of this process on the other. All but
/// the one that is measured are stopped (SIGSTOP), so that samples alternate quickly within one session.
final class PeerLatencySession {
    /// Ringway comes first.
    let sides: [DeviceSide]
    private let what: CompareCase
    private let cpus: (driver: Int, device: Int)
    private var drivers: [[EmbeddedDriver]] = []
    private var flows: [[Load.Flow]] = []

    /// `what` is macswap or crossconnect with one size of frames; bursts of at most 64. The calling thread is the
    /// driver's, and stays on the first CPU.
    init(
        _ what: CompareCase, _ kinds: [(name: String, kind: DeviceSide.Kind)], cpus: (driver: Int, device: Int),
        folder: String
    ) throws {
        self.what = what
        self.cpus = cpus
        var started: [DeviceSide] = []
        for (name, kind) in kinds {
            let side = try DeviceSide(
                name, kind, what, cpus: cpus, folder: "\(folder)/\(started.count)", countsCycles: false)
            started.append(side)
        }
        sides = started
        _ = CPlat_pin_to_cpu(Int32(cpus.driver))
        var options = DriverOptions()
        (options.isPacked, options.isInOrder) = (what.isPacked, what.isInOrder)
        (options.queuePairs, options.node) = (what.queues, NUMA.node(ofCPU: cpus.device))
        for side in sides {
            let own = try side.sockets.map { try EmbeddedDriver(path: $0, options) }
            drivers.append(own)
            let (from, to) = (own[0].pairs, own[own.count - 1].pairs)
            flows.append((0..<what.queues).map { Load.Flow(from: from + $0, to: to + $0) })
        }
        for k in sides.indices {
            try checkFirst(k)
            sides[k].pause()
        }
    }

    /// Its first packets, and whether they come back as they were sent; a stall may lose some of them, and where
    /// something else has the CPUs, many: samples tell of both.
    private func checkFirst(_ k: Int) throws {
        let name = "\(sides[k].name), \(what.format)"
        Load.prepare(flows[k], size: frame)
        var first = Load.Paced()
        for attempt in 1...5 where attempt == 1 || first.lost > 0 {
            first = Load.paced(flows[k], Load.Pace(rate: 100_000, seconds: 0.2, sizes: [frame]))
            settle(k)
            if Signals.haveCome { throw Interrupted() }
            if first.wrong > 0 {
                throw CompareError("\(name): \(first.wrong) of \(first.offered) frames came back not as they were sent")
            }
        }
        if first.lost == first.offered { throw CompareError("\(name): no frame came back") }
        if first.lost > 0 {
            note(
                "\(name): \(first.lost) of \(first.offered) frames lost at 100,000 a second, five times; is something "
                    + "else running on CPUs \(cpus.driver) and \(cpus.device)?")
        }
    }

    private var frame: Int { what.size ?? 64 }

    private func settle(_ k: Int) { for flow in flows[k] { Load.settle(flow) } }

    /// `count` samples of each side, by turns and alternating who is first; nil where a signal cut them short. `begin`
    /// is called before each sample with its number, from 1, and `took` after it.
    func sample(
        _ count: Int, rate: Double, seconds: Double, begin: (Int) -> Void = { _ in },
        took: (Int, String, LatencySample) -> Void = { _, _, _ in }
    ) throws -> [PeerLatencyReport.Side]? {
        var results = sides.map { PeerLatencyReport.Side(name: $0.version ?? $0.name) }
        for n in 1...count {
            for k in n % 2 == 0 ? Array(sides.indices) : sides.indices.reversed() {
                begin(n)
                guard let (sample, paced) = try sample(k, rate: rate, seconds: seconds) else { return nil }
                results[k].add(sample, paced)
                took(n, results[k].name, sample)
            }
        }
        return results
    }

    /// One sample of one side at `rate` packets a second; nil where a signal cut it short.
    private func sample(_ k: Int, rate: Double, seconds: Double) throws -> (sample: LatencySample, paced: Load.Paced)? {
        let device = StolenTime(process: sides[k].process)
        sides[k].resume()
        usleep(5_000)
        let pace = Load.Pace(
            rate: rate, burst: min(what.burst, DriverPair.burst), seconds: seconds, sizes: [frame])
        var warmUp = pace
        warmUp.seconds = 0.02
        _ = Load.paced(flows[k], warmUp)
        let driver = StolenTime()
        let paced = Load.paced(flows[k], pace)
        let driverStolen = driver.nanoseconds
        settle(k)
        sides[k].pause()
        sides[k].waitUntilStopped()
        let sample = LatencySample(
            paced, driverStolen: driverStolen, deviceStolen: device?.nanoseconds ?? 0)
        if Signals.haveCome { return nil }
        if paced.wrong > 0 {
            throw CompareError("\(sides[k].name): \(paced.wrong) frames came back without the stamp that was sent")
        }
        return (sample, paced)
    }

    func end() {
        for side in sides { side.end() }
        withExtendedLifetime(drivers) {}
    }
}
