// The functions of docs/functions.md, which shows them as they stand here (GuideTests sees to it).
import Ringway

// listing: pass
struct Pass: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .port(1 - packets.port) }
}
// end

// listing: firewall
struct Firewall: PacketFunction {
    static var dropCauses: [String] { ["denied", "not IP", "malformed"] }
    static var counters: [String] { ["allowed"] }

    /// Rules that are replaced while packets flow; action 1 allows.
    let rules: ReadMostly<Classifier>.Reader

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        var allowed = 0
        rules.withValue { rules in
            for i in 0..<packets.count {
                let packet = packets[i]
                let layers = Layers(packet.bytes, frameLength: packet.length)
                if layers.defect != nil {
                    packets.drop(i, because: 2)
                } else if layers.etherType == .arp {
                    packet.verdict = .port(1 - packets.port)
                } else if let key = FlowKey(packet.bytes, layers) {
                    if rules.match(key)?.action == 1 {
                        packet.verdict = .port(1 - packets.port)
                        allowed += 1
                    } else {
                        packets.drop(i, because: 0)
                    }
                } else {
                    packets.drop(i, because: 1)
                }
            }
        }
        packets.count(0, allowed)
        return nil
    }
}
// end

// listing: access
/// Port 0 is a trunk, the others are access ports of a VLAN each: port *n* of VLAN 100 + *n*.
struct Access: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            if packets.port == 0 {
                guard let tag = packet.popVLAN() else { continue }
                packet.verdict = .port(Int(tag & 0xfff) - 100)
            } else if packet.pushVLAN(UInt16(100 + packets.port)) {
                packet.verdict = .port(0)
            }
        }
        return nil
    }
}
// end

// listing: responder
/// Answers ARP requests for one address; all else goes on.
struct Responder: PacketFunction {
    let address: IPv4Address
    let hardware: MACAddress

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            packets.decide(i, .next)
            let packet = packets[i]
            guard let ethernet = Ethernet(packet.bytes), ethernet.etherType == .arp,
                let request = ARP(packet.bytes, at: Ethernet.size), request.operation == .request,
                request.targetProtocolAddress == address
            else { continue }
            packets.decide(i, .consumed)
            guard let answer = packets.originate(60), let header = Ethernet(answer.bytes),
                let reply = ARP(creating: answer.bytes, at: Ethernet.size)
            else { continue }
            (header.destination, header.source, header.etherType) = (ethernet.source, hardware, .arp)
            reply.operation = .reply
            (reply.senderHardwareAddress, reply.senderProtocolAddress) = (hardware, address)
            reply.targetHardwareAddress = request.senderHardwareAddress
            reply.targetProtocolAddress = request.senderProtocolAddress
            answer.verdict = .port(packets.port)
        }
        return nil
    }
}
// end

// listing: mirror
/// Sends a copy of each packet to port 2, in a VLAN of its own.
struct Mirror: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            if let copy = packets.copy(i), copy.pushVLAN(999) { copy.verdict = .port(2) }
        }
        return .next
    }
}
// end

// listing: patient
/// Sends to one gateway, behind port 1; the last packet that comes before the gateway's address is known waits for it.
struct Patient: PacketFunction, ~Copyable {
    static var dropCauses: [String] { ["gateway unknown"] }

    private var gateway: MACAddress?
    private var held = HeldPackets(capacity: 1)
    private var waiting: Int?

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            let packet = packets[i]
            guard let ethernet = Ethernet(packet.bytes) else { continue }
            if packets.port == 1, ethernet.etherType == .arp {
                gateway = ethernet.source
                packet.verdict = .consumed
                if let place = waiting.take(), let late = held.send(place, in: packets) { pass(late) }
            } else if gateway == nil {
                if let place = waiting.take() { held.forget(place) }
                waiting = held.hold(packet)
                if waiting == nil { packets.drop(i, because: 0) } else { packet.verdict = .consumed }
            } else {
                pass(packet)
            }
        }
        return nil
    }

    private func pass(_ packet: borrowing Packet) {
        guard let gateway, let ethernet = Ethernet(packet.bytes) else { return }
        ethernet.destination = gateway
        packet.verdict = .port(1)
    }
}
// end

// listing: limiter
/// Lets so many bytes a second through; owns what it counts with, one value a thread.
struct Limiter: PacketFunction, ~Copyable {
    static var dropCauses: [String] { ["over the rate"] }

    private var bucket: TokenBucket

    init(bytesPerSecond rate: UInt64) {
        let ticks = TickClock.shared.ticksPerMicrosecond * 1_000_000
        bucket = TokenBucket(rate: rate, burst: rate / 10, ticksPerSecond: ticks, now: 0)
    }

    enum Command: Sendable { case bytesPerSecond(UInt64) }

    /// Answers with the rate before.
    mutating func perform(_ command: Command, at time: BurstTime) -> UInt64 {
        let old = bucket.rate
        switch command {
        case .bytesPerSecond(let rate): bucket.change(rate: rate, burst: rate / 10, now: time.ticks)
        }
        return old
    }

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            if bucket.take(UInt64(packets[i].length), now: packets.ticks) {
                packets.decide(i, .next)
            } else {
                packets.drop(i, because: 0)
            }
        }
        return nil
    }
}
// end
