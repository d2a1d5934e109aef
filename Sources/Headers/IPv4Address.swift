/// An IPv4 address (RFC 791, section 3.2).
public struct IPv4Address: RawRepresentable, Hashable, Comparable, Sendable, BitwiseCopyable,
    LosslessStringConvertible
{
    /// In host byte order: 192.0.2.1 is 0xc000_0201.
    public let rawValue: UInt32

    /// From a number in host byte order.
    @inlinable @inline(__always)
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// From four bytes: `IPv4Address(192, 0, 2, 1)`.
    @inlinable
    public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
        rawValue = UInt32(a) &<< 24 | UInt32(b) &<< 16 | UInt32(c) &<< 8 | UInt32(d)
    }

    /// From text: four decimal numbers with dots between them. Nil for anything else, and for leading zeroes, which
    /// some read as octal.
    public init?(_ description: String) {
        guard let value = IPv4Address.parse(Array(description.utf8)[...]) else { return nil }
        rawValue = value
    }

    static func parse(_ text: ArraySlice<UInt8>) -> UInt32? {
        var value: UInt32 = 0
        let parts = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        for part in parts {
            guard (1...3).contains(part.count), part.count == 1 || part.first != UInt8(ascii: "0") else { return nil }
            var number: UInt32 = 0
            for c in part {
                guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(c) else { return nil }
                number = number * 10 + UInt32(c - UInt8(ascii: "0"))
            }
            guard number < 256 else { return nil }
            value = value << 8 | number
        }
        return value
    }

    /// Four decimal numbers with dots between them.
    public var description: String {
        "\(rawValue >> 24).\(rawValue >> 16 & 255).\(rawValue >> 8 & 255).\(rawValue & 255)"
    }

    /// In the order of the numbers.
    @inlinable @inline(__always)
    public static func < (a: IPv4Address, b: IPv4Address) -> Bool { a.rawValue < b.rawValue }

    /// 0.0.0.0.
    @inlinable @inline(__always)
    public static var any: IPv4Address { IPv4Address(rawValue: 0) }
    /// 255.255.255.255 (RFC 919).
    @inlinable @inline(__always)
    public static var broadcast: IPv4Address { IPv4Address(rawValue: 0xffff_ffff) }

    /// In 224.0.0.0/4 (RFC 5771).
    @inlinable @inline(__always)
    public var isMulticast: Bool { rawValue &>> 28 == 14 }
    /// In 127.0.0.0/8 (RFC 1122, section 3.2.1.3).
    @inlinable @inline(__always)
    public var isLoopback: Bool { rawValue &>> 24 == 127 }
    /// In 169.254.0.0/16 (RFC 3927).
    @inlinable @inline(__always)
    public var isLinkLocal: Bool { rawValue &>> 16 == 0xa9fe }
}
