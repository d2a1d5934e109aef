import Logging
import RateLimiterFunction
import Ringway

let arguments = CommandLine.arguments.dropFirst()
let numbers = arguments.dropFirst(2).compactMap { UInt64($0) }
guard arguments.count == 4, numbers.count == 2 else {
    fatalError(
        "usage: ratelimiter PORT0 PORT1 PACKETS_PER_SECOND BYTES_PER_SECOND (a port: vhost-user:/run/a.sock, tap:t0)")
}
// After a pause, what comes in 10 ms may come at once; never less than one long frame.
let limits = RateLimiter.Limits(
    packets: numbers[0], packetBurst: max(1, numbers[0] / 100), bytes: numbers[1],
    byteBurst: max(9018, numbers[1] / 100))

let signals = EndSignals()
let ports = try arguments.prefix(2).map { try PortSyntax.port($0) }
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "ratelimiter")) { _ in
    Chain(RateLimiter([limits, limits]), Wire())
}
try engine.start()
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 10) == nil
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
