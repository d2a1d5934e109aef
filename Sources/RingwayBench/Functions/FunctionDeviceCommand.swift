import ArgumentParser
import Console
import Logging
import Ringway
import RingwayLab

/// Ringway's device side of `functions`: an engine of one thread with two ports, as an embedder's program would be.
struct FunctionDeviceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "function-device", abstract: "Run one of the functions of `functions`.", shouldDisplay: false)

    @Option(help: "route or acl.") var function: String
    @Option(help: "CPU of its thread.") var cpu: Int
    @Argument(help: "Two sockets.") var sockets: [String]

    func run() throws {
        guard let work = FunctionWork(rawValue: function), sockets.count == 2 else {
            fail("function-device: --function route or acl, and two sockets", status: 64)
        }
        Signals.handOver()
        let ports = sockets.map { PortOptions(.vhostUser(path: $0, isClient: false)) }
        let options = EngineOptions(ports: ports, mode: .drop, cpus: [cpu], busyloop: .poll)
        var logger = Logger(label: "ringway")
        logger.logLevel = .error
        do {
            let engine =
                switch work {
                case .route: try Engine(options, logger: logger) { _ in BenchRouter() }
                case .acl:
                    // The rules are good: their number is below the most.
                    try Engine(options, logger: logger) { _ in try! BenchFirewall() }
                }
            try engine.start()
            print("ready")
            flush()
            _ = Signals.wait(until: nil)
            engine.stop()
        } catch { fail("\(error)") }
    }
}
