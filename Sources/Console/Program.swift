import ArgumentParser
@preconcurrency import Glibc
import Memory
import Ringway

/// What Ringway's programs have in common, from their first line to their last.
package enum Program {
    /// What help says of both.
    package static let discussion = """
        A signal that ends programs (^C) ends each command in order: with what it has measured, without the \
        sockets, folders and programs that it made, with status 128 + its number (forward, which goes on until \
        then: 0). A second one ends it at once. With --json standard output has JSON alone, one object a line \
        (docs/json.md).
        """

    /// Another of Ringway's programs, which lies beside this one.
    package static func beside(_ name: String) -> String {
        var path = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
        let n = readlink("/proc/self/exe", &path, path.count - 1)
        guard n > 0 else { return name }
        let own = String(decoding: path[..<n].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return own[...(own.lastIndex(of: "/") ?? own.startIndex)] + name
    }

    /// Goes on as the program `path`, under this one's name.
    package static func become(_ path: String, _ arguments: [String]) -> Never {
        var words: [UnsafeMutablePointer<CChar>?] = ([programName] + arguments).map { strdup($0) }
        words.append(nil)
        execv(path, words)
        let reason = SystemError.text(errno)
        fail("\(path): \(reason); swift build -c release --product ringway-bench makes it")
    }

    /// Runs the command that the arguments tell. One line for every error, status 1 (64 for usage errors), no stack
    /// trace.
    package static func run(_ root: any ParsableCommand.Type) {
        // Both are errors of write(2), then, which are told.
        for number in [SIGPIPE, SIGXFSZ] { signal(number, SIG_IGN) }
        openStandardDescriptors()
        do {
            var command = try root.parseAsRoot(withValues(Array(CommandLine.arguments.dropFirst())))
            if var other = command as? any OtherProgram { return try other.run() }
            if !(command is any Confined) { Signals.watch() }
            raiseDescriptorLimit()
            try command.run()
            Progress.clear()
            flush()
            if !(command is any GoesOn) { Signals.endIfCome() }
        } catch {
            if root.exitCode(for: error) != .validationFailure { root.exit(withError: error) }
            let hint = root.fullMessage(for: error).split(separator: "\n").last { $0.contains("See '") }?.split(
                separator: "'"
            ).dropFirst().first
            fail(
                root.message(for: error).replacingNewlines + " (see '\(hint ?? "\(programName) --help")')", status: 64)
        }
    }
}

/// A command that goes on until a signal, which is therefore no interruption.
package protocol GoesOn {}

/// A command that gives up privileges while it has no other thread; it calls `Signals.watch` afterwards.
package protocol Confined {}

/// A command that another program is: signals are that one's.
package protocol OtherProgram: ParsableCommand {}

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
