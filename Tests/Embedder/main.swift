import Logging
import Ringway

struct DropMulticast: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            // Read once; what is judged here is what the receiver gets.
            guard let ethernet = Ethernet(packets[i].bytes, at: 0) else { continue }
            if !ethernet.destination.isMulticast { packets.decide(i, .port(1 - packets.port)) }
        }
        return nil
    }
}

// SIGINT, SIGTERM, SIGHUP and the like are noted from here on, so that the engine can remove its sockets first.
let signals = EndSignals()
let ports = ["/run/vm1.sock", "/run/vm2.sock"].map { PortOptions(.vhostUser(path: $0, isClient: false)) }
let engine = try Engine(EngineOptions(ports: ports, mode: .drop, cpus: [1]), logger: Logger(label: "nfv")) { _ in
    DropMulticast()
}
try engine.start()
while signals.wait(seconds: 10) == nil {
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
}
engine.stop()
