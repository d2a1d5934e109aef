import Logging
import Ringway
import VLANSwitchFunction

let usage = """
    usage: vlanswitch PORT VLANS... (10u: without tags; 10+20+1u: 1 without tags; 10u+i: isolated; a port: \
    vhost-user:/run/a.sock, tap:t0)
    """
var words = CommandLine.arguments.dropFirst()
guard words.count > 2, words.count % 2 == 0 else { fatalError(usage) }
var ports: [PortOptions] = []
var kinds: [VLANSwitch.Port] = []
while let port = words.popFirst(), let text = words.popFirst() {
    guard let kind = VLANSwitch.Port(text) else { fatalError("\(text): \(usage)") }
    ports.append(try PortSyntax.port(port))
    kinds.append(kind)
}
let all = kinds

let signals = EndSignals()
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "vlanswitch")) { _ in
    VLANSwitch(all)
}
try engine.start()
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 10) == nil
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
