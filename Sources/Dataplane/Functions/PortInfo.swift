import Headers
import Virtio

/// What a packet function can know of a port. Its name, and all else that does not change, is in the engine's options,
/// in whose order functions number ports.
///
/// ```swift
/// if let mtu = packets.info(of: 1)?.mtu, packets[i].length > Int(mtu) + Ethernet.size {
///     packets.drop(i, because: 0)
/// }
/// ```
public struct PortInfo: Equatable, Sendable {
    /// It has a queue pair that takes packets.
    public var isUp: Bool
    /// The MAC address that its driver was offered.
    public var mac: MACAddress?
    /// The MTU that its driver was offered, in bytes.
    public var mtu: UInt16?
    /// Checksum and segmentation offloads (GUEST_*) that its driver takes: what else it is sent, Ringway resolves.
    public var offloads: Features

    /// What a test wants a port to be: `FunctionHarness.setInfo`.
    public init(isUp: Bool, mac: MACAddress? = nil, mtu: UInt16? = nil, offloads: Features = []) {
        (self.isUp, self.mac, self.mtu, self.offloads) = (isUp, mac, mtu, offloads)
    }
}

extension PortInfo {
    /// As the table has it now; any thread.
    init(_ table: PairTable, _ port: Int) {
        let (address, mtu, offloads) = table.facts(port)
        self.init(
            isUp: table.activePairs(port) > 0, mac: address == 0 ? nil : MACAddress(rawValue: address),
            mtu: mtu == 0 ? nil : mtu, offloads: offloads)
    }
}
