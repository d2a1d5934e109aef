import CPlatform
import Control
import Glibc
import Memory
import Ringway
import RingwayLab
import Synchronization
import Testing
import VhostUser
import Virtio

/// The IOMMU of an embedded driver: answers misses on a thread of its own, a page at a time, as it is allowed.
/// From `init` on that thread has the front-end; others ask here.
private final class VirtualIOMMU: Sendable {
    /// What the device may do on a page, whatever it wants to; nil leaves the miss without an answer.
    typealias Policy = @Sendable (_ page: UInt64, _ wanted: IOTLBAccess) -> IOTLBAccess?

    /// Its front-end is used with the lock held: one message at a time.
    private let driver: Locked<EmbeddedDriver>
    /// In a box: a closure that is a lock's own value is wrapped once more by each access to it.
    private struct Rule { var policy: Policy }
    private let rule: Locked<Rule>
    private let isEnded = Atomic(false)
    private let misses = Atomic(0)
    private let failures = Atomic(0)
    private nonisolated(unsafe) var thread: NamedThread?

    static let everything: Policy = { _, _ in [.read, .write] }

    init(_ driver: EmbeddedDriver, _ policy: @escaping Policy = VirtualIOMMU.everything) throws {
        self.driver = Locked(driver)
        rule = Locked(Rule(policy: policy))
        let channel = try #require(driver.channel)
        nonisolated(unsafe) let socket = channel
        thread = try NamedThread("iommu") { [self] in
            while !isEnded.load(ordering: .relaxed) {
                do {
                    guard let message = try socket.receive() else {
                        usleep(50)
                        continue
                    }
                    try answer(message)
                } catch {
                    failures.add(1, ordering: .relaxed)
                    return
                }
            }
        }
    }

    /// Ends the thread, which keeps this object; returns how often it could not go on.
    @discardableResult
    func end() -> Int {
        isEnded.store(true, ordering: .relaxed)
        thread?.join()
        thread = nil
        return failures.load(ordering: .relaxed)
    }

    var missCount: Int { misses.load(ordering: .relaxed) }

    func allow(_ policy: @escaping Policy) { rule.withLock { $0.policy = policy } }

    private func answer(_ message: Message) throws {
        guard message.request == BackEndRequest.iotlbMsg.rawValue, message.payload.count == 32 else {
            throw EngineError("no miss")
        }
        let page = message.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) } & ~4095
        let wanted = IOTLBAccess(rawValue: message.payload[24])
        misses.add(1, ordering: .relaxed)
        if let access = rule.withLock({ $0.policy })(page, wanted) { try update(page, 4096, access) }
    }

    func update(_ address: UInt64, _ size: UInt64, _ access: IOTLBAccess) throws {
        try tell(address, size, [access.rawValue, 2])
    }

    /// In force when it returns.
    func invalidate(_ address: UInt64, _ size: UInt64) throws { try tell(address, size, [0, 3]) }

    private func tell(_ address: UInt64, _ size: UInt64, _ kind: [UInt8]) throws {
        var payload = Payload(address)
        payload.add64(size)
        payload.add64(address)
        payload.add(kind + [UInt8](repeating: 0, count: 6))
        try withFrontEnd { try $0.tell(.iotlbMsg, payload) }
    }

    func withFrontEnd(_ body: (FrontEnd) throws -> Void) throws {
        try driver.withLock { try body($0.frontEnd) }
    }
}

/// Guests behind an IOMMU, with the content of every frame looked at.
@Suite(.serialized) struct IOMMUTests {
    typealias Format = MigrationTests.Format

    /// The driver at port 0 is behind an IOMMU, the one at port 1 is not.
    private struct Two {
        let lab: Lab
        let a, b: EmbeddedDriver
        let iommu: VirtualIOMMU

        init(
            _ format: Format, threads: Int = 1, room: Int = 2048, control: Bool = false,
            _ policy: @escaping VirtualIOMMU.Policy = VirtualIOMMU.everything
        ) throws {
            lab = try Lab(ports: 2, .crossconnect, unpinned: threads)
            a = try lab.driver(0) {
                format.set(&$0, room: room)
                ($0.hasIOMMU, $0.hasControl) = (true, control)
            }
            iommu = try VirtualIOMMU(a, policy)
            b = try lab.driver(1) { format.set(&$0) }
            // Its rings start when its IOMMU has told of them; before, what is sent to it is dropped.
            let (a, b) = (a, b)
            var sent: UInt64 = 0
            try #require(
                eventually {
                    if !b.send(Frame.numbered(1)) { return false }
                    sent += 1
                    return !a.receive(1, within: 20).isEmpty
                })
            // One that was late may still come: all have to have got somewhere.
            let lab = lab
            try #require(
                eventually {
                    let ports = lab.engine.snapshot()
                    return ports[0].tx.packets + ports.flatMap(\.drops).reduce(0) { $0 + $1.count } == sent
                })
            while !a.receive(1, within: 20).isEmpty {}
            try #require(a.send(Frame.numbered(1)) && !b.receive(1).isEmpty)
        }

        /// The first page of its buffers: rings lie before it.
        var buffers: UInt64 {
            let ends = [a.pairs[0].receive.deviceSetup(), a.pairs[0].transmit.deviceSetup()].flatMap { setup in
                let (size, at, isPacked) = (setup.size, setup.addresses, setup.isPacked)
                return [
                    at.descriptors + UInt64(RingLayout.descriptorBytes(size)),
                    at.driverArea + UInt64(RingLayout.driverAreaBytes(size, isPacked: isPacked)),
                    at.deviceArea + UInt64(RingLayout.deviceAreaBytes(size, isPacked: isPacked)),
                ]
            }
            return (ends.max()! + 4095) & ~4095
        }

        /// Both ways. What is sent waits for its pages, and all of it has to come as it was. What comes for a ring
        /// that waits for its pages is dropped, as where there are no buffers: of that, each frame that came has to be
        /// one of those sent, in their order.
        func exchange(_ count: Int, first: Int, all: Bool = false) -> Bool {
            let frames = Frame.numbered(count, first: first)
            let isTaken = a.send(frames)
            let there = b.receive(count, within: 20_000).map(\.frame)
            if !isTaken || there != frames { return report("sent \(isTaken), came \(there.count)") }
            if !b.send(frames) || !b.settle() { return report("the other end's are not taken") }
            let got = a.receive(count, within: all ? 2000 : 50).map(\.frame)
            if all { return got == frames || report("received \(got.count)") }
            var rest = frames[...]
            for frame in got {
                guard let place = rest.firstIndex(of: frame) else { return report("a frame that was not sent") }
                rest = rest[(place + 1)...]
            }
            return true
        }

        private func report(_ what: String) -> Bool {
            Issue.record("\(what); \(lab.engine.snapshot())")
            return false
        }

        /// All that the driver has.
        func mapEverything() throws {
            try iommu.update(UInt64(UInt(bitPattern: a.memory.base)), UInt64(a.memory.size), [.read, .write])
        }

        func end() {
            #expect(iommu.end() == 0)
            lab.engine.stop()
        }
    }

    private static func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) }

    @Test("frames are whole both ways, whatever pages their buffers and rings lie on", arguments: Format.all, [1, 3])
    func content(_ format: Format, threads: Int) throws {
        let two = try Two(format, threads: threads, room: 8192)
        for round in 0..<rounds(12, least: 4) {
            let isRight = two.exchange(100, first: 100 * round)
            #expect(isRight, "round \(round)")
        }
        // Each page was asked for, and once it was known, not again.
        let (pages, misses) = (two.a.memory.size / 4096, two.iommu.missCount)
        #expect(misses > 100 && misses <= 2 * pages)
        try two.mapEverything()
        let isWhole = two.exchange(100, first: 0, all: true) && two.exchange(100, first: 7, all: true)
        #expect(isWhole)
        // But for what was on its way.
        #expect(two.iommu.missCount <= misses + 128)
        two.end()
    }

    @Test(
        "pages are taken away at random under traffic: what is sent comes, and nothing comes that was not sent",
        arguments: Format.all, [1, 3])
    func unmapped(_ format: Format, threads: Int) throws {
        let two = try Two(format, threads: threads)
        let iommu = two.iommu
        // A transmit ring that is taken away stops, and what it was about to send waits longer: buffers alone.
        let base = two.buffers
        let pages = (Self.address(two.a.memory.base) + UInt64(two.a.memory.size) - base) >> 12
        let (isOver, count) = (Holder(Atomic(false)), Holder(Atomic(0)))
        let attacker = try NamedThread("unmap") {
            var seed = SystemRandomNumberGenerator()
            while !isOver.value.load(ordering: .relaxed) {
                let first = UInt64.random(in: 0..<pages, using: &seed)
                let size = UInt64.random(in: 1...8, using: &seed)
                // Now and then everything, rings included.
                let isAll = UInt8.random(in: 0..<32, using: &seed) == 0
                do {
                    if isAll {
                        try iommu.invalidate(0, 0)
                    } else {
                        try iommu.invalidate(base + first << 12, size << 12)
                    }
                } catch { return }
                count.value.add(1, ordering: .relaxed)
                // So that those who map have their turn, too, however many share a CPU.
                let (misses, end) = (iommu.missCount, CPlat_monotonic_ns() + 5_000_000)
                while iommu.missCount < misses + 40 && CPlat_monotonic_ns() < end { usleep(100) }
            }
        }
        // Until both have had their share.
        var round = 0
        while round < rounds(12, least: 4) || count.value.load(ordering: .relaxed) < 20 && round < 10_000 {
            let isRight = two.exchange(60, first: 60 * round)
            #expect(isRight, "round \(round)")
            round += 1
        }
        isOver.value.store(true, ordering: .relaxed)
        attacker.join()
        #expect(count.value.load(ordering: .relaxed) >= 20)
        try two.mapEverything()
        let isWhole = two.exchange(60, first: 0, all: true)
        #expect(isWhole)
        two.end()
    }

    @Test("what was taken away is not written any more once that is answered", arguments: Format.all)
    func inForce(_ format: Format) throws {
        let two = try Two(format)
        try two.mapEverything()
        let (base, size) = (two.buffers, Self.address(two.a.memory.base) + UInt64(two.a.memory.size) - two.buffers)
        for round in 0..<rounds(6, least: 2) {
            // Under way when their pages are taken away: some of these are in memory before the answer, none after it.
            let frames = Frame.numbered(100, first: 100 * round)
            #expect(two.b.send(frames))
            two.iommu.allow { _, _ in nil }
            try two.iommu.invalidate(base, size)
            let before = two.a.pages
            #expect(two.b.send(Frame.numbered(20, first: 7000)) && two.b.settle())
            // Rings may be written, buffers not.
            let rings = Int(base - Self.address(two.a.memory.base)) / 4096
            let isSame = two.a.pages[rings...] == before[rings...]
            #expect(isSame)
            two.iommu.allow(VirtualIOMMU.everything)
            // As a driver does that maps its memory again: nobody asks a second time by himself.
            try two.mapEverything()
            let got = two.a.receive(120, within: 50).map(\.frame)
            #expect(got.count <= 120)
            let isWhole = two.exchange(60, first: 0, all: true)
            #expect(isWhole, "round \(round)")
        }
        two.end()
    }

    @Test("buffers to be read may not be written, and the other way round", arguments: Format.all)
    func onlyRead(_ format: Format) throws {
        let two = try Two(format)
        try two.mapEverything()
        let isWhole = two.exchange(40, first: 0, all: true)
        #expect(isWhole)
        let (base, size) = (two.buffers, Self.address(two.a.memory.base) + UInt64(two.a.memory.size) - two.buffers)
        let asked = Holder(Atomic(0))
        two.iommu.allow { _, wanted in
            asked.value.add(wanted == .write ? 1 : 1000, ordering: .relaxed)
            return nil
        }
        let rings = Int(base - Self.address(two.a.memory.base)) / 4096
        let before = two.a.pages
        // Where the frames of b go is for reading alone now.
        try two.iommu.update(base, size, .read)
        #expect(two.b.send(Frame.numbered(20)) && two.b.settle())
        let isAsked = eventually { asked.value.load(ordering: .relaxed) > 0 }
        #expect(isAsked && asked.value.load(ordering: .relaxed) < 1000)
        let isSame = two.a.pages[rings...] == before[rings...]
        #expect(isSame)
        // And for writing alone.
        try two.iommu.update(base, size, .write)
        #expect(two.b.send(Frame.numbered(20)))
        let got = two.a.receive(20).map(\.frame)
        #expect(got == Frame.numbered(20))
        two.iommu.allow { _, wanted in wanted == .read ? nil : wanted }
        two.a.send(Frame.numbered(20))
        #expect(two.b.receive(1, within: 50).isEmpty)
        try two.iommu.update(base, size, .read)
        let sent = two.b.receive(20).map(\.frame)
        #expect(sent == Frame.numbered(20))
        two.end()
    }

    @Test("a front-end that answers no miss harms nobody, and goes like any other", arguments: [false, true])
    func noAnswer(isPacked: Bool) throws {
        let lab = try Lab(ports: 4, .switch)
        let (c, d) = (try lab.driver(2), try lab.driver(3))
        for round in 0..<3 {
            let silent = try lab.driver(0) { ($0.isPacked, $0.hasIOMMU) = (isPacked, true) }
            let iommu = try VirtualIOMMU(silent) { _, _ in nil }
            let peer = try lab.driver(1)
            // Flooded, to the silent one, too; then the switch knows where c and d are.
            let flood = Frame.numbered(10, to: Frame.broadcast, from: Frame.mac(9))
            #expect(peer.send(flood) && d.receive(10).count == 10 && c.receive(10).count == 10)
            #expect(d.send(Frame.numbered(1, to: Frame.broadcast, from: Frame.mac(4))) && c.receive(1).count == 1)
            let frames = Frame.numbered(60, first: 60 * round, to: Frame.mac(4), from: Frame.mac(3))
            let isWhole = c.send(frames) && d.receive(60).map(\.frame) == frames
            #expect(isWhole)
            #expect(silent.receive(1, within: 20).isEmpty)
            #expect(iommu.end() == 0)
        }
        lab.engine.stop()
    }

    @Test("commands of the control queue are carried out behind an IOMMU", arguments: [false, true])
    func control(isPacked: Bool) throws {
        let two = try Two(Format(isPacked: isPacked), control: true)
        #expect(two.a.command(0, 0, [1]) == 0)
        #expect(two.a.command(1, 1, [2, 0, 0, 0, 0, 9]) == 0)
        try two.iommu.invalidate(0, 0)
        #expect(two.a.command(0, 0, [0]) == 0)
        #expect(two.a.command(77, 0, [0]) == 1)
        two.end()
    }

    @Test("what the device writes behind an IOMMU is in the log, at guest physical addresses", arguments: Format.all)
    func logged(_ format: Format) throws {
        let two = try Two(format)
        try two.mapEverything()
        let log = try Log.whole()
        try two.iommu.withFrontEnd { frontEnd in
            try frontEnd.setProtocolFeatures([.mq, .replyAck, .mtu, .logShmFD, .backendReq])
            _ = try frontEnd.ask(.setLogBase, log.payload(), [log.fd])
            let features = frontEnd.features.union(.vhostLogAll)
            try frontEnd.tell(.setFeatures, Payload(features.rawValue))
        }
        let before = two.a.pages
        let frames = Frame.numbered(60, first: 500)
        #expect(two.b.send(frames) && two.b.settle())
        let after = two.a.pages
        let got = two.a.receive(60).map(\.frame)
        #expect(got == frames)
        let changed = before.indices.filter { before[$0] != after[$0] }
        #expect(!changed.isEmpty)
        for page in changed {
            let guest = Self.address(two.a.memory.base + 4096 * page) - EmbeddedDriver.guestDistance
            #expect(log.has(guest), "page \(page)")
            #expect(!log.has(guest + EmbeddedDriver.guestDistance))
        }
        two.end()
    }
}

/// Shared by a test and its threads.
private final class Holder<Value: ~Copyable & Sendable>: Sendable {
    let value: Value
    init(_ value: consuming Value) { self.value = value }
}
