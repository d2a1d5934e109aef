import Ringway

/// The device side of one ring over a guest's memory of 16 KiB, all of it the fuzzer's: whatever stands in the ring, no
/// byte outside the regions may be touched (AddressSanitizer sees to that) and nothing may trap or run for ever.
@Sendable func fuzzRings(_ given: Input) -> Int32 { fuzzRing(given) { DeviceQueue($0) } }

/// The same of a ring that writes down what it does: a dirty log of some size, and an inflight region that holds
/// whatever the fuzzer says, as any back-end, or nobody, may have left it.
@Sendable func fuzzRecords(_ given: Input) -> Int32 {
    var input = given
    let log = UnsafeMutablePointer<UInt8>.allocate(capacity: 64)
    log.initialize(repeating: 0, count: 64)
    // The largest ring of `fuzzRing`.
    let bytes = InflightQueue.bytes(size: 128, isPacked: true)
    let region = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
    region.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    defer {
        log.deallocate()
        region.deallocate()
    }
    let kinds = input.byte()
    for _ in 0..<Int(input.byte()) {
        region.storeBytes(of: input.byte(), toByteOffset: Int(input.integer(UInt16.self)) % bytes, as: UInt8.self)
    }
    let (isBegun, logBytes) = (kinds & 4 != 0, UInt64(kinds >> 3))
    return fuzzRing(input) { given in
        var setup = given
        if kinds & 1 != 0 { setup.log = DirtyLog(bits: UnsafeMutableRawPointer(log), bytes: logBytes) }
        if kinds & 2 != 0 {
            setup.inflight = InflightQueue(base: region, size: setup.size, isPacked: setup.isPacked)
            setup.takesInflightAgain = kinds & 8 != 0
            if isBegun {
                // A version that is known, and the ring's size: what else stands there counts.
                region.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
                region.storeBytes(of: UInt16(setup.size), toByteOffset: 10, as: UInt16.self)
            }
        }
        return RecordedRing(setup)
    }
}

private func fuzzRing<Ring: DeviceRing>(_ given: Input, _ make: (RingSetup) -> Ring) -> Int32 {
    var input = given
    let choice = input.byte()
    let isPacked = choice & 1 != 0
    var features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
    let optional: [Features] = [.eventIdx, .indirectDesc, .mrgRxbuf, .inOrder]
    for (i, f) in optional.enumerated() where choice & (2 << UInt8(i)) != 0 { features.insert(f) }
    let exponent = 1 + Int(input.byte() % 7)
    let size = isPacked ? UInt32(max(2, (1 << exponent) - Int(choice >> 7))) : UInt32(1 << exponent)

    // Two regions with nothing between them in guest memory, and much between them here.
    let bytes = 8192
    let halves = (0..<2).map { _ in UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64) }
    defer { for half in halves { half.deallocate() } }
    for half in halves { half.initializeMemory(as: UInt8.self, repeating: 0, count: bytes) }
    let guest: UInt64 = 0x10000
    let regions = UnsafeMutablePointer<MappedRegion>.allocate(capacity: 2)
    defer { regions.deallocate() }
    for i in 0..<2 {
        (regions + i).initialize(
            to: MappedRegion(
                guestAddress: guest + UInt64(i * bytes), size: UInt64(bytes), userAddress: 0, host: halves[i]))
    }
    // The fuzzer's memory first: a device that begins anew finds a ring that was used.
    if input.byte() & 1 == 0 { for _ in 0..<Int(input.byte() % 32) { write(&input, halves, bytes) } }
    var queue = make(
        RingSetup(
            size: size, isPacked: isPacked, descriptors: halves[0], driverArea: halves[0] + 2048,
            deviceArea: halves[0] + 4096,
            position: RingPosition(), features: features, map: MemoryMap(regions: regions, count: 2)))
    run(&queue, &input, halves, bytes)
    return 0
}

/// Bursts in any order; the guest writes its memory between them.
private func run(
    _ queue: inout some DeviceRing, _ input: inout Input, _ halves: [UnsafeMutableRawPointer], _ bytes: Int
) {
    let room = Room.shared
    for _ in 0..<64 where !input.isEmpty {
        // What the guest writes: mostly into descriptors and the driver's area.
        for _ in 0..<Int(input.byte() % 16) { write(&input, halves, bytes) }
        switch input.byte() % 6 {
        case 0, 1:
            let n = queue.popTransmit(&room.burst, limit: 1 + Int(input.byte() % 64), leave: 0, least: 1)
            for i in 0..<n { room.read(room.burst.packets + i) }
            if input.byte() % 8 == 0 {
                queue.unpop(room.burst.packets, n)
            } else {
                queue.complete(room.burst.packets, n, hold: input.byte() % 4 == 0)
            }
        case 2, 3:
            room.prepare(&input)
            _ = queue.deliver(room.frames, room.frames.identity, room.frames.count, with: room.scratch)
        case 4:
            queue.publishHeld()
            _ = queue.needsCall()
            _ = queue.armKicks()
            queue.suppressKicks()
        default:
            guard let taken = queue.popControl(into: room.control) else { return }
            queue.completeControl(taken, answer: 1)
        }
    }
}

private func write(_ input: inout Input, _ halves: [UnsafeMutableRawPointer], _ bytes: Int) {
    let place = input.byte()
    switch place % 4 {
    case 0:
        // A whole descriptor, whose address is often one of the guest's.
        let at = halves[0] + 16 * Int(input.byte() % 128)
        let address =
            input.byte() & 1 == 0 ? 0x10000 + UInt64(input.integer(UInt16.self)) % 16500 : input.integer(UInt64.self)
        at.storeBytes(of: address, as: UInt64.self)
        let length = input.byte() & 3 == 0 ? input.integer(UInt32.self) : UInt32(input.integer(UInt16.self)) % 4096
        at.storeBytes(of: length, toByteOffset: 8, as: UInt32.self)
        at.storeBytes(of: input.integer(UInt16.self), toByteOffset: 12, as: UInt16.self)
        at.storeBytes(of: input.integer(UInt16.self), toByteOffset: 14, as: UInt16.self)
    case 1: (halves[0] + 2048).storeBytes(of: input.integer(UInt16.self), toByteOffset: 2, as: UInt16.self)
    case 2:
        (halves[0] + 2048).storeBytes(
            of: UInt16(input.byte()), toByteOffset: 4 + 2 * Int(input.byte() % 129), as: UInt16.self)
    default: halves[Int(place >> 7)].storeBytes(of: input.byte(), toByteOffset: input.below(bytes), as: UInt8.self)
    }
}

/// Bursts for all inputs, and frames to deliver. libFuzzer calls from one thread.
final class Room {
    nonisolated(unsafe) static let shared = Room()
    var burst = Burst()
    var frames = Burst()
    let scratch = DeliveryScratch()
    let control = ControlRoom(size: 256)
    private let source = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    private let pieces = UnsafeMutablePointer<Segment>.allocate(capacity: 3 * Burst.maximum)
    private var sum: UInt8 = 0

    init() { source.initializeMemory(as: UInt8.self, repeating: 0x5a, count: 4096) }

    /// Up to 64 frames of one or several pieces.
    func prepare(_ input: inout Input) {
        let n = 1 + Int(input.byte() % 64)
        var bytes: UInt64 = 0
        for i in 0..<n {
            let length = 14 + input.below(1500)
            var packet = frames.packets[i]
            packet.place(source, UInt32(length))
            if input.byte() & 3 == 0 {
                // In four pieces: 1 byte, then the rest in three.
                let each = (length - 1) / 3
                packet.dataLength = 1
                for k in 0..<3 {
                    let rest = k == 2 ? length - 1 - 2 * each : each
                    pieces[3 * i + k] = Segment(base: source + 1 + k * each, length: UInt32(rest))
                }
                packet.more = pieces + 3 * i
                packet.moreCount = 3
            }
            if input.byte() & 1 == 0 { packet.loadFront(.wanted(Int(input.byte()))) }
            frames.packets[i] = packet
            bytes += UInt64(length)
        }
        frames.count = n
        frames.bytes = bytes
    }

    /// Reads the ends of each piece, as a receiver's copy would.
    func read(_ packet: UnsafeMutablePointer<PacketSlot>) {
        packet.pointee.loadFront(.wanted(12))
        for i in 0..<packet.pointee.pieces { read(packet.pointee.piece(i)!.base, packet.pointee.piece(i)!.length) }
    }
    private func read(_ p: UnsafeMutableRawPointer, _ length: UInt32) {
        if length == 0 { return }
        sum ^= p.load(as: UInt8.self) ^ p.load(fromByteOffset: Int(length) - 1, as: UInt8.self)
    }
}
