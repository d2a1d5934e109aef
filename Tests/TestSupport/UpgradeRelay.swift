import CPlatform
import Foundation
import Glibc

/// Stands between the two ends of an upgrade and lets so many of their documents pass, which come by turns; the first
/// is the new one's.
///
/// Unchecked: what changes is its thread's own until `wait` has returned.
package final class UpgradeRelay: @unchecked Sendable {
    /// What happens in place of the next document.
    package enum Fault: Sendable {
        /// Both connections end.
        case cut
        /// Its receiver gets something else, and both go on as they like.
        case nonsense
        /// Nothing passes any more, until the new one's connection ends.
        case silence
    }

    private let (listener, old): (Int32, Int32)
    private var new: Int32 = -1
    private let isDone = DispatchSemaphore(value: 0)
    /// Documents that have passed, when `wait` has returned.
    package private(set) var passed = 0

    /// Listens at `path` in place of `control`, for one connection. `atEnd` is called, on another thread, when
    /// `documents` have passed, and before connections end.
    package init(
        _ path: String, to control: String, passing documents: Int, then fault: Fault = .cut,
        atEnd: @escaping @Sendable () -> Void = {}
    ) throws {
        (listener, old) = (CPlat_unix_socket(), CPlat_unix_socket())
        guard CPlat_unix_bind(listener, path) == 0, listen(listener, 1) == 0, CPlat_unix_connect(old, control) == 0
        else { throw RelayError(code: errno) }
        Thread.detachNewThread {
            self.serve(documents, fault, atEnd)
            unlink(path)
            self.isDone.signal()
        }
    }

    deinit { for fd in [listener, old] { close(fd) } }

    struct RelayError: Error { var code: Int32 }

    /// Until both connections have ended.
    package func wait() { isDone.wait() }

    private func serve(_ documents: Int, _ fault: Fault, _ atEnd: () -> Void) {
        for fd in [listener, old] { makeBlock(fd) }
        new = accept(listener, nil, nil)
        guard line(from: new, to: old), line(from: old, to: new) else { return end() }
        while passed < documents {
            let isNew = passed % 2 == 0
            guard document(from: isNew ? new : old, to: isNew ? old : new) else { return end() }
            passed += 1
        }
        atEnd()
        if fault == .nonsense {
            var bytes: [UInt8] = [2, 0, 0, 0, 0, 0, 0, 0, UInt8(ascii: "["), UInt8(ascii: "]")]
            let to = passed % 2 == 0 ? old : new
            _ = send(to, bytes, bytes.count, Int32(MSG_NOSIGNAL))
            // Until it gives up; what it says meanwhile is for nobody.
            while recv(to, &bytes, 1, 0) > 0 {}
        } else if fault == .silence {
            // POLLRDHUP
            var waiting = pollfd(fd: new, events: 0x2000, revents: 0)
            while poll(&waiting, 1, -1) < 1 {}
        }
        end()
    }

    private func end() {
        for fd in [old, new] { shutdown(fd, Int32(SHUT_RDWR)) }
        close(new)
    }

    private func makeBlock(_ fd: Int32) { _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) }

    private func line(from: Int32, to: Int32) -> Bool {
        var byte: UInt8 = 0
        while recv(from, &byte, 1, 0) == 1 {
            if send(to, &byte, 1, Int32(MSG_NOSIGNAL)) != 1 { return false }
            if byte == UInt8(ascii: "\n") { return true }
        }
        return false
    }

    private func document(from: Int32, to: Int32) -> Bool {
        guard let header = bytes(8, from: from, to: to) else { return false }
        let (size, count) = header.withUnsafeBytes {
            (Int($0.load(as: UInt32.self)), Int($0.load(fromByteOffset: 4, as: UInt32.self)))
        }
        var fds = [Int32](repeating: -1, count: 253)
        var left = count
        while left > 0 {
            var (byte, came, isTruncated): (UInt8, Int32, Bool) = (0, 0, false)
            guard CPlat_receive_fds(from, &byte, 1, 0, &fds, 253, &came, &isTruncated) == 1, came > 0 else {
                return false
            }
            let n = CPlat_send_fds(to, &byte, 1, 0, fds, came)
            for fd in fds.prefix(Int(came)) { close(fd) }
            if n != 1 { return false }
            left -= Int(came)
        }
        return bytes(size, from: from, to: to) != nil
    }

    private func bytes(_ count: Int, from: Int32, to: Int32) -> [UInt8]? {
        var all: [UInt8] = []
        while all.count < count {
            var room = [UInt8](repeating: 0, count: count - all.count)
            let n = recv(from, &room, room.count, 0)
            if n <= 0 { return nil }
            all += room[..<n]
        }
        return send(to, all, count, Int32(MSG_NOSIGNAL)) == count ? all : nil
    }
}
