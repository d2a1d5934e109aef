import Foundation

/// A program that is driven by lines, with its output in a file; ended with the object.
final class Child {
    private let process = Process()
    private let input = Pipe()
    private let log: String

    init(_ arguments: [String], log: String) throws {
        self.log = log
        FileManager.default.createFile(atPath: log, contents: nil)
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = arguments
        process.standardInput = input
        let output = try FileHandle(forWritingTo: URL(fileURLWithPath: log))
        process.standardOutput = output
        process.standardError = output
        try process.run()
    }

    deinit { end() }

    var output: String { String(decoding: FileManager.default.contents(atPath: log) ?? Data(), as: UTF8.self) }

    /// Sends a line; what was printed until `text` came after it.
    @discardableResult
    func say(_ line: String?, until text: String, seconds: Double = 30) throws -> String {
        let mark = output.utf8.count
        if let line { input.fileHandleForWriting.write(Data((line + "\n").utf8)) }
        let end = SignalWaiter.now + seconds
        while true {
            let new = String(decoding: Data(output.utf8.dropFirst(line == nil ? 0 : mark)), as: UTF8.self)
            if new.contains(text) { return new }
            if !process.isRunning || SignalWaiter.now > end {
                throw CompareError("\(process.arguments?.first ?? ""): no '\(text)':\n\(output.suffix(800))")
            }
            usleep(2_000)
        }
    }

    /// SIGTERM, then SIGKILL.
    func end() {
        guard process.isRunning else { return }
        process.terminate()
        let end = SignalWaiter.now + 5
        while process.isRunning && SignalWaiter.now < end { usleep(5_000) }
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
    }
}

struct CompareError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
