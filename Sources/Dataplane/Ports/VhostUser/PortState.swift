import CPlatform
import VhostUser
import Virtio

/// All that a device-side port knows, for a process that takes it over.
struct GuestState: Codable {
    var server: ServerState
    var configuration: [UInt8]
    var control: ControlState
    var loaded: DriverState?
    var features, acknowledged: Features
    var mtu, nextMTU: UInt16?
    /// As packet functions know it; 0: none.
    var knownMTU: UInt16
    var isUp, isConnected, wasConnected: Bool
}

/// To hand a port on, and to take one over; its control thread waits.
extension Port {
    var state: GuestState {
        get throws {
            GuestState(
                server: try server.state, configuration: configuration.bytes, control: control, loaded: loaded,
                features: features, acknowledged: acknowledged, mtu: mtu, nextMTU: nextMTU,
                knownMTU: core.table.facts(index).mtu, isUp: isUp, isConnected: isConnected, wasConnected: wasConnected)
        }
    }

    /// Takes over what another process had, instead of `start`. No ring starts, and the control thread waits until
    /// `release`; until `isTakenOver` is false, `stop` leaves the socket to the other process.
    func adopt(_ state: GuestState) throws {
        isTakenOver = true
        guard state.configuration.count == configuration.bytes.count else {
            throw EngineError("\(options.name): a configuration space of \(state.configuration.count) bytes")
        }
        configuration.bytes = state.configuration
        (control, features, acknowledged) = (state.control, state.features, state.acknowledged)
        loaded = state.loaded
        (mtu, nextMTU, isUp) = (state.mtu, state.nextMTU, state.isUp)
        core.table.setAddress(options.mac, mtu: state.knownMTU, index)
        if state.wasConnected { presence.store(state.isConnected ? .now : .before, ordering: .relaxed) }
        server = try makeServer()
        try server.adopt(state.server)
        watchDefects()
        prepareCalls()
    }

    /// What takes longest of a ring's start.
    private func prepareCalls() {
        for (ring, call) in server.session?.calls ?? [] {
            guard let calls = callRing(ring, call) else { continue }
            if ring == controlRing {
                controlCalls = calls
            } else {
                callRings[ring] = calls
            }
        }
    }
}
