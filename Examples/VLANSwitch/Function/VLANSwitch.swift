import Ringway

/// A VLAN switch (IEEE 802.1Q): access and trunk ports, learning for each VLAN, isolated ports. It has no spanning
/// tree: let it close no circle.
///
/// It owns its table. Each poll thread learns by what it sees itself, and floods until then.
public struct VLANSwitch: PacketFunction, ~Copyable {
    /// What a port is.
    public struct Port: Sendable {
        /// VLANs of the port whose frames have a tag there.
        public var tagged: Set<UInt16>
        /// VLAN of frames without a tag; nil: there may be none.
        public var untagged: UInt16?
        /// Isolated ports do not reach each other.
        public var isIsolated: Bool

        /// A port of these VLANs, which are 1 to 4094 each.
        public init(tagged: Set<UInt16>, untagged: UInt16?, isIsolated: Bool = false) {
            (self.tagged, self.untagged, self.isIsolated) = (tagged, untagged, isIsolated)
        }

        /// A port of one VLAN, without tags.
        public static func access(_ vlan: UInt16, isIsolated: Bool = false) -> Port {
            Port(tagged: [], untagged: vlan, isIsolated: isIsolated)
        }

        /// From text: VLANs with `+` between them, of which one with `u` behind it has no tag, and `i` for an isolated
        /// port: `10u`, `10+20+1u`, `10u+i`. Nil for anything else.
        public init?(_ text: some StringProtocol) {
            self.init(tagged: [], untagged: nil)
            for word in text.split(separator: "+", omittingEmptySubsequences: false) {
                if word == "i" {
                    isIsolated = true
                } else if word.last == "u", untagged == nil, let vlan = UInt16(word.dropLast()), Port.isVLAN(vlan) {
                    untagged = vlan
                } else if let vlan = UInt16(word), Port.isVLAN(vlan) {
                    tagged.insert(vlan)
                } else {
                    return nil
                }
            }
            if let untagged, tagged.contains(untagged) { return nil }
        }

        static func isVLAN(_ n: UInt16) -> Bool { (1...4094).contains(n) }
    }

    public static let frontBytes = 18
    public static let tickMicroseconds = 100_000
    public static let dropCauses = [
        "malformed", "VLAN not of the port", "link-local group", "source is a group", "destination on the same port",
        "isolated", "no port for it", "not copied",
    ]
    public static let counters = ["forwarded", "flooded", "learned"]

    private enum Cause {
        static let (malformed, vlan, linkLocal, source) = (0, 1, 2, 3)
        static let (samePort, isolated, noPort, notCopied) = (4, 5, 6, 7)
    }
    private enum Count { static let (forwarded, flooded, learned) = (0, 1, 2) }

    /// The ports of a VLAN, by the form that its frames have there.
    private struct Members {
        var tagged = PortSet()
        var untagged = PortSet()
        /// The same without the isolated ports.
        var openTagged = PortSet()
        var openUntagged = PortSet()
    }

    /// By VLAN; those without a port have nobody in them.
    private let members: [Members]
    private let isIsolated: [Bool]
    /// VLAN of frames without a tag by port; 0: none.
    private let untagged: [UInt16]
    /// Ports by VLAN (bits 48 to 59) and address.
    private var addresses: ExactTable<UInt64, UInt16>

    /// A switch with these ports, by place, at most 256. An address is forgotten that nobody used as source for
    /// `ageing` seconds.
    public init(_ ports: [Port], ageing: UInt32 = 300, capacity: Int = 16_384) {
        var members = Array(repeating: Members(), count: 4096)
        for (i, port) in ports.enumerated() {
            for vlan in port.tagged where Port.isVLAN(vlan) && vlan != port.untagged {
                members[Int(vlan)].tagged.insert(i)
                if !port.isIsolated { members[Int(vlan)].openTagged.insert(i) }
            }
            if let vlan = port.untagged, Port.isVLAN(vlan) {
                members[Int(vlan)].untagged.insert(i)
                if !port.isIsolated { members[Int(vlan)].openUntagged.insert(i) }
            }
        }
        self.members = members
        isIsolated = ports.map(\.isIsolated)
        untagged = ports.map { $0.untagged ?? 0 }
        addresses = ExactTable(capacity: capacity, timeout: ageing)
    }

    /// What it can be told while packets flow.
    public enum Command: Sendable {
        /// Forget all addresses, as when a cable was put elsewhere.
        case clear
    }

    /// Answers how many addresses there were.
    public mutating func perform(_ command: Command, at time: BurstTime) -> Int {
        let n = addresses.count
        addresses.removeAll()
        return n
    }

    public mutating func portChanged(_ port: Int, isUp: Bool) {
        // Who was behind it may be elsewhere now.
        if !isUp { addresses.removeAll() }
    }

    public mutating func tick(_ burst: borrowing PacketBurst) {
        addresses.expire(now: burst.seconds, limit: 1024) { _, _ in }
    }

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            if let cause = judge(packets, i) { packets.drop(i, because: cause) }
        }
        return nil
    }

    /// Why a packet is dropped; nil where it has a verdict.
    private mutating func judge(_ packets: borrowing PacketBurst, _ i: Int) -> Int? {
        let (packet, from) = (packets[i], packets.port)
        guard from < untagged.count else { return Cause.noPort }
        guard let ethernet = Ethernet(packet.bytes) else { return Cause.malformed }
        let (source, destination) = (ethernet.source, ethernet.destination)
        if source.isMulticast { return Cause.source }
        // 01-80-C2-00-00-00 to -0F: such as LACP and LLDP, for the next bridge alone (802.1Q, 8.6.3).
        if destination.rawValue & 0xf0ff_ffff_ffff == 0x0000_00c2_8001 { return Cause.linkLocal }

        // Inside, no packet has a tag. Priority and drop eligibility come back with the tag on trunks.
        var control: UInt16 = 0
        var vlan = untagged[from]
        if ethernet.etherType == .vlan {
            guard let tag = VLANTag(packet.bytes, at: Ethernet.size) else { return Cause.malformed }
            control = tag.controlInformation
            // VLAN 0 is none: the tag has a priority alone.
            if tag.vlanID != 0 {
                vlan = tag.vlanID
                if !members[Int(vlan)].tagged.contains(from) { return Cause.vlan }
            }
        }
        if vlan == 0 { return Cause.vlan }
        if ethernet.etherType == .vlan && packet.popVLAN() == nil { return Cause.malformed }

        learn(source, vlan, packets)
        let tag = control & 0xf000 | vlan
        let members = members[Int(vlan)]
        if !destination.isMulticast, let to = addresses.find(UInt64(vlan) << 48 | destination.rawValue) {
            let port = Int(to)
            if port == from { return Cause.samePort }
            if isIsolated[from] && isIsolated[port] { return Cause.isolated }
            if members.tagged.contains(port) && !packet.pushVLAN(tag) { return Cause.malformed }
            packet.verdict = .port(port)
            packets.count(Count.forwarded)
            return nil
        }
        return flood(
            packets, i, tag, isIsolated[from] ? members.openTagged : members.tagged,
            isIsolated[from] ? members.openUntagged : members.untagged)
    }

    private mutating func learn(_ source: MACAddress, _ vlan: UInt16, _ packets: borrowing PacketBurst) {
        let (key, port) = (UInt64(vlan) << 48 | source.rawValue, UInt16(packets.port))
        if addresses.find(key, now: packets.seconds) == port { return }
        // Where the table is full, an old address makes room.
        _ = addresses.insert(key, port, now: packets.seconds) { _, _ in }
        packets.count(Count.learned)
    }

    /// To ports that take it with a tag and to those that take it without: one of the two gets a copy.
    private func flood(
        _ packets: borrowing PacketBurst, _ i: Int, _ tag: UInt16, _ tagged: PortSet, _ untagged: PortSet
    ) -> Int? {
        let packet = packets[i]
        var (tagged, untagged) = (tagged, untagged)
        tagged.remove(packets.port)
        untagged.remove(packets.port)
        if tagged.isEmpty && untagged.isEmpty { return Cause.noPort }
        packets.count(Count.flooded)
        if untagged.isEmpty {
            if !packet.pushVLAN(tag) { return Cause.malformed }
            packet.verdict = packets.verdict(for: tagged)
            return nil
        }
        if !tagged.isEmpty {
            guard let copy = packets.copy(i), copy.pushVLAN(tag) else { return Cause.notCopied }
            copy.verdict = packets.verdict(for: tagged)
        }
        packet.verdict = packets.verdict(for: untagged)
        return nil
    }
}
