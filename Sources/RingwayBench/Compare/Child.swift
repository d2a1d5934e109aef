import Console
import Foundation
import Glibc
import RingwayLab

/// A program that is driven by lines, with its output in a file; ended with the object.
final class Child {
    private let process = Process()
    private let input = Pipe()
    private let log: String
    private let reader: FileHandle
    /// What was read and not yet answered for.
    private var unread = Data()
    private var isPaused = false
    /// What is paused with it: a child of its own, where it is only a wrapper.
    var worker: pid_t

    init(_ arguments: [String], log: String) throws {
        self.log = log
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = arguments
        process.standardInput = input
        let output = try FileHandle(forWritingTo: URL(fileURLWithPath: log))
        process.standardOutput = output
        process.standardError = output
        reader = try FileHandle(forReadingFrom: URL(fileURLWithPath: log))
        worker = 0
        try Leftovers.start(process)
        worker = process.processIdentifier
    }

    deinit { end() }

    var output: String { String(decoding: FileManager.default.contents(atPath: log) ?? Data(), as: UTF8.self) }

    /// Sends a line, and waits for one of `texts` in what is printed after it; returns what came until then. Errors:
    /// `Interrupted` when a signal comes meanwhile.
    @discardableResult
    func say(_ line: String?, until texts: String..., seconds: Double = 30) throws -> String {
        if let line {
            skip()
            input.fileHandleForWriting.write(Data((line + "\n").utf8))
        }
        let end = CPlatClock.seconds + seconds
        while true {
            take()
            let new = String(decoding: unread, as: UTF8.self)
            if texts.contains(where: new.contains) { return new }
            if Signals.haveCome { throw Interrupted() }
            if !process.isRunning || CPlatClock.seconds > end {
                let name = process.arguments?.first { $0 != "stdbuf" && $0 != "-oL" } ?? ""
                let what = process.isRunning ? "did not answer within \(Int(seconds)) s" : "ended"
                throw CompareError("\(name) \(what): \(Child.summary(output))")
            }
            usleep(1_000)
        }
    }

    /// What was printed and not asked for yet.
    @discardableResult
    func skip() -> String {
        take()
        defer { unread.removeAll() }
        return String(decoding: unread, as: UTF8.self)
    }

    private func take() { if let more = try? reader.readToEnd() { unread.append(more) } }

    /// Takes it off its CPU until `resume`.
    func pause() {
        kill(worker, SIGSTOP)
        isPaused = true
    }

    func resume() {
        kill(worker, SIGCONT)
        isPaused = false
    }

    /// After `pause`, until the kernel has stopped all of its threads, or it has ended.
    func waitUntilStopped() {
        var info = siginfo_t()
        while waitid(P_PID, id_t(worker), &info, WSTOPPED | WEXITED | WNOWAIT) < 0 && errno == EINTR {}
    }

    /// Until it ends by itself, or `seconds` have passed.
    func wait(seconds: Double) {
        let end = CPlatClock.seconds + seconds
        while process.isRunning && CPlatClock.seconds < end { usleep(2_000) }
    }

    /// SIGTERM, then SIGKILL.
    func end() {
        guard process.isRunning else { return Leftovers.forget(program: process.processIdentifier) }
        if isPaused { resume() }
        process.terminate()
        let end = CPlatClock.seconds + 5
        while process.isRunning && CPlatClock.seconds < end { usleep(5_000) }
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        Leftovers.forget(program: process.processIdentifier)
        Leftovers.forget(program: worker)
    }

    /// The last of what a program printed, in one line.
    static func summary(_ printed: String) -> String {
        let lines = printed.split(whereSeparator: \.isNewline).suffix(5).joined(separator: " | ")
        return (lines.isEmpty ? "it printed nothing" : String(lines.suffix(500)))
            + "; tools/setup tests installs DPDK and Open vSwitch and sets huge pages up"
    }
}

struct CompareError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
