import CPlatform
import Virtio

/// A port with nothing behind it: it counts what is sent to it, and sends one frame over and over if it is told to. It
/// needs no control thread.
final class NullPort: EnginePort {
    let index: Int
    let options: PortOptions
    private let core: EngineCore
    /// The frame that it sends, and an end for each pair.
    private var frame: [UInt8]?
    private var ends: [UnsafeMutablePointer<NullEnd>] = []

    init(index: Int, options: PortOptions, core: EngineCore) throws(EngineError) {
        self.index = index
        self.options = options
        self.core = core
        if case .null(_, let size?) = options.kind {
            guard (14...9216).contains(size) else {
                throw EngineError("\(options.name): emit=\(size); 14 to 9216 bytes")
            }
            frame = Frames.udp(size: size)
        }
        core.addPairs(port: index, options, defectFD: -1)
    }

    var isConnected: Bool { !ends.isEmpty }

    func start() throws(EngineError) {
        for _ in 0..<options.queuePairs {
            let end = UnsafeMutablePointer<NullEnd>.allocateApart(capacity: 1)
            end.initialize(to: NullEnd(emits: frame))
            ends.append(end)
        }
        // Whatever offloads a packet has, it is taken.
        _ = core.startOther(
            port: index, ends.map { (.null($0), -1, UnsafeMutableRawPointer($0)) },
            offloads: PortFeatures.guestOffloads, budget: core.budget(options))
    }

    func stop() {
        core.stopOther(port: index, pairs: options.queuePairs)
        for end in ends {
            end.deinitialize(count: 1)
            end.deallocate()
        }
        ends = []
    }

    func dispose() {
        core.removePairs(port: index, options.queuePairs)
    }
}
