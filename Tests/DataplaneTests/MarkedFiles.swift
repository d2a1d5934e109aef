import Glibc
import Memory

/// Descriptors that a test keeps until its end, so that no other file of this process can be taken for one of theirs.
/// Who else has their files open, or mapped, is counted: other suites of this process open and close meanwhile.
final class MarkedFiles {
    private var kept: [OwnedDescriptor] = []
    private var names: Set<String> = []
    private var inodes: Set<UInt> = []

    /// Keeps `descriptor`, and returns it.
    func mark(_ descriptor: OwnedDescriptor) -> OwnedDescriptor {
        kept.append(descriptor)
        if let name = Self.name(descriptor.fd) { names.insert(name) }
        var status = stat()
        fstat(descriptor.fd, &status)
        inodes.insert(status.st_ino)
        return descriptor
    }

    /// Descriptors of this process for one of these files, beside those that were marked.
    var othersOpen: Int {
        let open = openDescriptors().filter { Self.name($0).map(names.contains) ?? false }.count
        return open - kept.count
    }

    /// Mappings of these files (not of eventfds, which have none).
    var mappings: Int {
        lines("/proc/self/maps").filter { line in
            let words = line.split(separator: " ", maxSplits: 5)
            return words.count > 5 && UInt(words[4]).map(inodes.contains) ?? false && words[5].contains("memfd")
        }.count
    }

    /// What tells a file from all others that are open: an eventfd's number, or device and inode.
    private static func name(_ fd: Int32) -> String? {
        if let event = lines("/proc/self/fdinfo/\(fd)").first(where: { $0.hasPrefix("eventfd-id:") }) {
            return String(event)
        }
        var status = stat()
        return fstat(fd, &status) == 0 ? "\(status.st_dev):\(status.st_ino)" : nil
    }
}

/// Sockets of this process that are bound to `path`: the one that listens, and those that it accepted.
func sockets(boundTo path: String) -> Int {
    openDescriptors().filter { fd in
        var address = sockaddr_un()
        var length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let isSocket = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(fd, $0, &length) == 0 }
        }
        guard isSocket, address.sun_family == sa_family_t(AF_UNIX) else { return false }
        return withUnsafeBytes(of: address.sun_path) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) == path
        }
    }.count
}

private func openDescriptors() -> [Int32] { (0..<Int32(4096)).filter { fcntl($0, F_GETFD) >= 0 } }

private func lines(_ path: String) -> [Substring] {
    guard let file = fopen(path, "r") else { return [] }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { bytes += buffer[..<count] }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
}
