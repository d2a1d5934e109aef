import ArgumentParser
@preconcurrency import Glibc
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
        unblockSignals()
        openStandardDescriptors()
        raiseDescriptorLimit()
        do {
            var command = try parseAsRoot()
            try command.run()
            flush()
        } catch {
            if exitCode(for: error) != .validationFailure { exit(withError: error) }
            let hint = fullMessage(for: error).split(separator: "\n").last { $0.contains("See '") }?.split(separator: "'").dropFirst().first
            fail(message(for: error).replacingNewlines + " (see '\(hint ?? "ringway --help")')", status: 64)
        }
    }
}

extension String {
    fileprivate var replacingNewlines: String { split(whereSeparator: \.isNewline).joined(separator: " ") }
}

/// A program that starts this one may have blocked them.
private func unblockSignals() {
    var ends = sigset_t()
    for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&ends, number) }
    pthread_sigmask(SIG_UNBLOCK, &ends, nil)
}

/// Where one was closed, a socket or a file would take its number and get what is printed.
private func openStandardDescriptors() {
    for fd in Int32(0)...2 where fcntl(fd, F_GETFD) < 0 { _ = open("/dev/null", O_RDWR) }
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
    Leftovers.clear()
    let line = "ringway: \(message)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    exit(status)
}

/// What reads arguments; its errors are errors of usage.
func usage<T>(_ body: () throws -> T) -> T {
    do { return try body() } catch { fail("\(error)", status: 64) }
}

/// Ends the program where an option's value is out of range.
func check<T: Comparable>(_ option: String, _ value: T, _ range: ClosedRange<T>, _ unit: String = "") {
    if !range.contains(value) { fail("\(option) \(value): give \(range.lowerBound) to \(range.upperBound)\(unit.isEmpty ? "" : " " + unit)", status: 64) }
}

/// Ends the program before long work whose files could not be written: the folder of `path` must be there.
func checkFolder(of path: String?, _ option: String) {
    guard let path else { return }
    let folder = path.contains("/") ? String(path[..<path.lastIndex(of: "/")!]) : "."
    if access(folder.isEmpty ? "/" : folder, W_OK) != 0 { fail("\(option) \(path): \(folder): \(String(cString: strerror(errno))); create the folder first, or choose another", status: 64) }
}

/// Whether somebody takes what is printed; sends it on its way.
var isOutputOpen: Bool { fflush(nil) == 0 && ferror(stdout) == 0 }

/// Sends what was printed on its way; ends the program where nobody takes it any more, as after `| head`.
func flush() {
    if !isOutputOpen { fail("standard output is closed or full; nobody would see the rest") }
}

/// How far long work is, for who waits; not part of the output.
func progress(_ line: String) { _ = (line + "\n").withCString { write(2, $0, strlen($0)) } }
