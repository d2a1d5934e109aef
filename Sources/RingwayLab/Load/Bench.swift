import Console
import CPlatform
import Foundation
import Logging
import Memory
import Ringway

/// An engine and embedded drivers on real vhost-user sockets in a folder of their own, for measuring.
package final class Bench {
    package struct Setup {
        package var mode = ForwardingMode.crossconnect
        package var driver = DriverOptions()
        package var busyloop = BusyloopBudget.poll
        package var batchesCalls = true
        /// Two drivers exchange packets; else one gets its own back.
        package var hasTwoPorts: Bool { mode == .crossconnect || mode == .switch }
        /// Queue pairs on further ports whose drivers are there but do nothing.
        package var idlePairs = 0
        /// Somebody else's back-end for one driver; no engine then takes part.
        package var socket: String?
        /// CPU of the engine's thread and of the drivers; -1: not pinned.
        package var engineCPU = -1
        package var driverCPU = -1

        package init() {}
    }

    package let engine: Engine
    package let drivers: [EmbeddedDriver]
    private let idle: [EmbeddedDriver]
    private let folder: String

    /// Starts everything, and pins the calling thread to the drivers' CPU. From then on its user ends with what there
    /// is when a signal comes.
    package init(_ setup: Setup) throws(EngineError) {
        var template = Array("/tmp/ringway-bench-\(getpid())-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw EngineError("mkdtemp: \(SystemError.text(errno))") }
        folder = String(cString: made)
        Leftovers.add(folder: folder)
        let paths = (0..<(setup.hasTwoPorts ? 2 : 1)).map { [folder] in "\(folder)/\($0).sock" }
        // A port has 128 pairs at most.
        let crowd = stride(from: 0, to: setup.idlePairs, by: 128).map { [folder] in
            (path: "\(folder)/idle-\($0).sock", pairs: min(128, setup.idlePairs - $0))
        }
        let ports = (paths.map { ($0, setup.driver.queuePairs) } + crowd).map { path, pairs in
            var port = PortOptions(.vhostUser(path: path, isClient: false))
            port.queuePairs = pairs
            return port
        }
        var logger = Logger(label: "ringway")
        logger.logLevel = .error
        var options = EngineOptions(
            ports: ports, mode: setup.mode, cpus: setup.engineCPU >= 0 ? [setup.engineCPU] : [],
            busyloop: setup.socket == nil ? setup.busyloop : .sleep)
        options.batchesCalls = setup.batchesCalls
        engine = try Engine(options, logger: logger)
        do throws(EngineError) {
            try engine.start()
            if setup.driverCPU >= 0 { _ = CPlat_pin_to_cpu(Int32(setup.driverCPU)) }
            var waiting: [EmbeddedDriver] = []
            for port in crowd {
                var options = setup.driver
                (options.queuePairs, options.ringSize, options.frameRoom) = (port.pairs, 16, 64)
                waiting.append(try EmbeddedDriver(path: port.path, options))
            }
            idle = waiting
            var all: [EmbeddedDriver] = []
            for path in setup.socket.map({ [$0] }) ?? paths { all.append(try EmbeddedDriver(path: path, setup.driver)) }
            drivers = all
            Signals.handOver()
        } catch {
            engine.stop()
            Leftovers.remove(folder: folder)
            throw error
        }
    }

    /// Stops everything.
    package func close() {
        engine.stop()
        Leftovers.remove(folder: folder)
    }

    /// Where packets go, from pair 0 to pair 0: both ways in `crossconnect`.
    package var flows: [Load.Flow] {
        let first = drivers[0].pairs
        if drivers.count == 1 { return [Load.Flow(from: first, to: first)] }
        let second = drivers[1].pairs
        return [Load.Flow(from: first, to: second), Load.Flow(from: second, to: first)]
    }

    /// The same for every queue pair, one way unless `bothWays`: then those back follow those there.
    package func flows(bothWays: Bool) -> [Load.Flow] {
        let (first, last) = (drivers[0], drivers[drivers.count - 1])
        let there = (0..<first.pairCount).map { Load.Flow(from: first.pairs + $0, to: last.pairs + $0) }
        if drivers.count == 1 || !bothWays { return there }
        return there + (0..<first.pairCount).map { Load.Flow(from: last.pairs + $0, to: first.pairs + $0) }
    }

    /// The ring sojourns of all queues so far.
    package var sojourn: LiveCounts {
        engine.queueTimes().filter { $0.what == .ringSojourn }.reduce(into: LiveCounts()) { $0.add($1.counts) }
    }

    /// CPUs of this process as it was started, lowest first: later a thread pins itself to one of them.
    package static let allowedCPUs = (0..<1024).filter { CPlat_cpu_allowed(Int32($0)) }

    /// What an error says of them.
    package static var allowedText: String {
        "this process may run on \(allowedCPUs.map(String.init).joined(separator: ", "))"
    }

    /// One CPU for the engine and one for the drivers, where there are two; else nothing is pinned.
    package static func choosePlaces(_ setup: inout Setup) {
        let cpus = allowedCPUs
        guard cpus.count >= 2 else { return }
        (setup.driverCPU, setup.engineCPU) = (cpus[0], cpus[1])
        setup.driver.node = NUMA.node(ofCPU: setup.engineCPU)
    }
}

/// Runs `body` on a thread of its own, which may pin itself: the next one may choose its CPUs anew.
package func apart<T, E: Error>(_ body: @escaping () throws(E) -> T) throws(E) -> T {
    nonisolated(unsafe) var result: Result<T, E>?
    nonisolated(unsafe) let body = body
    let done = DispatchSemaphore(value: 0)
    Thread {
        do throws(E) { result = .success(try body()) } catch { result = .failure(error) }
        done.signal()
    }.start()
    done.wait()
    return try result.unsafelyUnwrapped.get()
}
