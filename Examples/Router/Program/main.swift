import Foundation
import Logging
import Ringway
import RouterFunction

let usage = "usage: router ROUTES SOCKET=MAC,ADDRESS/LENGTH... (such as /run/r0.sock=02:00:00:00:00:01,192.0.2.1/24)"
let arguments = CommandLine.arguments.dropFirst()
guard let file = arguments.first, arguments.count > 1 else { fatalError(usage) }
var paths: [String] = []
var interfaces: [Interface] = []
for argument in arguments.dropFirst() {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let interface = Interface(parts[1]) else { fatalError("\(argument): \(usage)") }
    paths.append(String(parts[0]))
    interfaces.append(interface)
}
let (all, routes) = (interfaces, try Routes(String(contentsOfFile: file, encoding: .utf8), interfaces))

let signals = EndSignals()
let ports = paths.map { PortOptions(.vhostUser(path: $0, isClient: false)) }
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "router")) { _ in
    Router(all, routes)
}
try engine.start()
while signals.wait(seconds: 10) == nil {
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
