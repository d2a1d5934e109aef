import CPlatform
import Control
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// A device side that gets its rings as any back-end does, over a real socket, and writes into them by hand.
private final class LyingDevice: BackEndDevice, Sendable {
    let features: Features
    let queuePairs = 1
    private let rings = Locked<[Int: Ring]>([:])
    private struct Ring: @unchecked Sendable {
        var setup: RingSetup
        var callFD: Int32
    }

    init(isPacked: Bool) {
        features = isPacked ? [.version1, .mrgRxbuf, .ringPacked] : [.version1, .mrgRxbuf]
    }

    var isRunning: Bool { rings.withLock { $0.count == 2 } }

    func change(_ changes: [RingChange]) -> [RingPosition?] {
        changes.map { change in
            rings.withLock { rings in
                switch change.what {
                case .start(let start): rings[change.ring] = Ring(setup: start.setup, callFD: start.callFD)
                case .move(let setup): rings[change.ring]?.setup = setup
                case .update(_, _, let callFD, _): rings[change.ring]?.callFD = callFD
                case .stop: rings[change.ring] = nil
                }
                return RingPosition()
            }
        }
    }

    /// Writes used entry `slot` of a ring; split: shows `index` entries, or all so far.
    func use(_ ring: Int, slot: Int = 0, id: UInt32, length: UInt32 = 76, index: UInt16? = nil) {
        rings.withLock { rings in
            guard let r = rings[ring] else { return }
            if r.setup.isPacked {
                // AVAIL and USED as in the first lap; WRITE, where the length counts.
                let word = UInt64(length) | UInt64(id & 0xffff) << 32 | (ring == 0 ? 0x8082 : 0x8080) << 48
                CPlat_store64_release(r.setup.descriptors + 16 * slot + 8, word)
            } else {
                let entry = r.setup.deviceArea + 4 + 8 * slot
                entry.storeBytes(of: id, as: UInt32.self)
                (entry + 4).storeBytes(of: length, as: UInt32.self)
                CPlat_store16_release(r.setup.deviceArea + 2, index ?? UInt16(slot + 1))
            }
            EventFD.signal(r.callFD)
        }
    }

    /// Chains that the driver has made available.
    func available(_ ring: Int) -> Int {
        rings.withLock { rings in
            guard let r = rings[ring] else { return 0 }
            if !r.setup.isPacked { return Int(CPlat_load16_acquire(r.setup.driverArea + 2)) }
            return (0..<Int(r.setup.size)).filter {
                CPlat_load16_acquire(r.setup.descriptors + 16 * $0 + 14) & 0x8080 == 0x80
            }.count
        }
    }

    func readConfiguration(offset: Int, size: Int) -> [UInt8]? { [UInt8](repeating: 0, count: size) }
    func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool { false }
    func featuresAcknowledged(_ features: Features) {}
    func memoryChanged(_ map: MemoryMap) {}
    func setMTU(_ mtu: UInt16) -> Bool { true }
    func sendRARP(mac: [UInt8]) {}
    func statusChanged(_ status: UInt8) {}
    func connected(_ isConnected: Bool) {}
}

/// Back-ends that lie to a port on the driver's side, with two healthy ports on the same poll thread.
@Suite(.serialized) struct HostileBackEndTests {
    struct Lie: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let kinds: [String]
        let formats: [Bool]
        fileprivate let tell: @Sendable (LyingDevice) -> Void

        fileprivate init(
            _ name: String, _ kinds: [String], formats: [Bool] = [false, true],
            _ tell: @escaping @Sendable (LyingDevice) -> Void
        ) { (testDescription, self.kinds, self.formats, self.tell) = (name, kinds, formats, tell) }
    }

    private static let ids = ["usedID", "bufferID"]
    static let lies: [Lie] = [
        Lie("an id beyond the ring", ids) { $0.use(0, id: 16) },
        Lie("id 65535", ids) { $0.use(0, id: 65535) },
        Lie("an id of 17 bits", ids, formats: [false]) { $0.use(0, id: 1 << 16) },
        Lie("an id twice", ids) { device in
            // The second is there before the first is seen.
            device.use(0, slot: 1, id: 3, index: 0)
            device.use(0, slot: 0, id: 3, index: 2)
        },
        Lie("a length beyond the buffer", ["usedLength"]) { $0.use(0, id: 0, length: 70_000) },
        Lie("a length of 4 GiB", ["usedLength"]) { $0.use(0, id: 0, length: .max) },
        Lie("an index 17 ahead", ["usedIndexJump"], formats: [false]) { $0.use(0, id: 0, index: 17) },
        Lie("an index behind", ["usedIndexJump"], formats: [false]) { $0.use(0, id: 0, index: 65535) },
        Lie("a transmit buffer beyond the ring", ids) { $0.use(1, id: 16, length: 0) },
        Lie("more transmit buffers than there are", ["usedIndexJump"], formats: [false]) {
            $0.use(1, id: 0, length: 0, index: 100)
        },
    ]
    struct Case: Sendable, CustomTestStringConvertible {
        let lie: Lie
        let isPacked: Bool
        var testDescription: String { "\(lie.testDescription), \(isPacked ? "packed" : "split")" }
    }
    static let cases = lies.flatMap { lie in lie.formats.map { Case(lie: lie, isPacked: $0) } }

    @Test("what a back-end tells of used buffers is checked: a lie stops that queue and nothing else", arguments: cases)
    func used(_ c: Case) throws {
        let path = "/tmp/ringway-liar-\(getpid()).sock"
        var port = PortOptions(.virtioUser(path: path, isServer: false, tap: nil))
        (port.ringSize, port.wantsPacked) = (16, c.isPacked)
        let lab = try Lab(ports: 3, more: [port]) { _ in Neighbours() }
        let healthy = try HealthyPorts(lab, 0, isPacked: c.isPacked)
        let peer = try lab.driver(2)
        let device = LyingDevice(isPacked: c.isPacked)
        let server = BackEndServer(path: path, isClient: false, device: device) { _ in }
        try server.start()
        defer { server.stop() }
        try #require(eventually { lab.engine.snapshot()[3].isConnected && device.available(0) == 16 })
        // What is sent makes the port look at its transmit ring, when that is full.
        #expect(peer.send(Frame.numbered(16)))
        try #require(eventually { device.available(1) == 16 })
        c.lie.tell(device)
        let isStopped = eventually {
            _ = peer.send(Frame.numbered(1))
            peer.pairs[0].reclaim()
            return !lab.engine.snapshot()[3].stoppedQueues.isEmpty
        }
        let stops = lab.engine.snapshot()[3].stoppedQueues
        #expect(isStopped && stops.allSatisfy { c.lie.kinds.contains($0.cause) && $0.count == 1 }, "\(stops)")
        #expect(peer.settle(), "its sender's buffers come back")
        #expect(healthy.goOn(), "\(healthy.failure ?? "no round for ten seconds")")
        healthy.end()
        #expect(healthy.failure == nil)
        // The next back-end finds the rings as new.
        server.stop()
        let next = LyingDevice(isPacked: c.isPacked)
        let honest = BackEndServer(path: path, isClient: false, device: next) { _ in }
        try honest.start()
        defer { honest.stop() }
        #expect(eventually { next.isRunning && next.available(0) == 16 })
    }
}
