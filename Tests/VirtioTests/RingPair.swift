import Virtio

/// A driver side and a device side of one ring in this process. The driver's addresses are shifted,
/// and its memory is cut into three regions, so that translation is part of what is tested.
final class RingPair {
    var driver: DriverQueue
    var device: DeviceQueue
    let memory: UnsafeMutableRawPointer
    let arena: UnsafeMutableRawPointer
    let arenaBytes: Int
    let regions: UnsafeMutablePointer<MappedRegion>
    let map: MemoryMap
    let delta: UInt64

    /// `arenaBytes` of room for buffers.
    init(
        size: UInt32, isPacked: Bool, features: Features, arenaBytes: Int, indirectLength: Int = 0, random: inout Random
    ) {
        let indirect = min(indirectLength, Int(size))
        let ringBytes = (DriverQueue.bytes(size: size, isPacked: isPacked, indirectLength: indirect) + 4095) & ~4095
        memory = zeroed(ringBytes + arenaBytes)
        arena = memory + ringBytes
        self.arenaBytes = arenaBytes
        let guest: UInt64 = 0x1_0000_0000 + (random.next() & 0xffff_f000)
        delta = guest &- UInt64(UInt(bitPattern: memory))
        driver = DriverQueue(
            size: size, isPacked: isPacked, memory: memory, features: features, delta: delta, indirectLength: indirect)
        // The ring first, then the buffers in two regions that meet somewhere in their midst.
        let border = 16 + random.below(arenaBytes - 32)
        let sizes = [ringBytes, border, arenaBytes - border]
        regions = .allocate(capacity: 3)
        var offset = 0
        for (i, bytes) in sizes.enumerated() {
            (regions + i).initialize(
                to: MappedRegion(
                    guestAddress: guest + UInt64(offset), size: UInt64(bytes), userAddress: guest + UInt64(offset),
                    host: memory + offset))
            offset += bytes
        }
        map = MemoryMap(regions: regions, count: 3)
        device = DeviceQueue(driver.deviceSetup(map: map))
    }

    deinit {
        regions.deallocate()
        memory.deallocate()
    }
}

/// Buffers of equal size out of an arena, by token.
struct Slots {
    let base: UnsafeMutableRawPointer
    let bytes: Int
    var free: [UInt32]

    init(_ base: UnsafeMutableRawPointer, bytes: Int, count: Int) {
        self.base = base
        self.bytes = bytes
        free = (0..<UInt32(count)).reversed()
    }
    subscript(_ token: UInt32) -> UnsafeMutableRawPointer { base + Int(token) * bytes }
}

/// `length` bytes at `base` as `count` segments.
func segments(_ base: UnsafeMutableRawPointer, _ length: Int, into count: Int, _ random: inout Random) -> [Segment] {
    var at = base
    return random.split(length, into: min(count, length)).map { piece in
        defer { at += piece }
        return Segment(base: at, length: UInt32(piece))
    }
}
