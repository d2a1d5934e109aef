import ArgumentParser
import Console
import Glibc
import Ringway

@main
struct RingwayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringway",
        abstract: "A packet dataplane for virtual machines and NFV appliances.",
        discussion: Program.discussion,
        version: Version.text,
        subcommands: [
            ForwardCommand.self, ProbeCommand.self, BenchCommand.self, TuneCommand.self, CompareCommand.self,
            DemoCommand.self, DriveCommand.self, ReplayCommand.self, PortCommand.self, StatsCommand.self,
            AddressesCommand.self, ModeCommand.self, LogLevelCommand.self, RunCommand.self, CheckCommand.self,
            ReloadCommand.self,
            ExportCommand.self, SandboxCommand.self, WhyCommand.self, TraceCommand.self, CaptureCommand.self,
            TopCommand.self,
        ])

    static func main() {
        HandedDescriptors.acceptOnlyPresent()
        Program.run(RingwayCommand.self)
    }
}

/// Commands of `ringway-bench`, which lies beside this program.
private func becomeBench(_ first: [String]) {
    Program.become(Program.beside("ringway-bench"), first + CommandLine.arguments.dropFirst(2))
}

struct BenchCommand: OtherProgram {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure throughput or latency with embedded virtio drivers (ringway-bench).")

    @Argument(parsing: .captureForPassthrough) var arguments: [String] = []

    func run() { becomeBench([]) }
}

struct TuneCommand: OtherProgram {
    static let configuration = CommandConfiguration(
        commandName: "tune",
        abstract:
            "Sweep the busyloop budget over loads: CPU use against latency and throughput (ringway-bench tune).")

    @Argument(parsing: .captureForPassthrough) var arguments: [String] = []

    func run() { becomeBench(["tune"]) }
}

struct CompareCommand: OtherProgram {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "Measure Ringway and DPDK's vhost PMD alternately, with one DPDK driver (ringway-bench compare).")

    @Argument(parsing: .captureForPassthrough) var arguments: [String] = []

    func run() { becomeBench(["compare"]) }
}
