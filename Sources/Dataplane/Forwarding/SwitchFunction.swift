import Virtio

/// `switch`: learns source addresses, sends to known destinations, floods the rest. VLAN tags are
/// passed on as they are and don't matter.
struct SwitchFunction: PacketFunction {
    static var judgesAgain: Bool { true }
    let table: MACTable

    @inline(__always)
    mutating func process(_ packets: UnsafeMutableBufferPointer<PacketSlot>, from ingress: Ingress) -> Verdict? {
        let base = packets.baseAddress.unsafelyUnwrapped
        var lastSource = UInt64.max
        var lastDestination = UInt64.max
        var verdict = Verdict.drop
        var i = 0
        while i < packets.count {
            let p = base + i
            p.pointee.loadFront(12)
            if p.pointee.frontLength >= 12 {
                let source = p.pointee.sourceMAC
                let destination = p.pointee.destinationMAC
                if source != lastSource {
                    lastSource = source
                    // A group address cannot be a source.
                    if source & 1 == 0 { table.learn(source, port: ingress.port, seconds: ingress.seconds) }
                }
                if destination != lastDestination {
                    lastDestination = destination
                    verdict = judge(destination, ingress)
                }
                p.pointee.verdict = verdict.rawValue
            } else {
                p.pointee.verdict = Verdict.drop.rawValue
            }
            i &+= 1
        }
        return nil
    }

    @inline(__always)
    private func judge(_ destination: UInt64, _ ingress: Ingress) -> Verdict {
        if destination & 1 != 0 { return .flood }
        let port = table.find(destination, seconds: ingress.seconds)
        if port < 0 { return .flood }
        return port == ingress.port ? .drop : .port(port)
    }
}
