import Headers
import Virtio

/// What a port of `ForwardingMode.switch` is, beyond a plain one. An engine none of whose ports has options runs the
/// plain switch; one port with options, and all packets go the way that looks at them.
///
/// "In" is what the port's driver sends, "out" what it is sent.
public struct SwitchPort: Sendable, Equatable {
    /// The port's VLANs (IEEE 802.1Q), 1 to 4094.
    public enum VLANs: Sendable, Equatable {
        /// A trunk of all VLANs, tagged; frames without a tag are in a VLAN of their own, 0.
        case all
        /// One VLAN, whose frames have no tag here. Frames that have one are dropped.
        case access(UInt16)
        /// These VLANs (nil: all), tagged. `native`: the VLAN of frames without a tag, which leave without one, too;
        /// nil: such frames are dropped.
        case trunk(Set<UInt16>?, native: UInt16?)
    }

    /// Which it is in, and whether its frames have tags.
    public var vlans = VLANs.all
    /// Isolated ports do not reach each other.
    public var isIsolated = false
    /// MAC addresses that are this port's for good, in each of its VLANs, at most 64. They are known from the start,
    /// and nobody else's.
    public var addresses: [MACAddress] = []
    /// Addresses that are learned here stay: they never age, and never move to another port.
    public var isSticky = false
    /// Addresses that are learned here at most (an address counts in each VLAN); packets from further ones are dropped.
    /// Nil: no limit, of a sticky port 1.
    public var addressLimit: Int?
    /// Packets are dropped whose source is none of the port's own MAC addresses: `addresses`, and `PortOptions.mac`.
    public var checksSource = false
    /// IP addresses that the port may claim, at most 64 of each family; for `inspects` and `checksIP`.
    public var ipv4: [IPv4Prefix] = []
    /// The same of IPv6. The link-local address that is made of a frame's source is allowed, too.
    public var ipv6: [IPv6Prefix] = []
    /// ARP, RARP and neighbour discovery are dropped unless the sender is one of the port's own MAC addresses (where it
    /// has any), the frame's source, and one of its IP addresses; router advertisements and redirects always.
    public var inspects = false
    /// IPv4 and IPv6 packets are dropped whose source is none of the port's IP addresses.
    public var checksIP = false
    /// What is taken from the port's driver.
    public var limitIn: RateLimit?
    /// What is sent to it.
    public var limitOut: RateLimit?
    /// What it may have flooded: packets to group addresses and to unknown ones.
    public var limitFlooding: RateLimit?
    /// Of what is flooded, packets to all (ff:ff:ff:ff:ff:ff), beside `limitFlooding`: both have to let them through.
    public var limitBroadcast: RateLimit?
    /// The same of packets to other group addresses.
    public var limitMulticast: RateLimit?
    /// The same of packets to one address that is not known.
    public var limitUnknown: RateLimit?
    /// Name of the port (`PortOptions.name`) that gets a copy of what comes in, dropped or not. Such a port gets
    /// nothing else; what its driver sends is dropped.
    public var mirrorIn: String?
    /// The same for what goes out.
    public var mirrorOut: String?

    /// A plain port.
    public init() {}

    /// It has no option.
    public var isPlain: Bool { self == SwitchPort() }

    /// Its limits, by the names that `--port` has for them.
    var limits: [(option: String, limit: RateLimit?)] {
        [
            ("rate_in", limitIn), ("rate_out", limitOut), ("storm", limitFlooding), ("storm_broadcast", limitBroadcast),
            ("storm_multicast", limitMulticast), ("storm_unknown", limitUnknown),
        ]
    }
}

/// So many packets, and so many bytes of frames, a second. A packet that a driver leaves to be cut into segments is
/// one, with all its bytes.
public struct RateLimit: Sendable, Equatable {
    /// A second; nil: no limit.
    public var packets: UInt64?
    /// Of frames, a second; nil: no limit.
    public var bytes: UInt64?
    /// Packets that may come at once after a pause; nil: a tenth of a second's worth, but at least 16.
    public var packetBurst: UInt64?
    /// Bytes that may come at once after a pause, 128 KiB or more; nil: a tenth of a second's worth, at least 128 KiB.
    public var byteBurst: UInt64?

    /// Nil: no such limit.
    public init(packets: UInt64? = nil, bytes: UInt64? = nil) { (self.packets, self.bytes) = (packets, bytes) }
}

/// A port as its switch is made from it.
package struct SwitchMember: Sendable {
    /// What errors call it, and what mirrors are found by.
    package var name: String
    /// The MAC address that its driver was offered.
    package var mac: MACAddress?
    package var port: SwitchPort

    package init(_ name: String, mac: MACAddress? = nil, _ port: SwitchPort = SwitchPort()) {
        (self.name, self.mac, self.port) = (name, mac, port)
    }

    /// MAC addresses that are its own.
    var own: [MACAddress] { port.addresses + (mac.map { port.addresses.contains($0) ? [] : [$0] } ?? []) }
}

extension SwitchMember {
    /// Throws where options cannot be, or contradict each other: one line, with the name of the option as `--port` has
    /// it, that says what to do.
    package static func check(_ members: [SwitchMember]) throws(EngineError) {
        if members.count > PortSet.most {
            throw EngineError(
                "\(members.count) ports; a switch some of whose ports have options has \(PortSet.most) at most")
        }
        var owners: [MACAddress: String] = [:]
        for member in members {
            try member.check(members)
            for mac in member.port.addresses {
                if let other = owners.updateValue(member.name, forKey: mac) {
                    let place = other == member.name ? "given twice" : "\(other) has it, too"
                    throw EngineError("\(member.name): static=\(mac): \(place); an address is one port's")
                }
            }
        }
    }

    private func check(_ members: [SwitchMember]) throws(EngineError) {
        func refuse(_ text: String) throws(EngineError) { throw EngineError("\(name): \(text)") }
        func check(_ option: String, vlan: UInt16) throws(EngineError) {
            if !(1...4094).contains(vlan) { try refuse("\(option)=\(vlan): VLANs are 1 to 4094") }
        }
        switch port.vlans {
        case .all: break
        case .access(let vlan): try check("access", vlan: vlan)
        case .trunk(let list, let native):
            for vlan in (list ?? []).sorted() { try check("trunk", vlan: vlan) }
            if let native { try check("native", vlan: native) }
        }
        for mac in port.addresses where mac.isMulticast { try refuse("static=\(mac): write unicast addresses") }
        if port.addresses.count > 64 { try refuse("static=: \(port.addresses.count) addresses; 64 at most") }
        if let limit = port.addressLimit, !(1...SwitchMember.mostAddresses).contains(limit) {
            try refuse("max_macs=\(limit): 1 to \(SwitchMember.mostAddresses) addresses")
        }
        if port.checksSource && own.isEmpty {
            try refuse("anti_spoof=on: nothing says which addresses are its own; add static=ADDRESS or mac=ADDRESS")
        }
        let hasIP = !port.ipv4.isEmpty || !port.ipv6.isEmpty
        if port.ipv4.count > 64 || port.ipv6.count > 64 { try refuse("ips=: 64 of a family at most") }
        if (port.inspects || port.checksIP) && !hasIP {
            let option = port.inspects ? "inspect" : "ip_guard"
            try refuse("\(option)=on: nothing says which IP addresses are its own; add ips=ADDRESS")
        }
        if hasIP && !port.inspects && !port.checksIP {
            try refuse("ips= alone does nothing; add inspect=on, ip_guard=on or both")
        }
        for case (let option, let limit?) in port.limits { try self.check(option, limit) }
        for (option, target) in [("mirror_in", port.mirrorIn), ("mirror_out", port.mirrorOut)] {
            if let target { try self.check(option, mirror: target, members) }
        }
    }

    package static var mostAddresses: Int { 4096 }

    private func check(_ option: String, _ limit: RateLimit) throws(EngineError) {
        if limit.packets == nil && limit.bytes == nil {
            throw EngineError("\(name): \(option)=: a limit of nothing; give packets or bytes a second")
        }
        let (most, mostBurst): (UInt64, UInt64) = (1_000_000_000_000, 1 << 40)
        for (rate, burst, least) in [
            (limit.packets, limit.packetBurst, 1), (limit.bytes, limit.byteBurst, RateLimit.leastByteBurst),
        ] {
            if let rate, !(1...most).contains(rate) {
                throw EngineError("\(name): \(option)=: \(rate) a second; 1 to \(most) are possible")
            }
            if let burst, !(least...mostBurst).contains(burst) {
                throw EngineError("\(name): \(option)=: a burst of \(burst); \(least) to \(mostBurst) are possible")
            }
        }
    }

    private func check(_ option: String, mirror target: String, _ members: [SwitchMember]) throws(EngineError) {
        guard let other = members.first(where: { $0.name == target }) else {
            throw EngineError(
                "\(name): \(option)=\(target): no port is called so; "
                    + members.map(\.name).filter { $0 != name }.joined(separator: ", ") + " are")
        }
        if other.name == name { throw EngineError("\(name): \(option)=\(target): to itself; name another port") }
        var rest = other.port
        rest.limitOut = nil
        if !rest.isPlain {
            throw EngineError(
                "\(name): \(option)=\(target): \(target) has options of its own; a port that gets copies takes "
                    + "rate_out= alone")
        }
    }
}
