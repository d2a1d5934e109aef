/// A view of an IPv4 header: 20 bytes and up to 40 of options (RFC 791, section 3.1).
///
/// ```swift
/// if let ip = IPv4(packet.bytes, at: Ethernet.size), ip.decrementTimeToLive() {
///     packet.verdict = .port(1)
/// }
/// ```
public struct IPv4: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Where it lies in the bytes, and how many there are from there on.
    @usableFromInline let offset: Int
    @usableFromInline let available: Int
    /// Bytes of a header without options.
    @inlinable public static var size: Int { 20 }

    /// Bits of the field Flags, in the three upper bits of a byte.
    public struct Flags: OptionSet, Hashable, Sendable, BitwiseCopyable {
        /// The bits, as they stand in their byte.
        public let rawValue: UInt8
        /// From the bits, as they stand in their byte.
        @inlinable @inline(__always)
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// Must be 0.
        @inlinable public static var reserved: Flags { Flags(rawValue: 0x80) }
        /// DF: no router may fragment the packet.
        @inlinable public static var dontFragment: Flags { Flags(rawValue: 0x40) }
        /// MF: this is not the last fragment.
        @inlinable public static var moreFragments: Flags { Flags(rawValue: 0x20) }
    }

    /// Nil where the version is not 4, `ihl` is below 5, or the header with its options is not all there. `totalLength`
    /// is not checked: `Layers` does, which knows the frame's length.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(20, at: offset) else { return nil }
        header = bytes.from(offset)
        self.offset = offset
        available = bytes.count &- offset
        let first = header.load8(0)
        guard first == 0x45 || (first &- 0x45 <= 10 && Int(first & 15) &* 4 <= available) else { return nil }
    }

    /// Writes a header without options whose other fields are 0. Nil where the 20 bytes from `offset` on are not all
    /// there.
    @inlinable @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(20, at: offset) else { return nil }
        header = bytes.from(offset)
        self.offset = offset
        available = bytes.count &- offset
        header.zero(20)
        header.store8(0, 0x45)
    }

    /// Version: 4. Higher bits than the lowest four are dropped.
    @inlinable @inline(__always)
    public var version: UInt8 {
        get { header.load8(0) &>> 4 }
        nonmutating set { header.storeBits(0, 0xf0, newValue &<< 4) }
    }
    /// Internet header length in words of four bytes, 5 to 15. Higher bits are dropped.
    @inlinable @inline(__always)
    public var ihl: UInt8 {
        get { header.load8(0) & 15 }
        nonmutating set { header.storeBits(0, 0x0f, newValue) }
    }
    /// Bytes of the header with its options, 20 to 60; never more than there are.
    @inlinable @inline(__always)
    public var headerLength: Int { Swift.max(20, Swift.min(Int(ihl) &* 4, available)) }
    /// Where the options lie in the bytes that the view was made from. Empty where there are none.
    @inlinable @inline(__always)
    public var options: Range<Int> { offset &+ 20..<offset &+ headerLength }

    /// Type of service, all eight bits: `dscp` and `ecn`.
    @inlinable @inline(__always)
    public var typeOfService: UInt8 {
        get { header.load8(1) }
        nonmutating set { header.store8(1, newValue) }
    }
    /// Differentiated services code point, 0 to 63 (RFC 2474, section 3). Higher bits are dropped.
    @inlinable @inline(__always)
    public var dscp: UInt8 {
        get { header.load8(1) &>> 2 }
        nonmutating set { header.storeBits(1, 0xfc, newValue &<< 2) }
    }
    /// Explicit congestion notification, 0 to 3 (RFC 3168, section 5). Higher bits are dropped.
    @inlinable @inline(__always)
    public var ecn: UInt8 {
        get { header.load8(1) & 3 }
        nonmutating set { header.storeBits(1, 0x03, newValue) }
    }
    /// Bytes of the packet: header and data.
    @inlinable @inline(__always)
    public var totalLength: UInt16 {
        get { header.load16(2) }
        nonmutating set { header.store16(2, newValue) }
    }
    /// What the fragments of a packet have in common (RFC 6864).
    @inlinable @inline(__always)
    public var identification: UInt16 {
        get { header.load16(4) }
        nonmutating set { header.store16(4, newValue) }
    }
    /// Whether it may be, or is, a fragment.
    @inlinable @inline(__always)
    public var flags: Flags {
        get { Flags(rawValue: header.load8(6) & 0xe0) }
        nonmutating set { header.storeBits(6, 0xe0, newValue.rawValue) }
    }
    /// Where the fragment lies in the packet, in units of eight bytes, 0 to 8191. Higher bits are dropped.
    @inlinable @inline(__always)
    public var fragmentOffset: UInt16 {
        get { header.load16(6) & 0x1fff }
        nonmutating set { header.store16(6, header.load16(6) & 0xe000 | newValue & 0x1fff) }
    }
    /// Hops that are left.
    @inlinable @inline(__always)
    public var timeToLive: UInt8 {
        get { header.load8(8) }
        nonmutating set { header.store8(8, newValue) }
    }
    /// What follows.
    @inlinable @inline(__always)
    public var `protocol`: IPProtocol {
        get { IPProtocol(rawValue: header.load8(9)) }
        nonmutating set { header.store8(9, newValue.rawValue) }
    }
    /// The header's checksum, as it stands there. `updateChecksum()` computes it.
    @inlinable @inline(__always)
    public var headerChecksum: UInt16 {
        get { header.load16(10) }
        nonmutating set { header.store16(10, newValue) }
    }
    /// Source address.
    @inlinable @inline(__always)
    public var sourceAddress: IPv4Address {
        get { IPv4Address(rawValue: header.load32(12)) }
        nonmutating set { header.store32(12, newValue.rawValue) }
    }
    /// Destination address.
    @inlinable @inline(__always)
    public var destinationAddress: IPv4Address {
        get { IPv4Address(rawValue: header.load32(16)) }
        nonmutating set { header.store32(16, newValue.rawValue) }
    }

    /// Whether the checksum is right.
    @inlinable
    public var isChecksumValid: Bool {
        var sum = Checksum()
        sum.add(header.start, headerLength)
        return sum.value == 0
    }

    /// Computes the checksum over the header with its options, and writes it. Where one field changed,
    /// `Checksum.update` is faster.
    @inlinable
    public func updateChecksum() {
        header.store16(10, 0)
        var sum = Checksum()
        sum.add(header.start, headerLength)
        header.store16(10, sum.value)
    }

    /// One hop less, with the checksum (RFC 1812, section 5.3.1). False, and nothing changed, where the time to live is
    /// 0 or 1: the packet may not be forwarded.
    @inlinable @inline(__always)
    public func decrementTimeToLive() -> Bool {
        let old = header.load16(8)
        if old < 0x0200 { return false }
        header.store16(8, old &- 0x0100)
        header.store16(10, Checksum.update(header.load16(10), from: old, to: old &- 0x0100))
        return true
    }
}
