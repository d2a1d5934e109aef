/// `IPv4Address` and `IPv6Address`: for what is written once for both, such as prefixes and their table.
public protocol IPAddress: SeededHashable, Hashable, Comparable, Sendable, LosslessStringConvertible {
    /// Bits of an address: 32 or 128.
    static var bitWidth: Int { get }
    /// The address's bits at the upper end of 128, the rest 0.
    var aligned: UInt128 { get }
    /// From such bits; those that the address does not have are dropped.
    init(aligned: UInt128)
}

extension IPv4Address: IPAddress {
    /// 32.
    @inlinable @inline(__always)
    public static var bitWidth: Int { 32 }
    /// The address in the upper 32 bits.
    @inlinable @inline(__always)
    public var aligned: UInt128 { UInt128(rawValue) &<< 96 }
    /// The upper 32 bits.
    @inlinable @inline(__always)
    public init(aligned: UInt128) { self.init(rawValue: UInt32(truncatingIfNeeded: aligned &>> 96)) }
}

extension IPv6Address: IPAddress {
    /// 128.
    @inlinable @inline(__always)
    public static var bitWidth: Int { 128 }
    /// The address in all bits.
    @inlinable @inline(__always)
    public var aligned: UInt128 { UInt128(high) &<< 64 | UInt128(low) }
    /// All bits.
    @inlinable @inline(__always)
    public init(aligned: UInt128) {
        self.init(high: UInt64(truncatingIfNeeded: aligned &>> 64), low: UInt64(truncatingIfNeeded: aligned))
    }
}

/// Addresses that have their first bits in common (RFC 4632, section 3.1; RFC 4291, section 2.3).
public struct IPPrefix<Address: IPAddress>: Hashable, Sendable, LosslessStringConvertible {
    /// The lowest address: bits behind the prefix are 0.
    public let address: Address
    /// Bits in common, 0 to 32 or 128.
    public let length: Int

    /// Bits of the address behind the prefix are dropped. Nil where there cannot be such a length.
    public init?(_ address: Address, length: Int) {
        guard (0...Address.bitWidth).contains(length) else { return nil }
        self.address = Address(aligned: address.aligned & IPPrefix.mask(length))
        self.length = length
    }

    /// The prefix of this one address.
    public init(_ address: Address) {
        self.address = address
        length = Address.bitWidth
    }

    /// From text, such as `192.0.2.0/24` or `2001:db8::/32`; without a length, one address. Nil for anything else, and
    /// where bits behind the prefix are not 0: such text was meant as something else.
    public init?(_ description: String) {
        guard let slash = description.lastIndex(of: "/") else {
            guard let address = Address(description) else { return nil }
            self.init(address)
            return
        }
        let digits = description[description.index(after: slash)...]
        guard let address = Address(String(description[..<slash])), let length = Int(digits),
            String(length) == digits, let prefix = IPPrefix(address, length: length), prefix.address == address
        else { return nil }
        self = prefix
    }

    /// The address, `/`, the length.
    public var description: String { "\(address)/\(length)" }

    /// All addresses: `0.0.0.0/0` or `::/0`.
    public static var all: IPPrefix { IPPrefix(Address(aligned: 0), length: 0)! }

    /// Whether the address starts with the prefix.
    public func contains(_ other: Address) -> Bool {
        (address.aligned ^ other.aligned) & IPPrefix.mask(length) == 0
    }

    /// The highest address.
    public var last: Address { Address(aligned: address.aligned | ~IPPrefix.mask(length)) }

    /// The first `length` bits of 128.
    package static func mask(_ length: Int) -> UInt128 { length == 0 ? 0 : ~0 << UInt128(128 - length) }
}

/// Such as `192.0.2.0/24`.
public typealias IPv4Prefix = IPPrefix<IPv4Address>
/// Such as `2001:db8::/32`.
public typealias IPv6Prefix = IPPrefix<IPv6Address>
