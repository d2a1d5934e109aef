import Ringway

/// A packet function by its name, for `ringway replay`.
package enum ReplayFunction: Equatable {
    /// Back to where it came from, the MAC addresses exchanged.
    case macswap
    /// To every other port, with a VLAN tag of this control information put on.
    case vlanPush(UInt16)
    /// To every other port, with the outermost VLAN tag taken off.
    case vlanPop
    /// To every other port as it is.
    case flood
    /// Nowhere.
    case drop

    /// How they are written.
    package static let names = "macswap, vlan-push=ID, vlan-pop, flood, drop"

    /// From its name; nil for anything else. An ID is 0 to 4095.
    package init?(_ name: String) {
        switch name {
        case "macswap": self = .macswap
        case "vlan-pop": self = .vlanPop
        case "flood": self = .flood
        case "drop": self = .drop
        default:
            let parts = name.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, parts[0] == "vlan-push", let id = UInt16(parts[1]), id < 4096 else { return nil }
            self = .vlanPush(id)
        }
    }

    /// Puts a capture through it.
    package func run(
        _ replay: inout Replay, from reader: CaptureReader, port: Int, to writer: CaptureWriter?,
        until isEnough: () -> Bool = { false }
    ) throws(CaptureError) {
        switch self {
        case .macswap: try replay.run(MACSwap(), from: reader, port: port, to: writer, until: isEnough)
        case .vlanPush(let tag): try replay.run(Push(tag: tag), from: reader, port: port, to: writer, until: isEnough)
        case .vlanPop: try replay.run(Pop(), from: reader, port: port, to: writer, until: isEnough)
        case .flood: try replay.run(All(verdict: .flood), from: reader, port: port, to: writer, until: isEnough)
        case .drop: try replay.run(All(verdict: .drop), from: reader, port: port, to: writer, until: isEnough)
        }
    }
}

private struct MACSwap: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count { packets[i].swapMACs() }
        return .port(packets.port)
    }
}

private struct Push: PacketFunction {
    static let dropCauses = ["no room for a VLAN tag"]
    let tag: UInt16

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            if packets[i].pushVLAN(tag) { packets.decide(i, .flood) } else { packets.drop(i, because: 0) }
        }
        return nil
    }
}

private struct Pop: PacketFunction {
    static let dropCauses = ["no VLAN tag"]

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        for i in 0..<packets.count {
            if packets[i].popVLAN() != nil { packets.decide(i, .flood) } else { packets.drop(i, because: 0) }
        }
        return nil
    }
}

private struct All: PacketFunction {
    let verdict: Verdict

    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { verdict }
}
