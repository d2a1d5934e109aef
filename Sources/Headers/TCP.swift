/// A view of a TCP header: 20 bytes and up to 40 of options (RFC 9293, section 3.1).
///
/// ```swift
/// if layers.ipProtocol == .tcp, let tcp = TCP(packet.bytes, at: at), tcp.flags.contains(.syn) { opened += 1 }
/// ```
public struct TCP: ~Escapable {
    @usableFromInline let header: HeaderBytes
    /// Where it lies in the bytes, and how many there are from there on.
    @usableFromInline let offset: Int
    @usableFromInline let available: Int
    /// Bytes of a header without options.
    @inlinable public static var size: Int { 20 }

    /// Control bits.
    public struct Flags: OptionSet, Hashable, Sendable, BitwiseCopyable {
        /// The bits, as they stand in their byte.
        public let rawValue: UInt8
        /// From the bits, as they stand in their byte.
        @inlinable @inline(__always)
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// No more data from the sender.
        @inlinable public static var fin: Flags { Flags(rawValue: 0x01) }
        /// Synchronize sequence numbers: the connection starts.
        @inlinable public static var syn: Flags { Flags(rawValue: 0x02) }
        /// The connection is reset.
        @inlinable public static var rst: Flags { Flags(rawValue: 0x04) }
        /// Push: hand over what has come.
        @inlinable public static var psh: Flags { Flags(rawValue: 0x08) }
        /// `acknowledgmentNumber` means something.
        @inlinable public static var ack: Flags { Flags(rawValue: 0x10) }
        /// `urgentPointer` means something.
        @inlinable public static var urg: Flags { Flags(rawValue: 0x20) }
        /// ECN echo (RFC 3168).
        @inlinable public static var ece: Flags { Flags(rawValue: 0x40) }
        /// Congestion window reduced (RFC 3168).
        @inlinable public static var cwr: Flags { Flags(rawValue: 0x80) }
    }

    /// Nil where `dataOffset` is below 5, or the header with its options is not all there.
    @inlinable @inline(__always) @_lifetime(copy bytes)
    public init?(_ bytes: HeaderBytes, at offset: Int) {
        guard bytes.has(20, at: offset) else { return nil }
        header = bytes.from(offset)
        self.offset = offset
        available = bytes.count &- offset
        let words = Int(header.load8(12) &>> 4)
        guard words >= 5, words &* 4 <= available else { return nil }
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
        header.store8(12, 0x50)
    }

    /// Source port.
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
    /// Number of the first byte of data.
    @inlinable @inline(__always)
    public var sequenceNumber: UInt32 {
        get { header.load32(4) }
        nonmutating set { header.store32(4, newValue) }
    }
    /// Number of the byte that the sender waits for.
    @inlinable @inline(__always)
    public var acknowledgmentNumber: UInt32 {
        get { header.load32(8) }
        nonmutating set { header.store32(8, newValue) }
    }
    /// Length of the header in words of four bytes, 5 to 15. Higher bits are dropped.
    @inlinable @inline(__always)
    public var dataOffset: UInt8 {
        get { header.load8(12) &>> 4 }
        nonmutating set { header.storeBits(12, 0xf0, newValue &<< 4) }
    }
    /// Bytes of the header with its options, 20 to 60; never more than there are.
    @inlinable @inline(__always)
    public var headerLength: Int { Swift.max(20, Swift.min(Int(dataOffset) &* 4, available)) }
    /// Where the options lie in the bytes that the view was made from. Empty where there are none.
    @inlinable @inline(__always)
    public var options: Range<Int> { offset &+ 20..<offset &+ headerLength }
    /// The four bits between data offset and control bits. Higher bits are dropped.
    @inlinable @inline(__always)
    public var reserved: UInt8 {
        get { header.load8(12) & 15 }
        nonmutating set { header.storeBits(12, 0x0f, newValue) }
    }
    /// Control bits.
    @inlinable @inline(__always)
    public var flags: Flags {
        get { Flags(rawValue: header.load8(13)) }
        nonmutating set { header.store8(13, newValue.rawValue) }
    }
    /// Bytes that the sender is ready to take, before scaling (RFC 7323).
    @inlinable @inline(__always)
    public var window: UInt16 {
        get { header.load16(14) }
        nonmutating set { header.store16(14, newValue) }
    }
    /// The checksum as it stands there.
    @inlinable @inline(__always)
    public var checksum: UInt16 {
        get { header.load16(16) }
        nonmutating set { header.store16(16, newValue) }
    }
    /// Where urgent data ends.
    @inlinable @inline(__always)
    public var urgentPointer: UInt16 {
        get { header.load16(18) }
        nonmutating set { header.store16(18, newValue) }
    }

    /// The value of the option Maximum Segment Size in bytes (RFC 9293, section 3.7.1); nil where there is none, or the
    /// options before it are not well formed. Setting it where there is none changes nothing; the checksum stays as it
    /// is.
    public var maximumSegmentSize: UInt16? {
        get { segmentSizeOffset.map { header.load16($0) } }
        nonmutating set { if let newValue, let at = segmentSizeOffset { header.store16(at, newValue) } }
    }

    /// Offset of the option's value from the header's start. 40 steps at most.
    private var segmentSizeOffset: Int? {
        let end = headerLength
        var at = 20
        while at < end {
            let kind = header.load8(at)
            if kind == 0 { return nil }
            if kind == 1 {
                at += 1
                continue
            }
            guard at + 2 <= end else { return nil }
            let length = Int(header.load8(at + 1))
            guard length >= 2, at + length <= end else { return nil }
            if kind == 2 { return length == 4 ? at + 2 : nil }
            at += length
        }
        return nil
    }
}
