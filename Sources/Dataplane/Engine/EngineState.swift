import Headers
import Memory
import VhostUser

/// What an engine hands to another process, which goes on in its place.
package struct EngineState: Codable {
    struct PlacedState: Codable {
        var name: String
        var isUp: Bool
        /// Of ports on the device side.
        var guest: GuestState?
        /// `EnginePort.devices`.
        var devices: [OwnedDescriptor]
    }
    /// By their places, without those that are free.
    var ports: [PlacedState]
    var addresses: [AddressState]
}

/// What is known when all rings have stopped.
package struct EnginePlaces: Codable {
    /// By port, as in `EngineState`.
    var rings: [RingPlaces]
    /// Addresses that are new or have moved since.
    var addresses: [AddressState]

    /// One with something in each part.
    package static var example: EnginePlaces {
        EnginePlaces(
            rings: [[0: 0]], addresses: [AddressState(mac: 1, vlan: 1, port: 0, isSticky: false, age: 0)])
    }
}

/// What was counted until then, by port.
package struct EngineCounters: Codable {
    struct PortCounters: Codable {
        var pairs: [[UInt64]]
        var stopped: [UInt8: UInt64]
    }
    var ports: [PortCounters]
}

/// An address of the switch. Static ones are in the ports' options.
struct AddressState: Codable {
    var mac: UInt64
    var vlan: UInt16?
    /// As in `EngineState`.
    var port: Int
    var isSticky: Bool
    var age: Int
}
