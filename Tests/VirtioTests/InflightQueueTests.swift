import CPlatform
import Testing
import Virtio

/// A packed transmit ring with an inflight region whose device is killed between two of its stores
/// (Tests/Models/inflight.pml): region and ring as they stand then, written by hand.
@Suite final class InflightQueueTests {
    private static let size = 8
    private let memory = zeroed(1 << 16)
    private let regions = UnsafeMutablePointer<MappedRegion>.allocate(capacity: 1)
    private var burst = Burst()

    private var region: UnsafeMutableRawPointer { memory + 0x3000 }
    private func entry(_ i: Int) -> UnsafeMutableRawPointer { region + 32 + 32 * i }
    private func flags(_ slot: Int) -> UInt16 { (memory + 16 * slot + 14).load(as: UInt16.self) }

    init() {
        regions.initialize(to: MappedRegion(guestAddress: 0, size: 1 << 16, userAddress: 0, host: memory))
        for i in 0..<Self.size { write(i, id: i, flags: 0x80) }
    }

    deinit {
        regions.deallocate()
        memory.deallocate()
    }

    private func write(_ slot: Int, id: Int, flags: UInt64) {
        (memory + 16 * slot).storeBytes(of: UInt64(0x8000 + 2048 * id), as: UInt64.self)
        (memory + 16 * slot + 8).storeBytes(of: 100 | UInt64(id) << 32 | flags << 48, as: UInt64.self)
    }

    /// A device's life on the ring as it stands.
    private func life(leavesInflight: Bool = false) -> RecordedRing {
        var setup = RingSetup(
            size: UInt32(Self.size), isPacked: true, descriptors: memory, driverArea: memory + 0x1000,
            deviceArea: memory + 0x2000, position: RingPosition(), features: [.version1, .ringPacked],
            map: MemoryMap(regions: regions, count: 1))
        setup.inflight = InflightQueue(base: region, size: UInt32(Self.size), isPacked: true)
        setup.takesInflightAgain = true
        setup.leavesInflight = leavesInflight
        return RecordedRing(setup)
    }

    /// Takes `count` chains and is killed.
    private func take(_ count: Int) {
        var ring = life()
        #expect(ring.popTransmit(&burst, limit: count) == count)
    }

    /// What `publishing` writes: the last entry's link, the head of free entries, how far the ring is and was used.
    private func publishing(_ count: Int, isWhole: Bool = true) {
        (entry(count - 1) + 2).storeBytes(of: UInt16(count % Self.size), as: UInt16.self)
        if !isWhole { return }
        (region + 12).storeBytes(of: 0, as: UInt16.self)
        let wraps: UInt64 = count == Self.size ? 0x100 : 0x101
        (region + 16).storeBytes(of: UInt64(count % Self.size) | wraps << 32, as: UInt64.self)
    }

    @Test("what was not taken again lies in the ring for whoever comes next, or is left to the region")
    func leftInRegion() {
        take(3)
        let stands = life().position
        #expect(stands.available == 0 && stands.used == 0)
        var ring = life(leavesInflight: true)
        #expect(ring.position.available == 3 && ring.position.used == 0)
        #expect(ring.popTransmit(&burst, limit: 1) == 1)
        ring.complete(burst.packets, 1)
        #expect(ring.position.available == 3 && ring.position.used == 1)
        // The next life has the two that are left, before what is new.
        ring = life(leavesInflight: true)
        #expect(ring.popTransmit(&burst, limit: 8) == 2)
        ring.complete(burst.packets, 2)
        #expect(ring.popTransmit(&burst, limit: 8) == 5)
        #expect(ring.position.used == 3)
    }

    @Test("marks of a batch whose first descriptor was not written go: no chain comes back before it is used")
    func unpublished() {
        take(3)
        publishing(3)
        for i in 1..<3 { write(i, id: i, flags: 0x8080) }
        var ring = life()
        for n in 0..<3 {
            #expect(ring.popTransmit(&burst, limit: 1) == 1 && burst.packets[0].id == UInt16(n))
            ring.complete(burst.packets, 1)
            #expect((0..<3).map { flags($0) } == (0..<3).map { $0 <= n ? 0x8080 : 0x80 }, "after \(n)")
        }
    }

    @Test("a batch of the whole ring that the driver was told of is not given back again")
    func wholeRing() {
        take(Self.size)
        publishing(Self.size)
        for i in 0..<Self.size { write(i, id: i, flags: 0x8080) }
        // The driver was told, and has made its first chain of the next lap available.
        write(0, id: 5, flags: 0x8000)
        var ring = life()
        #expect(ring.popTransmit(&burst, limit: 64) == 1 && burst.packets[0].id == 5)
        ring.complete(burst.packets, 1)
        // AVAIL and USED are both clear in the second lap.
        #expect(flags(0) == 0 && (1..<Self.size).allSatisfy { flags($0) == 0x8080 })
    }

    @Test("a link that was written before the crash does not cut the list of free entries short")
    func staleLink() {
        take(5)
        publishing(3, isWhole: false)
        (entry(2) + 2).storeBytes(of: 5, as: UInt16.self)
        _ = life()
        #expect((0..<5).allSatisfy { (entry($0) + 2).load(as: UInt16.self) == UInt16($0 + 1) })
    }
}
