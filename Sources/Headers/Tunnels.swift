/// A view of a VXLAN header: 8 bytes behind a UDP header; an Ethernet frame follows (RFC 7348, section 5).
///
/// ```swift
/// if udp.destinationPort == VXLAN.port, let vxlan = VXLAN(packet.bytes, at: at + UDP.size), vxlan.isVNIValid {
///     network = vxlan.vni
/// }
/// ```
public struct VXLAN: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Bytes of the header.
    @inlinable public static var size: Int { 8 }
    /// The UDP port that IANA gave it.
    @inlinable public static var port: UInt16 { 4789 }

    /// Nil where the 8 bytes from `offset` on are not all there. A receiver drops what has not `isVNIValid`.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(8, at: offset) else { return nil }
        header = bytes.from(offset)
    }

    /// Writes a header with this network identifier. Nil where the 8 bytes from `offset` on are not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int, vni: UInt32) {
        guard bytes.has(8, at: offset) else { return nil }
        header = bytes.from(offset)
        header.store32(0, 0x0800_0000)
        header.store32(4, vni &<< 8)
    }

    /// All eight flags.
    @inlinable @inline(__always)
    public var flags: UInt8 {
        get { header.load8(0) }
        nonmutating set { header.store8(0, newValue) }
    }
    /// The flag I: without it, `vni` means nothing.
    @inlinable @inline(__always)
    public var isVNIValid: Bool {
        get { header.load8(0) & 0x08 != 0 }
        nonmutating set { header.storeBits(0, 0x08, newValue ? 0x08 : 0) }
    }
    /// VXLAN network identifier, 24 bits. Higher bits are dropped.
    @inlinable @inline(__always)
    public var vni: UInt32 {
        get { header.load32(4) &>> 8 }
        nonmutating set { header.store32(4, header.load32(4) & 0xff | newValue &<< 8) }
    }
}

/// A view of a Geneve header: 8 bytes and up to 252 of options, behind a UDP header (RFC 8926, section 3.4).
///
/// ```swift
/// if udp.destinationPort == Geneve.port, let geneve = Geneve(packet.bytes, at: at + UDP.size) {
///     network = geneve.vni
/// }
/// ```
public struct Geneve: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Where it lies in the bytes, and how many there are from there on.
    @usableFromInline let offset: Int
    @usableFromInline let available: Int
    /// Bytes of a header without options.
    @inlinable public static var size: Int { 8 }
    /// The UDP port that IANA gave it.
    @inlinable public static var port: UInt16 { 6081 }

    /// Nil where the version is not 0, or the header with its options is not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(8, at: offset) else { return nil }
        header = bytes.from(offset)
        self.offset = offset
        available = bytes.count &- offset
        let first = header.load8(0)
        guard first < 0x40, 8 &+ Int(first) &* 4 <= available else { return nil }
    }

    /// Writes a header without options, for an Ethernet frame in this network. Nil where the 8 bytes from `offset` on
    /// are not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int, vni: UInt32) {
        guard bytes.has(8, at: offset) else { return nil }
        header = bytes.from(offset)
        self.offset = offset
        available = bytes.count &- offset
        header.store32(0, 0x6558)
        header.store32(4, vni &<< 8)
    }

    /// Version: 0. Higher bits than the lowest two are dropped.
    @inlinable @inline(__always)
    public var version: UInt8 {
        get { header.load8(0) &>> 6 }
        nonmutating set { header.storeBits(0, 0xc0, newValue &<< 6) }
    }
    /// Length of the options in words of four bytes, 0 to 63. Higher bits are dropped.
    @inlinable @inline(__always)
    public var optionsLength: UInt8 {
        get { header.load8(0) & 0x3f }
        nonmutating set { header.storeBits(0, 0x3f, newValue) }
    }
    /// Bytes of the header with its options, 8 to 260; never more than there are.
    @inlinable @inline(__always)
    public var headerLength: Int { Swift.min(8 &+ Int(optionsLength) &* 4, available) }
    /// Where the options lie in the bytes that the view was made from. Empty where there are none.
    @inlinable @inline(__always)
    public var options: Range<Int> { offset &+ 8..<offset &+ headerLength }
    /// The bit O: a control packet.
    @inlinable @inline(__always)
    public var isControl: Bool {
        get { header.load8(1) & 0x80 != 0 }
        nonmutating set { header.storeBits(1, 0x80, newValue ? 0x80 : 0) }
    }
    /// The bit C: there are options that whoever does not know them must not pass over.
    @inlinable @inline(__always)
    public var hasCriticalOptions: Bool {
        get { header.load8(1) & 0x40 != 0 }
        nonmutating set { header.storeBits(1, 0x40, newValue ? 0x40 : 0) }
    }
    /// What follows the options. `EtherType.transparentEthernet`: a frame.
    @inlinable @inline(__always)
    public var protocolType: EtherType {
        get { EtherType(rawValue: header.load16(2)) }
        nonmutating set { header.store16(2, newValue.rawValue) }
    }
    /// Virtual network identifier, 24 bits. Higher bits are dropped.
    @inlinable @inline(__always)
    public var vni: UInt32 {
        get { header.load32(4) &>> 8 }
        nonmutating set { header.store32(4, header.load32(4) & 0xff | newValue &<< 8) }
    }
}
