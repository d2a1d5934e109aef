import CPlatform
import Control
import Foundation
import Glibc
import Memory
import Ringway
import RingwayLab
import Synchronization
import Testing
import VhostUser
import Virtio

/// Engines that follow each other under traffic: rings are held and go on, here or in another engine.
@Suite(.serialized) struct HandoverTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var isPacked = false
        var isInOrder = false
        var threads = 1
        var keepsInflight = false
        var hasIOMMU = false
        var isLogging = false

        var testDescription: String {
            var words = [isPacked ? "packed" : "split", "\(threads) threads"]
            for (word, isSo) in [
                ("in order", isInOrder), ("inflight region", keepsInflight), ("IOMMU", hasIOMMU), ("log", isLogging),
            ] where isSo { words.append(word) }
            return words.joined(separator: ", ")
        }

        static let all: [Case] =
            [false, true].flatMap { packed in
                [
                    Case(isPacked: packed, threads: 1), Case(isPacked: packed, isInOrder: true, threads: 2),
                    Case(isPacked: packed, threads: 3), Case(isPacked: packed, threads: 2, keepsInflight: true),
                    Case(isPacked: packed, threads: 1, hasIOMMU: true),
                    Case(isPacked: packed, threads: 2, isLogging: true),
                ]
            }
    }

    /// Two drivers with two queue pairs each, whose frames go both ways while engines change.
    private final class Bench {
        let lab: Lab
        let drivers: [EmbeddedDriver]
        let pairs = 2
        private var next = 0

        init(_ c: Case, _ mode: ForwardingMode = .crossconnect) throws {
            let lab = try Lab(ports: 2, mode, pairs: [2, 2], unpinned: c.threads)
            self.lab = lab
            drivers = try (0..<2).map { port in
                let driver = try lab.driver(port) {
                    ($0.isPacked, $0.isInOrder, $0.keepsInflight) = (c.isPacked, c.isInOrder, c.keepsInflight)
                    ($0.hasIOMMU, $0.hasControl, $0.queuePairs) = (c.hasIOMMU, true, 2)
                }
                if c.hasIOMMU { try driver.tellAll() }
                #expect(driver.command(4, 0, [2, 0]) == 0)
                return driver
            }
            if c.isLogging { for driver in drivers { try driver.log() } }
        }

        /// A batch each way on each pair; every byte of it arrives, in order.
        func exchange() {
            for pair in 0..<pairs {
                for (from, to) in [(0, 1), (1, 0)] {
                    let frames = Frame.numbered(
                        100, first: next, to: Frame.mac(UInt8(to)), from: Frame.mac(UInt8(from)))
                    next += 100
                    #expect(drivers[from].send(frames, pair: pair))
                    let got = drivers[to].receive(100, pair: pair).map(\.frame)
                    let isWhole = got == frames
                    #expect(isWhole, "\(got.count) frames of pair \(pair) to \(to)")
                    if !isWhole { return }
                }
            }
        }

        /// Frames go until `work`, which runs on another thread, has ended.
        func exchange(during work: @escaping () throws -> Void) throws {
            let end = End()
            let thread = try NamedThread("test-mover") {
                do { try work() } catch { end.error = error }
                end.isReached.store(true, ordering: .releasing)
            }
            while !end.isReached.load(ordering: .acquiring) { exchange() }
            thread.join()
            if let error = end.error { throw error }
            for _ in 0..<3 { exchange() }
            for port in 0..<2 { for pair in 0..<pairs { #expect(drivers[port].settle(pair: pair)) } }
        }

        private final class End {
            let isReached = Atomic(false)
            var error: (any Error)?
        }
    }

    @Test("rings are held and go on where they stand, under traffic", arguments: Case.all)
    func held(_ c: Case) throws {
        let b = try Bench(c)
        let engine = b.lab.engine
        try b.exchange {
            for _ in 0..<rounds(100, least: 10) {
                let handover = try EngineHandover(engine)
                _ = handover.stop()
                handover.resume()
            }
        }
        #expect(engine.snapshot().allSatisfy { $0.drops.isEmpty })
        #expect(b.drivers.allSatisfy { $0.command(0, 0, [1]) == 0 })
        withExtendedLifetime(b) {}
    }

    @Test("a handover that ends before rings were stopped leaves everything as it was")
    func resumedAtOnce() throws {
        let b = try Bench(Case())
        let engine = b.lab.engine
        try b.exchange { for _ in 0..<20 { try EngineHandover(engine).resume() } }
        #expect(b.drivers.allSatisfy { $0.command(0, 0, [1]) == 0 })
    }

    /// What one engine tells the next, as it goes from one process to another.
    private static func sent<T: Codable>(_ value: T) throws -> T {
        let list = DescriptorList()
        let encoder = JSONEncoder()
        encoder.userInfo[DescriptorList.key] = list
        let data = try encoder.encode(value)
        let decoder = JSONDecoder()
        decoder.userInfo[DescriptorList.key] = DescriptorList(
            try list.all.map { try OwnedDescriptor(copyOf: $0.fd) })
        return try decoder.decode(T.self, from: data)
    }

    /// The engine that takes over.
    static func move(_ old: Engine) throws -> Engine {
        let handover = try EngineHandover(old)
        let new = try Engine(old.options, logger: Lab.logger)
        let takeover = try EngineTakeover(new, try sent(handover.state))
        try takeover.check(try sent(handover.stop()))
        takeover.go()
        handover.closeOthers()
        takeover.count(try sent(handover.counters))
        takeover.openOthers()
        handover.leave()
        old.stop()
        return new
    }

    @Test("engines follow each other under traffic; nothing is lost, doubled or reordered", arguments: Case.all)
    func moved(_ c: Case) throws {
        let b = try Bench(c)
        var engines = [b.lab.engine]
        try b.exchange {
            for _ in 0..<rounds(20, least: 5) { engines.append(try HandoverTests.move(engines[engines.count - 1])) }
        }
        let last = engines[engines.count - 1]
        defer { last.stop() }
        let ports = last.snapshot()
        #expect(ports.allSatisfy { $0.drops.isEmpty && $0.isConnected })
        // Counted on, over all engines.
        #expect(ports[0].rx.packets == ports[1].tx.packets && ports[0].rx.packets == ports[1].rx.packets)
        #expect(b.drivers.allSatisfy { $0.command(0, 0, [1]) == 0 })
        // The front-end speaks to the last one, and another one can come.
        #expect(try b.drivers[0].frontEnd.ask64(.getQueueNum) == 2)
        let paths = b.lab.paths
        #expect(paths.allSatisfy { access($0, F_OK) == 0 })
        withExtendedLifetime(b) {}
    }

    @Test("an engine that could not take over leaves the old one as it was, before and after rings have stopped")
    func failed() throws {
        let b = try Bench(Case(isInOrder: true, threads: 2))
        let engine = b.lab.engine
        try b.exchange {
            for round in 0..<rounds(20, least: 4) {
                let handover = try EngineHandover(engine)
                let takeover = try EngineTakeover(
                    try Engine(engine.options, logger: Lab.logger), try HandoverTests.sent(handover.state))
                if round % 2 == 0 { try takeover.check(try HandoverTests.sent(handover.stop())) }
                takeover.leave()
                handover.resume()
            }
        }
        #expect(engine.snapshot().allSatisfy { $0.drops.isEmpty && $0.isConnected })
        #expect(b.drivers.allSatisfy { $0.command(0, 0, [1]) == 0 })
    }

    @Test(
        "a driver's command waits while the old engine may still go on: carried out once, by the one that has its rings"
    )
    func command() throws {
        let b = try Bench(Case())
        let (old, driver) = (b.lab.engine, b.drivers[0])
        let handover = try EngineHandover(old)
        let new = try Engine(old.options, logger: Lab.logger)
        defer { new.stop() }
        let takeover = try EngineTakeover(new, try HandoverTests.sent(handover.state))
        let answer = Locked<UInt8?>(nil)
        let thread = try NamedThread("test-driver") {
            let code = driver.command(4, 0, [1, 0])
            answer.withLock { $0 = code }
        }
        try takeover.check(try HandoverTests.sent(handover.stop()))
        // So that it lies in the ring, and would be seen to be answered.
        usleep(100_000)
        takeover.go { _ in
            usleep(50_000)
            #expect(answer.value == nil)
        }
        handover.leave()
        old.stop()
        thread.join()
        #expect(answer.value == 0)
        #expect(driver.command(4, 0, [2, 0]) == 0)
        b.exchange()
    }

    @Test("nothing stays behind of engines that went or could not come: descriptors, mappings")
    func leftovers() throws {
        let b = try Bench(Case(keepsInflight: true))
        func descriptors() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count }
        var engine = b.lab.engine
        func round() throws {
            let next = try HandoverTests.move(engine)
            engine = next
            let handover = try EngineHandover(engine)
            try EngineTakeover(try Engine(engine.options, logger: Lab.logger), try HandoverTests.sent(handover.state))
                .leave()
            handover.resume()
            b.exchange()
        }
        try round()
        let before = try descriptors()
        for _ in 0..<5 { try round() }
        #expect(eventually { (try? descriptors()) == before })
        engine.stop()
    }

    @Test("what a driver and a switch were told is known: addresses, MAC, pairs, a port that is down")
    func known() throws {
        let b = try Bench(Case(), .switch)
        let (x, y) = (b.drivers[0], b.drivers[1])
        for (i, driver) in b.drivers.enumerated() {
            driver.send([Frame.ethernet(to: Frame.broadcast, from: Frame.mac(UInt8(i)), Array(repeating: 0, count: 50))]
            )
        }
        #expect(x.receive(1).count == 1 && y.receive(1).count == 1)
        #expect(x.command(1, 1, [2, 0, 0, 0, 0x77, 1]) == 0)
        let old = b.lab.engine
        try old.setUp(false, port: b.lab.paths[1])
        let addresses = old.macTable()
        #expect(addresses.count == 2)
        let new = try HandoverTests.move(old)
        defer { new.stop() }
        #expect(new.macTable().map(\.mac) == addresses.map(\.mac))
        #expect(new.snapshot().map(\.isUp) == [true, false])
        y.send(Frame.numbered(10, to: Frame.mac(0)))
        #expect(y.settle())
        #expect(x.receive(1, within: 100).isEmpty)
        try new.setUp(true, port: b.lab.paths[1])
        y.send(Frame.numbered(10, to: Frame.mac(0)))
        #expect(x.receive(10).count == 10)
        #expect(x.command(1, 1, [2, 0, 0, 0, 0x77, 2]) == 0)
    }

    @Test("a message that was half sent is read to its end by the next engine; one who waits still waits")
    func halfMessage() throws {
        let b = try Bench(Case())
        let waiting = try MessageSocket.connect(to: b.lab.paths[0])
        let half = Message(Request.getFeatures.rawValue, payload: [])
        let bytes = half.encoded
        #expect(b.lab.engine.snapshot()[0].isConnected)
        #expect(CPlat_send_fds(waiting.fd, bytes, 5, 0, nil, 0) == 5)
        let new = try HandoverTests.move(b.lab.engine)
        defer { new.stop() }
        // The front-end goes; the other one is next.
        b.drivers[0].frontEnd.close()
        #expect(bytes.dropFirst(5).withUnsafeBytes { send(waiting.fd, $0.baseAddress, $0.count, 0) } == bytes.count - 5)
        #expect(try waiting.receive(within: 5000).request == Request.getFeatures.rawValue)
        withExtendedLifetime(b) {}
    }

    @Test("a guest whose memory was cut off loses its connection, and the others go on in the next engine")
    func truncated() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let healthy = try lab.driver(0)
        let file = OwnedDescriptor(CPlat_memfd("cut", 0, false))
        #expect(ftruncate(file.fd, 1 << 20) == 0)
        let frontEnd = FrontEnd(try MessageSocket.connect(to: lab.paths[1]))
        try frontEnd.negotiate([.version1], [.mq, .replyAck])
        try frontEnd.share(
            RegionDescription(guestAddress: 0, size: 1 << 20, userAddress: 1 << 32, offset: 0), file)
        #expect(lab.engine.snapshot().map(\.isConnected) == [true, true])
        #expect(ftruncate(file.fd, 4096) == 0)
        let new = try HandoverTests.move(lab.engine)
        defer { new.stop() }
        #expect(new.snapshot().map(\.isConnected) == [true, false])
        let next = try lab.driver(1)
        #expect(healthy.send(Frame.numbered(10)))
        #expect(next.receive(10).count == 10)
        withExtendedLifetime(frontEnd) {}
    }

    @Test("two pairs without a control queue: none of their rings is taken for one")
    func noControl() throws {
        let lab = try Lab(ports: 2, .crossconnect, pairs: [2, 2])
        let drivers = try (0..<2).map { try lab.driver($0) { $0.queuePairs = 2 } }
        var engine = lab.engine
        for round in 0..<5 {
            for pair in 0..<2 {
                let frames = Frame.numbered(50, first: round * 50)
                #expect(drivers[0].send(frames, pair: pair))
                let isWhole = drivers[1].receive(50, pair: pair).map(\.frame) == frames
                #expect(isWhole)
            }
            engine = try HandoverTests.move(engine)
        }
        engine.stop()
        withExtendedLifetime(lab) {}
    }

    @Test("a port on a back-end connects again, and its counters go on; one whose back-end is not there waits on")
    func others() throws {
        let far = try Lab(ports: 1, .macswap)
        let lab = try Lab(
            ports: 1, .switch,
            more: [far.paths[0], "/nonexistent"].map { PortOptions(.virtioUser(path: $0, isServer: false, tap: nil)) })
        let driver = try lab.driver(0)
        var engine = lab.engine
        for round in 1...3 {
            #expect(eventually { engine.snapshot()[1].isConnected && far.engine.snapshot()[0].isConnected })
            let frame = Frame.ethernet(to: Frame.mac(1), from: Frame.mac(0), Array(repeating: 7, count: 50))
            #expect(driver.send([frame]))
            let got = driver.receive(1).map(\.frame)
            let isSwapped =
                got == [Frame.ethernet(to: Frame.mac(0), from: Frame.mac(1), Array(repeating: 7, count: 50))]
            #expect(isSwapped, "\(got)")
            engine = try HandoverTests.move(engine)
            #expect(engine.snapshot()[1].rx.packets == UInt64(round))
        }
        engine.stop()
        withExtendedLifetime(lab) {}
    }
}

extension EmbeddedDriver {
    /// The back-end of a driver behind an IOMMU is told of all memory at once.
    fileprivate func tellAll() throws {
        var p = Payload(UInt64(UInt(bitPattern: memory.base)))
        p.add64(UInt64(memory.size))
        p.add64(memory.region.userAddress)
        p.add([IOTLBAccess.read.rawValue | IOTLBAccess.write.rawValue, UInt8(VHOST_IOTLB_UPDATE), 0, 0, 0, 0, 0, 0])
        try frontEnd.tell(.iotlbMsg, p)
    }

    /// It migrates.
    fileprivate func log() throws {
        let fd = OwnedDescriptor(CPlat_memfd("log", 0, false))
        #expect(ftruncate(fd.fd, 1 << 32) == 0)
        var payload = Payload(UInt64(1 << 32))
        payload.add64(0)
        try frontEnd.setProtocolFeatures([.mq, .replyAck, .mtu, .logShmFD])
        _ = try frontEnd.ask(.setLogBase, payload, [fd])
        try frontEnd.tell(.setFeatures, Payload(frontEnd.features.union(.vhostLogAll).rawValue))
    }
}
