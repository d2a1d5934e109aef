import Foundation
import Operation
import Ringway
import RingwayLab
import Testing

/// Files of `ringway run`.
@Suite struct SettingsFileTests {
    @Test("a file says what the command line says; both forms of a port are one")
    func reads() throws {
        let text = """
            mode: switch
            cpus: [0]
            busyloop: 50us
            pacing: latency
            mac_ageing: 60
            max_ports: 8
            log_level: warning
            control: "/run/x/ctl,mode=660"
            sandbox: off
            allow: [net_admin, /usr]
            ports:
              - vhost-user:/run/a,queues=2,trunk=10+20-30,native=1,isolated=on
              - vhost-user: /run/b
                queues: 2
                trunk: [10, 20-30]
                native: 1
                isolated: true
              - null: sink
            """
        let settings = try SettingsFile(text, file: "x").settings
        var ports = settings.engine.ports
        #expect(ports.map(\.name) == ["/run/a", "/run/b", "null:sink"])
        ports[1].kind = ports[0].kind
        #expect(ports[0] == ports[1] && ports[0].queuePairs == 2 && ports[0].switching.isIsolated)
        #expect(settings.engine.mode == .switch && settings.engine.cpus == [0] && settings.engine.mostPorts == 8)
        #expect(settings.engine.busyloop == .microseconds(50) && settings.engine.pacing == .latency)
        #expect(settings.engine.macAgeing == 60 && settings.logLevel == .warning)
        #expect(settings.control?.path == "/run/x/ctl" && settings.control?.access.mode == 0o660)
        #expect(!settings.isConfined && settings.allowed == [.capability(.netAdmin), .path("/usr")])
        // What is written for it means the same.
        let again = try SettingsFile(settings.file(ports: settings.texts), file: "y").settings
        #expect(again.engine == settings.engine && again.control == settings.control && again.texts == settings.texts)
        #expect(again.isConfined == settings.isConfined && again.allowed == settings.allowed)
    }

    @Test(
        "each error has its line and what is allowed",
        arguments: [
            ("", "f:1: nothing stands here; begin with mode: and ports:"),
            ("- a", "f:1: settings are written as name: value, beginning with mode: and ports:"),
            ("mode: switch\nports: [\n", "f:3: this is no YAML: "),
            ("mode: switch\nmode: drop\n", "f:1: this is no YAML: mode: stands more than once; leave one"),
            ("mode: switch\n\nport: x", "f:3: 'port': there is no such setting; mode, size, cpus, "),
            ("mode: hub", "f:1: mode: hub: write crossconnect, switch, macswap, drop or generate"),
            ("mode: drop\nsize: 64", "f:2: size: goes with mode: generate"),
            ("mode: drop\nmax_ports: many", "f:2: max_ports: many: write 1 to 4096 ports"),
            ("mode: drop\ncpus: [0]\nthreads: 2", "f:3: threads: threads are pinned or not: give it, or cpus"),
            ("mode: drop\ncpus: a", "f:2: cpus: a: write CPU numbers as in 1 or 0,2-4"),
            ("mode: drop\ncpus: 4000", "f:2: CPU 4000 is not one this process may run on"),
            (
                "mode: drop\nbusyloop: 5ms",
                "f:2: busyloop: busyloop '5ms': write poll, auto, 0, or 1 to 1000000 microseconds"
            ),
            ("mode: drop\nlog_level: loud", "f:2: log_level: loud: write trace, debug, "),
            ("mode: drop\ncontrol: /x,mode=9", "f:2: control /x,mode=9: mode=9: write permissions as chmod takes them"),
            ("mode: drop\nsandbox: maybe", "f:2: sandbox: maybe: write on or off"),
            ("mode: drop\nallow: [/nowhere/x]", "f:2: allow /nowhere/x: there is no such folder or device"),
            ("mode: drop\nports: x", "f:2: ports: write a list, each port behind a '-'"),
            ("mode: drop\nports:\n  - null:a\n  - wat:b\n", "f:4: wat:b: 'wat' is no kind of port; vhost-user, "),
            ("mode: drop\nports:\n  - null:a\n  - null:a\n", "f:4: null:a: stands in line 3, too"),
            (
                "mode: drop\nports:\n  - null: a\n    queues: 300\n",
                "f:3: null:a,queues=300: queues=300: 1 to 128 queue pairs"
            ),
            ("mode: drop\nports:\n  - [a]\n", "f:3: ports: write text as --port takes it, or its parts"),
            ("mode: drop\nports:\n  - null: {a: b}\n", "f:3: ports: write name: value, or a list of values"),
            (
                "mode: drop\nports:\n  - null:a\n  - null:b,access=5\n",
                "f:4: null:b: access, isolated and the like go with --mode switch"
            ),
            (
                "mode: switch\nports:\n  - null:a\n  - null:b,mirror=null:c\n",
                "f:4: null:b: mirror_in=null:c: no port is called so"
            ),
            ("mode: crossconnect\nports: [null:a, null:b, null:c]\n", "f:1: crossconnect takes two ports, not 3"),
            ("mode: drop\nmax_ports: 1\nports: [null:a, null:b]\n", "f:3: 2 ports, and 1 at most"),
        ])
    func errors(text: String, error: String) throws {
        let found = #expect(throws: FileError.self) { try SettingsFile(text, file: "f") }
        #expect(found?.description.hasPrefix(error) == true, "\(found?.description ?? "no error")")
    }

    @Test("a file that is none", arguments: ["/nowhere/x", "/", "/dev/null"])
    func noFile(path: String) {
        let error = #expect(throws: FileError.self) { try SettingsFile(path) }
        #expect(error?.description.hasPrefix(path + ":1: ") == true)
    }

    @Test("aliases that would grow without end are refused")
    func bomb() {
        var text = "a: &a [x, x]\n"
        for n in 1...40 { text += "b\(n): &b\(n) [*\(n == 1 ? "a" : "b\(n - 1)"), *\(n == 1 ? "a" : "b\(n - 1)")]\n" }
        #expect(throws: FileError.self) { try SettingsFile(text, file: "f") }
    }

    /// A dataplane that was started from a file.
    private final class FileLab {
        let folder: String
        let path: String
        let engine: Engine
        let op: Operator
        let client: ControlClient

        init(_ ports: [String]) throws {
            var template = Array("/tmp/ringway-file-XXXXXX".utf8CString)
            folder = String(cString: mkdtemp(&template))
            path = folder + "/f.yaml"
            try FileLab.text(folder, ports).write(toFile: path, atomically: true, encoding: .utf8)
            let settings = try SettingsFile(path).settings
            engine = try Engine(settings.engine, logger: .init(label: "test"))
            try engine.start()
            op = Operator(engine, settings, file: path) { 0 }
            try op.start()
            client = try ControlClient(folder + "/ctl")
        }

        deinit {
            op.stop()
            engine.stop()
            try? FileManager.default.removeItem(atPath: folder)
        }

        private static func text(_ folder: String, _ ports: [String], _ more: String = "") -> String {
            "mode: switch\nlog_level: critical\ncontrol: \(folder)/ctl\n" + more + "ports:\n"
                + ports.map { "  - \($0)\n" }.joined()
        }

        func reload(_ ports: [String], _ more: String = "") throws -> Methods.Reload.Answer {
            try FileLab.text(folder, ports, more).write(toFile: path, atomically: true, encoding: .utf8)
            return try client.call(Methods.Reload.self, .init())
        }

        var names: [String] { engine.portOptions.map(\.options.name).sorted() }
    }

    @Test("a file that is read again changes the ports that differ, and no others")
    func reload() throws {
        let lab = try FileLab(["vhost-user:/tmp/ringway-f-\(getpid()).a", "null:b", "null:c"])
        let a = "/tmp/ringway-f-\(getpid()).a"
        let driver = try EmbeddedDriver(path: a)
        let answer = try lab.reload(["vhost-user:\(a)", "null:c,queues=2", "null:d,mirror=null:e", "null:e"])
        #expect(answer.added == ["null:e", "null:d"] && answer.removed == ["null:b"] && answer.changed == ["null:c"])
        #expect(lab.names == [a, "null:c", "null:d", "null:e"])
        #expect(lab.engine.snapshot().first { $0.name == a }?.isConnected == true, "it has not gone for a moment")
        #expect(try lab.reload(["vhost-user:\(a)", "null:c,queues=2", "null:d,mirror=null:e", "null:e"]).added.isEmpty)
        // Threads, and what a switch's port may do, change without the driver's noticing; and the switch.
        let serials = lab.engine.snapshot().map(\.serial)
        let tuned = try lab.reload(
            ["vhost-user:\(a),threads=0,rate_in=1gbit", "null:c,queues=2", "null:d,mirror=null:e", "null:e"],
            "mac_ageing: 7\n")
        #expect(tuned.changed == [a] && tuned.added.isEmpty && lab.engine.snapshot().map(\.serial) == serials)
        #expect(lab.engine.snapshot().first { $0.name == a }?.isConnected == true && lab.engine.macAgeing == 7)
        let options = lab.engine.portOptions.first { $0.options.name == a }?.options
        #expect(options?.threads == [0] && options?.switching.limitIn?.bytes == 125_000_000)
        let emitting = try lab.reload(["vhost-user:\(a)", "null:c,queues=2,emit=60", "null:d,mirror=null:e", "null:e"])
        #expect(emitting.changed == [a, "null:c"] && lab.engine.snapshot().map(\.serial) == serials)
        #expect(lab.engine.portOptions.contains { $0.options.kind == .null(name: "c", emit: 60) })
        let quick = try lab.reload(
            ["vhost-user:\(a),busyloop=50us", "null:c,queues=2,emit=60", "null:d,mirror=null:e", "null:e"])
        #expect(quick.changed == [a] && lab.engine.snapshot().map(\.serial) == serials)
        #expect(lab.engine.portOptions.contains { $0.options.busyloop == .microseconds(50) })
        let exported = try lab.client.call(Methods.Export.self, .init()).config
        #expect(try SettingsFile(exported, file: "x").settings.engine.ports.count == 4)
        withExtendedLifetime(driver) {}
    }

    @Test("all or nothing: whatever is wrong, ports stay as they are")
    func nothing() throws {
        let lab = try FileLab(["null:a", "null:b"])
        let before = lab.engine.snapshot().map(\.serial)
        func error(_ ports: [String], _ more: String = "") -> String {
            do {
                _ = try lab.reload(ports, more)
                return ""
            } catch { return "\(error)" }
        }
        #expect(error(["null:a", "what:b"]).contains("f.yaml:6: what:b: 'what' is no kind of port"))
        #expect(error(["null:a", "null:c,mirror=null:b"]).contains("f.yaml:6: null:c"))
        #expect(
            error(["null:a"], "busyloop: poll\n").contains("f.yaml:4: busyloop: it cannot change while ringway runs"))
        #expect(error(["null:a"], "max_ports: 9\n").contains("max_ports: it cannot change"))
        #expect(error(["null:a,threads=1", "null:b"]).contains("f.yaml:5: null:a: thread 1: there is no such"))
        // What gets copies has no options of its own.
        #expect(error(["null:a,rate_in=1gbit", "null:b,queues=2,mirror=null:a"]).contains("f.yaml:6: null:b"))
        #expect(lab.engine.portOptions.map(\.options.switching.isPlain) == [true, true])
        #expect(lab.engine.snapshot().map(\.serial) == before)
        // This one is found out when it is opened: what was added before it goes again.
        #expect(error(["null:new", "vhost-user:/nowhere/x", "null:a"]).contains("f.yaml:6: /nowhere/x"))
        #expect(lab.names == ["null:a", "null:b"] && lab.engine.snapshot().map(\.serial) == before)
    }
}
