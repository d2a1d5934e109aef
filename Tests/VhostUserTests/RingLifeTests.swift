import CPlatform
import Glibc
import Memory
import Testing
import VhostUser
import Virtio

/// Where the life of a ring begins and ends, message by message.
@Suite(.serialized) struct RingLifeTests {
    private static func orders(_ left: [Request]) -> [[Request]] {
        left.isEmpty
            ? [[]]
            : left.indices.flatMap { i in
                var rest = left
                let one = rest.remove(at: i)
                return orders(rest).map { [one] + $0 }
            }
    }

    /// Ring 0 in the peer's second 4 KiB.
    private func say(_ request: Request, _ p: Peer, base: UInt32, size: UInt32 = 16) throws {
        switch request {
        case .setVringNum: try p.frontEnd.tell(request, Payload(index: 0, size))
        case .setVringBase: try p.frontEnd.tell(request, Payload(index: 0, base))
        case .setVringKick: try p.frontEnd.tell(request, Payload(UInt64(0)), [eventfd()])
        case .setVringCall: try p.frontEnd.tell(request, Payload(UInt64(0)), [eventfd()])
        default: try p.frontEnd.tell(.setVringAddr, address(p.base + 4096))
        }
    }

    private func address(_ at: UInt64) -> Payload {
        var payload = Payload(index: 0, 0)
        for v in [at, at + 2048, at + 1024, 0] { payload.add64(v) }
        return payload
    }

    @Test(
        "after GET_VRING_BASE NUM, BASE, ADDR and KICK work in any order, and the last of them starts the ring",
        arguments: [false, true])
    func anyOrder(isPacked: Bool) throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck], packed: isPacked)
        try p.start(0, base: isPacked ? 0x8003_8003 : 3)
        for order in RingLifeTests.orders([.setVringNum, .setVringBase, .setVringAddr, .setVringKick]) {
            _ = try p.frontEnd.stopRing(0)
            for (n, request) in order.enumerated() {
                #expect(f.device.running == [], "\(order): before its message \(n)")
                try say(request, p, base: isPacked ? 0x8005_8005 : 5)
            }
            let ring = try #require(f.device.ring(0), "\(order)")
            #expect(ring.setup.position.available == 5 && ring.setup.size == 16)
            #expect(
                ring.setup.descriptors != p.memory.base && ring.callFD == -1,
                "the call descriptor was the earlier life's")
        }
    }

    @Test("KICK before ADDR after GET_VRING_BASE leaves the old ring's memory alone", arguments: [false, true])
    func oldMemory(isPacked: Bool) throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck], packed: isPacked)
        try p.start(0, base: isPacked ? 0x8000_8000 : 0)
        _ = try p.frontEnd.stopRing(0)
        for request: Request in [.setVringCall, .setVringNum, .setVringBase, .setVringKick] {
            try say(request, p, base: 0)
        }
        #expect(f.device.running == [], "the ring's addresses were the earlier life's")
        try say(.setVringAddr, p, base: 0)
        #expect(f.device.running == [0] && (f.device.ring(0)?.callFD ?? -1) >= 0)
    }

    @Test(
        """
        a memory table with other user addresses is taken; the ring waits for SET_VRING_ADDR and goes on where it \
        stood
        """,
        arguments: [false, true])
    func movedMemory(isPacked: Bool) throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck], packed: isPacked)
        try p.start(0, base: isPacked ? 0x8001_8001 : 1)
        var region = p.memory.region
        region.userAddress += 1 << 40
        try p.frontEnd.share(region, p.memory.descriptor)
        #expect(f.device.running == [])
        try p.frontEnd.tell(.setVringAddr, address(region.userAddress))
        let ring = try #require(f.device.ring(0))
        // The recording device goes three further before each stop.
        #expect(ring.setup.position.available == 4 && ring.enabled && ring.callFD >= 0 && ring.kickFD >= 0)
    }

    @Test("a refused message changes nothing: a table, a size, addresses, a base, a feature")
    func refused() throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck])
        try p.start(0, base: 1)
        let before = f.device.events
        var table = Payload()
        for v: UInt32 in [2, 0] { table.add32(v) }
        var far = p.memory.region
        far.offset = 1 << 40
        table.add(p.memory.region)
        table.add(far)
        #expect(throws: VhostUserError.self) {
            try p.frontEnd.tell(.setMemTable, table, [p.memory.descriptor, p.memory.descriptor])
        }
        #expect(throws: VhostUserError.self) { try p.frontEnd.tell(.setFeatures, Payload(UInt64.max)) }
        #expect(throws: VhostUserError.self) { try p.frontEnd.tell(.setVringNum, Payload(index: 0, 8)) }
        #expect(throws: VhostUserError.self) { try p.frontEnd.tell(.setVringBase, Payload(index: 0, 8)) }
        #expect(throws: VhostUserError.self) { try p.frontEnd.tell(.setVringAddr, address(0x10)) }
        #expect(f.device.events == before && f.device.running == [0])
        // A size that is none of a split ring, as the last part that the ring needs: the next one is taken.
        _ = try p.frontEnd.stopRing(0)
        for request: Request in [.setVringKick, .setVringAddr, .setVringBase] { try say(request, p, base: 0) }
        #expect(throws: VhostUserError.self) { try say(.setVringNum, p, base: 0, size: 12) }
        #expect(f.device.running == [])
        try say(.setVringNum, p, base: 0)
        #expect(f.device.running == [0])
    }

    @Test(
        """
        GET_VRING_BASE after a status of 0, as QEMU 7.2 sends it, answers where the ring stood; after RESET_DEVICE \
        the beginning
        """,
        arguments: [false, true])
    func baseAfterStatus(isPacked: Bool) throws {
        let f = try Fixture()
        let p = try f.ready([.mq, .replyAck, .status, .resetDevice], packed: isPacked)
        let (first, stood): (UInt32, UInt32) = isPacked ? (0x8002_8002, 0x8005_8005) : (2, 5)
        for resets in 1...2 {
            try p.start(0, base: first)
            for _ in 0..<resets { try p.frontEnd.tell(.setStatus, Payload(0)) }
            #expect(f.device.running == [])
            for _ in 0..<2 { #expect(try p.frontEnd.stopRing(0) == stood) }
        }
        try p.start(0, base: first)
        try p.frontEnd.tell(.resetDevice)
        #expect(try p.frontEnd.stopRing(0) == 0)
        // A base that was told after the reset is the one that counts.
        try p.start(0, base: first)
        try p.frontEnd.tell(.setStatus, Payload(0))
        try say(.setVringBase, p, base: first)
        #expect(try p.frontEnd.stopRing(0) == first)
    }
}
