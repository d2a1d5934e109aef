import Foundation
import Logging
import Operation
import Ringway

/// A client of the control socket asks an engine that runs for anything, in requests and in lines that are none. The
/// ports are null ports: those of other kinds are sockets and interfaces of this machine. Nothing may trap; what is
/// refused says why and has changed nothing; what is exported is a file that can be read, with the ports of now.
@Sendable func fuzzRequests(_ given: Input) -> Int32 {
    var input = given
    guard let bench = OperatorBench(&input) else { return 0 }
    for _ in 0..<24 where !input.isEmpty {
        let isReadOnly = input.byte() & 15 == 0
        if input.byte() & 15 == 0 {
            bench.ask(anyLine(&input), isReadOnly)
        } else {
            bench.ask(request(&input), isReadOnly)
        }
    }
    bench.engine.stop()
    return 0
}

/// Nothing is written while inputs come by the thousand.
private let quiet: Void = LoggingSystem.bootstrap { _ in SwiftLogNoOpLogHandler() }

/// An engine with an operator, and what has to hold of its answers.
private final class OperatorBench {
    let engine: Engine
    private let control: Operator
    /// After the last request.
    private lazy var exported = export()

    init?(_ input: inout Input) {
        quiet
        let modes = ["switch", "generate", "macswap", "drop"]
        let text = """
            mode: \(modes[Int(input.byte()) % modes.count])
            threads: \(1 + input.byte() % 2)
            busyloop: 0
            max_ports: 4
            ports: ["null:a", "null:b,queues=2"]
            """
        guard let settings = try? SettingsFile(text, file: "f").settings,
            let engine = try? Engine(settings.engine, logger: Logger(label: "fuzz"))
        else { fail("the file is wrong") }
        do throws(EngineError) { try engine.start() } catch { return nil }
        self.engine = engine
        control = Operator(engine, settings, end: {}) { 1 }
    }

    func ask(_ line: Data, _ isReadOnly: Bool) {
        let before = exported
        let answer = control.answer(line, isReadOnly: isReadOnly)
        let after = export()
        exported = after
        if isReadOnly { hold(before == after, "the socket for reading has changed something") }
        guard let answer else { return }
        hold(!answer.contains("\n"), "an answer of two lines")
        let all: [RPC.Response]
        let text = Data(answer.utf8)
        if answer.hasPrefix("[") {
            guard let list = try? JSONDecoder().decode([RPC.Response].self, from: text) else {
                fail("this is no list of answers: \(answer)")
            }
            all = list
        } else {
            guard let one = try? JSONDecoder().decode(RPC.Response.self, from: text) else {
                fail("this is no answer: \(answer)")
            }
            all = [one]
        }
        for one in all {
            hold((one.error == nil) == (one.result != nil), "an error and a result, or neither: \(answer)")
            if let error = one.error { hold(!error.message.isEmpty, "an error that says nothing") }
        }
        if all.allSatisfy({ $0.error != nil }) && !answer.hasPrefix("[") {
            hold(before == after, "\(String(decoding: line, as: UTF8.self)) was refused, and changed: \(after)")
        }
    }

    /// The file that would start what runs.
    private func export() -> String {
        let request = Data(#"{"jsonrpc":"2.0","id":1,"method":"config.export"}"#.utf8)
        guard let answer = control.answer(request, isReadOnly: true),
            let response = try? JSONDecoder().decode(RPC.Response.self, from: Data(answer.utf8)),
            case .object(let members)? = response.result, case .string(let file)? = members["config"]
        else { fail("nothing can be exported") }
        do throws(FileError) {
            let settings = try SettingsFile(file, file: "f").settings
            hold(
                settings.engine.ports.map(\.name).sorted() == engine.portOptions.map(\.options.name).sorted(),
                "what is exported has other ports: \(file)")
            hold(
                settings.engine.ports.sorted { $0.name < $1.name }
                    == engine.portOptions.map(\.options).sorted { $0.name < $1.name },
                "what is exported has other options: \(file)")
        } catch {
            fail("what is exported cannot be read: \(error): \(file)")
        }
        return file
    }
}

/// In a release build a precondition does not say what it wanted.
private func fail(_ text: String) -> Never {
    print("fuzz: \(text)")
    fatalError()
}

private func hold(_ isTrue: Bool, _ text: @autoclosure () -> String) { if !isTrue { fail(text()) } }

/// Any bytes. Not such as name a port that is to be added: it could be anything of this machine.
private func anyLine(_ input: inout Input) -> Data {
    let line = Data((0..<min(Int(input.byte()) * 4, input.left)).map { _ in input.byte() })
    let text = (try? JSONDecoder().decode(JSONValue.self, from: line)).map { "\($0)" } ?? ""
    return text.contains("port.add") ? Data("{}".utf8) : line
}

/// Those that change something most often come most often; the last one is none.
private let methods: [(any ControlMethod.Type)?] = [
    Methods.SetPort.self, Methods.SetPort.self, Methods.SetPort.self, Methods.SetPort.self, Methods.SetPort.self,
    Methods.AddPort.self, Methods.AddPort.self, Methods.ListPorts.self, Methods.AddPort.self, Methods.RemovePort.self,
    Methods.SetPort.self, Methods.Stats.self, Methods.Why.self, Methods.Trace.self, Methods.Capture.self,
    Methods.ListAddresses.self, Methods.ClearAddresses.self, Methods.SetMode.self, Methods.LogLevel.self,
    Methods.Reload.self, Methods.Upgrade.self, Methods.Shutdown.self, Methods.Version.self, Methods.Export.self, nil,
]

/// One of a method, whose parameters mostly are as they can be.
private func request(_ input: inout Input) -> Data {
    let kind = methods[Int(input.byte()) % methods.count]
    let method = kind?.name ?? "nothing"
    var params: [String: JSONValue] = [:]
    for member in (kind?.members.map(\.name) ?? []) + ["other"] {
        let wish = input.byte()
        if member == "other" ? wish > 2 : ["name", "port"].contains(member) ? wish < 8 : wish < 160 { continue }
        params[member] = wish & 15 == 0 ? anything(&input) : value(of: member, method, &input)
    }
    // A port of another kind is none of these inputs' business.
    if method == "port.add", case .string(let text)? = params["port"], !text.hasPrefix("null:") { params = [:] }
    var document: [String: JSONValue] = ["jsonrpc": .string("2.0"), "method": .string(method)]
    if input.byte() > 8 { document["id"] = .integer(7) }
    document["params"] = .object(params)
    return (try? JSONEncoder().encode(document)) ?? Data()
}

private func value(of member: String, _ method: String, _ input: inout Input) -> JSONValue {
    let n = input.byte()
    switch member {
    case "name", "port":
        let name =
            n >= 248
            ? "null:" + String(decoding: (0...n & 7).map { _ in input.byte() }, as: UTF8.self)
            : ["null:a", "null:b", "null:c", "null:d", "null:e"][Int(n) % 5]
        return .string(method == "port.add" ? ([name] + options(&input)).joined(separator: ",") : name)
    case "options": return .string(options(&input).joined(separator: ","))
    case "up", "announce", "counts": return .boolean(n & 1 == 1)
    case "busyloop": return .string(["poll", "auto", "0", "50us", "99999999", "-1"][Int(n) % 6])
    case "threads", "cpus": return .array((0..<Int(n % 4)).map { _ in .integer(Int64(input.byte() % 4)) })
    case "level": return .string(["info", "error", "critical", "loud"][Int(n) % 4])
    default: return .integer([0, 1, 2, 60, 256, 1500, 9000, 65_535, 1_000_000, -1][Int(n) % 10])
    }
}

private func options(_ input: inout Input) -> [String] {
    let all = [
        "access=1", "access=10", "trunk=all", "trunk=1-4", "native=1", "isolated=on", "static=02:00:00:00:00:01",
        "sticky=on", "max_macs=4", "anti_spoof=on", "ips=10.0.0.1", "inspect=on", "ip_guard=on", "rate_in=1gbit",
        "rate_out=10kpps", "storm=100", "storm_broadcast=1", "mirror=null:a", "mirror_in=null:b", "mirror_out=null:c",
        "threads=0", "threads=1+0", "emit=60", "emit=9217", "queues=2", "busyloop=auto", "busyloop=poll", "mtu=1500",
    ]
    return (0..<Int(input.byte() % 4)).map { _ in
        let n = Int(input.byte())
        if n >= 240 { return String(decoding: (0...n & 7).map { _ in input.byte() }, as: UTF8.self) }
        let option = all[n % all.count]
        // Taken away.
        return input.byte() < 32 ? String(option.prefix { $0 != "=" }) + "=" : option
    }
}

private func anything(_ input: inout Input) -> JSONValue {
    switch input.byte() % 8 {
    case 0: .null
    case 1: .boolean(true)
    case 2: .integer(input.integer(Int64.self))
    case 3: .number([0.5, 1e300, -1e-9, 4_294_967_296.5][Int(input.byte()) % 4])
    case 4: .array([.integer(1), .string("x"), .null])
    case 5: .object(["a": .array([])])
    default: .string(String(decoding: (0...Int(input.byte() & 15)).map { _ in input.byte() }, as: UTF8.self))
    }
}
