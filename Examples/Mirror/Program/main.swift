import Logging
import MirrorFunction
import Ringway

let paths = CommandLine.arguments.dropFirst()
guard paths.count == 3 else { fatalError("usage: mirror PORT0 PORT1 MIRROR (such as vhost-user:/run/a.sock, tap:t0)") }

// Before the engine starts: so that a signal ends the program only when its sockets are gone.
let signals = EndSignals()
let ports = try paths.map { try PortSyntax.port($0) }
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "mirror")) { _ in Mirror() }
try engine.start()
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 10) == nil
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
