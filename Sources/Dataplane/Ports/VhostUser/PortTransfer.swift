import Headers
import VhostUser
import Virtio

extension Port {
    func saveState() -> [UInt8] {
        let isToAnnounce = configuration.status & NetConfig.announce != 0
        return DriverState(features: acknowledged, control: control, isToAnnounce: isToAnnounce).bytes
    }

    /// It is in force with the features that it was saved with, which the front-end says before or after.
    func loadState(_ bytes: [UInt8]) -> String? {
        do throws(EngineError) {
            let state = try DriverState(bytes, offered: features, maximumPairs: queuePairs)
            loaded = state
            if state.features == acknowledged { goOn(with: state) }
            return nil
        } catch { return error.description }
    }
}
