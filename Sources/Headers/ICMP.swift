/// A view of the first 8 bytes of an ICMP message, of IPv4 (RFC 792) or IPv6 (RFC 4443, section 2.1).
///
/// ```swift
/// if layers.ipProtocol == .icmp, let icmp = ICMP(packet.bytes, at: at), icmp.type == ICMP.V4.echo {
///     pings += 1
/// }
/// ```
public struct ICMP: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of it.
    @inlinable public static var size: Int { 8 }

    /// Nil where the 8 bytes from `offset` on are not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(8, at: offset) else { return nil }
        header = bytes.from(offset)
    }

    /// Type. The numbers of IPv4 and IPv6 differ: `ICMP.V4`, `ICMP.V6`.
    @inlinable @inline(__always)
    public var type: UInt8 {
        get { header.load8(0) }
        nonmutating set { header.store8(0, newValue) }
    }
    /// Code: what it is of that type.
    @inlinable @inline(__always)
    public var code: UInt8 {
        get { header.load8(1) }
        nonmutating set { header.store8(1, newValue) }
    }
    /// The checksum as it stands there: over the message, and with IPv6 over the pseudo header, too.
    @inlinable @inline(__always)
    public var checksum: UInt16 {
        get { header.load16(2) }
        nonmutating set { header.store16(2, newValue) }
    }
    /// The next four bytes, which are each type's own: a redirect's gateway, the pointer of "parameter problem", the
    /// MTU of "packet too big".
    @inlinable @inline(__always)
    public var rest: UInt32 {
        get { header.load32(4) }
        nonmutating set { header.store32(4, newValue) }
    }
    /// Of an echo: which series. The upper half of `rest`.
    @inlinable @inline(__always)
    public var identifier: UInt16 {
        get { header.load16(4) }
        nonmutating set { header.store16(4, newValue) }
    }
    /// Of an echo: which of the series. The lower half of `rest`; in "fragmentation needed" of IPv4 the MTU (RFC 1191,
    /// section 4).
    @inlinable @inline(__always)
    public var sequenceNumber: UInt16 {
        get { header.load16(6) }
        nonmutating set { header.store16(6, newValue) }
    }

    /// Types of IPv4 (RFC 792).
    public enum V4 {
        /// The answer to an echo.
        @inlinable public static var echoReply: UInt8 { 0 }
        /// The code says why; what could not be delivered follows.
        @inlinable public static var destinationUnreachable: UInt8 { 3 }
        /// `rest` is the better gateway.
        @inlinable public static var redirect: UInt8 { 5 }
        /// Asks for an answer.
        @inlinable public static var echo: UInt8 { 8 }
        /// Code 0: no hop was left. Code 1: fragments are missing.
        @inlinable public static var timeExceeded: UInt8 { 11 }
        /// The upper byte of `rest` is where.
        @inlinable public static var parameterProblem: UInt8 { 12 }
    }

    /// Types of IPv6 (RFC 4443; neighbour discovery: RFC 4861).
    public enum V6 {
        /// The code says why; what could not be delivered follows.
        @inlinable public static var destinationUnreachable: UInt8 { 1 }
        /// `rest` is the MTU of the link.
        @inlinable public static var packetTooBig: UInt8 { 2 }
        /// Code 0: no hop was left. Code 1: fragments are missing.
        @inlinable public static var timeExceeded: UInt8 { 3 }
        /// `rest` is where.
        @inlinable public static var parameterProblem: UInt8 { 4 }
        /// Asks for an answer.
        @inlinable public static var echoRequest: UInt8 { 128 }
        /// The answer to an echo.
        @inlinable public static var echoReply: UInt8 { 129 }
        /// Asks for routers (RFC 4861, section 4.1).
        @inlinable public static var routerSolicitation: UInt8 { 133 }
        /// A router (RFC 4861, section 4.2).
        @inlinable public static var routerAdvertisement: UInt8 { 134 }
        /// Asks for a MAC address (RFC 4861, section 4.3).
        @inlinable public static var neighborSolicitation: UInt8 { 135 }
        /// Tells a MAC address (RFC 4861, section 4.4).
        @inlinable public static var neighborAdvertisement: UInt8 { 136 }
    }
}
