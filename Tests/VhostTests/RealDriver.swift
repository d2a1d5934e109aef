import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import Virtio

/// The driver's side of a device with one pair (and a control queue), as plainly as can be.
final class RealDriver {
    let memory: HostMemory
    var queues: OwnedValues<DriverQueue>
    let kicks: [OwnedDescriptor]
    let calls: [OwnedDescriptor]
    private let room: UnsafeMutableRawPointer
    static let size: UInt32 = 64
    private static let ringBytes = 16384

    private let guestAddress: UInt64?

    /// `guestAddress`: of the memory; nil: as in this process.
    init(queues count: Int, features: Features, guestAddress: UInt64? = nil) throws {
        self.guestAddress = guestAddress
        queues = OwnedValues(capacity: count)
        memory = try HostMemory(
            bytes: count * RealDriver.ringBytes + count * 64 * 2048, wantsHugePages: false, name: "ringway-real")
        kicks = (0..<count).map { _ in OwnedDescriptor(CPlat_eventfd(0)) }
        calls = (0..<count).map { _ in OwnedDescriptor(CPlat_eventfd(0)) }
        room = memory.base + count * RealDriver.ringBytes
        let delta = guestAddress.map { $0 &- memory.region.userAddress } ?? 0
        for i in 0..<count {
            queues.add(
                DriverQueue(
                    size: RealDriver.size, isPacked: features.contains(.ringPacked),
                    memory: memory.base + i * RealDriver.ringBytes,
                    features: features, delta: delta))
        }
    }

    var region: VhostRegion {
        var r = VhostRegion(memory)
        if let guestAddress { r.guestAddress = guestAddress }
        return r
    }

    /// Of three queues: the control queue's ring and buffers in address space 1, the rest in 0.
    var isolated: [VhostRegion] {
        let (ring, buffers) = (UInt64(RealDriver.ringBytes), UInt64(64 * 2048))
        func part(_ offset: UInt64, _ size: UInt64, _ space: UInt32) -> VhostRegion {
            var r = region
            (r.guestAddress, r.userAddress, r.offset) = (r.guestAddress + offset, r.userAddress + offset, offset)
            (r.size, r.addressSpace) = (size, space)
            return r
        }
        return [
            part(0, 2 * ring, 0), part(2 * ring, ring, 1), part(3 * ring, 2 * buffers, 0),
            part(3 * ring + 2 * buffers, buffers, 1),
        ]
    }

    /// As they are at the beginning.
    var rings: [VhostRing] {
        (0..<queues.count).map { i in
            func at(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) }
            let q = queues[i].setup
            return VhostRing(
                size: q.size, isPacked: q.isPacked, base: RingPosition().base(isPacked: q.isPacked),
                descriptors: at(q.descriptors), driverArea: at(q.driverArea), deviceArea: at(q.deviceArea),
                kick: kicks[i], call: calls[i])
        }
    }

    /// All rings as at the start, for a device that was stopped.
    func reset() { for i in 0..<queues.count { queues[i].reset() } }

    private func buffer(_ queue: Int, _ i: Int) -> UnsafeMutableRawPointer { room + (queue * 64 + i) * 2048 }

    func kick(_ queue: Int) {
        queues[queue].publish()
        var one: UInt64 = 1
        _ = write(kicks[queue].fd, &one, 8)
    }

    /// Receive buffers. Without a kick they are shown, and nobody is told.
    func post(_ count: Int = 32, kicks: Bool = true) {
        for i in 0..<count {
            var b = DriverBuffer(base: buffer(0, i), length: 2048, token: UInt32(i))
            _ = queues[0].addReceive(&b, 1)
        }
        if kicks { kick(0) } else { queues[0].publish() }
    }

    private func wait(_ queue: Int, _ seconds: Double = 20) -> DriverCompletion? {
        var c = DriverCompletion(token: 0, length: 0)
        let end = CPlat_monotonic_ns() + UInt64(seconds * 1e9)
        while queues[queue].reclaim(into: &c, max: 1) == 0 {
            if CPlat_monotonic_ns() > end || queues[queue].isStopped { return nil }
            usleep(100)
        }
        return c
    }

    /// Sends a frame and waits until the device has taken it.
    func send(_ frame: [UInt8]) -> Bool { put(frame) && wasTaken() }

    /// Hands a frame to the device and does not wait.
    func put(_ frame: [UInt8], kicks: Bool = true) -> Bool {
        RealDriver.store(frame, buffer(1, 0))
        var b = DriverBuffer(base: buffer(1, 0), length: UInt32(frame.count + 12), token: 0)
        guard queues[1].addTransmit(&b, 1) == 1 else { return false }
        if kicks { kick(1) } else { queues[1].publish() }
        return true
    }

    /// Asks for calls on data rings. False: something is used already.
    func arm(_ rings: Range<Int> = 0..<2) -> Bool { rings.allSatisfy { !queues[$0].armCalls() } }

    /// Waits as a driver does that sleeps: it looks at the ring when it is called, and at no other time. Nil: it was
    /// not called.
    private func called(_ queue: Int) -> DriverCompletion? {
        var c = DriverCompletion(token: 0, length: 0)
        while true {
            var p = pollfd(fd: calls[queue].fd, events: Int16(POLLIN), revents: 0)
            guard poll(&p, 1, 20_000) == 1, EventFD.take(calls[queue].fd) else { return nil }
            repeat {
                if queues[queue].reclaim(into: &c, max: 1) == 1 { return c }
            } while queues[queue].armCalls()
        }
    }

    /// Waits for a call that tells of the frame that was put.
    func sent() -> Bool { called(1) != nil }

    /// Waits for a call that tells of the frame that was put, and for one that tells of a received frame: that frame.
    func exchanged() -> [UInt8]? {
        guard sent(), let c = called(0) else { return nil }
        return take(c)
    }

    /// Waits until the device has taken what was put.
    func wasTaken(within seconds: Double = 20) -> Bool { wait(1, seconds) != nil }

    /// A frame with its net header.
    private static func store(_ frame: [UInt8], _ place: UnsafeMutableRawPointer) {
        let bytes = [UInt8](repeating: 0, count: 12) + frame
        bytes.withUnsafeBytes { place.copyMemory(from: $0.baseAddress!, byteCount: bytes.count) }
    }

    private static let bufferBytes = 64 * 2048

    /// Memory with `frame` where `put` has its own, to be mapped in the place of that.
    static func other(_ frame: [UInt8]) throws -> HostMemory {
        let memory = try HostMemory(bytes: bufferBytes, wantsHugePages: false, name: "ringway-other")
        store(frame, memory.base)
        return memory
    }

    /// The memory in regions: rings, receive buffers, transmit buffers (or `other` in their place), the control
    /// queue's.
    func parts(transmit other: HostMemory? = nil) -> [VhostRegion] {
        let (rings, buffers) = (UInt64(queues.count * RealDriver.ringBytes), UInt64(RealDriver.bufferBytes))
        return (0...queues.count).map { i in
            let (offset, size) = i == 0 ? (0, rings) : (rings + UInt64(i - 1) * buffers, buffers)
            var r = region
            (r.guestAddress, r.userAddress, r.offset, r.size) = (
                r.guestAddress + offset, r.userAddress + offset, offset, size
            )
            if i == 2, let other {
                (r.userAddress, r.descriptor, r.offset) = (other.region.userAddress, other.descriptor, 0)
            }
            return r
        }
    }

    /// The next received frame.
    func receive() -> [UInt8]? {
        wait(0).flatMap(take)
    }

    /// A received frame; its buffer is handed to the device again.
    private func take(_ c: DriverCompletion) -> [UInt8]? {
        if c.length < 12 { return nil }
        let p = buffer(0, Int(c.token))
        let frame = Array(UnsafeRawBufferPointer(start: p + 12, count: Int(c.length) - 12))
        var b = DriverBuffer(base: p, length: 2048, token: c.token)
        _ = queues[0].addReceive(&b, 1)
        kick(0)
        return frame
    }

    /// Starts and stops `vhost` five times, each time with a frame on its way that was shown, or used, before its
    /// driver could be told; `rings` are those whose calls are waited for. `frames`: what is sent, and what comes back.
    func waitThroughStarts(
        of vhost: VhostNet, memory: [VhostRegion], rings waited: Range<Int>,
        _ frames: (UInt8) -> (sent: [UInt8], back: [UInt8]?)
    ) throws {
        var rings = self.rings
        var n: UInt8 = 0
        func start() throws { try vhost.start(rings, memory: memory) }
        func stop() { for (i, base) in vhost.stop().enumerated() { rings[i].base = base! } }
        func check(_ what: Comment, kicks: Bool, _ body: () throws -> Void) throws {
            n += 1
            let (frame, back) = frames(n)
            for ring in waited { _ = EventFD.take(calls[ring].fd) }
            try #require(arm(waited) && put(frame, kicks: kicks), what)
            try body()
            if let back { try #require(exchanged() == back, what) } else { try #require(sent(), what) }
        }
        /// The device has done everything, and what it called with is lost.
        func finish() {
            #expect(eventually { waited.allSatisfy { queues[$0].hasUsed } })
            for ring in waited { _ = EventFD.take(calls[ring].fd) }
        }
        for _ in 0..<5 {
            try check("shown before the start without a kick", kicks: false) { try start() }
            try check("used before the stop", kicks: true) {
                finish()
                stop()
                try start()
            }
            try check("used while the calls were masked", kicks: false) {
                for ring in waited { try vhost.mask(ring: ring, true) }
                kick(1)
                finish()
                for ring in waited { try vhost.mask(ring: ring, false) }
            }
            try check("used before a start with masked calls", kicks: true) {
                finish()
                stop()
                for ring in waited { try vhost.mask(ring: ring, true) }
                try start()
                for ring in waited { try vhost.mask(ring: ring, false) }
            }
            stop()
        }
    }

    /// A command of the control queue (5.1.6.5): its answer.
    func command(_ kind: UInt8, _ command: UInt8, _ data: [UInt8], seconds: Double = 20) -> UInt8? {
        let p = buffer(2, 0)
        ([kind, command] + data + [0xff]).withUnsafeBytes { p.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        let readable = [Segment(base: p, length: 2), Segment(base: p + 2, length: UInt32(data.count))]
        var writable = Segment(base: p + 2 + data.count, length: 1)
        guard queues[2].add(readable: readable, 2, writable: &writable, 1, token: 0) else { return nil }
        kick(2)
        return wait(2, seconds) == nil ? nil : (p + 2 + data.count).load(as: UInt8.self)
    }
}
