import Virtio

/// `switch`: learns source addresses, sends to known destinations, floods the rest. VLAN tags are
/// passed on as they are and don't matter.
struct SwitchFunction: PacketFunction {
    static var frontBytes: Int { 12 }
    static var judgesAgain: Bool { true }
    let table: MACTable

    @inline(__always)
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        var lastSource = UInt64.max
        var lastDestination = UInt64.max
        var verdict = Verdict.drop
        var i = 0
        while i < packets.count {
            let packet = packets.look(i, .wanted(SwitchFunction.frontBytes))
            if packet.hasAddresses {
                let source = packet.sourceMAC
                let destination = packet.destinationMAC
                if source != lastSource {
                    lastSource = source
                    // A group address cannot be a source.
                    if source & 1 == 0 { table.learn(source, port: packets.port, seconds: packets.seconds) }
                }
                if destination != lastDestination {
                    lastDestination = destination
                    verdict = judge(destination, packets.port, packets.seconds)
                }
                packet.verdict = verdict
            }
            i &+= 1
        }
        return nil
    }

    @inline(__always)
    private func judge(_ destination: UInt64, _ ingress: Int, _ seconds: UInt32) -> Verdict {
        if destination & 1 != 0 { return .flood }
        let port = table.find(destination, seconds: seconds)
        if port < 0 { return .flood }
        return port == ingress ? .drop : .port(port)
    }
}
