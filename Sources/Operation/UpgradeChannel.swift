import CPlatform
import Foundation
import Glibc
import Memory

/// Why one Ringway could not go on in another's place. One line, for people.
package struct UpgradeError: Error, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}

/// A connection on which a Ringway hands itself to another: documents, with descriptors. Each is a header (bytes and
/// descriptors that follow, 32 bits each), the descriptors, a byte for each group of them, and JSON. Both ends are of
/// one user, so what comes is bounded, but not suspected. One thread.
package final class UpgradeChannel {
    private let socket: OwnedDescriptor
    /// Descriptors of one sendmsg(2).
    private static let group = 253
    private static let (mostBytes, mostDescriptors) = (1 << 28, 1 << 20)

    /// Takes over a connected socket that does not block.
    package init(_ socket: OwnedDescriptor) { self.socket = socket }

    /// User and process at the other end.
    package var peer: (user: uid_t, process: pid_t)? { UpgradeChannel.peer(of: socket) }

    static func peer(of socket: OwnedDescriptor) -> (user: uid_t, process: pid_t)? {
        var words: (pid_t, uid_t, gid_t) = (0, 0, 0)
        var size = socklen_t(MemoryLayout.size(ofValue: words))
        guard getsockopt(socket.fd, SOL_SOCKET, SO_PEERCRED, &words, &size) == 0 else { return nil }
        return (words.1, words.0)
    }

    /// Sends a document. Throws where the other end is gone, or reads nothing for `seconds`.
    package func send<Document: Encodable>(_ document: Document, within seconds: Double = 10) throws(UpgradeError) {
        let list = DescriptorList()
        let encoder = JSONEncoder()
        encoder.userInfo[DescriptorList.key] = list
        let json: Data
        do { json = try encoder.encode(document) } catch {
            throw UpgradeError("a document cannot be written: \(error)")
        }
        let end = UpgradeChannel.end(seconds)
        let all = list.all.map(\.fd)
        let header = [UInt32(json.count), UInt32(all.count)].flatMap { withUnsafeBytes(of: $0, Array.init) }
        // The other end wakes once.
        if all.isEmpty { return try write(header + json, [], end) }
        try write(header, [], end)
        for first in stride(from: 0, to: all.count, by: UpgradeChannel.group) {
            try write([0], Array(all[first..<min(first + UpgradeChannel.group, all.count)]), end)
        }
        try write(Array(json), [], end)
    }

    /// Writes a document for nobody, and reads it: the first of its kind in a process takes milliseconds, as there is
    /// code to be found and made ready for it. Not in a pause, therefore.
    static func rehearse(_ document: some Codable) {
        guard let json = try? JSONEncoder().encode(document) else { return }
        func read<Document: Decodable>(_: Document) { _ = try? JSONDecoder().decode(Document.self, from: json) }
        read(document)
    }

    /// The next document. Throws where it does not come within `seconds`, the other end is gone, or says something
    /// else.
    package func receive<Document: Decodable>(
        _ type: Document.Type, within seconds: Double
    ) throws(UpgradeError) -> Document {
        let end = UpgradeChannel.end(seconds)
        let header = try read(8, end).bytes.withUnsafeBytes {
            ($0.loadUnaligned(as: UInt32.self), $0.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        }
        let (size, count) = (Int(header.0), Int(header.1))
        guard size <= UpgradeChannel.mostBytes, count <= UpgradeChannel.mostDescriptors else {
            throw UpgradeError("\(size) bytes and \(count) descriptors are announced: this is no document of a ringway")
        }
        var descriptors: [OwnedDescriptor] = []
        while descriptors.count < count {
            let came = try read(1, end).descriptors
            if came.isEmpty { throw UpgradeError("descriptors are missing: \(descriptors.count) of \(count) came") }
            descriptors += came
        }
        let json = try read(size, end).bytes
        let decoder = JSONDecoder()
        decoder.userInfo[DescriptorList.key] = DescriptorList(descriptors)
        do { return try decoder.decode(type, from: Data(json)) } catch {
            // Whoever cannot go on says why.
            if let step = try? decoder.decode(Upgrade.Step.self, from: Data(json)), let problem = step.problem {
                throw UpgradeError(problem)
            }
            throw UpgradeError("what the other ringway says cannot be read: \(error)")
        }
    }

    /// Returns when the other end has closed, whatever it still says.
    package func waitForEnd() { while (try? read(4096, .max, atLeast: 1)) != nil {} }

    private static func end(_ seconds: Double) -> UInt64 {
        seconds == .infinity ? .max : CPlat_monotonic_ns() + UInt64(seconds * 1e9)
    }

    private func wait(_ events: Int32, _ end: UInt64) throws(UpgradeError) {
        let now = CPlat_monotonic_ns()
        if now >= end { throw UpgradeError("the other ringway does not go on") }
        var waiting = pollfd(fd: socket.fd, events: Int16(events), revents: 0)
        _ = poll(&waiting, 1, Int32(clamping: min(end - now, 1 << 50) / 1_000_000 + 1))
    }

    private func write(_ bytes: [UInt8], _ descriptors: [Int32], _ end: UInt64) throws(UpgradeError) {
        var (sent, descriptors) = (0, descriptors)
        while sent < bytes.count {
            let n = bytes[sent...].withUnsafeBytes {
                CPlat_send_fds(
                    socket.fd, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT), descriptors, Int32(descriptors.count))
            }
            if n > 0 {
                (sent, descriptors) = (sent + n, [])
            } else if errno == EAGAIN {
                try wait(POLLOUT, end)
            } else if errno != EINTR {
                throw UpgradeError("the other ringway is gone (\(SystemError.text(errno)))")
            }
        }
    }

    /// `count` bytes, or what comes at once if that is `least`.
    private func read(
        _ count: Int, _ end: UInt64, atLeast least: Int? = nil
    ) throws(UpgradeError) -> (bytes: [UInt8], descriptors: [OwnedDescriptor]) {
        var (bytes, descriptors): ([UInt8], [OwnedDescriptor]) = ([UInt8](repeating: 0, count: count), [])
        var filled = 0
        var fds = [Int32](repeating: -1, count: UpgradeChannel.group)
        while filled < least ?? count {
            var (came, isTruncated): (Int32, Bool) = (0, false)
            let n = bytes[filled...].withUnsafeMutableBytes {
                CPlat_receive_fds(
                    socket.fd, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT), &fds, Int32(fds.count), &came,
                    &isTruncated)
            }
            let code = errno
            descriptors += fds.prefix(Int(came)).map(OwnedDescriptor.init)
            if isTruncated { throw UpgradeError("this process may have no more descriptors; see `ulimit -n`") }
            if n == 0 { throw UpgradeError("the other ringway is gone") }
            if n > 0 {
                filled += n
            } else if code == EAGAIN {
                try wait(POLLIN, end)
            } else if code != EINTR {
                throw UpgradeError("the other ringway is gone (\(SystemError.text(code)))")
            }
        }
        return (Array(bytes.prefix(filled)), descriptors)
    }
}
