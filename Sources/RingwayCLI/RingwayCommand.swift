import ArgumentParser
import Glibc
import Ringway

@main
struct RingwayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringway",
        abstract: "A packet dataplane for virtual machines and NFV appliances.",
        subcommands: [ForwardCommand.self, ProbeCommand.self, BenchCommand.self, TuneCommand.self, CompareCommand.self, DemoCommand.self, DriveCommand.self, RoundsCommand.self])

    /// One line for every error, status 1 (64 for usage errors), no stack trace.
    static func main() {
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            exit(withError: error)
        }
    }
}

/// Ends the program with one line on standard error.
func fail(_ message: String, status: Int32 = 1) -> Never {
    let line = "ringway: \(message)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    exit(status)
}
