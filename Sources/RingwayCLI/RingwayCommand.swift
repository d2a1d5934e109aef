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
        raiseDescriptorLimit()
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            exit(withError: error)
        }
    }
}

/// Each ring takes two descriptors, so a thousand queue pairs take more than the usual 1024: as many as this process may have.
private func raiseDescriptorLimit() {
    var limit = rlimit()
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    guard getrlimit(resource, &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = setrlimit(resource, &limit)
}

/// Ends the program with one line on standard error.
func fail(_ message: String, status: Int32 = 1) -> Never {
    let line = "ringway: \(message)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    exit(status)
}
