import CPlatform
import Glibc
import Logging
import Memory
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// Ports on descriptors that this process was handed: `fd=N`.
@Suite(.serialized) struct HandedDescriptorTests {
    /// A folder with a socket that listens, as a service manager makes it: it blocks, and is not close-on-exec.
    private final class Place {
        let folder: String
        let path: String
        let listener: OwnedDescriptor

        init() throws {
            var template = Array("/tmp/ringway-fd-XXXXXX".utf8CString)
            folder = String(cString: mkdtemp(&template))
            path = folder + "/s"
            listener = OwnedDescriptor(try Listener.open(path))
            _ = fcntl(listener.fd, F_SETFD, 0)
            _ = fcntl(listener.fd, F_SETFL, fcntl(listener.fd, F_GETFL) & ~O_NONBLOCK)
        }

        deinit {
            unlink(path)
            rmdir(folder)
        }
    }

    private func pair() -> [OwnedDescriptor] {
        var ends: [Int32] = [-1, -1]
        #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0)
        return ends.map { OwnedDescriptor($0) }
    }

    private func guest(_ fd: Int32) -> PortOptions { PortOptions(.vhostUser(path: "fd=\(fd)", isClient: false)) }
    private func driver(_ fd: Int32) -> PortOptions {
        PortOptions(.virtioUser(path: "fd=\(fd)", isServer: false, tap: nil))
    }

    private func hasEnded(_ end: OwnedDescriptor) -> Bool {
        var p = pollfd(fd: end.fd, events: 0, revents: 0)
        return poll(&p, 1, 5000) == 1 && p.revents & Int16(POLLHUP) != 0
    }

    /// A frame each way.
    private func exchange(_ a: EmbeddedDriver, _ b: EmbeddedDriver, _ n: Int) {
        for (from, to) in [(a, b), (b, a)] {
            let frames = Frame.numbered(20, first: n)
            #expect(from.send(frames))
            let isWhole = to.receive(20).map(\.frame) == frames
            #expect(isWhole)
        }
    }

    @Test("a socket that listens: front-ends come and go, and the port; the socket and its file stay")
    func listening() throws {
        let place = try Place()
        let port = guest(place.listener.fd)
        let lab = try Lab(ports: 1, .crossconnect, more: [port])
        #expect(fcntl(place.listener.fd, F_GETFD) == FD_CLOEXEC)
        let b = try lab.driver(0)
        for n in 0..<2 { exchange(try EmbeddedDriver(path: place.path), b, n) }
        let last = try lab.engine.remove(port.name)
        #expect(last.name == "fd=\(place.listener.fd)" && last.rx.packets == 40)
        #expect(access(place.path, F_OK) == 0)
        try lab.engine.add(port)
        exchange(try EmbeddedDriver(path: place.path), b, 3)
        lab.engine.stop()
        #expect(access(place.path, F_OK) == 0 && CPlat_is_listening(place.listener.fd))
        withExtendedLifetime(place) {}
    }

    @Test(
        "a connection: frames cross between its two ends, each a port; it ends with either", arguments: [false, true])
    func connected(removesGuest: Bool) throws {
        let ends = pair()
        let (first, second) = (guest(ends[0].fd), driver(ends[1].fd))
        let device = try Lab(ports: 1, .crossconnect, more: [first])
        let other = try Lab(ports: 1, .crossconnect, more: [second])
        let (a, b) = (try device.driver(0), try other.driver(0))
        let isThere = eventually { device.engine.snapshot()[1].isConnected && other.engine.snapshot()[1].isConnected }
        #expect(isThere)
        exchange(a, b, 0)
        // The test holds both ends, too, and is not to matter.
        if removesGuest { try device.engine.remove(first.name) } else { try other.engine.remove(second.name) }
        let left = removesGuest ? other.engine : device.engine
        #expect(eventually { left.snapshot()[1].isConnected == false })
        let text = "its connection has ended"
        for (engine, port) in [(device.engine, first), (other.engine, second)] {
            _ = try? engine.remove(port.name)
            #expect(throws: EngineError("\(port.name): \(text)")) { try engine.add(port) }
        }
        #expect(device.engine.portOptions.count == 1 && other.engine.portOptions.count == 1)
        withExtendedLifetime(ends) {}
    }

    @Test("a connection on which nonsense comes, or nothing, ends with its port alone", arguments: [false, true])
    func nonsense(isSilent: Bool) throws {
        let ends = pair()
        let lab = try Lab(
            ports: 2, .crossconnect,
            change: {
                $0.mode = .switch; $0.ports.append(guest(ends[0].fd))
            })
        let (a, b) = (try lab.driver(0), try lab.driver(1))
        if !isSilent {
            #expect(write(ends[1].fd, [UInt8](repeating: 0xa5, count: 64), 64) == 64)
            #expect(hasEnded(ends[1]))
        }
        exchange(a, b, 0)
        try lab.engine.remove("fd=\(ends[0].fd)")
        #expect(hasEnded(ends[1]))
        withExtendedLifetime(ends) {}
    }

    @Test("a socket that listens is a driver's, too: back-ends come and go")
    func listeningDriver() throws {
        let place = try Place()
        let lab = try Lab(ports: 1, .crossconnect, more: [driver(place.listener.fd)])
        let a = try lab.driver(0)
        for n in 0..<2 {
            let backEnd = try Lab(
                ports: 1, .crossconnect, more: [PortOptions(.vhostUser(path: place.path, isClient: true))])
            let b = try backEnd.driver(0)
            #expect(eventually { lab.engine.snapshot()[1].isConnected && backEnd.engine.snapshot()[1].isConnected })
            exchange(a, b, n)
            backEnd.engine.stop()
            #expect(eventually { !lab.engine.snapshot()[1].isConnected })
        }
        lab.engine.stop()
        #expect(access(place.path, F_OK) == 0)
        withExtendedLifetime(place) {}
    }

    @Test("what is no such socket is refused by its number, and stays open")
    func refused() throws {
        let lab = try Lab(ports: 1, .switch)
        let ended = pair()
        _ = shutdown(ended[1].fd, Int32(SHUT_RDWR))
        let kinds: [(OwnedDescriptor, String)] = [
            (OwnedDescriptor(CPlat_eventfd(0)), "is not a Unix stream socket"),
            (OwnedDescriptor(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)), "is not a Unix stream socket"),
            (OwnedDescriptor(socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)), "is not a Unix stream socket"),
            (
                OwnedDescriptor(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)),
                "the socket neither listens nor is connected"
            ),
            (ended[0], "its connection has ended"),
        ]
        for (descriptor, text) in kinds {
            for port in [guest(descriptor.fd), driver(descriptor.fd)] {
                #expect(throws: EngineError("\(port.name): \(text)")) { try lab.engine.add(port) }
                #expect(fcntl(descriptor.fd, F_GETFD) >= 0)
            }
        }
        let tap = PortOptions(.tap(name: "fd=\(kinds[0].0.fd)"))
        #expect(throws: EngineError.self) { try lab.engine.add(tap) }
        withExtendedLifetime((ended, kinds)) {}
        #expect(throws: EngineError("fd=\(Int32.max): is not open")) { try lab.engine.add(guest(.max)) }
    }

    @Test("options that go with a path, or with several queues, are refused")
    func options() throws {
        func error(_ text: String) -> String {
            do throws(EngineError) {
                _ = try Engine(EngineOptions(ports: [try PortSyntax.port(text)], mode: .drop), logger: Lab.logger)
                return ""
            } catch { return error.description }
        }
        #expect(error("vhost-user:fd=3") == "" && error("virtio-user:fd=4,packed=on") == "" && error("tap:fd=5") == "")
        #expect(error("vhost-user:fd=3,client=on").contains("fd=3: client= and server= go with a path"))
        #expect(error("virtio-user:fd=3,server=on").contains("fd=3: client= and server= go with a path"))
        #expect(error("vhost-user:fd=3,mode=660").contains("fd=3: mode=, user= and group= are of a socket"))
        #expect(error("virtio-user:fd=3,tap=a").contains("tap= goes with /dev/vhost-net"))
        #expect(error("tap:fd=3,queues=2").contains("tap:fd=3: queues=2; a descriptor of a TAP is one queue"))
        for text in ["vhost-user:fd=", "virtio-user:fd=x", "tap:fd=-1", "vhost-user:fd=99999999999"] {
            #expect(error(text).contains("write the number of a descriptor"))
        }
        #expect(try PortSyntax.port("vhost-user:./fd=3").kind.descriptor == nil)
    }

    @Test("one engine goes on in another's place with both kinds; there the number means what it meant here")
    func handover() throws {
        let place = try Place()
        let ends = pair()
        let port = guest(place.listener.fd)
        let lab = try Lab(ports: 1, .switch, more: [port, guest(ends[0].fd)])
        let (a, b) = (try lab.driver(0), try EmbeddedDriver(path: place.path))
        let other = FrontEnd(MessageSocket(fcntl(ends[1].fd, F_DUPFD_CLOEXEC, 0)))
        try other.negotiate([.version1], [.mq, .replyAck])
        exchange(a, b, 0)
        let new = try HandoverTests.move(lab.engine)
        defer { new.stop() }
        exchange(a, b, 1)
        #expect(try other.ask64(.getQueueNum) == 1)
        // The number is another descriptor's now, as it may be in another process.
        let number = place.listener.fd
        let kept = dup(number)
        let stranger = CPlat_eventfd(0)
        #expect(dup2(stranger, number) == number)
        close(stranger)
        try new.remove(port.name)
        try new.add(port)
        exchange(a, try EmbeddedDriver(path: place.path), 2)
        #expect(throws: VhostUserError.self) { try b.frontEnd.tell(.setOwner) }
        close(kept)
        HandedDescriptors.forget(number)
        withExtendedLifetime((ends, place)) {}
    }
}
