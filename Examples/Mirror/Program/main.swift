import Logging
import MirrorFunction
import Ringway

let paths = CommandLine.arguments.dropFirst()
guard paths.count == 3 else { fatalError("usage: mirror PORT0.sock PORT1.sock MIRROR.sock") }

// Before the engine starts: so that a signal ends the program only when its sockets are gone.
let signals = EndSignals()
let ports = paths.map { PortOptions(.vhostUser(path: $0, isClient: false)) }
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "mirror")) { _ in Mirror() }
try engine.start()
while signals.wait(seconds: 10) == nil {
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
