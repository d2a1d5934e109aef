import CPlatform
import Control
import Glibc
import Logging
import Ringway
import Testing

/// Descriptors that a back-end hands over: its own end of the connection, so that its end would never be seen, or a
/// file that does not answer.
extension ControlPlane {
    @Suite("What a back-end hands over", .serialized) struct HostileHandoverTests {
        private let path = "/tmp/ringway-handover-\(getpid()).sock"

        private func engine(_ lines: Locked<[String]> = Locked([])) throws -> Engine {
            let port = PortOptions(.virtioUser(path: path, isServer: true, tap: nil))
            let engine = try Engine(
                EngineOptions(ports: [port], mode: .drop, busyloop: .sleep),
                logger: Logger(label: "test") { _ in LineLog(lines: lines) })
            try engine.start()
            return engine
        }

        /// The next back-end is served.
        private func isServed(_ engine: Engine) -> Bool {
            let peer = FakePeer(connectingTo: path, FakePeer.State())
            defer { peer.hangUp() }
            return eventually { engine.snapshot()[0].isConnected }
        }

        @Test(
            "a back-end that hands over its own end of the connection and goes is seen to be gone",
            arguments: FakePeer.Handover.allCases, [true, false])
        func ownEnd(how: FakePeer.Handover, onChannel: Bool) throws {
            let engine = try engine()
            defer { engine.stop() }
            func isConnected() -> Bool { engine.snapshot()[0].isConnected }
            let before = openDescriptors()
            do {
                let peer = FakePeer(connectingTo: path, FakePeer.State())
                try #require(eventually { isConnected() })
                peer.handOver(how, onChannel: onChannel)
                peer.leave()
                try #require(eventually { peer.isOver && !isConnected() })
            }
            #expect(eventually { openDescriptors() <= before })
            #expect(isServed(engine))
        }

        @Test("nor does its end hide in the queue of a second connection, which is turned away")
        func secondConnection() throws {
            let engine = try engine()
            defer { engine.stop() }
            let peer = FakePeer(connectingTo: path, FakePeer.State())
            try #require(eventually { engine.snapshot()[0].isConnected })
            let second = OwnedDescriptor(CPlat_unix_socket())
            #expect(CPlat_unix_connect(second.fd, path) == 0)
            peer.handOver(on: second.fd)
            peer.leave()
            try #require(eventually { peer.isOver && !engine.snapshot()[0].isConnected })
            var byte: UInt8 = 0
            #expect(eventually { read(second.fd, &byte, 1) == 0 || errno == ECONNRESET })
            #expect(isServed(engine))
        }

        @Test(
            "with an answer it is refused at once and closed, also with a part of it",
            arguments: [
                (Request.getFeatures, FakePeer.Lie.ownEnd), (.setVringKick, .ownEnd), (.getQueueNum, .descriptor),
            ])
        func answers(request: Request, lie: FakePeer.Lie) throws {
            let lines = Locked<[String]>([])
            let engine = try engine(lines)
            defer { engine.stop() }
            let before = openDescriptors()
            do {
                var state = FakePeer.State()
                state.lies[request] = lie
                let peer = FakePeer(connectingTo: path, state)
                try #require(eventually { peer.isOver && !engine.snapshot()[0].isConnected })
            }
            // Not after the time-out for an answer.
            #expect(
                eventually { lines.withLock { $0.contains { $0.contains("is not of memfd, tmpfs or hugetlbfs") } } },
                "\(lines.withLock { $0 })")
            #expect(eventually { openDescriptors() <= before })
            #expect(isServed(engine))
        }

        /// What is no memory for an in-flight region.
        enum Wrong: CaseIterable, Sendable {
            case eventfd, socket, socketpair, file, fileThatDoesNotAnswer
        }

        @Test(
            "an in-flight region that is no memory is refused, and no file system is asked", arguments: Wrong.allCases)
        func inflight(_ wrong: Wrong) throws {
            // A FUSE file system needs root.
            let fuse = wrong == .fileThatDoesNotAnswer && geteuid() == 0 ? try SilentFileSystem() : nil
            defer { fuse?.unmount() }
            if wrong == .fileThatDoesNotAnswer && fuse == nil { return }
            let before = openDescriptors()
            do {
                let peer = FakePeer()
                defer { peer.release() }
                let descriptor: OwnedDescriptor
                switch wrong {
                case .eventfd: descriptor = OwnedDescriptor(CPlat_eventfd(0))
                case .socket: descriptor = OwnedDescriptor(CPlat_unix_socket())
                case .socketpair:
                    var pair: [Int32] = [0, 0]
                    socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)
                    close(pair[1])
                    descriptor = OwnedDescriptor(pair[0])
                case .file: descriptor = OwnedDescriptor(Glibc.open("/proc/self/maps", O_RDONLY | O_CLOEXEC))
                case .fileThatDoesNotAnswer: descriptor = try fuse!.open()
                }
                peer.state.withLock { $0.inflightDescriptor = descriptor }
                let vhost = try peer.vhost { $0.keepsInflight = true }
                let rings = try Rings(2)
                try vhost.acknowledge([.version1])
                let error = #expect(throws: VhostError.self) { try vhost.start(rings.all, memory: [rings.region]) }
                #expect(error?.kind == .answer && error!.description.contains("is not of memfd"), "\(error!)")
                #expect(vhost.backend.isDisconnected && vhost.saved.inflight == nil)
            }
            #expect(eventually { openDescriptors() <= before })
        }
    }
}

/// A FUSE file system (<linux/fuse.h>) whose only directory can be opened; nothing else is ever answered.
private final class SilentFileSystem {
    private let device: OwnedDescriptor
    private let folder: String
    private typealias Mount =
        @convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafePointer<CChar>, UInt, UnsafePointer<CChar>) ->
        Int32

    init() throws {
        var template = Array("/tmp/ringway-fuse-XXXXXX".utf8CString)
        folder = String(cString: mkdtemp(&template))
        device = OwnedDescriptor(Glibc.open("/dev/fuse", O_RDWR | O_CLOEXEC))
        // Glibc's header is not one that Swift imports.
        let mount = unsafeBitCast(try #require(dlsym(nil, "mount")), to: Mount.self)
        let options = "fd=\(device.fd),rootmode=40000,user_id=0,group_id=0"
        try #require(mount("ringway", folder, "fuse", 0, options) == 0, "mount: \(errno)")
        Thread.detach { [device] in
            var request = [UInt8](repeating: 0, count: 1 << 16)
            // struct fuse_in_header: length, operation, 64 bits of a unique number. FUSE_INIT is 26, FUSE_OPENDIR 27.
            while read(device.fd, &request, request.count) >= 40 {
                let operation = request.withUnsafeBytes { $0.load(fromByteOffset: 4, as: UInt32.self) }
                guard operation == 26 || operation == 27 else { continue }
                // Version 7.31 and zeroes; a handle and flags of zero.
                let body: [UInt8] =
                    operation == 26
                    ? [7, 0, 0, 0, 31, 0, 0, 0] + [UInt8](repeating: 0, count: 56)
                    : [UInt8](repeating: 0, count: 16)
                let answer = [UInt8(16 + body.count), 0, 0, 0, 0, 0, 0, 0] + request[8..<16] + body
                _ = write(device.fd, answer, answer.count)
            }
        }
    }

    func open() throws -> OwnedDescriptor {
        let fd = Glibc.open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY)
        try #require(fd >= 0, "open: \(errno)")
        return OwnedDescriptor(fd)
    }

    func unmount() {
        // MNT_DETACH; the file system ends with its device.
        let umount = unsafeBitCast(
            dlsym(nil, "umount2"), to: (@convention(c) (UnsafePointer<CChar>, Int32) -> Int32).self)
        _ = umount(folder, 2)
        rmdir(folder)
    }
}

/// Threads of a test.
private enum Thread {
    static func detach(_ body: @escaping @Sendable () -> Void) {
        final class Box {
            let body: @Sendable () -> Void
            init(_ b: @escaping @Sendable () -> Void) { body = b }
        }
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { raw in
                Unmanaged<Box>.fromOpaque(raw!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(Box(body)).toOpaque())
        pthread_detach(thread)
    }
}
