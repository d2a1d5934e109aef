import Logging
import Ringway
import VLANSwitchFunction

let usage = "usage: vlanswitch SOCKET=VLANS... (10u: without tags; 10+20+1u: 1 without tags; 10u+i: isolated)"
var paths: [String] = []
var ports: [VLANSwitch.Port] = []
for argument in CommandLine.arguments.dropFirst() {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let port = VLANSwitch.Port(parts[1]) else { fatalError("\(argument): \(usage)") }
    paths.append(String(parts[0]))
    ports.append(port)
}
guard ports.count > 1 else { fatalError(usage) }
let all = ports

let signals = EndSignals()
let options = EngineOptions(ports: paths.map { PortOptions(.vhostUser(path: $0, isClient: false)) }, mode: .drop)
let engine = try Engine(options, logger: Logger(label: "vlanswitch")) { _ in VLANSwitch(all) }
try engine.start()
while signals.wait(seconds: 10) == nil {
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
