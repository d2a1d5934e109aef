import Glibc

/// What the system calls an error. (swift-system's `Errno` would be at hand, but its C module and liburing's declare
/// the same union of the kernel, and no module can import both.)
package enum SystemError {
    /// Of an `errno`, on any thread: `strerror` itself has one buffer for all of them.
    package static func text(_ code: Int32) -> String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            guard let start = buffer.baseAddress, strerror_r(code, start, buffer.count) == 0 else {
                return "error \(code)"
            }
            return String(cString: start)
        }
    }
}
