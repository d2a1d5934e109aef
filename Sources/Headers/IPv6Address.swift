/// An IPv6 address (RFC 4291).
public struct IPv6Address: Hashable, Comparable, Sendable, BitwiseCopyable, LosslessStringConvertible {
    /// The first eight bytes, in host byte order.
    public let high: UInt64
    /// The last eight bytes, in host byte order.
    public let low: UInt64

    /// 2001:db8::1 is `high: 0x2001_0db8_0000_0000, low: 1`.
    @inlinable @inline(__always)
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// From text, in each form of RFC 4291, section 2.2: eight groups, with `::` for one or more of zero, and the last
    /// 32 bits as an IPv4 address. Nil for anything else. A zone (`%eth0`) is not part of an address.
    public init?(_ description: String) {
        guard let groups = IPv6Address.parse(Array(description.utf8)) else { return nil }
        self.init(groups)
    }

    /// From eight groups of 16 bits.
    private init(_ groups: [UInt16]) {
        high = groups[0..<4].reduce(0) { $0 << 16 | UInt64($1) }
        low = groups[4..<8].reduce(0) { $0 << 16 | UInt64($1) }
    }

    private static func parse(_ text: [UInt8]) -> [UInt16]? {
        let colon = UInt8(ascii: ":")
        var gap: Int?
        for i in text.indices.dropLast() where text[i] == colon && text[i + 1] == colon {
            // A second one, or three colons in a row.
            if gap != nil { return nil }
            gap = i
        }
        guard let gap else {
            guard let all = IPv6Address.groups(text[...], canEndInIPv4: true), all.count == 8 else { return nil }
            return all
        }
        let back = text[(gap + 2)...]
        guard let before = IPv6Address.groups(text[..<gap], canEndInIPv4: false),
            let after = IPv6Address.groups(back, canEndInIPv4: true), before.count + after.count < 8
        else { return nil }
        return before + [UInt16](repeating: 0, count: 8 - before.count - after.count) + after
    }

    private static func groups(_ text: ArraySlice<UInt8>, canEndInIPv4: Bool) -> [UInt16]? {
        if text.isEmpty { return [] }
        var groups: [UInt16] = []
        let parts = text.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        for (i, part) in parts.enumerated() {
            if canEndInIPv4 && i == parts.count - 1 && part.contains(UInt8(ascii: ".")) {
                guard let v4 = IPv4Address.parse(part) else { return nil }
                groups += [UInt16(v4 >> 16), UInt16(v4 & 0xffff)]
                continue
            }
            guard (1...4).contains(part.count) else { return nil }
            var group: UInt16 = 0
            for c in part {
                guard let digit = hexDigit(c) else { return nil }
                group = group << 4 | UInt16(digit)
            }
            groups.append(group)
        }
        return groups.count <= 8 ? groups : nil
    }

    /// The one canonical text of RFC 5952: lower case, no leading zeroes, `::` for the longest run of two or more zero
    /// groups, the first of two that are as long; an IPv4-mapped address ends in dotted decimals (section 5).
    public var description: String {
        if high == 0 && low >> 32 == 0xffff {
            return "::ffff:" + IPv4Address(rawValue: UInt32(truncatingIfNeeded: low)).description
        }
        let groups: [UInt16] = (0..<8).map { (i: Int) -> UInt16 in
            let half = i < 4 ? high : low
            return UInt16(truncatingIfNeeded: half >> UInt64(48 - 16 * (i & 3)))
        }
        var (best, length) = (0, 1)
        var i = 0
        while i < 8 {
            var end = i
            while end < 8 && groups[end] == 0 { end += 1 }
            if end - i > length { (best, length) = (i, end - i) }
            i = max(end, i + 1)
        }
        func text(_ part: ArraySlice<UInt16>) -> String {
            part.map { String($0, radix: 16) }.joined(separator: ":")
        }
        if length < 2 { return text(groups[...]) }
        return text(groups[..<best]) + "::" + text(groups[(best + length)...])
    }

    /// In the order of the numbers.
    @inlinable @inline(__always)
    public static func < (a: IPv6Address, b: IPv6Address) -> Bool {
        a.high < b.high || (a.high == b.high && a.low < b.low)
    }

    /// The unspecified address, `::`.
    @inlinable @inline(__always)
    public static var any: IPv6Address { IPv6Address(high: 0, low: 0) }
    /// `::1`.
    @inlinable @inline(__always)
    public static var loopback: IPv6Address { IPv6Address(high: 0, low: 1) }

    /// In ff00::/8.
    @inlinable @inline(__always)
    public var isMulticast: Bool { high &>> 56 == 0xff }
    /// In fe80::/10.
    @inlinable @inline(__always)
    public var isLinkLocal: Bool { high &>> 54 == 0x3fa }

    /// The solicited-node multicast address of this one (RFC 4291, section 2.7.1).
    @inlinable
    public var solicitedNode: IPv6Address {
        IPv6Address(high: 0xff02_0000_0000_0000, low: 0x1_ff00_0000 | low & 0xff_ffff)
    }
}
