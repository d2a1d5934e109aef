import Foundation
import Logging
import NAT44Function
import Ringway
import RouterFunction

let usage = """
    usage: nat44 GATEWAY OUTSIDE-PORT MAC,ADDRESS/LENGTH INSIDE-PORT MAC,ADDRESS/LENGTH... [tcp:PORT=ADDRESS:PORT...]
    A port is written as for `ringway forward`: vhost-user:/run/wan.sock, tap:wan. GATEWAY: the next router outside.
    """
var words = CommandLine.arguments.dropFirst()
var options = NAT44.Options()
while let forward = words.last.flatMap({ NAT44.Forward($0) }) {
    options.forwards.append(forward)
    words.removeLast()
}
guard let gateway = words.popFirst(), words.count >= 4, words.count % 2 == 0 else { fatalError(usage) }
var ports: [PortOptions] = []
var interfaces: [Interface] = []
while let port = words.popFirst(), let text = words.popFirst() {
    guard let interface = Interface(text) else { fatalError("\(text): \(usage)") }
    ports.append(try PortSyntax.port(port))
    interfaces.append(interface)
}
let (all, chosen) = (interfaces, options)
let routes = try Routes("0.0.0.0/0 \(gateway)", interfaces)

let signals = EndSignals()
// One thread: see `NAT44`. With more, this throws.
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "nat44")) { _ in
    NAT44(all, routes, chosen)
}
try engine.start()
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 10) == nil
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
