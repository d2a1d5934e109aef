import ArgumentParser
import Console

/// Measurements: with embedded drivers on real sockets and real rings, and beside other programs.
@main
struct RingwayBenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringway-bench",
        abstract: "Measures Ringway, and other back-ends beside it.",
        discussion: "`ringway bench`, `ringway tune` and `ringway compare` are this program.\n\n" + Program.discussion,
        version: Version.text,
        subcommands: [
            ThroughputCommand.self, LatencyCommand.self, PeerLatencyCommand.self, ScaleCommand.self,
            ThreadsCommand.self, TuneCommand.self, CompareCommand.self, FunctionsCommand.self,
            RoundsCommand.self, FunctionDeviceCommand.self,
        ])

    static func main() { Program.run(RingwayBenchCommand.self) }
}
