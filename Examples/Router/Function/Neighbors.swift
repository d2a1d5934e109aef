import Ringway

/// ARP: MAC addresses of the hosts around, whom one has asked for one, and the packet that waits for the answer.
/// Belongs to one poll thread.
public struct Neighbors: ~Copyable {
    /// Seconds for which an address counts after it was told; who still uses it in the last of them asks again.
    static let (lifetime, notice): (UInt32, UInt32) = (300, 30)
    /// Requests for an address, one a second, before its host counts as unreachable; and the seconds until all of this
    /// starts anew.
    static let (mostRequests, pause): (UInt32, UInt32) = (3, 20)

    // Not private: Swift 6.3 cannot compile a table of a private type without optimisation.
    struct Neighbor: BitwiseCopyable {
        var mac: MACAddress
        var told: UInt32
    }

    struct Search: BitwiseCopyable {
        var start: UInt32
        var requests: UInt32
        /// The place of the packet that waits; -1: none.
        var waiting: Int32 = -1
    }

    private var known = ExactTable<IPv4Address, Neighbor>(capacity: 4096, timeout: Neighbors.lifetime)
    private var searches = ExactTable<IPv4Address, Search>(capacity: 1024, timeout: Neighbors.pause)
    /// The last packet for each neighbour that was asked (RFC 1122, section 2.3.2.2), as far as there is room.
    private var held = HeldPackets(capacity: 256)
    private let (requests, replies): (Int, Int)

    /// `requests` and `replies`: places of the function's counters of what is sent.
    public init(requests: Int, replies: Int) { (self.requests, self.replies) = (requests, replies) }

    // MARK: What comes

    /// What an ARP packet was.
    public enum Taken { case answered, learned, notMine, malformed }

    /// An ARP packet on a port where one is `own`: notes who asks or answers, and turns a request into the reply. Gives
    /// it its verdict, unless it is not one's own or malformed.
    public mutating func take(_ packets: borrowing PacketBurst, _ i: Int, _ own: Interface) -> Taken {
        let packet = packets[i]
        guard let ethernet = Ethernet(packet.bytes), let arp = ARP(packet.bytes, at: Ethernet.size) else {
            return .malformed
        }
        let (sender, mac) = (arp.senderProtocolAddress, arp.senderHardwareAddress)
        guard arp.targetProtocolAddress == own.address, own.prefix.contains(sender), sender != own.address,
            !mac.isMulticast, mac != .zero
        else { return .notMine }
        _ = known.insert(sender, Neighbor(mac: mac, told: packets.seconds), now: packets.seconds) { _, _ in }
        if let search = searches.remove(sender) { sendWaiting(search, packets, to: mac, own) }
        guard arp.operation == .request else {
            packet.verdict = .consumed
            return .learned
        }
        arp.operation = .reply
        (arp.targetHardwareAddress, arp.targetProtocolAddress) = (mac, sender)
        (arp.senderHardwareAddress, arp.senderProtocolAddress) = (own.mac, own.address)
        (ethernet.destination, ethernet.source) = (mac, own.mac)
        packet.verdict = .port(packets.port)
        packets.count(replies)
        return .answered
    }

    /// What has waited for the answer goes where that came from.
    private mutating func sendWaiting(
        _ search: Search, _ packets: borrowing PacketBurst, to mac: MACAddress, _ own: Interface
    ) {
        if let packet = held.send(Int(search.waiting), in: packets), let ethernet = Ethernet(packet.bytes) {
            (ethernet.destination, ethernet.source) = (mac, own.mac)
            packet.verdict = .port(packets.port)
        } else {
            held.forget(Int(search.waiting))
        }
    }

    // MARK: What goes

    /// What is known of a neighbour's address.
    public enum Found {
        case mac(MACAddress)
        /// It has been asked for, or is now: what is to go there can `wait`.
        case asked
        /// Nobody answers.
        case unreachable
    }

    /// The MAC address of a neighbour on `port`, where one is `own`. Asks for it where that is due.
    public mutating func find(
        _ address: IPv4Address, _ packets: borrowing PacketBurst, port: Int, _ own: Interface
    ) -> Found {
        let now = packets.seconds
        // The address does not grow younger by being used, or a host that has changed would never be asked again.
        if let neighbor = known.find(address) {
            if now &- neighbor.told >= Neighbors.lifetime - Neighbors.notice, step(address, now) == .ask {
                ask(address, packets, port, own)
            }
            return .mac(neighbor.mac)
        }
        switch step(address, now) {
        case .ask:
            ask(address, packets, port, own)
            return .asked
        case .wait: return .asked
        case .unreachable: return .unreachable
        }
    }

    /// Holds a packet until the neighbour that was asked for has answered, in place of what has waited for that so far.
    /// False where it cannot be held. Otherwise it is `consumed`.
    public mutating func wait(_ packet: borrowing Packet, for address: IPv4Address) -> Bool {
        guard let search = searches.find(address) else { return false }
        held.forget(Int(search.waiting))
        let place = held.hold(packet)
        _ = searches.update(address, now: search.start) { $0.waiting = Int32(place ?? -1) }
        if place != nil { packet.verdict = .consumed }
        return place != nil
    }

    private enum Step { case ask, wait, unreachable }

    /// What to do about a host that has not answered.
    private mutating func step(_ address: IPv4Address, _ now: UInt32) -> Step {
        guard var search = searches.find(address), now &- search.start < Neighbors.pause else {
            let before = searches.insert(address, Search(start: now, requests: 1), now: now) { _, search in
                held.forget(Int(search.waiting))
            }
            if case .replaced(let search) = before { held.forget(Int(search.waiting)) }
            return .ask
        }
        let elapsed = now &- search.start
        if search.requests < Neighbors.mostRequests {
            if elapsed < search.requests { return .wait }
            search.requests += 1
            _ = searches.insert(address, search, now: now)
            return .ask
        }
        return elapsed < Neighbors.mostRequests ? .wait : .unreachable
    }

    private func ask(_ address: IPv4Address, _ packets: borrowing PacketBurst, _ port: Int, _ own: Interface) {
        guard let packet = packets.originate(60), let ethernet = Ethernet(packet.bytes),
            let arp = ARP(creating: packet.bytes, at: Ethernet.size)
        else { return }
        (ethernet.destination, ethernet.source, ethernet.etherType) = (.broadcast, own.mac, .arp)
        arp.operation = .request
        (arp.senderHardwareAddress, arp.senderProtocolAddress) = (own.mac, own.address)
        arp.targetProtocolAddress = address
        packet.verdict = .port(port)
        packets.count(requests)
    }

    /// Forgets what is too old, looking at some of the tables' places.
    public mutating func expire(now: UInt32) {
        known.expire(now: now, limit: 256) { _, _ in }
        searches.expire(now: now, limit: 256) { _, search in held.forget(Int(search.waiting)) }
    }
}
