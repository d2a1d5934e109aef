import CPlatform
import Glibc
import Ringway
import Testing

/// A driver waits for what was done before it could be told: a guest under QEMU was never called again after stop/cont.
@Suite struct CallAtStartTests {
    private func readable(_ fd: Int32) -> Bool {
        var p = [pollfd(fd: fd, events: Int16(POLLIN), revents: 0)]
        return poll(&p, 1, 5000) == 1
    }

    private func empty(_ fd: Int32) {
        _ = EventFD.take(fd)
    }

    @Test("each start of a ring, and each new call descriptor, calls", arguments: [false, true])
    func calls(isPacked: Bool) throws {
        let lab = try Lab(ports: 1, .drop)
        let memory = try HostMemory(bytes: 65536, wantsHugePages: false, name: "call-at-start")
        let frontEnd = FrontEnd(try MessageSocket.connect(to: lab.paths[0]))
        let features: Features = isPacked ? [.version1, .ringPacked, .eventIdx] : [.version1, .eventIdx]
        try frontEnd.negotiate(features, [.mq, .replyAck])
        try frontEnd.share(memory.region, memory.descriptor)
        var base: UInt32 = isPacked ? 0x8000_8000 : 0
        for _ in 0..<3 {
            for ring in 0..<2 {
                let at = memory.region.userAddress + UInt64(ring) * 16384
                let call = OwnedDescriptor(CPlat_eventfd(0))
                try frontEnd.startRing(
                    ring, size: 16, base: base, descriptors: at, driverArea: at + 4096, deviceArea: at + 8192,
                    kick: OwnedDescriptor(CPlat_eventfd(0)), call: call)
                #expect(readable(call.fd), "no call at the start of ring \(ring)")
                // None, then another: QEMU unmasks so.
                let second = OwnedDescriptor(CPlat_eventfd(0))
                try frontEnd.tell(.setVringCall, Payload(UInt64(ring) | 0x100))
                try frontEnd.tell(.setVringCall, Payload(UInt64(ring)), [second])
                #expect(readable(second.fd), "no call with a new descriptor of ring \(ring)")
                empty(second.fd)
            }
            for ring in 0..<2 { base = try frontEnd.stopRing(ring) }
        }
    }
}
