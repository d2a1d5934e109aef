import Glibc

/// A service manager's datagram socket, as systemd has it.
package final class ManagerSocket {
    private let fd: Int32
    /// As NOTIFY_SOCKET has it.
    package let place: String

    /// `place` is a path, or begins with `@`.
    package init?(_ place: String) {
        self.place = place
        fd = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(place.utf8)
        if place.hasPrefix("@") { bytes[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = 2 + bytes.count + (place.hasPrefix("@") ? 0 : 1)
        let status = withUnsafePointer(to: address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(fd, $0, socklen_t(length)) }
        }
        if status != 0 { return nil }
    }

    deinit {
        close(fd)
        if place.hasPrefix("/") { unlink(place) }
    }

    /// The next message's lines; nil: none came for so long.
    package func next(seconds: Int32 = 30) -> [String]? {
        nextBytes(seconds: seconds).map {
            String(decoding: $0, as: UTF8.self).split(separator: "\n").map(String.init)
        }
    }

    /// The next message; nil: none came for so long.
    package func nextBytes(seconds: Int32 = 30) -> [UInt8]? {
        var waits = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        guard poll(&waits, 1, seconds * 1000) == 1 else { return nil }
        var bytes = [UInt8](repeating: 0, count: 1 << 18)
        let n = recv(fd, &bytes, bytes.count, 0)
        return Array(bytes[..<max(0, n)])
    }

    /// The next that is no WATCHDOG=1.
    package func nextEvent() -> [String]? {
        while let lines = next() { if lines != ["WATCHDOG=1"] { return lines } }
        return nil
    }
}
