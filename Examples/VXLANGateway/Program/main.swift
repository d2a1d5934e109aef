import Logging
import Ringway
import RouterFunction
import VXLANGatewayFunction

let usage = """
    usage: vxlangateway UNDERLAY-PORT MAC,ADDRESS/LENGTH[,MTU] ROUTER|- PEER[,PEER...] PORT VNI [PORT VNI...]
    A port is written as for `ringway forward`: tap:underlay, vhost-user:/run/vm1.sock. ROUTER: the next one on the
    underlay, or - where all other tunnel ends (PEER: their addresses) are on its own network.
    """
var words = CommandLine.arguments.dropFirst()
guard words.count >= 6, words.count % 2 == 0, let underlay = words.popFirst(), let text = words.popFirst(),
    let router = words.popFirst(), let peers = words.popFirst()
else { fatalError(usage) }
let parts = text.split(separator: ",")
guard let own = Interface(parts.prefix(2).joined(separator: ","), mtu: parts.count == 3 ? Int(parts[2]) ?? 0 : 1500),
    parts.count < 4, own.mtu >= 576
else { fatalError("\(text): \(usage)") }
let addresses = peers.split(separator: ",").compactMap { IPv4Address(String($0)) }
guard addresses.count == peers.split(separator: ",", omittingEmptySubsequences: false).count,
    addresses.count <= VXLANGateway.mostPeers, router == "-" || IPv4Address(router) != nil
else { fatalError("\(router), \(peers): \(usage)") }
var ports = [try PortSyntax.port(underlay)]
var networks: [UInt32] = []
while let port = words.popFirst(), let number = words.popFirst() {
    guard let vni = UInt32(number), vni < 1 << 24 else { fatalError("\(number): \(usage)") }
    ports.append(try PortSyntax.port(port))
    networks.append(vni)
}
let options = VXLANGateway.Options(
    underlay: own, router: IPv4Address(router), peers: addresses, networks: networks)

let signals = EndSignals()
// One thread: see `VXLANGateway`. With more, this throws.
let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: Logger(label: "vxlangateway")) { _ in
    VXLANGateway(options)
}
try engine.start()
var isRunning = true
while isRunning {
    isRunning = signals.wait(seconds: 10) == nil
    for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
    for counter in engine.functionCounters() { print("\(counter.name): \(counter.count)") }
}
engine.stop()
