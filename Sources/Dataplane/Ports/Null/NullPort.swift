import CPlatform
import Memory
import Virtio

/// A port with nothing behind it: it counts what is sent to it, and sends one frame over and over if it is told to. It
/// needs no control thread.
final class NullPort: EnginePort {
    let index: Int
    let options: PortOptions
    private let core: EngineCore
    /// The frame that it sends, and an end for each pair.
    private var frame: [UInt8]?
    private var ends: OwnedValues<NullEnd>

    init(index: Int, options: PortOptions, core: EngineCore) throws(EngineError) {
        self.index = index
        self.options = options
        self.core = core
        ends = OwnedValues(capacity: options.queuePairs)
        if case .null(_, let emit) = options.kind { frame = try NullPort.frame(emit, options.name) }
        core.addPairs(port: index, options, defectFD: -1)
    }

    /// A frame of so many bytes; nil: none.
    private static func frame(_ size: Int?, _ name: String) throws(EngineError) -> [UInt8]? {
        guard let size else { return nil }
        guard Frames.sizes.contains(size) else { throw EngineError("\(name): emit=\(size); 14 to 9216 bytes") }
        return Frames.udp(size: size)
    }

    var isConnected: Bool { ends.count > 0 }

    func start() throws(EngineError) {
        for _ in 0..<options.queuePairs { ends.add(NullEnd(emits: frame)) }
        let all = (0..<ends.count).map { ends.start + $0 }
        // Whatever offloads a packet has, it is taken.
        _ = core.startOther(
            port: index, all.map { (.null($0), -1, NUMA.node(of: $0)) },
            offloads: PortFeatures.guestOffloads, budget: core.budget(options))
    }

    /// Sends frames of another size from now on, or none. On the embedder's thread. Each pair's thread changes between
    /// two bursts, when nobody has a packet of the old frame any more.
    func emit(_ size: Int?) throws(EngineError) {
        frame = try NullPort.frame(size, options.name)
        for pair in 0..<ends.count {
            guard let p = core.table[index, pair] else { continue }
            let (end, new) = (ends.start + pair, frame)
            core.onOwner(of: p) { thread in
                thread.drain(p)
                end.pointee.emit(new)
                // A pair that sent nothing may have been let go of.
                thread.state.pointee.poll(p)
            }
        }
    }

    func perform(_ work: @escaping () -> Void) { work() }

    func stop() {
        core.stopOther(port: index, pairs: options.queuePairs)
        ends.removeAll()
    }

    func dispose() {}
}
