/// A view of a UDP header: 8 bytes (RFC 768).
///
/// ```swift
/// if let udp = UDP(packet.bytes, at: at), udp.destinationPort == 53 { names += 1 }
/// ```
public struct UDP: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of the header.
    @inlinable public static var size: Int { 8 }

    /// Nil where the 8 bytes from `offset` on are not all there. `length` is not checked: `Layers` does.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(8, at: offset) else { return nil }
        header = bytes.from(offset)
    }

    /// Source port. 0: none.
    @inlinable @inline(__always)
    public var sourcePort: UInt16 {
        get { header.load16(0) }
        nonmutating set { header.store16(0, newValue) }
    }
    /// Destination port.
    @inlinable @inline(__always)
    public var destinationPort: UInt16 {
        get { header.load16(2) }
        nonmutating set { header.store16(2, newValue) }
    }
    /// Bytes of header and data.
    @inlinable @inline(__always)
    public var length: UInt16 {
        get { header.load16(4) }
        nonmutating set { header.store16(4, newValue) }
    }
    /// The checksum as it stands there. 0: none, which IPv6 forbids but for tunnels (RFC 6935). `Checksum.valueForUDP`
    /// and `Checksum.forUDP` keep that rule.
    @inlinable @inline(__always)
    public var checksum: UInt16 {
        get { header.load16(6) }
        nonmutating set { header.store16(6, newValue) }
    }
}
