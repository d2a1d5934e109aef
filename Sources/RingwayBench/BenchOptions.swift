import ArgumentParser
import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// What the measurements have in common.
struct BenchOptions: ParsableArguments {
    @Option(
        help: "crossconnect or switch (from one driver to another), macswap (back to the sender), drop or generate.")
    var mode = "crossconnect"

    @Flag(help: "Packed rings.")
    var packed = false

    @Flag(help: "IN_ORDER.")
    var inOrder = false

    @Option(
        help: ArgumentHelp("Frame size in bytes without CRC, or imix: 64, 570 and 1518 as 7:4:1.", valueName: "bytes"))
    var size = "64"

    @Option(help: "Frames that the driver sends at once, 1 to 64 (default: 1 for latency, 32 for throughput).")
    var burst: Int?

    @Option(
        help: ArgumentHelp(
            "Queue pairs of each driver, used in turn; one engine thread serves them all.", valueName: "pairs"))
    var queues = 1

    @Option(help: ArgumentHelp("Descriptors of each ring.", valueName: "entries"))
    var ringSize: UInt32 = 1024

    @Flag(help: "crossconnect and switch: half of the packets go the other way.")
    var bothWays = false

    @Option(help: ArgumentHelp("The engine's budget: poll, 0, microseconds, auto.", valueName: "budget"))
    var busyloop = "poll"

    @Option(help: ArgumentHelp("CPU of the engine's thread (default: the second of this process).", valueName: "cpu"))
    var engineCPU: Int?

    @Option(help: ArgumentHelp("CPU of the drivers' thread (default: the first of this process).", valueName: "cpu"))
    var driverCPU: Int?

    @Option(help: ArgumentHelp("Length of each measurement.", valueName: "seconds"))
    var seconds = 2.0

    @Option(
        help: ArgumentHelp(
            "Somebody else's vhost-user back-end, which sends packets back, instead of an engine of our own.",
            valueName: "path"))
    var socket: String?

    /// Frame sizes in turn.
    func sizes() throws(EngineError) -> [Int] { try LoadSyntax.sizes(size) }

    func setup() throws(EngineError) -> Bench.Setup {
        let largest = try sizes().max() ?? 64
        if let burst, !(1...DriverPair.burst).contains(burst) {
            throw EngineError("--burst \(burst): give 1 to \(DriverPair.burst)")
        }
        guard seconds >= 0.1, seconds <= 3600 else { throw EngineError("--seconds \(seconds): give 0.1 to 3600") }
        guard (1...64).contains(queues) else { throw EngineError("--queues \(queues): give 1 to 64 queue pairs") }
        guard RingLayout.isValid(size: ringSize, isPacked: packed) else {
            throw EngineError("--ring-size \(ringSize): 2 to 32768, a power of two for split rings")
        }
        var s = Bench.Setup()
        switch mode {
        case "crossconnect": s.mode = .crossconnect
        case "switch": s.mode = .switch
        case "macswap": s.mode = .macswap
        case "drop": s.mode = .drop
        case "generate": s.mode = .generate(size: largest)
        default: throw EngineError("--mode \(mode): write crossconnect, switch, macswap, drop or generate")
        }
        if case .generate = s.mode, try sizes().count > 1 {
            throw EngineError("--size imix: generate sends frames of one size")
        }
        s.socket = socket
        if socket != nil { s.mode = .macswap }
        if socket != nil {
            refuse(
                "--mode", "--busyloop", "--engine-cpu", because: "is the other back-end's with --socket; leave it out")
        }
        if bothWays && !s.hasTwoPorts {
            throw EngineError("--both-ways: for crossconnect and switch, which have two drivers")
        }
        s.driver.isPacked = packed
        s.driver.isInOrder = inOrder
        s.driver.ringSize = ringSize
        s.driver.queuePairs = queues
        s.driver.frameRoom = max(2048, largest)
        do throws(EngineError) { s.busyloop = try PortSyntax.busyloop(busyloop) } catch {
            throw EngineError("--\(error)")
        }
        try choosePlaces(&s)
        return s
    }

    private func choosePlaces(_ s: inout Bench.Setup) throws(EngineError) {
        Bench.choosePlaces(&s)
        for (name, cpu) in [("--engine-cpu", engineCPU), ("--driver-cpu", driverCPU)] {
            if let cpu, !Bench.allowedCPUs.contains(cpu) { throw EngineError("\(name) \(cpu): \(Bench.allowedText)") }
        }
        // Where one is given and is the other's place, the other takes another one.
        if let engineCPU {
            s.driverCPU = Bench.allowedCPUs.first { $0 != engineCPU } ?? -1
            s.engineCPU = engineCPU
        } else if let driverCPU, driverCPU == s.engineCPU {
            s.engineCPU = Bench.allowedCPUs.first { $0 != driverCPU } ?? -1
        }
        s.driverCPU = driverCPU ?? s.driverCPU
        if s.driverCPU >= 0 && s.driverCPU == s.engineCPU {
            throw EngineError(
                "--driver-cpu \(s.driverCPU) --engine-cpu \(s.engineCPU): driver and engine would take turns; "
                    + "give two CPUs (\(Bench.allowedText))")
        }
        if s.engineCPU >= 0 { s.driver.node = NUMA.node(ofCPU: s.engineCPU) }
    }

    /// What was measured, in a line.
    func title(_ s: Bench.Setup, burst: Int) -> String {
        let rings = "\(packed ? "packed" : "split")\(inOrder ? " in-order" : "") rings of \(ringSize)"
        let places =
            s.driverCPU < 0
            ? "not pinned" : "driver on CPU \(s.driverCPU)\(socket == nil ? ", engine on CPU \(s.engineCPU)" : "")"
        return
            "\(socket ?? mode)\(bothWays ? " both ways" : ""), \(rings), \(queues) queue pair\(queues == 1 ? "" : "s")"
            + ", \(size)\(size == "imix" ? "" : " bytes"), burst \(burst)"
            + "\(socket == nil ? ", busyloop \(busyloop)" : ""), \(places)"
    }

    /// The same as members of a JSON object.
    struct Conditions: Encodable {
        let machine = Machine.summary
        let interrupted = Signals.haveCome
        let mode: String
        let bothWays: Bool
        let packed: Bool
        let inOrder: Bool
        let ringSize: UInt32
        let queuePairs: Int
        let size: String
        let burst: Int
        let busyloop: String
        let seconds: Double
        let engineCpu: Int
        let driverCpu: Int
    }

    func conditions(_ s: Bench.Setup, burst: Int) -> Conditions {
        Conditions(
            mode: socket == nil ? mode : "socket", bothWays: bothWays, packed: packed, inOrder: inOrder,
            ringSize: ringSize, queuePairs: queues, size: size, burst: burst, busyloop: busyloop,
            seconds: seconds.rounded(digits: 2), engineCpu: s.engineCPU, driverCpu: s.driverCPU)
    }

    /// The highest rate without loss; each trial is told to `show`.
    func search(
        _ bench: Bench, _ pace: Load.Pace, highest: Double, resolution: Double, tolerance: Double, confirmation: Double,
        show: (Int, RateSearch.Outcome) -> Void
    ) -> RateSearch {
        let flows = bench.flows(bothWays: bothWays)
        var search = RateSearch(lowest: 1000, highest: highest, resolution: resolution, tolerance: tolerance)
        while !Signals.haveCome, let trial = search.next {
            Progress.show(
                "trial \(search.outcomes.count + 1) of the search, \(Text.number(trial.rate / 1e6, 4)) Mpps")
            var pace = pace
            pace.rate = trial.rate
            if trial.isConfirmation { pace.seconds = confirmation }
            let before = bench.engine.snapshot()
            let result = Load.paced(flows, pace)
            settle(bench, flows, since: before, sent: result.sent, arrived: result.arrived)
            if Signals.haveCome { break }
            search.record(trial, offered: result.offered, arrived: result.arrived)
            show(search.outcomes.count, search.outcomes[search.outcomes.count - 1])
        }
        return search
    }

    /// Takes what is under way, so that nothing of it comes in the next trial: of `sent` frames since `before`,
    /// `arrived` have come back. An engine of our own counts what it takes and delivers, so that no speed matters: its
    /// thread may have been put off its CPU with frames in its hands. Of another, quiet is all that can be waited for.
    private func settle(
        _ bench: Bench, _ flows: [Load.Flow], since before: [PortSnapshot], sent: UInt64, arrived: UInt64
    ) {
        func sum(_ count: (PortSnapshot) -> UInt64) -> UInt64 {
            zip(bench.engine.snapshot(), before).reduce(0) { $0 &+ count($1.0) &- count($1.1) }
        }
        let patience = CPlatClock.seconds + 5
        var taken = arrived
        while true {
            for flow in flows { taken += Load.settle(flow) }
            let hasTaken = sum { $0.rx.packets } >= sent
            let hasEnded =
                sum { $0.rx.packets &+ $0.made }
                == sum { $0.tx.packets &+ $0.flooded &+ $0.consumed &+ $0.drops.reduce(0) { $0 &+ $1.count } }
            let isTaken = sum { $0.tx.packets } <= taken
            if socket != nil || hasTaken && hasEnded && isTaken { return }
            if Signals.haveCome || CPlatClock.seconds > patience { return }
        }
    }

    func nothingCame(back sent: UInt64) -> EngineError {
        EngineError(
            "\(sent) frames were sent and none came back; "
                + (socket.map { "\($0) has to send packets back, as ringway forward --mode macswap does" }
                    ?? "is another program using the CPUs?"))
    }

    /// Full rings: packets a second that arrive, over all flows.
    func saturate(_ bench: Bench, _ setup: Bench.Setup, seconds: Double, burst: Int) throws(EngineError) -> Double {
        let flows = bench.flows(bothWays: bothWays)
        var counts = [Load.Count](repeating: .init(), count: flows.count)
        var generates = false
        if case .generate = setup.mode { generates = true }
        let before = bench.engine.snapshot()
        func counted() -> UInt64 {
            func all(_ ports: [PortSnapshot]) -> UInt64 { ports.reduce(0) { $0 + $1.rx.packets + $1.tx.packets } }
            return all(bench.engine.snapshot()) - all(before)
        }
        Load.saturate(
            flows, sizes: try sizes(), burst: burst, until: CPlat_monotonic_ns() + UInt64(seconds * 1e9),
            counts: &counts, sends: !generates)
        if generates {
            for flow in flows { Load.settle(flow) }
        } else {
            settle(
                bench, flows, since: before, sent: counts.reduce(0) { $0 + $1.sent },
                arrived: counts.reduce(0) { $0 + $1.received })
        }
        // The engine must have seen what the drivers did; what `generate` had filled the rings with, it saw before. It
        // counts a burst a moment after its delivery, or later where it was put off its CPU between the two.
        let moved = counts.reduce(0) { $0 + $1.sent + $1.received }
        let early = generates ? UInt64(queues) * UInt64(ringSize) : 0
        let patience = CPlatClock.seconds + 5
        while socket == nil && moved > counted() + early {
            if CPlatClock.seconds > patience {
                throw EngineError(
                    "the drivers counted \(moved) packets sent and received, the engine \(counted())")
            }
            usleep(1000)
        }
        let sent = counts.reduce(0) { $0 + $1.sent }
        if !generates && setup.mode != .drop && sent > 0 && counts.allSatisfy({ $0.received == 0 }) && !Signals.haveCome
        {
            throw nothingCame(back: sent)
        }
        return counts.reduce(0) { $0 + (setup.mode == .drop ? $1.sentMpps : $1.mpps) } * 1e6
    }
}
