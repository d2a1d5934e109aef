import Headers
import Virtio

/// A port's options as a poll thread looks at them.
struct PortRules: BitwiseCopyable {
    /// VLAN of frames without a tag; `noVLAN`: they are dropped.
    var untagged = PortRules.noVLAN
    /// Frames may have a tag.
    var takesTags = false
    var isIsolated = false
    /// It gets copies of other ports' packets, and nothing else.
    var isMirror = false
    var checksSource = false
    /// ARP and neighbour discovery, or the source of IP packets.
    var inspects = false
    var checksIP = false
    var terms = AddressTable.Terms()
    /// Places in the switch's lists.
    var own = Slice()
    var ipv4 = Slice()
    var ipv6 = Slice()
    /// Ports that get copies; -1: none does.
    var mirrorIn = -1
    var mirrorOut = -1
    var limitIn = RateMeters()
    var limitOut = RateMeters()
    /// What is flooded is limited (`SwitchCore.floodLimits`).
    var limitsFlooding = false

    static var noVLAN: UInt16 { 0xffff }

    /// What packets with the same first bytes may do is not the same: their lengths, times or contents count.
    @inline(__always)
    var looksAtEach: Bool { limitIn.isOn || inspects || checksIP }

    /// A part of a list.
    struct Slice: BitwiseCopyable {
        var start = 0
        var count = 0
    }
}

/// What a port may have flooded: all of it, and each kind.
struct FloodLimits: BitwiseCopyable {
    var all = RateMeters()
    var broadcast = RateMeters()
    var multicast = RateMeters()
    var unknown = RateMeters()

    var isOn: Bool { all.isOn || broadcast.isOn || multicast.isOn || unknown.isOn }
}

/// The ports of a VLAN by the form that its frames have there.
struct VLANMembers: BitwiseCopyable {
    var tagged = PortSet()
    var untagged = PortSet()
}

/// A prefix as it is compared: an IPv4 address is the first 32 of 128 bits.
struct AddressMask: BitwiseCopyable {
    var value: (UInt64, UInt64)
    var mask: (UInt64, UInt64)

    init<Address: IPAddress>(_ prefix: IPPrefix<Address>) {
        let (bits, mask) = (prefix.address.aligned, IPPrefix<Address>.mask(prefix.length))
        value = (UInt64(truncatingIfNeeded: bits >> 64), UInt64(truncatingIfNeeded: bits))
        self.mask = (UInt64(truncatingIfNeeded: mask >> 64), UInt64(truncatingIfNeeded: mask))
    }

    @inline(__always)
    func holds(_ high: UInt64, _ low: UInt64) -> Bool {
        (high ^ value.0) & mask.0 | (low ^ value.1) & mask.1 == 0
    }
}

/// What all threads of an engine know of a switch whose ports have options. Never changes, but for the table of
/// addresses and the words of rate meters.
package final class SwitchCore: Sendable {
    let portCount: Int
    let rules: OwnedTable<PortRules>
    /// By port.
    let floodLimits: OwnedTable<FloodLimits>
    /// By VLAN, 0 to 4095.
    let members: OwnedTable<VLANMembers>
    package let addresses: AddressTable
    let own: OwnedTable<UInt64>
    let masks: OwnedTable<AddressMask>
    let meters: MeterWords
    /// Ports that there are.
    private let present: PortSet
    /// Ports with that option.
    let isolated: PortSet
    let limited: PortSet
    let mirrored: PortSet

    /// `members` have been checked; nil: there is no port in that place, of which there can be `places`. `threads`: how
    /// many make use of it. `old`: what goes on with these ports. What it learned of them stays, and what they have
    /// used up of their rates.
    package init(
        _ members: [SwitchMember?], places: Int? = nil, ageing: Int, threads: Int, after old: SwitchCore? = nil
    ) {
        let places = max(members.count, places ?? 0)
        var maker = Maker(threads: threads, ports: members.count)
        var all = members.enumerated().map { i, member in
            member.map { maker.rules($0, members, place: i) } ?? PortRules()
        }
        for member in members {
            for case let name? in [member?.port.mirrorIn, member?.port.mirrorOut] {
                if let to = members.firstIndex(where: { $0?.name == name }) { all[to].isMirror = true }
            }
        }
        portCount = members.count
        present = PortSet(members.indices.filter { members[$0] != nil })
        rules = OwnedTable(all)
        floodLimits = OwnedTable(maker.floodLimits)
        own = OwnedTable(maker.own)
        masks = OwnedTable(maker.masks)
        var table = OwnedTable(count: 4096, repeating: VLANMembers())
        for case (let i, let member?) in members.enumerated() where !all[i].isMirror {
            SwitchCore.join(&table, i, member.port.vlans)
        }
        self.members = table
        func ports(_ has: (PortRules) -> Bool) -> PortSet { PortSet(all.indices.filter { has(all[$0]) }) }
        isolated = ports(\.isIsolated)
        limited = ports(\.limitOut.isOn)
        mirrored = ports { $0.mirrorOut >= 0 }
        precondition(
            places * Maker.metersPerPort <= old?.meters.count ?? .max, "a switch has its places from the start")
        meters = old?.meters ?? MeterWords(count: places * Maker.metersPerPort)
        let permanent = members.enumerated().flatMap { i, member in
            (member?.port.addresses ?? []).map { (mac: $0.rawValue, port: i) }
        }
        let sticky = all.reduce(0) { $0 + ($1.terms.isSticky ? Int($1.terms.limit) : 0) }
        addresses = AddressTable(
            ports: present.count, places: places, ageing: ageing, permanent: permanent, sticky: sticky)
        guard let old else { return }
        // Of a port that is new no thread counts anything yet.
        for port in members.indices where present.contains(port) && !old.present.contains(port) {
            for meter in 0..<Maker.metersPerPort { meters.clear(port * Maker.metersPerPort + meter) }
        }
        takeAddresses(of: old)
    }

    /// What an earlier one has learned of ports that are here, too, and that is not known yet. An address that a port
    /// has for good now (`static=`) is nobody else's any more.
    func takeAddresses(of old: SwitchCore) {
        addresses.take(old.addresses) { mac, vlan, port in
            present.contains(port) && old.present.contains(port) && findStatic(mac, vlan) < 0
        }
    }

    private static func join(_ members: inout OwnedTable<VLANMembers>, _ port: Int, _ vlans: SwitchPort.VLANs) {
        switch vlans {
        case .all:
            members[0].untagged.insert(port)
            for vlan in 1...4094 { members[vlan].tagged.insert(port) }
        case .access(let vlan): members[Int(vlan)].untagged.insert(port)
        case .trunk(let list, let native):
            for vlan in list ?? Set(1...4094) where vlan != native { members[Int(vlan)].tagged.insert(port) }
            if let native { members[Int(native)].untagged.insert(port) }
        }
    }

    /// What is collected while rules are made.
    private struct Maker {
        let threads: Int
        var own: [UInt64] = []
        var masks: [AddressMask] = []
        var floodLimits: [FloodLimits]
        /// Two for each of six limits.
        static let metersPerPort = 12
        private var nextMeter = 0

        init(threads: Int, ports: Int) {
            self.threads = threads
            floodLimits = [FloodLimits](repeating: FloodLimits(), count: ports)
        }

        mutating func rules(_ member: SwitchMember, _ members: [SwitchMember?], place: Int) -> PortRules {
            nextMeter = place * Maker.metersPerPort
            let port = member.port
            var rules = PortRules()
            switch port.vlans {
            case .all: (rules.untagged, rules.takesTags) = (0, true)
            case .access(let vlan): rules.untagged = vlan
            case .trunk(_, let native): (rules.untagged, rules.takesTags) = (native ?? PortRules.noVLAN, true)
            }
            (rules.isIsolated, rules.checksSource) = (port.isIsolated, port.checksSource)
            (rules.inspects, rules.checksIP) = (port.inspects, port.checksIP)
            rules.terms.isSticky = port.isSticky
            rules.terms.limit = UInt32(port.addressLimit ?? (port.isSticky ? 1 : 0))
            rules.own = PortRules.Slice(start: own.count, count: member.own.count)
            own += member.own.map(\.rawValue)
            rules.ipv4 = add(port.ipv4.map { AddressMask($0) })
            rules.ipv6 = add(port.ipv6.map { AddressMask($0) })
            func watcher(_ name: String?) -> Int { members.firstIndex { $0 != nil && $0?.name == name } ?? -1 }
            (rules.mirrorIn, rules.mirrorOut) = (watcher(port.mirrorIn), watcher(port.mirrorOut))
            rules.limitIn = meters(port.limitIn)
            rules.limitOut = meters(port.limitOut)
            floodLimits[place].all = meters(port.limitFlooding)
            floodLimits[place].broadcast = meters(port.limitBroadcast)
            floodLimits[place].multicast = meters(port.limitMulticast)
            floodLimits[place].unknown = meters(port.limitUnknown)
            rules.limitsFlooding = floodLimits[place].isOn
            return rules
        }

        private mutating func add(_ more: [AddressMask]) -> PortRules.Slice {
            masks += more
            return PortRules.Slice(start: masks.count - more.count, count: more.count)
        }

        private mutating func meters(_ limit: RateLimit?) -> RateMeters {
            var meters = RateMeters()
            guard let limit else { return meters }
            meters.isOn = true
            if let rate = limit.packets { meters.packets = meter(rate, limit.packetBurst ?? max(rate / 10, 16), 16) }
            if let rate = limit.bytes {
                meters.bytes = meter(rate, limit.byteBurst ?? max(rate / 10, RateLimit.leastByteBurst), 4096)
            }
            return meters
        }

        private mutating func meter(_ rate: UInt64, _ burst: UInt64, _ least: UInt64) -> RateMeter {
            nextMeter += 1
            return RateMeter(
                place: nextMeter - 1, rate: rate, burst: burst, least: least, threads: max(1, threads),
                ticksPerSecond: TickClock.shared.ticksPerMicrosecond * 1_000_000)
        }
    }
}

// MARK: What is asked about addresses

extension SwitchCore {
    /// Whether a MAC address is among a port's own.
    @inline(__always)
    func isOwn(_ mac: UInt64, _ port: Int) -> Bool {
        var i = 0
        while i < rules[port].own.count {
            if own[rules[port].own.start &+ i] == mac { return true }
            i &+= 1
        }
        return false
    }

    func isOwn(_ address: IPv4Address, _ port: Int) -> Bool {
        isIn(rules[port].ipv4, UInt64(address.rawValue) << 32, 0)
    }

    /// Link-local addresses that are made of the MAC address (RFC 4291, appendix A) are the port's, too.
    func isOwn(_ address: IPv6Address, _ mac: UInt64, _ port: Int) -> Bool {
        isIn(rules[port].ipv6, address.high, address.low) || address == SwitchCore.linkLocal(mac)
    }

    private func isIn(_ slice: PortRules.Slice, _ high: UInt64, _ low: UInt64) -> Bool {
        for i in slice.start..<slice.start + slice.count where masks[i].holds(high, low) { return true }
        return false
    }

    private static func linkLocal(_ mac: UInt64) -> IPv6Address {
        // The first byte on the wire is the lowest of a MAC address, and the highest here.
        let bytes = mac.byteSwapped >> 16
        let low = (bytes >> 24) << 40 | 0xff_fe00_0000 | bytes & 0xff_ffff
        return IPv6Address(high: 0xfe80_0000_0000_0000, low: low ^ 0x0200_0000_0000_0000)
    }

    /// Whether a port is in a VLAN.
    @inline(__always)
    func isMember(_ port: Int, _ vlan: UInt16) -> Bool {
        members[Int(vlan)].untagged.contains(port) || members[Int(vlan)].tagged.contains(port)
    }

    /// A source that is not known at its port.
    @inline(never)
    func learn(_ mac: UInt64, _ vlan: UInt16, port: Int, seconds: UInt32) -> AddressTable.Outcome {
        if addresses.hasStatic {
            let holder = addresses.find(AddressTable.word(mac, AddressTable.anyVLAN), seconds: seconds)
            if holder == port { return .passed }
            if holder >= 0 && isMember(holder, vlan) { return .elsewhere }
        }
        return addresses.learn(
            AddressTable.word(mac, vlan), port: port, seconds: seconds, rules[port].terms)
    }

    /// The port of an address in a VLAN, -1: not known.
    @inline(__always)
    func find(_ mac: UInt64, _ vlan: UInt16, seconds: UInt32) -> Int {
        let port = addresses.find(AddressTable.word(mac, vlan), seconds: seconds)
        return port < 0 && addresses.hasStatic ? findStatic(mac, vlan) : port
    }

    @inline(never)
    private func findStatic(_ mac: UInt64, _ vlan: UInt16) -> Int {
        let port = addresses.find(AddressTable.word(mac, AddressTable.anyVLAN), seconds: 0)
        return port >= 0 && isMember(port, vlan) ? port : -1
    }
}
