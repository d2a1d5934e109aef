/// A view of a neighbor solicitation or advertisement of IPv6: 24 bytes and options (RFC 4861, sections 4.3 and 4.4).
/// It starts behind the IPv6 header (`Layers.transportOffset`). A receiver drops what did not come with a hop limit of
/// 255.
///
/// ```swift
/// if layers.ipProtocol == .icmpV6, let message = NeighborDiscovery(packet.bytes, at: at),
///     !message.isAdvertisement
/// {
///     wanted = message.targetAddress
/// }
/// ```
public struct NeighborDiscovery: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// How many bytes there are from it on.
    @usableFromInline let available: Int
    /// Bytes of it without options.
    @inlinable public static var size: Int { 24 }

    /// Bits of an advertisement, in the three upper bits of a byte.
    public struct Flags: OptionSet, Hashable, Sendable, BitwiseCopyable {
        /// The bits, as they stand in their byte.
        public let rawValue: UInt8
        /// From the bits, as they stand in their byte.
        @inlinable @inline(__always)
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// R: the sender is a router.
        @inlinable public static var router: Flags { Flags(rawValue: 0x80) }
        /// S: it answers a solicitation.
        @inlinable public static var solicited: Flags { Flags(rawValue: 0x40) }
        /// O: it replaces what was known.
        @inlinable public static var override: Flags { Flags(rawValue: 0x20) }
    }

    /// An option that holds a MAC address.
    public enum AddressOption: UInt8, Sendable {
        /// The sender's, in a solicitation (type 1).
        case source = 1
        /// The target's, in an advertisement (type 2).
        case target = 2
    }

    /// Nil where the 24 bytes from `offset` on are not all there, or the type is neither 135 nor 136 with code 0.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(24, at: offset) else { return nil }
        header = bytes.from(offset)
        available = bytes.count &- offset
        let type = header.load16(0)
        guard type == 0x8700 || type == 0x8800 else { return nil }
    }

    /// Writes a solicitation or an advertisement whose other fields are 0, with the option for a MAC address: 32 bytes.
    /// Nil where they are not all there from `offset` on.
    @inlinable @_lifetime(copy bytes)
    public init?(creating bytes: HeaderBytes, at offset: Int, isAdvertisement: Bool, address: MACAddress) {
        guard bytes.has(32, at: offset) else { return nil }
        header = bytes.from(offset)
        available = bytes.count &- offset
        header.zero(32)
        header.store8(0, isAdvertisement ? 136 : 135)
        header.store16(24, isAdvertisement ? 0x0201 : 0x0101)
        header.storeMAC(26, address)
    }

    /// Whether it is an advertisement, and no solicitation.
    @inlinable @inline(__always)
    public var isAdvertisement: Bool { header.load8(0) == 136 }
    /// The checksum as it stands there: over the message and IPv6's pseudo header.
    @inlinable @inline(__always)
    public var checksum: UInt16 {
        get { header.load16(2) }
        nonmutating set { header.store16(2, newValue) }
    }
    /// Of an advertisement; reserved in a solicitation.
    @inlinable @inline(__always)
    public var flags: Flags {
        get { Flags(rawValue: header.load8(4) & 0xe0) }
        nonmutating set { header.storeBits(4, 0xe0, newValue.rawValue) }
    }
    /// The address that is asked for, or told.
    @inlinable @inline(__always)
    public var targetAddress: IPv6Address {
        get { header.loadIPv6(8) }
        nonmutating set { header.storeIPv6(8, newValue) }
    }

    /// The MAC address in an option. Nil where there is none among the first eight, or an option before it is not well
    /// formed. `length`: bytes of the message, from the IPv6 payload length; what lies behind is padding.
    public func address(_ option: AddressOption, length: Int) -> MACAddress? {
        let end = min(length, available)
        var at = 24
        for _ in 0..<8 {
            guard at + 8 <= end else { return nil }
            let size = Int(header.load8(at + 1)) * 8
            if size == 0 { return nil }
            if header.load8(at) == option.rawValue { return size == 8 ? header.loadMAC(at + 2) : nil }
            at += size
        }
        return nil
    }

    /// Whether the options of a neighbour discovery message (RFC 4861, section 4.6) are well formed to the last, and
    /// whatever MAC address they tell (types 1 and 2) is `address`. They lie in `bytes` from `start` to `end`; false
    /// where those are not all there.
    public static func tellOnly(_ address: MACAddress, _ bytes: HeaderBytes, from start: Int, to end: Int) -> Bool {
        if start < 0 || end < start || end > bytes.count { return false }
        var at = start
        while at < end {
            guard at + 8 <= end else { return false }
            let size = Int(bytes.load8(at + 1)) * 8
            if size == 0 || at + size > end { return false }
            let type = bytes.load8(at)
            if type == 1 || type == 2, size != 8 || bytes.loadMAC(at + 2) != address { return false }
            at += size
        }
        return true
    }
}
