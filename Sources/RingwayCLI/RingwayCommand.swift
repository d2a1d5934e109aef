import ArgumentParser
@preconcurrency import Glibc
import Ringway

@main
struct RingwayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringway",
        abstract: "A packet dataplane for virtual machines and NFV appliances.",
        discussion: """
            A signal that ends programs (^C) ends each command in order: with what it has measured, without the \
            sockets, folders and programs that it made, with status 128 + its number (forward, which goes on until \
            then: 0). A second one ends it at once. With --json standard output has JSON alone, one object a line \
            (docs/json.md).
            """,
        version: Version.text,
        subcommands: [
            ForwardCommand.self, ProbeCommand.self, BenchCommand.self, TuneCommand.self, CompareCommand.self,
            DemoCommand.self, DriveCommand.self, RoundsCommand.self,
        ])

    /// One line for every error, status 1 (64 for usage errors), no stack trace.
    static func main() {
        // Both are errors of write(2), then, which are told.
        for number in [SIGPIPE, SIGXFSZ] { signal(number, SIG_IGN) }
        openStandardDescriptors()
        Signals.watch()
        raiseDescriptorLimit()
        do {
            var command = try parseAsRoot(withValues(Array(CommandLine.arguments.dropFirst())))
            try command.run()
            Progress.clear()
            flush()
            if !(command is ForwardCommand) { Signals.endIfCome() }
        } catch {
            if exitCode(for: error) != .validationFailure { exit(withError: error) }
            let hint = fullMessage(for: error).split(separator: "\n").last { $0.contains("See '") }?.split(
                separator: "'"
            ).dropFirst().first
            fail(message(for: error).replacingNewlines + " (see '\(hint ?? "ringway --help")')", status: 64)
        }
    }
}

extension String {
    fileprivate var replacingNewlines: String { split(whereSeparator: \.isNewline).joined(separator: " ") }
}

/// A number below zero that follows an option is its value, not an option that is missing.
private func withValues(_ arguments: [String]) -> [String] {
    arguments.reduce(into: []) { all, next in
        let isBelowZero = next.hasPrefix("-") && next.dropFirst().first.map { $0.isNumber || $0 == "." } == true
        if isBelowZero, let option = all.last, option.hasPrefix("--"), option.count > 2,
            !option.contains("=")
        {
            all[all.count - 1] = option + "=" + next
        } else {
            all.append(next)
        }
    }
}

/// Where one was closed, a socket or a file would take its number and get what is printed.
private func openStandardDescriptors() {
    for fd in Int32(0)...2 where fcntl(fd, F_GETFD) < 0 { _ = open("/dev/null", O_RDWR) }
}

/// Each ring takes two descriptors, so a thousand queue pairs take more than the usual 1024: as many as this process
/// may have.
private func raiseDescriptorLimit() {
    var limit = rlimit()
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    guard getrlimit(resource, &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = setrlimit(resource, &limit)
}

/// Ends the program with one line on standard error.
func fail(_ message: String, status: Int32 = 1) -> Never {
    Progress.clear()
    Leftovers.clear()
    let line = "ringway: \(message)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    exit(status)
}

/// What reads arguments; its errors are errors of usage.
func usage<T>(_ body: () throws -> T) -> T {
    do { return try body() } catch { fail("\(error)", status: 64) }
}

/// Whether the command line has the option.
func isGiven(_ option: String) -> Bool {
    CommandLine.arguments.contains { $0 == option || $0.hasPrefix(option + "=") }
}

/// Ends the program where an option is given that would do nothing.
func refuse(_ options: String..., because reason: String) {
    for option in options where isGiven(option) { fail("\(option): \(reason)", status: 64) }
}

/// Ends the program where an option's value is out of range.
func check<T: Comparable>(_ option: String, _ value: T, _ range: ClosedRange<T>, _ unit: String = "") {
    if !range.contains(value) {
        fail(
            "\(option) \(value): give \(range.lowerBound) to \(range.upperBound)\(unit.isEmpty ? "" : " " + unit)",
            status: 64)
    }
}

/// Ends the program before long work whose files could not be written: the folder of `path` must be there.
func checkFolder(of path: String?, _ option: String) {
    guard let path else { return }
    let folder = path.contains("/") ? String(path[..<path.lastIndex(of: "/")!]) : "."
    if access(folder.isEmpty ? "/" : folder, W_OK) != 0 {
        fail(
            "\(option) \(path): \(folder): \(String(cString: strerror(errno))); "
                + "create the folder first, or choose another",
            status: 64)
    }
}

/// Whether somebody takes what is printed; sends it on its way.
var isOutputOpen: Bool { fflush(nil) == 0 && ferror(stdout) == 0 }

/// Sends what was printed on its way; ends the program where nobody takes it any more, as after `| head`.
func flush() {
    if !isOutputOpen { fail("standard output is closed or full; nobody would see the rest") }
}
