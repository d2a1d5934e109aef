import Foundation
import Logging
import Ringway
import RouterFunction

let usage = """
    usage: router ROUTES PORT MAC,ADDRESS/LENGTH... (such as vhost-user:/run/r0.sock 02:00:00:00:00:01,192.0.2.1/24)
    """
var words = CommandLine.arguments.dropFirst()
guard let file = words.popFirst(), words.count > 0, words.count % 2 == 0 else { fatalError(usage) }
var ports: [PortOptions] = []
var interfaces: [Interface] = []
while let port = words.popFirst(), let text = words.popFirst() {
    guard let interface = Interface(text) else { fatalError("\(text): \(usage)") }
    ports.append(try PortSyntax.port(port))
    interfaces.append(interface)
}
let (all, routes) = (interfaces, try Routes(String(contentsOfFile: file, encoding: .utf8), interfaces))

let signals = EndSignals()
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "router")) { _ in
    Router(all, routes)
}
try engine.start()
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 10) == nil
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
