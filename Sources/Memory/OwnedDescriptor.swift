import Glibc

/// A file descriptor that is closed when the last reference goes. Control plane only.
public final class OwnedDescriptor: Sendable {
    /// Valid as long as this object lives.
    public let fd: Int32

    /// Takes `fd` over.
    public init(_ fd: Int32) { self.fd = fd }

    deinit { if fd >= 0 { close(fd) } }
}
