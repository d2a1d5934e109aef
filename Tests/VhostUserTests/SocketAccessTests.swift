import CPlatform
import Glibc
import Synchronization
import Testing
import VhostUser

/// Whose a listening socket is.
@Suite struct SocketAccessTests {
    private let path = "/tmp/ringway-access-\(getpid())-\(CPlat_monotonic_ns()).sock"

    private static func seen(_ path: String) -> stat? {
        var status = stat()
        return lstat(path, &status) == 0 ? status : nil
    }

    @Test("mode, user and group are those asked for, whatever the umask is", arguments: [0, 0o600, 0o660, 0o777])
    func exact(mode: UInt32) throws {
        // Others than root may give nothing away.
        let isRoot = geteuid() == 0
        let (user, group): (UInt32, UInt32) = isRoot ? (65534, 65533) : (geteuid(), getegid())
        let fd = try Listener.open(path, SocketAccess(mode: mode, user: user, group: group))
        defer { unlink(path) }
        let status = try #require(SocketAccessTests.seen(path))
        #expect(status.st_mode & 0o7777 == mode && status.st_uid == user && status.st_gid == group)
        // One that was left behind is taken over in the same way.
        close(fd)
        let again = try Listener.open(path, SocketAccess(mode: 0o640))
        #expect(try #require(SocketAccessTests.seen(path)).st_mode & 0o7777 == 0o640)
        close(again)
    }

    @Test("nobody ever sees it open wider than asked")
    func never() throws {
        let isDone = Atomic(false)
        let widest = Atomic<UInt32>(0)
        let path = path
        let watcher = Watcher {
            while !isDone.load(ordering: .relaxed) {
                if let status = SocketAccessTests.seen(path) {
                    widest.bitwiseOr(status.st_mode & 0o7777, ordering: .relaxed)
                }
            }
        }
        // As often as it takes to be looked at: a file that lives for a system call is seen now and then.
        let end = CPlat_monotonic_ns() + 60_000_000_000
        for _ in 0..<2000 { try openAndClose(SocketAccess(mode: 0o600)) }
        while widest.load(ordering: .relaxed) == 0 && CPlat_monotonic_ns() < end {
            try openAndClose(SocketAccess(mode: 0o600))
        }
        isDone.store(true, ordering: .relaxed)
        watcher.join()
        #expect(widest.load(ordering: .relaxed) == 0o600)
    }

    private func openAndClose(_ access: SocketAccess) throws {
        close(try Listener.open(path, access))
        unlink(path)
    }

    @Test("what cannot be given away is an error, and nothing is left")
    func refused() throws {
        #expect(throws: VhostUserError.self) {
            try Listener.open("/proc/x.sock", SocketAccess(mode: 0o600))
        }
        guard geteuid() != 0 else { return }
        #expect { try Listener.open(path, SocketAccess(user: 0)) } throws: { "\($0)".contains("CAP_CHOWN") }
        #expect(SocketAccessTests.seen(path) == nil)
    }

    @Test(
        "values that cannot be",
        arguments: [
            ("mode", ""), ("mode", "8"), ("mode", "+660"), ("mode", "1000"), ("user", ""), ("user", "no such user"),
            ("group", "no such group"), ("group", "4294967295"), ("user", "99999999999"), ("group", "-1"),
        ])
    func values(option: String, value: String) {
        var access = SocketAccess()
        #expect { try access.read(option, value) } throws: { "\($0)".hasPrefix("\(option)=\(value): ") }
        #expect(access.isDefault)
    }

    @Test("names and numbers")
    func names() throws {
        var access = SocketAccess()
        for (option, value) in [("mode", "0660"), ("user", "root"), ("group", "7")] { try access.read(option, value) }
        #expect(access == SocketAccess(mode: 0o660, user: 0, group: 7))
    }
}

/// A thread that is joined.
private final class Watcher {
    private var thread = pthread_t()

    init(_ body: @escaping () -> Void) {
        final class Box {
            let body: () -> Void
            init(_ body: @escaping () -> Void) { self.body = body }
        }
        let box = Unmanaged.passRetained(Box(body))
        pthread_create(
            &thread, nil,
            {
                Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
                return nil
            }, box.toOpaque())
    }

    func join() { pthread_join(thread, nil) }
}
