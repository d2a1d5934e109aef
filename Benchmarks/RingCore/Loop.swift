import Ringway

/// A ring with both of its sides in this process, in memory that is translated as a guest's is.
final class Loop {
    enum Chain: String, CaseIterable {
        /// Header and frame in one buffer.
        case single
        /// The header in a buffer of its own.
        case headerApart
        /// Header and frame in an indirect table.
        case indirect
    }

    var driver: DriverQueue
    var device: DeviceQueue
    var burst = Burst()
    private let scratch = DeliveryScratch()
    let arena: UnsafeMutableRawPointer
    private let memory: HostMemory
    private let regions: UnsafeMutablePointer<MappedRegion>
    private let completions = UnsafeMutablePointer<DriverCompletion>.allocate(capacity: 64)
    private let buffers = UnsafeMutablePointer<DriverBuffer>.allocate(capacity: 64)
    private let segments = UnsafeMutablePointer<Segment>.allocate(capacity: 2)
    private let stride: Int

    /// Buffers of `stride` bytes each; 1024 entries.
    init(isPacked: Bool, isInOrder: Bool, stride: Int = 2048) throws {
        self.stride = stride
        var features: Features = [.version1, .mrgRxbuf, .indirectDesc]
        if isPacked { features.insert(.ringPacked) }
        if isInOrder { features.insert(.inOrder) }
        let ring = (DriverQueue.bytes(size: 1024, isPacked: isPacked, indirectLength: 2) + 4095) & ~4095
        memory = try HostMemory(bytes: ring + 64 * stride)
        arena = memory.base + ring
        driver = DriverQueue(size: 1024, isPacked: isPacked, memory: memory.base, features: features, indirectLength: 2)
        regions = .allocate(capacity: 1)
        let address = UInt64(UInt(bitPattern: memory.base))
        regions.initialize(
            to: MappedRegion(guestAddress: address, size: UInt64(memory.size), userAddress: address, host: memory.base))
        device = DeviceQueue(driver.deviceSetup(map: MemoryMap(regions: regions, count: 1)))
    }

    deinit {
        regions.deallocate()
        completions.deallocate()
        buffers.deallocate()
        segments.deallocate()
    }

    /// The driver sends `n` frames of `length` bytes, the device takes and completes them, the driver takes them back.
    func transmit(_ n: Int, length: Int, _ chain: Chain) {
        if chain == .single {
            for i in 0..<n {
                buffers[i] = DriverBuffer(
                    base: arena + i * stride, length: UInt32(length + PacketSlot.headerLength), token: UInt32(i))
            }
            precondition(driver.addTransmit(buffers, n) == n)
        } else {
            for i in 0..<n {
                segments[0] = Segment(base: arena + i * stride, length: UInt32(PacketSlot.headerLength))
                segments[1] = Segment(base: arena + i * stride + 64, length: UInt32(length))
                precondition(
                    driver.add(readable: segments, 2, writable: nil, 0, token: UInt32(i), indirect: chain == .indirect))
            }
        }
        driver.publish()
        precondition(device.popTransmit(&burst, limit: n) == n)
        device.complete(burst.packets, n)
        takeBack(n)
    }

    /// The device delivers `n` frames of `length` bytes, each into as many buffers of `room` bytes as it needs.
    func receive(_ n: Int, length: Int, room: Int) {
        let each = (length + PacketSlot.headerLength + room - 1) / room
        var left = n * each
        while left > 0 {
            let some = min(left, 64)
            for i in 0..<some {
                buffers[i] = DriverBuffer(base: arena + i * stride, length: UInt32(room), token: UInt32(i))
            }
            precondition(driver.addReceive(buffers, some) == some)
            left -= some
        }
        driver.publish()
        let result = device.deliver(burst, burst.identity, n, with: scratch)
        precondition(result.delivered == n)
        takeBack(n * each)
    }

    /// Frames for `receive`, from memory that is not the driver's.
    func prepareFrames(_ n: Int, length: Int, from source: UnsafeMutableRawPointer) {
        for i in 0..<n { burst.packets[i].place(source + i * stride, UInt32(length)) }
        burst.count = n
        burst.bytes = UInt64(n * length)
    }

    private func takeBack(_ n: Int) {
        var back = 0
        while back < n { back += driver.reclaim(into: completions, max: 64) }
    }
}
