@preconcurrency import Glibc
import Memory

/// This program's name, as it was called.
var programName: String {
    CommandLine.arguments.first.flatMap { $0.split(separator: "/").last.map(String.init) } ?? "ringway"
}

/// Ends the program with one line on standard error.
package func fail(_ message: String, status: Int32 = 1) -> Never {
    Progress.clear()
    Leftovers.clear()
    let line = "\(programName): \(message)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    exit(status)
}

/// What reads arguments; its errors are errors of usage.
package func usage<T>(_ body: () throws -> T) -> T {
    do { return try body() } catch { fail("\(error)", status: 64) }
}

/// Whether the command line has the option.
package func isGiven(_ option: String) -> Bool {
    CommandLine.arguments.contains { $0 == option || $0.hasPrefix(option + "=") }
}

/// Ends the program where an option is given that would do nothing.
package func refuse(_ options: String..., because reason: String) {
    for option in options where isGiven(option) { fail("\(option): \(reason)", status: 64) }
}

/// Ends the program where an option's value is out of range.
package func check<T: Comparable>(_ option: String, _ value: T, _ range: ClosedRange<T>, _ unit: String = "") {
    if !range.contains(value) {
        fail(
            "\(option) \(value): give \(range.lowerBound) to \(range.upperBound)\(unit.isEmpty ? "" : " " + unit)",
            status: 64)
    }
}

/// Ends the program before long work whose files could not be written: the folder of `path` must be there.
package func checkFolder(of path: String?, _ option: String) {
    guard let path else { return }
    let folder = path.contains("/") ? String(path[..<path.lastIndex(of: "/")!]) : "."
    if access(folder.isEmpty ? "/" : folder, W_OK) != 0 {
        fail(
            "\(option) \(path): \(folder): \(SystemError.text(errno)); "
                + "create the folder first, or choose another",
            status: 64)
    }
}

/// Whether somebody takes what is printed; sends it on its way.
package var isOutputOpen: Bool { fflush(nil) == 0 && ferror(stdout) == 0 }

/// Sends what was printed on its way; ends the program where nobody takes it any more, as after `| head`.
package func flush() {
    if !isOutputOpen { fail("standard output is closed or full; nobody would see the rest") }
}
