import CPlatform
import Control
import Glibc
import Memory

/// Descriptors that a process was started with, as ports name them: `fd=3`. (systemd's socket activation passes them
/// from 3 on, see sd_listen_fds(3).) An embedder names any that it has opened.
///
/// A descriptor stays its owner's: each port uses a copy. So its number stays taken, and a port that was removed can be
/// added again. From any thread.
public enum HandedDescriptors {
    /// The number in `fd=N`; nil: `place` is a path, or a name.
    public static func number(_ place: String) -> Int32? {
        guard place.hasPrefix("fd=") else { return nil }
        let digits = place.dropFirst(3)
        return digits.allSatisfy { "0"..."9" ~= $0 } ? Int32(digits) : nil
    }

    /// Those that may be named; nil: all.
    private static let present = Locked<Set<Int32>?>(nil)
    /// Listening sockets of the process in whose place this one goes on, by the numbers that they had there.
    private static let adopted = Locked<[Int32: OwnedDescriptor]>([:])

    /// What is open now may be named from here on, and nothing that is opened later. For programs, at their start: what
    /// comes later is their own.
    public static func acceptOnlyPresent() {
        guard let folder = opendir("/proc/self/fd") else { return }
        defer { closedir(folder) }
        var all: Set<Int32> = []
        while let entry = readdir(folder) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if let fd = Int32(name), fd != dirfd(folder) { all.insert(fd) }
        }
        present.withLock { $0 = all }
    }

    /// This listening socket of another process is what `number` means from here on.
    package static func adopt(_ number: Int32, _ socket: OwnedDescriptor) {
        adopted.withLock { $0[number] = socket }
    }

    /// For tests, in whose process the number will be another's.
    package static func forget(_ number: Int32) { adopted.withLock { $0[number] = nil } }

    /// A copy, close-on-exec, as the descriptor itself is from now on. Errors: `.socket`, which names it.
    package static func copy(_ number: Int32) throws(VhostUserError) -> OwnedDescriptor {
        let fd = adopted.withLock { $0[number]?.fd }
        if fd == nil, let all = present.withLock({ $0 }), !all.contains(number) {
            throw refusal(number, "this program was not started with a descriptor of that number")
        }
        guard fcntl(fd ?? number, F_SETFD, FD_CLOEXEC) == 0 else { throw refusal(number, "is not open") }
        do { return try OwnedDescriptor(copyOf: fd ?? number) } catch { throw refusal(number, "\(error)") }
    }

    /// A copy of a Unix stream socket that listens, or is connected. The copy is the caller's. Errors: `.socket`, which
    /// names it, for anything else, and for a connection that has ended.
    package static func socket(_ number: Int32) throws(VhostUserError) -> (fd: Int32, listens: Bool) {
        let descriptor = try copy(number)
        guard CPlat_is_stream(descriptor.fd) else { throw refusal(number, "is not a Unix stream socket") }
        let listens = CPlat_is_listening(descriptor.fd)
        if listens {
            // Who shares it could take a connection that this process was woken for.
            _ = fcntl(descriptor.fd, F_SETFL, fcntl(descriptor.fd, F_GETFL) | O_NONBLOCK)
        } else {
            guard CPlat_is_connected(descriptor.fd) else {
                throw refusal(number, "the socket neither listens nor is connected")
            }
            var state = pollfd(fd: descriptor.fd, events: 0, revents: 0)
            if poll(&state, 1, 0) == 1 { throw refusal(number, "its connection has ended") }
        }
        do { return (try descriptor.copy(), listens) } catch { throw refusal(number, "\(error)") }
    }

    private static func refusal(_ number: Int32, _ text: String) -> VhostUserError {
        VhostUserError(.socket, "fd=\(number): \(text)")
    }
}
