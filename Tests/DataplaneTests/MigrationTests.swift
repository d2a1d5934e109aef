import CPlatform
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// A dirty log as a front-end shares it. The embedded driver's guest addresses are those of this process, so the file
/// is large, and nearly all of it has no pages.
final class Log {
    let fd: OwnedDescriptor
    let bytes: Int
    let bits: UnsafeMutablePointer<UInt8>

    init(bytes: Int) throws {
        self.bytes = bytes
        fd = OwnedDescriptor(CPlat_memfd("log", 0, false))
        #expect(ftruncate(fd.fd, bytes) == 0)
        let p = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.fd, 0)
        bits = try #require(p != MAP_FAILED ? p : nil).assumingMemoryBound(to: UInt8.self)
    }

    deinit { munmap(bits, bytes) }

    func has(_ address: UInt64) -> Bool { bits[Int(address >> 15)] & 1 << UInt8(address >> 12 & 7) != 0 }
    func has(_ p: UnsafeMutableRawPointer) -> Bool { has(UInt64(UInt(bitPattern: p))) }

    /// `offset`: where the log begins in its file.
    func payload(size: Int? = nil, offset: Int = 0) -> Payload {
        var payload = Payload(UInt64(size ?? bytes - offset))
        payload.add64(UInt64(offset))
        return payload
    }

    /// Reaches every address of a process.
    static func whole() throws -> Log { try Log(bytes: 1 << 32) }
}

extension EmbeddedDriver {
    fileprivate func share(_ log: Log, size: Int? = nil, offset: Int = 0) throws {
        try frontEnd.setProtocolFeatures([.mq, .replyAck, .mtu, .logShmFD])
        _ = try frontEnd.ask(.setLogBase, log.payload(size: size, offset: offset), [log.fd])
    }

    func setLogging(_ isOn: Bool) throws {
        let features = isOn ? frontEnd.features.union(.vhostLogAll) : frontEnd.features
        try frontEnd.tell(.setFeatures, Payload(features.rawValue))
    }

    /// Each page of memory.
    var pages: [[UInt8]] {
        (0..<memory.size / 4096).map { Array(UnsafeRawBufferPointer(start: memory.base + 4096 * $0, count: 4096)) }
    }
}

/// The guest's memory as a migration sees it: whatever the device writes is in the dirty log.
@Suite(.serialized) struct MigrationTests {
    struct Format: CustomTestStringConvertible, Sendable {
        var isPacked = false
        var isInOrder = false
        var testDescription: String { (isPacked ? "packed" : "split") + (isInOrder ? ", in order" : "") }
        static let all = [
            Format(), Format(isInOrder: true), Format(isPacked: true), Format(isPacked: true, isInOrder: true),
        ]
        func set(_ options: inout DriverOptions, room: Int = 2048) {
            (options.isPacked, options.isInOrder, options.frameRoom) = (isPacked, isInOrder, room)
        }
    }

    private func makeLab(_ format: Format) throws -> (Lab, EmbeddedDriver, EmbeddedDriver) {
        let lab = try Lab(ports: 2, .crossconnect)
        let a = try lab.driver(0) { format.set(&$0, room: 8192) }
        return (lab, a, try lab.driver(1) { format.set(&$0) })
    }

    @Test("every page that a delivery writes is in the log", arguments: Format.all, [60, 1514, 5000])
    func delivered(_ format: Format, _ length: Int) throws {
        let (lab, a, b) = try makeLab(format)
        defer { lab.engine.stop() }
        // Once round the ring's beginning, so that what follows goes over its end.
        for _ in 0..<3 {
            a.send(Frame.numbered(60))
            #expect(b.receive(60).count == 60)
            #expect(a.settle())
        }
        let log = try Log.whole()
        try b.share(log)
        try b.setLogging(true)
        let before = b.pages
        let frames = Frame.numbered(40).map { $0 + [UInt8](repeating: 0xa5, count: max(0, length - $0.count)) }
        a.send(frames)
        #expect(a.settle())
        let after = b.pages
        let changed = before.indices.filter { before[$0] != after[$0] }
        #expect(changed.count >= 40 * length / 4096)
        for page in changed { #expect(log.has(b.memory.base + 4096 * page), "page \(page)") }
        // And little else: the wish for kicks, and bytes that were the same before.
        let logged = before.indices.filter { log.has(b.memory.base + 4096 * $0) }
        #expect(logged.count <= changed.count + 4)
        let isWhole = b.receive(40).map(\.frame) == frames
        #expect(isWhole)

        try b.setLogging(false)
        _ = b.pages
        memset(log.bits + Int(UInt(bitPattern: b.memory.base) >> 15), 0, b.memory.size >> 15)
        a.send(frames)
        let isWholeAgain = b.receive(40).map(\.frame) == frames
        #expect(isWholeAgain)
        #expect(!before.indices.contains { log.has(b.memory.base + 4096 * $0) })
    }

    @Test("a log that begins somewhere in its file is written there", arguments: Format.all, [4096, 1 << 20])
    func offset(_ format: Format, _ offset: Int) throws {
        let (lab, a, b) = try makeLab(format)
        defer { lab.engine.stop() }
        let log = try Log(bytes: 1 << 32 + offset)
        try b.share(log, offset: offset)
        try b.setLogging(true)
        let before = b.pages
        a.send(Frame.numbered(40))
        #expect(b.receive(40).count == 40)
        let after = b.pages
        let (first, last) = (UInt64(UInt(bitPattern: b.memory.base)) >> 12, UInt64(b.memory.size / 4096))
        func isLogged(_ page: UInt64, _ offset: Int) -> Bool {
            log.bits[offset + Int(page >> 3)] & 1 << UInt8(page & 7) != 0
        }
        for page in before.indices where before[page] != after[page] {
            #expect(isLogged(first + UInt64(page), offset))
        }
        // Not where twice the offset, or none, would have it.
        for wrong in [0, 2 * offset] {
            #expect(!(first..<first + last).contains { isLogged($0, wrong) }, "\(wrong)")
        }
    }

    @Test("used entries of a transmit ring are in the log", arguments: Format.all)
    func sent(_ format: Format) throws {
        let (lab, a, b) = try makeLab(format)
        defer { lab.engine.stop() }
        let log = try Log.whole()
        try a.share(log)
        try a.setLogging(true)
        a.send(Frame.numbered(60))
        #expect(b.receive(60).count == 60)
        #expect(a.settle())
        let setup = a.pairs[0].transmit.deviceSetup()
        #expect(log.has(format.isPacked ? setup.descriptors : setup.deviceArea))
    }

    @Test("the used ring is logged at the address that the front-end gives for it", arguments: [false, true])
    func loggedAddress(isPacked: Bool) throws {
        let (lab, a, b) = try makeLab(Format(isPacked: isPacked))
        defer { lab.engine.stop() }
        let log = try Log.whole()
        try a.share(log)
        try a.setLogging(true)
        let addresses = a.pairs[0].transmit.deviceSetup().addresses
        let elsewhere: UInt64 = 0x1234_5000
        var payload = Payload(index: 1, Message.logsUsed)
        for address in [addresses.descriptors, addresses.deviceArea, addresses.driverArea, elsewhere] {
            payload.add64(address)
        }
        try a.frontEnd.tell(.setVringAddr, payload)
        a.send(Frame.numbered(60))
        #expect(b.receive(60).count == 60)
        #expect(a.settle())
        #expect(log.has(elsewhere))
    }

    @Test("answers of the control queue are in the log", arguments: [false, true])
    func answered(isPacked: Bool) throws {
        let lab = try Lab(ports: 1, .drop)
        defer { lab.engine.stop() }
        let driver = try lab.driver(0) { ($0.isPacked, $0.hasControl) = (isPacked, true) }
        let log = try Log.whole()
        try driver.share(log)
        try driver.setLogging(true)
        let before = driver.pages
        #expect(driver.command(0, 0, [1]) == 0)
        let after = driver.pages
        // Rings and answer share few pages with what the driver writes; all of those the device has written into.
        let changed = before.indices.filter { before[$0] != after[$0] }
        #expect(changed.contains { log.has(driver.memory.base + 4096 * $0) })
    }

    @Test("a log that does not reach the end of memory is refused, and one that is not a file, and one too many")
    func refused() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        defer { lab.engine.stop() }
        let healthy = try lab.driver(1)
        func refuses(_ payload: Payload, _ descriptors: [OwnedDescriptor]) throws {
            let driver = try lab.driver(0)
            try driver.frontEnd.setProtocolFeatures([.mq, .replyAck, .mtu, .logShmFD])
            #expect(throws: VhostUserError.self) { try driver.frontEnd.ask(.setLogBase, payload, descriptors) }
        }
        let log = try Log(bytes: 4096)
        try refuses(log.payload(), [log.fd])
        try refuses(log.payload(size: 1 << 40), [log.fd])
        try refuses(log.payload(size: 0), [log.fd])
        try refuses(log.payload(), [])
        try refuses(log.payload(), [log.fd, log.fd])
        try refuses(log.payload(), [OwnedDescriptor(CPlat_eventfd(0))])
        try refuses(Payload(4096), [log.fd])
        // Size and offset that wrap together, and an offset behind the file's end.
        for (size, offset) in [(UInt64(4096), UInt64.max - 4000), (.max, 4096), (4096, 8192)] {
            var payload = Payload(size)
            payload.add64(offset)
            try refuses(payload, [log.fd])
        }
        _ = healthy
    }

    @Test("a log that is taken away under traffic ends its own port alone", arguments: Format.all)
    func takenAway(_ format: Format) throws {
        let lab = try Lab(ports: 4, .switch)
        defer { lab.engine.stop() }
        let drivers = try (0..<4).map { try lab.driver($0) { format.set(&$0) } }
        let (a, b, c, d) = (drivers[0], drivers[1], drivers[2], drivers[3])
        func frames(_ from: UInt8, _ to: UInt8) -> [[UInt8]] {
            Frame.numbered(60, to: Frame.mac(to), from: Frame.mac(from))
        }
        // The switch learns who is where.
        for (i, driver) in drivers.enumerated() { driver.send([frames(UInt8(i), 9)[0]]) }
        for driver in drivers { #expect(driver.receive(3).count == 3) }
        let log = try Log.whole()
        try b.share(log)
        try b.setLogging(true)
        #expect(ftruncate(log.fd.fd, 0) == 0)
        a.send(frames(0, 1))
        for _ in 0..<5 {
            c.send(frames(2, 3))
            #expect(d.receive(60).count == 60)
        }
        // The connection of the port whose log it was is closed.
        #expect(eventually { (try? b.frontEnd.ask64(.getFeatures)) == nil })
        let again = try lab.driver(1) { format.set(&$0) }
        a.send(frames(0, 1))
        #expect(again.receive(60).count == 60)
    }

    @Test("a log is begun, moved and ended under traffic, and nothing is lost", arguments: Format.all)
    func moved(_ format: Format) throws {
        let (lab, a, b) = try makeLab(format)
        defer { lab.engine.stop() }
        let logs = [try Log.whole(), try Log.whole()]
        for round in 0..<rounds(40, least: 8) {
            let frames = Frame.numbered(100, first: 100 * round)
            a.send(frames)
            try b.share(logs[round % 2])
            try a.share(logs[(round + 1) % 2])
            try b.setLogging(round % 3 != 0)
            try a.setLogging(round % 4 != 0)
            #expect(b.receive(100).map(\.frame) == frames, "round \(round)")
        }
    }

    /// What logging costs at 64 bytes (docs/reliability.md): by turns without and with a log, the median of eleven
    /// ratios, on a machine that does nothing else.
    @Test(
        "the cost of the dirty log, printed", .enabled(if: getenv("RINGWAY_LOG_COST") != nil), arguments: Format.all)
    func cost(_ format: Format) throws {
        for mode in [ForwardingMode.generate(size: 64), .drop, .macswap] {
            let lab = try Lab(ports: 1, mode, busyloop: .poll)
            defer { lab.engine.stop() }
            let driver = try lab.driver(0) {
                format.set(&$0)
                $0.ringSize = 1024
            }
            let log = try Log.whole()
            try driver.share(log)
            func packets(for milliseconds: UInt64) -> Double {
                var count = 0
                let begin = CPlat_monotonic_ns()
                while CPlat_monotonic_ns() - begin < milliseconds * 1_000_000 {
                    var sent = 0
                    if mode == .drop || mode == .macswap {
                        sent = driver.pairs[0].prepare(32)
                        for k in 0..<sent { (driver.pairs[0].outgoing.start + k).pointee.length = 60 }
                        driver.pairs[0].send(sent)
                    }
                    if mode == .drop {
                        count += sent
                    } else {
                        count += driver.pairs[0].receiveBurst()
                        driver.pairs[0].giveBack()
                    }
                }
                return Double(count) * 1e3 / Double(CPlat_monotonic_ns() - begin)
            }
            var rates: [(without: Double, with: Double)] = []
            for _ in 0..<11 {
                var rate = (without: 0.0, with: 0.0)
                try driver.setLogging(false)
                _ = packets(for: 20)
                rate.without = packets(for: 150)
                try driver.setLogging(true)
                _ = packets(for: 20)
                rate.with = packets(for: 150)
                rates.append(rate)
            }
            let ratios = rates.map { $0.with / $0.without }.sorted()
            func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }
            func text(_ value: Double) -> String { "\(Double(Int(value * 100)) / 100)" }
            print(
                "\(format.testDescription), \(mode): "
                    + "\(text(median(rates.map(\.without)))) Mpps without a log, "
                    + "\(text(median(rates.map(\.with)))) with one, ratio \(text(ratios[5])) "
                    + "(\(text(ratios[0])) to \(text(ratios[10])))")
        }
    }
}
