import FirewallFunction
import Glibc
import Logging
import Ringway

guard CommandLine.arguments.count == 4 else {
    fatalError("usage: firewall INSIDE OUTSIDE RULES (a port: vhost-user:/run/a.sock, tap:t0)")
}
let file = CommandLine.arguments[3]

var rules: Rules
do { rules = try readRules(file) } catch {
    print("\(file): \(error)")
    exit(1)
}
// SIGHUP does not end this program.
let signals = EndSignals(except: [SIGHUP])
ReloadSignal.install()
let ports = try CommandLine.arguments[1...2].map { try PortSyntax.port($0) }
let first = rules
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "firewall")) { _ in
    Firewall(first)
}
try engine.start()

var seconds = 0
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 1) == nil
    if ReloadSignal.take() {
        do {
            let answers = try engine.send(.reload(try readRules(file)), to: Firewall.self)
            print("\(file): \(answers[0]) rules from now on")
            // Also for those who watch a file.
            fflush(nil)
        } catch {
            // The old rules stay.
            print("\(file): \(error)")
        }
    }
    seconds += 1
    if isRunning && seconds % 10 != 0 { continue }
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
