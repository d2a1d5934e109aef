import Glibc
import Memory
import Ringway

/// Sockets of systemd's that take datagrams: those of its service manager and of its journal.
enum DatagramPlace {
    /// A socket that sends to `place`: an absolute path, or `@` and a name, where `@` stands for the zero that an
    /// abstract address begins with. Errors begin with `what`.
    static func connect(to place: String, _ what: String) throws(EngineError) -> OwnedDescriptor {
        var bytes = Array(place.utf8)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard bytes.first == UInt8(ascii: "/") || bytes.first == UInt8(ascii: "@"),
            bytes.count < MemoryLayout.size(ofValue: address.sun_path)
        else { throw EngineError("\(what): an absolute path or @NAME stands here, of 107 bytes at most") }
        let isAbstract = bytes[0] == UInt8(ascii: "@")
        if isAbstract { bytes[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = MemoryLayout<sa_family_t>.size + bytes.count + (isAbstract ? 0 : 1)
        let descriptor = OwnedDescriptor(
            Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0))
        let status = withUnsafePointer(to: address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor.fd, $0, socklen_t(length))
            }
        }
        if status != 0 { throw EngineError("\(what): \(SystemError.text(errno))") }
        // Who reads nothing for so long is not waited for: whoever sends has other work.
        var patience = timeval(tv_sec: 2, tv_usec: 0)
        setsockopt(descriptor.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout.size(ofValue: patience)))
        return descriptor
    }
}
