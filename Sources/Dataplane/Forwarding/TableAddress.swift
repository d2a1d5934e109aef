import Headers

/// An address that a switch knows, as `Engine.macTable` lists it.
public struct TableAddress: Sendable, Equatable {
    /// How it came to be known.
    public enum Kind: String, Sendable {
        /// From packets that came from it; forgotten when nothing is heard of it any more.
        case learned
        /// The same, of a port whose addresses stay (`SwitchPort.isSticky`).
        case sticky
        /// From the port's options (`SwitchPort.addresses`).
        case permanent = "static"
    }

    /// The address itself.
    public var mac: MACAddress
    /// The VLAN that it was heard of in; 0: frames without a tag of a switch without VLANs. Nil: any of its port's.
    public var vlan: UInt16?
    /// Its port, by its place in the engine's options.
    public var port: Int
    /// How it came to be known.
    public var kind: Kind
    /// Seconds since it was last heard of.
    public var age: Int

    init(mac: UInt64, vlan: UInt16?, port: Int, kind: Kind, age: UInt32) {
        self.mac = MACAddress(rawValue: mac)
        (self.vlan, self.port, self.kind, self.age) = (vlan, port, kind, Int(age))
    }
}
