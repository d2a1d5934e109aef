import Foundation
import Operation
import Ringway
import RingwayLab
import Testing

/// Who speaks to a control socket, in whatever way.
@Suite struct ControlServerTests {
    @Test("ports come, change and go by the socket; each answer is as asked for")
    func ports() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        let a = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/a,queues=2,mtu=1500"))
        #expect(a.name == "\(lab.folder)/a" && a.place == 0 && a.queues == 2 && a.mtu == 1500 && a.up && !a.connected)
        let b = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/b"))
        let (one, other) = (try EmbeddedDriver(path: a.name), try EmbeddedDriver(path: b.name))
        try one.send(64)
        #expect(try other.receive() == 64)
        let down = try client.call(Methods.SetPort.self, .init(name: b.name, up: false, busyloop: "50us"))
        #expect(!down.up && down.connected)
        #expect(try client.call(Methods.SetPort.self, .init(name: a.name, mtu: 1400)).mtu == 1400)
        let text = "vhost-user:\(lab.folder)/a,queues=2,mtu=1400"
        #expect(try client.call(Methods.ListPorts.self, .init()).ports.map(\.port).contains(text))
        #expect(throws: RPC.Failure.self) {
            try client.call(Methods.SetPort.self, .init(name: a.name, announce: true))
        }
        let stats = try client.call(Methods.Stats.self, .init())
        #expect(stats.ports.map(\.port) == [a.name, b.name] && stats.ports[0].rx.packets == 1)
        #expect(stats.ports[1].tx.packets == 1 && !stats.ports[1].up)
        #expect(try client.call(Methods.ListAddresses.self, .init()).addresses.map(\.port) == [a.name])
        #expect(try client.call(Methods.ClearAddresses.self, .init(port: a.name)).cleared == 1)
        let last = try client.call(Methods.RemovePort.self, .init(name: a.name))
        #expect(last.rx.packets == 1 && access(a.name, F_OK) != 0)
        #expect(try client.call(Methods.ListPorts.self, .init()).ports.map(\.name) == [b.name])
        #expect(try client.call(Methods.LogLevel.self, .init(level: "error")).level == "error")
        #expect(try client.call(Methods.Version.self, .init()).api == 1)
        withExtendedLifetime((one, other)) {}
    }

    @Test("a switch whose ports have options counts what it learns; a plain one counts nothing of its own")
    func functionCounters() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        _ = try client.call(Methods.AddPort.self, .init(port: "null:plain,emit=60"))
        #expect(try client.call(Methods.Stats.self, .init()).functionCounters == nil)
        _ = try client.call(Methods.AddPort.self, .init(port: "null:source,emit=60,access=10"))
        let end = Date(timeIntervalSinceNow: 60)
        var counts: [String: UInt64] = [:]
        while counts["addresses learned"] ?? 0 == 0 {
            try #require(Date() < end, "\(counts)")
            counts = try client.call(Methods.Stats.self, .init()).functionCounters ?? [:]
        }
        #expect(Set(counts.keys) == ["addresses learned", "addresses moved"])
        let later = try client.call(Methods.Stats.self, .init())
        let since = later.since(later, seconds: 1)
        #expect(since.functionCounters == ["addresses learned": 0, "addresses moved": 0])
        #expect(later.table.contains { $0.hasPrefix("addresses learned ") })
    }

    @Test("queue times have counts where they are asked for, and then are told of a period, too")
    func times() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/a,busyloop=0"))
        let driver = try EmbeddedDriver(path: lab.folder + "/a")
        func stats(after packets: UInt64) throws -> PeriodRecord {
            let end = Date(timeIntervalSinceNow: 60)
            while true {
                let stats = try client.call(Methods.Stats.self, .init(counts: true))
                if stats.ports[0].rx.packets >= packets && stats.queueTimes != nil { return stats }
                try #require(Date() < end)
            }
        }
        try driver.send(64)
        let first = try stats(after: 1)
        #expect(try client.call(Methods.Stats.self, .init()).queueTimes?.allSatisfy { $0.counts == nil } == true)
        for t in first.queueTimes ?? [] { #expect(t.counts?.values.reduce(0, +) == t.nanoseconds["count"]) }
        #expect(first.since(first, seconds: 1).queueTimes == nil)
        try driver.send(64)
        let second = try stats(after: 2)
        for t in second.since(first, seconds: 1).queueTimes ?? [] {
            let before = first.queueTimes?.first { $0.queue == t.queue && $0.what == t.what }?.nanoseconds["count"]
            let all = second.queueTimes?.first { $0.queue == t.queue && $0.what == t.what }?.nanoseconds["count"]
            #expect(t.nanoseconds["count"] == (all ?? 0) - (before ?? 0))
        }
        withExtendedLifetime(driver) {}
    }

    @Test("pairs change their threads, and a switch's port its options; what is exported has them")
    func assignments() throws {
        let lab = try ControlLab(threads: 3)
        let client = try ControlClient(lab.path)
        func set(_ params: Methods.SetPort.Params) throws -> Methods.Port {
            try client.call(Methods.SetPort.self, params)
        }
        func error(_ params: Methods.SetPort.Params) -> String {
            let failure = #expect(throws: RPC.Failure.self) { try set(params) }
            return failure?.message ?? ""
        }
        let a = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/a,queues=2,rate_in=1gbit"))
        let b = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/b,threads=2"))
        #expect(a.threads == [0, 1] && b.threads == [2])
        let (one, other) = (try EmbeddedDriver(path: a.name), try EmbeddedDriver(path: b.name))
        for round in 0..<100 {
            let threads = [round % 3, (round + 1) % 3]
            #expect(try set(.init(name: a.name, threads: threads)).threads == threads)
            #expect(try set(.init(name: b.name, options: "threads=\(round / 2 % 3)")).threads == [round / 2 % 3])
            try one.send(64 + round)
            #expect(try other.receive() == 64 + round)
        }
        let changed = try set(.init(name: a.name, threads: [2, 1], options: "rate_in=,storm=10kpps,access=7"))
        let text = "vhost-user:\(lab.folder)/a,queues=2,threads=2+1,storm=10kpps,access=7"
        #expect(changed.port == text && changed.threads == [2, 1])
        #expect(lab.engine.portOptions[0].options == (try PortSyntax.port(text)))
        let exported = try client.call(Methods.Export.self, .init()).config
        #expect(try SettingsFile(exported, file: "x").settings.texts[0] == text)
        #expect(try set(.init(name: a.name, threads: [])).threads == [0, 1])
        let before = try client.call(Methods.ListPorts.self, .init()).ports.map(\.port)
        #expect(error(.init(name: a.name, threads: [3])).contains("thread 3: there is no such poll thread; 0 to 2 are"))
        #expect(error(.init(name: a.name, cpus: [1])).contains("none is pinned to any, so give threads"))
        #expect(error(.init(name: a.name, threads: [0], cpus: [1])).hasPrefix("port.set: threads or cpus"))
        #expect(error(.init(name: a.name, options: "queues=3")).contains("'queues' cannot change while the port runs"))
        #expect(error(.init(name: a.name, options: "access")).contains("options are written name=value"))
        #expect(error(.init(name: a.name, options: "access=5000")).contains("one VLAN, 1 to 4094"))
        #expect(error(.init(name: a.name, options: "threads=1,mirror=null:x")).contains("no port is called so"))
        #expect(error(.init(name: "x", threads: [0])).hasPrefix("x: there is no such port"))
        #expect(error(.init(name: a.name)).contains("nothing is to be set"))
        #expect(try client.call(Methods.ListPorts.self, .init()).ports.map(\.port) == before)
        #expect(try client.call(Methods.ListPorts.self, .init()).ports[0].threads == [0, 1])
        withExtendedLifetime((one, other)) {}
    }

    @Test("what a null port sends changes, alone or with its other options, or not at all")
    func emit() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        _ = try client.call(Methods.AddPort.self, .init(port: "null:a,emit=60,rate_in=10kpps"))
        _ = try client.call(Methods.AddPort.self, .init(port: "null:b"))
        func set(_ options: String) throws -> String {
            try client.call(Methods.SetPort.self, .init(name: "null:a", options: options)).port
        }
        func kind() -> PortKind? { lab.engine.portOptions.first { $0.options.name == "null:a" }?.options.kind }
        #expect(try set("emit=1500,rate_in=20kpps") == "null:a,emit=1500,rate_in=20kpps")
        #expect(kind() == .null(name: "a", emit: 1500))
        let exported = try client.call(Methods.Export.self, .init()).config
        #expect(try SettingsFile(exported, file: "x").settings.texts.contains("null:a,emit=1500,rate_in=20kpps"))
        // The size is possible, the copies' port is not: neither changes.
        #expect(throws: RPC.Failure.self) { try set("emit=64,mirror=null:x") }
        #expect(throws: RPC.Failure.self) { try set("emit=13") }
        #expect(kind() == .null(name: "a", emit: 1500))
        #expect(try set("emit=") == "null:a,rate_in=20kpps" && kind() == .null(name: "a", emit: nil))
        let socket = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/v"))
        let failure = #expect(throws: RPC.Failure.self) {
            try client.call(Methods.SetPort.self, .init(name: socket.name, options: "emit=60"))
        }
        #expect(failure?.message.contains("'emit' is no option of vhost-user") == true)
    }

    @Test("where one of several changes is refused, nothing has changed; a new busyloop budget is exported")
    func wholly() throws {
        let lab = try ControlLab(threads: 2)
        let client = try ControlClient(lab.path)
        let a = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(lab.folder)/a,mtu=1500")).name
        let driver = try EmbeddedDriver(path: a)
        func state() throws -> [String] {
            try [client.call(Methods.Export.self, .init()).config, "\(lab.engine.portOptions)"]
                + ["\(lab.engine.snapshot().map(\.isUp))", "\(lab.engine.pairThreads(port: a))"]
        }
        let before = try state()
        let wrong: [Methods.SetPort.Params] = [
            .init(name: a, busyloop: "50us", mtu: 60), .init(name: a, up: false, busyloop: "50us", threads: [7]),
            .init(name: a, mtu: 1400, options: "mirror=null:x"), .init(name: a, busyloop: "5ms", threads: [1]),
            .init(name: a, busyloop: "50us", mtu: 1400, announce: true, threads: [1], options: "rate_in=1gbit"),
        ]
        for params in wrong {
            #expect(throws: RPC.Failure.self) { try client.call(Methods.SetPort.self, params) }
            #expect(try state() == before, "\(params)")
        }
        let changed = try client.call(
            Methods.SetPort.self, .init(name: a, busyloop: "50us", threads: [1], options: "rate_in=1gbit"))
        #expect(changed.port == "vhost-user:\(a),mtu=1500,busyloop=50us,threads=1,rate_in=1gbit")
        #expect(try client.call(Methods.Export.self, .init()).config.contains(changed.port))
        #expect(lab.engine.portOptions[0].options.busyloop == .microseconds(50))
        let back = try client.call(Methods.SetPort.self, .init(name: a, options: "busyloop=,threads=,rate_in="))
        #expect(back.port == "vhost-user:\(a),mtu=1500" && lab.engine.portOptions[0].options.busyloop == nil)
        #expect(throws: RPC.Failure.self) {
            try client.call(Methods.SetMode.self, .init(macAgeing: 7, size: 60))
        }
        #expect(lab.engine.macAgeing != 7)
        withExtendedLifetime(driver) {}
    }

    @Test("a mode's parameters are told and changed")
    func modes() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        func set(_ params: Methods.SetMode.Params) throws -> Methods.SetMode.Answer {
            try client.call(Methods.SetMode.self, params)
        }
        var answer = try set(.init())
        #expect(answer.mode == "switch" && answer.macAgeing == 300 && answer.size == nil)
        #expect(try set(.init(macAgeing: 10)).macAgeing == 10 && lab.engine.macAgeing == 10)
        #expect(try client.call(Methods.Export.self, .init()).config.contains("mac_ageing: 10\n"))
        #expect(throws: RPC.Failure.self) { try set(.init(macAgeing: 0)) }
        #expect(throws: RPC.Failure.self) { try set(.init(size: 64)) }
        let generating = try ControlLab(.generate(size: 64))
        let other = try ControlClient(generating.path)
        answer = try other.call(Methods.SetMode.self, .init(size: 1500))
        #expect(answer.mode == "generate" && answer.macAgeing == nil && answer.size == 1500)
        #expect(try other.call(Methods.Export.self, .init()).config.contains("size: 1500\n"))
    }

    @Test("an error names what was wrong and what is allowed, and nothing has changed")
    func errors() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        func error(_ line: String) throws -> (Int, String) {
            let response = try JSONDecoder().decode(RPC.Response.self, from: Data(try client.exchange(line).utf8))
            return (response.error?.code ?? 0, response.error?.message ?? "no error")
        }
        func call(_ method: String, _ params: String) throws -> (Int, String) {
            try error(#"{"jsonrpc":"2.0","id":7,"method":"\#(method)","params":\#(params)}"#)
        }
        #expect(try error("hello") == (-32700, "this line is no JSON document; write one request a line"))
        #expect(try error("[]").0 == -32600 && error("3").0 == -32600 && error("{}").0 == -32600)
        #expect(try error(#"{"jsonrpc":"2.0","id":[],"method":"version"}"#).1.hasPrefix("id: "))
        #expect(try error(#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).1.contains("port.list"))
        #expect(try error(#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).0 == -32601)
        #expect(try call("port.add", "[]") == (-32602, "params: write an object with the parameters by name"))
        #expect(try call("port.add", "{}").1.hasPrefix("port.add: port is missing; write what `--port` takes"))
        #expect(try call("port.add", #"{"port":5}"#).1.hasPrefix("port.add: port: write what"))
        #expect(
            try call("port.set", #"{"name":"x","pace":5}"#).1
                == "port.set: pace: there is no such parameter; name, up, busyloop, mtu, announce, threads, cpus, "
                + "options are")
        #expect(try call("port.set", #"{"name":"x","up":5}"#).1 == "port.set: up: write true or false")
        #expect(
            try call("port.add", #"{"port":"what:x"}"#) == (
                -32000, "--port what:x: 'what' is no kind of port; vhost-user, virtio-user, tap, xdp and null are"
            ))
        #expect(try call("port.remove", #"{"name":"x"}"#) == (-32000, "x: there is no such port; there is none"))
        #expect(try call("log.level", #"{"level":"loud"}"#).1.hasSuffix("write \(LogLevel.names)"))
        #expect(try call("switch.clear", #"{"vlan":5000}"#).1 == "switch.clear: vlan: 5000: write 0 to 4094")
        let deep = String(repeating: "[", count: 60_000)
        #expect(try error(deep).0 == -32700)
        #expect(try client.call(Methods.ListPorts.self, .init()).ports.isEmpty)
    }

    @Test("notifications have no answer, batches one line")
    func batches() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.path)
        let add = #"{"jsonrpc":"2.0","method":"port.add","params":{"port":"null:x"}}"#
        let list = #"{"jsonrpc":"2.0","id":"a","method":"port.list"}"#
        let line = try client.exchange("\(add)\r\n\n  \n[\(add),\(list),7]")
        let all = try JSONDecoder().decode([RPC.Response].self, from: Data(line.utf8))
        #expect(all.map(\.id) == [.string("a"), .null] && all[1].error?.code == -32600)
        #expect(line.contains("null:x"))
    }

    @Test("who reads only can change nothing")
    func readOnly() throws {
        let lab = try ControlLab()
        let client = try ControlClient(lab.readPath)
        #expect(try client.call(Methods.ListPorts.self, .init()).ports.isEmpty)
        for (method, params) in [
            ("port.add", #"{"port":"null:x"}"#), ("shutdown", "{}"), ("log.level", #"{"level":"error"}"#),
        ] {
            let line = try client.exchange(#"{"jsonrpc":"2.0","id":1,"method":"\#(method)","params":\#(params)}"#)
            #expect(line.contains("-32001"), "\(line)")
        }
        var status = stat()
        #expect(stat(lab.path, &status) == 0 && status.st_mode & 0o777 == 0o600)
        #expect(stat(lab.readPath, &status) == 0 && status.st_mode & 0o777 == 0o666)
    }

    @Test("garbage, half a line, a gigabyte: their connection ends, others go on")
    func garbage() throws {
        let lab = try ControlLab()
        let other = try ControlClient(lab.path)
        for _ in 0..<3 {
            // Without end, and without a line's end.
            let endless = try ControlClient(lab.path)
            let room = [UInt8](repeating: 65, count: 65_536)
            var sent = 0
            while sent < 1 << 30, endless.write(room) { sent += room.count }
            #expect(sent < 1 << 20, "the connection has ended")
            let half = try ControlClient(lab.path)
            #expect(half.write(Array(#"{"jsonrpc":"2.0","id":1,"meth"#.utf8)))
            half.close()
            let noise = try ControlClient(lab.path)
            _ = noise.write((0..<60_000).map { _ in UInt8.random(in: 0...255) })
            noise.close()
            #expect(try other.call(Methods.Version.self, .init()).api == 1)
        }
        // A request whose sender has said all that it wants is answered.
        let last = try ControlClient(lab.path)
        #expect(last.write(Array((#"{"jsonrpc":"2.0","id":1,"method":"version"}"# + "\n").utf8)))
        last.finish()
        #expect(try last.line().contains("\"api\":1"))
        #expect(throws: (any Error).self) { try last.line() }
    }

    @Test("a client that never reads is closed when too much waits for it")
    func neverReads() throws {
        let lab = try ControlLab()
        let other = try ControlClient(lab.path)
        for n in 0..<32 { _ = try other.call(Methods.AddPort.self, .init(port: "null:\(n)")) }
        let silent = try ControlClient(lab.path)
        let request = Array((#"{"jsonrpc":"2.0","id":1,"method":"stats"}"# + "\n").utf8)
        var sent = 0
        while sent < 200_000, silent.write(request) { sent += 1 }
        #expect(sent < 200_000, "the connection has ended")
        #expect(try other.call(Methods.Version.self, .init()).api == 1)
    }

    @Test("of too many clients the one that was silent longest yields")
    func many() throws {
        let lab = try ControlLab()
        let busy = try ControlClient(lab.path)
        var silent: [ControlClient] = []
        for _ in 0..<3 * ControlServer.mostClients {
            silent.append(try ControlClient(lab.path))
            #expect(try busy.call(Methods.Version.self, .init()).api == 1)
        }
        #expect(throws: (any Error).self) { try silent[0].call(Methods.Version.self, .init()) }
        #expect(try silent.last!.call(Methods.Version.self, .init()).api == 1)
    }

    @Test("a socket that somebody serves is not taken over, one that a crash left behind is")
    func takeOver() throws {
        let lab = try ControlLab()
        var settings = Settings(lab.engine.options, texts: [])
        settings.control = SocketPlace(lab.path)
        let other = Operator(lab.engine, settings) { 0 }
        #expect(throws: (any Error).self) { try other.start() }
        #expect(try ControlClient(lab.path).call(Methods.Version.self, .init()).api == 1)
        lab.op.stop()
        #expect(access(lab.path, F_OK) != 0 && access(lab.readPath, F_OK) != 0)
        #expect(throws: (any Error).self) { try ControlClient(lab.path) }
    }

    @Test("places of sockets", arguments: ["", "/x,mode=8", "/x,mode=1000", "/x,group=", "/x,what=1", "/x,mode"])
    func places(text: String) throws {
        #expect(throws: RPC.Failure.self) { try SocketPlace(text, option: "--control") }
        #expect(try SocketPlace("/x,mode=660,group=root", option: "--control").access == .init(mode: 0o660, group: 0))
    }
}
