import CPlatform
import Glibc
import Logging
import Memory
import Ringway
import Testing
import Vhost
import Virtio

/// The other holder of an eventfd makes it block, fills it, or hands over a semaphore: nobody waits.
extension ControlPlane {
    @Suite("Eventfds that others hold") struct BlockedEventTests {
        private func block(_ fd: Int32) { _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) }

        private func fill(_ fd: Int32) {
            var most = UInt64.max - 1
            #expect(write(fd, &most, 8) == 8)
        }

        @Test("one that blocks is not waited for when it is empty, nor when it is full; what is there is taken")
        func operations() throws {
            let fd = try #require(EventFD.make())
            block(fd.fd)
            #expect(!EventFD.take(fd.fd))
            #expect(EventFD.signal(fd.fd) && EventFD.take(fd.fd) && !EventFD.take(fd.fd))
            fill(fd.fd)
            #expect(EventFD.signal(fd.fd) && EventFD.take(fd.fd))
            #expect(!EventFD.take(-1) && !EventFD.signal(-1))
            let socket = OwnedDescriptor(CPlat_unix_socket())
            #expect(!EventFD.take(socket.fd) && !EventFD.signal(socket.fd))
            let own = try #require(EventFD.make())
            fill(own.fd)
            #expect(EventFD.signalOwn(own.fd) && EventFD.take(own.fd) && !EventFD.take(own.fd))
        }

        @Test(
            """
            a back-end that makes the masked, call and error eventfds block, and full, hangs neither start nor mask \
            nor stop
            """
        )
        func blocking() throws {
            let peer = FakePeer()
            defer { peer.release() }
            let vhost = try peer.vhost()
            // What the back-end got with the opening: the masked eventfd and that for errors.
            for ring: UInt32 in 0..<2 {
                peer.state.withLock { s in
                    block(s.calls[ring]!.fd)
                    block(s.errors[ring]!.fd)
                }
            }
            let rings = try Rings(2)
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            #expect(!vhost.hasFailed(ring: 0) && !vhost.isPending(ring: 0))
            try vhost.mask(ring: 0, true)
            peer.call(0)
            // That of the start.
            #expect(EventFD.take(rings.calls[0].fd))
            block(rings.calls[0].fd)
            fill(rings.calls[0].fd)
            // What was pending goes to an eventfd that has no room.
            try vhost.mask(ring: 0, false)
            #expect(EventFD.take(rings.calls[0].fd) && !EventFD.take(rings.calls[0].fd))
            vhost.stop()
        }

        @Test(
            "a busyloop budget that is negative, or that 32 bits do not hold, is refused",
            arguments: [-1, Int.min, Int(UInt32.max) + 1])
        func budget(us: Int) throws {
            var port = PortOptions(.virtioUser(path: "/dev/vhost-net", isServer: false, tap: "tap9"))
            port.busyloop = .microseconds(us)
            let error = #expect(throws: EngineError.self) {
                _ = try Engine(EngineOptions(ports: [port], mode: .drop), logger: Logger(label: "test"))
            }
            #expect(error!.description.contains("\(us) us"))
        }
    }
}
