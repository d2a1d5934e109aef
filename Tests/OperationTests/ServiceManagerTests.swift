import Foundation
import Operation
import Ringway
import Synchronization
import TestSupport
import Testing

/// What a service manager gets to know, on a socket as systemd has it.
@Suite struct ServiceManagerTests {
    private static func place(_ isAbstract: Bool) -> String {
        (isAbstract ? "@" : "/tmp/") + "ringway-notify-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    }

    @Test("ready, what changes, what fails, and the end", arguments: [false, true])
    func life(isAbstract: Bool) throws {
        let socket = try #require(ManagerSocket(ServiceManagerTests.place(isAbstract)))
        let manager = try ServiceManager(["NOTIFY_SOCKET": socket.place])
        #expect(manager != nil && manager?.watchPeriod == nil)
        let options = EngineOptions(ports: [try PortSyntax.port("null:a")], mode: .switch)
        let engine = try Engine(options, logger: .init(label: "test"))
        try engine.start()
        let folder = "/tmp/ringway-manager-\(getpid())-\(isAbstract)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        func write(_ text: String) throws {
            try "mode: switch\nlog_level: critical\ncontrol: \(folder)/ctl\nports: [\(text)]\n".write(
                toFile: folder + "/f.yaml", atomically: true, encoding: .utf8)
        }
        try write("null:a, null:b")
        let settings = try SettingsFile(folder + "/f.yaml").settings
        let op = Operator(engine, settings, file: folder + "/f.yaml", manager: manager) { 0 }
        #expect(socket.next(seconds: 0) == nil, "it is not ready yet")
        try op.start()
        #expect(socket.next() == ["READY=1", "STATUS=switch, 1 ports"])
        let client = try ControlClient(folder + "/ctl")
        let before = clock()
        _ = try client.call(Methods.Reload.self, .init())
        let reloading = try #require(socket.next())
        #expect(reloading[0] == "RELOADING=1" && reloading.count == 2)
        let stamp = try #require(UInt64(reloading[1].replacing("MONOTONIC_USEC=", with: "")))
        #expect((before...clock()).contains(stamp))
        #expect(socket.next() == ["READY=1", "STATUS=switch, 2 ports"])
        try write("what:c")
        #expect(throws: (any Error).self) { try client.call(Methods.Reload.self, .init()) }
        #expect(socket.next()?[0] == "RELOADING=1")
        let failed = try #require(socket.next())
        #expect(
            failed[0] == "READY=1" && failed[1].contains("2 ports; nothing has changed: \(folder)/f.yaml:4: what:c"))
        _ = try client.call(Methods.AddPort.self, .init(port: "null:c"))
        #expect(socket.next() == ["STATUS=switch, 3 ports"])
        _ = try client.call(Methods.RemovePort.self, .init(name: "null:c"))
        #expect(socket.next() == ["STATUS=switch, 2 ports"])
        op.stop()
        #expect(socket.next() == ["STOPPING=1"])
        engine.stop()
    }

    /// CLOCK_MONOTONIC in microseconds.
    private func clock() -> UInt64 { UInt64(clock_gettime_nsec()) / 1000 }
    private func clock_gettime_nsec() -> Int {
        var t = timespec()
        clock_gettime(CLOCK_MONOTONIC, &t)
        return t.tv_sec * 1_000_000_000 + t.tv_nsec
    }

    @Test("the watchdog hears of the control thread, and not while that thread is stuck")
    func watchdog() throws {
        let socket = try #require(ManagerSocket(ServiceManagerTests.place(true)))
        let manager = try ServiceManager(
            ["NOTIFY_SOCKET": socket.place, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "\(getpid())"])
        #expect(manager?.watchPeriod == 10_000_000)
        let options = EngineOptions(ports: [try PortSyntax.port("null:a")], mode: .drop)
        let engine = try Engine(options, logger: .init(label: "test"))
        // Without any socket there is such a thread, too.
        let op = Operator(engine, Settings(options, texts: ["null:a"]), manager: manager) { 0 }
        try op.start()
        for _ in 0..<5 { #expect(try #require(socket.next()).allSatisfy { !$0.hasPrefix("STOPPING") }) }
        let (begun, goOn) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        Thread.detachNewThread {
            op.perform { _ in
                begun.signal()
                goOn.wait()
            }
        }
        begun.wait()
        while socket.next(seconds: 0) != nil {}
        #expect(socket.next(seconds: 1) == nil)
        goOn.signal()
        #expect(socket.next() == ["WATCHDOG=1"])
        op.stop()
    }

    /// Waits while somebody wants it to.
    private struct Hanging: PacketFunction {
        final class Gate: Sendable {
            let isShut = Atomic(false)
            let isInside = Atomic(false)
        }
        let gate: Gate

        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            while gate.isShut.load(ordering: .relaxed) {
                gate.isInside.store(true, ordering: .relaxed)
                usleep(1000)
            }
            gate.isInside.store(false, ordering: .relaxed)
            return .drop
        }
    }

    @Test(
        "the watchdog hears nothing while a poll thread hangs in its packet function; threads that sleep are no reason")
    func hangingThread() throws {
        let socket = try #require(ManagerSocket(ServiceManagerTests.place(true)))
        let manager = try ServiceManager(["NOTIFY_SOCKET": socket.place, "WATCHDOG_USEC": "40000"])
        // Of three threads one has something to do.
        var options = EngineOptions(ports: [try PortSyntax.port("null:a,emit=60,threads=1")], mode: .drop)
        options.unpinnedThreads = 3
        let gate = Hanging.Gate()
        let engine = try Engine(options, logger: .init(label: "test")) { _ in Hanging(gate: gate) }
        try engine.start()
        let folder = "/tmp/ringway-hanging-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var settings = Settings(options, texts: ["null:a,emit=60,threads=1"])
        settings.control = SocketPlace(folder + "/ctl")
        LogLevel.current = .critical
        let op = Operator(engine, settings, manager: manager) { 0 }
        try op.start()
        let client = try ControlClient(folder + "/ctl")
        for _ in 0..<3 {
            for _ in 0..<5 { #expect(try #require(socket.next()).allSatisfy { !$0.hasPrefix("STOPPING") }) }
            gate.isShut.store(true, ordering: .relaxed)
            while !gate.isInside.load(ordering: .relaxed) { usleep(1000) }
            // What was asked before it hung may be answered now.
            while socket.next(seconds: 1) != nil {}
            #expect(socket.next(seconds: 1) == nil)
            #expect(op.perform { $0.lateThreads().map(\.thread) } == [1])
            // Whoever wants to know what goes on is answered nevertheless.
            #expect(try client.call(Methods.Why.self, .init()).queues.count <= 2)
            #expect(try client.call(Methods.Stats.self, .init()).threads?.count == 3)
            gate.isShut.store(false, ordering: .relaxed)
            #expect(socket.next() == ["WATCHDOG=1"])
        }
        op.stop()
        engine.stop()
        #expect(engine.lateThreads().isEmpty)
    }

    @Test(
        "what the environment says and cannot be is named",
        arguments: [
            (["NOTIFY_SOCKET": "relative"], "NOTIFY_SOCKET=relative: "),
            (["NOTIFY_SOCKET": "vsock:2:1234"], "NOTIFY_SOCKET=vsock:2:1234: an absolute path or @NAME stands here"),
            (["NOTIFY_SOCKET": "/nowhere/x"], "NOTIFY_SOCKET=/nowhere/x: No such file"),
            (["NOTIFY_SOCKET": "@ringway-nobody"], "NOTIFY_SOCKET=@ringway-nobody: Connection refused"),
            (["NOTIFY_SOCKET": "/" + String(repeating: "x", count: 108)], "NOTIFY_SOCKET=/xxx"),
            (["NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"], "WATCHDOG_USEC=soon: "),
            (["NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "18446744073709551615"], "WATCHDOG_USEC=18446744073709551615: "),
        ])
    func errors(environment: [String: String], text: String) {
        let error = #expect(throws: EngineError.self) { _ = try ServiceManager(environment) }
        #expect(error?.description.hasPrefix(text) == true, "\(error?.description ?? "")")
    }

    @Test("nobody wants to know")
    func nobody() throws {
        #expect(try ServiceManager([:]) == nil && ServiceManager(["NOTIFY_SOCKET": ""]) == nil)
        let socket = try #require(ManagerSocket(ServiceManagerTests.place(true)))
        // Another process is watched.
        let other = try ServiceManager(["NOTIFY_SOCKET": socket.place, "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"])
        #expect(other != nil && other?.watchPeriod == nil)
    }
}
