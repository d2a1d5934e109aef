import CPlatform
import Control
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// A file of shared memory without any seal, as a front-end makes it that means to cut it off later.
final class SharedFile {
    let descriptor: OwnedDescriptor
    let base: UnsafeMutableRawPointer
    let bytes: Int

    init(_ bytes: Int, sealable: Bool = true) throws {
        self.bytes = bytes
        descriptor = OwnedDescriptor(CPlat_memfd("ringway-hostile", 0, sealable))
        try #require(ftruncate(descriptor.fd, bytes) == 0)
        let p = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor.fd, 0)
        base = try #require(p != MAP_FAILED ? p : nil)
    }

    deinit { munmap(base, bytes) }

    func region(at guest: UInt64) -> RegionDescription {
        RegionDescription(
            guestAddress: guest, size: UInt64(bytes), userAddress: UInt64(UInt(bitPattern: base)), offset: 0)
    }
}

/// A front-end on a port's real socket that writes its rings by hand: ring 0 receives, ring 1 transmits. What stands
/// in them is seen when they start. Its guest has three regions: two that are neighbours in its memory and lie in files
/// of their own, and one of a GiB that has no pages.
final class HostileGuest {
    static let size: UInt32 = 128
    let frontEnd: FrontEnd
    let isPacked: Bool
    let memory: SharedFile
    private let neighbour, huge: SharedFile
    private let kicks = [EventFD.make()!, EventFD.make()!]
    private let calls = [EventFD.make()!, EventFD.make()!]
    private let errs = [EventFD.make()!, EventFD.make()!]

    /// First guest physical addresses of the regions, and the first behind the second.
    static let guest: UInt64 = 0x1000_0000
    static let border = guest + 0x8_0000
    static let end = border + 0x1_0000
    static let far: UInt64 = 1 << 32

    // Within a ring's 64 KiB.
    static let (driverArea, deviceArea, table) = (0x4000, 0x8000, 0xc000)

    /// Heads that the available ring shows, and slots of the packed ring that were written, of each ring.
    private var shown: [UInt16] = [0, 0]
    private var slots = [0, 0]

    /// `isRecorded`: it has a dirty log and an inflight region.
    init(_ path: String, isPacked: Bool, features: Features = [], isRecorded: Bool = false) throws {
        self.isPacked = isPacked
        frontEnd = FrontEnd(try MessageSocket.connect(to: path))
        var wanted = features.union(isPacked ? [.version1, .ringPacked] : [.version1])
        if isRecorded { wanted.insert(.vhostLogAll) }
        try frontEnd.negotiate(wanted, [.mq, .replyAck, .configureMemSlots, .logShmFD, .inflightShmFD])
        memory = try SharedFile(0x8_0000)
        neighbour = try SharedFile(0x1_0000)
        huge = try SharedFile(1 << 30)
        var payload = Payload()
        for v: UInt32 in [3, 0] { payload.add32(v) }
        for region in [
            memory.region(at: HostileGuest.guest), neighbour.region(at: HostileGuest.border),
            huge.region(at: HostileGuest.far),
        ] { payload.add(region) }
        try frontEnd.tell(.setMemTable, payload, [memory.descriptor, neighbour.descriptor, huge.descriptor])
        if isRecorded { try record() }
    }

    private func record() throws {
        func description(_ size: UInt64) -> Payload {
            var payload = Payload(size)
            payload.add64(0)
            return payload
        }
        let log = try SharedFile(1 << 20)
        _ = try frontEnd.ask(.setLogBase, description(1 << 20), [log.descriptor])
        func inflight(_ size: UInt64) -> Payload {
            var payload = description(size)
            payload.add32(2 | HostileGuest.size << 16)
            return payload
        }
        let answer = try frontEnd.ask(.getInflightFD, inflight(0))
        let size = answer.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        try frontEnd.tell(.setInflightFD, inflight(size), answer.descriptors)
    }

    private func base(_ ring: Int) -> UnsafeMutableRawPointer { memory.base + 0x1_0000 * ring }

    /// Buffer `n`, of 2 KiB.
    func buffer(_ n: Int) -> UInt64 { HostileGuest.guest + 0x2_0000 + UInt64(n) * 0x800 }
    /// The indirect table of a ring.
    func table(_ ring: Int) -> UInt64 { HostileGuest.guest + UInt64(0x1_0000 * ring + HostileGuest.table) }

    /// A byte of the guest's memory, in the first two regions.
    func at(_ address: UInt64) -> UnsafeMutableRawPointer {
        address < HostileGuest.border
            ? memory.base + Int(address - HostileGuest.guest) : neighbour.base + Int(address - HostileGuest.border)
    }

    func put(_ bytes: [UInt8], at address: UInt64) {
        for (i, byte) in bytes.enumerated() { at(address + UInt64(i)).storeBytes(of: byte, as: UInt8.self) }
    }

    func bytes(_ address: UInt64, _ count: Int) -> [UInt8] {
        (0..<UInt64(count)).map { at(address + $0).load(as: UInt8.self) }
    }

    // MARK: Rings

    /// A descriptor of a ring, or of its table; flags 1 NEXT, 2 WRITE, 4 INDIRECT. In packed rings it is available in
    /// the first lap.
    func set(
        _ ring: Int, _ i: Int, _ address: UInt64, _ length: UInt32, _ flags: UInt16 = 0, next: UInt16 = 0,
        id: UInt16 = 0, inTable: Bool = false
    ) {
        let place = base(ring) + (inTable ? HostileGuest.table : 0) + 16 * i
        place.storeBytes(of: address, as: UInt64.self)
        let last = isPacked ? (id, flags | (inTable ? 0 : 0x80)) : (flags, next)
        let word = UInt64(length) | UInt64(last.0) << 32 | UInt64(last.1) << 48
        CPlat_store64_release(place + 8, word)
        if !inTable { slots[ring] = max(slots[ring], i + 1) }
    }

    /// Shows heads in the available ring; `index` says another index than follows. Packed rings show their descriptors.
    func show(_ ring: Int, _ heads: [UInt16], index: UInt16? = nil) {
        for head in heads {
            let place = Int(shown[ring] % UInt16(HostileGuest.size))
            (base(ring) + HostileGuest.driverArea + 4 + 2 * place).storeBytes(of: head, as: UInt16.self)
            shown[ring] += 1
        }
        CPlat_store16_release(base(ring) + HostileGuest.driverArea + 2, index ?? shown[ring])
    }

    /// One chain of these pieces from descriptor 0 on, and shows it.
    func chain(_ ring: Int, _ pieces: [(UInt64, UInt32)], _ flags: UInt16 = 0) {
        for (i, piece) in pieces.enumerated() {
            let hasNext: UInt16 = i + 1 < pieces.count ? 1 : 0
            set(ring, i, piece.0, piece.1, flags | hasNext, next: UInt16(i + 1))
        }
        show(ring, [0])
    }

    /// The driver's part that is neither descriptors nor an index: flags, used_event, event suppression.
    func disturbEvents(_ ring: Int, _ word: UInt16) {
        let area = base(ring) + HostileGuest.driverArea
        area.storeBytes(of: word, as: UInt16.self)
        if isPacked { (area + 2).storeBytes(of: word, as: UInt16.self) }
        (area + 4 + 2 * Int(HostileGuest.size)).storeBytes(of: word, as: UInt16.self)
    }

    static func frame(_ n: Int) -> [UInt8] { Frame.numbered(1, first: n)[0] }

    /// A net header and frame `n` at an address; their length.
    @discardableResult
    func write(_ n: Int, at address: UInt64, header: [UInt8] = [UInt8](repeating: 0, count: 12)) -> UInt32 {
        let bytes = header + HostileGuest.frame(n)
        put(bytes, at: address)
        return UInt32(bytes.count)
    }

    /// Frame `n` behind everything that was shown: descriptor 120, or the packed ring's next slot.
    func sendAfter(_ n: Int) {
        let length = write(n, at: buffer(180))
        set(1, isPacked ? slots[1] : 120, buffer(180), length, id: 99)
        show(1, [120])
        kick(1)
    }

    /// 16 whole buffers in the receive ring: 150 and up.
    func offerBuffers() {
        for i in 0..<16 { set(0, i, buffer(150 + i), 2048, 2, id: UInt16(i)) }
        show(0, (0..<16).map { UInt16($0) })
    }

    /// The frames in these buffers that the device has given back.
    var received: [[UInt8]] {
        func frame(_ id: Int, _ length: UInt32) -> [UInt8] {
            bytes(buffer(150 + id % 16) + 12, max(0, min(2048, Int(length)) - 12))
        }
        if isPacked {
            return (0..<16).compactMap { i in
                let word = CPlat_load64_acquire(base(0) + 16 * i + 8)
                return word >> 48 & 0x8080 == 0x8080 ? frame(Int(word >> 32 & 15), UInt32(word & 0xffff_ffff)) : nil
            }
        }
        let ring = base(0) + HostileGuest.deviceArea
        return (0..<Int(CPlat_load16_acquire(ring + 2))).map { i in
            frame(
                Int((ring + 4 + 8 * i).load(as: UInt32.self) & 15), (ring + 8 + 8 * i).load(as: UInt32.self))
        }
    }

    func start(_ ring: Int) throws {
        let at = UInt64(UInt(bitPattern: base(ring)))
        try frontEnd.tell(.setVringErr, Payload(UInt64(ring)), [errs[ring]])
        try frontEnd.enableRing(ring, true)
        try frontEnd.startRing(
            ring, size: HostileGuest.size, base: isPacked ? 0x8000_8000 : 0, descriptors: at,
            driverArea: at + UInt64(HostileGuest.driverArea), deviceArea: at + UInt64(HostileGuest.deviceArea),
            kick: kicks[ring], call: calls[ring])
    }

    func kick(_ ring: Int) { EventFD.signalOwn(kicks[ring].fd) }

    /// Writes one plausible descriptor, head or index anywhere in either ring.
    func scribble(_ random: inout SystemRandomNumberGenerator) {
        let ring = Int.random(in: 0...1, using: &random)
        let i = Int.random(in: 0..<Int(HostileGuest.size), using: &random)
        let isInTable = Int.random(in: 0..<4, using: &random) == 0
        let place = base(ring) + (isInTable ? HostileGuest.table : 0) + 16 * i
        let isPlausible = Int.random(in: 0..<50, using: &random) > 0
        let target = Int.random(in: 0..<8, using: &random) == 0 ? table(ring) : buffer(i)
        CPlat_store64_relaxed(place, isPlausible ? target : random.next())
        var flags = UInt64(Int.random(in: 0..<8, using: &random))
        if isPlausible { flags = UInt64(ring == 0 ? 2 : 0) | flags & 1 }
        let length = isPlausible ? UInt64.random(in: 12..<2048, using: &random) : random.next() & 0xffff_ffff
        let number = UInt64.random(in: 0..<UInt64(HostileGuest.size + 1), using: &random)
        let lap: UInt64 = Bool.random(using: &random) ? 0x80 : 0x8000
        CPlat_store64_relaxed(
            place + 8,
            length | (isPacked ? number << 32 | (flags | lap) << 48 : flags << 32 | number << 48))
        if isPacked { return }
        let area = base(ring) + HostileGuest.driverArea
        CPlat_store16_relaxed(area + 4 + 2 * i, UInt16(number))
        let index = CPlat_load16_relaxed(area + 2)
        CPlat_store16_relaxed(area + 2, index &+ (isPlausible ? 1 : UInt16.random(in: 0...300, using: &random)))
    }

    /// Whether a ring's err descriptor was written, once.
    func wasTold(_ ring: Int) -> Bool {
        var count: UInt64 = 0
        return read(errs[ring].fd, &count, 8) == 8 && count == 1
    }
}

/// Packets go from each port to its neighbour: 0 and 1, 2 and 3.
struct Neighbours: PacketFunction {
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { .port(packets.port ^ 1) }
}

/// Two drivers beside the one that attacks, which send each other bursts all the time and look at every byte. A thread
/// of its own drives both.
final class HealthyPorts: @unchecked Sendable {
    private let (a, b): (EmbeddedDriver, EmbeddedDriver)
    private let words = UnsafeMutablePointer<UInt32>.allocate(capacity: 2)
    private var thread: NamedThread?
    private(set) var failure: String?
    /// Nanoseconds that each round took.
    private(set) var times: [UInt64] = []

    init(_ lab: Lab, _ first: Int, isPacked: Bool) throws {
        a = try lab.driver(first) { $0.isPacked = isPacked }
        b = try lab.driver(first + 1) { $0.isPacked = isPacked }
        words.initialize(repeating: 0, count: 2)
        thread = try NamedThread("healthy") { [unowned self] in self.run() }
    }

    deinit {
        end()
        words.deallocate()
    }

    private func run() {
        var next = 0
        let frames = Frame.numbered(64)
        while CPlat_load32_relaxed(words) == 0 && failure == nil {
            let start = CPlat_monotonic_ns()
            for (from, to) in [(a, b), (b, a)] {
                let burst = Array(frames[next % 32..<next % 32 + 32])
                guard from.send(burst) else {
                    failure = "frame \(next): nothing was taken for two seconds"
                    break
                }
                let got = to.receive(32, within: 20_000).map(\.frame)
                if got != burst { failure = "from frame \(next) on \(got.count) came, of 32, or other ones" }
                next += 32
            }
            times.append(CPlat_monotonic_ns() - start)
            CPlat_store32_release(words + 1, CPlat_load32_relaxed(words + 1) &+ 1)
        }
    }

    private var rounds: UInt32 { CPlat_load32_acquire(words + 1) }

    /// Whether three rounds more go well.
    func goOn() -> Bool {
        let wanted = rounds + 3
        return eventually { rounds >= wanted }
    }

    func end() {
        CPlat_store32_release(words, 1)
        thread?.join()
        thread = nil
    }
}
