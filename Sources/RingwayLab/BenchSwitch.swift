import Ringway

/// Options of a switch's two ports, to be counted by tools/instructions beside the plain switch.
package enum BenchSwitch: String, CaseIterable, Sendable {
    /// Both in one VLAN, without tags.
    case access = "switch access"
    /// The second has tags.
    case trunk = "switch trunk"
    /// All that is looked at of a packet but what is in it: whose address it is, how many there are, rates.
    case guarded = "switch guarded"

    func port(_ index: Int) -> SwitchPort {
        var port = SwitchPort()
        port.vlans = .access(10)
        switch self {
        case .access: break
        case .trunk: if index == 1 { port.vlans = .trunk([10], native: nil) }
        case .guarded:
            port.isIsolated = index == 0
            (port.checksSource, port.addressLimit) = (true, 4)
            // Frames go from 02:…:01 to 02:…:02 and back.
            port.addresses = [MACAddress(2, 0, 0, 0, 0, UInt8(1 + index))]
            let limit = RateLimit(packets: 1_000_000_000, bytes: 1_000_000_000_000)
            (port.limitIn, port.limitOut, port.limitFlooding) = (limit, limit, limit)
        }
        return port
    }

    /// What the driver of a port sends.
    func frame(_ size: Int, _ index: Int) -> [UInt8] {
        let frame = Frames.udp(size: size)
        return self == .trunk && index == 1 ? frame[..<12] + [0x81, 0x00, 0x00, 10] + frame[12...] : frame
    }
}
