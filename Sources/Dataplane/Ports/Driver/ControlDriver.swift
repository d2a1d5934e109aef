import CPlatform
import Glibc
import Memory
import Virtio

/// The driver's end of a control queue: one command at a time.
package final class ControlDriver {
    package var queue: DriverQueue
    private let memory: HostMemory
    /// Where the command lies there.
    private let place: Int
    private let kick: Int32
    private static var size: UInt32 { 16 }
    private static var most: Int { 8192 }

    package static func memoryBytes(isPacked: Bool) -> Int { ringBytes(isPacked) + most }
    private static func ringBytes(_ isPacked: Bool) -> Int {
        (DriverQueue.bytes(size: size, isPacked: isPacked) + 4095) & ~4095
    }

    package init(
        isPacked: Bool, features: Features, memory: HostMemory, at start: Int, kick: Int32, delta: UInt64 = 0
    ) {
        queue = DriverQueue(
            size: ControlDriver.size, isPacked: isPacked, memory: memory.base + start, features: features,
            delta: delta)
        self.memory = memory
        place = start + ControlDriver.ringBytes(isPacked)
        self.kick = kick
    }

    package func send(_ kind: UInt8, _ command: UInt8, _ data: [UInt8]) -> UInt8? {
        let bytes = [kind, command] + data
        guard bytes.count < ControlDriver.most - 1 else { return nil }
        let room = memory.base + place
        bytes.withUnsafeBytes { room.copyMemory(from: $0.baseAddress!, byteCount: bytes.count) }
        let answer = room + ControlDriver.most - 1
        answer.storeBytes(of: 0xff, as: UInt8.self)
        var readable = [Segment(base: room, length: 2)]
        if !data.isEmpty { readable.append(Segment(base: room + 2, length: UInt32(data.count))) }
        var writable = Segment(base: answer, length: 1)
        guard queue.add(readable: readable, readable.count, writable: &writable, 1, token: 0) else { return nil }
        queue.publish()
        // The back-end has it, too.
        if queue.needsKick() && !EventFD.signal(kick) { return nil }
        var completion = DriverCompletion(token: 0, length: 0)
        let end = CPlat_monotonic_ns() + 2_000_000_000
        while queue.reclaim(into: &completion, max: 1) == 0 {
            if queue.isStopped || CPlat_monotonic_ns() > end { return nil }
            usleep(100)
        }
        return answer.load(as: UInt8.self)
    }
}
