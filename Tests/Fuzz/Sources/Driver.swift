import Ringway

/// The driver side of one ring, with a back-end that writes what it likes into the ring's memory.
@Sendable func fuzzDriver(_ given: Input) -> Int32 {
    var input = given
    let choice = input.byte()
    let isPacked = choice & 1 != 0
    var features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
    let optional: [Features] = [.eventIdx, .indirectDesc, .inOrder]
    for (i, f) in optional.enumerated() where choice & (2 << UInt8(i)) != 0 { features.insert(f) }
    let size = UInt32(2 << Int(input.byte() % 6))
    let indirect = features.contains(.indirectDesc) ? 2 : 0
    let bytes = DriverQueue.bytes(size: size, isPacked: isPacked, indirectLength: indirect)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 4096)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    defer { memory.deallocate() }
    var queue = DriverQueue(
        size: size, isPacked: isPacked, memory: memory, features: features, indirectLength: indirect)
    let arena = DriverRoom.shared
    for _ in 0..<64 where !input.isEmpty {
        for _ in 0..<Int(input.byte() % 16) {
            // The device's area, the used index, or anywhere.
            switch input.byte() % 3 {
            case 0: (queue.deviceArea + 2).storeBytes(of: input.integer(UInt16.self), as: UInt16.self)
            case 1:
                let area = bytes - (queue.deviceArea - memory)
                queue.deviceArea.storeBytes(of: input.byte(), toByteOffset: input.below(area), as: UInt8.self)
            default: memory.storeBytes(of: input.byte(), toByteOffset: input.below(bytes), as: UInt8.self)
            }
        }
        let n = 1 + Int(input.byte() % 16)
        switch input.byte() % 5 {
        case 0: _ = queue.addTransmit(arena.buffers, n)
        case 1: _ = queue.addReceive(arena.buffers, n)
        case 2:
            let back = queue.reclaim(into: arena.completions, max: n)
            precondition(back <= n)
            for i in 0..<back { precondition(arena.completions[i].token < 16, "a token that was never given") }
        case 3: queue.publish()
        default:
            _ = queue.needsKick()
            _ = queue.armCalls()
        }
    }
    return 0
}

/// Buffers whose tokens are below 16. libFuzzer calls from one thread.
final class DriverRoom {
    nonisolated(unsafe) static let shared = DriverRoom()
    let buffers = UnsafeMutablePointer<DriverBuffer>.allocate(capacity: 16)
    let completions = UnsafeMutablePointer<DriverCompletion>.allocate(capacity: 16)

    init() {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 16 * 256, alignment: 64)
        for i in 0..<16 {
            (buffers + i).initialize(to: DriverBuffer(base: memory + 256 * i, length: 256, token: UInt32(i)))
        }
    }
}
