import CPlatform
import Foundation

/// What a test waited for did not happen; the text shows what the program printed instead.
struct Unexpected: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// Seconds of a clock that only goes forward.
var now: Double { Double(CPlat_monotonic_ns()) / 1e9 }

/// When to give up waiting for what takes so many seconds at most on a machine with nothing else to do. Far later: a
/// test ends there only where something hangs, however slow the machine is.
func deadline(_ seconds: Double) -> Double { now + 6 * seconds }

/// Whether it comes to hold.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = deadline(60)
    while now < end {
        if condition() { return true }
        usleep(20_000)
    }
    return false
}

/// Where the package lies.
let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().path

/// The JSON objects among the lines of an output: one a line, their members in any order. Lines of a log, and a line
/// that is still being written, are passed over.
func objects(in output: String) -> [[String: Any]] {
    output.split(separator: "\n").compactMap { line in
        guard line.hasPrefix("{") else { return nil }
        return try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
    }
}

/// A child process whose output goes to a file, so that it never blocks; killed with the object.
final class Program {
    let name: String
    let pid: pid_t
    private let log: String
    private let input: Int32
    private var status: Int32?

    /// `arguments[0]` is looked for on PATH. Output and errors go to one file, or errors to one of their own.
    init(_ name: String, _ arguments: [String], errors: String? = nil) throws {
        self.name = name
        log = NSTemporaryDirectory() + "ringway-\(name)-\(UUID().uuidString.prefix(8)).log"
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw Unexpected("pipe: \(errno)") }
        for fd in ends { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
        input = ends[1]
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_CREAT | O_WRONLY | O_TRUNC | O_APPEND, 0o600)
        if let errors {
            posix_spawn_file_actions_addopen(&actions, 2, errors, O_CREAT | O_WRONLY | O_TRUNC | O_APPEND, 0o600)
        } else {
            posix_spawn_file_actions_adddup2(&actions, 1, 2)
        }
        var child = pid_t()
        var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        // Tests run on threads that block signals, and a child would inherit that: ping lives by SIGALRM.
        var attributes = posix_spawnattr_t()
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_init(&attributes)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        let code = posix_spawnp(&child, arguments[0], &actions, &attributes, &argv, environ)
        posix_spawnattr_destroy(&attributes)
        for p in argv { free(p) }
        posix_spawn_file_actions_destroy(&actions)
        close(ends[0])
        guard code == 0 else { throw Unexpected("\(arguments[0]): \(String(cString: strerror(code)))") }
        pid = child
    }

    deinit {
        if isRunning {
            kill(pid, SIGKILL)
            _ = wait()
        }
        close(input)
        unlink(log)
    }

    /// Everything it has printed.
    var output: String { String(decoding: FileManager.default.contents(atPath: log) ?? Data(), as: UTF8.self) }

    var isRunning: Bool {
        if status != nil { return false }
        var raw: Int32 = 0
        if waitpid(pid, &raw, WNOHANG) == pid { status = raw }
        return status == nil
    }

    func send(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        var sent = 0
        while sent < bytes.count {
            let n = bytes[sent...].withUnsafeBytes { write(input, $0.baseAddress, $0.count) }
            if n <= 0 { return }
            sent += n
        }
    }

    /// Waits until `text` is in what was printed after the first `mark` characters.
    func wait(for text: String, after mark: Int = 0, seconds: Double = 20) throws -> String {
        let end = deadline(seconds)
        while true {
            let ended = !isRunning
            let new = String(output.dropFirst(mark))
            if new.contains(text) { return new }
            if ended { throw Unexpected("\(name) ended before '\(text)':\n\(output.suffix(3000))") }
            if now > end { throw Unexpected("\(name): no '\(text)' in \(Int(seconds)) s:\n\(output.suffix(3000))") }
            usleep(10_000)
        }
    }

    /// Exit status; 128 + signal if one killed it.
    func wait(seconds: Double = 20) -> Int32? {
        let end = deadline(seconds)
        while isRunning && now < end { usleep(5_000) }
        return status.map { $0 & 0x7f == 0 ? ($0 >> 8) & 0xff : 128 + ($0 & 0x7f) }
    }

    /// Sends a signal and waits for the end.
    @discardableResult
    func end(_ signal: Int32 = SIGTERM, seconds: Double = 20) -> Int32? {
        kill(pid, signal)
        return wait(seconds: seconds)
    }

    /// Whether all of its threads sleep for two seconds on end, within two minutes: none takes any CPU time.
    func sleeps() -> Bool {
        let end = deadline(20)
        while now < end {
            let before = usage
            sleep(2)
            if usage == before { return true }
        }
        return false
    }

    /// CPU time of all threads in seconds, and how often they were put to sleep and woken.
    private var usage: (cpu: Double, switches: Int) {
        var (nanoseconds, switches) = (0.0, 0)
        for task in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")) ?? [] {
            let base = "/proc/\(pid)/task/\(task)/"
            if let text = try? String(contentsOfFile: base + "schedstat", encoding: .utf8) {
                nanoseconds += Double(text.split(separator: " ").first ?? "0") ?? 0
            }
            let status = (try? String(contentsOfFile: base + "status", encoding: .utf8)) ?? ""
            for line in status.split(separator: "\n")
            where line.contains("voluntary_ctxt_switches") && !line.contains("nonvoluntary") {
                switches += Int(line.split(whereSeparator: \.isWhitespace).last ?? "0") ?? 0
            }
        }
        return (nanoseconds / 1e9, switches)
    }
}

/// The program under test.
final class Ringway {
    let program: Program
    static let binary = root + "/.build/release/ringway"

    /// Returns when it has printed `ready`. `home`: it runs in that host's network.
    init(_ ports: [String], mode: String, _ more: [String] = [], in home: Host? = nil) throws {
        let arguments =
            [Ringway.binary, "forward", "--json", "--mode", mode] + ports.flatMap { ["--port", $0] } + more
        program = try home?.start("ringway", arguments) ?? Program("ringway", arguments)
        _ = try program.wait(for: "{\"type\":\"ready\"}\n")
    }

    var log: String { program.output }

    /// SIGTERM; the totals that it prints.
    func totals() throws -> [PortTotals] {
        let status = program.end()
        guard status == 0 else {
            throw Unexpected("ringway ended with \(status.map(String.init) ?? "nothing"):\n\(log.suffix(3000))")
        }
        guard let last = try ports("totals").last else {
            throw Unexpected("ringway printed no totals:\n\(log.suffix(3000))")
        }
        return last
    }

    /// The ports in each line of a type, `interval` (with `--stats`) or `totals`, after the first `mark` characters.
    func ports(_ type: String, after mark: Int = 0) throws -> [[PortTotals]] {
        try objects(in: String(log.dropFirst(mark))).filter { $0["type"] as? String == type }.map { line in
            try (line["ports"] as? [[String: Any]] ?? []).map(PortTotals.init)
        }
    }

    /// Lines that a healthy run does not have.
    var complaints: [String] {
        log.split(separator: "\n").map(String.init).filter {
            $0.contains(" stopped: ") || $0.contains("refused: ") || $0.contains(" error ")
        }
    }
}

struct PortTotals {
    let port: String
    let isConnected: Bool
    let rxPackets, rxBytes, txPackets, txBytes: Int
    let drops: [String: Int]

    init(_ object: [String: Any]) throws {
        guard let rx = object["rx"] as? [String: Any], let tx = object["tx"] as? [String: Any],
            let a = rx["packets"] as? Int, let b = rx["bytes"] as? Int, let c = tx["packets"] as? Int,
            let d = tx["bytes"] as? Int, let port = object["port"] as? String,
            let isConnected = object["connected"] as? Bool
        else { throw Unexpected("totals: \(object)") }
        (self.port, self.isConnected) = (port, isConnected)
        (rxPackets, rxBytes, txPackets, txBytes) = (a, b, c, d)
        drops = object["drops"] as? [String: Int] ?? [:]
    }
}

/// A folder for sockets that is removed with the object.
final class Folder {
    let path: String
    init() {
        path = "/tmp/ringway-\(UUID().uuidString.prefix(8))"
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
    func callAsFunction(_ name: String) -> String { path + "/" + name }
}
