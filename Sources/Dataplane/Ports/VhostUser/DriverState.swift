import Headers
import VhostUser
import Virtio

/// What a port has of its driver beside the rings: what a control queue has set. It goes with a guest that migrates
/// from one Ringway to another where the front-end wants that (DEVICE_STATE). Modes and filters of CTRL_RX and
/// CTRL_VLAN filter nothing here, and so are no state.
struct DriverState: Equatable, Codable {
    /// That the driver has accepted.
    var features: Features
    var control: ControlState
    /// It was asked for announcements, and has not answered.
    var isToAnnounce: Bool

    private static let magic = Array("ringway1".utf8)
    private static let size = 48
    private enum Flag { static let (offloads, announce): (UInt32, UInt32) = (1, 2) }

    init(features: Features, control: ControlState, isToAnnounce: Bool) {
        (self.features, self.control, self.isToAnnounce) = (features, control, isToAnnounce)
    }

    /// 48 bytes, lowest byte first: `ringway1`; version, length (32 bits each); flags, queue pairs (32 bits each);
    /// features, offloads (64 bits each); the MAC address and two zeroes.
    var bytes: [UInt8] {
        var p = Payload()
        p.add(DriverState.magic)
        for word in [
            1, UInt32(DriverState.size),
            (control.guestOffloads != nil ? Flag.offloads : 0) | (isToAnnounce ? Flag.announce : 0),
            UInt32(control.pairs),
        ] { p.add32(word) }
        p.add64(features.rawValue)
        p.add64(control.guestOffloads?.rawValue ?? 0)
        p.add(control.mac + [0, 0])
        return p.bytes
    }

    /// Reads it for a port that offers `offered` and has `maximumPairs`. Errors: what is wrong with it.
    init(_ bytes: [UInt8], offered: Features, maximumPairs: Int) throws(EngineError) {
        var r = PayloadReader(Array(bytes.dropFirst(DriverState.magic.count)))
        guard bytes.starts(with: DriverState.magic), let version = r.next32(), let size = r.next32() else {
            throw EngineError("\(bytes.count) bytes that are no state of a ringway")
        }
        guard version == 1 else { throw EngineError("state of version \(version); 1 is known") }
        guard bytes.count == DriverState.size, size == DriverState.size, let flags = r.next32(),
            let pairs = r.next32(), let accepted = r.next64(), let offloadBits = r.next64()
        else { throw EngineError("\(bytes.count) bytes of \(size); \(DriverState.size) are expected") }
        features = Features(rawValue: accepted)
        let offloads = Features(rawValue: offloadBits)
        guard flags <= 3, bytes[46] == 0, bytes[47] == 0 else { throw EngineError("flags \(flags)") }
        guard features.isSubset(of: offered) else {
            let missing = features.subtracting(offered).bitNames.joined(separator: ", ")
            throw EngineError("the driver has accepted \(missing), not offered here")
        }
        guard (1...UInt32(maximumPairs)).contains(pairs) else {
            throw EngineError("\(pairs) queue pairs; this port has \(maximumPairs)")
        }
        guard offloads.isSubset(of: features.intersection(PortFeatures.guestOffloads)) else {
            throw EngineError("offloads 0x\(String(offloads.rawValue, radix: 16)), not accepted by the driver")
        }
        guard bytes[40] & 1 == 0 else { throw EngineError("a MAC address of a group") }
        control = ControlState(mac: Array(bytes[40..<46]))
        control.pairs = Int(pairs)
        if flags & Flag.offloads != 0 { control.guestOffloads = offloads }
        isToAnnounce = flags & Flag.announce != 0
    }
}
