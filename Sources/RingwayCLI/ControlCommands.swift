import ArgumentParser
import CPlatform
import Console
import Foundation
import Operation
import Ringway

/// What all commands that speak to a running ringway take.
struct ControlOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The control socket of the ringway that runs.", valueName: "path"))
    var control = "/run/ringway/ctl.sock"

    @Flag(help: "Print the answer as JSON (docs/control.md).")
    var json = false

    /// Ends the program with what the dataplane has against it.
    func call<M: ControlMethod>(_ method: M.Type, _ params: M.Params) -> M.Answer {
        do { return try ControlClient(control).call(method, params) } catch { fail("\(error)") }
    }

    /// Prints the answer: as JSON, or as `lines` has it for people.
    func show<Answer: Encodable>(_ answer: Answer, _ lines: (Answer) -> [String]) {
        if json { return printJSON(answer) }
        for line in lines(answer) { print(line) }
        flush()
    }
}

struct PortCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "port", abstract: "Add, remove, change and list ports of a ringway that runs.",
        subcommands: [Add.self, Remove.self, Set.self, List.self])

    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Add a port while packets flow.")
        @Argument(help: "A port as `ringway forward --port` takes it: vhost-user:/run/vm3.sock,queues=2") var port:
            String
        @OptionGroup var options: ControlOptions

        func run() {
            options.show(options.call(Methods.AddPort.self, .init(port: port))) { ["\($0.name): added"] }
        }
    }

    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Remove a port; other ports go on.")
        @Argument(help: "Its name, as `ringway port list` prints it.") var name: String
        @OptionGroup var options: ControlOptions

        func run() {
            options.show(options.call(Methods.RemovePort.self, .init(name: name))) {
                ["\($0.port): removed; received \($0.rx.packets) packets, delivered \($0.tx.packets)"]
            }
        }
    }

    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Change a port while packets flow.")
        @Argument(help: "Its name, as `ringway port list` prints it.") var name: String
        @Flag(inversion: .prefixedNo, help: "Let its packets pass, or (--no-up) none.") var up: Bool?
        @Option(help: ArgumentHelp("poll, auto, 0, or microseconds as in 50us.", valueName: "budget"))
        var busyloop: String?
        @Option(help: "Bytes. A driver that has accepted another keeps it until it begins again.") var mtu: Int?
        @Flag(help: "Ask its driver to tell the network where it is.") var announce = false
        @Option(
            help: ArgumentHelp(
                "Poll threads that serve its queue pairs from now on, as in 1 or 0,2: pair k the k-th, counted round.",
                valueName: "numbers"))
        var threads: String?
        @Option(
            help: ArgumentHelp("The same by the CPUs that they are pinned to, as in 3 or 2,4-5.", valueName: "list"))
        var cpus: String?
        @Option(
            name: .customLong("options"),
            help: ArgumentHelp(
                """
                Options as `ringway forward --port` takes them, those of a switch's port, busyloop=, threads=, and \
                emit= of a null port: rate_in=1gbit,access=10. An empty value, as in storm=, takes one away.
                """,
                valueName: "list"))
        var changes: String?
        @OptionGroup var options: ControlOptions

        func run() {
            if up == nil && busyloop == nil && mtu == nil && !announce && threads == nil && cpus == nil
                && changes == nil
            {
                fail(
                    """
                    port set \(name): say what to change: --up, --no-up, --busyloop BUDGET, --mtu BYTES, --announce, \
                    --threads NUMBERS, --cpus LIST or --options LIST
                    """,
                    status: 64)
            }
            let params = Methods.SetPort.Params(
                name: name, up: up, busyloop: busyloop, mtu: mtu, announce: announce ? true : nil,
                threads: PortCommand.list("--threads", threads), cpus: PortCommand.list("--cpus", cpus),
                options: changes)
            options.show(options.call(Methods.SetPort.self, params)) { ["\($0.name): \($0.up ? "up" : "down")"] }
        }
    }

    /// Numbers, as `--cpus` takes them.
    private static func list(_ option: String, _ text: String?) -> [Int]? {
        guard let text else { return nil }
        do throws(EngineError) { return try PortSyntax.cpus(text) } catch {
            fail("\(option) \(text): write numbers as in 1 or 0,2-4", status: 64)
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the ports.")
        @OptionGroup var options: ControlOptions

        func run() {
            options.show(options.call(Methods.ListPorts.self, .init())) { answer in
                let width = max(20, answer.ports.map(\.name.count).max() ?? 0)
                return [Text.left("name", width) + "  state  peer       queues  threads  written as"]
                    + answer.ports.map { port in
                        Text.left(port.name, width) + "  " + Text.left(port.up ? "up" : "down", 5) + "  "
                            + Text.left(port.connected ? "connected" : "nobody", 9) + Text.right("\(port.queues)", 8)
                            + "  " + Text.left(port.threads.map(String.init).joined(separator: ","), 7) + "  "
                            + port.port
                    }
            }
        }
    }
}

struct ModeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mode", abstract: "Print or change the parameters of the mode of a ringway that runs.")

    @Option(help: ArgumentHelp("Mode switch forgets an address after so long without a packet.", valueName: "seconds"))
    var macAgeing: Int?
    @Option(help: ArgumentHelp("Frames of mode generate, without CRC.", valueName: "bytes")) var size: Int?
    @OptionGroup var options: ControlOptions

    func run() {
        let params = Methods.SetMode.Params(macAgeing: macAgeing, size: size)
        options.show(options.call(Methods.SetMode.self, params)) { answer in
            [answer.mode]
                + [("address ageing", answer.macAgeing, "s"), ("frames", answer.size, "bytes")].compactMap {
                    name, value, unit in value.map { "\(name): \($0) \(unit)" }
                }
        }
    }
}

struct StatsCommand: ParsableCommand, GoesOn {
    static let configuration = CommandConfiguration(
        commandName: "stats", abstract: "Print the counters of a ringway that runs.",
        discussion: "Without --watch all since its start. The socket for reading (--control-read) will do.")

    @Flag(help: "Go on until a signal: what happened in each interval.") var watch = false
    @Option(help: ArgumentHelp("Of --watch.", valueName: "seconds")) var interval = 1.0
    @OptionGroup var options: ControlOptions

    func run() throws {
        if !(interval >= 0.01) { fail("--interval \(interval): give seconds above 0.01", status: 64) }
        if !watch {
            refuse("--interval", because: "goes with --watch")
            return options.show(options.call(Methods.Stats.self, .init())) { $0.table }
        }
        Signals.handOver()
        do throws(RPC.Failure) {
            let client = try ControlClient(options.control)
            var (last, time) = (try client.call(Methods.Stats.self, .init(counts: true)), CPlatClock.seconds)
            while isOutputOpen && !Signals.wait(until: time + interval) {
                let (next, now) = (try client.call(Methods.Stats.self, .init(counts: true)), CPlatClock.seconds)
                options.show(next.since(last, seconds: now - time)) {
                    ["in \(Text.number(now - time, 2)) s"] + $0.table
                }
                (last, time) = (next, now)
            }
        } catch {
            fail("\(error)")
        }
    }
}

struct AddressesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "addresses", abstract: "List or clear the MAC addresses that a switch has learned.",
        subcommands: [List.self, Clear.self])

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List them.")
        @OptionGroup var options: ControlOptions

        func run() {
            options.show(options.call(Methods.ListAddresses.self, .init())) { answer in
                [
                    Text.left("address", 19) + Text.right("VLAN", 4) + "  " + Text.left("kind", 9)
                        + Text.right("age", 6) + "  port"
                ]
                    + answer.addresses.map { a in
                        Text.left(a.mac, 19) + Text.right(a.vlan.map(String.init) ?? "-", 4) + "  "
                            + Text.left(a.kind, 9) + Text.right("\(a.age) s", 6) + "  " + a.port
                    }
            }
        }
    }

    struct Clear: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Forget them, but for static ones.")
        @Option(help: ArgumentHelp("Those of one port alone.", valueName: "name")) var port: String?
        @Option(help: ArgumentHelp("Those in one VLAN alone.", valueName: "number")) var vlan: Int?
        @OptionGroup var options: ControlOptions

        func run() {
            let params = Methods.ClearAddresses.Params(port: port, vlan: vlan)
            options.show(options.call(Methods.ClearAddresses.self, params)) { ["forgotten: \($0.cleared)"] }
        }
    }
}

struct LogLevelCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log-level", abstract: "Print or change how much a ringway that runs writes to its log.")

    @Argument(help: ArgumentHelp("\(LogLevel.names).", valueName: "level")) var level: String?
    @OptionGroup var options: ControlOptions

    func run() { options.show(options.call(Methods.LogLevel.self, .init(level: level))) { [$0.level] } }
}
