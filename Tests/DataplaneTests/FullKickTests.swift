import CPlatform
import Control
import Glibc
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// A back-end has the eventfds by which its driver kicks, too.
@Suite struct FullKickTests {
    /// Makes each kick eventfd that it is given block, and full; serves no ring.
    private final class Filler: BackEndDevice, Sendable {
        let kicks = Locked<[Int32]>([])
        let features: Features = [.version1, .mrgRxbuf, .ctrlVQ, .ctrlRX]
        let queuePairs = 1

        func change(_ changes: [RingChange]) -> [RingPosition?] {
            for change in changes { if case .start(let start) = change.what { fill(start) } }
            return changes.map { if case .stop = $0.what { RingPosition() } else { nil } }
        }
        private func fill(_ start: RingStart) {
            var most = UInt64.max - 1
            _ = fcntl(start.kickFD, F_SETFL, 0)
            if poll(start.kickFD, POLLOUT) { write(start.kickFD, &most, 8) }
            kicks.withLock { $0.append(start.kickFD) }
        }
        private func poll(_ fd: Int32, _ events: Int32) -> Bool {
            var p = pollfd(fd: fd, events: Int16(events), revents: 0)
            return Glibc.poll(&p, 1, 0) == 1
        }
        /// Lets a thread go that waits for one.
        func drain() { for fd in kicks.withLock({ $0 }) { _ = EventFD.take(fd) } }
        func readConfiguration(offset: Int, size: Int) -> [UInt8]? { nil }
        func writeConfiguration(offset: Int, bytes: [UInt8]) -> Bool { false }
        func featuresAcknowledged(_ features: Features) {}
        func memoryChanged(_ map: MemoryMap) {}
        func setMTU(_ mtu: UInt16) -> Bool { true }
        func sendRARP(mac: [UInt8]) {}
        func statusChanged(_ status: UInt8) {}
        func connected(_ isConnected: Bool) {}
    }

    @Test("a back-end that makes its kick eventfds block, and full, does not make its driver wait")
    func driver() throws {
        let path = "/tmp/ringway-full-kick-\(getpid())-\(CPlat_monotonic_ns()).sock"
        let device = Filler()
        let server = BackEndServer(path: path, isClient: false, device: device) { _ in }
        try server.start()
        defer {
            server.stop()
            unlink(path)
        }
        let isDone = Locked(false)
        let failure = Locked<String?>(nil)
        let thread = try NamedThread("full-kick") {
            do {
                let d = try EmbeddedDriver(path: path)
                for n in 0..<20 {
                    if !d.send(Frame.numbered(3, first: 3 * n)) { failure.withLock { $0 = "send \(n)" } }
                }
                // What it kicks for stays where it is: nobody serves the ring.
                if d.pairs[0].outstanding != 60 { failure.withLock { $0 = "\(d.pairs[0].outstanding) outstanding" } }
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
            isDone.withLock { $0 = true }
        }
        let end = CPlat_monotonic_ns() + 10_000_000_000
        while !isDone.withLock({ $0 }) && CPlat_monotonic_ns() < end { usleep(1000) }
        #expect(isDone.withLock { $0 }, "the driver waits for an eventfd")
        while !isDone.withLock({ $0 }) {
            device.drain()
            usleep(1000)
        }
        thread.join()
        #expect(failure.withLock { $0 } == nil)
        #expect(device.kicks.withLock { $0.count } == 2)
    }
}
