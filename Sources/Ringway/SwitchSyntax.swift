import Dataplane
import Headers

/// The options of a switch's port, as `--port` takes them (`SwitchPort`).
struct SwitchSyntax {
    /// Their names.
    static let options = [
        "access", "trunk", "native", "isolated", "static", "sticky", "max_macs", "anti_spoof", "ips", "inspect",
        "ip_guard", "rate_in", "rate_out", "storm", "storm_broadcast", "storm_multicast", "storm_unknown", "mirror",
        "mirror_in", "mirror_out",
    ]

    private var port = SwitchPort()
    private var access: UInt16?
    /// Nil: not given. `all`, or numbers.
    private var trunk: String?
    private var trunkVLANs: Set<UInt16>?
    private var native: UInt16?

    /// One option of the port `text`.
    mutating func read(_ name: String, _ value: String, of text: String) throws(EngineError) {
        switch name {
        case "access": access = try SwitchSyntax.vlan(name, value, text)
        case "trunk": (trunk, trunkVLANs) = (value, try SwitchSyntax.vlans(value, text))
        case "native": native = try SwitchSyntax.vlan(name, value, text)
        case "isolated": port.isIsolated = try OptionSyntax.flag(name, value, text)
        case "static": port.addresses = try SwitchSyntax.addresses(value, text)
        case "sticky": port.isSticky = try OptionSyntax.flag(name, value, text)
        case "max_macs":
            guard let n = Int(value), (1...4096).contains(n) else {
                throw EngineError("--port \(text): max_macs=\(value): 1 to 4096 addresses")
            }
            port.addressLimit = n
        case "anti_spoof": port.checksSource = try OptionSyntax.flag(name, value, text)
        case "ips": try readPrefixes(value, text)
        case "inspect": port.inspects = try OptionSyntax.flag(name, value, text)
        case "ip_guard": port.checksIP = try OptionSyntax.flag(name, value, text)
        case "rate_in": port.limitIn = try SwitchSyntax.limit(name, value, text)
        case "rate_out": port.limitOut = try SwitchSyntax.limit(name, value, text)
        case "storm": port.limitFlooding = try SwitchSyntax.limit(name, value, text)
        case "storm_broadcast": port.limitBroadcast = try SwitchSyntax.limit(name, value, text)
        case "storm_multicast": port.limitMulticast = try SwitchSyntax.limit(name, value, text)
        case "storm_unknown": port.limitUnknown = try SwitchSyntax.limit(name, value, text)
        case "mirror", "mirror_in", "mirror_out":
            if value.isEmpty { throw EngineError("--port \(text): \(name)=: name the port that gets the copies") }
            if name != "mirror_out" { port.mirrorIn = value }
            if name != "mirror_in" { port.mirrorOut = value }
        default: assertionFailure("an option that is listed and nothing reads: \(name)")
        }
    }

    /// All of them together. What contradicts other ports the engine finds.
    func finish(_ text: String) throws(EngineError) -> SwitchPort {
        var port = port
        if let access {
            if trunk != nil { throw EngineError("--port \(text): access= or trunk=: a port is one of the two") }
            if native != nil {
                throw EngineError(
                    "--port \(text): native= goes with trunk=; the VLAN of frames without a tag is access=")
            }
            port.vlans = .access(access)
        } else if trunk != nil {
            port.vlans = .trunk(trunkVLANs, native: native)
        } else if let native {
            throw EngineError("--port \(text): native= goes with trunk=; write trunk=all,native=\(native)")
        }
        return port
    }

    private static func vlan(_ name: String, _ value: String, _ text: String) throws(EngineError) -> UInt16 {
        guard let vlan = UInt16(value), (1...4094).contains(vlan) else {
            throw EngineError("--port \(text): \(name)=\(value): one VLAN, 1 to 4094")
        }
        return vlan
    }

    /// `10+20-30`; nil: `all`.
    private static func vlans(_ value: String, _ text: String) throws(EngineError) -> Set<UInt16>? {
        if value == "all" { return nil }
        var all = Set<UInt16>()
        for part in value.split(separator: "+", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { UInt16($0) }
            guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1], first >= 1,
                first <= last, last <= 4094
            else { throw EngineError("--port \(text): trunk=\(value): write VLANs, 1 to 4094, as in 10+20-30, or all") }
            all.formUnion(first...last)
        }
        return all
    }

    private static func addresses(_ value: String, _ text: String) throws(EngineError) -> [MACAddress] {
        var all: [MACAddress] = []
        for part in value.split(separator: "+", omittingEmptySubsequences: false) {
            guard let bytes = OptionSyntax.mac(String(part)), bytes[0] & 1 == 0 else {
                throw EngineError(
                    "--port \(text): static=\(value): write unicast addresses as in "
                        + "02:00:00:00:00:01+02:00:00:00:00:02")
            }
            all.append(MACAddress(bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]))
        }
        return all
    }

    private mutating func readPrefixes(_ value: String, _ text: String) throws(EngineError) {
        for part in value.split(separator: "+", omittingEmptySubsequences: false).map(String.init) {
            if let prefix = IPv4Prefix(part) {
                port.ipv4.append(prefix)
            } else if let prefix = IPv6Prefix(part) {
                port.ipv6.append(prefix)
            } else {
                throw EngineError(
                    "--port \(text): ips=\(value): '\(part)' is no address or prefix; write them as in "
                        + "192.0.2.1+2001:db8::/64")
            }
        }
    }

    /// Bits or packets a second, or both: `100mbit`, `10kpps`, `1gbit+200kpps`.
    private static func limit(_ name: String, _ value: String, _ text: String) throws(EngineError) -> RateLimit {
        var limit = RateLimit()
        for part in value.split(separator: "+", omittingEmptySubsequences: false) {
            let digits = part.prefix { $0.isASCII && $0.isNumber }
            let units: [String: (UInt64, isBits: Bool)] = [
                "bit": (1, true), "kbit": (1000, true), "mbit": (1_000_000, true), "gbit": (1_000_000_000, true),
                "pps": (1, false), "kpps": (1000, false), "mpps": (1_000_000, false),
            ]
            guard let unit = units[String(part.dropFirst(digits.count))], let number = UInt64(digits),
                case let (rate, overflow) = number.multipliedReportingOverflow(by: unit.0), !overflow,
                (unit.isBits ? 8...8_000_000_000_000 : 1...1_000_000_000_000).contains(rate),
                (unit.isBits ? limit.bytes : limit.packets) == nil
            else {
                throw EngineError(
                    "--port \(text): \(name)=\(value): write bits or packets a second, or both, as in 100mbit, 10kpps "
                        + "or 1gbit+200kpps; kbit, mbit, gbit, pps, kpps and mpps are known")
            }
            if unit.isBits { limit.bytes = rate / 8 } else { limit.packets = rate }
        }
        return limit
    }
}
