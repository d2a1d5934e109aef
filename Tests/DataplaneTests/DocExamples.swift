// The examples in the comments of the packet API: what stands between "listing" and "end" stands there, too
// (EmbedderTests compares them).
import Glibc
import Logging
import Ringway
import RingwayLab
import Synchronization
import Testing

// listing: PacketFunction
struct Direct: PacketFunction {
    static var counters: [String] { ["IPv4"] }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            if let ethernet = Ethernet(packets[i].bytes), ethernet.etherType == .ipv4 { packets.count(0) }
        }
        return .port(1 - packets.port)
    }
}
// end

/// To ports 2 and 3, if it is not too long.
private struct Spread: PacketFunction {
    static var dropCauses: [String] { ["too long"] }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        // listing: PacketBurst
        let others = packets.verdict(for: PortSet([2, 3]))
        for i in 0..<packets.count {
            if packets[i].length > 1514 {
                packets.drop(i, because: 0)
            } else {
                packets.decide(i, others)
            }
        }
        return nil
        // end
    }
}

private struct Named: PacketFunction {
    // listing: drop
    enum Cause: Int, CaseIterable { case noRule, tooShort }
    static var dropCauses: [String] { Cause.allCases.map { "\($0)" } }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count { packets.drop(i, because: Cause.noRule) }
        return nil
    }
    // end
}

private struct Unfinished: PacketFunction {
    let from = IPv4Address("10.0.0.1")!
    let to = IPv4Address("10.0.0.2")!

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            guard let tcp = TCP(packet.bytes, at: 34) else { continue }
            // listing: partial
            var sum = Checksum()
            sum.addPseudoHeader(source: from, destination: to, protocol: .tcp, length: 20)
            tcp.checksum = sum.partial
            // end
        }
        return nil
    }
}

private struct Waiting: PacketFunction, ~Copyable {
    private var held = HeldPackets(capacity: 16)
    private var waiting = 0

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            // listing: HeldPackets
            if let place = held.hold(packets[i]) {
                packets.decide(i, .consumed)
                waiting = place
            }
            // In a later call, or in `tick`:
            if let packet = held.send(waiting, in: packets) { packet.verdict = .port(1) }
            // end
        }
        return nil
    }
}

private struct AllButThis: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        // listing: PortSet
        var ports = PortSet([1, 2, 3])
        ports.remove(packets.port)
        return packets.verdict(for: ports)
        // end
    }
}

private struct Fallback: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        // listing: Verdict
        return packets.isUp(1) ? .port(1) : .flood
        // end
    }
}

private struct Small: PacketFunction {
    static var dropCauses: [String] { ["beyond the MTU"] }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            packets.decide(i, .port(1))
            // listing: PortInfo
            if let mtu = packets.info(of: 1)?.mtu, packets[i].length > Int(mtu) + Ethernet.size {
                packets.drop(i, because: 0)
            }
            // end
        }
        return nil
    }
}

private struct Trunk: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            // listing: Packet
            let packet = packets[i]
            if let tag = packet.popVLAN() {
                packet.verdict = .port(Int(tag & 0xfff))
            } else if packet.pushVLAN(UInt16(packets.port)) {
                packet.verdict = .port(0)
            }
            // end
        }
        return nil
    }
}

private struct Headed: PacketFunction {
    let template: HeaderTemplate

    init(_ gateway: MACAddress, _ own: MACAddress) {
        // listing: HeaderTemplate
        let outer = HeaderTemplate(Ethernet.size) { bytes in
            guard let ethernet = Ethernet(bytes) else { return }
            (ethernet.destination, ethernet.source, ethernet.etherType) = (gateway, own, .ipv4)
        }
        // end
        template = outer
    }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            // listing: prepend
            if packet.removeFirst(Ethernet.size), packet.prepend(template) { packet.verdict = .port(1) }
            // end
        }
        return nil
    }
}

/// Looks at headers in each of the ways that comments show.
private struct Looking: PacketFunction {
    let address: IPv4Address
    let seed = HashSeed()
    var limit = TokenBucket(rate: 0, burst: 0, ticksPerSecond: 1, now: 0)
    var isDNS = false
    var worker = -1

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        let nanoseconds = packets.ticks
        for i in 0..<packets.count {
            let packet = packets[i]
            // listing: Ethernet
            guard let ethernet = Ethernet(packet.bytes), ethernet.etherType == .ipv4 else { continue }
            // end
            // listing: IPv4
            if let ip = IPv4(packet.bytes, at: Ethernet.size), ip.decrementTimeToLive() {
                packet.verdict = .port(1)
            }
            // end
            // listing: Layers
            let layers = Layers(packet.bytes, frameLength: packet.length)
            if let at = layers.transportOffset, layers.ipProtocol == .udp, let udp = UDP(packet.bytes, at: at) {
                isDNS = udp.destinationPort == 53
            }
            // end
            // listing: FlowKey
            if let key = FlowKey(packet.bytes, layers) { worker = Int(key.symmetricHash(seed) & 3) }
            // end
            guard let at = layers.transportOffset, let udp = UDP(packet.bytes, at: at),
                let ip = IPv4(packet.bytes, at: Ethernet.size)
            else { continue }
            // listing: Checksum
            // Another source: both checksums follow, without a look at the rest of the packet.
            let old = ip.sourceAddress
            ip.sourceAddress = address
            ip.headerChecksum = Checksum.update(ip.headerChecksum, from: old, to: address)
            udp.checksum = Checksum.forUDP(
                Checksum.update(udp.checksum, from: old, to: address), old: udp.checksum)
            // end
            // listing: TokenBucket
            var limit = TokenBucket(
                rate: 125_000_000, burst: 65_536, ticksPerSecond: 1_000_000_000, now: nanoseconds)
            if !limit.take(UInt64(packet.length), now: nanoseconds) { packet.verdict = .drop }
            // end
            self.limit = limit
        }
        return nil
    }
}

/// Looks at what lies behind Ethernet headers.
private struct Viewing: PacketFunction {
    var asked = IPv4Address("0.0.0.0")!
    var wanted = IPv6Address("::")!
    var (vlan, network) = (UInt16(0), UInt32(0))
    var (pings, opened, names) = (0, 0, 0)

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            guard let ethernet = Ethernet(packet.bytes) else { continue }
            // listing: VLANTag
            if ethernet.etherType == .vlan, let tag = VLANTag(packet.bytes, at: Ethernet.size) { vlan = tag.vlanID }
            // end
            // listing: ARP
            if ethernet.etherType == .arp, let arp = ARP(packet.bytes, at: Ethernet.size), arp.operation == .request {
                asked = arp.targetProtocolAddress
            }
            // end
            // listing: IPv6
            if let ip = IPv6(packet.bytes, at: Ethernet.size), ip.decrementHopLimit() {
                packet.verdict = .port(1)
            }
            // end
            let layers = Layers(packet.bytes, frameLength: packet.length)
            guard let at = layers.transportOffset else { continue }
            // listing: ICMP
            if layers.ipProtocol == .icmp, let icmp = ICMP(packet.bytes, at: at), icmp.type == ICMP.V4.echo {
                pings += 1
            }
            // end
            // listing: NeighborDiscovery
            if layers.ipProtocol == .icmpV6, let message = NeighborDiscovery(packet.bytes, at: at),
                !message.isAdvertisement
            {
                wanted = message.targetAddress
            }
            // end
            // listing: TCP
            if layers.ipProtocol == .tcp, let tcp = TCP(packet.bytes, at: at), tcp.flags.contains(.syn) { opened += 1 }
            // end
            guard layers.ipProtocol == .udp else { continue }
            // listing: UDP
            if let udp = UDP(packet.bytes, at: at), udp.destinationPort == 53 { names += 1 }
            // end
            guard let udp = UDP(packet.bytes, at: at) else { continue }
            // listing: VXLAN
            if udp.destinationPort == VXLAN.port, let vxlan = VXLAN(packet.bytes, at: at + UDP.size), vxlan.isVNIValid {
                network = vxlan.vni
            }
            // end
            // listing: Geneve
            if udp.destinationPort == Geneve.port, let geneve = Geneve(packet.bytes, at: at + UDP.size) {
                network = geneve.vni
            }
            // end
        }
        return nil
    }
}

@Suite struct DocExampleTests {
    /// From 10.0.0.1 to 10.0.0.2, port 53.
    private static let datagram: [UInt8] = {
        var f = Frame.mac(2) + Frame.mac(1) + [8, 0]
        f += [0x45, 0] + Frame.big(60) + [0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        f += Frame.big(5000) + Frame.big(53) + Frame.big(40) + [0, 0] + [UInt8](repeating: 7, count: 32)
        return f
    }()

    @Test("verdicts: one for all, by length, to sets of ports, by what is known of a port")
    func verdicts() {
        let frame = DocExampleTests.datagram
        let direct = FunctionHarness(Direct(), ports: 2)
        #expect(direct.process([frame], from: 0) == [.init(frame, to: [1])] && direct.counter("IPv4") == 1)
        let long = frame + [UInt8](repeating: 0, count: 1500)
        #expect(FunctionHarness(Named(), ports: 2).process([frame], from: 0)[0].cause == "noRule")
        _ = FunctionHarness(Unfinished(), ports: 2).process([frame], from: 0)
        let spread = FunctionHarness(Spread(), ports: 4).process([frame, long], from: 0)
        #expect(spread.map(\.ports) == [[2, 3], []] && spread[1].cause == "too long")
        #expect(FunctionHarness(AllButThis(), ports: 4).process([frame], from: 2)[0].ports == [1, 3])
        let fallback = FunctionHarness(Fallback(), ports: 3)
        #expect(fallback.process([frame], from: 0)[0].ports == [1])
        fallback.setPort(1, isUp: false)
        #expect(fallback.process([frame], from: 0)[0].ports == [1, 2])
        let small = FunctionHarness(Small(), ports: 2)
        small.setInfo(PortInfo(isUp: true, mtu: 1000), of: 1)
        #expect(small.process([frame, long], from: 0).map(\.cause) == [nil, "beyond the MTU"])
    }

    @Test("packets change: tags, other headers")
    func changes() {
        let frame = DocExampleTests.datagram
        let trunk = FunctionHarness(Trunk(), ports: 3)
        let tagged = trunk.process([frame], from: 2)[0]
        #expect(tagged.ports == [0] && trunk.process([tagged.frame], from: 0) == [.init(frame, to: [2])])
        let headed = FunctionHarness(
            Headed(MACAddress("02:00:00:00:00:0a")!, MACAddress("02:00:00:00:00:0b")!), ports: 2)
        let out = headed.process([frame], from: 0)[0]
        #expect(Array(out.frame.prefix(14)) == [2, 0, 0, 0, 0, 10, 2, 0, 0, 0, 0, 11, 8, 0])
        #expect(out.frame.dropFirst(14) == frame.dropFirst(14) && out.ports == [1])
    }

    @Test("headers are looked at")
    func looks() {
        let looking = FunctionHarness(Looking(address: IPv4Address("192.0.2.1")!), ports: 2)
        let out = looking.process([DocExampleTests.datagram], from: 0)[0]
        #expect(out.ports == [1] && out.frame[22] == 63 && Array(out.frame[26..<30]) == [192, 0, 2, 1])
        #expect(looking.function.isDNS && (0..<4).contains(looking.function.worker))
        #expect(looking.function.limit.burst == 65_536)
    }

    @Test("each kind of header is seen")
    func views() {
        func v4(_ number: UInt8, _ payload: [UInt8]) -> [UInt8] {
            Frame.mac(2) + Frame.mac(1) + [8, 0, 0x45, 0] + Frame.big(20 + payload.count)
                + [0, 0, 0, 0, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2] + payload
        }
        func udp(_ port: Int, _ payload: [UInt8]) -> [UInt8] {
            v4(17, Frame.big(5000) + Frame.big(port) + Frame.big(8 + payload.count) + [0, 0] + payload)
        }
        func see(_ frame: [UInt8]) -> (Viewing, FunctionHarness<Viewing>.Output) {
            let harness = FunctionHarness(Viewing(), ports: 2)
            let out = harness.process([frame], from: 0)[0]
            return (harness.function, out)
        }
        let macs = Frame.mac(2) + Frame.mac(1)
        let zeros = [UInt8](repeating: 0, count: 24)
        #expect(see(macs + [0x81, 0, 0, 100, 8, 0] + zeros).0.vlan == 100)
        let arp = [0, 1, 8, 0, 6, 4, 0, 1] + Frame.mac(1) + [10, 0, 0, 1] + [0, 0, 0, 0, 0, 0, 10, 0, 0, 9]
        #expect(see(macs + [8, 6] + arp + zeros).0.asked == IPv4Address("10.0.0.9"))
        #expect(see(v4(1, [8, 0, 0, 0, 0, 1, 0, 1])).0.pings == 1)
        let syn = Frame.big(5000) + Frame.big(80) + [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]
        #expect(see(v4(6, syn)).0.opened == 1)
        #expect(see(udp(53, zeros)).0.names == 1)
        #expect(see(udp(4789, [8, 0, 0, 0, 0, 0, 77, 0] + zeros)).0.network == 77)
        #expect(see(udp(6081, [0, 0, 0x65, 0x58, 0, 0, 78, 0] + zeros)).0.network == 78)
        let address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] as [UInt8]
        let solicitation = [135, 0, 0, 0, 0, 0, 0, 0] + address + [9]
        let six = [0x60, 0, 0, 0, 0, 24, 58, 255] + address + [1] + address + [2] + solicitation
        let seen = see(macs + [0x86, 0xdd] + six)
        #expect(seen.0.wanted == IPv6Address("fe80::9") && seen.1.ports == [1] && seen.1.frame[21] == 254)
    }

    @Test("tables")
    func tables() throws {
        let key = FlowKey(
            source: IPv4Address("10.1.0.1")!, destination: IPv4Address("10.0.0.2")!, protocol: .tcp, sourcePort: 5000,
            destinationPort: 22)
        let seconds: UInt32 = 1
        var ended: [UInt32] = []
        // listing: ExactTable
        var flows = FlowTable<UInt32>(capacity: 100_000, timeout: 30)
        if flows.find(key, now: seconds) == nil { _ = flows.insert(key, 7, now: seconds) }
        _ = flows.expire(now: seconds + 31, limit: 100_000) { key, value in ended.append(value) }
        // end
        #expect(ended == [7] && flows.count == 0)
        // listing: PrefixTable
        var routes = PrefixTable<IPv4Address>(capacity: 1000)
        _ = routes.insert(IPv4Prefix("10.0.0.0/8")!, 1)
        _ = routes.insert(IPv4Prefix("10.1.0.0/16")!, 2)
        let port = routes.lookup(IPv4Address("10.1.2.3")!)  // 2
        // end
        #expect(port == 2)
        // listing: Classifier
        let classifier = try Classifier([
            ClassifierRule(protocol: .tcp, destinationPorts: 22...22, action: 0),
            ClassifierRule(source: .ipv4(IPv4Prefix("10.0.0.0/8")!), action: 1),
        ])
        let action = classifier.match(key)?.action  // That of the first rule which matches
        // end
        #expect(action == 0)
    }

    @Test("without an engine, in a chain")
    func harness() throws {
        let frame = DocExampleTests.datagram
        do {
            // listing: FunctionHarness
            let harness = FunctionHarness(Pass(), ports: 2)
            #expect(harness.process([frame], from: 0) == [.init(frame, to: [1])])
            // end
        }
        let rules = ReadMostly(try Classifier([ClassifierRule(action: 1)]))
        let (address, hardware) = (IPv4Address("10.0.0.9")!, MACAddress("02:00:00:00:00:09")!)
        // listing: Chain
        let chain = Chain(Responder(address: address, hardware: hardware), Firewall(rules: rules.reader))
        // end
        #expect(FunctionHarness(chain, ports: 2).process([frame], from: 0) == [.init(frame, to: [1])])
    }

    @Test("an engine is started, watched, told and given other rules")
    func engine() throws {
        var template = Array("/tmp/ringway-doc-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        defer { rmdir(folder) }
        let ports = [0, 1].map { PortOptions(.vhostUser(path: "\(folder)/\($0).sock", isClient: false)) }
        let logger = Logger(label: "test")
        do {
            // listing: Engine
            let engine = try Engine(EngineOptions(ports: ports, mode: .switch), logger: logger)
            try engine.start()
            for port in engine.snapshot() { print(port.name, port.rx.packets, port.tx.packets, port.drops) }
            engine.stop()
            // end
        }
        let old = [ClassifierRule(action: 1)]
        let new = old
        // listing: ReadMostly
        let rules = ReadMostly(try Classifier(old))
        let engine = try Engine(EngineOptions(ports: ports, mode: .drop), logger: logger) { _ in
            Chain(Limiter(bytesPerSecond: 1_000_000), Firewall(rules: rules.reader))
        }
        try engine.start()
        // end
        // listing: add
        try engine.add(PortOptions(.null(name: "sink", emit: nil)))
        let last = try engine.remove("null:sink")
        print(last.tx.packets)
        // end
        // listing: setThreads
        try engine.setThreads([0], port: ports[0].name)
        print(engine.pairThreads(port: ports[0].name))
        // end
        try engine.add(PortOptions(.null(name: "source", emit: nil)))
        // listing: setEmit
        try engine.setEmit(1500, port: "null:source")
        // end
        // listing: setFunctionBudget
        try engine.setFunctionBudget(500)
        // end
        // listing: replace
        engine.replace(rules, with: try Classifier(new))
        // end
        // listing: send
        let answers = try engine.send(
            .first(.bytesPerSecond(125_000_000)), to: Chain<Limiter, Firewall>.self)
        // end
        #expect(answers.count == 1)
        let isOpen = Atomic(true)
        // listing: synchronize
        isOpen.store(false, ordering: .relaxed)
        engine.synchronize()
        // No thread is in a burst any more that has seen the old value.
        // end
        engine.stop()
    }
}
