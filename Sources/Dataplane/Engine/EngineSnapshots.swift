import Virtio

extension Engine {
    /// Counters of all ports by their places; after `stop` those of the moment before.
    public func snapshot() -> [PortSnapshot] {
        guard let core else { return lastCounters }
        return ports.compactMap(\.self).map { snapshot($0, pairs: core.pairs(of: $0.port)) }
    }

    func snapshot(_ placed: PlacedPort, pairs: [PairPointer]) -> PortSnapshot {
        let port = placed.port
        var s = PortSnapshot(
            name: port.options.name, isConnected: port.isConnected, rx: .init(), tx: .init(), drops: [])
        (s.place, s.serial, s.isUp, s.wasConnected) = (port.index, placed.serial, placed.isUp, port.wasConnected)
        var drops = [UInt64](repeating: 0, count: DropCause.allCases.count)
        var own = [UInt64](repeating: 0, count: functionNames.dropCauses.count)
        for p in pairs {
            func count(_ what: PairCounters.Kind) -> UInt64 { p.pointee.counters[what] }
            s.rx.packets &+= count(.rxPackets)
            s.rx.bytes &+= count(.rxBytes)
            s.tx.packets &+= count(.txPackets)
            s.tx.bytes &+= count(.txBytes)
            s.made &+= count(.made)
            s.flooded &+= count(.flooded)
            s.consumed &+= count(.consumed)
            s.queues += QueueDirection.allCases.map {
                QueueSnapshot(
                    queue: $0.queue(ofPair: p.pointee.pair),
                    kicks: count($0 == .receive ? .receiveKicks : .transmitKicks),
                    calls: count($0 == .receive ? .receiveCalls : .transmitCalls),
                    packets: count($0 == .receive ? .txPackets : .rxPackets),
                    bytes: count($0 == .receive ? .txBytes : .rxBytes))
            }
            for cause in DropCause.allCases { drops[cause.rawValue] &+= p.pointee.counters[cause] }
            for cause in own.indices { own[cause] &+= p.pointee.counters.drops(for: cause) }
        }
        s.stoppedQueues = core?.stops[port.index].all ?? []
        s.drops = DropCause.allCases.filter { drops[$0.rawValue] > 0 }.map { ($0.text, drops[$0.rawValue]) }
        s.drops += own.indices.filter { own[$0] > 0 }.map { (functionNames.dropCauses[$0], own[$0]) }
        return s
    }
}
